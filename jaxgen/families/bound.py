"""The variational bound of a diffusion model, in its three terms."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp

from jaxgen.conditions import condition_of
from jaxgen.families.common import folded
from jaxgen.losses.likelihood import total
from jaxgen.processes import check_gaussian, diffuse, forward, fraction_of, like, log_variance
from jaxgen.types import Array, Batch, Density, Keys, Model, Process, Tree, check, normal

IMAGES = 256  # at once


def variational_density(
    model: Model,
    *,
    steps: int = 1000,
    variance: Literal["own", "beta", "beta_tilde"] = "own",
    levels: int | None = None,
) -> Density:
    """-log p(x_0) <= L_T + sum_{i=2}^T L_{i-1} + L_0 on the grid t_i = i / T, T = steps, nats (Ho, Jain and Abbeel
    2020, arXiv:2006.11239, eq. 5):

        L_T = KL(q(x_T | x_0) || N(0, scale^2 I)),
        L_{i-1} = KL(q(x_{i-1} | x_i, x_0) || N(mu(x_i), V)), mu the posterior's mean of the estimate of x_0,
        L_0 = -log p(x_0 | x_1), a Gaussian around the estimate with variance sigma(t_1)^2.

    Each of k draws takes L_T and T times one of the other terms, the i-th of the terms spread evenly over the k draws:
    with k a multiple of T every term is there as often as any other.
    variance: V, as of `sampling.ddpm`, but beta_tilde where the model has learned none. levels: of pixels from -1 to 1,
    whose probability L_0 then integrates over their cells, the outer ones open (eq. 13); None: a density. InputError
    for a model that does not iterate.
    """
    check(model.process is not None, "the bound is of a model that iterates, this one draws in one step")
    check_gaussian(model.process, "this bound is of diffusion")  # type: ignore[arg-type]
    check(steps >= 1, f"a process has at least one step, not {steps}")
    chosen = fraction_of(variance)
    check(levels is None or levels >= 2, f"pixels have at least 2 levels, not {levels}")
    process: Process = model.process  # type: ignore[assignment]

    def log_p(params: Tree, extra: Tree, keys: Keys, batch: Batch, k: int) -> Array:
        predict = model.predict(params, extra, condition_of(model.condition, batch))
        u = jax.vmap(jax.random.uniform)(folded(keys, k))
        fixed = last_term(process, batch.x)

        def draw(j: Array) -> Array:
            i = jnp.floor(jnp.mod(u + j / k, 1.0) * steps) + 1.0
            t, s = i / steps, (i - 1.0) / steps
            x_t = diffuse(process, batch.x, normal(folded(keys, j), batch.x.shape[1:]), t)
            found = predict(x_t, t)
            own = 0.0 if found.fraction is None else found.fraction
            fraction = own if chosen < 0 else chosen
            return -(fixed + steps * step_term(process, batch.x, found.x0, t, s, fraction, levels))

        return jax.lax.map(draw, jnp.arange(k)).T

    what = "a density of what was trained on" if levels is None else f"a probability of pixels on {levels} levels"
    return Density(log_p, "bound", what, draws=IMAGES)


def last_term(process: Process, x0: Array) -> Array:
    """L_T, [B]: both are Gaussians."""
    one = jnp.ones(())
    ratio = jnp.square(process.sigma(one) / process.scale)
    squares = jnp.square(process.alpha(one) * x0 / process.scale)
    return 0.5 * total(ratio + squares - 1.0 - jnp.log(ratio))


def step_term(
    process: Process, x0: Array, estimate: Array, t: Array, s: Array, fraction: Array | float, levels: int | None
) -> Array:
    """L_{i-1} of the step from t to s, or L_0 where s = 0, [B]; fraction: of V, [B, ...], or a number, with which the
    variance of L_0 is beta."""
    last = fraction if jnp.ndim(fraction) > 0 else 1.0
    deviation = jnp.exp(0.5 * log_variance(process, t, s, last))
    between = kl_term(process, x0, estimate, t, s, fraction)
    return jnp.where(s > 0, between, decoder_term(x0, estimate, deviation, levels))


def kl_term(process: Process, x0: Array, estimate: Array, t: Array, s: Array, fraction: Array | float) -> Array:
    """L_{i-1}, [B], of the step from t to s > 0, log V = v log beta + (1 - v) log beta_tilde, v = `fraction`."""
    sigma_t, alpha_s = process.sigma(t), process.alpha(s)
    _, beta = forward(process, s, t)
    log_v = log_variance(process, t, s, fraction)
    log_ratio = like(log_variance(process, t, s, 0.0), x0) - like(log_v, x0)
    weight = like(jnp.square(alpha_s * beta / jnp.square(sigma_t)), x0) / jnp.exp(like(log_v, x0))
    spread = jnp.exp(log_ratio) - 1.0 - log_ratio
    return total(0.5 * (spread + weight * jnp.square(x0 - estimate)))


def decoder_term(x0: Array, estimate: Array, sigma: Array, levels: int | None) -> Array:
    """L_0, [B]."""
    sd = like(sigma, x0)
    if levels is None:
        return total(0.5 * jnp.square((x0 - estimate) / sd) + jnp.log(sd) + 0.5 * jnp.log(2.0 * jnp.pi))
    half = 1.0 / (levels - 1)
    above = jnp.where(x0 > 1.0 - half, jnp.inf, (x0 + half - estimate) / sd)
    below = jnp.where(x0 < -1.0 + half, -jnp.inf, (x0 - half - estimate) / sd)
    # of the two tails the one in which the cell lies, so that the difference does not cancel
    flip = above + below > 0
    low, high = jnp.where(flip, -above, below), jnp.where(flip, -below, above)
    log_high, log_low = jax.scipy.stats.norm.logcdf(high), jax.scipy.stats.norm.logcdf(low)
    gap = jnp.where(jnp.isfinite(log_low), log_low - log_high, -jnp.inf)
    return -total(log_high + jnp.log(-jnp.expm1(jnp.minimum(gap, -1e-7))))
