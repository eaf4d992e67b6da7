"""A perceptual distance as a part of an autoencoder's loss."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp

from jaxgen.losses.likelihood import Likelihood, total
from jaxgen.types import Array, check

Distance = Callable[[Array, Array], Array]
"""(x, y) -> [B]: of images [B, H, W, C] in [-1, 1], one by one; differentiable."""


def of_features(features: Callable[[Array], Array]) -> Distance:
    """d(x, y) = mean_j (f_j(x) - f_j(y))^2 of features f: [B, H, W, C] in [-1, 1] -> [B, ...], such as a hidden layer
    of a classifier of the data themselves, where LPIPS' photographs are far away (Johnson, Alahi and Fei-Fei 2016,
    arXiv:1603.08155, eq. 2). Scores in the same features no longer measure what was trained with them."""

    def distance(x: Array, y: Array) -> Array:
        squares = jnp.square(features(x) - features(y))
        return total(squares) / squares[0].size

    return distance


def perceptual(distance: Distance, weight: float = 1.0) -> Likelihood:
    """-sum_i (x_i - mu_i)^2 - weight D d(x, mu), mu the output, D the numbers of an image and d a `Distance` such as
    `metrics.lpips.lpips`: the mean squared error and weight times d an image, in the units of the sum (after Johnson,
    Alahi and Fei-Fei 2016, arXiv:1603.08155, section 3; Rombach et al. 2022, arXiv:2112.10752, section 3.1, with
    LPIPS).

    An objective, no density. The squares keep the colours, which d alone leaves loose. Inside a family the distance's
    weights are constants of the compiled step: 10 MB of AlexNet, 59 MB of VGG16.
    """
    check(weight >= 0, f"the weight of a distance must not be negative, it is {weight}")

    def log_prob(x: Array, mu: Array) -> Array:
        mu = mu.astype(jnp.float32)
        return -total(jnp.square(x - mu)) - weight * x[0].size * distance(x, mu)

    return Likelihood(log_prob, mean=lambda mu: mu.astype(jnp.float32), measure="")
