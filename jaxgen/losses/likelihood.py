"""Log-likelihoods log p(x | parameters): [B, ...] arrays in, nats [B] out, summed over every other axis."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxgen.types import Array, check


def total(x: Array) -> Array:
    """Sum over every axis but the first, in float32: [B, ...] -> [B]."""
    return jnp.sum(x.astype(jnp.float32), axis=tuple(range(1, x.ndim)))


class Likelihood(NamedTuple):
    """How a decoder's output describes an image. `log_prob(x, output) -> nats [B]`, x in [-1, 1];
    `mean(output)`: the image itself."""

    log_prob: Callable[[Array, Array], Array]
    mean: Callable[[Array], Array]


def bernoulli() -> Likelihood:
    """log p(x) = sum_i y_i log p_i + (1 - y_i) log(1 - p_i), with p = sigmoid(output) and y = (x + 1) / 2 in [0, 1].

    For grey y it is the usual cross-entropy objective, not a normalised density (Kingma and Welling 2013,
    arXiv:1312.6114, appendix C.1; Loaiza-Ganem and Cunningham 2019, arXiv:1907.06845, on the difference).
    """

    def log_prob(x: Array, logits: Array) -> Array:
        y, logits = (x + 1.0) / 2.0, logits.astype(jnp.float32)
        return total(y * jax.nn.log_sigmoid(logits) + (1.0 - y) * jax.nn.log_sigmoid(-logits))

    return Likelihood(log_prob, mean=lambda logits: 2.0 * jax.nn.sigmoid(logits.astype(jnp.float32)) - 1.0)


def gaussian(sigma: float = 1.0) -> Likelihood:
    """log p(x) = -sum_i (x_i - mu_i)^2 / (2 sigma^2) - D/2 log(2 pi sigma^2), mu the output, x in [-1, 1].

    At sigma = 1 the gradient is that of half the squared error (Kingma and Welling 2013, appendix C.2).
    """
    check(sigma > 0, f"sigma must be positive, it is {sigma}")

    def log_prob(x: Array, mu: Array) -> Array:
        return total(-0.5 * jnp.square((x - mu) / sigma) - math.log(sigma) - 0.5 * math.log(2.0 * math.pi))

    return Likelihood(log_prob, mean=lambda mu: mu.astype(jnp.float32))
