"""Outlier detection by reconstruction error."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxgen.losses.likelihood import total
from jaxgen.metrics.estimate import Estimate
from jaxgen.metrics.pieces import in_pieces
from jaxgen.metrics.quality import reconstruction_error
from jaxgen.types import Model, TrainState, Tree, check


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
    """||x - x_hat||^2, [N]: a model reconstructs badly what its training data did not hold (Japkowicz, Myers and Gluck
    1995). The higher, the more outlying. Arguments as in `quality.reconstruction_error`.

    Images of few bright pixels have small errors: an unknown class of simple images can score below the inliers.
    relative: divided by ||x - black||^2, which corrects for that where the background is black.
    """
    error = reconstruction_error(model, state, x, condition=condition, batch=batch, **options)
    if not relative:
        return error
    ink = in_pieces(lambda given: total(jnp.square(given.x + 1.0)), x)
    return error / np.maximum(ink, 1.0)  # 1: one grey pixel, for images that are nearly black


def auroc(scores: Any, is_outlier: Any) -> Estimate:
    """The area A under the ROC curve, of scores [N] and booleans [N]: P(an outlier's score > an inlier's) +
    P(equal) / 2, 0.5 for chance, 1 for perfect separation.

    error^2 = (A (1 - A) + (n - 1)(Q_1 - A^2) + (m - 1)(Q_2 - A^2)) / (n m) for n outliers and m inliers,
    Q_1 = A / (2 - A), Q_2 = 2 A^2 / (1 + A) (Hanley and McNeil 1982, eq. 1 and 2; exact for exponential scores).
    InputError where only one kind is present, and for scores that are not finite.
    """
    from sklearn.metrics import roc_auc_score  # half a second to import

    scores, is_outlier = np.asarray(scores, np.float64), np.asarray(is_outlier, bool)
    check(
        scores.ndim == 1 and scores.shape == is_outlier.shape,
        f"give one score and one truth an example, not {scores.shape} and {is_outlier.shape}",
    )
    check(bool(np.isfinite(scores).all()), "a score is not finite: the model's reconstructions have diverged")
    n, m = int(is_outlier.sum()), int((~is_outlier).sum())
    check(n > 0 and m > 0, f"{n} outliers among {n + m} examples: both kinds are needed")
    a = float(roc_auc_score(is_outlier, scores))
    q1, q2 = a / (2.0 - a), 2.0 * a**2 / (1.0 + a)
    variance = (a * (1.0 - a) + (n - 1) * (q1 - a**2) + (m - 1) * (q2 - a**2)) / (n * m)
    return Estimate(a, math.sqrt(max(variance, 0.0)), f"{n} outliers and {m} inliers, Hanley and McNeil")
