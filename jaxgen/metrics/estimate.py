"""A score with its standard error, and what the scores share: the arrays that they take, estimates of errors."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxgen.types import check

PIECE = 4096  # examples that are checked, or converted to float64, at once


class Estimate(NamedTuple):
    """value     the score
    error     its standard error over draws of both sets, or over what `how` names; nan: unknown
    how       how value and error were computed: "10 folds of the reals and of the fakes left out in turn"
    """

    value: float
    error: float
    how: str


def as_features(features: Any, name: str, *, least: int = 2) -> np.ndarray:
    """Features [N, D] of any floating type on the host, as they are, half precision as float32.

    InputError for another shape or type, fewer than `least` examples, and values that are not finite.
    """
    features = np.asarray(features)
    check(
        features.ndim == 2 and features.size > 0 and jnp.issubdtype(features.dtype, jnp.floating),
        f"the features of the {name} are of shape {features.shape} and type {features.dtype}: give floating [N, D]",
    )
    check(len(features) >= least, f"{len(features)} features of the {name} are too few: give at least {least}")
    if features.dtype not in (np.float32, np.float64):
        features = features.astype(np.float32)
    for piece in pieces(len(features)):
        bad = ~np.isfinite(features[piece]).all(axis=1)
        row = piece.start + int(bad.argmax())
        check(not bad.any(), f"row {row} of the features of the {name} is not finite: check the extractor's input")
    return features


def as_pair(reals: Any, fakes: Any, *, least: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Two sets of features [N, D], [M, D] as `as_features` takes them. InputError for different D."""
    reals, fakes = as_features(reals, "reals", least=least), as_features(fakes, "fakes", least=least)
    check_width(reals.shape[1], fakes.shape[1])
    return reals, fakes


def check_width(reals: int, fakes: int) -> None:
    """InputError unless both sets of features have the same number of dimensions."""
    check(reals == fakes, f"the reals have {reals} dimensions and the fakes {fakes}: take both from one extractor")


def pieces(n: int, size: int = PIECE) -> Iterator[slice]:
    """0 to n, `size` at a time."""
    return (slice(start, min(start + size, n)) for start in range(0, n, size))


def deal(n: int, folds: int, seed: Sequence[int]) -> np.ndarray:
    """The fold of each of n examples, [n]: assigned at random, sizes differ by one at most."""
    check(folds >= 2, f"an error needs at least 2 folds, not {folds}")
    return np.random.default_rng(seed).permutation(np.arange(n) % folds)


def jackknife(*left_out: Sequence[float] | np.ndarray) -> float:
    """Standard error of a score from its values without each fold: one sequence of g values for each sample it is of,

    error^2 = sum over the samples of (g - 1) / g sum_f (theta_(f) - mean theta)^2
    (Efron and Stein 1981; folds of several examples: Shao and Wu 1989; two samples: Arvesen 1969).
    The bias of the score is not included. The estimate is conservative on average, and too large where a score depends
    on pairs rather than on single examples, as distances of nearly equal sets do (Efron and Stein).
    nan where nothing was left out.
    """
    if not left_out:
        return math.nan
    return math.sqrt(sum((len(v) - 1) * np.var(np.asarray(v, np.float64)) for v in left_out))


def mean_of(values: Any, how: str) -> Estimate:
    """The mean of independent values [N] and its standard error s / sqrt(N); nan for one value, and where a value is
    not finite."""
    values = np.asarray(values, np.float64)
    known = len(values) > 1 and bool(np.isfinite(values).all())
    error = values.std(ddof=1) / math.sqrt(len(values)) if known else math.nan
    return Estimate(float(values.mean()), float(error), how)


def share_of(hits: Any, of: str) -> Estimate:
    """The share p of N that are hits, booleans [N], with the binomial error sqrt(p (1 - p) / N); of: what they are."""
    hits = np.asarray(hits, bool)
    return proportion(float(hits.mean()), len(hits), of)


def proportion(p: float, n: int, of: str) -> Estimate:
    """A share p of n trials with the binomial error sqrt(p (1 - p) / n); of: what they are."""
    return Estimate(p, math.sqrt(max(p * (1.0 - p), 0.0) / n), f"binomial, {n} {of}")


def scaled(estimate: Estimate, factor: float) -> Estimate:
    """The estimate in another unit: value and error times `factor`."""
    return estimate._replace(value=factor * estimate.value, error=abs(factor) * estimate.error)
