"""Generative adversarial networks: two players, any objective of `jaxgen.losses.adversarial`."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from jaxgen.losses.adversarial import Adversarial, non_saturating
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


def gan(
    generator: Network,
    critic: Network,
    latent: int,
    *,
    objective: Adversarial | None = None,
    condition: Conditioner | None = None,
) -> Model:
    """z ~ N(0, I), x = G(z, condition); the players "critic" and "generator" minimise the two sides of `objective`
    (Goodfellow et al. 2014, arXiv:1406.2661, algorithm 1), the non-saturating one unless told otherwise.

    generator: (z [B, latent], condition) -> image [B, ...] in [-1, 1]; critic: (x, condition) -> score [B].
    Real and generated images pass the critic in batches of their own, so that a batch normalisation does not mix them.
    """
    check(latent >= 1, f"the latent needs at least one dimension, it has {latent}")
    v = non_saturating() if objective is None else objective

    def init(key: Array, batch: Batch) -> tuple[dict, Tree]:
        for_generator, for_critic = jax.random.split(key)
        z, c = jnp.zeros((batch.x.shape[0], latent)), condition_of(condition, batch)
        g, g_stats = generator.init(for_generator, z, c)
        d, d_stats = critic.init(for_critic, batch.x, c)
        return {"critic": d, "generator": g}, {"critic": d_stats, "generator": g_stats}

    def prior(params: Tree, extra: Tree, keys: Keys) -> Array:
        return normal(keys, (latent,))

    def scores(params: Tree, extra: Tree, keys: Keys, batch: Batch) -> tuple[Array, Array, Tree]:
        """(D(x) [B], D(G(z)) [B], statistics), both networks in training mode."""
        z, c = prior(params, extra, keys), condition_of(condition, batch)
        fake, g_stats = generator.apply(params["generator"], extra["generator"], z, c, train=True)
        on_real, d_stats = critic.apply(params["critic"], extra["critic"], batch.x, c, train=True)
        on_fake, d_stats = critic.apply(params["critic"], d_stats, fake, c, train=True)
        return on_real, on_fake, {"critic": d_stats, "generator": g_stats}

    def critic_loss(params: Tree, extra: Tree, keys: Keys, batch: Batch) -> tuple[Array, tuple[dict, Tree]]:
        on_real, on_fake, stats = scores(params, extra, keys, batch)
        metrics = {"score_real": on_real, "score_fake": on_fake}
        return v.critic(on_real, on_fake), (metrics, {**extra, "critic": stats["critic"]})

    def generator_loss(params: Tree, extra: Tree, keys: Keys, batch: Batch) -> tuple[Array, tuple[dict, Tree]]:
        on_real, on_fake, stats = scores(params, extra, keys, batch)
        return v.generator(on_real, on_fake), ({}, {**extra, "generator": stats["generator"]})

    def predict(params: Tree, extra: Tree, condition: Tree) -> Predict:
        return lambda z, t: generator.apply(params["generator"], extra["generator"], z, condition)[0]

    return Model(
        init,
        {"critic": critic_loss, "generator": generator_loss},
        prior,
        predict,
        one_shot,
        condition=condition,
        check=partial(check_condition, condition),
    )
