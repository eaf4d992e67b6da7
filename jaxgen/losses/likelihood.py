"""Log-likelihoods log p(x | parameters): [B, ...] arrays in, nats [B] out, summed over every other axis."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.types import Array, check


def total(x: Array) -> Array:
    """Sum over every axis but the first, in float32: [B, ...] -> [B]."""
    flat = x.astype(jnp.float32).reshape(x.shape[0], -1)
    # a product with ones: XLA on the CPU fuses what comes before into a plain sum and then computes its exponentials
    # and logarithms one by one, several times as slowly as in vectors (`benchmarks/likelihood.py`)
    return jnp.dot(flat, jnp.ones(flat.shape[1]), precision=jax.lax.Precision.HIGHEST)


LOG_SCALE_RANGE = 7.0  # |log of a predicted scale| stays below this, smoothly: its exponential is never 0 nor infinite


class Likelihood(NamedTuple):
    """How a decoder's output describes an image. `log_prob(x, output) -> nats [B]`, x in [-1, 1]; `mean(output)`: the
    image itself; outputs: channels of the output for each channel of x; ranged: it takes x from -1 to 1 only;
    binary: it is a probability of black and white pixels only, an objective for grey ones; measure: what
    exp(log_prob) is, in words, "" where it is nothing that adds up to 1."""

    log_prob: Callable[[Array, Array], Array]
    mean: Callable[[Array], Array]
    outputs: int = 1
    ranged: bool = False
    binary: bool = False
    measure: str = "a density of pixels from -1 to 1"


def check_support(likelihood: Likelihood, x: Any) -> None:
    """InputError for pixels outside the likelihood's support. x: as a data set gives it; uint8 always fits."""
    if likelihood.ranged and x.dtype != np.uint8:
        x = np.asarray(x)
        worst = x.ravel()[np.argmax(np.abs(np.nan_to_num(x, nan=np.inf)))] if x.size else 0.0
        check(
            abs(worst) <= 1.0,  # false for NaN too
            f"a pixel is {worst:.6g}, this likelihood takes -1 to 1 (0 to 1 as y = (x + 1) / 2): scale the data",
        )


def check_probability(likelihood: Likelihood, x: Any) -> None:
    """InputError where exp(log_prob) does not add up to 1 over all images: grey pixels under a likelihood of black and
    white ones, and one whose parameters depend on the image. x: as a data set gives it, uint8 or in [-1, 1]."""
    check(likelihood.measure != "", "this likelihood is an objective, no density: its probabilities do not add up to 1")
    if likelihood.binary:
        ends = (0, 255) if x.dtype == np.uint8 else (-1.0, 1.0)
        grey = bool(np.any(~np.isin(np.asarray(x), ends)))
        check(not grey, "a Bernoulli likelihood of grey pixels is no probability: give binary images (binary_mnist)")


def bernoulli() -> Likelihood:
    """log p(x) = sum_i y_i log p_i + (1 - y_i) log(1 - p_i), with p = sigmoid(output) and y = (x + 1) / 2 in [0, 1].

    For grey y it is the usual cross-entropy objective, not a normalised density (Kingma and Welling 2013,
    arXiv:1312.6114, appendix C.1; Loaiza-Ganem and Cunningham 2019, arXiv:1907.06845, on the difference).
    """

    def log_prob(x: Array, logits: Array) -> Array:
        y, logits = (x + 1.0) / 2.0, logits.astype(jnp.float32)
        # y log p + (1 - y) log(1 - p) with one exponential and one logarithm: importance weights are mostly this
        return total(y * logits - jnp.maximum(logits, 0.0) - jnp.log1p(jnp.exp(-jnp.abs(logits))))

    def mean(logits: Array) -> Array:
        return 2.0 * jax.nn.sigmoid(logits.astype(jnp.float32)) - 1.0

    return Likelihood(log_prob, mean, ranged=True, binary=True, measure="a probability of binary pixels")


def gaussian(sigma: float = 1.0) -> Likelihood:
    """log p(x) = -sum_i (x_i - mu_i)^2 / (2 sigma^2) - D/2 log(2 pi sigma^2), mu the output, x in [-1, 1].

    At sigma = 1 the gradient is that of half the squared error (Kingma and Welling 2013, appendix C.2).
    """
    check(sigma > 0, f"sigma must be positive, it is {sigma}")

    def log_prob(x: Array, mu: Array) -> Array:
        return total(-0.5 * jnp.square((x - mu) / sigma) - math.log(sigma) - 0.5 * math.log(2.0 * math.pi))

    return Likelihood(log_prob, mean=lambda mu: mu.astype(jnp.float32))


