"""The ancestral sampler of DDPM (Ho, Jain and Abbeel 2020, arXiv:2006.11239, algorithm 2), on any grid of times."""

from __future__ import annotations

import jax.numpy as jnp
from jax.tree_util import Partial

from jaxgen.processes import forward, fraction_of, log_variance
from jaxgen.types import Array, Keys, Predict, Process, Solver, normal


def ddpm(process: Process, variance: str = "own") -> Solver:
    """x_u ~ N(mu, V), u < t, with a = alpha_t / alpha_u and beta = sigma_t^2 - a^2 sigma_u^2:

    mu = (a sigma_u^2 / sigma_t^2) x_t + (alpha_u beta / sigma_t^2) x_0   (eq. 7)
    V = beta ("beta", best for x_0 ~ N(0, I)) or beta sigma_u^2 / sigma_t^2 ("beta_tilde", best for a fixed x_0),
    section 3.2; "own": between them as the model has learned, beta where it has not (Nichol and Dhariwal 2021,
    arXiv:2102.09672, eq. 15). The last step, to u = 0, adds no noise.
    """
    fraction = jnp.asarray(fraction_of(variance), jnp.float32)  # a number, so that another one compiles nothing anew
    return Solver(Partial(_init), Partial(_step, process, fraction))


def _init(noise: Array) -> tuple:
    return (noise,)


def _step(process, fraction, keys: Keys, predict: Predict, carry: tuple, t: Array, u: Array) -> tuple:
    (x,) = carry
    found = predict(x, t)
    own = 1.0 if found.fraction is None else found.fraction
    a, beta = forward(process, u, t)
    sigma_t, alpha_u, sigma_u = process.sigma(t), process.alpha(u), process.sigma(u)
    mu = a * (sigma_u / sigma_t) ** 2 * x + alpha_u * beta / sigma_t**2 * found.x0
    deviation = jnp.exp(0.5 * log_variance(process, t, u, jnp.where(fraction < 0, own, fraction)))
    return (mu + jnp.where(u > 0, deviation, 0.0) * normal(keys, x.shape[1:], x.dtype),)
