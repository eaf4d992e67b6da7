"""VAE/GAN: an autoencoder whose reconstructions are compared by the features of a critic."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxgen.conditions import check_condition, condition_of
from jaxgen.families.common import (
    Gaussian,
    check_encoder,
    check_latent,
    codes,
    folded,
    judged_apart,
    posterior,
    standard,
)
from jaxgen.losses.adversarial import Adversarial, as_seen, non_saturating
from jaxgen.losses.divergence import kl_standard_normal
from jaxgen.losses.likelihood import gaussian
from jaxgen.nets import Network
from jaxgen.types import (
    Array,
    Batch,
    Conditioner,
    Game,
    Keys,
    Model,
    Seen,
    Tree,
    Turn,
    check,
    normal,
    one_shot,
)


def vae_gan(
    encoder: Network,
    decoder: Network,
    critic: Network,
    latent: int,
    *,
    gamma: float = 1e-2,
    beta: float = 1.0,
    objective: Adversarial | None = None,
    condition: Conditioner | None = None,
) -> Model:
    """z ~ q(z|x) = N(mu(x), diag sigma^2(x)), tilde x = G(z), and x_p = G(z_p) of z_p ~ N(0, I). Three players minimise

        encoder   beta KL(q(z|x) || N(0, I)) + L_llike,   L_llike = -log N(f(x); f(tilde x), I)
        decoder   gamma L_llike + 1/2 (adversarial loss of tilde x + of x_p)
        critic    1/2 (its loss of x against tilde x + of x against x_p)

    with f the critic's features (Larsen et al. 2015, arXiv:1512.09300, eq. 7 to 9 and algorithm 1; there
    both kinds of fakes weigh 1 where it is 1/2 here, so that they weigh together what real images do, and gamma is
    twice as large as here). Nats summed over features.

    encoder: (x, condition) -> mu and log sigma^2 [B, 2 latent]; decoder: (z [B, latent], condition) -> image [B, ...]
    in [-1, 1]; critic: (x, condition) -> `Seen` with features [B, ...]: `nets.conv.DCGANCritic(heads=Heads())` is one.
    gamma: weight of the reconstruction for the decoder; f has hundreds of numbers, hence a small one.
    objective: the adversarial losses, by default the non-saturating ones.
    Play them in the order ("critic", "encoder", "decoder").
    """
    check_latent(latent)
    check(gamma >= 0 and beta >= 0, f"weights must not be negative, gamma is {gamma} and beta {beta}")
    v = non_saturating() if objective is None else objective
    parts = Parts({"critic": critic, "encoder": encoder, "decoder": decoder}, latent, condition)

    def critic_loss(params: Tree, extra: Tree, turn: Turn, batch: Batch) -> tuple[Array, tuple[dict, Tree]]:
        p, now = parts.play(params, extra, turn, batch)
        loss = 0.5 * (v.critic(p.real, p.again, turn) + v.critic(p.real, p.fake, turn))
        metrics = {"score_real": p.real.score, "score_again": p.again.score, "score_fake": p.fake.score}
        return loss, (metrics, {**extra, "critic": now["critic"]})

    def encoder_loss(params: Tree, extra: Tree, turn: Turn, batch: Batch) -> tuple[Array, tuple[dict, Tree]]:
        p, now = parts.play(params, extra, turn, batch)
        return beta * p.kl + p.llike, ({"kl": p.kl, "llike": p.llike}, {**extra, "encoder": now["encoder"]})

    def decoder_loss(params: Tree, extra: Tree, turn: Turn, batch: Batch) -> tuple[Array, tuple[dict, Tree]]:
        p, now = parts.play(params, extra, turn, batch)
        adversarial = 0.5 * (v.generator(p.real, p.again, turn) + v.generator(p.real, p.fake, turn))
        loss = gamma * p.llike + adversarial
        return loss, ({"adversarial": adversarial}, {**extra, "decoder": now["decoder"]})

    losses = {"critic": critic_loss, "encoder": encoder_loss, "decoder": decoder_loss}
    return Model(
        Game(parts.init, losses, partial(check_condition, condition)),
        standard((latent,)),
        codes,
        one_shot,
        decode=parts.decode,
        encode=lambda params, extra, x, c: parts.infer(params, extra, x, c)[0].mu,
        condition=condition,
    )


class Play(NamedTuple):
    """What the losses are made of: the critic's view of x, tilde x and x_p; kl and llike [B], nats."""

    real: Seen
    again: Seen
    fake: Seen
    kl: Array
    llike: Array


class Parts(NamedTuple):
    """The three networks by the names of their players."""

    networks: dict[str, Network]
    latent: int
    condition: Conditioner | None

    def init(self, key: Array, batch: Batch) -> tuple[dict, Tree]:
        z, c = jnp.zeros((batch.x.shape[0], self.latent)), condition_of(self.condition, batch)
        keys, params, extra = jax.random.split(key, 3), {}, {}
        for key, (name, net) in zip(keys, self.networks.items(), strict=True):
            params[name], extra[name] = net.init(key, z if name == "decoder" else batch.x, c)
        check_encoder(
            self.networks["encoder"], params["encoder"], extra["encoder"], batch.x, c, self.latent, exact=True
        )
        critic = jax.eval_shape(
            lambda: as_seen(self.networks["critic"].apply(params["critic"], extra["critic"], batch.x, c)[0])
        )
        check(
            critic.score.shape == batch.x.shape[:1] and critic.features is not None,
            "the critic of a VAE/GAN gives Seen(score [B], features [B, ...]): DCGANCritic does with heads=Heads()",
        )
        return params, extra

    def infer(self, params: Tree, extra: Tree, x: Array, c: Tree, keys: Keys | None = None) -> tuple[Gaussian, Tree]:
        h, stats = self.networks["encoder"].call(keys, params["encoder"], extra["encoder"], x, c)
        return posterior(h, self.latent)[0], stats

    def play(self, params: Tree, extra: Tree, turn: Turn, batch: Batch) -> tuple[Play, Tree]:
        """(the terms of the losses, statistics of all networks)."""
        c, now = condition_of(self.condition, batch), dict(extra)
        q, now["encoder"] = self.infer(params, extra, batch.x, c, folded(turn.keys, 2))
        z_p = normal(folded(turn.keys, 1), (self.latent,))
        images = [batch.x]
        for i, z in enumerate((q.at(normal(turn.keys, (self.latent,))), z_p)):
            keys = folded(turn.keys, 3 + i)
            x, now["decoder"] = self.networks["decoder"].train(keys, params["decoder"], now["decoder"], z, c)
            images.append(x)
        critic, keys = self.networks["critic"], folded(turn.keys, 6)
        seen, now["critic"] = judged_apart(critic, params["critic"], now["critic"], keys, images, c)
        real, again, fake = seen
        assert real.features is not None and again.features is not None  # as `init` has checked
        llike = -gaussian().log_prob(real.features.astype(jnp.float32), again.features.astype(jnp.float32))
        return Play(real, again, fake, kl_standard_normal(*q), llike), now

    def decode(self, params: Tree, extra: Tree, keys: Keys, z: Array, condition: Tree) -> Array:
        return self.networks["decoder"].apply(params["decoder"], extra["decoder"], z, condition)[0]
