"""FactorVAE: a VAE whose latent's total correlation is estimated by a critic, and penalised."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxgen.conditions import condition_of
from jaxgen.families.common import check_score, folded, output_shape
from jaxgen.families.vae import PLAYER, parts_of
from jaxgen.losses.evidence import Objective, Terms, elbo
from jaxgen.losses.likelihood import Likelihood
from jaxgen.nets import Network
from jaxgen.types import Array, Batch, Conditioner, Model, Tree, Turn, check, normal

CRITIC = "critic"


def factor_vae(
    encoder: Network,
    decoder: Network,
    critic: Network,
    latent: int,
    *,
    gamma: float = 10.0,
    likelihood: Likelihood | None = None,
    objective: Objective | None = None,
    condition: Conditioner | None = None,
) -> Model:
    """The player "vae" minimises the negative ELBO + gamma E_q(z)[log D(z) / (1 - D(z))], whose expectation is
    TC(z) = KL(q(z) || prod_j q(z_j)) for the best D = sigmoid(score); the player "critic" finds it, minimising
    1/2 (-log D(z) - log(1 - D(z'))), z ~ q(z), z' = `permute_dims` of other draws
    (Kim and Mnih 2018, arXiv:1802.05983, eq. 2 and 3, algorithm 2). Nats.

    encoder, decoder, likelihood, condition: as in `families.vae`; critic: z [B, latent] -> score [B].
    objective: what the TC is added to, by default the negative ELBO.
    Where algorithm 2 draws z' of another minibatch, here they are other draws of the same one.
    """
    check(gamma >= 0, f"the weight of the total correlation must not be negative, gamma is {gamma}")
    parts = parts_of(encoder, decoder, latent, likelihood=likelihood, condition=condition)
    bound = elbo() if objective is None else objective

    def init(key: Array, batch: Batch) -> tuple[dict, Tree]:
        for_vae, for_critic = jax.random.split(key)
        params, extra = parts.init(for_vae, batch)
        z = jnp.zeros((batch.x.shape[0], latent))
        phi, stats = critic.init(for_critic, z)
        check_score(output_shape(critic, phi, stats, z))
        return {**params, CRITIC: phi}, {**extra, CRITIC: stats}

    def vae_loss(params: Tree, extra: Tree, turn: Turn, batch: Batch) -> tuple[Array, tuple[dict, Tree]]:
        def penalised(terms: Terms, turn: Turn) -> tuple[Array, dict[str, Array]]:
            loss, metrics = bound(terms, turn)
            tc, _ = critic.train(folded(turn.keys, 6), params[CRITIC], extra[CRITIC], terms.z[:, 0])
            return loss + gamma * tc, {**metrics, "tc": tc}

        return parts.loss(penalised, 1)(params, extra, turn, batch)

    def critic_loss(params: Tree, extra: Tree, turn: Turn, batch: Batch) -> tuple[Array, tuple[dict, Tree]]:
        q, _, _ = parts.infer(params, extra, batch.x, condition_of(condition, batch), folded(turn.keys, 2))
        z, other = jnp.moveaxis(q.rows(1).at(normal(turn.keys, (2, latent))), 1, 0)
        permuted = permute_dims(turn._replace(keys=folded(turn.keys, 1)), other)
        joint, stats = critic.train(folded(turn.keys, 6), params[CRITIC], extra[CRITIC], z)
        product, stats = critic.train(folded(turn.keys, 7), params[CRITIC], stats, permuted)
        loss = 0.5 * (jax.nn.softplus(-joint) + jax.nn.softplus(product))
        return loss, ({"score_joint": joint, "score_product": product}, {**extra, CRITIC: stats})

    model = parts.model({PLAYER: vae_loss, CRITIC: critic_loss})
    return model._replace(game=model.game._replace(init=init))


def permute_dims(turn: Turn, z: Array) -> Array:
    """Every dimension permuted over the minibatch by a permutation of its own, z'_bj = z_{pi_j(b) j}: draws of the
    product of the marginals (Kim and Mnih 2018, algorithm 1). pi_j sorts uniform numbers, one from each example's key,
    [b, D]: of the minibatch, wherever its parts lie.
    """
    u = jax.vmap(lambda key: jax.random.uniform(key, z.shape[1:]))(turn.keys)
    u, z = turn.gather((u, z))
    return jnp.take_along_axis(z, jnp.argsort(u, axis=0)[turn.own], axis=0)
