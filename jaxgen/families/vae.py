"""The variational autoencoder (Kingma and Welling 2013, arXiv:1312.6114; Rezende et al. 2014, arXiv:1401.4082)."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxgen.conditions import check_condition, condition_of, repeat
from jaxgen.families import priors
from jaxgen.families.common import (
    Gaussian,
    check_decoder,
    check_encoder,
    check_latent,
    codes,
    folded,
    output_shape,
    posterior,
    split_each,
)
from jaxgen.losses.divergence import kl_standard_normal_parts, log_normal
from jaxgen.losses.evidence import Objective, Terms, elbo
from jaxgen.losses.likelihood import Likelihood, bernoulli, check_probability, check_support
from jaxgen.nets import Network
from jaxgen.types import (
    Array,
    Batch,
    Conditioner,
    Density,
    Game,
    Keys,
    Loss,
    Model,
    Tree,
    Turn,
    check,
    normal,
    one_shot,
    turn,
)

PLAYER = "vae"


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
    likelihood: `losses.likelihood.bernoulli()` by default; the decoder's output has `likelihood.outputs` channels for
    each of x. objective: of `losses.evidence`, by default the negative ELBO.
    prior: of `families.priors` instead of N(0, I). flow: of `nets.flows`, (z, context) -> (z', log |det dz'/dz|): z' is
    the latent then, q(z'|x) = q(z|x) / |det|; what the encoder gives beyond 2 latent is the context.
    condition: an input of both networks.
    """
    check(samples >= 1, f"at least one latent sample is needed, there are {samples}")
    parts = parts_of(encoder, decoder, latent, likelihood=likelihood, prior=prior, flow=flow, condition=condition)
    return parts.model({PLAYER: parts.loss(elbo() if objective is None else objective, samples)})


