"""Kernel distance (KID): the maximum mean discrepancy of features, unbiased at any number of samples."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.metrics.estimate import Estimate, as_pair, deal, jackknife
from jaxgen.types import Array, check

FOLDS = 10
LEAST = 10  # features of each set, so that every fold can be left out


def kid(reals: Any, fakes: Any, *, subsets: int = 100, size: int = 1000, seed: int = 0) -> Estimate:
    """MMD^2 of features [N, D] and [M, D], the mean over random subsets of `size` of each (of all, if fewer).

    MMD^2 = sum_{i != j} k(x_i, x_j) / (n (n - 1)) + the same of y - 2 sum_ij k(x_i, y_j) / n^2,
    k(x, y) = (x . y / D + 1)^3 (Binkowski et al. 2018, arXiv:1801.01401, section 4): unbiased, so it may be negative.
    The published +- is the deviation over subsets, which reflects the size of a subset, not the error of the mean; it
    is given in `how`. Subsets overlap, so the error is that of leaving out a tenth of the reals and of the fakes in
    turn from all of them (`estimate.jackknife`). The kernel is float32 at full precision on any device; its sums, which
    nearly cancel, are float64. InputError for fewer than 10 features or a smaller size.
    """
    reals, fakes = as_pair(reals, fakes, least=LEAST)
    check(subsets >= 1 and size >= LEAST, f"{subsets} subsets of {size}: give at least 1 of at least {LEAST}")
    rng = np.random.default_rng((seed, 2))
    size = min(size, len(reals), len(fakes))
    subsets = 1 if size == len(reals) == len(fakes) else subsets  # all subsets would be equal
    folds = [deal(len(features), FOLDS, (seed, i)) for i, features in enumerate((reals, fakes))]
    found = []
    for _ in range(subsets):
        index = [rng.choice(len(features), size, replace=False) for features in (reals, fakes)]
        x, y = (jnp.asarray(features[i], jnp.float32) for features, i in zip((reals, fakes), index, strict=True))
        found.append(_values(x, y, *(np.eye(FOLDS)[fold[i]] for fold, i in zip(folds, index, strict=True))))
    values, no_reals, no_fakes = (np.stack(each) for each in zip(*found, strict=True))
    spread = f", deviation over subsets {values.std(ddof=1):.3g}" if subsets > 1 else ""
    drawn = f"{subsets} subset{'s' * (subsets > 1)} of {size}{spread}"
    how = f"{drawn}; {FOLDS} folds of the reals and of the fakes left out in turn"
    return Estimate(float(values.mean()), jackknife(no_reals.mean(axis=0), no_fakes.mean(axis=0)), how)


@jax.jit
def _kernel(x: Array, y: Array) -> Array:
    # TF32 or bfloat16 products would move the difference of these means by more than its error
    dot = jnp.matmul(x, y.T, precision=jax.lax.Precision.HIGHEST)
    return (dot / x.shape[1] + 1.0) ** 3


def _values(x: Array, y: Array, fold_x: np.ndarray, fold_y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """MMD^2 [], and without each fold of x and of y, [folds] each; fold: [n, folds], one-hot."""
    keep = [np.concatenate([np.ones((1, FOLDS)), 1.0 - np.eye(FOLDS)])] * 2  # [1 + folds, folds], what is left
    xx, yy = _within(x, fold_x, keep[0]), _within(y, fold_y, keep[1])
    sums = fold_x.T @ np.asarray(_kernel(x, y), np.float64) @ fold_y
    n, m = keep[0] @ fold_x.sum(axis=0), keep[1] @ fold_y.sum(axis=0)
    xy = keep[0] @ sums @ keep[1].T / np.outer(n, m)  # [left out of x, left out of y]
    return xx[0] + yy[0] - 2.0 * xy[0, 0], xx[1:] + yy[0] - 2.0 * xy[1:, 0], xx[0] + yy[1:] - 2.0 * xy[0, 1:]


def _within(x: Array, fold: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """The mean of k over pairs of different x, of all [0] and without each fold [1:]."""
    k = np.array(_kernel(x, x), np.float64)
    np.fill_diagonal(k, 0.0)
    n = keep @ fold.sum(axis=0)
    return np.einsum("af,fg,ag->a", keep, fold.T @ k @ fold, keep) / (n * (n - 1.0))
