"""The DDIM solver (Song, Meng and Ermon 2021, arXiv:2010.02502)."""

from __future__ import annotations

import jax.numpy as jnp
from jax.tree_util import Partial

from jaxgen.processes import forward, to_eps
from jaxgen.types import Array, Keys, Predict, Process, Solver, normal


def ddim(process: Process, eta: float = 0.0) -> Solver:
    """x_u = alpha_u x_0 + sqrt(sigma_u^2 - c^2) eps + c z, with
    c = eta (sigma_u / sigma_t) sqrt(sigma_t^2 - (alpha_t / alpha_u)^2 sigma_u^2)   (eq. 12 and 16).

    eta = 0 is a first-order solver of the probability flow and can also run from data to noise; eta = 1 is
    DDPM's ancestral sampler with the smaller variance.
    """
    return Solver(init=Partial(_init), step=Partial(_step, process, jnp.asarray(eta, jnp.float32)))


def _init(noise: Array) -> tuple:
    return (noise,)


def _step(process: Process, eta: Array, keys: Keys, predict: Predict, carry: tuple, t: Array, u: Array) -> tuple:
    (x,) = carry
    alpha_t, sigma_t, alpha_u, sigma_u = process.alpha(t), process.sigma(t), process.alpha(u), process.sigma(u)
    x0 = predict(x, t).x0
    eps = to_eps(alpha_t, sigma_t, x, x0)
    c = eta * sigma_u / sigma_t * jnp.sqrt(forward(process, u, t)[1])  # 0 in an inversion, u > t
    return (
        alpha_u * x0 + jnp.sqrt(jnp.maximum(sigma_u**2 - c**2, 0.0)) * eps + c * normal(keys, x.shape[1:], x.dtype),
    )
