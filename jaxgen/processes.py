"""Diffusion processes, x_t = alpha(t) x_0 + sigma(t) eps with eps ~ N(0, I), and the algebra of their predictions.

Times are continuous, t in [0, 1]; a discrete process of T steps (Ho et al. 2020, arXiv:2006.11239) is the same
process on the grid t = i / T. A process is a pytree of numbers with static functions, so it passes through `jit` as an
argument.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from jaxgen.types import Array, Process, check


def from_betas(betas, clip: float = 1.0) -> Process:
    """The variance-preserving process with steps q(x_i | x_{i-1}) = N(sqrt(1 - beta_i) x_{i-1}, beta_i I).

    alpha(i/T)^2 = prod_{j <= i} (1 - beta_j) exactly (Ho et al. 2020, eq. 4); between the grid's points
    log alpha is interpolated linearly, which is what a constant beta within each step gives. clip: of x_0 estimates,
    see `Process`; infinity for points and codes.
    """
    betas = np.asarray(betas, np.float64)
    check(
        betas.ndim == 1 and betas.size > 0 and bool(np.all((betas > 0) & (betas < 1))),
        "betas must be a non-empty vector with every entry inside (0, 1)",
    )
    log_alpha = np.concatenate([[0.0], 0.5 * np.cumsum(np.log1p(-betas))])
    table = jnp.asarray(log_alpha, jnp.float32)
    check(clip > 0, f"clip, the largest value of x_0, must be positive, it is {clip}")
    alpha, sigma, time = (Partial(function, table) for function in (_alpha, _sigma, _time))
    return Process(alpha, sigma, time, clip=jnp.asarray(clip, jnp.float32))


def linear(steps: int = 1000, first: float = 1e-4, last: float = 0.02, *, clip: float = 1.0) -> Process:
    """beta_i from `first` to `last` in `steps` equal increments (Ho et al. 2020, arXiv:2006.11239, section 4)."""
    return from_betas(np.linspace(first, last, steps), clip)


def cosine(steps: int = 1000, s: float = 0.008, *, clip: float = 1.0) -> Process:
    """alpha(t)^2 = cos^2((t + s) / (1 + s) pi / 2), normalised to 1 at 0, every beta clipped at 0.999
    (Nichol and Dhariwal 2021, arXiv:2102.09672, eq. 17)."""
    f = np.cos((np.linspace(0.0, 1.0, steps + 1) + s) / (1 + s) * np.pi / 2) ** 2
    return from_betas(np.clip(1.0 - f[1:] / f[:-1], 1e-12, 0.999), clip)


def _log_alpha(table: Array, t: Array) -> Array:
    steps = table.shape[0] - 1
    return jnp.interp(t * steps, jnp.arange(steps + 1, dtype=jnp.float32), table)


def _alpha(table: Array, t: Array) -> Array:
    return jnp.exp(_log_alpha(table, t))


def _sigma(table: Array, t: Array) -> Array:
    # sqrt(1 - alpha^2) without cancellation near t = 0
    return jnp.sqrt(-jnp.expm1(2.0 * _log_alpha(table, t)))


def _time(table: Array, log_snr: Array) -> Array:
    # log alpha falls with t; alpha^2 = sigmoid(log SNR) where alpha^2 + sigma^2 = 1
    steps = table.shape[0] - 1
    return jnp.interp(0.5 * -jnp.logaddexp(0.0, -log_snr), table[::-1], jnp.linspace(1.0, 0.0, steps + 1))


def log_snr(process: Process, t: Array) -> Array:
    """log(alpha(t)^2 / sigma(t)^2), the inverse of `process.time`."""
    return 2.0 * (jnp.log(process.alpha(t)) - jnp.log(process.sigma(t)))


def like(scale: Array, x: Array) -> Array:
    """A scalar or a [B] vector, shaped to multiply x: [B, ...]."""
    return scale if jnp.ndim(scale) == 0 else jnp.reshape(scale, scale.shape + (1,) * (x.ndim - scale.ndim))


def diffuse(process: Process, x0: Array, eps: Array, t: Array) -> Array:
    """x_t = alpha(t) x_0 + sigma(t) eps (Ho et al. 2020, eq. 4). x0, eps: [B, ...]; t: [B] or a scalar."""
    return like(process.alpha(t), x0) * x0 + like(process.sigma(t), x0) * eps


class Parametrisation(NamedTuple):
    """What a denoiser's output means: its regression target, and the x_0 that an output stands for.

    target(alpha, sigma, x0, eps) -> what the network should give
    to_x0(alpha, sigma, x_t, output) -> x_0
    """

    target: Callable[[Array, Array, Array, Array], Array]
    to_x0: Callable[[Array, Array, Array, Array], Array]


PARAMETRISATIONS = {
    # Ho et al. 2020, eq. 11 and 15
    "eps": Parametrisation(lambda a, s, x0, eps: eps, lambda a, s, x, out: (x - s * out) / a),
    "x0": Parametrisation(lambda a, s, x0, eps: x0, lambda a, s, x, out: out),
    # v = alpha eps - sigma x_0 (Salimans and Ho 2022, arXiv:2202.00512, section 4)
    "v": Parametrisation(
        lambda a, s, x0, eps: a * eps - s * x0, lambda a, s, x, out: (a * x - s * out) / (a**2 + s**2)
    ),
}


def parametrisation(name: str) -> Parametrisation:
    """The parametrisation of that name: 'eps', 'x0' or 'v'."""
    check(name in PARAMETRISATIONS, f"unknown prediction {name!r}: choose one of {', '.join(PARAMETRISATIONS)}")
    return PARAMETRISATIONS[name]


def to_eps(alpha: Array, sigma: Array, x_t: Array, x0: Array) -> Array:
    """eps = (x_t - alpha x_0) / sigma: the noise in x_t if its clean image is x_0."""
    return (x_t - alpha * x0) / sigma
