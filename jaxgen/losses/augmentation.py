"""Changes of images, real and generated, on their way to the critic: instance noise, and differentiable augmentation.

A new one is one function returning `Augmentation`, an argument of `families.gan`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxgen.types import Array, Seen, Tree, Turn, check, normal


class Augmentation(NamedTuple):
    """A change of images, real and generated, on their way to the critic.

    init    () -> state, carried in `extra`: the p of an adaptive augmentation, or {}
    apply   (state, turn, x [B, ...]) -> x, differentiable in x
    update  (state, real: Seen, turn) -> state, at the critic's turn
    report  state -> {name: []}, metrics of the critic's turn
    """

    init: Callable[[], Tree]
    apply: Callable[[Tree, Turn, Array], Array]
    update: Callable[[Tree, Seen, Turn], Tree]
    report: Callable[[Tree], dict[str, Array]] = lambda state: {}


def instance_noise(sigma: float, steps: int) -> Augmentation:
    """x + s eps, eps ~ N(0, I), s falling linearly from `sigma` to 0 in `steps` steps (Sonderby et al. 2016,
    arXiv:1610.04490, section 3.2; Arjovsky and Bottou 2017, arXiv:1701.04862, section 3)."""
    check(sigma >= 0 and steps >= 1, f"instance noise falls from sigma >= 0 in at least 1 step, not {sigma}, {steps}")

    def apply(state: Tree, turn: Turn, x: Array) -> Array:
        s = sigma * jnp.maximum(0.0, 1.0 - turn.step / steps)
        return x + s * normal(turn.keys, x.shape[1:])

    return stateless(apply)


def stateless(apply: Callable[[Tree, Turn, Array], Array]) -> Augmentation:
    """An augmentation without a state."""
    return Augmentation(dict, apply, lambda state, real, turn: state)


def no_augmentation() -> Augmentation:
    """Images as they are."""
    return stateless(lambda state, turn, x: x)


Transform = Callable[[Array, Array, Array], Array]
"""(key, p, x [H, W, C]) -> x of the same shape: each of its changes is made with probability p. Differentiable in x."""


def augment(*transforms: Transform) -> Augmentation:
    """Every image is changed by all of `transforms`; without any, by those of DiffAugment: `tint`, `shift` and `cutout`
    (Zhao et al. 2020, arXiv:2006.10738, section 4)."""
    chosen = transforms or (tint, shift, cutout)
    return stateless(lambda state, turn, x: _transformed(chosen, turn, jnp.ones(()), x))


def adaptive(
    *transforms: Transform, target: float = 0.6, images: int = 500_000, every: int = 4, start: float = 0.0
) -> Augmentation:
    """Each change is made with a probability p that keeps r = E[sign D(x)] of real images near `target`: every few
    turns of the critic p rises or falls by as much as takes it from 0 to 1 in `images` images (Karras et al. 2020,
    arXiv:2006.06676, section 3.1, ADA). Of scores that are logits; without transforms `blit`, `geometry`, `colour`.

    Metrics: augmentation (p) and augmentation_sign, the mean sign since p last moved. p is part of the run's state.
    """
    chosen = transforms or (blit, geometry, colour)
    check(-1 < target < 1, f"the mean sign of a score lies between -1 and 1, a target of {target} is never crossed")
    check(images >= 1 and every >= 1, f"p moves every {every} turns and by 1 in {images} images: both are at least 1")
    check(0 <= start <= 1, f"p is a probability, it cannot start at {start}")

    def init() -> Tree:
        return {"p": jnp.asarray(start, jnp.float32), "sign": jnp.zeros(()), "turns": jnp.zeros((), jnp.int32)}

    def update(state: Tree, real: Seen, turn: Turn) -> Tree:
        scores = turn.gather(real.score)
        turns, sign = state["turns"] + 1, state["sign"] + jnp.mean(jnp.sign(scores))
        due, size = turns >= every, scores.shape[0] * every / images
        moved = jnp.clip(state["p"] + size * jnp.sign(sign / turns - target), 0.0, 1.0)
        return {
            "p": jnp.where(due, moved, state["p"]),
            "sign": jnp.where(due, 0.0, sign),
            "turns": jnp.where(due, 0, turns),
        }

    def report(state: Tree) -> dict[str, Array]:
        sign = state["sign"] / jnp.maximum(state["turns"], 1)
        return {"augmentation": state["p"], "augmentation_sign": sign}

    return Augmentation(init, lambda state, turn, x: _transformed(chosen, turn, state["p"], x), update, report)


def _transformed(transforms: tuple[Transform, ...], turn: Turn, p: Array, x: Array) -> Array:
    check(x.ndim == 4, f"these augmentations are of images [B, H, W, C], not of {list(x.shape)}")

    def one(key: Array, x: Array) -> Array:
        for i, transform in enumerate(transforms):
            x = transform(jax.random.fold_in(key, i), p, x)
        return x

    return jax.vmap(one)(turn.keys, x)


def _drawn(key: Array, p: Array, value: Array | float, neutral: float) -> Array:
    """`value` with probability p, else what changes nothing."""
    return jnp.where(jax.random.bernoulli(key, p), value, neutral)


def tint(key: Array, p: Array, x: Array) -> Array:
    """Brightness by U(-1/2, 1/2), distance to the pixel's mean colour by U(0, 2), to the image's mean by U(1/2, 3/2)
    (Zhao et al. 2020, arXiv:2006.10738, appendix; of pixels from -1 to 1)."""
    gates, draws = jax.random.split(key)
    u = jax.random.uniform(draws, (3,))
    a, b, c = jax.random.split(gates, 3)
    x = x + _drawn(a, p, u[0] - 0.5, 0.0)
    grey = jnp.mean(x, axis=-1, keepdims=True)
    x = grey + (x - grey) * _drawn(b, p, 2.0 * u[1], 1.0)
    mean = jnp.mean(x)
    return mean + (x - mean) * _drawn(c, p, u[2] + 0.5, 1.0)


def shift(key: Array, p: Array, x: Array) -> Array:
    """Moved by up to an eighth of the sides, whole pixels, with 0 where nothing was (Zhao et al. 2020)."""
    gate, draws = jax.random.split(key)
    far = [max(1, round(side / 8)) for side in x.shape[:2]]
    by = jax.random.randint(draws, (2,), -jnp.asarray(far), jnp.asarray(far) + 1)
    by = jnp.where(jax.random.bernoulli(gate, p), by, 0)
    wide = jnp.pad(x, ((far[0], far[0]), (far[1], far[1]), (0, 0)))
    return jax.lax.dynamic_slice(wide, (far[0] - by[0], far[1] - by[1], 0), x.shape)


def cutout(key: Array, p: Array, x: Array) -> Array:
    """A square of half the sides becomes 0, its centre anywhere (Zhao et al. 2020; DeVries and Taylor 2017,
    arXiv:1708.04552)."""
    gate, draws = jax.random.split(key)
    at = jax.random.uniform(draws, (2,))
    inside = []
    for axis, side in enumerate(x.shape[:2]):
        inside.append(jnp.abs(jnp.arange(side) + 0.5 - at[axis] * side) < side / 4)
    hole = inside[0][:, None] & inside[1][None, :] & jax.random.bernoulli(gate, p)
    return jnp.where(hole[:, :, None], 0.0, x)


def mirror(key: Array, p: Array, x: Array) -> Array:
    """Left and right change places, with probability p / 2."""
    return jnp.where(jax.random.bernoulli(key, 0.5 * p), x[:, ::-1], x)


def crop(share: float = 0.125) -> Transform:
    """A part of the image, from 1 - `share` to all of its sides and anywhere in it, enlarged bilinearly to the size
    that it was of (Szegedy et al. 2014, arXiv:1409.4842, section 6)."""
    check(0 <= share < 1, f"a crop leaves out a share of the sides from 0 to below 1, not {share}")

    def cropped(key: Array, p: Array, x: Array) -> Array:
        gate, draws = jax.random.split(key)
        u = jax.random.uniform(draws, (3,))
        kept = _drawn(gate, p, 1.0 - share * u[0], 1.0)
        sides = [jnp.arange(side) * kept + u[1 + i] * (1.0 - kept) * (side - 1) for i, side in enumerate(x.shape[:2])]
        at = jnp.stack(jnp.meshgrid(*sides, indexing="ij"), -1).reshape(-1, 2)
        return _bilinear(x, at).reshape(x.shape)

    return cropped


def of_photographs(flips: bool, share: float) -> tuple[Transform, ...]:
    """What photographs may be changed by: `mirror` if `flips`, and `crop(share)` unless it is 0."""
    return (*[mirror] * flips, *([crop(share)] if share else []))


def blit(key: Array, p: Array, x: Array) -> Array:
    """Mirrored, turned by quarters, and moved by whole pixels up to an eighth of the sides, as if the image went on
    mirrored beyond its edges (Karras et al. 2020, arXiv:2006.06676, appendix B, pixel blitting). Images that are not
    square are not turned."""
    mirror, turning, gate, draws, move = jax.random.split(key, 5)
    x = jnp.where(jax.random.bernoulli(mirror, p * 0.5), x[:, ::-1], x)
    if x.shape[0] == x.shape[1]:
        quarters = jnp.where(jax.random.bernoulli(gate, p), jax.random.randint(turning, (), 0, 4), 0)
        x = jax.lax.switch(quarters, [lambda x, k=k: jnp.rot90(x, k) for k in range(4)], x)
    sides = jnp.asarray(x.shape[:2])
    by = jnp.round(jax.random.uniform(draws, (2,), minval=-0.125, maxval=0.125) * sides).astype(jnp.int32)
    by = jnp.where(jax.random.bernoulli(move, p), by, 0)
    rows, columns = (_mirrored(jnp.arange(side) - by[axis], side) for axis, side in enumerate(x.shape[:2]))
    return x[rows][:, columns]


def geometry(key: Array, p: Array, x: Array) -> Array:
    """Scaled by 2^N(0, 0.2), turned by any angle, stretched by 2^N(0, 0.2) along one axis, and moved by N(0, 1/8) of
    the sides: one affine map, read bilinearly, as if the image went on mirrored beyond its edges (Karras et al. 2020,
    arXiv:2006.06676, appendix B, which filters between the pixels more carefully)."""
    gates, draws = jax.random.split(key)
    scale, angle, stretch, move = jax.random.split(gates, 4)
    n = jax.random.normal(draws, (4,))
    u = jax.random.uniform(jax.random.fold_in(draws, 1), (), minval=-jnp.pi, maxval=jnp.pi)
    s = _drawn(scale, p, 2.0 ** (0.2 * n[0]), 1.0)
    t = _drawn(stretch, p, 2.0 ** (0.2 * n[1]), 1.0)
    theta = _drawn(angle, p, u, 0.0)
    turned = jnp.asarray([[jnp.cos(theta), -jnp.sin(theta)], [jnp.sin(theta), jnp.cos(theta)]])
    matrix = turned * s @ jnp.diag(jnp.stack([t, 1.0 / t]))
    height, width = x.shape[:2]
    offset = _drawn(move, p, n[2:] / 8, 0.0) * jnp.asarray([height, width])
    centre = jnp.asarray([(height - 1) / 2, (width - 1) / 2])
    where = jnp.stack(jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij"), -1).reshape(-1, 2)
    source = (where - centre - offset) @ jnp.linalg.inv(matrix).T + centre
    return _bilinear(x, source).reshape(x.shape)


def _mirrored(at: Array, side: int) -> Array:
    """The place in [0, side) of an image that goes on mirrored."""
    period = max(1, 2 * (side - 1))
    at = jnp.mod(at, period)
    return jnp.minimum(at, period - at)


def _bilinear(x: Array, at: Array) -> Array:
    """x [H, W, C] between its pixels, at [n, 2] -> [n, C]."""
    low = jnp.floor(at)
    share = at - low
    low, value = low.astype(jnp.int32), jnp.zeros((at.shape[0], x.shape[-1]), x.dtype)
    for i in (0, 1):
        for j in (0, 1):
            part = (share[:, 0] if i else 1 - share[:, 0]) * (share[:, 1] if j else 1 - share[:, 1])
            value += part[:, None] * x[_mirrored(low[:, 0] + i, x.shape[0]), _mirrored(low[:, 1] + j, x.shape[1])]
    return value


def colour(key: Array, p: Array, x: Array) -> Array:
    """Brightness by N(0, 0.2), contrast by 2^N(0, 0.5); of colour images also the grey part reversed, hues turned by
    any angle, saturation by 2^N(0, 1) (Karras et al. 2020, arXiv:2006.06676, appendix B; of pixels from -1 to 1)."""
    gates, draws = jax.random.split(key)
    bright, contrast, flip, hue, saturation = jax.random.split(gates, 5)
    n = jax.random.normal(draws, (3,))
    x = (x + _drawn(bright, p, 0.2 * n[0], 0.0)) * _drawn(contrast, p, 2.0 ** (0.5 * n[1]), 1.0)
    if x.shape[-1] != 3:
        return x
    grey = jnp.full((3, 3), 1.0 / 3.0)  # the projection onto (1, 1, 1)
    theta = _drawn(hue, p, jax.random.uniform(jax.random.fold_in(draws, 1), (), minval=-jnp.pi, maxval=jnp.pi), 0.0)
    cross = jnp.asarray([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]]) / jnp.sqrt(3.0)
    turned = jnp.cos(theta) * (jnp.eye(3) - grey) + jnp.sin(theta) * cross
    matrix = grey * _drawn(flip, p * 0.5, -1.0, 1.0) + turned * _drawn(saturation, p, 2.0 ** n[2], 1.0)
    return x @ matrix.T
