"""Class coverage: which classes the generated samples reach, and in what shares, as a classifier predicts them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from jaxgen.metrics.estimate import PIECE, Estimate, pieces, share_of
from jaxgen.metrics.inception_score import as_log_probs
from jaxgen.types import check

DRAWS = 1000  # of the bootstrap


class Classes(NamedTuple):
    """reached     number of classes whose share of the fakes is at least a tenth of their share of the reals
    kl          KL(class shares of the fakes || of the reals), nats, 0 where they are the same
    confident   share of the fakes whose likeliest class has a probability over 0.9
    """

    reached: Estimate
    kl: Estimate
    confident: Estimate


def class_coverage(reals: Any, fakes: Any, *, reached: float = 0.1, confident: float = 0.9, seed: int = 0) -> Classes:
    """Class coverage from log p(y | x), [N, K] of the reals and [M, K] of the fakes; a sample's class is its likeliest.

    The number of modes and the KL are those of Srivastava et al. 2017 (arXiv:1705.07761, section 4), who count a class
    that a single sample reaches, whatever M is: a threshold of `reached` times the real share does not depend on M.
    Classes without a real image do not count. KL = sum_y q_y log(q_y / p_y), p_y = (n_y + 1/2) / (N + K / 2) so that it
    is finite (Krichevsky and Trofimov 1981); of equal shares it is about (K - 1) / 2 (1 / M + 1 / N).
    Errors: the deviation over 1,000 draws with replacement from both sets' classes (Efron 1979), by `seed`; of the
    confident share the binomial one.
    """
    reals, fakes = as_log_probs(reals, "reals"), as_log_probs(fakes, "fakes")
    k = reals.shape[1]
    check(
        fakes.shape[1] == k, f"the reals have {k} classes and the fakes {fakes.shape[1]}: take both from one extractor"
    )
    check(0.0 < reached <= 1.0 and 0.0 < confident < 1.0, f"reached {reached} and confident {confident} are shares")
    n, m = (np.bincount(each.argmax(axis=1), minlength=k) for each in (reals, fakes))
    rng = np.random.default_rng((seed, 3))
    draws = [rng.multinomial(each.sum(), each / each.sum(), DRAWS) for each in (n, m)]
    found = _reached(n, m, reached), _kl(n, m)
    errors = [float(np.std(f)) for f in (_reached(draws[0], draws[1], reached), _kl(draws[0], draws[1]))]
    how = f"{DRAWS} draws with replacement from {len(reals)} reals and {len(fakes)} fakes"
    of = f"of {int(np.sum(n > 0))} classes, {reached:g} of their share or more; {how}"
    sure = [np.exp(fakes[p].astype(np.float64).max(axis=1)) > confident for p in pieces(len(fakes), PIECE)]
    return Classes(
        Estimate(float(found[0]), errors[0], of),
        Estimate(float(found[1]), errors[1], how),
        share_of(np.concatenate(sure), f"fakes, probability over {confident:g}"),
    )


def _reached(reals: np.ndarray, fakes: np.ndarray, share: float) -> np.ndarray:
    """Of counts [..., K]: the number of classes reached, [...]."""
    p, q = (each / each.sum(axis=-1, keepdims=True) for each in (reals, fakes))
    return np.sum((reals > 0) & (q >= share * p), axis=-1)


def _kl(reals: np.ndarray, fakes: np.ndarray) -> np.ndarray:
    """Of counts [..., K], nats [...]."""
    k = reals.shape[-1]
    p = (reals + 0.5) / (reals.sum(axis=-1, keepdims=True) + 0.5 * k)
    q = fakes / fakes.sum(axis=-1, keepdims=True)
    return np.sum(q * np.log(np.where(q > 0.0, q, 1.0) / p), axis=-1)
