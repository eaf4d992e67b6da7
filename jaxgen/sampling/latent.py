"""Walks in the latent space, over `prior`, `predict` and `encode`: the same for every family that has them."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxgen.sampling.sample import conditions, generate, weights
from jaxgen.types import Array, Model, TrainState, check


def slerp(a: Array, b: Array, s: Array) -> Array:
    """sin((1 - s) w) / sin(w) a + sin(s w) / sin(w) b, w the angle between the flattened a and b: [B, ...].

    Stays where a Gaussian's mass is, which a straight line leaves (White 2016, arXiv:1609.04468).
    """
    flat = [v.reshape(v.shape[0], -1) for v in (a, b)]
    norms = [jnp.linalg.norm(v, axis=1) for v in flat]
    cosine = jnp.sum(flat[0] * flat[1], axis=1) / jnp.maximum(norms[0] * norms[1], 1e-12)
    w = jnp.arccos(jnp.clip(cosine, -1.0, 1.0)).reshape((-1,) + (1,) * (a.ndim - 1))
    straight = jnp.sin(w) < 1e-4  # parallel: the arc is the line
    safe = jnp.where(straight, 1.0, jnp.sin(w))
    return jnp.where(straight, lerp(a, b, s), (jnp.sin((1 - s) * w) * a + jnp.sin(s * w) * b) / safe)


def lerp(a: Array, b: Array, s: Array) -> Array:
    """(1 - s) a + s b."""
    return (1 - s) * a + s * b


def interpolate(
    model: Model,
    state: TrainState,
    a: Array,
    b: Array,
    steps: int = 8,
    *,
    path: Any = slerp,
    condition: Any = None,
    **options,
) -> Array:
    """Images along the path from latents a to b: [B, ...] each -> [B, steps, H, W, C], both ends included.

    condition: one for all, or [B]. options: those of `generate`.
    """
    check(steps >= 2, f"an interpolation needs at least 2 steps, it has {steps}")
    check(a.shape == b.shape, f"both ends need one shape, they are {a.shape} and {b.shape}")
    latents = jax.vmap(partial(path, a, b), out_axes=1)(jnp.linspace(0.0, 1.0, steps))
    return _grid(model, state, latents, condition, options)


def traverse(
    model: Model, state: TrainState, latent: Array, dimension: int, values: Array, *, condition: Any = None, **options
) -> Array:
    """Images as one coordinate of the flattened latent runs through `values`: [B, ...] -> [B, len(values), H, W, C]."""
    values = jnp.asarray(values)
    size = latent[0].size
    check(0 <= dimension < size, f"the latent has dimensions 0 to {size - 1}, dimension {dimension} is not among them")
    flat = jnp.repeat(latent.reshape(latent.shape[0], 1, size), len(values), axis=1)
    latents = flat.at[:, :, dimension].set(values).reshape(latent.shape[0], len(values), *latent.shape[1:])
    return _grid(model, state, latents, condition, options)


def encode(model: Model, state: TrainState, x: Array, *, condition: Any = None, ema: bool = True) -> Array:
    """Latents of images x: [B, H, W, C] in [-1, 1], in the space of `model.prior`."""
    check(model.encode is not None, "this model has no encoder: it maps noise to images only")
    params, extra = weights(state, ema)
    return _encode(model.encode, params, extra, x, conditions(model, x.shape[0], condition))


def reconstruct(model: Model, state: TrainState, x: Array, *, condition: Any = None, **options) -> Array:
    """Images [B, H, W, C] encoded and generated again."""
    latent = encode(model, state, x, condition=condition, ema=options.get("ema", True))
    keys = jax.random.split(jax.random.key(0), x.shape[0])
    return generate(model, state, keys, latent, condition, **options)


_encode = jax.jit(lambda encode, *inputs: encode(*inputs), static_argnums=0)


def _grid(model: Model, state: TrainState, latents: Array, condition: Any, options: dict) -> Array:
    """Images of latents [B, S, ...]; a row shares its key and its condition, so that only the latent changes."""
    rows, steps = latents.shape[:2]
    keys = jnp.repeat(jax.random.split(jax.random.key(0), rows), steps)
    condition = conditions(model, rows, condition)
    if condition is not None:
        condition = jnp.repeat(condition, steps, axis=0)
    images = generate(model, state, keys, latents.reshape(rows * steps, *latents.shape[2:]), condition, **options)
    return images.reshape(rows, steps, *images.shape[1:])
