"""Adversarial objectives of the critic's score, and what an objective is.

A new objective is one function returning `Adversarial(critic, generator)`, both `(real, fake, turn) -> [B]`, an
argument of `families.gan`: functions of the critic's output for images, `Seen`. The turn has the step, keys, and
`gather` for what couples the examples of a minibatch. Objectives that read more of a critic than its score are in
`losses.heads` and `losses.information`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxgen.types import Array, InputError, Seen, Tree, Turn, check

Side = Callable[[Seen, Seen, Turn], Array]  # (real, fake, turn) -> loss [B]
Half = Callable[[Seen], Array]  # of real images, or of generated ones -> loss [B]


def nothing(real: Seen, fake: Seen, turn: Turn) -> dict[str, Array]:
    """No metrics."""
    return {}


class Adversarial(NamedTuple):
    """What the critic and the generator minimise: `(real, fake, turn) -> loss [B]`, nats where the score is a logit.

    halves  of the critic's loss, (of what is to be called real, of what is to be called generated), where it is their
            sum: what `smoothed` labels need
    report  (real, fake, turn) -> {name: [B]}, metrics of the critic's turn besides the loss
    reads   the fields of `Seen` that it reads besides the score: a critic without them is refused
    """

    critic: Side
    generator: Side
    halves: tuple[Half, Half] | None = None
    report: Callable[[Seen, Seen, Turn], dict[str, Array]] = nothing
    reads: tuple[str, ...] = ()


class Stateful(NamedTuple):
    """An objective with a state of its own, such as BEGAN's k_t, which is carried in `extra` and saved with the run.

    init    () -> state
    at      state -> Adversarial
    update  (state, real, fake, turn) -> state, at the critic's turn; what couples examples goes through `turn.gather`
    """

    init: Callable[[], Tree]
    at: Callable[[Tree], Adversarial]
    update: Callable[[Tree, Seen, Seen, Turn], Tree]


Objective = Adversarial | Stateful


def stateful(objective: Objective) -> Stateful:
    """Any objective as one with a state; that of an `Adversarial` is empty."""
    if isinstance(objective, Stateful):
        return objective
    return Stateful(dict, lambda state: objective, lambda state, real, fake, turn: state)


def changed(objective: Objective, change: Callable[[Adversarial], Adversarial]) -> Objective:
    """An objective with another in its place at every state: how objectives wrap each other."""
    if isinstance(objective, Stateful):
        return objective._replace(at=lambda state: change(objective.at(state)))
    return change(objective)


def of_halves(real: Half, fake: Half, generator: Side) -> Adversarial:
    """The objective whose critic minimises real(x) + fake(G(z))."""
    return Adversarial(lambda x, g, turn: real(x) + fake(g), generator, (real, fake))


def non_saturating() -> Adversarial:
    """Critic: -log D(x) - log(1 - D(G(z))); generator: -log D(G(z)), with D = sigmoid(score).

    The generator's form keeps its gradient where the critic is sure (Goodfellow et al. 2014, arXiv:1406.2661,
    section 3).
    """
    return of_halves(
        lambda real: jax.nn.softplus(-real.score),
        lambda fake: jax.nn.softplus(fake.score),
        lambda real, fake, turn: jax.nn.softplus(-fake.score),
    )


def minimax() -> Adversarial:
    """The critic of `non_saturating`; generator: log(1 - D(G(z))), the game's own value (Goodfellow et al. 2014,
    arXiv:1406.2661, eq. 1 and algorithm 1). Its gradient vanishes where the critic is sure."""
    return non_saturating()._replace(generator=lambda real, fake, turn: -jax.nn.softplus(fake.score))


def least_squares(a: float = 0.0, b: float = 1.0, c: float = 1.0) -> Adversarial:
    """Critic: (D(x) - b)^2 / 2 + (D(G(z)) - a)^2 / 2; generator: (D(G(z)) - c)^2 / 2 (Mao et al. 2016,
    arXiv:1611.04076, eq. 2, by default eq. 9). With b - c = 1 and b - a = 2 it is Pearson's chi^2 (section 3.2.2)."""
    return of_halves(
        lambda real: 0.5 * jnp.square(real.score - b),
        lambda fake: 0.5 * jnp.square(fake.score - a),
        lambda real, fake, turn: 0.5 * jnp.square(fake.score - c),
    )


def wasserstein() -> Adversarial:
    """Critic: D(G(z)) - D(x), minus the Wasserstein distance where D is the best 1-Lipschitz function, which a penalty
    or clipped weights (`optimizers.clip_weights`) have to see to; generator: -D(G(z)) (Arjovsky, Chintala and Bottou
    2017, arXiv:1701.07875, eq. 2 and algorithm 1)."""
    return of_halves(lambda real: -real.score, lambda fake: fake.score, lambda real, fake, turn: -fake.score)


def hinge() -> Adversarial:
    """Critic: max(0, 1 - D(x)) + max(0, 1 + D(G(z))); generator: -D(G(z)) (Lim and Ye 2017, arXiv:1705.02894; Miyato et
    al. 2018, arXiv:1802.05957, eq. 16 and 17)."""
    return of_halves(
        lambda real: jax.nn.relu(1.0 - real.score),
        lambda fake: jax.nn.relu(1.0 + fake.score),
        lambda real, fake, turn: -fake.score,
    )


def relativistic() -> Adversarial:
    """Critic: -log sigmoid(D(x) - D(G(z))); generator: -log sigmoid(D(G(z)) - D(x)), a real and a generated image at a
    time: RpGAN (Jolicoeur-Martineau 2018, arXiv:1807.00734, section 4.2; Huang et al. 2025, arXiv:2501.05441, eq. 2).
    """
    return Adversarial(
        critic=lambda real, fake, turn: jax.nn.softplus(fake.score - real.score),
        generator=lambda real, fake, turn: jax.nn.softplus(real.score - fake.score),
    )


def smoothed(objective: Objective, real: float = 0.9, fake: float = 0.0) -> Objective:
    """Labels `real` and `fake` in place of 1 and 0 in the critic's loss: with R and F its halves,

        real R(x) + (1 - real) F(x) + fake R(G(z)) + (1 - fake) F(G(z))

    One-sided by default: of the cross-entropy the best critic is then D = real p / (p + q), which stays bounded where
    there is no generated image; a label of generated images above 0 would put p in its numerator and keep wrong modes
    where they are (Salimans et al. 2016, arXiv:1606.03498, section 3.4). The generator's loss is as it was.
    InputError for labels that are not 0 <= fake < real <= 1, and for an objective of pairs, which has no labels.
    """
    check(0 <= fake < real <= 1, f"smoothed labels are 0 <= fake < real <= 1, not {fake} and {real}")

    def smooth(base: Adversarial) -> Adversarial:
        if base.halves is None:
            raise InputError("this objective compares pairs of images, it has no labels to smooth: choose another")
        r, f = base.halves

        def critic(x: Seen, g: Seen, turn: Turn) -> Array:
            return real * r(x) + (1 - real) * f(x) + fake * r(g) + (1 - fake) * f(g)

        return base._replace(critic=critic, halves=None)

    if isinstance(objective, Adversarial):
        return smooth(objective)
    smooth(objective.at(objective.init()))
    return changed(objective, smooth)


def as_seen(output: Any) -> Seen:
    """A critic's output as `Seen`: a plain score is one without anything else."""
    return output if isinstance(output, Seen) else Seen(output)
