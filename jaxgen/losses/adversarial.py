"""Adversarial objectives, and penalties on the critic: functions of the critic's output for images, `Seen`.

A new objective is one function returning `Adversarial(critic, generator)`; a new penalty is one function
`(score, real, fake, turn) -> [B]`. Both are arguments of `families.gan`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxgen.losses.likelihood import total
from jaxgen.types import Array, Seen, Tree, Turn, check

Side = Callable[[Seen, Seen], Array]  # (real, fake) -> loss [B]


class Adversarial(NamedTuple):
    """What the critic and the generator minimise: `(real, fake) -> loss [B]`, nats where the score is a logit."""

    critic: Side
    generator: Side


class Stateful(NamedTuple):
    """An objective with a state of its own, such as BEGAN's k_t, which is carried in `extra` and saved with the run.

    init    () -> state
    at      state -> Adversarial
    update  (state, real, fake, turn) -> state, at the critic's turn; what couples examples goes through `turn.gather`
    """

    init: Callable[[], Tree]
    at: Callable[[Tree], Adversarial]
    update: Callable[[Tree, Seen, Seen, Turn], Tree]


Score = Callable[[Array], Array]  # images [B, ...] -> score [B], the critic as it is at this step
Penalty = Callable[[Score, Array, Array, Turn], Array]  # (score, real, fake, turn) -> [B]


def stateful(objective: Adversarial | Stateful) -> Stateful:
    """Any objective as one with a state; that of an `Adversarial` is empty."""
    if isinstance(objective, Stateful):
        return objective
    return Stateful(dict, lambda state: objective, lambda state, real, fake, turn: state)


def non_saturating() -> Adversarial:
    """Critic: -log D(x) - log(1 - D(G(z))); generator: -log D(G(z)), with D = sigmoid(score).

    The generator's form keeps its gradient where the critic is sure (Goodfellow et al. 2014, arXiv:1406.2661,
    section 3).
    """
    return Adversarial(
        critic=lambda real, fake: jax.nn.softplus(-real.score) + jax.nn.softplus(fake.score),
        generator=lambda real, fake: jax.nn.softplus(-fake.score),
    )


def r1(weight: float = 10.0) -> Penalty:
    """weight / 2 |grad_x D(x)|^2 at real images (Mescheder, Geiger and Nowozin 2018, arXiv:1801.04406, eq. 9)."""
    check(weight >= 0, f"the weight of R1 must not be negative, it is {weight}")

    def penalty(score: Score, real: Array, fake: Array, turn: Turn) -> Array:
        return 0.5 * weight * total(jnp.square(input_gradient(score, real)))

    return penalty


def lazy(penalty: Penalty, every: int) -> Penalty:
    """`penalty`, `every` times as large, at steps 0, every, 2 every, ... and nothing in between: the same on average at
    a fraction of the cost (Karras et al. 2019, arXiv:1912.04958, section 3.1 and appendix B; they rescale Adam's
    constants too, c = every / (every + 1), which is the optimizer's affair here)."""
    check(every >= 1, f"a lazy penalty is paid every 1, 2, ... steps, not every {every}")

    def sometimes(score: Score, real: Array, fake: Array, turn: Turn) -> Array:
        def paid() -> Array:
            return every * penalty(score, real, fake, turn)

        return jax.lax.cond(turn.step % every == 0, paid, lambda: jnp.zeros(real.shape[0]))

    return sometimes


def input_gradient(score: Score, x: Array) -> Array:
    """grad_x D(x), example by example: [B, ...]. Batch normalisation in the critic would couple the examples."""
    return jax.grad(lambda x: jnp.sum(score(x)))(x)


class Augmentation(NamedTuple):
    """A change of images, real and generated, on their way to the critic.

    init    () -> state, carried in `extra`: the p of an adaptive augmentation, or {}
    apply   (state, turn, x [B, ...]) -> x, differentiable in x
    update  (state, real: Seen, turn) -> state, at the critic's turn
    """

    init: Callable[[], Tree]
    apply: Callable[[Tree, Turn, Array], Array]
    update: Callable[[Tree, Seen, Turn], Tree]


def instance_noise(sigma: float, steps: int) -> Augmentation:
    """x + s eps, eps ~ N(0, I), s falling linearly from `sigma` to 0 in `steps` steps (Sonderby et al. 2016,
    arXiv:1610.04490, section 3.2; Arjovsky and Bottou 2017, arXiv:1701.04862, section 3)."""
    check(sigma >= 0 and steps >= 1, f"instance noise falls from sigma >= 0 in at least 1 step, not {sigma}, {steps}")

    def apply(state: Tree, turn: Turn, x: Array) -> Array:
        s = sigma * jnp.maximum(0.0, 1.0 - turn.step / steps)
        return x + s * jax.vmap(lambda key: jax.random.normal(key, x.shape[1:]))(turn.keys)

    return stateless(apply)


def stateless(apply: Callable[[Tree, Turn, Array], Array]) -> Augmentation:
    """An augmentation without a state."""
    return Augmentation(dict, apply, lambda state, real, turn: state)


def no_augmentation() -> Augmentation:
    """Images as they are."""
    return stateless(lambda state, turn, x: x)


def as_seen(output: Any) -> Seen:
    """A critic's output as `Seen`: a plain score is one without anything else."""
    return output if isinstance(output, Seen) else Seen(output)
