"""Learning from few labels: the semi-supervised VAE M2 (Kingma, Rezende, Mohamed and Welling 2014, arXiv:1406.5298)."""

from __future__ import annotations

import math
from functools import partial

import jax
import jax.numpy as jnp

from jaxgen.families.vae import bounded, check_decoder, check_encoder
from jaxgen.losses.divergence import kl_standard_normal, log_normal
from jaxgen.losses.likelihood import Likelihood, bernoulli, check_probability, check_support
from jaxgen.nets import Network
from jaxgen.types import Array, Batch, Keys, Model, Predict, Tree, check, labels, normal, one_shot

UNLABELLED = -1


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
    classifier: x -> logits of q(y|x) [B, classes]. alpha: of one labelled example. The paper's 0.1 N weighs their mean
    against a sum over N examples; where a share s of a minibatch has labels that is alpha = 0.1 / s here.

    Samples take a label. `encode` takes q(y|x)'s best where it is given none; `Model.classify` tells log q(y|x).
    `log_weights` marginalises the label: log sum_y p(x, y, z_y) / q(z_y|x, y), whose exponential's mean is p(x).
    """
    check(latent >= 1, f"the latent needs at least one dimension, it has {latent}")
    check(alpha >= 0, f"alpha, the weight of the classification, must not be negative, it is {alpha}")
    p, told = bernoulli() if likelihood is None else likelihood, labels(classes)

    def init(key: Array, batch: Batch) -> tuple[dict, Tree]:
        for_encoder, for_decoder, for_classifier = jax.random.split(key, 3)
        b = batch.x.shape[0]
        z, y = jnp.zeros((b, latent)), jnp.zeros(b, jnp.int32)
        phi, phi_stats = encoder.init(for_encoder, batch.x, y)
        theta, theta_stats = decoder.init(for_decoder, z, y)
        psi, psi_stats = classifier.init(for_classifier, batch.x)
        check_encoder(encoder, phi, phi_stats, batch.x, y, latent, exact=True)
        check_decoder(decoder, theta, theta_stats, z, y, batch.x, p)
        logits = jax.eval_shape(classifier.apply, psi, psi_stats, batch.x)[0].shape
        check(logits == (b, classes), f"the classifier gives {logits[1:]}, it needs {classes} logits: change one")
        params = {"encoder": phi, "decoder": theta, "classifier": psi}
        return {"m2": params}, {"encoder": phi_stats, "decoder": theta_stats, "classifier": psi_stats}

    def every(params: Tree, extra: Tree, eps: Array, x: Array, train: bool) -> tuple:
        """(log p(x|y, z), z, mu, log sigma^2, statistics) of every y, [B, classes, ...], with one eps [B, latent]."""
        b = x.shape[0]
        again, y = partial(jnp.repeat, repeats=classes, axis=0), jnp.tile(jnp.arange(classes), b)
        h, phi = encoder.apply(params["m2"]["encoder"], extra["encoder"], again(x), y, train=train)
        mu, log_var = jnp.split(h.astype(jnp.float32), 2, axis=-1)
        log_var = bounded(log_var)
        z = mu + jnp.exp(0.5 * log_var) * again(eps)  # one eps: what it adds to L(x, y) - L(x, y') cancels in part
        output, theta = decoder.apply(params["m2"]["decoder"], extra["decoder"], z, y, train=train)
        log_px = p.log_prob(again(x), output)
        split = [a.reshape(b, classes, *a.shape[1:]) for a in (log_px, z, mu, log_var)]
        return *split, {"encoder": phi, "decoder": theta}

    def loss(params: Tree, extra: Tree, keys: Keys, batch: Batch) -> tuple[Array, tuple[dict, Tree]]:
        y, known = batch.condition, batch.condition != UNLABELLED
        log_q, stats = _log_q(classifier, params, extra, batch.x, True)
        log_px, _, mu, log_var, others = every(params, extra, normal(keys, (latent,)), batch.x, True)
        q = jnp.where(known[:, None], jax.nn.one_hot(y, classes), jnp.exp(log_q))
        distortion, kl = (jnp.sum(q * terms, axis=1) for terms in (-log_px, _kl(mu, log_var)))
        surprise = -jnp.take_along_axis(log_q, jnp.maximum(y, 0)[:, None], axis=1)[:, 0]
        classification = jnp.where(known, surprise, 0.0)
        entropy = jnp.where(known, 0.0, -jnp.sum(jnp.exp(log_q) * log_q, axis=1))
        value = distortion + kl + math.log(classes) - entropy + alpha * classification
        metrics = {"distortion": distortion, "kl": kl, "classification": classification, "entropy": entropy}
        return value, (metrics, {**others, "classifier": stats})

    def log_weights(params: Tree, extra: Tree, keys: Keys, batch: Batch, k: int) -> Array:
        def one(i: Array) -> Array:
            eps = normal(jax.vmap(jax.random.fold_in, (0, None))(keys, i), (latent,))
            log_px, z, mu, log_var, _ = every(params, extra, eps, batch.x, False)
            log_w = log_px + log_normal(z) - log_normal(z, mu, log_var) - math.log(classes)
            return jax.nn.logsumexp(log_w, axis=1)

        return jax.lax.map(one, jnp.arange(k)).T

    def predict(params: Tree, extra: Tree, condition: Tree) -> Predict:
        def decode(z: Array, t: Array) -> Array:
            return p.mean(decoder.apply(params["m2"]["decoder"], extra["decoder"], z, condition)[0])

        return decode

    def classify(params: Tree, extra: Tree, x: Array) -> Array:
        return _log_q(classifier, params, extra, x, False)[0]

    def encode(params: Tree, extra: Tree, x: Array, condition: Tree) -> Array:
        y = jnp.argmax(classify(params, extra, x), axis=1) if condition is None else condition
        h, _ = encoder.apply(params["m2"]["encoder"], extra["encoder"], x, y)
        return h[:, :latent].astype(jnp.float32)

    def check_data(batch: Batch) -> None:
        check_support(p, batch.x)
        known = told.of(batch)
        told.given(len(known), jnp.where(known == UNLABELLED, 0, known))

    def prior(params: Tree, extra: Tree, keys: Keys) -> Array:
        return normal(keys, (latent,))

    return Model(
        init,
        {"m2": loss},
        prior,
        predict,
        one_shot,
        condition=told,
        encode=encode,
        log_weights=log_weights,
        check=check_data,
        check_weights=lambda batch: check_probability(p, batch.x),
        measure=p.measure,
        classify=classify,
    )


def _log_q(classifier: Network, params: Tree, extra: Tree, x: Array, train: bool) -> tuple[Array, Tree]:
    logits, stats = classifier.apply(params["m2"]["classifier"], extra["classifier"], x, train=train)
    return jax.nn.log_softmax(logits.astype(jnp.float32)), stats


def _kl(mu: Array, log_var: Array) -> Array:
    return jax.vmap(kl_standard_normal)(mu, log_var)
