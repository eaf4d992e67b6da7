"""Digits with captions: real labels, and words for what is measured from the pictures themselves.

"a thick seven leaning left": how thick the pen is and how the digit leans are measured as in `attributes`, and the
thirds of MNIST's training pictures have a word each, so that every picture has a caption.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from jaxgen.conditions import tokenised
from jaxgen.data import mnist
from jaxgen.data.attributes import measurements
from jaxgen.data.dataset import Dataset, in_memory
from jaxgen.data.subsets import labels_of, shrunk
from jaxgen.types import Array, check

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
PENS = ("thin", "medium", "thick")
LEANINGS = ("leaning left", "standing upright", "leaning right")
WORDS = ("a", *PENS, *DIGITS, "leaning", "standing", "left", "upright", "right")
LENGTH = 5
# {side: of `measurements`' thick and slanted}: the terciles of MNIST's 60,000 training pictures of that size
TERCILES = {
    28: np.array([[0.867348, 1.079412], [-0.010118, 0.223638]]),
    14: np.array([[0.456346, 0.564491], [-0.010163, 0.221785]]),
}
UNSEEN = ((None, 2, 2), (0, 7, None))  # (leaning, digit, pen): thick twos, and sevens leaning left


def load_mnist(
    split: str = "train",
    *,
    part: Literal["all", "seen", "unseen"] = "all",
    size: int = 28,
    data_dir: str | None = None,
) -> Dataset:
    """MNIST with captions of the `WORDS`, condition int32 [N, 5] as `conditions.text(dataset.classes, 5)` takes it.

    part: "seen" leaves out the combinations that are `UNSEEN`, to be trained without; "unseen" is those alone.
    size: 28, or 14, each pixel the mean of four.
    """
    check(part in ("all", "seen", "unseen"), f"mnist_captions has the parts all, seen and unseen, not {part!r}")
    check(size in TERCILES, f"mnist_captions has pictures of 28x28 and of 14x14, not of {size}x{size}")
    digits = shrunk(mnist.load(split, data_dir=data_dir), int(size == 14))
    x: Any = digits.take(np.arange(digits.size)).x
    found = described(x, labels_of(digits))
    kept = np.ones(len(x), bool) if part == "all" else unseen(found) == (part == "unseen")
    tokens = np.stack([tokenised(WORDS, LENGTH, caption(row)) for row in every()]).reshape(3, 10, 3, LENGTH)
    return in_memory("mnist_captions", split, x[kept], tokens[tuple(found[kept].T)], WORDS)


def described(x: Array | np.ndarray, digit: np.ndarray) -> np.ndarray:
    """int [N, 3]: the third of leaning, the digit, the third of the pen's thickness, of pictures uint8 [N, 28, 28, 1]
    or [N, 14, 14, 1]."""
    values, terciles = measurements(x), TERCILES[x.shape[1]]
    pen, leaning = (np.digitize(values[:, i], terciles[i]) for i in (0, 1))
    return np.stack([leaning, np.asarray(digit), pen], axis=1)


def every() -> np.ndarray:
    """int [90, 3]: all that can be `described`."""
    return np.indices((3, 10, 3)).reshape(3, -1).T


def caption(described: np.ndarray) -> str:
    """A caption, such as "a thick seven leaning left"."""
    leaning, digit, pen = (int(i) for i in described)
    return f"a {PENS[pen]} {DIGITS[digit]} {LEANINGS[leaning]}"


def unseen(described: np.ndarray) -> np.ndarray:
    """bool [N]: whether the combination is one of `UNSEEN`."""
    return np.any([fits(described, one) for one in UNSEEN], axis=0)


def fits(described: np.ndarray, combination: tuple[int | None, ...]) -> np.ndarray:
    """bool [N]: whether it is as in the combination, in which None is anything."""
    parts = [
        np.full(len(described), True) if one is None else described[:, i] == one for i, one in enumerate(combination)
    ]
    return np.all(parts, axis=0)
