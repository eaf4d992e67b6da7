"""Priors of variational autoencoders: all are mixtures of Gaussians, p(z) = sum_c pi_c N(z; mu_c, diag sigma_c^2).

They differ in where the components come from: nowhere (`standard`), parameters (`mixture`), or the encoder (`vamp`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxgen.families.common import Gaussian
from jaxgen.losses.divergence import LOG_2PI
from jaxgen.types import Array, Batch, Keys, Tree, check, normal


class Mixture(NamedTuple):
    """log_weights [C], mean [C, D] and log_var [C, D] of C Gaussians."""

    log_weights: Array
    mean: Array
    log_var: Array


class Prior(NamedTuple):
    """init        (key, batch, latent) -> params
    components  (params, infer) -> Mixture; infer: x [C, ...] -> q(z|x), the encoder's
    standard    it is N(0, I): the KL then has a closed form
    encoded     its components come from the encoder
    """

    init: Callable[[Array, Batch, int], Tree]
    components: Callable[[Tree, Callable[[Array], Gaussian]], Mixture]
    standard: bool = False
    encoded: bool = False


def standard(latent: int) -> Prior:
    """N(0, I)."""

    def components(params: Tree, infer: Callable) -> Mixture:
        return Mixture(jnp.zeros(1), jnp.zeros((1, latent)), jnp.zeros((1, latent)))

    return Prior(lambda key, batch, latent: {}, components, standard=True)


def mixture(components: int, *, spread: float = 1.0) -> Prior:
    """Learned weights, means and variances of `components` Gaussians, their means drawn from N(0, spread^2) at first
    (Dilokthanakul et al. 2016, arXiv:1611.02648, for mixtures as priors)."""
    check(components >= 1, f"a mixture needs at least one component, it has {components}")

    def init(key: Array, batch: Batch, latent: int) -> Tree:
        mean = spread * jax.random.normal(key, (components, latent))
        return {"logits": jnp.zeros(components), "mean": mean, "log_var": jnp.zeros((components, latent))}

    def read(params: Tree, infer: Callable) -> Mixture:
        return Mixture(jax.nn.log_softmax(params["logits"]), params["mean"], params["log_var"])

    return Prior(init, read)


def vamp(components: int, *, mean: float = -1.0, std: float = 0.02) -> Prior:
    """p(z) = 1/C sum_c q(z | u_c), the u_c learned pseudo-inputs in [-1, 1]: the VampPrior (Tomczak and Welling 2017,
    arXiv:1705.07120, eq. 9). It is the encoder's own mixture, so that it follows the aggregated posterior.

    mean, std: of the pseudo-inputs at first, mean + |noise|: black images with faint noise. No condition: the encoder
    sees the pseudo-inputs alone.
    """
    check(components >= 1, f"the VampPrior needs at least one pseudo-input, it has {components}")

    def init(key: Array, batch: Batch, latent: int) -> Tree:
        # black is an end of the range: the noise goes to the inside
        u = mean + jnp.abs(std * jax.random.normal(key, (components, *batch.x.shape[1:])))
        return {"inputs": u}

    def read(params: Tree, infer: Callable) -> Mixture:
        u = params["inputs"]
        inside = u + jax.lax.stop_gradient(jnp.clip(u, -1.0, 1.0) - u)  # clipped, with a gradient that comes back
        return Mixture(jnp.full(components, -jnp.log(float(components))), *infer(inside))

    return Prior(init, read, encoded=True)


def log_prob(prior: Mixture, z: Array) -> Array:
    """log p(z): [..., D] -> nats [...]. One matrix product a term, (z - mu)^2 / sigma^2 multiplied out."""
    precision = jnp.exp(-prior.log_var)
    constant = prior.log_weights - 0.5 * jnp.sum(
        jnp.square(prior.mean) * precision + prior.log_var + LOG_2PI, axis=-1
    )  # [C]
    # The expanded square is a difference of large products: in the bfloat16 or TF32 that accelerators multiply in by
    # default it is off by up to a nat.
    linear, square = (
        jnp.matmul(a, b.T, precision=jax.lax.Precision.HIGHEST)
        for a, b in ((z, prior.mean * precision), (jnp.square(z), precision))
    )
    return jax.nn.logsumexp(linear - 0.5 * square + constant, axis=-1)


def draw(prior: Mixture, keys: Keys) -> Array:
    """z ~ p(z), [B, D]: row i from keys[i] alone."""

    def one(key: Array) -> Array:
        for_component, for_noise = jax.random.split(key)
        c = jax.random.categorical(for_component, prior.log_weights)
        eps = normal(for_noise[None], prior.mean.shape[1:])[0]
        return prior.mean[c] + jnp.exp(0.5 * prior.log_var[c]) * eps

    return jax.vmap(one)(keys)
