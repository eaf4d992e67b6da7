"""Learning from few labels: the semi-supervised VAE M2 (Kingma, Rezende, Mohamed and Welling 2014, arXiv:1406.5298)."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxgen.conditions import labels, repeat
from jaxgen.families.common import (
    check_decoder,
    check_encoder,
    check_latent,
    codes,
    folded,
    output_shape,
    posterior,
    split_each,
    standard,
)
from jaxgen.losses.divergence import kl_standard_normal, log_normal
from jaxgen.losses.likelihood import Likelihood, bernoulli, check_probability, check_support
from jaxgen.nets import Network
from jaxgen.types import Array, Batch, Density, Game, Keys, Model, Tree, Turn, check, normal, one_shot

PLAYER, UNLABELLED = "m2", -1


def m2(
    encoder: Network,
    decoder: Network,
    classifier: Network,
    latent: int,
    classes: int,
    *,
    alpha: float,
    likelihood: Likelihood | None = None,
) -> Model:
    """p(y) = 1 / classes, p(z) = N(0, I), p(x|y, z) by `likelihood` of the decoder's output; q(y|x) and
    q(z|x, y) = N(mu, diag sigma^2). With L(x, y) = -E_q(z|x,y) log p(x|y, z) p(y) + KL(q(z|x, y) || p(z)), eq. 6,

    an example of label y costs   L(x, y) - alpha log q(y|x)                  (eq. 6 and 9), and
    one without, label -1,        sum_y q(y|x) L(x, y) - H(q(y|x))            (eq. 7): nats, every sum over y exact.

    encoder: (x [B, ...], label [B]) -> mu and log sigma^2 [B, 2 latent]; decoder: (z [B, latent], label [B]) -> output;
    classifier: x -> logits of q(y|x) [B, classes], see `log_q`. alpha: of one labelled example. The paper's 0.1 N
    weighs their mean against a sum over N examples; where a share s of a minibatch has labels that is alpha = 0.1 / s
    here.

    Samples take a label; `encode` takes q(y|x)'s best where it is given none. The density marginalises the label:
    log sum_y p(x, y, z_y) / q(z_y|x, y), whose exponential's mean is p(x).
    """
    check_latent(latent)
    check(alpha >= 0, f"alpha, the weight of the classification, must not be negative, it is {alpha}")
    p, label = bernoulli() if likelihood is None else likelihood, labels(classes)
    parts = Parts(encoder, decoder, classifier, latent, classes, p)

    def loss(params: Tree, extra: Tree, turn: Turn, batch: Batch) -> tuple[Array, tuple[dict, Tree]]:
        y, known = batch.condition, batch.condition != UNLABELLED
        log_q, stats = parts.classify(params, extra, batch.x, folded(turn.keys, 4))
        log_px, _, q_z, others = parts.every(params, extra, normal(turn.keys, (latent,)), batch.x, turn.keys)
        q = jnp.where(known[:, None], jax.nn.one_hot(y, classes), jnp.exp(log_q))
        distortion, kl = (jnp.sum(q * a, axis=1) for a in (-log_px, jax.vmap(kl_standard_normal)(*q_z)))
        surprise = -jnp.take_along_axis(log_q, jnp.maximum(y, 0)[:, None], axis=1)[:, 0]
        classification = jnp.where(known, surprise, 0.0)
        entropy = jnp.where(known, 0.0, -jnp.sum(jnp.exp(log_q) * log_q, axis=1))
        value = distortion + kl + math.log(classes) - entropy + alpha * classification
        metrics = {"distortion": distortion, "kl": kl, "classification": classification, "entropy": entropy}
        return value, (metrics, {**others, "classifier": stats})

    def check_data(batch: Batch) -> None:
        check_support(p, batch.x)
        check(batch.condition is not None, "M2 needs labels, -1 where there is none: data.labelled makes such a set")
        known = jnp.asarray(batch.condition)
        label.given(len(known), jnp.where(known == UNLABELLED, 0, known))

    return Model(
        Game(parts.init, {PLAYER: loss}, check_data),
        standard((latent,)),
        codes,
        one_shot,
        decode=parts.decode,
        encode=parts.encode,
        condition=label,
        density=Density(parts.log_p, "weights", p.measure, lambda batch: check_probability(p, batch.x)),
    )


def log_q(classifier: Network, params: Tree, extra: Tree, x: Array) -> Array:
    """log q(y|x) [B, classes] of a trained M2 with that classifier."""
    return _log_q(classifier, params, extra, x, None)[0]


class Parts(NamedTuple):
    """The networks of M2."""

    encoder: Network
    decoder: Network
    classifier: Network
    latent: int
    classes: int
    likelihood: Likelihood

    def init(self, key: Array, batch: Batch) -> tuple[dict, Tree]:
        for_encoder, for_decoder, for_classifier = jax.random.split(key, 3)
        b = batch.x.shape[0]
        z, y = jnp.zeros((b, self.latent)), jnp.zeros(b, jnp.int32)
        phi, phi_stats = self.encoder.init(for_encoder, batch.x, y)
        theta, theta_stats = self.decoder.init(for_decoder, z, y)
        psi, psi_stats = self.classifier.init(for_classifier, batch.x)
        check_encoder(self.encoder, phi, phi_stats, batch.x, y, self.latent, exact=True)
        check_decoder(output_shape(self.decoder, theta, theta_stats, z, y), batch.x, self.likelihood)
        logits = output_shape(self.classifier, psi, psi_stats, batch.x)
        check(logits == (self.classes,), f"the classifier gives {logits}, it needs {self.classes} logits: change one")
        params = {"encoder": phi, "decoder": theta, "classifier": psi}
        return {PLAYER: params}, {"encoder": phi_stats, "decoder": theta_stats, "classifier": psi_stats}

    def classify(self, params: Tree, extra: Tree, x: Array, keys: Keys | None = None) -> tuple[Array, Tree]:
        """(log q(y|x) [B, classes], statistics); with keys in training."""
        return _log_q(self.classifier, params, extra, x, keys)

    def every(self, params: Tree, extra: Tree, eps: Array, x: Array, keys: Keys | None = None) -> tuple:
        """(log p(x|y, z), z, q(z|x, y), statistics) of every y, [B, classes, ...], with one eps [B, latent]; with keys
        in training."""
        b, y = x.shape[0], jnp.tile(jnp.arange(self.classes), x.shape[0])
        apart = (None, None) if keys is None else [split_each(folded(keys, i), self.classes) for i in (2, 3)]
        again, own = repeat(x, self.classes), params[PLAYER]
        h, phi = self.encoder.call(apart[0], own["encoder"], extra["encoder"], again, y)
        q, _ = posterior(h, self.latent)
        z = q.at(repeat(eps, self.classes))  # one eps: what it adds to L(x, y) - L(x, y') cancels in part
        output, theta = self.decoder.call(apart[1], own["decoder"], extra["decoder"], z, y)
        log_px = self.likelihood.log_prob(again, output)
        log_px, z, q = jax.tree.map(lambda a: a.reshape(b, self.classes, *a.shape[1:]), (log_px, z, q))
        return log_px, z, q, {"encoder": phi, "decoder": theta}

    def log_p(self, params: Tree, extra: Tree, keys: Keys, batch: Batch, k: int) -> Array:
        def one(i: Array) -> Array:
            eps = normal(folded(keys, i), (self.latent,))
            log_px, z, q, _ = self.every(params, extra, eps, batch.x)
            log_w = log_px + log_normal(z) - log_normal(z, *q) - math.log(self.classes)
            return jax.nn.logsumexp(log_w, axis=1)

        return jax.lax.map(one, jnp.arange(k)).T

    def decode(self, params: Tree, extra: Tree, keys: Keys, z: Array, condition: Tree) -> Array:
        output = self.decoder.apply(params[PLAYER]["decoder"], extra["decoder"], z, condition)[0]
        return self.likelihood.mean(output)

    def encode(self, params: Tree, extra: Tree, x: Array, condition: Tree) -> Array:
        y = jnp.argmax(self.classify(params, extra, x)[0], axis=1) if condition is None else condition
        h, _ = self.encoder.apply(params[PLAYER]["encoder"], extra["encoder"], x, y)
        return posterior(h, self.latent)[0].mu


def _log_q(classifier: Network, params: Tree, extra: Tree, x: Array, keys: Keys | None) -> tuple[Array, Tree]:
    logits, stats = classifier.call(keys, params[PLAYER]["classifier"], extra["classifier"], x)
    return jax.nn.log_softmax(logits.astype(jnp.float32)), stats
