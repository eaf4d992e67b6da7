"""Patches of two colour photographs, 427x640, that come with scikit-learn. No download.

The Summer Palace (china.jpg, by danielbuechele) and a flower (flower.jpg, by vultilion), both from Flickr, Creative
Commons Attribution 2.0, by the README of `sklearn.datasets.images`. Two photographs are little: enough to try
models of small colour images without a download, not enough to judge how well a model colours the world.
"""

from __future__ import annotations

import zlib
from importlib import metadata

import numpy as np

from jaxgen.data.cache import cached
from jaxgen.data.dataset import Dataset
from jaxgen.inputs import check_memory
from jaxgen.types import Batch, check

SPLITS = ("train", "test")
NAMES = ("china", "flower")
HEIGHT, WIDTH, BORDER = 427, 640, 480  # columns up to the border are for training, the others held out
SMALLEST, LARGEST = 8, 128


def load(split: str = "train", *, size: int = 32, n: int | None = None) -> Dataset:
    """uint8 [n, size, size, 3], size 8 to 128, the label is the number of the photograph.

    "train" takes n = 20,000 patches from the left three quarters of both, "test" 2,000 from the right quarter: no pixel
    is in both. The places are always the same; more patches begin with those of fewer. They overlap.
    """
    check(split in SPLITS, f"photos has no split {split!r}; give one of {', '.join(SPLITS)}")
    known = isinstance(size, int) and SMALLEST <= size <= LARGEST
    check(known, f"photos: size={size!r}: expected a number of pixels from {SMALLEST} to {LARGEST}")
    n = {"train": 20_000, "test": 2_000}[split] if n is None else n
    check(isinstance(n, int) and n >= 1, f"photos: n={n!r}: expected a number of patches of at least 1")
    check_memory(64 * n, f"the places of {n:,} patches of photos", "give a smaller n")
    first, last = (0, BORDER) if split == "train" else (BORDER, WIDTH)
    windows = np.lib.stride_tricks.sliding_window_view(_photographs()[:, :, first:last], (size, size), axis=(1, 2))
    # raw Philox words: NumPy promises their stream for all versions
    key = np.array([zlib.crc32(b"photos"), SPLITS.index(split)], np.uint64)
    words = np.random.Philox(key=key).random_raw(2 * n).reshape(n, 2)
    row, column = (words % np.array(windows.shape[1:3], np.uint64)).astype(np.int64).T
    which = (np.arange(n) % len(NAMES)).astype(np.int32)

    def take(indices: np.ndarray) -> Batch:  # cut out at each use: n patches need not fit in memory
        cut = windows[which[indices], row[indices], column[indices]]
        return Batch(np.ascontiguousarray(np.moveaxis(cut, 1, -1)), which[indices])  # type: ignore[arg-type]

    return Dataset("photos", split, n, (size, size, 3), take, NAMES)


def _photographs() -> np.ndarray:
    """uint8 [2, 427, 640, 3]."""
    versions = " ".join(f"{name} {metadata.version(name)}" for name in ("scikit-learn", "pillow"))
    return cached("photos", versions, (len(NAMES), HEIGHT, WIDTH, 3), _decode)[0]


def _decode():
    from sklearn.datasets import load_sample_images

    return np.stack(load_sample_images()["images"]), np.arange(len(NAMES), dtype=np.int32)
