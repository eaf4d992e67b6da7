"""The probability flow by an embedded Runge-Kutta method whose steps are each image's own."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from jaxgen.processes import angle, at_angle, like, slope_by_angle
from jaxgen.types import Array, Keys, Predict, Prediction, Process, Sampler, check

MOST = 2000  # steps, so that a model without a smooth flow ends too

# Dormand and Prince 1980, table 2: row i of the weights of earlier slopes, and the difference of the two solutions
_NODES = (1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
_ROWS = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
_ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)


def adaptive(
    process: Process, tolerance: float = 1e-3, clip: float | Array = float("inf"), *, level: float = 1e-3
) -> Sampler:
    """The flow from t = 1 down to the noise level `level`, where the estimate of x_0 is the sample, by Dormand and
    Prince's method of order 5 (1980), six evaluations a step, in the angle of `processes.slope_by_angle`.

    Every image has steps of its own, as long as the estimated error stays within `tolerance` (absolute, and relative to
    x): it does not depend on which others are drawn with it. Evaluations go on until the last one is there.
    clip: of the estimates of x_0, as of `iterate`.
    """
    check(tolerance > 0 and level > 0, f"tolerance and level must be positive, they are {tolerance} and {level}")
    numbers = (jnp.asarray(value, jnp.float32) for value in (tolerance, clip, level))
    return Partial(_adaptive, process, *numbers)


def _adaptive(process, tolerance, clip, level, keys: Keys, predict: Predict, noise: Array) -> Array:
    def clipped(x: Array, t: Array) -> Prediction:
        found = predict(x, t)
        return found._replace(x0=jnp.clip(found.x0, -clip, clip))

    def slope(y: Array, phi: Array) -> Array:
        return slope_by_angle(process, clipped, y, phi)

    def unfinished(carry: tuple) -> Array:
        count, _, phi, _, _ = carry
        return (count < MOST) & jnp.any(phi > last)

    def step(carry: tuple) -> tuple:
        count, y, phi, h, k = carry
        h = jnp.minimum(h, phi - last)
        there, slopes = tried(slope, y, phi, h, k)
        error = sum(e * k for e, k in zip(_ERROR, slopes, strict=True)) * like(h, y)
        size = tolerance * (1.0 + jnp.maximum(jnp.abs(y), jnp.abs(there)))
        ratio = jnp.sqrt(jnp.mean(jnp.square(error / size).reshape(len(y), -1), axis=1))
        good = ratio <= 1.0
        factor = jnp.clip(0.9 * jnp.maximum(ratio, 1e-10) ** -0.2, 0.2, 10.0)
        y, k = (jnp.where(like(good, y), new, old) for new, old in ((there, y), (slopes[-1], k)))
        # exactly the last angle, however it is rounded
        reached = jnp.where(h >= phi - last, last, phi - h)
        return count + 1, y, jnp.where(good, reached, phi), h * factor, k

    first, last = angle(process, jnp.ones(())), jnp.arctan(level)
    y = noise / at_angle(process, first)[1]
    phi = jnp.full(len(noise), first)
    start = (jnp.zeros((), jnp.int32), y, phi, jnp.full(len(noise), 0.01), slope(y, phi))
    _, y, phi, _, _ = jax.lax.while_loop(unfinished, step, start)
    t, length = at_angle(process, phi)
    return clipped(like(length, y) * y, t).x0


def tried(slope, y: Array, phi: Array, h: Array, k: Array) -> tuple[Array, list[Array]]:
    """y a step of h [B] further down, and the seven slopes, the last of them there."""
    slopes, there = [k], y
    for node, row in zip(_NODES, _ROWS, strict=True):
        there = y - like(h, y) * sum(w * k for w, k in zip(row, slopes, strict=True) if w)
        slopes.append(slope(there, phi - node * h))
    return there, slopes
