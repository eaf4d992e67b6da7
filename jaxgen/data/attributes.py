"""Attributes that are measured from the pictures themselves: is the pen thick, the digit slanted, does it have a loop?

They need no annotator and can be measured of generated pictures too: does a model follow its condition?
"""

from __future__ import annotations

import numpy as np

from jaxgen.data import mnist
from jaxgen.data.dataset import Dataset, in_memory
from jaxgen.types import Array, check

NAMES = ("thick", "slanted", "wide", "top_heavy", "looped")
INK = 100  # a pixel of this value is drawn
LOOP = 3.5  # more pixels than this that ink surrounds are a loop
# what a measurement has to exceed: the medians of MNIST's training pictures, and LOOP
MNIST = np.array([0.967881, 0.103428, 0.75, 0.51089, LOOP])


def load_mnist(split: str = "train", **options) -> Dataset:
    """MNIST with the attributes that `measured` finds with the thresholds `MNIST`, condition int32 [N, 5] of 0 and 1;
    options as in `mnist.load`."""
    return measured(mnist.load(split, **options), MNIST)._replace(name="mnist_attributes")


def measured(dataset: Dataset, thresholds: np.ndarray | None = None) -> Dataset:
    """`dataset` with the attributes `NAMES` instead of its labels: 1 where `measurements` exceed their thresholds [5],
    by default the medians of this very data set, and `LOOP`."""
    grey = len(dataset.shape) == 3 and dataset.shape[2] == 1
    check(grey, f"attributes are measured of grey pictures [H, W, 1], those of {dataset.name} are {dataset.shape}")
    x = np.asarray(dataset.take(np.arange(dataset.size)).x)
    values = measurements(x)
    if thresholds is None:
        thresholds = np.append(np.median(values[:, :4], axis=0), LOOP)
    condition = (values > thresholds).astype(np.int32)
    return in_memory(dataset.name, dataset.split, x, condition, NAMES)._replace(options=dataset.options)


def measurements(x: Array | np.ndarray) -> np.ndarray:
    """float64 [N, 5] of bright ink on black, x uint8 [N, H, W, 1]:

    thick      ink for each side of a pixel at which it ends
    slanted    -mu_11 / mu_02 of the central moments, columns to the right for each row upwards
    wide       drawn columns, from the first to the last, for each drawn row
    top_heavy  the share of the ink in the upper half of the drawn rows
    looped     pixels that the ink surrounds
    """
    grey = np.asarray(x)[..., 0].astype(np.float64) / 255.0
    drawn = np.asarray(x)[..., 0] >= INK
    rows, columns = np.arange(grey.shape[1])[:, None], np.arange(grey.shape[2])[None]
    ink = np.maximum(grey.sum((1, 2)), 1e-9)

    def mean(values: np.ndarray) -> np.ndarray:
        return (grey * values).sum((1, 2)) / ink

    top, bottom = _extent(drawn, 2)
    left, right = _extent(drawn, 1)
    y = rows - mean(rows)[:, None, None]
    cross = mean(y * (columns - mean(columns)[:, None, None]))
    upper = rows < ((top + bottom + 1) / 2.0)[:, None, None]
    measured_values = (
        ink / np.maximum(_boundary(drawn), 1),
        -cross / np.maximum(mean(y**2), 1e-9),
        (right - left + 1) / (bottom - top + 1),
        mean(upper),
        _surrounded(drawn),
    )
    return np.stack(measured_values, axis=1)


def _extent(drawn: np.ndarray, over: int) -> tuple[np.ndarray, np.ndarray]:
    """First and last line of each picture that has ink anywhere over the axis; all of it where there is none."""
    some = np.asarray(drawn.any(over))
    return some.argmax(1), some.shape[1] - 1 - some[:, ::-1].argmax(1)


def _boundary(drawn: np.ndarray) -> np.ndarray:
    """Sides that a drawn and a blank pixel share, [N]."""
    wide = np.pad(drawn, ((0, 0), (1, 1), (1, 1)))
    return (wide[:, 1:] != wide[:, :-1]).sum((1, 2)) + (wide[:, :, 1:] != wide[:, :, :-1]).sum((1, 2))


def _surrounded(drawn: np.ndarray) -> np.ndarray:
    """Blank pixels without a way to the border, from side to side, [N]."""
    from scipy import ndimage

    blank = np.pad(~drawn, ((0, 0), (1, 1), (1, 1)), constant_values=True)
    within = np.zeros((3, 3, 3), int)  # neighbours in one picture, none in the next
    within[1] = [[0, 1, 0], [1, 1, 1], [0, 1, 0]]
    piece = np.empty(blank.shape, np.int32)
    count = ndimage.label(blank, structure=within, output=piece)
    outside = np.zeros(int(count) + 1, bool)  # type: ignore[arg-type]
    outside[piece[:, 0, 0]] = True
    return (blank & ~outside[piece]).sum((1, 2))
