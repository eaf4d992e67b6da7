"""Perceptual path length: how much the image changes for a small step of the latent."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from jaxgen.conditions import repeat, rows
from jaxgen.losses.likelihood import total
from jaxgen.losses.perceptual import Distance
from jaxgen.metrics.estimate import Estimate
from jaxgen.metrics.features import Extractor
from jaxgen.sampling import conditions, generate, slerp
from jaxgen.types import Array, Keys, Model, Sampler, TrainState, Tree, check, weights

Path = Callable[[Array, Array, Array], Array]


def perceptual_path_length(
    model: Model,
    state: TrainState,
    distance: Distance,
    *,
    n: int = 10_000,
    epsilon: float = 1e-4,
    trim: float = 1.0,
    **options,
) -> Estimate:
    """E d(G(p(t)), G(p(t + e))) / e^2 over paths p from one draw of the prior to another (Karras, Laine and Aila 2019,
    arXiv:1812.04948, eq. 4, who take LPIPS with VGG16 as d, e = 1e-4 and 100,000 paths).

    n: paths; epsilon: e; options: those of `path_lengths`. The error is that of the mean over n paths.

    trim: the percentage of the lengths left out at each end before the mean, 1 % as in the reference implementation;
    the equation has none. Without it few paths over a discontinuity of G dominate the mean. 0 keeps all. `how` states
    it, and the ratio of the median length at e to that at 4 e: 1 where e is small enough for the limit and large enough
    for the arithmetic; 4 where G jumps everywhere, such as to the nearest of some vectors; 16 where rounding dominates.
    InputError for ratios above 3 and below 1/3, where the limit cannot be estimated.
    """
    check(n >= 2, f"a path length needs at least 2 paths, there are {n}")
    check(0.0 <= trim < 50.0, f"trim is a share in percent of each end, from 0 to less than 50, not {trim}")
    _check_step(epsilon)
    walk = _walk(model, state, distance, n, **options)
    lengths, coarse = walk.lengths(n, epsilon), walk.lengths(min(n, walk.size), 4.0 * epsilon)
    check(bool(np.isfinite(lengths).all()), "a path length is not finite: the model's images have diverged")
    fine, wide = float(np.median(lengths[: len(coarse)])), float(np.median(coarse))
    ratio = fine / wide if wide > 0 else float("nan")
    check(
        not (ratio > 3.0 or ratio < 1.0 / 3.0),
        f"the path length at epsilon {epsilon:g} is {ratio:.3g} times that at {4 * epsilon:g}: rounding or jumps of "
        "the model outweigh the step; give a larger epsilon, such as 0.01, or 0.1 for a model in half precision",
    )
    value, error = _trimmed(lengths, trim / 100.0)
    kept = f"{trim:g} % of each end left out" if trim else "none left out"
    how = f"standard error of {n:,} paths, {kept}; epsilon {epsilon:g}, median {ratio:.3g} of that at {4 * epsilon:g}"
    return Estimate(value, error, how)


def path_lengths(
    model: Model,
    state: TrainState,
    distance: Distance,
    *,
    n: int = 10_000,
    epsilon: float = 1e-4,
    **options,
) -> np.ndarray:
    """d(G(p(t)), G(p(t + e))) / e^2 of n paths [n], e the `epsilon`; path i is a function of (seed, i) alone, but for
    rounding: it does not depend on n, the batch or the devices.

    options, with their defaults:
    path=slerp: (z1, z2, t) -> z, for Gaussian priors; `sampling.lerp` is straight
    ends="full": t uniform in [0, 1]; "end": t = 0 alone
    seed=0, batch=64 (paths a compiled call, of two images each), ema=True, sharding=None (of the paths, over devices)
    condition=None: one for all, or [n]; both ends of a path have the same
    sampler=None: instead of the model's own; both ends take the same noise where it adds any

    distance: (x, y) -> [B] of images as the model gives them, about -1 to 1, such as `metrics.lpips.lpips`,
    `squared_distance` or a `feature_distance`; a quadratic one, or the quotient has no limit.

    Rounding adds about (r / e)^2 to the lengths of images with a relative error r. Of a linear G it is below 0.1 % of a
    length at e = 1e-4 in float32 and up to 10 % at 1e-6; below 2 % at 1e-2 with products rounded as TF32, and more than
    the length itself at 1e-4; below 2 % at 0.1 in bfloat16 (`pytest tests/metrics/test_perceptual.py -k precision`).
    Products are computed here at full precision, even on accelerators that round them by default.
    """
    check(n >= 1, f"the number of paths must be at least 1, it is {n}")
    _check_step(epsilon)
    return _walk(model, state, distance, n, **options).lengths(n, epsilon)


def _check_step(epsilon: float) -> None:
    check(
        1e-6 <= epsilon <= 0.25, f"epsilon is a step from 1e-6, the least that float32 resolves, to 1/4, not {epsilon}"
    )


class _Walk(NamedTuple):
    """What all pieces of the paths have in common: `_draw` and `sampling.generate` of the model, the distance, the
    conditions, how far along its path t may lie, and the paths of a piece."""

    draw: Callable[..., tuple[Keys, Array, Array]]
    render: Callable[[Keys, Array, Tree], Array]
    distance: Distance
    condition: Tree
    span: float
    size: int

    def lengths(self, n: int, epsilon: float) -> np.ndarray:
        """Of the first n paths, [n] float64."""
        parts = []
        for start in range(0, n, self.size):
            index = np.minimum(np.arange(start, start + self.size), n - 1)  # the last again: one shape for every call
            # the images differ by about epsilon: products rounded to TF32 or bfloat16 would be all of the difference
            with jax.default_matmul_precision("highest"):
                given = rows(self.condition, index)
                keys, latents, step = self.draw(index, given, jnp.asarray([self.span, epsilon]))
                x = self.render(keys, latents, repeat(given, 2))
                parts.append(np.asarray(_quotients(self.distance, x, step), np.float64)[: n - start])
        return np.concatenate(parts)


def _walk(
    model: Model,
    state: TrainState,
    distance: Distance,
    n: int,
    *,
    path: Path = slerp,
    ends: Literal["full", "end"] = "full",
    seed: int = 0,
    condition: Any = None,
    sampler: Sampler | None = None,
    batch: int = 64,
    ema: bool = True,
    sharding: Any = None,
) -> _Walk:
    check(ends in ("full", "end"), f"ends is full (all along a path) or end (at its beginning), not {ends!r}")
    check(batch >= 1, f"the batch must be at least 1, it is {batch}")
    devices = 1 if sharding is None else sharding.num_devices
    size = -(-min(n, batch) // devices) * devices
    measured = distance if isinstance(distance, Partial) else Partial(distance)
    given, one = conditions(model, n, condition), jax.random.split(jax.random.key(0), 1)
    kind = jax.eval_shape(model.prior, *weights(state, ema), one, rows(given, slice(1))).dtype
    check(jnp.issubdtype(kind, jnp.floating), f"this model's latents are integers ({kind}): no path leads between them")
    draw = partial(_draw, (model.prior, path), *weights(state, ema), jax.random.key(seed))
    options = {"sampler": sampler, "batch": 2 * size, "ema": ema, "sharding": sharding}
    render = partial(generate, model, state, **options)
    return _Walk(draw, render, measured, given, float(ends == "full"), size)


@partial(jax.jit, static_argnums=0)
def _draw(
    static: tuple, params: Tree, extra: Tree, key: Array, index: Array, condition: Tree, span: Array
) -> tuple[Keys, Array, Array]:
    """(keys [2 B], latents [2 B, ...], steps [B]) of the paths `index` [B], the two ends of a step side by side and
    with one key, so that both have the same noise and lie on one device; span: the largest t, and epsilon."""
    prior, path = static
    keys = jax.vmap(lambda i: jax.random.split(jax.random.fold_in(key, i), 4))(index)
    a, b = (prior(params, extra, keys[:, i], condition) for i in (0, 1))
    t = span[0] * jax.vmap(jax.random.uniform)(keys[:, 2]).reshape((-1,) + (1,) * (a.ndim - 1))
    u = t + span[1]
    latents = jnp.stack([path(a, b, t), path(a, b, u)], axis=1).reshape(-1, *a.shape[1:])
    return jnp.repeat(keys[:, 3], 2, axis=0), latents, (u - t).reshape(-1)  # in float32 not quite epsilon


@jax.jit
def _quotients(distance: Distance, x: Array, step: Array) -> Array:
    """d(x_2i, x_2i+1) / step_i^2, [B], of images [2 B, ...]."""
    x = x.astype(jnp.float32).reshape(-1, 2, *x.shape[1:])
    return distance(x[:, 0], x[:, 1]) / jnp.square(step)


def _trimmed(values: np.ndarray, share: float) -> tuple[float, float]:
    """The mean without that share of the lowest and of the highest values, both quantiles among the values and kept,
    and its standard error from the winsorised variance, s_w / ((1 - 2 share) sqrt(n)) (Tukey and McLaughlin 1963)."""
    low = np.quantile(values, share, method="lower")
    high = np.quantile(values, 1.0 - share, method="higher")
    kept = values[(low <= values) & (values <= high)]
    spread = np.clip(values, low, high).std(ddof=1)
    return float(kept.mean()), float(spread / ((1.0 - 2.0 * share) * math.sqrt(len(values))))


@Partial
def squared_distance(x: Array, y: Array) -> Array:
    """||x - y||^2: [B, ...] each -> [B]."""
    return total(jnp.square(x - y))


def feature_distance(extractor: Extractor, example: Any) -> Distance:
    """||f(x) - f(y)||^2 of an extractor's features f: images in about [-1, 1] each -> [B].

    Extractors take grey levels 0 to 255. Rounded to integers, two images a step of 1e-4 apart are equal but for the few
    pixels that cross a half, and the quotient of `path_lengths` diverges. So the levels are passed as float32, clipped
    and not rounded. example: uint8 images [B, H, W, C], on which the extractor has to give the same features for both
    types, and others for levels in between. InputError where it does not.
    """
    example = np.asarray(example)
    check(example.dtype == np.uint8 and example.ndim == 4, "the example is images, uint8 [B, H, W, C]")
    levels = example.astype(np.float32)
    given = example, levels, np.minimum(levels + 0.25, 255.0)
    integer, real, between = (np.asarray(_features(extractor.apply, a), np.float32) for a in given)
    same = bool(np.allclose(integer, real, rtol=1e-3, atol=1e-3 * float(np.abs(integer).max())))
    check(
        same and not np.array_equal(real, between),
        f"{extractor.name} takes integer grey levels only, which hide small steps: take LPIPS or squared_distance",
    )
    return Partial(_feature_distance, extractor.apply)


@jax.jit
def _features(apply: Any, x: Array) -> Array:
    return apply(x)[0]


def _feature_distance(apply: Any, x: Array, y: Array) -> Array:
    a, b = (apply(jnp.clip((v + 1.0) * 127.5, 0.0, 255.0))[0] for v in (x, y))
    return total(jnp.square(a - b))
