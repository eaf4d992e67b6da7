"""Solvers of the probability flow in time: Euler and Heun, the latter also with fresh noise at every step."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from jaxgen.processes import forward, log_snr, to_eps
from jaxgen.types import Array, Keys, Predict, Process, Solver, check, normal


def euler(process: Process) -> Solver:
    """x_u = x_t + (u - t) dx/dt, dx/dt = alpha'(t) x_0 + sigma'(t) eps: of first order (Song et al. 2020,
    arXiv:2011.13456, eq. 13). For a flow and for a variance-exploding process it is DDIM."""
    return Solver(init=Partial(_init), step=Partial(_euler, process))


def heun(
    process: Process, churn: float = 0.0, noise: float = 1.0, *, of: Literal["angle", "level", "time"] = "angle"
) -> Solver:
    """A first step to the next time, then the mean of the slopes at both its ends: of second order, two evaluations a
    step but the last one, to t = 0, which has one (Karras et al. 2022, arXiv:2206.00364, algorithm 1).

    of: what the slope is by. "angle": of x / r by phi, r^2 = alpha^2 + sigma^2, tan(phi) = sigma / alpha, finite at
    both ends of every schedule. "level": of x / alpha by the noise level sigma / alpha, EDM's own, for its levels; a
    step over a large ratio of levels, as the first of even times on a cosine schedule, amplifies errors by that ratio.
    "time": of x by t, as `euler`, for flows.
    churn: gamma; each step first raises the noise level to 1 + gamma times itself by fresh noise of `noise` times the
    deviation that this takes (algorithm 2, whose S_churn is churn times the number of steps; at most sqrt 2 - 1 there).
    """
    check(churn >= 0 and noise > 0, f"churn must not be negative and noise must be positive: {churn}, {noise}")
    steps = {"angle": _by_angle, "level": _by_level, "time": _by_time}
    check(of in steps, f"slopes are by the angle, the level or the time, not by {of!r}")
    numbers = (jnp.asarray(churn, jnp.float32), jnp.asarray(noise, jnp.float32))
    return Solver(init=Partial(_init), step=Partial(steps[of], process, *numbers))


def _init(noise: Array) -> tuple:
    return (noise,)


def slope(process: Process, predict: Predict, x: Array, t: Array) -> Array:
    """dx/dt of the probability flow at (x, t), t > 0."""
    one = jnp.ones_like(t)
    (alpha, by_alpha), (sigma, by_sigma) = (jax.jvp(f, (t,), (one,)) for f in (process.alpha, process.sigma))
    x0 = predict(x, t).x0
    return by_alpha * x0 + by_sigma * to_eps(alpha, sigma, x, x0)


def _euler(process: Process, keys: Keys, predict: Predict, carry: tuple, t: Array, u: Array) -> tuple:
    (x,) = carry
    return (x + (u - t) * slope(process, predict, x, t),)


def _by_time(process, churn, noise, keys: Keys, predict: Predict, carry: tuple, t: Array, u: Array) -> tuple:
    (x,) = carry
    x, t = _churned(process, churn, noise, keys, x, t)
    first = slope(process, predict, x, t)
    there = x + (u - t) * first

    def corrected() -> Array:
        return x + (u - t) * 0.5 * (first + slope(process, predict, there, u))

    return (jax.lax.cond(u > 0, corrected, lambda: there),)


def _by_angle(process, churn, noise, keys: Keys, predict: Predict, carry: tuple, t: Array, u: Array) -> tuple:
    (x,) = carry
    x, t = _churned(process, churn, noise, keys, x, t)
    alpha_t, sigma_t, alpha_u, sigma_u = process.alpha(t), process.sigma(t), process.alpha(u), process.sigma(u)
    r_t, r_u = jnp.hypot(alpha_t, sigma_t), jnp.hypot(alpha_u, sigma_u)
    turn = jnp.arctan2(sigma_u, alpha_u) - jnp.arctan2(sigma_t, alpha_t)
    x0 = predict(x, t).x0
    eps = to_eps(alpha_t, sigma_t, x, x0)
    there = alpha_u * x0 + sigma_u * eps

    def corrected() -> Array:
        x0_u = predict(there, u).x0
        first = (alpha_t * eps - sigma_t * x0) / r_t
        last = (alpha_u * to_eps(alpha_u, sigma_u, there, x0_u) - sigma_u * x0_u) / r_u
        return r_u * (x / r_t + turn * 0.5 * (first + last))

    return (jax.lax.cond(u > 0, corrected, lambda: there),)


def _by_level(process, churn, noise, keys: Keys, predict: Predict, carry: tuple, t: Array, u: Array) -> tuple:
    (x,) = carry
    x, t = _churned(process, churn, noise, keys, x, t)
    alpha_t, sigma_t, alpha_u, sigma_u = process.alpha(t), process.sigma(t), process.alpha(u), process.sigma(u)
    x0 = predict(x, t).x0
    eps = to_eps(alpha_t, sigma_t, x, x0)
    there = alpha_u * x0 + sigma_u * eps

    def corrected() -> Array:
        at_u = to_eps(alpha_u, sigma_u, there, predict(there, u).x0)
        keep = alpha_u / alpha_t
        return keep * x + (sigma_u - keep * sigma_t) * 0.5 * (eps + at_u)

    return (jax.lax.cond((u > 0) & (alpha_t > 0), corrected, lambda: there),)


def _churned(process: Process, churn: Array, noise: Array, keys: Keys, x: Array, t: Array) -> tuple[Array, Array]:
    """(x, t) at a noise level 1 + churn times as high, at most that of t = 1."""
    higher = jnp.minimum(process.time(log_snr(process, t) - 2.0 * jnp.log1p(churn)), 1.0)
    higher = jnp.where((churn > 0) & (t < 1), jnp.maximum(higher, t), t)
    a, beta = forward(process, t, higher)
    keep, added = jnp.where(higher > t, a, 1.0), jnp.where(higher > t, jnp.sqrt(beta) * noise, 0.0)
    return keep * x + added * normal(keys, x.shape[1:], x.dtype), higher
