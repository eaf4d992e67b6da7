"""A score and how far it may be off, and what the scores share: which arrays they take, how their errors come about."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxgen.types import check

PIECE = 4096  # examples that are looked at, or made float64, at once


class Estimate(NamedTuple):
    """value     the score
    error     its standard error over draws of both sets, unless `how` names what it covers; nan: unknown
    how       how it and its error came about, in words: "10 folds of the reals and of the fakes left out in turn"
    """

    value: float
    error: float
    how: str


def as_codes(codes: Any, name: str, *, least: int = 2) -> np.ndarray:
    """Codes [N, D] of any floating type on the host, as they are, half precision as float32.

    InputError for another shape or type, fewer than `least` examples, and what is not finite.
    """
    codes = np.asarray(codes)
    check(
        codes.ndim == 2 and codes.size > 0 and jnp.issubdtype(codes.dtype, jnp.floating),
        f"the codes of the {name} are of shape {codes.shape} and type {codes.dtype}: give floating [N, D]",
    )
    check(len(codes) >= least, f"{len(codes)} codes of the {name} are too few: give at least {least}")
    if codes.dtype not in (np.float32, np.float64):
        codes = codes.astype(np.float32)
    for piece in pieces(len(codes)):
        bad = ~np.isfinite(codes[piece]).all(axis=1)
        row = piece.start + int(bad.argmax())
        check(not bad.any(), f"code {row} of the {name} is not finite: look at what the extractor was given")
    return codes


def as_pair(reals: Any, fakes: Any, *, least: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Two sets of codes [N, D], [M, D] as `as_codes` takes them. InputError for different D."""
    reals, fakes = as_codes(reals, "reals", least=least), as_codes(fakes, "fakes", least=least)
    check_width(reals.shape[1], fakes.shape[1])
    return reals, fakes


def check_width(reals: int, fakes: int) -> None:
    """InputError unless the codes of both have one number of dimensions."""
    check(reals == fakes, f"the reals have {reals} dimensions and the fakes {fakes}: take both from one extractor")


def pieces(n: int, size: int = PIECE) -> Iterator[slice]:
    """0 to n, `size` at a time."""
    return (slice(start, min(start + size, n)) for start in range(0, n, size))


def deal(n: int, folds: int, seed: Sequence[int]) -> np.ndarray:
    """The fold of each of n examples, [n]: dealt at random, the folds' sizes differ by one at most."""
    check(folds >= 2, f"an error needs at least 2 folds, not {folds}")
    return np.random.default_rng(seed).permutation(np.arange(n) % folds)


def jackknife(*left_out: Sequence[float] | np.ndarray) -> float:
    """Standard error of a score from what it is without each fold: one sequence of g values for each sample it is of,

    error^2 = sum over the samples of (g - 1) / g sum_f (theta_(f) - mean theta)^2
    (Efron and Stein 1981; a fold for an example: Shao and Wu 1989; two samples: Arvesen 1969).
    What the score is off by on average, its bias, is not in it. It is not too small on average, and too large where a
    score hangs on pairs rather than on single examples, as distances of sets that are alike do (Efron and Stein).
    nan where nothing was left out.
    """
    if not left_out:
        return math.nan
    return math.sqrt(sum((len(v) - 1) * np.var(np.asarray(v, np.float64)) for v in left_out))


def mean_of(values: Any, how: str) -> Estimate:
    """The mean of independent values [N] and its standard error s / sqrt(N); nan for one value."""
    values = np.asarray(values, np.float64)
    error = values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return Estimate(float(values.mean()), float(error), how)


def share_of(hits: Any, of: str) -> Estimate:
    """The share p of N that are hits, booleans [N], with the binomial error sqrt(p (1 - p) / N), `of` what they are."""
    hits = np.asarray(hits, bool)
    p = float(hits.mean())
    return Estimate(p, math.sqrt(p * (1.0 - p) / len(hits)), f"binomial, {len(hits)} {of}")
