"""A sampler from a solver and a grid of times: x <- step(x, t_i, t_{i+1}) along the grid."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from jaxgen.types import Array, Keys, Predict, Prediction, Sampler, Solver, check

LONGEST = 1000  # steps a grid can hold; the same compiled sampler serves every number of steps up to it


class Times(NamedTuple):
    """A grid of `count` steps: times [LONGEST + 1], of which the first count + 1 are visited."""

    grid: Array
    count: Array


def uniform(steps: int, start: float = 1.0, stop: float = 0.0) -> Times:
    """Equal steps from `start` to `stop`. On t = i / T it is the evenly strided sub-sequence of
    Song et al. 2021 (arXiv:2010.02502, appendix D.2, "linear")."""
    check(1 <= steps <= LONGEST, f"the number of sampling steps must be 1 to {LONGEST}, it is {steps}")
    check(start > 0, "a walk cannot start at time 0, where there is no noise: start at 1e-3, say")
    index = jnp.minimum(jnp.arange(LONGEST + 1), steps) / steps
    return Times(jnp.asarray(start + (stop - start) * index, jnp.float32), jnp.asarray(steps, jnp.int32))


def iterate(solver: Solver, times: Times, clip: float | Array = float("inf")) -> Sampler:
    """The sampler that walks `times` with `solver`. Every x_0 estimate, guided or not, is clipped to [-clip, clip] (for
    images `clip=1`: Ho et al. 2020, the reference's static thresholding). No number in it causes a recompilation."""
    return Partial(_iterate, solver, times, jnp.asarray(clip, jnp.float32))


def _iterate(solver: Solver, times: Times, clip: Array, keys: Keys, predict: Predict, noise: Array) -> Array:
    def clipped(x: Array, t: Array) -> Prediction:
        found = predict(x, t)
        return found._replace(x0=jnp.clip(found.x0, -clip, clip))

    def body(i: Array, carry: tuple) -> tuple:
        # a key an example and a step: the noise does not depend on how examples are batched or placed
        keys_i = jax.vmap(jax.random.fold_in, (0, None))(keys, i)
        return solver.step(keys_i, clipped, carry, times.grid[i], times.grid[i + 1])

    return jax.lax.fori_loop(0, times.count, body, solver.init(noise))[0]
