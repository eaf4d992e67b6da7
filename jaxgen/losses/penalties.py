"""Penalties on a critic: functions of its score, real and generated images, added to the critic's loss.

A new penalty is one function `(score, real, fake, turn) -> [B]`, an argument of `families.gan`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import optax

from jaxgen.losses.likelihood import total
from jaxgen.types import Array, Keys, Turn, check, normal

Score = Callable[[Array], Array]  # images [B, ...] -> score [B], the critic as it is at this step
Penalty = Callable[[Score, Array, Array, Turn], Array]  # (score, real, fake, turn) -> [B]


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


def drift(weight: float = 1e-3) -> Penalty:
    """weight D(x)^2 at real images, which keeps the score of a Wasserstein critic from drifting away (Karras et al.
    2017, arXiv:1710.10196, appendix A.1)."""
    check(weight >= 0, f"the weight of the drift must not be negative, it is {weight}")
    return lambda score, real, fake, turn: weight * jnp.square(score(real))


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


def scheduled(penalty: Penalty, factor: optax.Schedule) -> Penalty:
    """`penalty`, factor(step) times as large: any schedule of Optax. R3GAN lowers the weight of R1 and R2 tenfold along
    a cosine, `optax.cosine_decay_schedule(1.0, steps, alpha=0.1)` (Huang et al. 2025, arXiv:2501.05441, appendix; "burn
    in"): a large one while the game is far from its end, a small one for what is fine."""
    return lambda score, real, fake, turn: jnp.asarray(factor(turn.step)) * penalty(score, real, fake, turn)


def input_gradient(score: Score, x: Array) -> Array:
    """grad_x D(x), example by example: [B, ...]. Batch normalisation in the critic would couple the examples."""
    return jax.grad(lambda x: jnp.sum(score(x)))(x)
