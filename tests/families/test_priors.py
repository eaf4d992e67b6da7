"""Priors: mixtures of Gaussians against closed forms, and inside a VAE whose evidence is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _functions import losses_of
from scipy import stats
from scipy.special import logsumexp

from jaxgen.families import priors, vae
from jaxgen.losses.likelihood import gaussian
from jaxgen.nets import Network, network
from jaxgen.nets.mlp import MLP
from jaxgen.types import Batch, InputError

RNG = np.random.default_rng(0)
MIX = priors.Mixture(
    jnp.log(jnp.array([0.2, 0.5, 0.3])), jnp.float32(RNG.normal(size=(3, 2))), jnp.float32(RNG.normal(size=(3, 2)))
)
KEYS = jax.random.split(jax.random.key(0), 20_000)


def weigh(model):
    return jax.jit(model.density.log_p, static_argnums=4)


def density(z):
    """log p(z) by scipy."""
    parts = [
        np.log(w) + stats.multivariate_normal.logpdf(z, m, np.diag(np.exp(v)))
        for w, m, v in zip((0.2, 0.5, 0.3), np.float64(MIX.mean), np.float64(MIX.log_var), strict=True)
    ]
    return logsumexp(parts, axis=0)


def test_the_density_is_the_mixture_s():
    z = 2 * RNG.normal(size=(5, 4, 2))
    np.testing.assert_allclose(priors.log_prob(MIX, jnp.float32(z)), density(z), rtol=1e-4, atol=1e-4)


def test_draws_have_the_mixture_s_mean_and_covariance_and_follow_their_keys():
    z = np.float64(priors.draw(MIX, KEYS))
    w, m, v = np.array([0.2, 0.5, 0.3]), np.float64(MIX.mean), np.exp(np.float64(MIX.log_var))
    mean = w @ m
    cov = sum(w[c] * (np.diag(v[c]) + np.outer(m[c] - mean, m[c] - mean)) for c in range(3))
    np.testing.assert_allclose(z.mean(0), mean, atol=5 * np.sqrt(np.diag(cov).max() / len(z)))
    np.testing.assert_allclose(np.cov(z.T), cov, atol=0.05 * np.abs(cov).max())
    np.testing.assert_array_equal(priors.draw(MIX, KEYS[3:5]), z[3:5].astype(np.float32))


def networks(latent=2):
    shape = (4, 4, 1)
    return (
        network(MLP((2 * latent,), (8,))),
        network(MLP(shape, (8,))),
        Batch(jnp.float32(RNG.uniform(-1, 1, (5, *shape)))),
    )


def test_a_mixture_of_one_standard_component_is_the_standard_prior():
    encoder, decoder, batch = networks()
    plain, mixed = (vae(encoder, decoder, 2, prior=prior) for prior in (None, priors.mixture(1)))
    params, extra = mixed.game.init(jax.random.key(1), batch)
    params["vae"]["prior"]["mean"] = jnp.zeros((1, 2))
    keys = KEYS[:5]
    bare = {"vae": {**params["vae"], "prior": {}}}
    np.testing.assert_allclose(
        weigh(mixed)(params, extra, keys, batch, 3), weigh(plain)(bare, extra, keys, batch, 3), rtol=1e-5
    )
    # the closed form of the KL and its estimate by samples: the same in the mean
    many = Batch(jnp.repeat(batch.x[:1], 4000, axis=0))
    closed = jax.jit(losses_of(plain)["vae"])(bare, extra, KEYS[:4000], many)[1][0]["kl"]
    drawn = np.float64(jax.jit(losses_of(mixed)["vae"])(params, extra, KEYS[:4000], many)[1][0]["kl"])
    assert abs(drawn.mean() - float(closed[0])) < 5 * drawn.std() / np.sqrt(4000)


def test_the_vamp_prior_is_the_encoder_s_mixture_over_its_pseudo_inputs():
    encoder, decoder, batch = networks()
    model = vae(encoder, decoder, 2, prior=priors.vamp(3))
    params, extra = model.game.init(jax.random.key(1), batch)
    u = jnp.float32(RNG.uniform(-1, 1, (3, 4, 4, 1)))
    params["vae"]["prior"]["inputs"] = u
    z = jax.jit(model.prior)(params, extra, KEYS, None)
    codes = jax.jit(model.encode)(params, extra, u, None)
    np.testing.assert_allclose(z.mean(0), codes.mean(0), atol=0.05)

    @jax.jit
    def prior_loss(inputs):
        own = {"vae": {**params["vae"], "prior": {"inputs": inputs}}}
        return jnp.mean(losses_of(model)["vae"](own, extra, KEYS[:5], batch)[0])

    outside = u.at[0, 0, 0, 0].set(1.5)  # read as 1, yet it feels the gradient that brings it back
    np.testing.assert_allclose(prior_loss(outside), prior_loss(u.at[0, 0, 0, 0].set(1.0)), rtol=1e-6)
    assert abs(float(jax.jit(jax.grad(prior_loss))(outside)[0, 0, 0, 0])) > 0


def test_draws_of_a_vae_come_from_its_prior():
    """p(x) of a linear decoder under a mixture prior is a mixture of Gaussians, and the weights average to it."""
    sigma, w = 0.7, RNG.normal(size=(2, 3))

    def linear(params, stats, x, condition=None, train=False):
        return x @ params["w"] + params["b"], stats

    net = Network(lambda key, *inputs: ({}, {}), linear)
    model = vae(net, net, 2, likelihood=gaussian(sigma), prior=priors.mixture(3))
    own = {"logits": MIX.log_weights, "mean": MIX.mean, "log_var": MIX.log_var}
    encoder = {"w": jnp.zeros((3, 4)), "b": jnp.array([0.0, 0.0, 1.5, 1.5])}  # broad enough to cover the prior
    params = {"vae": {"encoder": encoder, "decoder": {"w": jnp.float32(w), "b": jnp.zeros(3)}, "prior": own}}
    x = jnp.float32(RNG.normal(size=3))
    extra = {"encoder": {}, "decoder": {}, "step": 0}
    log_w = weigh(model)(params, extra, KEYS, Batch(jnp.tile(x, (len(KEYS), 1))), 1)
    weights = np.exp(np.float64(log_w[:, 0]))
    want = sum(
        p * stats.multivariate_normal.pdf(x, m @ w, w.T @ np.diag(np.exp(v)) @ w + sigma**2 * np.eye(3))
        for p, m, v in zip((0.2, 0.5, 0.3), np.float64(MIX.mean), np.float64(MIX.log_var), strict=True)
    )
    assert abs(weights.mean() - want) < 5 * weights.std() / np.sqrt(len(weights))


@pytest.mark.parametrize("prior", [priors.mixture, priors.vamp])
def test_a_prior_without_components_is_refused(prior):
    with pytest.raises(InputError, match="at least one"):
        prior(0)
