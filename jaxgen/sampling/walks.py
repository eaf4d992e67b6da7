"""Walks in the latent space, over `prior`, `predict`, `decode` and `encode`: the same for every family."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, Unpack

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.conditions import repeat, rows
from jaxgen.sampling.ddim import ddim
from jaxgen.sampling.iterate import iterate, uniform
from jaxgen.sampling.sample import Options, conditions, generate, image_shape, latent_shape, weights
from jaxgen.types import Array, Model, TrainState, Tree, check

INVERSION = 50  # steps of DDIM from data to noise
FIRST = 1e-3  # the time at which an inversion starts: there is no noise to estimate at 0


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
    **options: Unpack[Options],
) -> Array:
    """Images along the path from latents a to b: [B, ...] each -> [B, steps, H, W, C], both ends included.

    condition: one for all, or [B].
    """
    check(steps >= 2, f"an interpolation needs at least 2 steps, it has {steps}")
    check(a.shape == b.shape, f"both ends need one shape, they are {a.shape} and {b.shape}")
    latents = jax.vmap(partial(path, a, b), out_axes=1)(jnp.linspace(0.0, 1.0, steps))
    return images_of(model, state, latents, condition, options)


def traverse(
    model: Model,
    state: TrainState,
    latent: Array,
    dimension: int,
    values: Array,
    *,
    condition: Any = None,
    **options: Unpack[Options],
) -> Array:
    """Images as one coordinate of the flattened latent runs through `values`: [B, ...] -> [B, len(values), H, W, C]."""
    values = jnp.asarray(values)
    size = latent[0].size
    check(0 <= dimension < size, f"the latent has dimensions 0 to {size - 1}, dimension {dimension} is not among them")
    flat = jnp.repeat(latent.reshape(latent.shape[0], 1, size), len(values), axis=1)
    latents = flat.at[:, :, dimension].set(values).reshape(latent.shape[0], len(values), *latent.shape[1:])
    return images_of(model, state, latents, condition, options)


def manifold(
    model: Model,
    state: TrainState,
    side: int = 20,
    dimensions: tuple[int, int] = (0, 1),
    *,
    condition: Any = None,
    **options: Unpack[Options],
) -> Array:
    """Images over the plane of two coordinates of the flattened latent, side x side of them: [side, side, H, W, C].

    Both run through Phi^-1((i + 1/2) / side), Phi the normal distribution function: every image stands for the same
    mass of N(0, I) (Kingma and Welling 2013, arXiv:1312.6114, figure 4). The first grows downwards, the second to the
    right, all others are 0. condition: one for all.
    """
    check(side >= 1, f"a manifold has at least 1 image a side, not {side}")
    shape = latent_shape(model, state)
    size = math.prod(shape)
    fits = len(dimensions) == len(set(dimensions)) == 2 and all(0 <= d < size for d in dimensions)
    check(fits, f"a manifold spans two of the latent's dimensions 0 to {size - 1}, {dimensions} are none such")
    at = jax.scipy.special.ndtri((jnp.arange(side) + 0.5) / side)
    flat = jnp.zeros((side, side, size)).at[:, :, dimensions[0]].set(at[:, None]).at[:, :, dimensions[1]].set(at)
    return images_of(model, state, flat.reshape(side, side, *shape), condition, options)


def attribute_vector(
    model: Model, state: TrainState, x: Array, has: Any, *, condition: Any = None, ema: bool = True
) -> Array:
    """mean_{i: has_i} code(x_i) - mean_{i: not has_i} code(x_i), a latent [...]: the direction of an attribute
    (Larsen et al. 2015, arXiv:1512.09300, "Visual attribute vectors"; Radford et al. 2015, arXiv:1511.06434, 6.3.2).

    x: images [N, H, W, C] in [-1, 1], some hundreds; has: bool [N], which of them have the attribute.
    """
    has = np.asarray(has)
    check(has.shape == (len(x),), f"`has` is a yes or no for each of {len(x)} images, its shape is {has.shape}")
    yes = has.astype(bool)
    check(0 < yes.sum() < len(yes), f"{yes.sum()} of {len(yes)} images have the attribute: give some of both kinds")
    codes = encode(model, state, x, condition=condition, ema=ema)
    return jnp.mean(codes[yes], axis=0) - jnp.mean(codes[~yes], axis=0)


def arithmetic(
    model: Model,
    state: TrainState,
    x: Array,
    vector: Array,
    strengths: Any,
    *,
    condition: Any = None,
    **options: Unpack[Options],
) -> Array:
    """Images of code(x) + s vector, s in `strengths`: images [B, H, W, C] -> [B, len(strengths), H, W, C].

    vector: a latent, such as `attribute_vector`'s or a sum of several. Strength 0 is the reconstruction.
    condition: one for all, or [B].
    """
    code = encode(model, state, x, condition=condition, ema=options.get("ema", True))
    return along(model, state, code, vector, strengths, condition=condition, **options)


def along(
    model: Model,
    state: TrainState,
    latents: Array,
    vector: Array,
    strengths: Any,
    *,
    condition: Any = None,
    **options: Unpack[Options],
) -> Array:
    """Images of z + s vector, s in `strengths`, z in latents: [B, ...] -> [B, len(strengths), H, W, C].

    vector: a latent, such as a direction of `sampling.directions`. condition: one for all, or [B].
    """
    strengths = jnp.asarray(strengths)
    fits = strengths.ndim == 1 and strengths.size > 0
    check(fits, f"strengths are a list of numbers, not of shape {strengths.shape}")
    check(vector.shape == latents.shape[1:], f"a latent has the shape {latents.shape[1:]}, the vector {vector.shape}")
    moved = latents[:, None] + strengths.reshape(1, -1, *(1,) * vector.ndim) * vector
    return images_of(model, state, moved, condition, options)


def encode(
    model: Model,
    state: TrainState,
    x: Array,
    *,
    condition: Any = None,
    ema: bool = True,
    batch: int = 64,
    steps: int = INVERSION,
) -> Array:
    """Latents of images x: [B, H, W, C] in [-1, 1], in the space of the prior; batch: images a compiled call.

    Those of a model that iterates are found by running `steps` steps of DDIM from data to noise (Song et al. 2021,
    arXiv:2010.02502, section 4.3), after its encoder where it has one; of a process over codes they are the codes, none
    masked. InputError for a model with neither.
    """
    inverted = model.process is not None and model.process.mask is None
    check(model.encode is not None or inverted, "this model has no encoder: it maps noise to images only")
    check(batch >= 1, f"the encoding batch must be at least 1, it is {batch}")
    check(x.ndim >= 2 and len(x) >= 1, f"images to encode are an array [B, H, W, C], not one of shape {x.shape}")
    needed = image_shape(model, state)
    check(x.shape[1:] == needed, f"this model's images have the shape {needed}, these have {x.shape[1:]}")
    # an encoder may do without a condition that samples need: M2's classifies
    bare = condition is None and (model.condition is None or model.condition.empty is None)
    condition = None if bare else conditions(model, len(x), condition)
    times = uniform(steps, start=FIRST, stop=1.0)
    walk = iterate(ddim(model.process), times, model.process.clip) if inverted else None  # type: ignore[arg-type,union-attr]
    (params, extra), size, pieces = weights(state, ema), min(batch, len(x)), []
    for start in range(0, len(x), size):
        index = np.minimum(np.arange(start, start + size), len(x) - 1)  # the last again: one shape for every call
        given = rows((jnp.asarray(x), condition), index)
        pieces.append(_encode(model.encode, model.predict, walk, params, extra, *given))
    return jnp.concatenate(pieces)[: len(x)]


@partial(jax.jit, static_argnums=(0, 1))
def _encode(encode: Any, predict: Any, walk: Any, params: Tree, extra: Tree, x: Array, condition: Tree) -> Array:
    code = x if encode is None else encode(params, extra, x, condition)
    if walk is None:
        return code
    keys = jax.random.split(jax.random.key(0), x.shape[0])  # of no consequence: DDIM without eta draws nothing
    return walk(keys, predict(params, extra, condition), code)


def reconstruct(
    model: Model, state: TrainState, x: Array, *, condition: Any = None, **options: Unpack[Options]
) -> Array:
    """Images [B, H, W, C] encoded and generated again."""
    latent = encode(model, state, x, condition=condition, ema=options.get("ema", True))
    keys = jax.random.split(jax.random.key(0), x.shape[0])
    return generate(model, state, keys, latent, condition, **options)


def images_of(model: Model, state: TrainState, latents: Array, condition: Any, options: Options) -> Array:
    """Images of latents [B, S, ...]; a row shares its key and its condition, so that only the latent changes."""
    check(
        jnp.issubdtype(latents.dtype, jnp.floating),
        f"this model's latents are integers ({latents.dtype}): there is no path between them",
    )
    count, steps = latents.shape[:2]
    keys = jnp.repeat(jax.random.split(jax.random.key(0), count), steps)
    condition = repeat(conditions(model, count, condition), steps)
    images = generate(model, state, keys, latents.reshape(count * steps, *latents.shape[2:]), condition, **options)
    return images.reshape(count, steps, *images.shape[1:])
