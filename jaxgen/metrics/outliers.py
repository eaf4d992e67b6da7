"""Outliers: what a model of the ordinary reconstructs badly."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from sklearn.metrics import roc_auc_score

from jaxgen.losses.likelihood import total
from jaxgen.metrics.pieces import in_pieces
from jaxgen.metrics.quality import reconstruction_error
from jaxgen.types import Model, TrainState, Tree, check


class Auroc(NamedTuple):
    """value     P(an outlier's score > an inlier's) + P(equal) / 2: 0.5 says nothing, 1 separates them
    error     its standard error
    outliers, inliers   how many there were
    """

    value: float
    error: float
    outliers: int
    inliers: int


def outlier_scores(
    model: Model,
    state: TrainState,
    x: Any,
    *,
    relative: bool = False,
    condition: Tree = None,
    batch: int = 128,
    **options,
) -> np.ndarray:
    """||x - x_hat||^2, [N]: an encoder that never saw a thing has no code for it (Japkowicz, Myers and Gluck 1995).
    The higher, the less ordinary. Arguments as in `quality.reconstruction_error`.

    Little ink leaves little to get wrong: an unknown class of simple images can score below the ordinary ones.
    relative: divided by ||x - black||^2, which makes up for that where the background is black.
    """
    error = reconstruction_error(model, state, x, condition=condition, batch=batch, **options)
    if not relative:
        return error
    ink = in_pieces(lambda given: total(jnp.square(given.x + 1.0)), x)
    return error / np.maximum(ink, 1.0)  # 1: a grey pixel, of an image that is all but black


def auroc(scores: Any, is_outlier: Any) -> Auroc:
    """The area A under the curve of true over false alarms, of scores [N] and booleans [N]: the Mann-Whitney statistic.

    error^2 = (A (1 - A) + (n - 1)(Q_1 - A^2) + (m - 1)(Q_2 - A^2)) / (n m) for n outliers and m inliers,
    Q_1 = A / (2 - A), Q_2 = 2 A^2 / (1 + A) (Hanley and McNeil 1982, eq. 1 and 2; exact for exponential scores).
    InputError where only one kind is there, and for scores that are not finite.
    """
    scores, is_outlier = np.asarray(scores, np.float64), np.asarray(is_outlier, bool)
    check(
        scores.ndim == 1 and scores.shape == is_outlier.shape,
        f"give one score and one truth an example, not {scores.shape} and {is_outlier.shape}",
    )
    check(bool(np.isfinite(scores).all()), "a score is not finite: the model's reconstructions have diverged")
    n, m = int(is_outlier.sum()), int((~is_outlier).sum())
    check(n > 0 and m > 0, f"{n} outliers among {n + m} examples: both kinds are needed to tell them apart")
    a = float(roc_auc_score(is_outlier, scores))
    q1, q2 = a / (2.0 - a), 2.0 * a**2 / (1.0 + a)
    variance = (a * (1.0 - a) + (n - 1) * (q1 - a**2) + (m - 1) * (q2 - a**2)) / (n * m)
    return Auroc(a, math.sqrt(max(variance, 0.0)), n, m)