def learned_gaussian(smallest: float = 1.0 / 16.0) -> Likelihood:
    """The Gaussian whose mu and sigma of every pixel are the output, [..., 2 C], sigma = smallest + exp(second half)
    (Kingma and Welling 2013, appendix C.2).

    smallest: pixels that hardly vary would draw sigma to 0 and the density, with its gradient, to infinity, at the
    expense of all the others; half a step between the data's values is a sound bound.
    """
    check(smallest > 0, f"the smallest sigma must be positive, it is {smallest}")

    def log_prob(x: Array, output: Array) -> Array:
        mu, log_scale = _location_and_log_scale(output)
        sigma = smallest + jnp.exp(log_scale)
        return total(-0.5 * jnp.square((x - mu) / sigma) - jnp.log(sigma) - 0.5 * math.log(2.0 * math.pi))

    return Likelihood(log_prob, mean=lambda output: _location_and_log_scale(output)[0], outputs=2)


def optimal_gaussian() -> Likelihood:
    """The Gaussian with the one sigma that suits each example best, sigma^2 = mean_i (x_i - mu_i)^2:
    log p(x) = -D/2 (log(2 pi sigma^2) + 1) (Rybkin, Daniilidis and Levine 2020, arXiv:2006.13202).

    No weight between distortion and KL has to be chosen. A sigma chosen when x is known makes it an objective, no
    density. sigma is 1/255, half a grey level, at least.
    """

    def log_prob(x: Array, mu: Array) -> Array:
        size = math.prod(x.shape[1:])
        variance = jnp.maximum(total(jnp.square(x - mu)) / size, 1.0 / 255.0**2)
        # below the floor the sum of squares is not D sigma^2, and the gradient is the plain Gaussian's
        squares = total(jnp.square(x - mu)) / jax.lax.stop_gradient(variance)
        return -0.5 * (squares + size * (jnp.log(2.0 * math.pi * jax.lax.stop_gradient(variance))))

    return Likelihood(log_prob, mean=lambda mu: mu.astype(jnp.float32), measure="")


def categorical(levels: int = 256) -> Likelihood:
    """log p(x) = sum_i log softmax(output_i)[level of x_i], x on `levels` equal steps from -1 to 1.

    output: [..., C levels] logits; the mean is that of the levels (van den Oord et al. 2016, arXiv:1601.06759, 3.3).
    """
    check(levels >= 2, f"a categorical likelihood needs at least 2 levels, it has {levels}")

    def split(output: Array) -> Array:
        return output.astype(jnp.float32).reshape(*output.shape[:-1], -1, levels)

    def log_prob(x: Array, output: Array) -> Array:
        level = jnp.round((x + 1.0) / 2.0 * (levels - 1)).astype(jnp.int32)
        log_p = jax.nn.log_softmax(split(output), axis=-1)
        return total(jnp.take_along_axis(log_p, level[..., None], axis=-1)[..., 0])

    def mean(output: Array) -> Array:
        p = jax.nn.softmax(split(output), axis=-1)
        return jnp.matmul(p, jnp.linspace(-1.0, 1.0, levels), precision=jax.lax.Precision.HIGHEST)

    return Likelihood(log_prob, mean, outputs=levels, ranged=True, measure=_on_levels(levels))


def discretised_logistic(levels: int = 256) -> Likelihood:
    """P(x) = S((x + d - mu) / s) - S((x - d - mu) / s), S the sigmoid, d half a step of `levels` from -1 to 1; the
    first and the last level take all that lies beyond them (Kingma et al. 2016, arXiv:1606.04934; Salimans et al.
    2017, arXiv:1701.05517, eq. 2). output: [..., 2 C], mu and log s.
    """
    check(levels >= 2, f"a discretised likelihood needs at least 2 levels, it has {levels}")
    d = 1.0 / (levels - 1)

    def log_prob(x: Array, output: Array) -> Array:
        mu, log_s = _location_and_log_scale(output)
        inverse = jnp.exp(-log_s)
        above, below = jax.nn.log_sigmoid((x + d - mu) * inverse), jax.nn.log_sigmoid(-(x - d - mu) * inverse)
        # S(a) - S(b) = S(a) S(-b) (1 - exp(b - a)): no difference of nearly equal numbers
        inside = above + below + jnp.log(-jnp.expm1(-2.0 * d * inverse))
        return total(jnp.where(x < -1.0 + d, above, jnp.where(x > 1.0 - d, below, inside)))

    def mean(output: Array) -> Array:
        return _location_and_log_scale(output)[0]

    return Likelihood(log_prob, mean, outputs=2, ranged=True, measure=_on_levels(levels))


def _on_levels(levels: int) -> str:
    return f"a probability of pixels on {levels} levels"


def _location_and_log_scale(output: Array) -> tuple[Array, Array]:
    location, log_scale = jnp.split(output.astype(jnp.float32), 2, axis=-1)
    return location, LOG_SCALE_RANGE * jnp.tanh(log_scale / LOG_SCALE_RANGE)
