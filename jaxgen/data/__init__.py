"""Data sets by name: `load("digits")`, `load("mnist", "test")`, `load("folder:~/photos", size=32)`, `load("mine.npz")`.

One file a data set. To add one, write a file with a function (split, **options) -> Dataset and name it in `SETS`.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from functools import partial

from jaxgen.data import (
    attributes,
    captions,
    celeb_a,
    cifar10,
    digits,
    folder,
    mnist,
    npz,
    parquet,
    photos,
    synthetic,
    tfds_images,
)
from jaxgen.data.dataset import Dataset, in_memory
from jaxgen.data.described import find, note, stand_in
from jaxgen.data.pipeline import Reader, normalize, order, reader, to_uint8
from jaxgen.data.subsets import (
    balanced,
    class_numbers,
    labelled,
    labels_of,
    only_classes,
    shrunk,
    subset,
    without_classes,
)
from jaxgen.inputs import is_folder
from jaxgen.types import InputError, check

__all__ = [
    "Dataset",
    "Reader",
    "available",
    "balanced",
    "class_numbers",
    "images",
    "in_memory",
    "labelled",
    "labels_of",
    "load",
    "normalize",
    "only_classes",
    "order",
    "other_split",
    "prepare",
    "reader",
    "shrunk",
    "subset",
    "to_uint8",
    "without_classes",
]

EMBEDDED: dict[str, tuple[Callable[..., Dataset], str]] = {
    "digits": (digits.load, "8x8x1, 1,500 train + 297 test"),
    "photos": (photos.load, "patches of two photographs, 8x8x3 to 128x128x3"),
    "rings": (synthetic.rings, "points 2, any number"),
    "moons": (synthetic.moons, "points 2, any number"),
    "gaussians8": (synthetic.gaussians8, "points 2, any number"),
    "gaussians25": (synthetic.gaussians25, "points 2, any number"),
    "grid25": (synthetic.grid25, "points 2, any number"),
    "ring8": (synthetic.ring8, "points 2, any number"),
}
TFDS: dict[str, Callable[..., Dataset]] = {
    "mnist": mnist.load,
    "fashion_mnist": mnist.load_fashion,
    "cifar10": cifar10.load,
    "celeb_a": celeb_a.load,
}
OF_MNIST: dict[str, tuple[Callable[..., Dataset], str]] = {
    "binary_mnist": (mnist.load_binary, "28x28x1, 50,000 train + 10,000 validation + 10,000 test"),
    "mnist_attributes": (attributes.load_mnist, "28x28x1, 60,000 train + 10,000 test"),
    "mnist_captions": (captions.load_mnist, "28x28x1, 60,000 train + 10,000 test"),
    "stacked_mnist": (mnist.load_stacked, "28x28x3, any number"),
}
SETS: dict[str, Callable[..., Dataset]] = {name: entry[0] for name, entry in (EMBEDDED | OF_MNIST).items()} | TFDS


def load(name: str, split: str = "train", **options) -> Dataset:
    """The data set `name`: one of `SETS`, "folder:PATH", a path ending in .npz or .parquet, or an image set of TFDS
    ("tfds:NAME").

    `options` are those of the set's own function (`size=`, `labels=`, `n=`, ...). Unknown names, splits and options,
    and sets that are not prepared, raise InputError. While a trained run is rebuilt, a set that it was trained on is
    read at the first `take` only.
    """
    name = str(name)
    description = find(name, split, options)
    if description is not None:
        return stand_in(description, partial(_load, name, split, **options))
    return note(name, _load(name, split, **options))


def _load(name: str, split: str, **options) -> Dataset:
    function = _find(name)
    allowed = _option_names(function)
    for option in options:
        known = ", ".join(allowed) or "none"
        check(option in allowed, f"the data set {name} has no option {option!r}; it has {known}")
    return function(split, **options)._replace(options=options)


def images(
    name: str, folder: str = "", *, size: int | None = None, channels: int = 3, background: str = "white"
) -> Dataset:
    """The images of a set by name, or of a folder of one's own: what an experiment takes by `--data` or `--folder`.

    size: pixels a side, of a folder 64 by default; channels, background: of a folder or of Parquet, as in
    `folder.load`; a folder's unreadable files are left out. InputError for a set of points, and for another size than
    that of a set that has one only.
    """
    name = f"folder:{folder}" if folder else name
    options: dict = {"channels": channels, "background": background} if _is_own(name) else {}
    if _is_folder(name):
        options["skip"] = True
    sized = "size" in _option_names(_find(name))
    if size is not None and sized:
        options["size"] = size
    found = load(name, **options)
    check(len(found.shape) == 3, f"{name} has no images, its examples are of shape {found.shape}: give an image set")
    height, width, _ = found.shape
    check(
        size is None or sized or size == height == width,
        f"{name} has images of {height}x{width} and no others, not of {size}x{size}: leave the size out",
    )
    return found


def _is_folder(name: str) -> bool:
    return name.startswith("folder:")


def _is_own(name: str) -> bool:
    return _is_folder(name) or name.endswith(".parquet")


def other_split(dataset: Dataset, split: str) -> Dataset:
    """Another part of the same data set, loaded with the same options: the test pictures of what was trained on."""
    return load(dataset.name, split, **dataset.options)


def prepare(name: str, data_dir: str | None = None) -> str:
    """Download and convert a TFDS image set, once (`jaxgen data prepare NAME`); the folder it is in.

    Raises InputError for a set that needs no preparing, when TensorFlow is missing, or when the download fails.
    """
    own = name in EMBEDDED or _is_own(name) or name.endswith(".npz")
    check(not own, f"{name} needs no preparing; use it as it is")
    name = "mnist" if name in OF_MNIST else name
    return tfds_images.prepare(name.removeprefix("tfds:"), data_dir)


def available() -> list[tuple[str, str, str]]:
    """(name, size, state) of each set, for `jaxgen data list`; under a second, without the network.

    The state is "embedded", "prepared", "not prepared: jaxgen data prepare NAME" or, for files of one's own, "yours".
    """
    rows = [(name, text, "embedded") for name, (_, text) in EMBEDDED.items()]
    for name in [*TFDS, *(other for other in tfds_images.in_folder() if other not in TFDS)]:
        try:
            text, ready = tfds_images.summary(name)
        except InputError:  # a prepared set without pictures
            continue
        state = "prepared" if ready else f"not prepared: jaxgen data prepare {name}"
        rows.append((name, text, state))
        if name == "mnist":
            rows += [(other, text, f"{state}, made of mnist") for other, (_, text) in OF_MNIST.items()]
    rows.append(("folder:PATH", "pictures, sub-folders are labels", "yours"))
    rows.append(("PATH.parquet", "pictures and label, as Hugging Face keeps them", "yours"))
    return [*rows, ("PATH.npz", "arrays x and labels", "yours")]


def _find(name: str) -> Callable[..., Dataset]:
    """The function (split, **options) -> Dataset behind a name."""
    kind, _, rest = name.partition(":")
    if name in SETS:
        return SETS[name]
    if kind == "folder":
        return partial(folder.load, rest)
    if name.endswith(".npz"):
        return partial(npz.load, name)
    if name.endswith(".parquet"):
        return partial(parquet.load, name)
    if kind == "tfds":
        return TFDS.get(rest, partial(tfds_images.load, rest))
    names = [*SETS, *tfds_images.known(), *tfds_images.in_folder()]
    if kind.split("/")[0] in names:
        return partial(tfds_images.load, name)
    close = [f"folder:{name}"] if is_folder(name) else difflib.get_close_matches(name, names, 1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    there = ", ".join([*SETS, "folder:PATH", "PATH.npz", "PATH.parquet", "tfds:NAME"])
    raise InputError(f"there is no data set {name!r}{hint}; give one of {there}")


def _option_names(function: Callable[..., Dataset]) -> list[str]:
    """The keywords of a set's function; those it passes on are `tfds_images.load`'s."""
    parameters = inspect.signature(function).parameters.values()
    names = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        names += [name for name in _option_names(tfds_images.load) if name not in names]
    return names
