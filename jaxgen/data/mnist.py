"""MNIST and Fashion-MNIST, 28x28 grey, 60,000 + 10,000 pictures in ten classes.

Handwritten digits: Y. LeCun, C. Cortes, C. Burges (1998). Clothes: H. Xiao, K. Rasul, R. Vollgraf (2017),
arXiv:1708.07747, MIT licence.
"""

from __future__ import annotations

import numpy as np

from jaxgen.data import tfds_images
from jaxgen.data.dataset import Dataset, in_memory
from jaxgen.types import Batch, check

BINARY_SPLITS = {"train": ("train", 0, 50_000), "validation": ("train", 50_000, 60_000), "test": ("test", 0, 10_000)}
BINARY_SEED = 2008
STACKED_SEED = 2017


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


def load_stacked(split: str = "train", *, n: int = 128_000, data_dir: str | None = None) -> Dataset:
    """Three digits as the three colours of one picture: uint8 [n, 28, 28, 3], labels 0 to 999, their digits in the
    order of the channels: a data set of 1,000 known modes (Metz et al. 2017, arXiv:1611.02163, section 3.3.1; 128,000
    pictures as in Lin et al. 2018, arXiv:1712.04086, section 4.2).

    The digits of a picture are drawn by its place in the set, from MNIST's own split: another n has the same first
    pictures. Pictures are stacked at their use, and three digits' classes are one label.
    """
    check(isinstance(n, int) and n >= 1, f"stacked_mnist: n={n!r}: expected a number of pictures of at least 1")
    grey = tfds_images.load("mnist", split, data_dir=data_dir)
    random = np.random.Philox(key=np.array([STACKED_SEED, split == "test"], np.uint64))
    digits = (random.random_raw(3 * n) % grey.size).astype(np.int64).reshape(n, 3)

    def take(indices: np.ndarray) -> Batch:
        chosen = grey.take(digits[indices].ravel())
        x = np.asarray(chosen.x).reshape(len(indices), 3, 28, 28).transpose(0, 2, 3, 1)
        labels = np.asarray(chosen.condition).reshape(-1, 3) @ np.array([100, 10, 1])
        return chosen._replace(x=np.ascontiguousarray(x), condition=labels.astype(np.int32))

    return Dataset("stacked_mnist", split, n, (28, 28, 3), take, tuple(f"{i:03d}" for i in range(1000)))
