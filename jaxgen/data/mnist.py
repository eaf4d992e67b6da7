"""MNIST and Fashion-MNIST, 28x28 grey, 60,000 + 10,000 pictures in ten classes.

Handwritten digits: Y. LeCun, C. Cortes, C. Burges (1998). Clothes: H. Xiao, K. Rasul, R. Vollgraf (2017),
arXiv:1708.07747, MIT licence.
"""

from __future__ import annotations

import numpy as np

from jaxgen.data import tfds_images
from jaxgen.data.dataset import Dataset, in_memory
from jaxgen.types import check

BINARY_SPLITS = {"train": ("train", 0, 50_000), "validation": ("train", 50_000, 60_000), "test": ("test", 0, 10_000)}
BINARY_SEED = 2008


def load(split: str = "train", **options) -> Dataset:
    """uint8 [N, 28, 28, 1], labels 0 to 9; options as in `tfds_images.load`."""
    return tfds_images.load("mnist", split, **options)


def load_fashion(split: str = "train", **options) -> Dataset:
    """uint8 [N, 28, 28, 1], labels 0 to 9 (T-shirt, trouser, ...); options as in `tfds_images.load`."""
    return tfds_images.load("fashion_mnist", split, **options)


def load_binary(split: str = "train", *, data_dir: str | None = None) -> Dataset:
    """Statically binarised MNIST: uint8 [N, 28, 28, 1] of 0 and 255, each pixel drawn once, and always the same, with
    the probability of its grey value (Salakhutdinov and Murray 2008). For a new draw at every use, see
    `families.dynamically_binarised`.

    The splits have the sizes of those of Larochelle and Murray (2011), train 50,000, validation 10,000, test 10,000,
    but not their members: "validation" is the last 10,000 of MNIST's training pictures. Nor are the pixels theirs,
    whose files are not used here, but another draw from the same distribution.
    """
    known = ", ".join(BINARY_SPLITS)
    check(split in BINARY_SPLITS, f"binary_mnist has no split {split!r}; give one of {known}")
    part, start, stop = BINARY_SPLITS[split]
    grey = tfds_images.load("mnist", part, data_dir=data_dir)
    batch = grey.take(np.arange(start, stop))
    # raw Philox words: NumPy promises their stream for all versions
    random = np.random.Philox(key=np.array([BINARY_SEED, part == "test"], np.uint64)).advance(start * 784 // 4)
    words = random.random_raw(batch.x.size).reshape(batch.x.shape)
    binary = np.where(words % 255 < batch.x, 255, 0).astype(np.uint8)
    return in_memory("binary_mnist", split, binary, batch.condition, grey.classes)
