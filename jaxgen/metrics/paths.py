"""Perceptual path length: how far the image moves when the latent takes a step."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from jaxgen.losses.likelihood import total
from jaxgen.metrics.estimate import Estimate
from jaxgen.metrics.features import Extractor
from jaxgen.sampling import slerp, weights
from jaxgen.sampling.sample import conditions
from jaxgen.types import Array, Model, Sampler, TrainState, Tree, check

Distance = Callable[[Array, Array], Array]
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

    trim: the lowest and the highest so many percent of the lengths are left out before the mean, as by the reference
    implementation, 1 % each, which is no part of the equation: few paths over a seam of G would be most of the mean. 0
    keeps all. `how` says so, and by what the median of some lengths is larger at e than at 4 e: 1 where e is small
    enough for the limit and large enough for the numbers; 4 where G jumps everywhere, such as to the nearest of some
    vectors; 16 where only rounding is seen. InputError above 3 (and below 1/3), where there is no limit to speak of.
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

    distance: (x, y) -> [B] of images as the model gives them, about -1 to 1, such as `losses.perceptual.lpips`,
    `squared_distance` or a `code_distance`; a quadratic one, or the quotient has no limit.

    Rounding adds about (r / e)^2 to the lengths of images with a relative error r. Of a linear G it is below 0.1 % of a
    length at e = 1e-4 in float32 and up to 10 % at 1e-6; below 2 % at 1e-2 with products rounded as TF32, and more than
    the length itself at 1e-4; below 2 % at 0.1 in bfloat16 (`pytest tests/metrics/test_perceptual.py -k precision`).
    Products are computed here at full precision, even on accelerators that round them by default.
    """
    check(n >= 1, f"the number of paths must be at least 1, it is {n}")
    _check_step(epsilon)
    return _walk(model, state, distance, n, **options).lengths(n, epsilon)


def _check_step(epsilon: float) -> None:
    check(1e-6 <= epsilon <= 0.25, f"epsilon is a step from 1e-6, the least that float32 sees, to 1/4, not {epsilon}")


class _Walk(NamedTuple):
    """What all pieces of the paths have in common; span: how far along its path t may lie."""

    static: tuple
    traced: tuple
    condition: Tree
    span: float
    size: int
    sharding: Any

    def lengths(self, n: int, epsilon: float) -> np.ndarray:
        """Of the first n paths, [n] float64."""
        parts = []
        for start in range(0, n, self.size):
            index = np.minimum(np.arange(start, start + self.size), n - 1)  # the last again: one shape for every call
            rows = index, jax.tree.map(lambda c, index=index: c[index], self.condition)
            rows = rows if self.sharding is None else jax.device_put(rows, self.sharding)
            with jax.default_matmul_precision("highest"):
                got = _lengths(self.static, *self.traced, *rows, jnp.asarray([self.span, epsilon]))
            parts.append(np.asarray(got, np.float64)[: n - start])
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
    solver = model.sampler if sampler is None else sampler
    measured = distance if isinstance(distance, Partial) else Partial(distance)
    traced = solver, measured, *weights(state, ema), jax.random.key(seed)
    static = model.prior, model.predict, path
    return _Walk(static, traced, conditions(model, n, condition), 1.0 if ends == "full" else 0.0, size, sharding)


@partial(jax.jit, static_argnums=0)
def _lengths(
    static: tuple,
    sampler: Sampler,
    distance: Distance,
    params: Tree,
    extra: Tree,
    key: Array,
    index: Array,
    condition: Tree,
    span: Array,
) -> Array:
    """Lengths [B] of the paths `index`; span: how far along t may lie, and epsilon."""
    prior, predict, path = static
    keys = jax.vmap(lambda i: jax.random.split(jax.random.fold_in(key, i), 4))(index)
    a, b = (prior(params, extra, keys[:, i]) for i in (0, 1))
    t = span[0] * jax.vmap(jax.random.uniform)(keys[:, 2]).reshape((-1,) + (1,) * (a.ndim - 1))
    u = t + span[1]
    # both images of a pair side by side: the batch stays on its devices, and one call compiles the model once
    latents = jnp.stack([path(a, b, t), path(a, b, u)], axis=1).reshape(-1, *a.shape[1:])
    twice = jax.tree.map(lambda c: jnp.repeat(c, 2, axis=0), (keys[:, 3], condition))
    x = sampler(twice[0], predict(params, extra, twice[1]), latents)
    x = x.astype(jnp.float32).reshape(-1, 2, *x.shape[1:])
    step = (u - t).reshape(-1)  # the step that was taken: in float32 not quite epsilon
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


def code_distance(extractor: Extractor, example: Any) -> Distance:
    """||c(x) - c(y)||^2 of an extractor's codes c: images in about [-1, 1] each -> [B].

    Extractors take grey levels 0 to 255. Rounded to whole ones, two images a step of 1e-4 apart are equal but for few
    pixels that fall on either side of a half, and the quotient of `path_lengths` grows without end. So the levels are
    given here as float32 and not rounded; they are clipped. example: uint8 images [B, H, W, C], on which the extractor
    is seen to give the same codes for both kinds, and others for levels in between. InputError for one that does not.
    """
    example = np.asarray(example)
    check(example.dtype == np.uint8 and example.ndim == 4, "the example is images, uint8 [B, H, W, C]")
    levels = example.astype(np.float32)
    given = example, levels, np.minimum(levels + 0.25, 255.0)
    whole, real, between = (np.asarray(_codes(extractor.apply, a), np.float32) for a in given)
    same = bool(np.allclose(whole, real, rtol=1e-3, atol=1e-3 * float(np.abs(whole).max())))
    check(
        same and not np.array_equal(real, between),
        f"{extractor.name} takes whole grey levels only, which hide small steps: take LPIPS or squared_distance",
    )
    return Partial(_code_distance, extractor.apply)


@jax.jit
def _codes(apply: Any, x: Array) -> Array:
    return apply(x)[0]


def _code_distance(apply: Any, x: Array, y: Array) -> Array:
    a, b = (apply(jnp.clip((v + 1.0) * 127.5, 0.0, 255.0))[0] for v in (x, y))
    return total(jnp.square(a - b))
