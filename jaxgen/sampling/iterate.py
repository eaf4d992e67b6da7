"""A sampler from a solver and a grid of times: x <- step(x, t_i, t_{i+1}) along the grid."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from jaxgen.processes import log_snr
from jaxgen.types import Array, Keys, Predict, Prediction, Process, Sampler, Solver, check

LONGEST = 1000  # steps a grid can hold; the same compiled sampler serves every number of steps up to it


class Times(NamedTuple):
    """A grid of `count` steps: times [LONGEST + 1], of which the first count + 1 are visited."""

    grid: Array
    count: Array


def _check_steps(steps: int) -> None:
    check(1 <= steps <= LONGEST, f"the number of sampling steps must be 1 to {LONGEST}, it is {steps}")


def uniform(steps: int, start: float = 1.0, stop: float = 0.0) -> Times:
    """Equal steps from `start` to `stop`. On t = i / T it is the evenly strided sub-sequence of
    Song et al. 2021 (arXiv:2010.02502, appendix D.2, "linear")."""
    _check_steps(steps)
    check(start > 0, "a walk cannot start at time 0, where there is no noise: start at 1e-3, say")
    index = jnp.minimum(jnp.arange(LONGEST + 1), steps) / steps
    return Times(jnp.asarray(start + (stop - start) * index, jnp.float32), jnp.asarray(steps, jnp.int32))


def karras(
    process: Process, steps: int, *, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0
) -> Times:
    """Noise levels sigma / alpha from `sigma_max` to `sigma_min`, equally spaced in their rho-th roots, then 0 (Karras
    et al. 2022, arXiv:2206.00364, eq. 5): of any process, whose own largest level is the limit."""
    fits = 0 < sigma_min < sigma_max and rho > 0
    check(fits, f"levels run from sigma_max to a smaller sigma_min above 0, not {sigma_max} to {sigma_min}")
    at = np.arange(steps) / max(steps - 1, 1)
    levels = (sigma_max ** (1 / rho) + at * (sigma_min ** (1 / rho) - sigma_max ** (1 / rho))) ** rho
    return _from_levels(process, levels, steps)


def log_uniform(process: Process, steps: int, *, stop: float = 1e-3) -> Times:
    """Equal steps of the log-SNR from t = 1 (or the level 1000, where that has none) to t = `stop`, then 0 (Lu et al.
    2022, arXiv:2206.00927, section 3.3)."""
    check(0 < stop < 1, f"the last time before 0 lies between 0 and 1, it is {stop}")
    first, last = (float(log_snr(process, jnp.asarray(t))) for t in (1.0, stop))
    between = np.linspace(max(first, -2.0 * np.log(1000.0)), last, steps)
    return _from_levels(process, np.exp(-0.5 * between), steps)


def _from_levels(process: Process, levels: np.ndarray, steps: int) -> Times:
    _check_steps(steps)
    times = np.asarray(process.time(jnp.asarray(-2.0 * np.log(levels), jnp.float32)), np.float64)
    return custom([*np.clip(times, 0.0, 1.0), 0.0])


def quadratic(steps: int) -> Times:
    """t_i = (1 - i / steps)^2: finer where there is little noise (Song et al. 2021, arXiv:2010.02502, appendix D.2)."""
    _check_steps(steps)
    return custom((1.0 - np.arange(steps + 1) / steps) ** 2)


def custom(times: Sequence[float] | np.ndarray) -> Times:
    """Times of one's own, the first where the noise is and the last where the sample is taken."""
    grid = np.asarray(times, np.float32)
    check(grid.ndim == 1 and 2 <= len(grid) <= LONGEST + 1, f"give 2 to {LONGEST + 1} times, not {grid.shape}")
    inside = bool(np.all((grid >= 0) & (grid <= 1)))
    check(inside and grid[0] > 0, f"times lie between 0 and 1, the first above 0: {grid.min():g} to {grid.max():g}")
    filled = np.concatenate([grid, np.full(LONGEST + 1 - len(grid), grid[-1], np.float32)])
    return Times(jnp.asarray(filled), jnp.asarray(len(grid) - 1, jnp.int32))


def iterate(solver: Solver, times: Times, clip: float | Array = float("inf"), *, steps: int | None = None) -> Sampler:
    """The sampler that walks `times` with `solver`. Every x_0 estimate, guided or not, is clipped to [-clip, clip] (for
    images `clip=1`: Ho et al. 2020, the reference's static thresholding). No number in it causes a recompilation.

    steps: a fixed number, that of `times`, by which the sampler can be differentiated in reverse (a gradient of an
    image by its noise); every step's activations are then recomputed. Another number compiles anew.
    """
    if steps is not None:
        count = int(times.count)
        check(steps == count, f"these times are of {count} steps, not of {steps}")
    return Partial(_walk(steps), solver, times, jnp.asarray(clip, jnp.float32))


def stopped(sampler: Sampler, steps: int) -> Sampler:
    """The same sampler, which ends after `steps` of its steps and gives x_t as it is there; nothing is compiled anew.
    InputError for one that is none of `iterate`, and for more steps than it has."""
    parts: Any = getattr(sampler, "args", ())
    check(len(parts) == 3 and isinstance(parts[1], Times), "a sampler of `iterate` can be stopped, this is another one")
    solver, times, clip = parts
    check(0 <= steps <= int(times.count), f"this sampler takes 0 to {int(times.count)} steps, not {steps}")
    return Partial(_walk(None), solver, times._replace(count=jnp.asarray(steps, jnp.int32)), clip)


@cache
def _walk(steps: int | None) -> Callable:
    """One function for each number of steps, so that two samplers of it share what is compiled."""
    return partial(_iterate, steps)


def _iterate(
    steps: int | None, solver: Solver, times: Times, clip: Array, keys: Keys, predict: Predict, noise: Array
) -> Array:
    def clipped(x: Array, t: Array) -> Prediction:
        found = predict(x, t)
        return found._replace(x0=jnp.clip(found.x0, -clip, clip))

    def body(i: Array, carry: tuple) -> tuple:
        # a key an example and a step: the noise does not depend on how examples are batched or placed
        keys_i = jax.vmap(jax.random.fold_in, (0, None))(keys, i)
        return solver.step(keys_i, clipped, carry, times.grid[i], times.grid[i + 1])

    if steps is None:
        return jax.lax.fori_loop(0, times.count, body, solver.init(noise))[0]
    one = jax.checkpoint(lambda carry, i: (body(i, carry), None))
    return jax.lax.scan(one, solver.init(noise), jnp.arange(steps))[0][0]
