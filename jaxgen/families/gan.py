"""Generative adversarial networks: two players, any objective, penalties and augmentation of `losses.adversarial`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxgen.conditions import check_condition, condition_of
from jaxgen.families.common import check_latent, folded, standard
from jaxgen.losses.adversarial import (
    Adversarial,
    Augmentation,
    Penalty,
    Stateful,
    as_seen,
    no_augmentation,
    non_saturating,
    stateful,
)
from jaxgen.nets import Network
from jaxgen.types import (
    Array,
    Batch,
    Conditioner,
    Game,
    Model,
    Predict,
    Prediction,
    Seen,
    Tree,
    Turn,
    check,
    normal,
    one_shot,
)

CRITIC, GENERATOR = "critic", "generator"


def gan(
    generator: Network,
    critic: Network,
    latent: int,
    *,
    objective: Adversarial | Stateful | None = None,
    penalties: Sequence[Penalty] = (),
    augmentation: Augmentation | None = None,
    condition: Conditioner | None = None,
) -> Model:
    """z ~ N(0, I), x = G(z, condition); the players "critic" and "generator" minimise the two sides of `objective`
    (Goodfellow et al. 2014, arXiv:1406.2661, algorithm 1), by default the non-saturating one.

    generator: (z [B, latent], condition) -> image [B, ...] in [-1, 1]; critic: (x, condition) -> score [B], or `Seen`
    with all that the objective reads. Real and generated images pass the critic in batches of their own, so that a
    batch normalisation does not mix them.
    penalties: what the critic's loss has besides, functions of its score; their sum is the metric "penalty".
    augmentation: what is done to images before the critic sees them.
    """
    check_latent(latent)
    aug = no_augmentation() if augmentation is None else augmentation
    v = stateful(non_saturating() if objective is None else objective)
    parts = Parts(generator, critic, latent, v, tuple(penalties), aug, condition)
    losses = {CRITIC: parts.critic_loss, GENERATOR: parts.generator_loss}
    check_data = partial(check_condition, condition)
    return Model(
        Game(parts.init, losses, check_data), standard((latent,)), parts.predict, one_shot, condition=condition
    )


class Parts(NamedTuple):
    """The networks and choices of a GAN, and its two losses."""

    generator: Network
    critic: Network
    latent: int
    objective: Stateful
    penalties: tuple[Penalty, ...]
    augmentation: Augmentation
    condition: Conditioner | None

    def init(self, key: Array, batch: Batch) -> tuple[dict, Tree]:
        for_generator, for_critic = jax.random.split(key)
        z, c = jnp.zeros((batch.x.shape[0], self.latent)), condition_of(self.condition, batch)
        g, g_stats = self.generator.init(for_generator, z, c)
        d, d_stats = self.critic.init(for_critic, batch.x, c)
        fake = jax.eval_shape(self.generator.apply, g, g_stats, z, c)[0].shape
        check(fake == batch.x.shape, f"the generator makes {fake[1:]}, the data are {batch.x.shape[1:]}: change one")
        score = jax.eval_shape(lambda: as_seen(self.critic.apply(d, d_stats, batch.x, c)[0])).score.shape
        check(score == fake[:1], f"the critic gives {score[1:]} an example, not one score (): change its output")
        states = {"objective": {"state": self.objective.init()}, "augmentation": {"state": self.augmentation.init()}}
        carried = {name: state for name, state in states.items() if jax.tree.leaves(state)}
        return {CRITIC: d, GENERATOR: g}, {CRITIC: d_stats, GENERATOR: g_stats, **carried}

    def generate(self, params: Tree, extra: Tree, turn: Turn, c: Tree) -> tuple[Array, Array, Tree]:
        """(x [B, ...], z, statistics) in training mode."""
        z = normal(turn.keys, (self.latent,))
        fake, stats = self.generator.apply(params[GENERATOR], extra[GENERATOR], z, c, train=True)
        return fake, z, stats

    def judge(self, params: Tree, extra: Tree, turn: Turn, x: Array, c: Tree) -> tuple[Seen, Tree]:
        """(the critic's output for the augmented x, its statistics), in training mode."""
        x = self.augmentation.apply(state_of(extra, "augmentation"), turn, x)
        output, stats = self.critic.apply(params[CRITIC], extra[CRITIC], x, c, train=True)
        return as_seen(output)._replace(condition=c), stats

    def scores(self, params: Tree, extra: Tree, turn: Turn, batch: Batch) -> tuple[Seen, Seen, Array, Tree]:
        """(real, fake, the fake images, statistics)."""
        for_real, for_fake = _again(turn, 1), _again(turn, 2)  # other keys than the noise has
        c = condition_of(self.condition, batch)
        x, z, g_stats = self.generate(params, extra, turn, c)
        real, d_stats = self.judge(params, extra, for_real, batch.x, c)
        fake, d_stats = self.judge(params, {**extra, CRITIC: d_stats}, for_fake, x, c)
        return real, fake._replace(noise=z), x, {CRITIC: d_stats, GENERATOR: g_stats}

    def critic_loss(self, params: Tree, extra: Tree, turn: Turn, batch: Batch) -> tuple[Array, tuple[dict, Tree]]:
        real, fake, x, stats = self.scores(params, extra, turn, batch)
        state = state_of(extra, "objective")
        loss = self.objective.at(state).critic(real, fake, turn)
        metrics = {"score_real": real.score, "score_fake": fake.score}
        if self.penalties:
            c, for_penalty = condition_of(self.condition, batch), _again(turn, 3)

            def score(x: Array) -> Array:
                return self.judge(params, extra, for_penalty, x, c)[0].score

            paid = sum((p(score, batch.x, x, for_penalty) for p in self.penalties), start=jnp.zeros_like(loss))
            loss, metrics = loss + paid, {**metrics, "penalty": paid}
        real, fake = jax.lax.stop_gradient((real, fake))
        states = {
            "objective": {"state": self.objective.update(state, real, fake, turn)},
            "augmentation": {"state": self.augmentation.update(state_of(extra, "augmentation"), real, turn)},
        }
        carried = {name: state for name, state in states.items() if name in extra}
        return loss, (metrics, {**extra, CRITIC: stats[CRITIC], **carried})

    def generator_loss(self, params: Tree, extra: Tree, turn: Turn, batch: Batch) -> tuple[Array, tuple[dict, Tree]]:
        real, fake, _, stats = self.scores(params, extra, turn, batch)
        loss = self.objective.at(state_of(extra, "objective")).generator(real, fake, turn)
        return loss, ({}, {**extra, GENERATOR: stats[GENERATOR]})

    def predict(self, params: Tree, extra: Tree, condition: Tree) -> Predict:
        def generate(z: Array, t: Array) -> Prediction:
            return Prediction(self.generator.apply(params[GENERATOR], extra[GENERATOR], z, condition)[0])

        return generate


def state_of(extra: Tree, name: str) -> Tree:
    """The state of the objective or of the augmentation, {} where it has none."""
    return extra[name]["state"] if name in extra else {}


def _again(turn: Turn, number: int) -> Turn:
    return turn._replace(keys=folded(turn.keys, number))
