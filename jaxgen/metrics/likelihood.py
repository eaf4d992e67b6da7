"""-log p(x) of held-out data by a model's own density, in nats and in bits per dimension."""

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
from jaxgen.metrics.estimate import Estimate, mean_of, scaled
from jaxgen.types import Array, Batch, Density, Model, TrainState, Tree, check, weights

SAMPLES = {"weights": 5000, "exact": 1, "unbiased": 1, "bound": 1}  # an image, by default: only weights need many


class Likelihood(NamedTuple):
    """Means over `images` held-out images with `samples` draws of each; nats an image, and bits = nll / (D log 2).

    nll    of a density by weights: -log 1/k sum_i p(x, z_i) / q(z_i | x), which falls towards -log p(x) as k grows;
           of an exact or unbiased one: -log p(x); of a bound: the mean of an upper bound on -log p(x)
    elbo   by weights: the same bound at k = 1, averaged over all draws; else None
    kind   of the model's density: "weights", "exact", "unbiased" or "bound"
    """

    nll: Estimate
    elbo: Estimate | None
    bits: Estimate
    kind: str
    samples: int
    images: int


def likelihood(
    model: Model,
    state: TrainState,
    data: Dataset,
    *,
    samples: int | None = None,
    images: int | None = None,
    seed: int = 0,
    ema: bool = True,
) -> Likelihood:
    """-log p(x) over the first `images` of `data`, by default all: the importance-weighted bound (Burda et al. 2015,
    arXiv:1509.00519, eq. 8) of a model whose density is given by weights, the plain mean of others.

    samples: draws an image, by default `SAMPLES`. The standard errors are over images. Two models are evaluated on the
    same ones, so compare them by `paired`.
    All draws of an image are made in one compiled call, in pieces; the result does not depend on the pieces but for
    rounding. InputError for a model without a density, and for data that its density is not meant for.
    """
    density = _density(model)
    samples = SAMPLES[density.kind] if samples is None else samples
    nll, elbo = _of_images(model, state, data, samples, images, seed, ema)
    what = {"weights": "importance samples an image", "exact": "evaluations an image"}
    draws = what.get(density.kind, "draws an image")
    how = f"{samples} {draws} of {density.measure}; error over {len(nll)} images, which models share"
    mean = mean_of(nll, how)
    bits = scaled(mean, 1.0 / (math.prod(data.shape) * math.log(2.0)))._replace(how=f"{how}, bits per dimension")
    by_weights = mean_of(elbo, how) if density.kind == "weights" else None
    return Likelihood(mean, by_weights, bits, density.kind, samples, len(nll))


def paired(
    one: tuple[Model, TrainState],
    other: tuple[Model, TrainState],
    data: Dataset,
    *,
    samples: int | None = None,
    images: int | None = None,
    seed: int = 0,
    ema: bool = True,
) -> Estimate:
    """nll of `one` minus nll of `other`, nats, the mean over the images that both are evaluated on. Its error is that
    of the differences: what makes an image unlikely under both cancels. Arguments as in `likelihood`."""
    nll = [_of_images(model, state, data, samples, images, seed, ema)[0] for model, state in (one, other)]
    return mean_of(nll[0].astype(np.float64) - nll[1], f"paired difference over {len(nll[0])} images, nats")


def _density(model: Model) -> Density:
    check(model.density is not None, "this model has no density and no bound on it: it only draws samples")
    return model.density  # type: ignore[return-value]


def _of_images(
    model: Model, state: TrainState, data: Dataset, samples: int | None, images: int | None, seed: int, ema: bool
) -> tuple[np.ndarray, np.ndarray]:
    """(nll, minus the mean of log p) of each image, [n] each."""
    density = _density(model)
    samples = SAMPLES[density.kind] if samples is None else samples
    check(samples >= 1, f"at least one sample an image is needed, there are {samples}")
    n = data.size if images is None else images
    check(1 <= n <= data.size, f"{n} images: {data.name} has 1 to {data.size} in its {data.split} split")
    piece = math.gcd(samples, 100) if samples > 100 else samples
    size = min(n, max(1, density.draws // piece))
    parts = []
    for start in range(0, n, size):
        index = np.minimum(np.arange(start, start + size), n - 1)  # the last image again: one shape for every call
        batch = data.take(index)
        model.game.check(batch)
        density.check(batch)
        # Differences of tenths of a nat are read off these numbers: products are not rounded to TF32 or bfloat16.
        with jax.default_matmul_precision("highest"):
            found = _bounds(
                density.log_p,
                piece,
                *weights(state, ema),
                jax.random.key(seed),
                jnp.asarray(index),
                batch,
                samples // piece,
            )
        parts.append([np.asarray(values)[: n - start] for values in found])
    nll, mean = (np.concatenate(each) for each in zip(*parts, strict=True))
    return nll if density.kind == "weights" else mean, mean


@partial(jax.jit, static_argnums=(0, 1))
def _bounds(
    log_p_of: Any, piece: int, params: Tree, extra: Tree, key: Array, index: Array, batch: Batch, pieces: Array
) -> tuple[Array, Array]:
    """(-log mean exp log p, -mean log p) [B] of `pieces` times `piece` draws; image i draws from (key, i)."""
    batch = normalize(batch)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, index)

    def body(i: Array, carry: tuple) -> tuple:
        log_sum, total = carry
        own = jax.vmap(jax.random.fold_in, (0, None))(keys, i)
        log_p = log_p_of(params, extra, own, batch, piece)
        return jnp.logaddexp(log_sum, log_mean_exp(log_p)), total + jnp.mean(log_p, axis=1)

    start = jnp.full(index.shape, -jnp.inf), jnp.zeros(index.shape)
    log_sum, total = jax.lax.fori_loop(0, pieces, body, start)
    return jnp.log(jnp.asarray(pieces, jnp.float32)) - log_sum, -total / pieces
