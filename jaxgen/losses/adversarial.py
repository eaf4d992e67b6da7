"""Adversarial objectives: what the critic and the generator minimise, as functions of the critic's scores [B].

A new objective is one function returning `Adversarial(critic, generator)`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax

from jaxgen.types import Array


class Adversarial(NamedTuple):
    """`critic(real scores [B], fake scores [B]) -> loss [B]` and `generator(real scores, fake scores) -> loss [B]`."""

    critic: Callable[[Array, Array], Array]
    generator: Callable[[Array, Array], Array]


def non_saturating() -> Adversarial:
    """Critic: -log D(x) - log(1 - D(G(z))); generator: -log D(G(z)), with D = sigmoid(score).

    The generator's form keeps its gradient where the critic is sure (Goodfellow et al. 2014, arXiv:1406.2661,
    section 3).
    """
    return Adversarial(
        critic=lambda real, fake: jax.nn.softplus(-real) + jax.nn.softplus(fake),
        generator=lambda real, fake: jax.nn.softplus(-fake),
    )
