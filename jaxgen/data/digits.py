"""Handwritten digits, 8x8 grey: 1,797 real pictures that come with scikit-learn. No download.

From "Optical Recognition of Handwritten Digits", E. Alpaydin and C. Kaynak (1998), UCI repository, CC BY 4.0: 32x32
scans reduced to 8x8 counts of ink.
"""

from __future__ import annotations

from importlib import metadata
from typing import Any

import numpy as np

from jaxgen.data.cache import cached
from jaxgen.data.dataset import Dataset, in_memory
from jaxgen.data.pipeline import order
from jaxgen.types import check

SHAPE = (8, 8, 1)
SPLITS = ("train", "test", "all")
SPLIT_SEED = 0


def load(split: str = "train") -> Dataset:
    """uint8 [N, 8, 8, 1] with labels 0 to 9; ink 0..16 becomes round(255/16 ink).

    "train" has 1,500 and "test" 297, "all" is both. The split is stratified by digit and always the same.
    """
    check(split in SPLITS, f"digits has no split {split!r}; give one of {', '.join(SPLITS)}")
    fingerprint = f"scikit-learn {metadata.version('scikit-learn')}"
    x, labels = cached("digits", fingerprint, (1797, *SHAPE), _build)  # importing scikit-learn takes two seconds
    assert labels is not None
    if split != "all":
        held_out = _held_out(labels)
        chosen = held_out if split == "test" else ~held_out
        x, labels = x[chosen], labels[chosen]
    return in_memory("digits", split, x, labels, [str(digit) for digit in range(10)])


def _build():
    from sklearn.datasets import load_digits

    raw: Any = load_digits()
    return np.round(np.asarray(raw.images) * (255 / 16)).astype(np.uint8)[..., None], np.asarray(raw.target, np.int32)


def _held_out(labels: np.ndarray) -> np.ndarray:
    """bool [N]: the same share of each digit, drawn with a fixed seed."""
    test = np.zeros(len(labels), bool)
    for digit in range(10):
        members = np.flatnonzero(labels == digit)
        count = round(len(members) * 297 / 1797)
        test[members[order(len(members), SPLIT_SEED + digit, 0, count)]] = True
    return test
