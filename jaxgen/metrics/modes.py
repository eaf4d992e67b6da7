"""Mode coverage: how many of a distribution's known modes samples find, and how many samples lie in one."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from scipy.special import rel_entr

from jaxgen.types import check


class Coverage(NamedTuple):
    """modes      found: those with a sample within `within` standard deviations of their centre
    quality    share of the samples that lie so near to some centre
    kl         KL(share of those samples by mode || uniform), nats; 0: all modes equally often, log M: one of M
    counts     [M], the samples by mode
    """

    modes: int
    quality: float
    kl: float
    counts: np.ndarray


def coverage(x: Any, centres: Any, std: float, *, within: float = 3.0) -> Coverage:
    """Of samples x [N, D] and modes at centres [M, D], Gaussians of deviation `std` in every direction (Srivastava et
    al. 2017, arXiv:1705.07761, section 4.1; Lin et al. 2018, arXiv:1712.04086, section 4.1, with 2,500 samples). A
    sample belongs to the nearest centre. Where no sample is near any, kl is infinite."""
    x, centres = np.asarray(x, np.float64), np.asarray(centres, np.float64)
    fits = x.ndim == centres.ndim == 2 and x.shape[1] == centres.shape[1] and min(len(x), len(centres)) > 0
    check(fits, f"samples [N, D] and centres [M, D] have one D, not {x.shape} and {centres.shape}")
    check(std > 0 and within > 0, f"a mode has a positive deviation and reach, not {std} and {within}")
    squares = np.square(x[:, None] - centres[None]).sum(-1)
    near = squares.min(1) < (within * std) ** 2
    counts = np.bincount(squares.argmin(1)[near], minlength=len(centres))
    return of_counts(counts, len(x))


def of_counts(counts: np.ndarray, n: int) -> Coverage:
    """The same of how many of n samples are in each mode: of classes that a classifier tells, for example."""
    counts = np.asarray(counts)
    check(
        counts.ndim == 1 and counts.size > 0 and 0 <= counts.sum() <= n, f"{counts.sum()} of {n} samples are in modes"
    )
    total = counts.sum()
    kl = float(rel_entr(counts / total, 1 / counts.size).sum()) if total else float("inf")
    return Coverage(int(np.count_nonzero(counts)), float(total / n), kl, counts)
