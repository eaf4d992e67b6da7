"""Autoencoders whose codes are made to follow N(0, I): by a discrepancy (Tolstikhin et al. 2017, arXiv:1711.01558) or
by a critic of codes (Makhzani et al. 2015, arXiv:1511.05644). The decoder maps the prior to images, as a VAE's does;
the encoder is deterministic."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxgen.families.autoencoder import PLAYER, paired
from jaxgen.losses.adversarial import Adversarial, non_saturating
from jaxgen.losses.divergence import mmd
from jaxgen.losses.likelihood import Likelihood
from jaxgen.nets import Network
from jaxgen.nets.layers import mapped
from jaxgen.types import Array, Batch, Keys, Model, Tree, check, normal, one_shot

CRITIC = "critic"


def wae_mmd(
    encoder: Network,
    decoder: Network,
    latent: int,
    *,
    scale: float = 10.0,
    likelihood: Likelihood | None = None,
) -> Model:
    """-log p(x | g(f(x))) + scale MMD(codes of the minibatch, as many draws of N(0, I)), `losses.divergence.mmd`; the
    first term is the squared error unless told otherwise (Tolstikhin et al. 2017, arXiv:1711.01558, algorithm 2).

    Networks as in `families.autoencoder`. The minibatch has to be large enough to show the distribution of the codes:
    100 and more. scale: the paper's lambda, 10 on MNIST. metrics: "squared_error", "mmd".
    """
    _check_scale(scale)
    pair = paired(encoder, decoder, latent, likelihood)

    def init(key: Array, batch: Batch) -> tuple[dict, Tree]:
        check(batch.x.shape[0] >= 2, "an MMD needs at least 2 examples a minibatch, there is 1: raise the batch")
        params, stats = pair.init(key, batch)
        return {PLAYER: params}, stats

    def loss(params: Tree, extra: Tree, keys: Keys, batch: Batch) -> tuple[Array, tuple[dict, Tree]]:
        z, error, metrics, stats = pair.reconstruct(params[PLAYER], extra, batch.x, batch.x)
        discrepancy = jnp.broadcast_to(mmd(_gathered(z), _gathered(normal(keys, (latent,)))), error.shape)
        return error + scale * discrepancy, ({**metrics, "mmd": discrepancy}, stats)

    return Model(init, {PLAYER: loss}, _standard(latent), pair.predict, one_shot, encode=pair.encode, check=pair.check)


def adversarial_autoencoder(
    encoder: Network,
    decoder: Network,
    critic: Network,
    latent: int,
    *,
    objective: Adversarial | None = None,
    scale: float = 10.0,
    likelihood: Likelihood | None = None,
) -> Model:
    """Two players. "autoencoder": -log p(x | g(f(x))) + scale (the generator's side of `objective`), f(x) in the place
    of a generated image; "critic": its critic's side, draws of N(0, I) real, codes fake (Makhzani et al. 2015,
    arXiv:1511.05644, section 2; with both terms in one loss Tolstikhin et al. 2017, arXiv:1711.01558, algorithm 1).

    critic: z [B, latent] -> score [B]; the other networks as in `families.autoencoder`. objective: of
    `losses.adversarial`, the non-saturating one unless told otherwise; scale: the lambda of algorithm 1. Draws and
    codes pass the critic in batches of their own. metrics: "squared_error", "score_real", "score_fake".
    """
    _check_scale(scale)
    pair = paired(encoder, decoder, latent, likelihood)
    v, prior = non_saturating() if objective is None else objective, _standard(latent)

    def init(key: Array, batch: Batch) -> tuple[dict, Tree]:
        for_pair, for_critic = jax.random.split(key)
        params, stats = pair.init(for_pair, batch)
        d, d_stats = critic.init(for_critic, jnp.zeros((batch.x.shape[0], latent)))
        score, _ = jax.eval_shape(critic.apply, d, d_stats, jnp.zeros((batch.x.shape[0], latent)))
        check(score.shape == batch.x.shape[:1], f"the critic gives {score.shape[1:]} an example, not one score ()")
        return {CRITIC: d, PLAYER: params}, {CRITIC: d_stats, **stats}

    def scores(params: Tree, extra: Tree, keys: Keys, z: Array) -> tuple[Array, Array, Tree]:
        """(D(draws of the prior) [B], D(z) [B], the critic's statistics)."""
        real, d_stats = critic.apply(params[CRITIC], extra[CRITIC], prior(params, extra, keys), train=True)
        fake, d_stats = critic.apply(params[CRITIC], d_stats, z, train=True)
        return real, fake, d_stats

    def critic_loss(params: Tree, extra: Tree, keys: Keys, batch: Batch) -> tuple[Array, tuple[dict, Tree]]:
        z, _ = pair.codes(params[PLAYER], extra, batch.x)
        real, fake, d_stats = scores(params, extra, keys, z)
        return v.critic(real, fake), ({"score_real": real, "score_fake": fake}, {**extra, CRITIC: d_stats})

    def autoencoder_loss(params: Tree, extra: Tree, keys: Keys, batch: Batch) -> tuple[Array, tuple[dict, Tree]]:
        z, error, metrics, stats = pair.reconstruct(params[PLAYER], extra, batch.x, batch.x)
        real, fake, _ = scores(params, extra, keys, z)
        return error + scale * v.generator(real, fake), (metrics, {**extra, **stats})

    losses = {CRITIC: critic_loss, PLAYER: autoencoder_loss}
    return Model(init, losses, prior, pair.predict, one_shot, encode=pair.encode, check=pair.check)


def _check_scale(scale: float) -> None:
    check(scale >= 0, f"scale, the weight of the codes' distribution, must not be negative, it is {scale}")


def _standard(latent: int):
    def prior(params: Tree, extra: Tree, keys: Keys) -> Array:
        return normal(keys, (latent,))

    return prior


def _gathered(z: Array) -> Array:
    """Those of every device where a layout maps the examples: the discrepancy is that of the whole minibatch."""
    axis = mapped()
    return z if axis is None else jax.lax.all_gather(z, axis, tiled=True)
