"""Linear probe: the accuracy of a linear classifier of codes."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from jaxgen.metrics.classifier import SMALLEST
from jaxgen.metrics.estimate import Estimate, as_features, check_width, share_of
from jaxgen.types import check


def linear_probe(
    train_codes: Any,
    train_labels: Any,
    test_codes: Any,
    test_labels: Any,
    *,
    penalty: float = 1.0,
    iterations: int = 1000,
) -> Estimate:
    """Share of the test codes [M, D] that a linear softmax regression on the training codes [N, D] classifies rightly
    (Alain and Bengio 2016, arXiv:1610.01644, section 3).

    It minimises sum -log p(y | z) + penalty ||W||^2 / 2 by L-BFGS over codes standardised by the training ones; a
    dimension of small variance is not scaled up (`classifier.SMALLEST`). Labels: integers [N], [M]. The error is
    binomial: it covers the draw of the test set, not of the training set. InputError for labels of another shape and
    for one class only.
    """
    from sklearn.exceptions import ConvergenceWarning  # half a second to import
    from sklearn.linear_model import LogisticRegression

    train, test = as_features(train_codes, "training set"), as_features(test_codes, "test set", least=1)
    check_width(train.shape[1], test.shape[1])
    check(penalty > 0.0 and iterations >= 1, f"penalty {penalty} and iterations {iterations} must be positive")
    y, truth = _labels(train_labels, len(train), "training"), _labels(test_labels, len(test), "test")
    check(len(np.unique(y)) >= 2, "all training labels are the same: a classifier needs two classes")
    mean, std = train.mean(axis=0, dtype=np.float64), train.std(axis=0, dtype=np.float64)
    std = np.maximum(std, SMALLEST * std.max(initial=1e-6))
    model = LogisticRegression(C=1.0 / penalty, max_iter=iterations)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # stated by the estimate
        model.fit(np.asarray((train - mean) / std, np.float32), y)
    hits = model.predict(np.asarray((test - mean) / std, np.float32)) == truth
    stopped = f", stopped after {iterations} iterations" if int(np.max(model.n_iter_)) >= iterations else ""
    found = share_of(hits, "test codes")
    return found._replace(how=f"softmax regression on {len(train)} codes{stopped}; {found.how}")


def _labels(labels: Any, n: int, name: str) -> np.ndarray:
    labels = np.asarray(labels)
    check(
        labels.shape == (n,) and np.issubdtype(labels.dtype, np.integer),
        f"the {name} labels are {labels.dtype} of shape {labels.shape}: give one integer for each of {n} codes",
    )
    return labels
