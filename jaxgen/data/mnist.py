"""MNIST and Fashion-MNIST, 28x28 grey, 60,000 + 10,000 pictures in ten classes.

Handwritten digits: Y. LeCun, C. Cortes, C. Burges (1998). Clothes: H. Xiao, K. Rasul, R. Vollgraf (2017),
arXiv:1708.07747, MIT licence.
"""

from __future__ import annotations

from jaxgen.data import tfds_images
from jaxgen.data.dataset import Dataset


def load(split: str = "train", **options) -> Dataset:
    """uint8 [N, 28, 28, 1], labels 0 to 9; options as in `tfds_images.load`."""
    return tfds_images.load("mnist", split, **options)


def load_fashion(split: str = "train", **options) -> Dataset:
    """uint8 [N, 28, 28, 1], labels 0 to 9 (T-shirt, trouser, ...); options as in `tfds_images.load`."""
    return tfds_images.load("fashion_mnist", split, **options)
