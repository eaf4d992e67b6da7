"""Frechet distance between Gaussians fitted to features, with its error, and extrapolated to infinitely many samples.

Computed in float64 on the host, whatever the accelerator: the distance is a small difference of large traces.
"""

from __future__ import annotations

import math
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
from scipy.linalg import get_lapack_funcs

from jaxgen.metrics.estimate import PIECE, Estimate, as_features, check_width, deal, jackknife, pieces
from jaxgen.types import check

REAL_FOLDS = 10
GOLDEN = 0.618033988749895  # of a turn: windows that begin so far apart spread evenly, however many there are
_PSTRF, _SYGST = get_lapack_funcs(("pstrf", "sygst"), dtype=np.float64)


class Gaussian(NamedTuple):
    """Mean [D] and covariance [D, D], of divisor n - 1, of n examples; float64. `merge` adds, `without` removes."""

    n: int
    mean: np.ndarray
    cov: np.ndarray


def gaussian(features: Any, *, batch: int = PIECE) -> Gaussian:
    """Mean and covariance of features [N, D], `batch` of them in float64 at once."""
    features = as_features(features, "set")
    return _moments(features, np.arange(len(features)), batch)


def merge(*sets: Gaussian) -> Gaussian:
    """Of all sets together: (n - 1) C = sum_i (n_i - 1) C_i + n_i d_i d_i^T, d_i = m_i - m
    (Chan, Golub and LeVeque 1983, for two)."""
    n = sum(one.n for one in sets)
    mean = sum((one.n / n) * one.mean for one in sets) + np.zeros_like(sets[0].mean)
    gaps = np.stack([math.sqrt(one.n) * (one.mean - mean) for one in sets])
    scatter = gaps.T @ gaps
    for one in sets:
        scatter += (one.n - 1) * one.cov
    scatter /= max(n - 1, 1)
    return Gaussian(n, mean, scatter)


def without(full: Gaussian, part: Gaussian) -> Gaussian:
    """Of the rest of a set: merged with `part` it gives `full`. InputError unless two examples are left."""
    n = full.n - part.n
    check(n >= 2, f"{part.n} of {full.n} examples removed leave {n}: a covariance needs 2")
    mean = full.mean + (full.mean - part.mean) * (part.n / n)
    d = part.mean - mean
    scatter = (full.n - 1) * full.cov - (part.n - 1) * part.cov
    scatter -= np.outer(d * (n * part.n / full.n), d)
    return Gaussian(n, mean, scatter / (n - 1))


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """||m_a - m_b||^2 + tr A + tr B - 2 tr (A^1/2 B A^1/2)^1/2, the squared 2-Wasserstein distance of two Gaussians
    (Dowson and Landau 1982; of Inception features the FID: Heusel et al. 2017, arXiv:1706.08500, eq. 6).

    With B = R^T R, R of as many rows as B has rank r, the last trace is the sum of the roots of the eigenvalues of
    R A R^T [r, r]; any R serves, and pivoted Cholesky's is the cheapest (Higham 1990). A covariance of n samples has
    rank n - 1 at most: the eigenvalues past it are rounding and are left out, so that few samples in many dimensions
    lose no digits and need no separate formula.
    InputError for covariances of different sizes or that are not finite.
    """
    for one in (a, b):
        fits = one.n >= 2 and one.cov.shape == (one.mean.size, one.mean.size)
        check(fits, f"{one.n} examples with a mean {one.mean.shape} and a covariance {one.cov.shape} are no Gaussian")
        check(bool(np.isfinite(one.cov.sum() + one.mean.sum())), "a mean or a covariance is not finite")
    check_width(a.mean.size, b.mean.size)
    few, many = sorted((a, b), key=lambda one: one.n)
    return _distance(many, few, _root(few))


def fid(reals: Any, fakes: Any, *, folds: int = 10, seed: int = 0) -> Estimate:
    """Frechet distance of features [N, D] and [M, D], biased upwards by an amount that falls as 1 / N and 1 / M.

    reals: features, or their `Gaussian` where only that is known; the same for the fakes. The error is that of leaving
    out the folds of each set of features in turn (`estimate.jackknife`): it covers the draws of sets given as features,
    not the bias. Eigenvalues are computed once a fold and set, and a covariance a fold and set is kept in memory.
    InputError for fewer than 4 features, and for features that are not finite or of different D.
    """
    (real, real_parts), (fake, fake_parts) = _both(reals, fakes, (folds, folds), seed)
    real_root = _root(real)
    value = _distance(fake, real, real_root)
    no_fakes = [_distance(without(fake, part), real, real_root) for part in fake_parts]
    no_reals = _left_out(real, real_parts, fake)
    return Estimate(value, jackknife(*filter(None, (no_reals, no_fakes))), _how(no_reals, no_fakes))


