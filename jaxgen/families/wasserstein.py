"""Autoencoders whose codes are made to follow N(0, I): by a discrepancy (Tolstikhin et al. 2017, arXiv:1711.01558) or
by a critic of codes (Makhzani et al. 2015, arXiv:1511.05644). The decoder maps the prior to images, as a VAE's does;
the encoder is deterministic."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxgen.families.autoencoder import PLAYER, paired
from jaxgen.families.common import check_score, folded, judged_apart, output_shape, standard
from jaxgen.losses.adversarial import Adversarial, non_saturating
from jaxgen.losses.divergence import mmd
from jaxgen.losses.likelihood import Likelihood
from jaxgen.nets import Network
from jaxgen.types import Array, Batch, Model, Seen, Tree, Turn, check, normal

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
    first term is by default the squared error (Tolstikhin et al. 2017, arXiv:1711.01558, algorithm 2).

    Networks as in `families.autoencoder`. The minibatch has to be large enough to show the distribution of the codes:
    100 and more. scale: the paper's lambda, 10 on MNIST. metrics: "squared_error", "mmd".
    """
    _check_scale(scale)
    pair = paired(encoder, decoder, latent, likelihood)

    def init(key: Array, batch: Batch) -> tuple[dict, Tree]:
        check(batch.x.shape[0] >= 2, "an MMD needs at least 2 examples a minibatch, there is 1: raise the batch")
        params, stats = pair.init(key, batch)
        return {PLAYER: params}, stats

    def loss(params: Tree, extra: Tree, turn: Turn, batch: Batch) -> tuple[Array, tuple[dict, Tree]]:
        z, error, metrics, stats = pair.reconstruct(params[PLAYER], extra, turn.keys, batch.x, batch.x)
        discrepancy = jnp.broadcast_to(mmd(*turn.gather((z, normal(turn.keys, (latent,))))), error.shape)
        return error + scale * discrepancy, ({**metrics, "mmd": discrepancy}, stats)

    return pair.model(init, {PLAYER: loss}, standard((latent,)))


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
    `losses.adversarial`, by default the non-saturating one; scale: the lambda of algorithm 1. Draws and
    codes pass the critic in batches of their own. metrics: "squared_error", "score_real", "score_fake".
    """
    _check_scale(scale)
    pair = paired(encoder, decoder, latent, likelihood)
    v = non_saturating() if objective is None else objective

    def init(key: Array, batch: Batch) -> tuple[dict, Tree]:
        for_pair, for_critic = jax.random.split(key)
        params, stats = pair.init(for_pair, batch)
        z = jnp.zeros((batch.x.shape[0], latent))
        d, d_stats = critic.init(for_critic, z)
        check_score(output_shape(critic, d, d_stats, z))
        return {CRITIC: d, PLAYER: params}, {CRITIC: d_stats, **stats}

    def judge(params: Tree, stats: Tree, turn: Turn, z: Array) -> tuple[list[Seen], Tree]:
        both = [normal(turn.keys, (latent,)), z]
        return judged_apart(critic, params[CRITIC], stats, folded(turn.keys, 6), both)

    def critic_loss(params: Tree, extra: Tree, turn: Turn, batch: Batch) -> tuple[Array, tuple[dict, Tree]]:
        z, _ = pair.codes(params[PLAYER], extra, turn.keys, batch.x)
        (real, fake), d_stats = judge(params, extra[CRITIC], turn, z)
        metrics = {"score_real": real.score, "score_fake": fake.score}
        return v.critic(real, fake, turn), (metrics, {**extra, CRITIC: d_stats})

    def autoencoder_loss(params: Tree, extra: Tree, turn: Turn, batch: Batch) -> tuple[Array, tuple[dict, Tree]]:
        z, error, metrics, stats = pair.reconstruct(params[PLAYER], extra, turn.keys, batch.x, batch.x)
        (real, fake), _ = judge(params, extra[CRITIC], turn, z)
        return error + scale * v.generator(real, fake, turn), (metrics, {**extra, **stats})

    return pair.model(init, {CRITIC: critic_loss, PLAYER: autoencoder_loss}, standard((latent,)))


def _check_scale(scale: float) -> None:
    check(scale >= 0, f"scale, the weight of the codes' distribution, must not be negative, it is {scale}")
