"""A .npz file of one's own: `x` (or `images`) and, if wanted, `labels`."""

from __future__ import annotations

import numpy as np

from jaxgen.data.dataset import Dataset, in_memory
from jaxgen.data.pipeline import part
from jaxgen.inputs import check_memory, is_file
from jaxgen.types import InputError, check

SPLITS = ("train", "test", "all")
MOST_CLASSES = 1_000_000
REWRITE = "write it again as plain numbers with numpy.savez"


def load(path: str, split: str = "train") -> Dataset:
    """Pictures or points from the file `path`.

    x: uint8 [N, H, W, C] or [N, H, W] (grey), kept as they are; float [N, H, W, C] in [-1, 1], kept as float32; or
    points [N, D] of any real numbers, as float32. labels: integers [N] from 0 up. "test" is a fixed 10 percent of the
    rows, "train" the rest, "all" everything. Nothing is unpickled: arrays of objects raise InputError, as does all
    else that is not as above.
    """
    check(split in SPLITS, f"{path} has no split {split!r}; give one of {', '.join(SPLITS)}")
    check(is_file(path), f"there is no file {path}; give the path of a .npz file")
    arrays = _arrays(path)
    key = "x" if "x" in arrays else "images"
    x = _examples(path, key, arrays[key])
    labels, classes = arrays.get("labels"), ()
    if labels is not None:
        good = labels.shape == (len(x),) and labels.dtype.kind in "iu" and labels.min(initial=0) >= 0
        what = f"{labels.dtype} {list(labels.shape)}"
        check(good, f"{path}: labels are {what}; expected integers [{len(x)}] from 0 up, one an example")
        most = int(labels.max())
        check(most < MOST_CLASSES, f"{path}: a label is {most}, at most {MOST_CLASSES - 1} is read; number them from 0")
        classes = [str(label) for label in range(most + 1)]
    if split != "all":
        rows = part(len(x), split)
        x, labels = x[rows], None if labels is None else labels[rows]
    return in_memory(str(path), split, x, labels, classes)


def _arrays(path: str) -> dict[str, np.ndarray]:
    """The arrays that are of use. Refuses a file without them, and a damaged one (each array carries a CRC-32)."""
    try:
        with np.load(path, allow_pickle=False) as file:
            keys = list(file.files)
            check_memory(
                sum(part.file_size for part in file.zip.infolist()), f"{path}, unpacked,", "give fewer examples"
            )
            arrays = {key: file[key] for key in keys if key in ("x", "images", "labels")}
    except InputError:
        raise
    except Exception as error:  # a damaged archive can fail in any way
        if "Object arrays" in str(error):
            raise InputError(f"{path} holds arrays of Python objects, which are never loaded; {REWRITE}") from error
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path} is damaged or not a .npz file ({reason}); {REWRITE}") from error
    raw = [key for key, array in arrays.items() if not isinstance(array, np.ndarray)]
    check(not raw, f"{path}: {', '.join(raw)} is no array; {REWRITE}")
    one = ("x" in arrays) != ("images" in arrays)
    check(one, f"{path} holds {', '.join(keys) or 'nothing'}; expected either x or images, and labels if there are any")
    return arrays


def _examples(path: str, key: str, x: np.ndarray) -> np.ndarray:
    """uint8 [N, H, W, C], float32 [N, H, W, C] or float32 [N, D]."""
    what = f"{path}: {key} is {x.dtype} {list(x.shape)}"
    check(x.ndim in (2, 3, 4) and x.size > 0, f"{what}; expected [N, H, W, C], [N, H, W] or points [N, D]")
    check(x.dtype.kind in "iuf", f"{what}; expected integers or real numbers: {REWRITE}")
    if x.dtype.kind == "f":
        check(bool(np.isfinite(x).all()), f"{what} with values that are not finite; remove the examples that have them")
    if x.ndim == 2:
        with np.errstate(over="ignore"):  # too large numbers become infinite, and are refused
            x = x.astype(np.float32)
        check(bool(np.isfinite(x).all()), f"{what} with values that float32 cannot hold; scale them")
        return x
    x = x[..., None] if x.ndim == 3 else x
    if x.dtype == np.uint8:
        return x
    check(x.dtype.kind == "f", f"{what}; expected pictures as uint8 from 0 to 255: {key}.astype('uint8')")
    low, high = float(x.min()), float(x.max())
    # Floats from 0 to 1 also lie in [-1, 1]: taking them as they are would train on the wrong range, silently.
    remedy = f"save 2*{key} - 1, or uint8" if low >= 0 and high <= 1 else "scale them, or save uint8"
    ranged = -1 <= low < 0 and high <= 1
    check(ranged, f"{what} from {low:.3g} to {high:.3g}; expected real numbers from -1 to 1: {remedy}")
    return x.astype(np.float32)
