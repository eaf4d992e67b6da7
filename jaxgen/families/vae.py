"""The variational autoencoder (Kingma and Welling 2013, arXiv:1312.6114; Rezende et al. 2014, arXiv:1401.4082)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxgen.losses.divergence import kl_standard_normal
from jaxgen.losses.likelihood import Likelihood, bernoulli
from jaxgen.nets import Network
from jaxgen.types import Array, Batch, Keys, Model, Predict, Tree, check, labels, normal, one_shot

LOG_VAR_RANGE = 15.0  # |log variance| stays below this, smoothly: exp of it neither overflows nor vanishes


def vae(
    encoder: Network,
    decoder: Network,
    latent: int,
    *,
    likelihood: Likelihood | None = None,
    beta: float = 1.0,
    classes: int | None = None,
) -> Model:
    """q(z|x) = N(mu(x), diag sigma^2(x)), p(z) = N(0, I), p(x|z) by `likelihood` of the decoder's output.

    loss = -E_q log p(x|z) + beta KL(q(z|x) || p(z)) in nats an example, summed over pixels (eq. 3; beta: Higgins et
    al. 2017), with one sample z = mu + sigma eps (eq. 4).
    encoder: (x [B, ...], condition) -> mu and log sigma^2 [B, 2 latent]; decoder: (z [B, latent], condition) -> output.
    likelihood: `losses.likelihood.bernoulli()` unless told otherwise; the decoder's output has `likelihood.outputs`
    channels for each of x. classes: of the labels that both networks take.
    """
    check(latent >= 1, f"the latent needs at least one dimension, it has {latent}")
    p = bernoulli() if likelihood is None else likelihood

    def init(key: Array, batch: Batch) -> tuple[dict, Tree]:
        for_encoder, for_decoder = jax.random.split(key)
        z = jnp.zeros((batch.x.shape[0], latent))
        phi, phi_stats = encoder.init(for_encoder, batch.x, batch.condition)
        theta, theta_stats = decoder.init(for_decoder, z, batch.condition)
        output, _ = jax.eval_shape(decoder.apply, theta, theta_stats, z, batch.condition)
        needed = (*batch.x.shape[1:-1], batch.x.shape[-1] * p.outputs)
        check(
            output.shape[1:] == needed,
            f"the decoder gives {output.shape[1:]}, the likelihood needs {needed}: change one",
        )
        return {"vae": {"encoder": phi, "decoder": theta}}, {"encoder": phi_stats, "decoder": theta_stats}

    def posterior(params: Tree, extra: Tree, x: Array, condition: Tree, train: bool) -> tuple[Array, Array, Tree]:
        h, stats = encoder.apply(params["vae"]["encoder"], extra["encoder"], x, condition, train=train)
        mu, log_var = jnp.split(h.astype(jnp.float32), 2, axis=-1)
        return mu, LOG_VAR_RANGE * jnp.tanh(log_var / LOG_VAR_RANGE), stats

    def terms(params: Tree, extra: Tree, keys: Keys, batch: Batch, train: bool) -> tuple[Array, Array, Tree]:
        mu, log_var, phi_stats = posterior(params, extra, batch.x, batch.condition, train)
        z = mu + jnp.exp(0.5 * log_var) * prior(keys)
        output, theta_stats = decoder.apply(params["vae"]["decoder"], extra["decoder"], z, batch.condition, train=train)
        stats = {"encoder": phi_stats, "decoder": theta_stats}
        return -p.log_prob(batch.x, output), kl_standard_normal(mu, log_var), stats

    def loss(params: Tree, extra: Tree, keys: Keys, batch: Batch) -> tuple[Array, tuple[dict, Tree]]:
        distortion, kl, stats = terms(params, extra, keys, batch, train=True)
        return distortion + beta * kl, ({"distortion": distortion, "kl": kl}, stats)

    def bound(params: Tree, extra: Tree, keys: Keys, batch: Batch) -> Array:
        distortion, kl, _ = terms(params, extra, keys, batch, train=False)
        return distortion + kl

    def prior(keys: Keys) -> Array:
        return normal(keys, (latent,))

    def predict(params: Tree, extra: Tree, condition: Tree) -> Predict:
        def decode(z: Array, t: Array) -> Array:
            return p.mean(decoder.apply(params["vae"]["decoder"], extra["decoder"], z, condition)[0])

        return decode

    def encode(params: Tree, extra: Tree, x: Array, condition: Any) -> Array:
        return posterior(params, extra, x, condition, False)[0]

    return Model(
        init,
        {"vae": loss},
        prior,
        predict,
        one_shot,
        condition=labels(classes) if classes else None,
        encode=encode,
        bound=bound,
    )
