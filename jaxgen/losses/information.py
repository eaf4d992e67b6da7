"""InfoGAN: noise with codes that the image is to tell, and the bound on their mutual information."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxgen.losses.adversarial import Adversarial, Objective, changed
from jaxgen.types import Array, Keys, Seen, Turn, check

LOG_VAR_RANGE = 8.0  # of Q's log variances: beyond it a code that is told perfectly would outweigh everything


class Codes(NamedTuple):
    """A generator's input [B, size] = (z, one-hot vectors, u): z ~ N(0, I) of `noise` dimensions, a categorical code of
    `categorical[i]` equally likely values each, and `continuous` codes u ~ U(-1, 1): `families.gan(latent=Codes(...))`.
    """

    noise: int
    categorical: Sequence[int] = ()
    continuous: int = 0

    @property
    def size(self) -> int:
        return self.noise + sum(self.categorical) + self.continuous

    @property
    def outputs(self) -> int:
        """How many numbers Q gives: logits, then mu and log sigma^2."""
        return sum(self.categorical) + 2 * self.continuous

    def draw(self, keys: Keys) -> Array:
        """[B, size]: row i is drawn from keys[i] alone."""

        def one(key: Array) -> Array:
            parts = [jax.random.normal(key, (self.noise,))]
            for i, values in enumerate(self.categorical):
                parts.append(jax.nn.one_hot(jax.random.randint(jax.random.fold_in(key, i + 1), (), 0, values), values))
            parts.append(jax.random.uniform(jax.random.fold_in(key, 0), (self.continuous,), minval=-1.0))
            return jnp.concatenate(parts)

        return jax.vmap(one)(keys)

    def split(self, noise: Array) -> tuple[list[Array], Array]:
        """(the one-hot vectors [B, K_i], u [B, continuous]) of [B, size]; of Q's output, its logits and the rest."""
        parts, at = [], self.noise
        for values in self.categorical:
            parts.append(noise[:, at : at + values])
            at += values
        return parts, noise[:, at:]


def information(objective: Objective, codes: Codes, categorical: float = 1.0, continuous: float = 0.1) -> Objective:
    """Both players also minimise -lambda L_I(G, Q), L_I = E[log Q(c | G(z, c))] + H(c) <= I(c; G(z, c)), in nats, with
    a lambda for each kind of code (Chen et al. 2016, arXiv:1606.03657, eq. 5 and 6; 1 for categorical codes, and for
    continuous ones so small that the term is of the size of the game's, appendix C).

    Q is a head of the critic, `Seen.codes` [B, codes.outputs]: logits of each categorical code, then mu and log sigma^2
    of Gaussians. The model's `latent` are the same codes. Metrics: information_categorical, at most the sum of log K,
    and information_continuous, nats summed over codes.
    """
    check(min(categorical, continuous) >= 0, f"weights must not be negative: {categorical} and {continuous}")
    check(codes.outputs > 0, "there is no code to tell: Codes(noise, categorical=(10,), continuous=2), for example")

    def with_codes(base: Adversarial) -> Adversarial:
        def gain(fake: Seen) -> Array:
            of_classes, of_numbers = bound(codes, fake)
            return categorical * of_classes + continuous * of_numbers

        def report(real: Seen, fake: Seen, turn: Turn) -> dict[str, Array]:
            names = ("information_categorical", "information_continuous")
            there = zip(names, bound(codes, fake), (codes.categorical, codes.continuous), strict=True)
            return {**base.report(real, fake, turn), **{name: value for name, value, some in there if some}}

        return base._replace(
            critic=lambda real, fake, turn: base.critic(real, fake, turn) - gain(fake),
            generator=lambda real, fake, turn: base.generator(real, fake, turn) - gain(fake),
            halves=None,
            report=report,
            reads=(*base.reads, "codes"),
        )

    return changed(objective, with_codes)


def bound(codes: Codes, fake: Seen) -> tuple[Array, Array]:
    """log Q(c | x) + H(c) of the categorical and of the continuous codes, nats [B]."""
    assert fake.codes is not None and fake.noise is not None
    check(
        fake.codes.shape[-1] == codes.outputs,
        f"the critic gives {fake.codes.shape[-1]} numbers for codes, these need {codes.outputs}: change one",
    )
    drawn, u = codes.split(fake.noise)
    logits, numbers = codes._replace(noise=0).split(fake.codes)
    of_classes = jnp.zeros(fake.score.shape)
    for c, l in zip(drawn, logits, strict=True):
        of_classes += jnp.sum(c * jax.nn.log_softmax(l), axis=-1) + math.log(c.shape[-1])
    mu, log_var = jnp.split(numbers, 2, axis=-1)
    log_var = LOG_VAR_RANGE * jnp.tanh(log_var / LOG_VAR_RANGE)
    log_q = -0.5 * (jnp.square(u - mu) * jnp.exp(-log_var) + log_var + math.log(2 * math.pi))
    return of_classes, jnp.sum(log_q + math.log(2.0), axis=-1)
