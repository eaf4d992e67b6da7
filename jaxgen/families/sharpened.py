"""Autoencoders with an adversarial loss of their reconstructions (Esser et al. 2020, arXiv:2012.09841, VQGAN)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxgen.families.autoencoder import squared_error
from jaxgen.families.common import folded, judged_apart
from jaxgen.families.gan import ranked
from jaxgen.losses.adversarial import Adversarial, as_seen, hinge
from jaxgen.losses.likelihood import Likelihood, total
from jaxgen.losses.penalties import Penalty
from jaxgen.nets import Network
from jaxgen.types import Array, Batch, Game, Model, Player, Seen, Tree, Turn, check

CRITIC = "critic"
MOST, DELTA = 1e4, 1e-6  # the largest adaptive weight, and what keeps its quotient finite


def sharpened(
    make: Callable[[Likelihood], Model],
    critic: Network,
    *,
    likelihood: Likelihood | None = None,
    objective: Adversarial | None = None,
    penalties: Sequence[Penalty] = (),
    weight: float = 0.5,
    adaptive: bool = True,
    start: int = 0,
) -> Model:
    """Two players minimise, with x^ the reconstruction of x in training and everything of the critic from step `start`
    on,

        the autoencoder's  its own loss + lambda (the generator's loss of x^)
        "critic"           the critic's loss of x against x^ + penalties

    (Esser et al. 2020, section 3.1 and eq. 5 to 7; Rombach et al. 2022, arXiv:2112.10752, section 3.1).

    make: the autoencoder of a likelihood, such as `lambda p: families.vae(encoder, decoder, 16, likelihood=p)` or
    `quantised` in its place: a model with one player and one latent an example. Its gradient goes where that of its
    likelihood goes, through a reparametrised or a quantised code to the encoder.
    critic: x -> score [B], or a map of scores of patches [B, h, w] (`nets.conv.PatchCritic`), of which the losses are
    averaged. likelihood: by default the squared error; `losses.perceptual.perceptual` for VQGAN's. objective: by
    default `losses.adversarial.hinge`.
    weight: lambda; with `adaptive` lambda = weight |dL / dy| / (|dA / dy| + 1e-6), at most 1e4 times weight, L minus
    the log-likelihood and A the generator's loss of a minibatch, y the decoder's output, where eq. 7 has the weights of
    its last layer: both losses push at it with strengths of that ratio, whatever their units.

    A model as `make`'s, with one group of parameters more; `families.latent` takes `make(p)` and of a run of this one
    its parameters.
    """
    p, v = likelihood or squared_error(), objective or hinge()
    check(weight >= 0 and start >= 0, f"weight and start must not be negative, they are {weight} and {start}")
    model = make(p)
    players = list(model.game.losses)
    check(len(players) == 1, f"an autoencoder that is sharpened has one player, not {players}")
    parts = Parts(make, players[0], critic, p, v, tuple(penalties), weight, adaptive, start)
    losses = {players[0]: parts.autoencoder_loss, CRITIC: parts.critic_loss}
    return model._replace(game=Game(parts.init, losses, model.game.check))


class Parts(NamedTuple):
    """The autoencoder by its likelihood, its player's name, the critic, and the choices of both losses."""

    make: Callable[[Likelihood], Model]
    player: Player
    critic: Network
    likelihood: Likelihood
    objective: Adversarial
    penalties: tuple[Penalty, ...]
    weight: float
    adaptive: bool
    start: int

    def init(self, key: Array, batch: Batch) -> tuple[dict, Tree]:
        for_model, for_critic = jax.random.split(key)
        params, extra = self.make(self.likelihood).game.init(for_model, batch)
        d, d_stats = self.critic.init(for_critic, batch.x, None)
        seen = jax.eval_shape(lambda: as_seen(self.critic.apply(d, d_stats, batch.x, None)[0]))
        check(
            seen.score.shape[:1] == batch.x.shape[:1],
            f"the critic gives scores {seen.score.shape} for {batch.x.shape[0]} images, not one or a map an image",
        )
        missing = [name for name in self.objective.reads if getattr(seen, name) is None]
        check(not missing, f"this objective reads the critic's {', '.join(missing)}: choose one that reads scores")
        return {**params, CRITIC: d}, {**extra, CRITIC: d_stats}

    def reconstruct(self, params: Tree, extra: Tree, turn: Turn, batch: Batch) -> tuple[Array, Array, tuple]:
        """(the decoder's output for x, the autoencoder's own loss [B], (its metrics, the next extra)): the likelihood
        sees the output."""
        seen = []

        def log_prob(x: Array, output: Array) -> Array:
            seen.append(output)
            return self.likelihood.log_prob(x, output)

        model = self.make(self.likelihood._replace(log_prob=log_prob))
        own = {name: tree for name, tree in extra.items() if name != CRITIC}
        loss, (metrics, carried) = model.game.losses[self.player](params, own, turn, batch)
        once = len(seen) == 1 and seen[0].shape[0] == batch.x.shape[0]
        check(once, "an autoencoder that is sharpened has one latent an example: samples=1")
        return seen[0], loss, (metrics, {**carried, CRITIC: extra[CRITIC]})

    def judge(self, params: Tree, extra: Tree, turn: Turn, x: Array, output: Array) -> tuple[Seen, Seen, Tree]:
        """(the critic's view of x, of its reconstruction, statistics)."""
        images, keys = [x, self.likelihood.mean(output)], folded(turn.keys, 6)
        (real, fake), stats = judged_apart(self.critic, params[CRITIC], extra[CRITIC], keys, images, None)
        return real, fake, stats

    def autoencoder_loss(self, params: Tree, extra: Tree, turn: Turn, batch: Batch) -> tuple[Array, tuple[dict, Tree]]:
        output, loss, (metrics, carried) = self.reconstruct(params, extra, turn, batch)

        def adversarial(output: Array) -> Array:
            real, fake, _ = self.judge(params, extra, turn, batch.x, output)
            return averaged(self.objective.generator(real, fake, turn))

        scale = self.weight * (turn.step >= self.start)
        if self.adaptive:
            distortion = jax.grad(lambda o: -jnp.sum(self.likelihood.log_prob(batch.x, o)))(output)
            push = jax.grad(lambda o: jnp.sum(adversarial(o)))(output)
            ratio = jax.lax.stop_gradient(length(distortion, turn) / (length(push, turn) + DELTA))
            scale = scale * jnp.minimum(ratio, MOST)
        value = adversarial(output)
        return loss + scale * value, ({**metrics, "adversarial": value, "weight": scale}, carried)

    def critic_loss(self, params: Tree, extra: Tree, turn: Turn, batch: Batch) -> tuple[Array, tuple[dict, Tree]]:
        output = jax.lax.stop_gradient(self.reconstruct(params, extra, turn, batch)[0])
        real, fake, stats = self.judge(params, extra, turn, batch.x, output)
        loss = averaged(self.objective.critic(real, fake, turn))

        def score(x: Array) -> Array:
            keys = folded(turn.keys, 7)
            return averaged(judged_apart(self.critic, params[CRITIC], extra[CRITIC], keys, [x], None)[0][0].score)

        fakes = self.likelihood.mean(output)
        loss = loss + sum((pay(score, batch.x, fakes, turn) for pay in self.penalties), start=jnp.zeros(()))
        real, fake = (Seen(averaged(seen.score)) for seen in (real, fake))
        metrics = {"score_real": real.score, "score_fake": fake.score, "ranked": ranked(real, fake, turn)}
        return loss * (turn.step >= self.start), (metrics, {**extra, CRITIC: stats})


def averaged(score: Array) -> Array:
    """The mean over the patches of an image: [B, ...] -> [B]."""
    return jnp.mean(score.reshape(score.shape[0], -1), axis=1)


def length(gradient: Array, turn: Turn) -> Array:
    """Of a minibatch's gradient, wherever its parts lie: []."""
    return jnp.sqrt(jnp.sum(turn.gather(total(jnp.square(gradient)))))
