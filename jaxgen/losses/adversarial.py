"""Adversarial objectives, and penalties on the critic: functions of the critic's output for images, `Seen`.

A new objective is one function returning `Adversarial(critic, generator)`, both `(real, fake, turn) -> [B]`; a new
penalty is one function `(score, real, fake, turn) -> [B]`. Both are arguments of `families.gan`. The turn has the step,
keys, and `gather` for what couples the examples of a minibatch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxgen.losses.likelihood import total
from jaxgen.types import Array, Keys, Seen, Tree, Turn, check, normal

Side = Callable[[Seen, Seen, Turn], Array]  # (real, fake, turn) -> loss [B]


class Adversarial(NamedTuple):
    """What the critic and the generator minimise: `(real, fake, turn) -> loss [B]`, nats where the score is a logit."""

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
        critic=lambda real, fake, turn: jax.nn.softplus(-real.score) + jax.nn.softplus(fake.score),
        generator=lambda real, fake, turn: jax.nn.softplus(-fake.score),
    )


def minimax() -> Adversarial:
    """The critic of `non_saturating`; generator: log(1 - D(G(z))), the game's own value (Goodfellow et al. 2014,
    arXiv:1406.2661, eq. 1 and algorithm 1). Its gradient vanishes where the critic is sure."""
    return non_saturating()._replace(generator=lambda real, fake, turn: -jax.nn.softplus(fake.score))


def least_squares(a: float = 0.0, b: float = 1.0, c: float = 1.0) -> Adversarial:
    """Critic: (D(x) - b)^2 / 2 + (D(G(z)) - a)^2 / 2; generator: (D(G(z)) - c)^2 / 2 (Mao et al. 2016,
    arXiv:1611.04076, eq. 2, by default eq. 9). With b - c = 1 and b - a = 2 it is Pearson's chi^2 (section 3.2.2)."""
    return Adversarial(
        critic=lambda real, fake, turn: 0.5 * jnp.square(real.score - b) + 0.5 * jnp.square(fake.score - a),
        generator=lambda real, fake, turn: 0.5 * jnp.square(fake.score - c),
    )


def wasserstein() -> Adversarial:
    """Critic: D(G(z)) - D(x), minus the Wasserstein distance where D is the best 1-Lipschitz function, which a penalty
    or clipped weights have to see to; generator: -D(G(z)) (Arjovsky, Chintala and Bottou 2017, arXiv:1701.07875, eq. 2
    and algorithm 1)."""
    return Adversarial(
        critic=lambda real, fake, turn: fake.score - real.score, generator=lambda real, fake, turn: -fake.score
    )


def hinge() -> Adversarial:
    """Critic: max(0, 1 - D(x)) + max(0, 1 + D(G(z))); generator: -D(G(z)) (Lim and Ye 2017, arXiv:1705.02894; Miyato et
    al. 2018, arXiv:1802.05957, eq. 16 and 17)."""
    return Adversarial(
        critic=lambda real, fake, turn: jax.nn.relu(1.0 - real.score) + jax.nn.relu(1.0 + fake.score),
        generator=lambda real, fake, turn: -fake.score,
    )


def relativistic() -> Adversarial:
    """Critic: -log sigmoid(D(x) - D(G(z))); generator: -log sigmoid(D(G(z)) - D(x)), a real and a generated image at a
    time: RpGAN (Jolicoeur-Martineau 2018, arXiv:1807.00734, section 4.2; Huang et al. 2025, arXiv:2501.05441, eq. 2).
    """
    return Adversarial(
        critic=lambda real, fake, turn: jax.nn.softplus(fake.score - real.score),
        generator=lambda real, fake, turn: jax.nn.softplus(real.score - fake.score),
    )


def r1(weight: float = 10.0) -> Penalty:
    """weight / 2 |grad_x D(x)|^2 at real images (Mescheder, Geiger and Nowozin 2018, arXiv:1801.04406, eq. 9)."""
    check(weight >= 0, f"the weight of R1 must not be negative, it is {weight}")

    def penalty(score: Score, real: Array, fake: Array, turn: Turn) -> Array:
        return 0.5 * weight * total(jnp.square(input_gradient(score, real)))

    return penalty


def r2(weight: float = 10.0) -> Penalty:
    """weight / 2 |grad_x D(x)|^2 at generated images (Mescheder, Geiger and Nowozin 2018, arXiv:1801.04406, eq. 10)."""
    check(weight >= 0, f"the weight of R2 must not be negative, it is {weight}")
    on_real = r1(weight)
    return lambda score, real, fake, turn: on_real(score, fake, real, turn)


def gradient_penalty(weight: float = 10.0, center: float = 1.0) -> Penalty:
    """weight (|grad_x D(x)| - center)^2 at x = a real + (1 - a) fake, a ~ U(0, 1) an example: WGAN-GP's, one-centred
    (Gulrajani et al. 2017, arXiv:1704.00028, eq. 3); with center 0 that of Thanh-Tung, Tran and Venkatesh (2019,
    arXiv:1902.03984)."""
    check(weight >= 0 and center >= 0, f"weight and center must not be negative, they are {weight} and {center}")

    def penalty(score: Score, real: Array, fake: Array, turn: Turn) -> Array:
        a = _uniform(turn.keys, (1,) * (real.ndim - 1))
        return weight * jnp.square(_slope(score, a * real + (1.0 - a) * fake) - center)

    return penalty


def dragan(weight: float = 10.0, c: float = 0.5, noise: Literal["uniform", "gaussian"] = "uniform") -> Penalty:
    """weight (|grad_x D(x + delta)| - 1)^2 around real images x (Kodali et al. 2017, arXiv:1705.07215, section 2.3).

    noise: "gaussian", delta ~ N(0, c I) as in the paper; or "uniform", as in the implementations in use,
    delta = a c s u with a ~ U(0, 1) an example, u ~ U(0, 1) a pixel, s the deviation of all pixels of the minibatch.
    """
    check(weight >= 0 and c >= 0, f"weight and c must not be negative, they are {weight} and {c}")
    check(noise in ("uniform", "gaussian"), f"unknown noise {noise!r}: choose uniform or gaussian")

    def delta(real: Array, turn: Turn) -> Array:
        if noise == "gaussian":
            return jnp.sqrt(c) * normal(turn.keys, real.shape[1:])
        keys = jax.vmap(jax.random.split)(turn.keys)
        a, u = _uniform(keys[:, 0], (1,) * (real.ndim - 1)), _uniform(keys[:, 1], real.shape[1:])
        return a * c * jnp.std(turn.gather(real)) * u

    def penalty(score: Score, real: Array, fake: Array, turn: Turn) -> Array:
        return weight * jnp.square(_slope(score, real + delta(real, turn)) - 1.0)

    return penalty


def _uniform(keys: Keys, shape: tuple[int, ...]) -> Array:
    """U(0, 1), [B, *shape]: row i is drawn from keys[i] alone."""
    return jax.vmap(lambda key: jax.random.uniform(key, shape))(keys)


def _slope(score: Score, x: Array) -> Array:
    """|grad_x D(x)|, [B]; the square root has a gradient where it is 0."""
    return jnp.sqrt(total(jnp.square(input_gradient(score, x))) + 1e-12)


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
        return x + s * normal(turn.keys, x.shape[1:])

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
