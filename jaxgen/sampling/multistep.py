"""DPM-Solver++: exponential multistep solvers in the log-SNR, of the flow and of the reverse diffusion."""

from __future__ import annotations

import jax.numpy as jnp
from jax.tree_util import Partial

from jaxgen.processes import log_snr
from jaxgen.types import Array, Keys, Predict, Process, Solver, check, normal


def multistep(process: Process, order: int = 2, eta: float = 0.0) -> Solver:
    """With l = log(alpha / sigma), h = l_u - l_t and c = 1 + eta,

        x_u = (sigma_u / sigma_t) e^(-eta h) x_t + alpha_u int_0^h c e^(-c (h - s)) D(s) ds
              + sigma_u sqrt(1 - e^(-2 eta h)) z,

    D the estimate of x_0 along the way, extrapolated through those of the last `order` steps: one evaluation a step.
    Order 1 is DDIM; order 2 is DPM-Solver++(2M), and with eta = 1 SDE-DPM-Solver++(2M), in their published form, which
    takes the slope's integral as c h / 2 times that of a constant (Lu et al. 2022, arXiv:2211.01095, algorithm 2 and
    appendix); order 3 integrates the parabola. eta: 0 the probability flow, 1 the reverse diffusion. The first steps
    are of the orders that they have estimates for, the last one, to t = 0, is the estimate itself.
    """
    check(order in (1, 2, 3), f"multistep solvers are of order 1, 2 or 3, not {order}")
    check(eta >= 0, f"eta must not be negative, it is {eta}")
    return Solver(Partial(_init), Partial(_step, process, jnp.asarray(order, jnp.int32), jnp.asarray(eta, jnp.float32)))


def _init(noise: Array) -> tuple:
    nothing, zero = jnp.zeros_like(noise), jnp.zeros(())
    return noise, nothing, zero, nothing, zero, jnp.zeros((), jnp.int32)


def _step(process, order, eta, keys: Keys, predict: Predict, carry: tuple, t: Array, u: Array) -> tuple:
    x, d1, h1, d2, h2, made = carry  # the last estimate and the one before, each with the step that followed it
    h = 0.5 * (log_snr(process, u) - log_snr(process, t))
    d0 = predict(x, t).x0
    slope = jnp.where(made > 0, _over(d0 - d1, h1), 0.0)
    bend = jnp.where((made > 1) & (order > 2), _over(slope - _over(d1 - d2, h2), h1 + h2), 0.0)
    c, ends = 1.0 + eta, ~jnp.isfinite(h)  # of infinite steps, from alpha = 0 or to sigma = 0, what is left is d0
    inside = jnp.where(ends, 1.0, h)
    share = -jnp.expm1(-c * inside)
    published = share * inside / 2.0  # of the slope, second order
    exact = inside - share / c  # of the slope at the end of a parabola, third order
    by_slope = jnp.where(order == 2, published, exact)
    by_bend = jnp.square(inside) - 2.0 * inside / c + 2.0 * share / c**2
    before = jnp.where(jnp.isfinite(h1), h1, 0.0)
    curved = by_slope * (slope + bend * before) + by_bend * bend
    estimate = jnp.where(ends, d0, share * d0 + jnp.where(order > 1, curved, 0.0))
    fresh = jnp.where(ends & (eta > 0), 1.0, -jnp.expm1(-2.0 * eta * inside))
    decay = jnp.where(ends & (eta > 0), 0.0, jnp.exp(-eta * inside))
    noise = process.sigma(u) * jnp.sqrt(fresh) * normal(keys, x.shape[1:], x.dtype)
    x = process.sigma(u) / process.sigma(t) * decay * x + process.alpha(u) * estimate + noise
    return x, d0, h, d1, h1, made + 1


def _over(difference: Array, h: Array) -> Array:
    """A slope over a step that may be infinite, or not have been made."""
    return difference / jnp.where(h == 0, jnp.inf, h)
