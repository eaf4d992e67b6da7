"""Objectives of variational autoencoders: what is minimised, as a function of K latents drawn for each example.

A new objective is one function returning `(terms, turn) -> (loss [B], metrics)`, used as `families.vae(...,
objective=...)`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxgen.losses.divergence import mmd, total_correlation
from jaxgen.types import Array, Turn, check


class Terms(NamedTuple):
    """Of z_1, ..., z_K ~ q(z|x), nats:

    log_px, log_pz, log_qz   [B, K] log p(x|z), log p(z), log q(z|x)
    kl                       [B, G] KL(q(z|x) || p(z)) in G parts that add up to it: the dimensions, in closed form, for
                             a Gaussian posterior and prior; else one part, the mean of log q(z|x) - log p(z)
    z                        [B, K, D] the latents
    mu, log_var              [B, D] of q(z|x) = N(mu, diag exp log_var); None where q(z|x) is no such Gaussian
    prior                    [B, D] as many draws of p(z)
    """

    log_px: Array
    log_pz: Array
    log_qz: Array
    kl: Array
    z: Array
    mu: Array | None
    log_var: Array | None
    prior: Array

    @property
    def log_w(self) -> Array:
        """log p(x, z) - log q(z|x), [B, K]."""
        return self.log_px + self.log_pz - self.log_qz


Objective = Callable[[Terms, Turn], tuple[Array, dict[str, Array]]]


def elbo(*, beta: float = 1.0, distortion: float = 1.0, warmup: int = 0, free_bits: float = 0.0) -> Objective:
    """-distortion E_q log p(x|z) + beta_t sum_j max(free_bits, KL_j): the negative ELBO where all is at its default
    (Kingma and Welling 2013, arXiv:1312.6114, eq. 3).

    beta: weight of the KL term (Higgins et al. 2017); beta = 0 is a noisy autoencoder, distortion = 0 the KL alone.
    warmup: steps over which beta_t rises from 0 to beta (Bowman et al. 2015, arXiv:1511.06349; Sonderby et al. 2016,
    arXiv:1602.02282). free_bits: nats that every part of the KL, averaged over the minibatch, may hold without cost
    (Kingma et al. 2016, arXiv:1606.04934, appendix C.8).
    """
    check(beta >= 0 and distortion >= 0, f"weights must not be negative, they are {beta} and {distortion}")
    check(warmup >= 0 and free_bits >= 0, f"warmup {warmup} and free_bits {free_bits} must not be negative")

    def objective(terms: Terms, turn: Turn) -> tuple[Array, dict[str, Array]]:
        parts = terms.kl
        if free_bits > 0:
            held = jnp.mean(turn.gather(parts), axis=0) < free_bits  # constant there: no gradient squeezes them further
            parts = jnp.where(held, free_bits, parts)
        rate = jnp.sum(parts, axis=1)
        return distortion * -jnp.mean(terms.log_px, axis=1) + beta * warm(turn.step, warmup) * rate, _metrics(terms)

    return objective


def iwae() -> Objective:
    """-log 1/K sum_k p(x, z_k) / q(z_k|x), K the `samples` of the family (Burda, Grosse and Salakhutdinov 2015,
    arXiv:1509.00519, eq. 8): at K = 1 the negative ELBO, tighter with every sample."""
    return lambda terms, turn: (-log_mean_exp(terms.log_w), _metrics(terms))


def info(*, alpha: float = 0.0, scale: float = 100.0) -> Objective:
    """-E_q log p(x|z) + (1 - alpha) KL(q(z|x) || p(z)) + (alpha + scale - 1) MMD(q(z), p(z)): InfoVAE (Zhao, Song and
    Ermon 2017, arXiv:1706.02262, eq. 6), its divergence the maximum mean discrepancy over the minibatch.

    alpha = 0, scale = 1 is the negative ELBO, alpha = 1 leaves the MMD alone (their MMD-VAE). The minibatch has to be
    large enough to show q(z): 100 and more. The estimate's noise is multiplied too: with a scale of 1,000 on the 8x8
    digits it drowned the distortion, and every code became a draw of the prior.
    """
    check(alpha + scale >= 1, f"alpha + scale - 1, the weight of the MMD, must not be negative: {alpha} and {scale}")

    def objective(terms: Terms, turn: Turn) -> tuple[Array, dict[str, Array]]:
        discrepancy = jnp.broadcast_to(mmd(*turn.gather((terms.z[:, 0], terms.prior))), terms.kl.shape[:1])
        loss = -jnp.mean(terms.log_px, axis=1) + (1.0 - alpha) * jnp.sum(terms.kl, axis=1)
        return loss + (alpha + scale - 1.0) * discrepancy, {**_metrics(terms), "mmd": discrepancy}

    return objective


def tc(size: int, *, beta: float = 6.0) -> Objective:
    """-E_q log p(x|z) + I(x; z) + beta TC(z) + sum_j KL(q(z_j) || p(z_j)): beta-TCVAE (Chen et al. 2018,
    arXiv:1802.04942, eq. 4), TC estimated over the minibatch as `divergence.total_correlation` says.

    size: examples of the data set. beta = 1 is the negative ELBO, whatever the estimate of TC. InputError where q(z|x)
    is not one Gaussian, after a flow or of several layers: the TC of z needs its density.
    """
    check(size >= 1 and beta >= 0, f"size {size} and beta {beta}: give the data set's size and a weight of at least 0")

    def objective(terms: Terms, turn: Turn) -> tuple[Array, dict[str, Array]]:
        gaussian = terms.mu is not None and terms.log_var is not None
        check(gaussian, "a total correlation needs a Gaussian q(z|x): leave the flow out, or take FactorVAE's critic")
        mu, log_var = turn.gather((terms.mu, terms.log_var))
        correlation = total_correlation(terms.z[:, 0], mu, log_var, size, turn.own)
        loss = -jnp.mean(terms.log_px, axis=1) + jnp.sum(terms.kl, axis=1)
        return loss + (beta - 1.0) * correlation, {**_metrics(terms), "tc": correlation}

    return objective


def warm(step: Array, steps: int) -> Array:
    """min(1, (step + 1) / steps), or 1 with steps = 0: the weight of a term that is warmed up."""
    return jnp.minimum(1.0, (step + 1.0) / max(steps, 1)) if steps else jnp.ones(())


def log_mean_exp(log_w: Array) -> Array:
    """log 1/K sum_k exp(log_w_k) over the last axis."""
    return jax.nn.logsumexp(log_w, axis=-1) - jnp.log(float(log_w.shape[-1]))


def _metrics(terms: Terms) -> dict[str, Array]:
    return {"distortion": -jnp.mean(terms.log_px, axis=1), "kl": jnp.sum(terms.kl, axis=1)}
