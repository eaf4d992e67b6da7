"""Generative adversarial networks: two players, any objective, penalties and augmentation of `losses`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxgen.conditions import check_condition, condition_of
from jaxgen.families.common import check_latent, folded
from jaxgen.losses.adversarial import Objective, Stateful, as_seen, non_saturating, stateful
from jaxgen.losses.augmentation import Augmentation, no_augmentation
from jaxgen.losses.information import Codes
from jaxgen.losses.penalties import Penalty
from jaxgen.nets import Network
from jaxgen.types import (
    Array,
    Batch,
    Conditioner,
    Game,
    Keys,
    Model,
    Predict,
    Prediction,
    Seen,
    Sign,
    Tree,
    Turn,
    check,
    one_shot,
    turn,
)

CRITIC, GENERATOR = "critic", "generator"


def gan(
    generator: Network,
    critic: Network,
    latent: int | Codes,
    *,
    objective: Objective | None = None,
    penalties: Sequence[Penalty] = (),
    augmentation: Augmentation | None = None,
    condition: Conditioner | None = None,
    pack: int = 1,
) -> Model:
    """z ~ N(0, I), x = G(z, condition); the players "critic" and "generator" minimise the two sides of `objective`
    (Goodfellow et al. 2014, arXiv:1406.2661, algorithm 1), by default the non-saturating one.

    generator: (z [B, latent], condition) -> image [B, ...] in [-1, 1]; critic: (x, condition) -> score [B], or `Seen`
    with all that the objective reads. Real and generated images pass the critic in batches of their own, so that a
    batch normalisation does not mix them.
    latent: dimensions of z, or InfoGAN's `Codes`.
    penalties: what the critic's loss has besides, functions of its score; their sum is the metric "penalty".
    augmentation: what is done to images before the critic sees them.
    pack: the critic judges so many images at a time, [B / pack, ..., pack C], all real or all generated (Lin et al.
    2018, arXiv:1712.04086, section 3, PacGAN); it needs an unconditional model and a minibatch that it divides.
    """
    parts = parts_of(plain(generator), critic, latent, objective, penalties, augmentation, condition, pack)
    losses = {CRITIC: parts.critic_loss, GENERATOR: parts.generator_loss}

    def predict(params: Tree, extra: Tree, condition: Tree) -> Predict:
        def generate(z: Array, t: Array) -> Prediction:
            return Prediction(generator.apply(params[GENERATOR], extra[GENERATOR], z, condition)[0])

        return generate

    game = Game(parts.init, losses, partial(check_condition, condition), SIGNS)
    return Model(game, parts.prior, predict, one_shot, condition=condition)


SIGNS = {
    "critic_sure": Sign(
        lambda metrics: metrics["critic/ranked"] > 0.999,
        "the critic scores every real image above every generated one: a weaker critic, a penalty or noise may help",
    ),
    "no_gradient": Sign(
        lambda metrics: metrics["generator/grad_norm"] < 1e-6,
        "the generator's gradient has vanished: it learns nothing more",
    ),
    "collapse": Sign(
        lambda metrics: metrics["critic/diversity"] < 0.1,
        "generated images differ from each other by less than a tenth of what real ones do: the modes have collapsed",
    ),
}


def spread(x: Array, turn: Turn) -> Array:
    """The standard deviation over a minibatch, averaged over pixels, []. Two means are gathered, not the images."""

    def mean(v: Array) -> Array:
        return jnp.mean(turn.gather(jnp.mean(v, axis=0, keepdims=True)), axis=0)

    x = x.astype(jnp.float32)
    return jnp.mean(jnp.sqrt(jnp.maximum(mean(jnp.square(x)) - jnp.square(mean(x)), 0.0)))


def ranked(real: Seen, fake: Seen, turn: Turn) -> Array:
    """The share of pairs in which the real image has the higher score, [B]: 1 for a critic that is never wrong."""
    return jnp.mean(real.score[:, None] > turn.gather(fake.score)[None, :], axis=1, dtype=jnp.float32)


class Generator(NamedTuple):
    """The generator as it is trained.

    init  (key, z [B, D], condition) -> (params, statistics)
    draw  (params, statistics, turn, z, condition) -> (x [B, ...], statistics)
    """

    init: Callable[[Array, Array, Tree], tuple[Tree, Tree]]
    draw: Callable[[Tree, Tree, Turn, Array, Tree], tuple[Array, Tree]]


def plain(net: Network) -> Generator:
    """One network of z and the condition."""
    return Generator(net.init, lambda params, stats, turn, z, c: net.train(folded(turn.keys, 5), params, stats, z, c))


class Parts(NamedTuple):
    """The networks and choices of a GAN, and its two losses."""

    generator: Generator
    critic: Network
    codes: Codes
    objective: Stateful
    penalties: tuple[Penalty, ...]
    augmentation: Augmentation
    condition: Conditioner | None
    pack: int

    def init(self, key: Array, batch: Batch) -> tuple[dict, Tree]:
        for_generator, for_critic = jax.random.split(key)
        for_noise = jax.random.fold_in(for_generator, 1)
        n, shape = batch.x.shape[0], batch.x.shape[1:]
        z, c = self.codes.draw(jax.random.split(for_noise, n)), condition_of(self.condition, batch)
        g, g_stats = self.generator.init(for_generator, z, c)
        at = turn(jax.random.split(for_noise, n))
        fake = jax.eval_shape(lambda: self.generator.draw(g, g_stats, at, z, c)[0]).shape
        check(fake == batch.x.shape, f"the generator makes {fake[1:]}, the data are {shape}: change one")
        x = packed(batch.x, self.pack)
        d, d_stats = self.critic.init(for_critic, x, c)

        def tried() -> Array:
            real = self.judged(batch, self.critic.apply(d, d_stats, x, c)[0], c)
            self.check_critic(real, x)
            objective = self.objective.at(self.objective.init())
            return objective.critic(real, real._replace(condition=c, noise=z), at)

        jax.eval_shape(tried)  # what the objective cannot read is refused before anything is compiled
        states = {"objective": {"state": self.objective.init()}, "augmentation": {"state": self.augmentation.init()}}
        carried = {name: state for name, state in states.items() if jax.tree.leaves(state)}
        return {CRITIC: d, GENERATOR: g}, {CRITIC: d_stats, GENERATOR: g_stats, **carried}

    def check_critic(self, real: Seen, x: Array) -> None:
        """InputError for a critic that does not give one score an example, or not what the objective reads."""
        shape = real.score.shape
        check(shape == x.shape[:1], f"the critic gives {shape[1:]} an example, not one score (): change its output")
        reads = self.objective.at(self.objective.init()).reads
        missing = sorted({name for name in reads if getattr(real, name) is None})
        check("condition" not in missing, "this objective reads labels, and the data have none: choose labelled ones")
        check(not missing, f"this objective reads the critic's {', '.join(missing)}, which gives none: add heads")

    def prior(self, params: Tree, extra: Tree, keys: Keys, condition: Tree) -> Array:
        return self.codes.draw(keys)

    def generate(self, params: Tree, extra: Tree, turn: Turn, c: Tree) -> tuple[Array, Array, Tree]:
        """(x [B, ...], z, statistics) in training mode."""
        z = self.codes.draw(turn.keys)
        fake, stats = self.generator.draw(params[GENERATOR], extra[GENERATOR], turn, z, c)
        return fake, z, stats

    def judge(self, params: Tree, extra: Tree, turn: Turn, x: Array, c: Tree) -> tuple[Seen, Tree]:
        """(the critic's output for the augmented x, its statistics), in training mode."""
        x = packed(self.augmentation.apply(state_of(extra, "augmentation"), turn, x), self.pack)
        keys = folded(turn.keys[:: self.pack], 6)
        output, stats = self.critic.train(keys, params[CRITIC], extra[CRITIC], x, c)
        return as_seen(output), stats

    def judged(self, batch: Batch, output: Array | Seen, c: Tree) -> Seen:
        """The critic's output for real images; the data's own labels also where the networks do not see them."""
        return as_seen(output)._replace(condition=batch.condition if c is None else c)

    def scores(self, params: Tree, extra: Tree, turn: Turn, batch: Batch) -> tuple[Seen, Seen, Array, Tree]:
        """(real, fake, the fake images, statistics)."""
        for_real, for_fake = _again(turn, 1), _again(turn, 2)  # other keys than the noise has
        c = condition_of(self.condition, batch)
        x, z, g_stats = self.generate(params, extra, turn, c)
        real, d_stats = self.judge(params, extra, for_real, batch.x, c)
        fake, d_stats = self.judge(params, {**extra, CRITIC: d_stats}, for_fake, x, c)
        fake = fake._replace(condition=c, noise=z)
        return self.judged(batch, real, c), fake, x, {CRITIC: d_stats, GENERATOR: g_stats}

    def critic_loss(self, params: Tree, extra: Tree, turn: Turn, batch: Batch) -> tuple[Array, tuple[dict, Tree]]:
        real, fake, x, stats = self.scores(params, extra, turn, batch)
        state = state_of(extra, "objective")
        objective = self.objective.at(state)
        loss = objective.critic(real, fake, turn)
        metrics = {"score_real": real.score, "score_fake": fake.score, **objective.report(real, fake, turn)}
        metrics |= self.augmentation.report(state_of(extra, "augmentation"))
        metrics |= {"ranked": ranked(real, fake, turn), "diversity": spread(x, turn) / spread(batch.x, turn)}
        if self.penalties:
            paid = self.penalty(params, extra, _again(turn, 3), batch, x)
            loss, metrics = loss + paid, {**metrics, "penalty": paid}
        real, fake = jax.lax.stop_gradient((real, fake))
        states = {
            "objective": {"state": self.objective.update(state, real, fake, turn)},
            "augmentation": {"state": self.augmentation.update(state_of(extra, "augmentation"), real, turn)},
        }
        carried = {name: state for name, state in states.items() if name in extra}
        return loss, (metrics, {**extra, CRITIC: stats[CRITIC], **carried})

    def penalty(self, params: Tree, extra: Tree, turn: Turn, batch: Batch, fake: Array) -> Array:
        """The sum of the penalties, functions of the score of what the critic judges at a time."""
        c, m = condition_of(self.condition, batch), self.pack

        def score(x: Array) -> Array:
            return self.judge(params, extra, turn, unpacked(x, m), c)[0].score

        of_packs = turn._replace(keys=turn.keys[::m], own=turn.own[::m] // m)
        real, fake = packed(batch.x, m), packed(fake, m)
        return sum((p(score, real, fake, of_packs) for p in self.penalties), start=jnp.zeros(()))

    def generator_loss(self, params: Tree, extra: Tree, turn: Turn, batch: Batch) -> tuple[Array, tuple[dict, Tree]]:
        real, fake, _, stats = self.scores(params, extra, turn, batch)
        loss = self.objective.at(state_of(extra, "objective")).generator(real, fake, turn)
        return loss, ({}, {**extra, GENERATOR: stats[GENERATOR]})


def parts_of(
    generator: Generator,
    critic: Network,
    latent: int | Codes,
    objective: Objective | None,
    penalties: Sequence[Penalty],
    augmentation: Augmentation | None,
    condition: Conditioner | None,
    pack: int = 1,
) -> Parts:
    """The parts of a game, with what is there by default; arguments as of `gan`."""
    codes = Codes(latent) if isinstance(latent, int) else latent
    check_latent(codes.size)
    check(pack >= 1, f"a critic judges 1, 2, ... images at a time, not {pack}")
    check(pack == 1 or condition is None, "packed images have no label of their own: leave out pack or the condition")
    aug = no_augmentation() if augmentation is None else augmentation
    v = stateful(non_saturating() if objective is None else objective)
    return Parts(generator, critic, codes, v, tuple(penalties), aug, condition, pack)


def packed(x: Array, m: int) -> Array:
    """m examples side by side in their channels: [B, ..., C] -> [B / m, ..., m C]."""
    if m == 1:
        return x
    check(
        x.shape[0] % m == 0, f"{x.shape[0]} examples cannot be packed by {m}: choose a batch that is a multiple of it"
    )
    x = jnp.moveaxis(x.reshape(-1, m, *x.shape[1:]), 1, -2)
    return x.reshape(*x.shape[:-2], -1)


def unpacked(x: Array, m: int) -> Array:
    """The inverse of `packed`: [B / m, ..., m C] -> [B, ..., C]."""
    if m == 1:
        return x
    x = jnp.moveaxis(x.reshape(*x.shape[:-1], m, -1), -2, 1)
    return x.reshape(-1, *x.shape[2:])


def state_of(extra: Tree, name: str) -> Tree:
    """The state of the objective or of the augmentation, {} where it has none."""
    return extra[name]["state"] if name in extra else {}


def _again(turn: Turn, number: int) -> Turn:
    return turn._replace(keys=folded(turn.keys, number))
