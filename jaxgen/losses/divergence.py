"""Densities of Gaussians and divergences between distributions, given by parameters or by samples: nats."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from jaxgen.losses.likelihood import total
from jaxgen.types import Array, check

LOG_2PI = math.log(2.0 * math.pi)


def kl_standard_normal(mean: Array, log_var: Array) -> Array:
    """KL(N(mean, diag exp log_var) || N(0, I)) = 1/2 sum_j (mean_j^2 + exp(log_var_j) - 1 - log_var_j).

    mean, log_var: [B, D] -> nats [B] (Kingma and Welling 2013, arXiv:1312.6114, appendix B).
    """
    return total(kl_standard_normal_parts(mean, log_var))


def kl_standard_normal_parts(mean: Array, log_var: Array) -> Array:
    """The terms of `kl_standard_normal`'s sum, [..., D]."""
    return 0.5 * (jnp.square(mean) + jnp.exp(log_var) - 1.0 - log_var)


def kl_gaussians_parts(mean: Array, log_var: Array, to_mean: Array, to_log_var: Array) -> Array:
    """KL(N(mean_j, exp log_var_j) || N(to_mean_j, exp to_log_var_j)) of each dimension: [..., D]."""
    ratio = jnp.exp(log_var - to_log_var)
    return 0.5 * (jnp.square(mean - to_mean) * jnp.exp(-to_log_var) + ratio - 1.0 + to_log_var - log_var)


def log_normal_parts(z: Array, mean: Array | float = 0.0, log_var: Array | float = 0.0) -> Array:
    """log N(z_j; mean_j, exp log_var_j) of each dimension: [..., D]."""
    return -0.5 * (jnp.square(z - mean) * jnp.exp(-jnp.asarray(log_var)) + log_var + LOG_2PI)


def log_normal(z: Array, mean: Array | float = 0.0, log_var: Array | float = 0.0) -> Array:
    """log N(z; mean, diag exp log_var) over the last axis: [..., D] -> [...]."""
    return jnp.sum(log_normal_parts(z, mean, log_var), axis=-1)


def mmd(x: Array, y: Array) -> Array:
    """The unbiased estimate of the squared maximum mean discrepancy: mean_{i != j} k(x_i, x_j) +
    mean_{i != j} k(y_i, y_j) - 2 mean_ij k(x_i, y_j) (Gretton et al. 2012, eq. 3): x [N, D], y [M, D] -> [].

    k(a, b) = sum_s s C / (s C + |a - b|^2) over s in {0.1, 0.2, 0.5, 1, 2, 5, 10}, C = 2 D, the inverse multiquadratic
    kernels of Tolstikhin et al. 2017 (arXiv:1711.01558, section 4).
    """
    smallest = min(x.shape[0], y.shape[0])
    check(smallest >= 2, f"an MMD needs at least 2 examples of each kind, there is {smallest}: raise the batch")
    c = 2.0 * x.shape[1]

    def k(a: Array, b: Array) -> Array:
        squared = jnp.sum(jnp.square(a[:, None] - b[None]), axis=-1)
        return sum((s * c / (s * c + squared) for s in (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)), start=jnp.zeros(()))

    def others(a: Array) -> Array:
        n = a.shape[0]
        return (jnp.sum(k(a, a)) - 7.0 * n) / (n * (n - 1))  # the diagonal is 7, one a kernel

    return others(x) + others(y) - 2.0 * jnp.mean(k(x, y))


def total_correlation(z: Array, mean: Array, log_var: Array, size: int, own: Array | None = None) -> Array:
    """log q(z_b) - sum_j log q(z_bj), whose mean is TC = KL(q(z) || prod_j q(z_j)) (Watanabe 1960), nats [b].

    q(z_b) = 1/N q(z_b | x_b) + (N - 1)/N mean_{i != b} q(z_b | x_i) over the minibatch of B: unbiased before the
    logarithm, exact where the minibatch is the data set (Chen et al. 2018, arXiv:1802.04942, appendix C.2, their
    stratified weights with the remainder spread evenly). z [b, D]: z_b drawn from N(mean_b, exp log_var_b); mean,
    log_var [B, D] of the minibatch, of which the rows `own` [b] belong to z, all by default; size: N, the
    examples of the data set.
    """
    b = mean.shape[0]
    check(2 <= b <= size, f"a total correlation needs a minibatch of 2 to {size} examples, the data set's, it has {b}")
    own = jnp.arange(b) if own is None else own
    parts = log_normal_parts(z[:, None], mean[None], log_var[None])  # [b, B, D]
    others = math.log((size - 1) / (size * (b - 1)))
    weight = jnp.where(own[:, None] == jnp.arange(b), -math.log(size), others)  # logarithms
    joint = jax.nn.logsumexp(jnp.sum(parts, axis=-1) + weight, axis=1)
    return joint - jnp.sum(jax.nn.logsumexp(parts + weight[..., None], axis=1), axis=-1)
