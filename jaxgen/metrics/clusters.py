"""Clusters of an unsupervised model's codes, compared with classes that it was trained without."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from jaxgen.metrics.estimate import Estimate, proportion
from jaxgen.metrics.pieces import in_pieces
from jaxgen.sampling import encode
from jaxgen.types import Model, TrainState, Tree, check


class Agreement(NamedTuple):
    """Of clusters with classes, 1 where they are the same.

    accuracy   share of examples whose cluster is matched with their class, under the best one-to-one matching
               (Kuhn 1955)
    nmi        mutual information over the mean of both entropies (Strehl and Ghosh 2002)
    ari        adjusted Rand index, 0 for clusters drawn at random (Hubert and Arabie 1985)
    """

    accuracy: Estimate
    nmi: float
    ari: float


class Clusters(NamedTuple):
    """Agreement of k clusters of the codes, and of the pixels as a baseline, with the classes of so many images."""

    codes: Agreement
    pixels: Agreement
    k: int
    images: int


def clusters(
    model: Model,
    state: TrainState,
    x: Any,
    labels: Any,
    *,
    k: int | None = None,
    condition: Tree = None,
    seed: int = 0,
    batch: int = 128,
    ema: bool = True,
) -> Clusters:
    """k-means of the codes of x [N, ...] against labels [N], beside k-means of the pixels.

    k: by default the number of classes among the labels; condition: of the encoder, [N, ...].
    InputError for a model without an encoder, and for more clusters than images.
    """
    k = len(np.unique(labels)) if k is None else k
    check(1 <= k <= len(x), f"{k} clusters of {len(x)} images: give at least 1, and not more than images")
    z = codes(model, state, x, condition=condition, batch=batch, ema=ema)
    pixels = np.asarray(x, np.float32).reshape(len(x), -1)
    both = [agreement(k_means(points, k, seed), labels) for points in (z, pixels)]
    return Clusters(both[0], both[1], k, len(x))


def codes(
    model: Model, state: TrainState, x: Any, *, condition: Tree = None, batch: int = 128, ema: bool = True
) -> np.ndarray:
    """`sampling.encode` of x [N, ...], as a data set gives it or in [-1, 1], `batch` at a time, flat: [N, D]."""
    z = in_pieces(lambda b: encode(model, state, b.x, condition=b.condition, ema=ema, batch=batch), x, condition)
    return z.reshape(len(z), -1)


def principal(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(points [N, 2], shares [2] of the variance) of codes [N, D]: those of two dimensions as they are, others on their
    first two principal components (Pearson 1901). InputError for codes of one dimension."""
    check(z.shape[1] >= 2, "a code of one dimension is no point in the plane: save the codes as arrays (.npz)")
    centred = z - z.mean(0)
    variance = centred.var(0)
    if z.shape[1] == 2:
        return z, variance / max(variance.sum(), 1e-30)
    values, vectors = np.linalg.eigh(centred.T @ centred / len(z))
    return centred @ vectors[:, :-3:-1], values[:-3:-1] / max(values.sum(), 1e-30)


def k_means(points: np.ndarray, k: int, seed: int = 0) -> np.ndarray:
    """The cluster [N], 0 to k - 1, of each of points [N, D]: the best of ten k-means++ starts (Lloyd 1982; Arthur and
    Vassilvitskii 2007)."""
    from sklearn.cluster import KMeans  # half a second to import

    return KMeans(k, n_init=10, random_state=seed).fit_predict(points)  # type: ignore[arg-type]


def agreement(found: Any, labels: Any) -> Agreement:
    """Of clusters [N] with labels [N], whatever the clusters' numbers."""
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
    from sklearn.metrics.cluster import contingency_matrix

    found, labels = np.asarray(found), np.asarray(labels)
    check(
        found.shape == labels.shape and found.ndim == 1 and found.size > 0,
        f"give one cluster and one label an example, not {found.shape} and {labels.shape}",
    )
    counts = np.asarray(contingency_matrix(labels, found))
    rows, columns = linear_sum_assignment(counts, maximize=True)
    share = float(counts[rows, columns].sum() / found.size)
    nmi, ari = normalized_mutual_info_score(labels, found), adjusted_rand_score(labels, found)
    return Agreement(proportion(share, found.size, "images"), float(nmi), float(ari))
