"""FactorVAE: a VAE whose latent's total correlation is told by a critic, and penalised."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxgen.families.vae import bounded, vae
from jaxgen.losses.evidence import Objective, Terms, elbo
from jaxgen.losses.likelihood import Likelihood
from jaxgen.nets import Network
from jaxgen.types import Array, Batch, Conditioner, Keys, Model, Tree, check, condition_of, normal


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

    encoder, decoder, likelihood, condition: as in `families.vae`; critic: (z [B, latent], None) -> score [B].
    objective: what the TC is added to, the negative ELBO unless told otherwise.
    Where algorithm 2 draws z' of another minibatch, here they are other draws of the same one.
    """
    check(gamma >= 0, f"the weight of the total correlation must not be negative, gamma is {gamma}")
    bound = elbo() if objective is None else objective

    def plain(added: Objective) -> Model:
        return vae(encoder, decoder, latent, likelihood=likelihood, objective=added, condition=condition)

    base = plain(bound)

    def init(key: Array, batch: Batch) -> tuple[dict, Tree]:
        for_vae, for_critic = jax.random.split(key)
        params, extra = base.init(for_vae, batch)
        phi, stats = critic.init(for_critic, jnp.zeros((batch.x.shape[0], latent)), None)
        return {**params, "critic": phi}, {**extra, "critic": stats}

    def score(params: Tree, stats: Tree, z: Array) -> tuple[Array, Tree]:
        return critic.apply(params["critic"], stats, z, None, train=True)

    def vae_loss(params: Tree, extra: Tree, keys: Keys, batch: Batch) -> tuple[Array, tuple[dict, Tree]]:
        def penalised(terms: Terms) -> tuple[Array, dict[str, Array]]:
            loss, metrics = bound(terms)
            tc, _ = score(params, extra["critic"], terms.z[:, 0])
            return loss + gamma * tc, {**metrics, "tc": tc}

        loss, (metrics, stats) = plain(penalised).losses["vae"](params, extra, keys, batch)
        return loss, (metrics, {**extra, **stats})

    def critic_loss(params: Tree, extra: Tree, keys: Keys, batch: Batch) -> tuple[Array, tuple[dict, Tree]]:
        c = condition_of(condition, batch)
        h, _ = encoder.apply(params["vae"]["encoder"], extra["encoder"], batch.x, c, train=True)
        mu, log_var = jnp.split(h.astype(jnp.float32), 2, axis=-1)
        eps = normal(keys, (2, latent))
        z, other = jnp.moveaxis(mu[:, None] + jnp.exp(0.5 * bounded(log_var))[:, None] * eps, 1, 0)
        on_joint, stats = score(params, extra["critic"], z)
        on_product, stats = score(params, stats, permute_dims(jax.vmap(jax.random.fold_in, (0, None))(keys, 1), other))
        loss = 0.5 * (jax.nn.softplus(-on_joint) + jax.nn.softplus(on_product))
        return loss, ({"score_joint": on_joint, "score_product": on_product}, {**extra, "critic": stats})

    return base._replace(init=init, losses={"vae": vae_loss, "critic": critic_loss})


def permute_dims(keys: Keys, z: Array) -> Array:
    """Every dimension permuted over the batch by a permutation of its own, z'_bj = z_{pi_j(b) j}: draws of the product
    of the marginals (Kim and Mnih 2018, algorithm 1). pi_j sorts uniform numbers, one from each example's key, [B, D].
    """
    u = jax.vmap(lambda key: jax.random.uniform(key, z.shape[1:]))(keys)
    return jnp.take_along_axis(z, jnp.argsort(u, axis=0), axis=0)
