"""Inversion: the latent whose image is nearest to a given one, found by descent."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.tree_util import Partial

from jaxgen.conditions import rows
from jaxgen.losses.likelihood import total
from jaxgen.losses.perceptual import Distance
from jaxgen.sampling.sample import conditions, image_shape
from jaxgen.types import Array, Model, TrainState, check, weights


class Inverted(NamedTuple):
    """latents [B, ...], the images [B, H, W, C] that they give, and their distances [B] from those wanted."""

    latents: Array
    images: Array
    distances: Array


def squares(x: Array, y: Array) -> Array:
    """The mean squared difference of pixels, [B]."""
    return total(jnp.square(x - y)) / x[0].size


def invert(
    model: Model,
    state: TrainState,
    x: Array,
    *,
    steps: int = 500,
    rate: float = 0.1,
    tries: int = 32,
    distance: Distance = squares,
    key: Array | None = None,
    condition: Any = None,
    ema: bool = True,
    batch: int = 64,
) -> Inverted:
    """argmin_z d(G(z), x) for each image x [B, H, W, C] in [-1, 1], by Adam from the nearest of `tries` samples: of any
    model with floating latents, in z, or in w by `in_codes(model)` (Zhu et al. 2016, arXiv:1609.03552, eq. 4; Karras et
    al. 2019, arXiv:1912.04958, section 5 and appendix D, whose rate this is: it rises over the first twentieth of the
    steps and falls by a cosine over the last quarter).

    distance: `squares`, or a perceptual one such as `metrics.lpips.lpips`; of several, a function that adds them.
    condition: one for all, or [B]. A model that iterates is differentiated through its sampler: slow, and in memory as
    many steps as it takes. Noise inputs are those of the samples and stay. Another number of steps or another rate
    compiles nothing. InputError for integer latents and images of another shape.
    """
    check(steps >= 1 and tries >= 1 and rate > 0, f"{steps} steps, {tries} tries and a rate of {rate} must be positive")
    check(x.ndim >= 2 and len(x) >= 1, f"images to invert are an array [B, H, W, C], not one of shape {x.shape}")
    needed = image_shape(model, state)
    check(x.shape[1:] == needed, f"this model's images have the shape {needed}, these have {x.shape[1:]}")
    x, n, size = jnp.asarray(x), len(x), min(batch, len(x))
    functions, how = _Functions(model.prior, model.predict, model.decode), _traced(distance)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0) if key is None else key, jnp.arange(n))
    inputs, numbers = (keys, x, conditions(model, n, condition)), (np.int32(tries), np.int32(steps), np.float32(rate))
    pieces = []
    for start in range(0, n, size):
        index = np.minimum(np.arange(start, start + size), n - 1)  # the last again: one shape for every call
        own = rows(inputs, index)
        pieces.append(_invert(functions, model.sampler, how, *weights(state, ema), *own, *numbers))
    return Inverted(*(jnp.concatenate(parts)[:n] for parts in zip(*pieces, strict=True)))


class _Functions(NamedTuple):
    """What a compiled inversion is of: static, compared by identity."""

    prior: Any
    predict: Any
    decode: Any


def _traced(distance: Distance) -> Partial:
    """A pytree, so that the weights of a network in it are arguments of what is compiled."""
    return distance if isinstance(distance, Partial) else Partial(distance)


@partial(jax.jit, static_argnums=0)
def _invert(functions, sampler, distance, params, extra, keys, x, condition, tries, steps, rate) -> Inverted:
    predict = functions.predict(params, extra, condition)

    def image(z: Array) -> Array:
        return functions.decode(params, extra, keys, sampler(keys, predict, z), condition)

    def drawn(i: Array | int) -> Array:
        return functions.prior(params, extra, jax.vmap(jax.random.fold_in, (0, None))(keys, i), condition)

    def better(best: tuple[Array, Array], z: Array, d: Array) -> tuple[Array, Array]:
        closer = (d < best[1]).reshape(-1, *(1,) * (z.ndim - 1))
        return jnp.where(closer, z, best[0]), jnp.minimum(d, best[1])

    z = drawn(0)
    check(jnp.issubdtype(z.dtype, jnp.floating), f"this model's latents are integers ({z.dtype}): no descent in them")

    def try_(i: Array, best: tuple[Array, Array]) -> tuple[Array, Array]:
        z = drawn(i)
        return better(best, z, distance(image(z), x))

    def loss(z: Array) -> tuple[Array, Array]:
        d = distance(image(z), x)
        return jnp.sum(d), d

    adam = optax.scale_by_adam()

    def descend(i: Array, carry: tuple) -> tuple:
        z, state, best = carry
        (_, d), slope = jax.value_and_grad(loss, has_aux=True)(z)
        step, state = adam.update(slope, state)
        return z - rate * _ramp(i / steps) * step, state, better(best, z, d)

    best = jax.lax.fori_loop(0, tries, try_, (z, jnp.full(x.shape[:1], jnp.inf)))
    last, _, best = jax.lax.fori_loop(0, steps, descend, (best[0], adam.init(z), best))
    z, d = better(best, last, distance(image(last), x))
    return Inverted(z, image(z), d)


def _ramp(s: Array) -> Array:
    """The rate's factor at the share s of the steps: up over the first 1/20, down by a cosine over the last 1/4."""
    down = 0.5 - 0.5 * jnp.cos(jnp.pi * jnp.minimum(1.0, (1.0 - s) / 0.25))
    return down * jnp.minimum(1.0, s / 0.05)
