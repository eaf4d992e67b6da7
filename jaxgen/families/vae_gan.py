"""VAE/GAN: an autoencoder whose reconstructions are judged by what a critic sees in them."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from jaxgen.families.vae import bounded, check_encoder
from jaxgen.losses.adversarial import Adversarial, non_saturating
from jaxgen.losses.divergence import kl_standard_normal
from jaxgen.losses.likelihood import gaussian
from jaxgen.nets import Network
from jaxgen.types import (
    Array,
    Batch,
    Conditioner,
    Keys,
    Model,
    Predict,
    Tree,
    check,
    check_condition,
    condition_of,
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

    with f the features that the critic sees (Larsen et al. 2015, arXiv:1512.09300, eq. 7 to 9 and algorithm 1; there
    both kinds of fakes weigh 1 where it is 1/2 here, so that they weigh together what real images do, and gamma is
    twice as large as here). Nats summed over features.

    encoder: (x, condition) -> mu and log sigma^2 [B, 2 latent]; decoder: (z [B, latent], condition) -> image [B, ...]
    in [-1, 1]; critic: (x, condition) -> (score [B], features [B, ...]): `nets.conv.DCGANCritic(features=True)` is one.
    gamma: weight of the reconstruction for the decoder; f has hundreds of numbers, hence a small one.
    objective: the adversarial losses, the non-saturating ones unless told otherwise.
    Play them in the order ("critic", "encoder", "decoder").
    """
    check(latent >= 1, f"the latent needs at least one dimension, it has {latent}")
    check(gamma >= 0 and beta >= 0, f"weights must not be negative, gamma is {gamma} and beta {beta}")
    v, similarity = non_saturating() if objective is None else objective, gaussian()
    networks = {"critic": critic, "encoder": encoder, "decoder": decoder}

    def init(key: Array, batch: Batch) -> tuple[dict, Tree]:
        z, c = jnp.zeros((batch.x.shape[0], latent)), condition_of(condition, batch)
        keys, params, extra = jax.random.split(key, 3), {}, {}
        for key, (name, net) in zip(keys, networks.items(), strict=True):
            params[name], extra[name] = net.init(key, z if name == "decoder" else batch.x, c)
        check_encoder(encoder, params["encoder"], extra["encoder"], batch.x, c, latent, exact=True)
        _check_critic(critic, params["critic"], extra["critic"], batch.x, c)
        return params, extra

    def gaussian_of(params: Tree, extra: Tree, x: Array, c: Tree, train: bool = False) -> tuple[Array, Array, Tree]:
        h, stats = encoder.apply(params["encoder"], extra["encoder"], x, c, train=train)
        mu, log_var = jnp.split(h.astype(jnp.float32), 2, axis=-1)
        return mu, bounded(log_var), stats

    def play(params: Tree, extra: Tree, keys: Keys, batch: Batch) -> tuple[dict[str, Array], Tree]:
        """All that the losses are made of: kl, llike and the scores of x, tilde x and x_p, [B] each; statistics."""
        c, now = condition_of(condition, batch), dict(extra)
        mu, log_var, now["encoder"] = gaussian_of(params, extra, batch.x, c, train=True)
        z = mu + jnp.exp(0.5 * log_var) * normal(keys, (latent,))
        z_p = prior(params, extra, jax.vmap(jax.random.fold_in, (0, None))(keys, 1))
        seen = [batch.x]
        for latents in (z, z_p):
            fake, now["decoder"] = decoder.apply(params["decoder"], now["decoder"], latents, c, train=True)
            seen.append(fake)
        scores, features = [], []
        for x in seen:  # in batches of their own, so that a batch normalisation does not mix them
            (s, f), now["critic"] = critic.apply(params["critic"], now["critic"], x, c, train=True)
            scores.append(s)
            features.append(f.astype(jnp.float32))
        llike = -similarity.log_prob(features[0], features[1])
        told = dict(zip(("score_real", "score_again", "score_fake"), scores, strict=True))
        return {"kl": kl_standard_normal(mu, log_var), "llike": llike, **told}, now

    def critic_loss(params: Tree, extra: Tree, keys: Keys, batch: Batch) -> tuple[Array, tuple[dict, Tree]]:
        told, now = play(params, extra, keys, batch)
        real = told["score_real"]
        loss = 0.5 * (v.critic(real, told["score_again"]) + v.critic(real, told["score_fake"]))
        metrics = {name: told[name] for name in ("score_real", "score_again", "score_fake")}
        return loss, (metrics, {**extra, "critic": now["critic"]})

    def encoder_loss(params: Tree, extra: Tree, keys: Keys, batch: Batch) -> tuple[Array, tuple[dict, Tree]]:
        told, now = play(params, extra, keys, batch)
        metrics = {name: told[name] for name in ("kl", "llike")}
        return beta * told["kl"] + told["llike"], (metrics, {**extra, "encoder": now["encoder"]})

    def decoder_loss(params: Tree, extra: Tree, keys: Keys, batch: Batch) -> tuple[Array, tuple[dict, Tree]]:
        told, now = play(params, extra, keys, batch)
        real = told["score_real"]
        adversarial = 0.5 * (v.generator(real, told["score_again"]) + v.generator(real, told["score_fake"]))
        loss = gamma * told["llike"] + adversarial
        return loss, ({"adversarial": adversarial}, {**extra, "decoder": now["decoder"]})

    def prior(params: Tree, extra: Tree, keys: Keys) -> Array:
        return normal(keys, (latent,))

    def predict(params: Tree, extra: Tree, condition: Tree) -> Predict:
        return lambda z, t: decoder.apply(params["decoder"], extra["decoder"], z, condition)[0]

    def encode(params: Tree, extra: Tree, x: Array, condition: Tree) -> Array:
        return gaussian_of(params, extra, x, condition)[0]

    return Model(
        init,
        {"critic": critic_loss, "encoder": encoder_loss, "decoder": decoder_loss},
        prior,
        predict,
        one_shot,
        condition=condition,
        encode=encode,
        check=partial(check_condition, condition),
    )


def _check_critic(critic: Network, params: Tree, stats: Tree, x: Array, c: Tree) -> None:
    output, _ = jax.eval_shape(critic.apply, params, stats, x, c)
    check(
        isinstance(output, tuple) and len(output) == 2 and output[0].shape == x.shape[:1],
        "the critic of a VAE/GAN gives a score [B] and features [B, ...]: DCGANCritic does with features=True",
    )