class Parts(NamedTuple):
    """The networks and choices of a VAE, and what they are made of in every family that has them."""

    encoder: Network
    decoder: Network
    latent: int
    likelihood: Likelihood
    prior: priors.Prior
    flow: Network | None
    condition: Conditioner | None

    def init(self, key: Array, batch: Batch) -> tuple[dict, Tree]:
        for_encoder, for_decoder, for_flow, for_prior = jax.random.split(key, 4)
        z, c = jnp.zeros((batch.x.shape[0], self.latent)), condition_of(self.condition, batch)
        phi, phi_stats = self.encoder.init(for_encoder, batch.x, c)
        theta, theta_stats = self.decoder.init(for_decoder, z, c)
        check_encoder(self.encoder, phi, phi_stats, batch.x, c, self.latent, exact=self.flow is None)
        check_decoder(output_shape(self.decoder, theta, theta_stats, z, c), batch.x, self.likelihood)
        params = {"encoder": phi, "decoder": theta, "prior": self.prior.init(for_prior, batch, self.latent)}
        extra = {"encoder": phi_stats, "decoder": theta_stats}
        if self.flow is not None:
            (context,) = output_shape(self.encoder, phi, phi_stats, batch.x, c)
            context = jnp.zeros((z.shape[0], context - 2 * self.latent))
            params["flow"], extra["flow"] = self.flow.init(for_flow, z, context)
        return {PLAYER: params}, extra

    def infer(
        self, params: Tree, extra: Tree, x: Array, c: Tree, keys: Keys | None = None
    ) -> tuple[Gaussian, Array, Tree]:
        """(q(z|x) before the flow, the flow's context, statistics); with keys in training."""
        h, stats = self.encoder.call(keys, params[PLAYER]["encoder"], extra["encoder"], x, c)
        return *posterior(h, self.latent), stats

    def transform(self, params: Tree, extra: Tree, z: Array, context: Array, keys: Keys | None = None) -> tuple:
        """(z', log |det dz'/dz|, statistics) of the flow of z [N, D], its context [N, F]."""
        if self.flow is None:
            return z, jnp.zeros(z.shape[0]), {}
        (z, log_det), stats = self.flow.call(keys, params[PLAYER]["flow"], extra["flow"], z, context)
        return z, log_det, {"flow": stats}

    def mixture(self, params: Tree, extra: Tree) -> priors.Mixture:
        """p(z)."""
        return self.prior.components(params[PLAYER]["prior"], lambda u: self.infer(params, extra, u, None)[0])

    def terms(self, params: Tree, extra: Tree, turn: Turn, batch: Batch, k: int, train: bool) -> tuple[Terms, Tree]:
        """What objectives see of k latents an example, and the statistics."""
        b, c = batch.x.shape[0], condition_of(self.condition, batch)
        for_phi, for_theta = (folded(turn.keys, 2), split_each(folded(turn.keys, 3), k)) if train else (None, None)
        q, context, phi_stats = self.infer(params, extra, batch.x, c, for_phi)
        eps = normal(turn.keys, (k, self.latent))
        again = partial(repeat, times=k)  # example by example, each with its k latents
        z0 = q.rows(1).at(eps).reshape(b * k, self.latent)
        z, log_det, flow_stats = self.transform(params, extra, z0, again(context), for_theta)
        own = params[PLAYER]["decoder"]
        output, theta_stats = self.decoder.call(for_theta, own, extra["decoder"], z, again(c))
        log_px, z = self.likelihood.log_prob(again(batch.x), output).reshape(b, k), z.reshape(b, k, self.latent)
        log_qz = log_normal(eps) - 0.5 * jnp.sum(q.log_var, axis=1)[:, None] - log_det.reshape(b, k)
        mix = self.mixture(params, extra)
        log_pz = priors.log_prob(mix, z)
        closed = self.prior.standard and self.flow is None
        kl = kl_standard_normal_parts(*q) if closed else jnp.mean(log_qz - log_pz, axis=1, keepdims=True)
        drawn = priors.draw(mix, folded(turn.keys, 1))
        gaussian = (None, None) if self.flow is not None else q
        return Terms(log_px, log_pz, log_qz, kl, z, *gaussian, drawn), {
            "encoder": phi_stats,
            "decoder": theta_stats,
            **flow_stats,
        }

    def loss(self, objective: Objective, samples: int) -> Loss:
        def loss(params: Tree, extra: Tree, turn: Turn, batch: Batch) -> tuple[Array, tuple[dict, Tree]]:
            terms, stats = self.terms(params, extra, turn, batch, samples, True)
            value, metrics = objective(terms, turn)
            return value, (metrics, {**extra, **stats})

        return loss

    def log_p(self, params: Tree, extra: Tree, keys: Keys, batch: Batch, k: int) -> Array:
        return self.terms(params, extra, turn(keys), batch, k, False)[0].log_w

    def draw(self, params: Tree, extra: Tree, keys: Keys, condition: Tree) -> Array:
        return priors.draw(self.mixture(params, extra), keys)

    def decode(self, params: Tree, extra: Tree, keys: Keys, z: Array, condition: Tree) -> Array:
        own = params[PLAYER]["decoder"]
        return self.likelihood.mean(self.decoder.apply(own, extra["decoder"], z, condition)[0])

    def encode(self, params: Tree, extra: Tree, x: Array, condition: Tree) -> Array:
        """The posterior's mean, through the flow where there is one."""
        q, context, _ = self.infer(params, extra, x, condition)
        return self.transform(params, extra, q.mu, context)[0]

    def check(self, batch: Batch) -> None:
        check_support(self.likelihood, batch.x)
        check_condition(self.condition, batch)

    def model(self, losses: dict[str, Loss]) -> Model:
        """The model whose players minimise `losses`."""
        p = self.likelihood
        return Model(
            Game(self.init, losses, self.check),
            self.draw,
            codes,
            one_shot,
            decode=self.decode,
            encode=self.encode,
            condition=self.condition,
            density=Density(self.log_p, "weights", p.measure, lambda batch: check_probability(p, batch.x)),
        )


def parts_of(
    encoder: Network,
    decoder: Network,
    latent: int,
    *,
    likelihood: Likelihood | None = None,
    prior: priors.Prior | None = None,
    flow: Network | None = None,
    condition: Conditioner | None = None,
) -> Parts:
    """The `Parts` of a VAE, by default with a Bernoulli likelihood and the prior N(0, I)."""
    check_latent(latent)
    p, pi = bernoulli() if likelihood is None else likelihood, priors.standard(latent) if prior is None else prior
    check(
        condition is None or not pi.encoded,
        "a VampPrior encodes its pseudo-inputs without a condition: leave the condition or the prior out",
    )
    return Parts(encoder, decoder, latent, p, pi, flow, condition)