def fid_infinity(reals: Any, fakes: Any, *, sizes: int = 15, seed: int = 0) -> Estimate:
    """FID of infinitely many fakes: the intercept of a line in 1 / M through the FIDs of `sizes` sizes M, 15 of them
    (Chong and Forsyth 2020, arXiv:1911.07023, section 4), evenly spaced from about 3 / 10 of the fakes to all of them.

    The paper begins at 5,000 of 50,000, more than twice 2,048 dimensions; at a tenth of fewer fakes the FID would no
    longer be linear in 1 / M. With fewer fakes than a few times D the value comes out too low, even negative. All
    reals are used every time: their own bias, which falls as 1 / N, remains.

    The fakes are divided into 4 / 3 sizes parts, a size is a window of them. To first order every FID is a mean over
    its fakes and the intercept a weighted one: its error is that of the FID (`fid`, the parts for folds), times the
    root of their number times the weights' sum of squares. Costs and memory as `fid`, and eigenvalues for each size.
    InputError for fakes that are a `Gaussian`, and for fewer than two a part.
    """
    check(sizes >= 3, f"a line and its error need at least 3 sizes, not {sizes}")
    check(not isinstance(fakes, Gaussian), "the fakes are a Gaussian: samples of different sizes need their features")
    parts = -(-4 * sizes // 3)
    enough = np.shape(fakes)[:1] >= (2 * parts,)
    check(enough, f"fakes of shape {np.shape(fakes)} for {sizes} sizes: give at least {2 * parts}, or fewer sizes")
    (real, real_parts), (fake, fake_parts) = _both(reals, fakes, (REAL_FOLDS, parts), seed)
    real_root = _root(real)
    windows = [(round(GOLDEN * parts * j) + np.arange(parts - sizes + 1 + j)) % parts for j in range(sizes)]
    m, values = [], []
    for window in windows:
        some = merge(*(fake_parts[p] for p in window))
        m.append(some.n)
        values.append(_distance(some, real, real_root))
    weight = np.linalg.pinv(np.stack([np.ones(sizes), fake.n / np.asarray(m)], axis=1))[0]
    share = np.zeros(parts)
    for w, window in zip(weight, windows, strict=True):
        share[window] += w / len(window)
    no_fakes = [_distance(without(fake, part), real, real_root) for part in fake_parts]
    error = jackknife(no_fakes) * math.sqrt(parts * float(np.sum(share**2)))
    no_reals = _left_out(real, real_parts, fake)
    how = f"a line through {sizes} sizes from {m[0]} to {m[-1]}; {_how(no_reals, no_fakes)}"
    return Estimate(float(weight @ values), math.hypot(error, jackknife(no_reals) if no_reals else 0.0), how)


def _moments(features: np.ndarray, index: np.ndarray, batch: int = PIECE) -> Gaussian:
    def of(piece: slice) -> Gaussian:
        x = features[index[piece]].astype(np.float64)
        mean = x.mean(axis=0)
        x -= mean
        return Gaussian(len(x), mean, x.T @ x / max(len(x) - 1, 1))

    return reduce(merge, map(of, pieces(len(index), batch)))


def _both(reals: Any, fakes: Any, folds: tuple[int, int], seed: int) -> list[tuple[Gaussian, list[Gaussian]]]:
    """Of each set the Gaussian of all of it and of its folds; no folds where only a Gaussian is known."""
    found = []
    for i, (name, given) in enumerate((("reals", reals), ("fakes", fakes))):
        if isinstance(given, Gaussian):
            found.append((given, []))
            continue
        features = as_features(given, name, least=4)
        fold = deal(len(features), min(folds[i], len(features) // 2), (seed, i))
        parts = [_moments(features, np.flatnonzero(fold == f)) for f in range(fold.max() + 1)]
        found.append((merge(*parts), parts))
    check_width(found[0][0].mean.size, found[1][0].mean.size)
    return found


class _Root(NamedTuple):
    """R [D, D], upper triangular, its rows past `rank` zero: R^T R is the covariance in the order `order`."""

    order: np.ndarray
    upper: np.ndarray
    rank: int


def _root(g: Gaussian) -> _Root:
    """The pivoted Cholesky factor, cut at the numerical rank and at n - 1."""
    upper, order, rank, _ = _PSTRF(g.cov, lower=0)
    rank = min(int(rank), g.n - 1)
    upper = np.asfortranarray(np.triu(upper))
    upper[rank:] = 0.0
    return _Root(order - 1, upper, rank)


def _distance(a: Gaussian, b: Gaussian, root: _Root) -> float:
    """As `frechet_distance`; root: that of b."""
    overlap = 0.0
    if root.rank:
        cov = a.cov[np.ix_(root.order, root.order)].T  # symmetric, in Fortran's order
        product, _ = _SYGST(cov, root.upper, itype=2, lower=0, overwrite_a=1)  # R A R^T, its upper half
        values = np.linalg.eigvalsh(product[: root.rank, : root.rank], UPLO="U")
        overlap = np.sum(np.sqrt(np.maximum(values[max(values.size - (a.n - 1), 0) :], 0.0)))
    gap = a.mean - b.mean
    return max(float(gap @ gap + np.trace(a.cov) + np.trace(b.cov) - 2.0 * overlap), 0.0)


def _left_out(full: Gaussian, parts: list[Gaussian], other: Gaussian) -> list[float]:
    """Distances to the other set without each part, by the other set's root, which does not change."""
    if not parts:
        return []
    root = _root(other)
    return [_distance(without(full, part), other, root) for part in parts]


def _how(no_reals: list[float], no_fakes: list[float]) -> str:
    counted = [f"{len(v)} folds of the {name}" for name, v in (("reals", no_reals), ("fakes", no_fakes)) if v]
    return f"{' and '.join(counted)} left out in turn" if counted else "two Gaussians: no error without features"
