"""What the output of a denoiser means: values that go with every process, loss and solver.

With a = alpha(t), s = sigma(t), x_t = a x_0 + s eps. A new one is one `Parametrisation`, an argument of
`families.diffusion`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from jaxgen.types import Array, check


def as_they_are(a: Array, s: Array, x_t: Array, t: Array) -> tuple[Array, Array]:
    """The network is given x_t and t."""
    return x_t, t


CLOCK = 1000.0  # to which the networks here count the time from 0 to 1


class Parametrisation(NamedTuple):
    """target  (a, s, x_0, eps) -> what the network should give
    to_x0   (a, s, x_t, output) -> the x_0 that an output stands for, linear in it
    error   (a, s) -> |d x_0 / d output|: an error of the output is so much of one in x_0
    inputs  (a, s, x_t, t [B]) -> what the network is given in place of x_t and t
    """

    target: Callable[[Array, Array, Array, Array], Array]
    to_x0: Callable[[Array, Array, Array, Array], Array]
    error: Callable[[Array, Array], Array]
    inputs: Callable[[Array, Array, Array, Array], tuple[Array, Array]] = as_they_are


def edm(sigma_data: float = 0.5) -> Parametrisation:
    """x_0 = c_skip x + c_out F(c_in x; c_noise), x = x_t / a, at the noise level S = s / a:

        c_skip = d^2 / (S^2 + d^2), c_out = S d / sqrt(S^2 + d^2), c_in = 1 / sqrt(S^2 + d^2), c_noise = log(S) / 4,

    d = sigma_data the standard deviation of the data: the network's input and its target have variance 1 at every level
    (Karras et al. 2022, arXiv:2206.00364, eq. 7 and 8 and table 1). Its unweighted error is EDM's weighted loss. The
    network is given c_noise / 1000, which networks that count the time to 1000 take for c_noise.
    """
    check(sigma_data > 0, f"the standard deviation of the data must be positive, it is {sigma_data}")
    d2 = sigma_data**2

    def length(level: Array) -> Array:
        return jnp.sqrt(level**2 + d2)

    def skip(level: Array) -> Array:
        return d2 / (level**2 + d2)

    def out(a: Array, s: Array) -> Array:
        return s / a * sigma_data / length(s / a)

    def inputs(a: Array, s: Array, x_t: Array, t: Array) -> tuple[Array, Array]:
        return x_t / a / length(s / a), jnp.reshape(jnp.log(s / a) / 4.0 / CLOCK, t.shape)

    return Parametrisation(
        lambda a, s, x0, eps: (x0 - skip(s / a) * (x0 + s / a * eps)) / out(a, s),
        lambda a, s, x, output: skip(s / a) * x / a + out(a, s) * output,
        out,
        inputs,
    )


PARAMETRISATIONS = {
    # Ho et al. 2020, arXiv:2006.11239, eq. 11 and 15
    "eps": Parametrisation(lambda a, s, x0, eps: eps, lambda a, s, x, out: (x - s * out) / a, lambda a, s: s / a),
    "x0": Parametrisation(lambda a, s, x0, eps: x0, lambda a, s, x, out: out, lambda a, s: jnp.ones_like(s)),
    # v = a eps - s x_0 (Salimans and Ho 2022, arXiv:2202.00512, section 4)
    "v": Parametrisation(
        lambda a, s, x0, eps: a * eps - s * x0,
        lambda a, s, x, out: (a * x - s * out) / (a**2 + s**2),
        lambda a, s: s / (a**2 + s**2),
    ),
    # eps - x_0, of a flow the velocity dx_t / dt (Lipman et al. 2022, arXiv:2210.02747, eq. 23)
    "velocity": Parametrisation(
        lambda a, s, x0, eps: eps - x0, lambda a, s, x, out: (x - s * out) / (a + s), lambda a, s: s / (a + s)
    ),
    "edm": edm(),
}


def parametrisation(chosen: str | Parametrisation) -> Parametrisation:
    """The parametrisation of that name: 'eps', 'x0', 'v', 'velocity' or 'edm'; or one of the user's own."""
    if isinstance(chosen, Parametrisation):
        return chosen
    check(chosen in PARAMETRISATIONS, f"unknown prediction {chosen!r}: choose one of {', '.join(PARAMETRISATIONS)}")
    return PARAMETRISATIONS[chosen]
