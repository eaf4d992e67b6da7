"""A folder of pictures of one's own; its sub-folders become labels."""

from __future__ import annotations

import hashlib
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import NoReturn

import numpy as np

from jaxgen.data.cache import cached
from jaxgen.data.dataset import Dataset, from_reader
from jaxgen.data.pictures import check_colour, check_format, is_grey, is_readable, read_picture, suffixes
from jaxgen.errors import notice
from jaxgen.inputs import is_folder
from jaxgen.types import InputError, check

SPLITS = ("train", "test", "all")


def load(
    path: str,
    split: str = "train",
    *,
    size: int | None = 64,
    channels: int | None = 3,
    labels: bool = True,
    background: str = "white",
    skip: bool = False,
    streaming: bool | None = None,
) -> Dataset:
    """uint8 [N, size, size, channels] from every picture at or below the folder `path`, sorted by path, of any format
    that pillow reads.

    The largest centred square of each is resized with antialiasing; `channels` is 3 (colour), 1 (grey) or 4 (with
    transparency; else what is transparent is laid on the colour `background`). None: grey or colour as the first
    picture; without a `size` nothing is resized, and all must have that of the first. Where the pictures lie in
    sub-folders, the (sorted) first-level sub-folders are the classes; `labels=False` ignores them.
    "test" is about 10 percent, chosen by a hash of the path inside the folder (so that adding pictures moves no other),
    "train" the rest, "all" everything. `streaming` as in `jaxgen.data.dataset.from_reader`. Hidden files and those of
    other formats are passed over. An empty folder and an unreadable picture raise InputError; `skip` leaves unreadable
    pictures out, and says in a line how many files it has passed over.
    """
    check(split in SPLITS, f"folder:{path} has no split {split!r}; give one of {', '.join(SPLITS)}")
    check_format(size, channels)
    check_colour(background)
    root = Path(os.path.expanduser(path))  # Path.expanduser raises for a user that is none
    check(bool(path) and is_folder(root), f"there is no folder {path}; give the path of a folder with pictures")
    everything, others = _pictures(root)
    if skip:
        everything, broken = _readable(path, root, everything)
        _say_skipped(path, (*broken, *others))
    check(bool(everything), f"no pictures in {path}; expected files that pillow reads, such as .png, .jpg or .webp")
    classes = _classes(path, everything) if labels else ()
    files = [name for name in everything if split == "all" or _held_out(name) == (split == "test")]
    number = {name: i for i, name in enumerate(classes)}
    check(bool(files), f"the {split!r} split of {path} is empty ({len(everything)} pictures); give split='all'")
    stamp = f"{_fingerprint(root, files, classes)} {background if channels != 4 else ''}"
    shape = _shape(root / files[0], size, channels)

    def read(indices):
        chosen = [files[int(i)] for i in indices]
        x = [_picture(root / name, shape, size, background) for name in chosen]
        return np.stack(x), np.array([number[name.split("/")[0]] for name in chosen], np.int32) if classes else None

    about = {"size": len(files), "shape": shape, "classes": classes}
    return from_reader(f"folder:{path}", split, read, **about, fingerprint=stamp, streaming=streaming)


def _shape(first: Path, size: int | None, channels: int | None) -> tuple[int, int, int]:
    """(H, W, C) of every picture."""
    channels = channels or (1 if is_grey(first, str(first)) else 3)
    if size is not None:
        return size, size, channels
    height, width, _ = read_picture(first, str(first), channels=channels).shape
    return height, width, channels


def _picture(path: Path, shape: tuple[int, int, int], size: int | None, background: str) -> np.ndarray:
    x = read_picture(path, str(path), channels=shape[2], size=size, background=background)
    sides = f"{x.shape[0]}x{x.shape[1]} pixels, the first picture has {shape[0]}x{shape[1]}"
    check(x.shape == shape, f"{path} has {sides}: give a size to bring all to one")
    return x


def _pictures(root: Path) -> tuple[list[str], list[str]]:
    """(pictures, other files): paths inside `root`, with forward slashes, sorted: the same lists on every system."""
    found, others = [], []
    for folder, folders, names in os.walk(root, onerror=_refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if not name.startswith("."):
                known = Path(name).suffix.lower() in suffixes()
                (found if known else others).append((Path(folder) / name).relative_to(root).as_posix())
    return sorted(found), sorted(others)


def _readable(path: str, root: Path, names: list[str]) -> tuple[list[str], list[str]]:
    """(those that can be read to their ends, the others), found out once for files as they are."""

    def build():
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            return np.fromiter(pool.map(lambda name: is_readable(root / name), names), np.uint8, len(names)), None

    stamp = _fingerprint(root, names, ())
    good = cached(f"readable-folder:{path}", stamp, (len(names),), build)[0]
    return [n for n, ok in zip(names, good, strict=True) if ok], [
        n for n, ok in zip(names, good, strict=True) if not ok
    ]


@lru_cache(maxsize=64)  # once for all the parts of a set
def _say_skipped(path: str, names: tuple[str, ...]) -> None:
    if names:
        few = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        what = "1 file" if len(names) == 1 else f"{len(names):,} files"
        notice(f"jaxgen: note: {what} in {path} cannot be read as pictures and are left out: {few}")


def _refuse(error: OSError) -> NoReturn:
    raise InputError(f"cannot read {error.filename} ({error.strerror}); repair or remove it") from error


def _classes(path: str, names: list[str]) -> tuple[str, ...]:
    inside = [name for name in names if "/" in name]
    check(
        len(inside) in (0, len(names)),
        f"{path} has {len(names) - len(inside)} pictures beside its sub-folders, which would have no label; "
        "move them into sub-folders or give labels=False",
    )
    return tuple(sorted({name.split("/")[0] for name in inside}))


def _held_out(name: str) -> bool:
    return int.from_bytes(hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=4).digest()) % 10 == 0


def _fingerprint(root: Path, files: list[str], classes: tuple[str, ...]) -> str:
    """Changes whenever a picture is added, removed or written again."""
    digest = hashlib.blake2b(repr((str(root.resolve()), classes)).encode("utf-8", "surrogateescape"))
    for name in files:
        try:
            status = os.stat(root / name)
        except OSError as error:
            _refuse(error)
        plain = stat.S_ISREG(status.st_mode)  # what else is there may never end, or never begin, to be read
        check(plain, f"cannot read {root / name} (it is no ordinary file); remove it")
        digest.update(repr((name, status.st_size, status.st_mtime_ns)).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
