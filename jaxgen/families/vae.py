"""The variational autoencoder (Kingma and Welling 2013, arXiv:1312.6114; Rezende et al. 2014, arXiv:1401.4082)."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from jaxgen.families import priors
from jaxgen.losses.divergence import kl_standard_normal_parts, log_normal
from jaxgen.losses.evidence import Objective, Terms, elbo
from jaxgen.losses.likelihood import Likelihood, bernoulli, check_probability, check_support
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

LOG_VAR_RANGE = 15.0  # |log variance| stays below this, smoothly: exp of it neither overflows nor vanishes


def vae(
    encoder: Network,
    decoder: Network,
    latent: int,
    *,
    likelihood: Likelihood | None = None,
    objective: Objective | None = None,
    samples: int = 1,
    prior: priors.Prior | None = None,
    flow: Network | None = None,
    condition: Conditioner | None = None,
) -> Model:
    """q(z|x) = N(mu(x), diag sigma^2(x)), p(z) = N(0, I), p(x|z) by `likelihood` of the decoder's output, and
    `objective` of `samples` latents z = mu + sigma eps an example (eq. 4), in nats summed over pixels.

    encoder: (x [B, ...], condition) -> mu and log sigma^2 [B, 2 latent]; decoder: (z [B, latent], condition) -> output.
    likelihood: `losses.likelihood.bernoulli()` unless told otherwise; the decoder's output has `likelihood.outputs`
    channels for each of x. objective: of `losses.evidence`, the negative ELBO unless told otherwise.
    prior: of `families.priors` instead of N(0, I). flow: of `nets.flows`, (z, context) -> (z', log |det dz'/dz|): z' is
    the latent then, q(z'|x) = q(z|x) / |det|; what the encoder gives beyond 2 latent is the context.
    condition: what both networks are given besides.
    """
    check(latent >= 1, f"the latent needs at least one dimension, it has {latent}")
    check(samples >= 1, f"at least one latent sample is needed, there are {samples}")
    p, pi = bernoulli() if likelihood is None else likelihood, priors.standard(latent) if prior is None else prior
    objective = elbo() if objective is None else objective
    closed = pi.standard and flow is None

    def init(key: Array, batch: Batch) -> tuple[dict, Tree]:
        for_encoder, for_decoder, for_flow, for_prior = jax.random.split(key, 4)
        z, c = jnp.zeros((batch.x.shape[0], latent)), condition_of(condition, batch)
        phi, phi_stats = encoder.init(for_encoder, batch.x, c)
        theta, theta_stats = decoder.init(for_decoder, z, c)
        check_encoder(encoder, phi, phi_stats, batch.x, c, latent, exact=flow is None)
        check_decoder(decoder, theta, theta_stats, z, c, batch.x, p)
        params = {"encoder": phi, "decoder": theta, "prior": pi.init(for_prior, batch, latent)}
        extra = {"encoder": phi_stats, "decoder": theta_stats, "step": jnp.zeros((), jnp.int32)}
        if flow is not None:
            context = jax.eval_shape(encoder.apply, phi, phi_stats, batch.x, c)[0].shape[1] - 2 * latent
            params["flow"], extra["flow"] = flow.init(for_flow, z, jnp.zeros((z.shape[0], context)))
        return {"vae": params}, extra

    def gaussian(params: Tree, extra: Tree, x: Array, c: Tree, train: bool = False) -> tuple:
        """(mu, log sigma^2, context, statistics) of the posterior before the flow."""
        h, stats = encoder.apply(params["vae"]["encoder"], extra["encoder"], x, c, train=train)
        mu, log_var, context = jnp.split(h.astype(jnp.float32), [latent, 2 * latent], axis=-1)
        return mu, bounded(log_var), context, stats

    def through_flow(params: Tree, extra: Tree, z: Array, context: Array, train: bool = False) -> tuple:
        """(z', log |det dz'/dz|, statistics) of z [N, D], its context [N, F]."""
        if flow is None:
            return z, jnp.zeros(z.shape[0]), None
        (z, log_det), stats = flow.apply(params["vae"]["flow"], extra["flow"], z, context, train=train)
        return z, log_det, stats

    def mixture(params: Tree, extra: Tree) -> priors.Mixture:
        return pi.components(params["vae"]["prior"], lambda u: gaussian(params, extra, u, None)[:2])

    def terms(params: Tree, extra: Tree, keys: Keys, batch: Batch, k: int, train: bool) -> tuple[Terms, Tree]:
        b, c = batch.x.shape[0], condition_of(condition, batch)
        mu, log_var, context, phi_stats = gaussian(params, extra, batch.x, c, train)
        eps = normal(keys, (k, latent))
        z0 = mu[:, None] + jnp.exp(0.5 * log_var)[:, None] * eps
        again = partial(jnp.repeat, repeats=k, axis=0)  # example by example, each with its k latents
        z, log_det, flow_stats = through_flow(params, extra, z0.reshape(b * k, latent), again(context), train)
        c = None if c is None else again(c)
        output, theta_stats = decoder.apply(params["vae"]["decoder"], extra["decoder"], z, c, train=train)
        log_px, z = p.log_prob(again(batch.x), output).reshape(b, k), z.reshape(b, k, latent)
        log_qz = log_normal(eps) - 0.5 * jnp.sum(log_var, axis=1)[:, None] - log_det.reshape(b, k)
        mix = mixture(params, extra)
        log_pz = priors.log_prob(mix, z)
        kl = kl_standard_normal_parts(mu, log_var) if closed else jnp.mean(log_qz - log_pz, axis=1, keepdims=True)
        again_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, 1)
        drawn = priors.draw(mix, again_keys)
        stats = {"encoder": phi_stats, "decoder": theta_stats, "step": extra["step"] + 1}
        stats |= {} if flow is None else {"flow": flow_stats}
        return Terms(log_px, log_pz, log_qz, kl, z, mu, log_var, drawn, extra["step"]), stats

    def loss(params: Tree, extra: Tree, keys: Keys, batch: Batch) -> tuple[Array, tuple[dict, Tree]]:
        told, stats = terms(params, extra, keys, batch, samples, True)
        value, metrics = objective(told)
        return value, (metrics, stats)

    def log_weights(params: Tree, extra: Tree, keys: Keys, batch: Batch, k: int) -> Array:
        told, _ = terms(params, extra, keys, batch, k, False)
        return told.log_px + told.log_pz - told.log_qz

    def draw(params: Tree, extra: Tree, keys: Keys) -> Array:
        return priors.draw(mixture(params, extra), keys)

    def predict(params: Tree, extra: Tree, condition: Tree) -> Predict:
        def decode(z: Array, t: Array) -> Array:
            return p.mean(decoder.apply(params["vae"]["decoder"], extra["decoder"], z, condition)[0])

        return decode

    def encode(params: Tree, extra: Tree, x: Array, condition: Tree) -> Array:
        mu, _, context, _ = gaussian(params, extra, x, condition)
        return through_flow(params, extra, mu, context)[0]

    def check_data(batch: Batch) -> None:
        check_support(p, batch.x)
        check_condition(condition, batch)

    return Model(
        init,
        {"vae": loss},
        draw,
        predict,
        one_shot,
        condition=condition,
        encode=encode,
        log_weights=log_weights,
        check=check_data,
        check_weights=lambda batch: check_probability(p, batch.x),
        measure=p.measure,
    )


def bounded(log_var: Array) -> Array:
    """A log variance that no input makes too large or too small for its exponential: |.| < LOG_VAR_RANGE."""
    return LOG_VAR_RANGE * jnp.tanh(log_var / LOG_VAR_RANGE)


def check_encoder(encoder: Network, params: Tree, stats: Tree, x: Array, c: Tree, latent: int, *, exact: bool) -> None:
    """InputError for an encoder that does not give mu and log sigma^2 (exact: and nothing else) of `latent`."""
    h, _ = jax.eval_shape(encoder.apply, params, stats, x, c)
    fits = len(h.shape) == 2 and (h.shape[1] == 2 * latent if exact else h.shape[1] >= 2 * latent)
    check(
        fits, f"the encoder gives {h.shape[1:]}, mu and log sigma^2 of the latent are {2 * latent} numbers: change one"
    )


def check_decoder(
    decoder: Network, params: Tree, stats: Tree, z: Array, c: Tree, x: Array, likelihood: Likelihood
) -> None:
    """InputError for a decoder whose output is not what the likelihood of x needs."""
    output, _ = jax.eval_shape(decoder.apply, params, stats, z, c)
    needed = (*x.shape[1:-1], x.shape[-1] * likelihood.outputs)
    check(
        output.shape[1:] == needed, f"the decoder gives {output.shape[1:]}, the likelihood needs {needed}: change one"
    )
