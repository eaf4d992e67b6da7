"""What a model takes pixels to be: models made from models, for data that the likelihood does not fit as they are."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxgen.types import Array, Batch, Keys, Model, Tree, check


def dynamically_binarised(model: Model) -> Model:
    """Trains `model` on images that are binarised anew at every use: y ~ Bernoulli((x + 1) / 2), pixel by pixel
    (Burda et al. 2015, arXiv:1509.00519, section 5.1), x = 2 y - 1.

    Only the losses draw. `log_weights` takes images as they are and refuses grey ones: a likelihood is one of a test
    set that was binarised once (`data.load("binary_mnist", "test")`).
    """

    def binarise(key: Array, x: Array) -> Array:
        return 2.0 * jax.random.bernoulli(key, (x + 1.0) / 2.0).astype(jnp.float32) - 1.0

    return model._replace(losses=_seen(model, binarise))


def dequantised(model: Model, levels: int = 256) -> Model:
    """Makes a density of x in [-1, 1] a probability of pixels on `levels` values: P(x) = int p(x + u) du over u in the
    pixel's cell, width d = 2 / (levels - 1). Losses see x + u, u uniform, so that they bound -log P(x) up to the
    constant D log d (Theis et al. 2015, arXiv:1511.01844, section 3.1); `log_weights` includes it:
    log w + D log d, whose exponential's mean is P(x).
    """
    check(levels >= 2, f"dequantisation needs at least 2 levels, there are {levels}")
    width = 2.0 / (levels - 1)

    def blur(key: Array, x: Array) -> Array:
        return x + jax.random.uniform(key, x.shape, minval=-width / 2, maxval=width / 2)

    def log_weights(params: Tree, extra: Tree, keys: Keys, batch: Batch, k: int) -> Array:
        def one(i: Array) -> Array:  # its own u for every z: both are latents of the bound
            own = jax.vmap(jax.random.fold_in, (0, None))(keys, i)
            for_u, for_z = _two(own)
            blurred = batch._replace(x=jax.vmap(blur)(for_u, batch.x))
            return model.log_weights(params, extra, for_z, blurred, 1)[:, 0]  # type: ignore[misc]

        return jax.lax.map(one, jnp.arange(k)).T + math.prod(batch.x.shape[1:]) * math.log(width)

    return model._replace(
        losses=_seen(model, blur),
        log_weights=log_weights if model.log_weights else None,
        measure=f"a probability of pixels on {levels} levels, by uniform dequantisation",
    )


def _seen(model: Model, change: Callable[[Array, Array], Array]) -> dict:
    """The model's losses of images changed by `change(key, x)`, example by example."""

    def seen(loss: Callable) -> Callable:
        def changed(params: Tree, extra: Tree, keys: Keys, batch: Batch) -> tuple:
            for_x, for_loss = _two(keys)
            return loss(params, extra, for_loss, batch._replace(x=jax.vmap(change)(for_x, batch.x)))

        return changed

    return {player: seen(loss) for player, loss in model.losses.items()}


def _two(keys: Keys) -> tuple[Keys, Keys]:
    pair = jax.vmap(jax.random.split)(keys)
    return pair[:, 0], pair[:, 1]
