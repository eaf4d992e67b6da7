"""Inception Score: how confident a classifier is of each sample, and how uniform its predictions are overall."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np

from jaxgen.metrics.estimate import Estimate, deal, jackknife, mean_of, pieces
from jaxgen.types import check

FOLDS = 10  # of a single split, whose error is the jackknife's
SLACK = 1e-3  # of probabilities' sum, which is 1: float32 and half precision


def inception_score(log_probs: Any, *, splits: int = 10, seed: int | None = None) -> Estimate:
    """exp(mean over x of KL(p(y|x) || p(y))), 1 to K, p(y) the mean of p(y|x), of log_probs [N, K]: the mean over
    `splits` equal runs of samples (Salimans et al. 2016, arXiv:1606.03498, section 4).

    The splits are in the order given, as published, or shuffled by `seed`. They share no sample, so the error of their
    mean is their deviation over the root of their number; the published +- is the deviation, and stands in `how`. Few
    samples lower the score, so fewer, larger splits raise it (Barratt and Sharma 2018, arXiv:1801.01973, section 4.1);
    with one split the error is that of leaving out a tenth of the samples in turn.
    InputError for fewer than two samples a split, and for rows that are no log-probabilities.
    """
    log_probs = as_log_probs(log_probs, "samples", least=4)
    n = len(log_probs)
    check(1 <= splits <= n // 2, f"{splits} splits of {n} samples: give 1 to {n // 2}")
    if splits == 1:
        fold = deal(n, min(FOLDS, n // 2), (0 if seed is None else seed, 0))
        parts = [_sums(log_probs, np.flatnonzero(fold == f)) for f in range(fold.max() + 1)]
        total = np.sum(parts, axis=0)
        left_out = [_score(total - part) for part in parts]
        return Estimate(_score(total), jackknife(left_out), f"1 split of {n}; {len(parts)} folds left out in turn")
    order = np.arange(n) if seed is None else np.random.default_rng(seed).permutation(n)
    edges = np.arange(splits + 1) * n // splits
    scores = [_score(_sums(log_probs, order[a:b])) for a, b in pairwise(edges)]
    return mean_of(scores, f"{splits} splits of {n // splits}, deviation over splits {np.std(scores):.3g}")


def as_log_probs(log_probs: Any, name: str, *, least: int = 2) -> np.ndarray:
    """log p(y | x) [N, K] on the host; -inf, a class of probability zero, is allowed.

    InputError for another shape, fewer than `least` samples, and rows whose probabilities do not sum to 1.
    """
    log_probs = np.asarray(log_probs)
    check(
        log_probs.ndim == 2 and log_probs.shape[-1] >= 2,
        f"the log-probabilities of the {name} are of shape {log_probs.shape}: give [N, K] of at least 2 classes",
    )
    check(len(log_probs) >= least, f"{len(log_probs)} log-probabilities of the {name} are too few: give {least}")
    for piece in pieces(len(log_probs)):
        total = np.exp(log_probs[piece].astype(np.float64)).sum(axis=1)
        row = int(np.argmax(~(np.abs(total - 1.0) < SLACK)))
        check(
            bool(abs(total[row] - 1.0) < SLACK),
            f"row {piece.start + row} of the {name} sums to probability {total[row]:.3g}, not 1: give log-softmax, not"
            " logits or probabilities",
        )
    return log_probs


def _sums(log_probs: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Of the samples at `index`, [2 + K]: their number, the sum of sum_y p log p, and of p(y|x)."""
    plogp, p_sum = 0.0, np.zeros(log_probs.shape[1])
    for piece in pieces(len(index)):
        log_p = log_probs[index[piece]].astype(np.float64)
        p = np.exp(log_p)
        p_sum += p.sum(axis=0)
        plogp += float(np.sum(p * np.where(p > 0.0, log_p, 0.0)))
    return np.concatenate([[len(index), plogp], p_sum])


def _score(sums: np.ndarray) -> float:
    """E KL(p(y|x) || p(y)) = E sum_y p(y|x) log p(y|x) - sum_y p(y) log p(y)."""
    plogp, *p_sum = sums[1:] / sums[0]
    p = np.maximum(p_sum, 0.0)
    return math.exp(max(plogp - float(np.sum(p * np.log(np.where(p > 0.0, p, 1.0)))), 0.0))
