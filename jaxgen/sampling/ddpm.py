"""The ancestral sampler of DDPM (Ho, Jain and Abbeel 2020, arXiv:2006.11239, algorithm 2), on any grid of times."""

from __future__ import annotations

import jax.numpy as jnp
from jax.tree_util import Partial

from jaxgen.processes import forward
from jaxgen.types import Array, Keys, Predict, Process, Solver, check, normal


def ddpm(process: Process, variance: str = "beta") -> Solver:
    """x_u ~ N(mu, V), u < t, with a = alpha_t / alpha_u and beta = sigma_t^2 - a^2 sigma_u^2:

    mu = (a sigma_u^2 / sigma_t^2) x_t + (alpha_u beta / sigma_t^2) x_0   (eq. 7)
    V = beta ("beta", best for x_0 ~ N(0, I)) or beta sigma_u^2 / sigma_t^2 ("beta_tilde", best for a fixed x_0);
    section 3.2. The last step, to u = 0, adds no noise.
    """
    check(variance in ("beta", "beta_tilde"), f"variance must be 'beta' or 'beta_tilde', it is {variance!r}")
    small = jnp.asarray(variance == "beta_tilde", jnp.float32)
    return Solver(init=Partial(_init), step=Partial(_step, process, small))


def _init(noise: Array) -> tuple:
    return (noise,)


def _step(process: Process, small: Array, keys: Keys, predict: Predict, carry: tuple, t: Array, u: Array) -> tuple:
    (x,) = carry
    sigma_t, alpha_u, sigma_u = process.sigma(t), process.alpha(u), process.sigma(u)
    a, beta = forward(process, u, t)
    mu = a * (sigma_u / sigma_t) ** 2 * x + alpha_u * beta / sigma_t**2 * predict(x, t).x0
    deviation = jnp.sqrt(beta) * jnp.where(small > 0, sigma_u / sigma_t, 1.0)
    return (mu + jnp.where(u > 0, deviation, 0.0) * normal(keys, x.shape[1:], x.dtype),)
