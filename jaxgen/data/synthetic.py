"""Points in the plane whose distribution is known, for research: rings, moons and mixtures of Gaussians.

All are float32 [N, 2], most within about [-2, 2]; every mode holds the same number of points (to within one), and the
label is the mode. The training and the test points are independent draws from the same distribution.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np

from jaxgen.data.dataset import Dataset, in_memory
from jaxgen.inputs import check_memory
from jaxgen.types import check

SPLITS = ("train", "test")
STD = 0.05  # of every mode, in both directions


def _direction(turns: np.ndarray) -> np.ndarray:
    """Unit vectors [N, 2] at an angle of `turns` [N] full turns."""
    return np.stack([np.cos(2 * np.pi * turns), np.sin(2 * np.pi * turns)], -1)


GRID = np.stack(np.meshgrid(*[np.arange(-4.0, 5.0, 2.0)] * 2, indexing="ij"), -1).reshape(25, 2)
RING = _direction(np.arange(8) / 8)


def gaussians25(split: str = "train", *, n: int = 50_000) -> Dataset:
    """25 Gaussians of standard deviation 0.05 at {-2, -1, 0, 1, 2}^2; a coordinate has mean 0, variance 2.0025."""
    grid = np.arange(-2.0, 3.0)
    centres = np.stack(np.meshgrid(grid, grid, indexing="ij"), -1).reshape(25, 2)
    return _points("gaussians25", split, n, 25, lambda mode, _: centres[mode])


def gaussians8(split: str = "train", *, n: int = 50_000) -> Dataset:
    """8 Gaussians of standard deviation 0.05 on a circle of radius 2; a coordinate has mean 0, variance 2.0025."""
    return _points("gaussians8", split, n, 8, lambda mode, _: 2.0 * _direction(mode / 8))


def grid25(split: str = "train", *, n: int = 100_000) -> Dataset:
    """25 Gaussians of standard deviation 0.05 at {-4, -2, 0, 2, 4}^2, twice as far apart as those of `gaussians25`: the
    grid on which mode coverage is published (Lin et al. 2018, arXiv:1712.04086, section 4.1)."""
    return _points("grid25", split, n, 25, lambda mode, _: GRID[mode])


def ring8(split: str = "train", *, n: int = 100_000) -> Dataset:
    """8 Gaussians of standard deviation 0.01 on a circle of radius 1: the ring on which mode coverage is published (Lin
    et al. 2018, arXiv:1712.04086, section 4.1)."""
    return _points("ring8", split, n, 8, lambda mode, _: RING[mode], std=0.01)


def rings(split: str = "train", *, n: int = 50_000) -> Dataset:
    """4 circles of radius 0.5, 1, 1.5 and 2 around 0, blurred by 0.05; a coordinate has variance 0.94."""
    return _points("rings", split, n, 4, lambda mode, u: 0.5 * (mode[:, None] + 1) * _direction(u))


def moons(split: str = "train", *, n: int = 50_000) -> Dataset:
    """2 interleaved half circles of radius 1, the upper around (-0.5, -0.25), the lower around (0.5, 0.25)."""

    def curve(mode, u):
        sign = np.where(mode == 0, 1.0, -1.0)[:, None]
        return sign * (_direction(u / 2) - np.array([0.5, 0.25]))

    return _points("moons", split, n, 2, curve)


def _points(name: str, split: str, n: int, modes: int, curve: Callable, std: float = STD) -> Dataset:
    """Blurs curve(mode [n], u [n] uniform in [0, 1)) -> [n, 2] by std."""
    check(split in SPLITS, f"{name} has no split {split!r}; give one of {', '.join(SPLITS)}")
    check(isinstance(n, int) and n >= 1, f"{name}: n={n!r}: expected a number of points of at least 1")
    check_memory(96 * n, f"{n:,} points of {name}", "give a smaller n")  # in double precision, with what is drawn
    key = np.array([zlib.crc32(name.encode()), SPLITS.index(split)], np.uint64)
    random = np.random.Generator(np.random.Philox(key=key))
    mode = np.arange(n) % modes
    x = curve(mode, random.random(n)) + std * random.standard_normal((n, 2))
    return in_memory(name, split, x.astype(np.float32), mode, [str(i) for i in range(modes)])
