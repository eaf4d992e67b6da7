"""-log p(x) of held-out data by importance sampling, in nats and in bits per dimension."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.data import Dataset
from jaxgen.data.pipeline import normalize
from jaxgen.losses.evidence import log_mean_exp
from jaxgen.sampling import weights
from jaxgen.types import Array, Batch, Model, TrainState, Tree, check

DRAWS = 5000  # latents that one compiled call holds at once, about: images times draws of each


class Likelihood(NamedTuple):
    """Means over `images` held-out images, nats an image and their standard errors; bits: nll / (D log 2).

    nll     -log 1/k sum_i p(x, z_i) / q(z_i | x), which falls towards -log p(x) as `samples` = k grows
    elbo    the same at k = 1, averaged over all draws
    """

    nll: float
    nll_error: float
    elbo: float
    elbo_error: float
    bits: float
    samples: int
    images: int


def likelihood(
    model: Model,
    state: TrainState,
    data: Dataset,
    *,
    samples: int = 5000,
    images: int | None = None,
    seed: int = 0,
    ema: bool = True,
) -> Likelihood:
    """The importance-weighted bound (Burda et al. 2015, arXiv:1509.00519, eq. 8) over the first `images` of `data`.

    All draws of an image are made in one compiled call, in pieces; the result does not depend on how they are cut but
    for rounding. Raises InputError for a model without such a bound, and for data whose pixels it cannot say the
    likelihood of.
    """
    check(model.log_weights is not None, "this model has no bound on its likelihood: it only draws samples")
    check(samples >= 1, f"at least one sample an image is needed, there are {samples}")
    n = data.size if images is None else images
    check(1 <= n <= data.size, f"{n} images: {data.name} has 1 to {data.size} in its {data.split} split")
    params, extra = weights(state, ema)
    piece = math.gcd(samples, 100) if samples > 100 else samples
    size = min(n, max(1, DRAWS // piece))
    nll, bound = [], []
    for start in range(0, n, size):
        index = np.minimum(np.arange(start, start + size), n - 1)  # the last image again: one shape for every call
        batch = data.take(index)
        model.check(batch)
        model.check_weights(batch)
        got = _bounds(
            model.log_weights, piece, params, extra, jax.random.key(seed), jnp.asarray(index), batch, samples // piece
        )
        for values, kept in zip(got, (nll, bound), strict=True):
            kept.append(np.asarray(values)[: n - start])
    return _summary(np.concatenate(nll), np.concatenate(bound), samples, math.prod(data.shape))


@partial(jax.jit, static_argnums=(0, 1))
def _bounds(
    log_weights: Any, piece: int, params: Tree, extra: Tree, key: Array, index: Array, batch: Batch, pieces: Array
) -> tuple[Array, Array]:
    """(-log mean w, -mean log w) [B] of `pieces` times `piece` draws; image i draws from (key, i)."""
    batch = normalize(batch)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, index)

    def body(i: Array, carry: tuple) -> tuple:
        log_sum, total = carry
        own = jax.vmap(jax.random.fold_in, (0, None))(keys, i)
        log_w = log_weights(params, extra, own, batch, piece)
        return jnp.logaddexp(log_sum, log_mean_exp(log_w)), total + jnp.mean(log_w, axis=1)

    start = jnp.full(index.shape, -jnp.inf), jnp.zeros(index.shape)
    log_sum, total = jax.lax.fori_loop(0, pieces, body, start)
    return jnp.log(jnp.asarray(pieces, jnp.float32)) - log_sum, -total / pieces


def _summary(nll: np.ndarray, bound: np.ndarray, samples: int, dims: int) -> Likelihood:
    def error(values: np.ndarray) -> float:
        return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else float("nan")

    mean = float(nll.astype(np.float64).mean())
    return Likelihood(
        mean,
        error(nll),
        float(bound.astype(np.float64).mean()),
        error(bound),
        mean / (dims * math.log(2.0)),
        samples,
        len(nll),
    )
