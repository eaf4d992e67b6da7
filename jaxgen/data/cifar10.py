"""CIFAR-10, 32x32 colour, 50,000 + 10,000 pictures in ten classes: A. Krizhevsky (2009)."""

from __future__ import annotations

from jaxgen.data import tfds_images
from jaxgen.data.dataset import Dataset


def load(split: str = "train", **options) -> Dataset:
    """uint8 [N, 32, 32, 3], labels 0 to 9; options as in `tfds_images.load`."""
    return tfds_images.load("cifar10", split, **options)
