"""Divergences between distributions given by their parameters: nats [B]."""

from __future__ import annotations

import jax.numpy as jnp

from jaxgen.losses.likelihood import total
from jaxgen.types import Array


def kl_standard_normal(mean: Array, log_var: Array) -> Array:
    """KL(N(mean, diag exp log_var) || N(0, I)) = 1/2 sum_j (mean_j^2 + exp(log_var_j) - 1 - log_var_j).

    mean, log_var: [B, D] -> nats [B] (Kingma and Welling 2013, arXiv:1312.6114, appendix B).
    """
    return 0.5 * total(jnp.square(mean) + jnp.exp(log_var) - 1.0 - log_var)
