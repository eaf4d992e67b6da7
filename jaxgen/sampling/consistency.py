"""Samplers of models that go to the clean sample, or over a whole interval of time, in one evaluation."""

from __future__ import annotations

from jax.tree_util import Partial

from jaxgen.types import Array, Interval, Keys, Predict, Process, Solver, normal


def consistency(process: Process) -> Solver:
    """x_u = alpha_u x_0 + sigma_u z with fresh noise z: multistep sampling of consistency models (Song et al. 2023,
    arXiv:2303.01469, algorithm 1, there with sigma_u^2 - sigma_min^2)."""
    return Solver(Partial(_init), Partial(_step, process))


def _init(noise: Array) -> tuple:
    return (noise,)


def _step(process: Process, keys: Keys, predict: Predict, carry: tuple, t: Array, u: Array) -> tuple:
    (x,) = carry
    return (process.alpha(u) * predict(x, t).x0 + process.sigma(u) * normal(keys, x.shape[1:], x.dtype),)


def jumping(solver: Solver) -> Solver:
    """The same solver with the mean over each of its steps in place of the slope at the start: with `ddim` the exact
    step of a model that knows it, as `families.mean_flow` (Geng et al. 2025, arXiv:2505.13447, eq. 12)."""
    return Solver(solver.init, Partial(_jump, solver.step))


def _jump(step, keys: Keys, predict: Predict, carry: tuple, t: Array, u: Array) -> tuple:
    return step(keys, lambda x, s: predict(x, Interval(s, u)), carry, t, u)
