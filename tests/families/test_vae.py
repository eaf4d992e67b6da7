"""The variational autoencoder against the linear Gaussian model, whose likelihood and posterior are known."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _functions import drawn, losses_of
from scipy import stats

from jaxgen.conditions import labels
from jaxgen.families import vae
from jaxgen.losses.evidence import elbo, info, iwae, tc
from jaxgen.losses.likelihood import bernoulli, gaussian, learned_gaussian
from jaxgen.nets import Network, network
from jaxgen.nets.mlp import MLP
from jaxgen.types import Batch, InputError

SIGMA, LATENT, DIMS = 0.6, 2, 4
RNG = np.random.default_rng(0)
# orthogonal columns of lengths 1.5 and 0.7: the posterior's covariance is diagonal, as the encoder's is
W = np.linalg.qr(RNG.normal(size=(DIMS, LATENT)))[0] * [1.5, 0.7]
B = RNG.normal(size=DIMS)
VAR = 1 / (1 + np.sum(W**2, axis=0) / SIGMA**2)
MANY = 20_000
KEYS = jax.random.split(jax.random.key(0), MANY)


def squashed(log_var):
    """The encoder output that the family reads as `log_var`: the inverse of 15 tanh(. / 15)."""
    return 15 * np.arctanh(log_var / 15)


def affine(params, stats, x, condition=None, train=False):
    return x @ params["w"] + params["b"], stats


LINEAR = Network(init=lambda key, *inputs: ({}, {}), apply=affine)
MODEL = vae(LINEAR, LINEAR, LATENT, likelihood=gaussian(SIGMA))
EXTRA = {"encoder": {}, "decoder": {}}
LOSS = jax.jit(losses_of(MODEL)["vae"])
LOG_WEIGHTS = jax.jit(MODEL.density.log_p, static_argnums=4)


def parameters(mean_gain=1.0, log_var_shift=0.0):
    """The exact posterior, N(VAR W^T (x - b) / sigma^2, VAR), or one beside it."""
    gain = mean_gain * W * VAR / SIGMA**2
    raw = squashed(np.log(VAR) + log_var_shift)
    encoder = {"w": np.hstack([gain, np.zeros_like(gain)]), "b": np.concatenate([-B @ gain, raw])}
    tree = {"vae": {"encoder": encoder, "decoder": {"w": W.T, "b": B}, "prior": {}}}
    return jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), tree)


def evidence(x):
    return -stats.multivariate_normal.logpdf(x, B, W @ W.T + SIGMA**2 * np.eye(DIMS))


def draws(x, params):
    return -np.float64(LOG_WEIGHTS(params, EXTRA, KEYS, Batch(jnp.broadcast_to(jnp.float32(x), (MANY, DIMS))), 1)[:, 0])


@pytest.mark.parametrize("x", [B, RNG.normal(size=DIMS), 3 * RNG.normal(size=DIMS)])
def test_the_bound_is_the_evidence_at_the_exact_posterior(x):
    # there p(x, z) / q(z | x) = p(x) whatever z: every single weight, not their mean alone
    np.testing.assert_allclose(draws(x, parameters()), evidence(x), rtol=1e-5)


@pytest.mark.parametrize("mean_gain, log_var_shift", [(0.5, 0.0), (1.0, 1.0), (1.3, -2.0)])
def test_beside_it_the_bound_lies_above_by_the_divergence_of_the_posteriors(mean_gain, log_var_shift):
    x = 1.5 * RNG.normal(size=DIMS)
    got = draws(x, parameters(mean_gain, log_var_shift))
    mean = VAR * (W.T @ (x - B)) / SIGMA**2
    ratio = np.exp(log_var_shift)
    gap = 0.5 * np.sum(((mean_gain - 1) * mean) ** 2 / VAR + ratio - 1 - log_var_shift)
    error = got.std() / np.sqrt(MANY)
    assert gap > 10 * error  # enough to be seen
    assert abs(got.mean() - evidence(x) - gap) < 5 * error


def test_the_loss_is_distortion_and_beta_times_kl():
    x = Batch(jnp.asarray(RNG.normal(size=(MANY, DIMS)), jnp.float32))
    params, plain = parameters(), LOSS(parameters(), EXTRA, KEYS, x)
    heavy = vae(LINEAR, LINEAR, LATENT, likelihood=gaussian(SIGMA), objective=elbo(beta=4.0))
    loss, (metrics, _) = jax.jit(losses_of(heavy)["vae"])(params, EXTRA, KEYS, x)
    np.testing.assert_allclose(loss, metrics["distortion"] + 4 * metrics["kl"], rtol=1e-5)
    np.testing.assert_allclose(plain[0], metrics["distortion"] + metrics["kl"], rtol=1e-5)
    assert np.all(metrics["kl"] >= 0)


def test_the_noise_belongs_to_the_example():
    x = Batch(jnp.asarray(RNG.normal(size=(6, DIMS)), jnp.float32))
    wrong = parameters(0.7)  # at the exact posterior every weight is p(x), whatever the noise
    full = LOG_WEIGHTS(wrong, EXTRA, KEYS[:6], x, 2)
    part = LOG_WEIGHTS(wrong, EXTRA, KEYS[4:6], Batch(x.x[4:]), 2)
    np.testing.assert_allclose(part, full[4:], rtol=1e-5)
    assert np.all(LOG_WEIGHTS(wrong, EXTRA, KEYS[6:12], x, 2) != full)


def test_encode_is_the_posterior_s_mean_and_decode_the_likelihood_s():
    x = jnp.asarray(0.1 * RNG.normal(size=(5, DIMS)) + B, jnp.float32)
    params = parameters()
    z = MODEL.encode(params, EXTRA, x, None)
    np.testing.assert_allclose(z, (x - B) @ (W * VAR / SIGMA**2), rtol=1e-4, atol=1e-5)
    mean = drawn(MODEL, params, EXTRA, None)(z, jnp.ones(()))
    np.testing.assert_allclose(mean, z @ W.T + B, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "likelihood, objective",
    [
        (bernoulli(), elbo()),
        (gaussian(1.0), elbo(free_bits=0.1)),
        (gaussian(0.1), elbo()),
        (bernoulli(), iwae()),
        (bernoulli(), info()),
        (bernoulli(), tc(3)),
    ],
)
def test_extreme_encoder_outputs_give_neither_nan_nor_infinity(likelihood, objective):
    model = vae(LINEAR, LINEAR, LATENT, likelihood=likelihood, objective=objective, samples=2)
    x, params = Batch(jnp.full((3, DIMS), 0.5)), parameters()

    @jax.jit
    @jax.value_and_grad
    def mean_loss(params):
        return jnp.mean(losses_of(model)["vae"](params, EXTRA, KEYS[:3], x)[0])

    for mu, log_var in itertools.product((-1e6, 0.0, 1e6), (-1e6, 0.0, 1e6)):
        params["vae"]["encoder"]["b"] = np.float32([mu, -mu, log_var, log_var])
        assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(mean_loss(params))), (mu, log_var)


def test_an_ordinary_log_variance_is_hardly_squashed():
    # |log variance| of 3 is read to within 1.5 %, with its sign
    for given in (-3.0, -1.0, 0.0, 1.0, 3.0):
        params = parameters()
        params["vae"]["encoder"] = {"w": jnp.zeros((DIMS, 4)), "b": jnp.array([0.0, 0.0, given, given])}
        kl = LOSS(params, EXTRA, KEYS[:1], Batch(jnp.zeros((1, DIMS))))[1][0]["kl"]
        read = 15 * np.tanh(given / 15)
        np.testing.assert_allclose(kl, [np.exp(read) - 1 - read], rtol=1e-4, atol=1e-6)
        assert abs(read - given) <= 0.015 * abs(given)


def test_networks_get_the_condition_and_the_training_mode():
    seen = []

    def apply(params, stats, x, condition, train=False):
        seen.append((condition, train))
        return jnp.zeros((x.shape[0], DIMS)), stats

    model = vae(Network(LINEAR.init, apply), Network(LINEAR.init, apply), LATENT, condition=labels(3))
    x, label, params = jnp.zeros((2, 4)), jnp.array([0, 2]), {"vae": {"encoder": {}, "decoder": {}, "prior": {}}}
    for call in (
        lambda keys: losses_of(model)["vae"](params, EXTRA, keys, Batch(x, label)),
        lambda keys: model.density.log_p(params, EXTRA, keys, Batch(x, label), 1),
        lambda keys: model.encode(params, EXTRA, x, label),
        lambda keys: drawn(model, params, EXTRA, label)(model.prior(params, EXTRA, keys, None), jnp.ones(())),
    ):
        call(KEYS[:2])
    assert all(np.array_equal(condition, label) for condition, _ in seen)
    assert [train for _, train in seen] == [True, True, False, False, False, False]


def test_the_running_statistics_of_both_networks_come_back():
    def counting(params, stats, x, condition=None, train=False):
        return x @ params["w"] + params["b"], {"n": stats["n"] + train}

    net = Network(LINEAR.init, counting)
    model = vae(net, net, LATENT, likelihood=gaussian(SIGMA))
    extra = {"encoder": {"n": 0}, "decoder": {"n": 5}}
    _, (_, after) = jax.jit(losses_of(model)["vae"])(parameters(), extra, KEYS[:2], Batch(jnp.zeros((2, DIMS))))
    assert after == {"encoder": {"n": 1}, "decoder": {"n": 6}}


def test_the_prior_is_standard_normal():
    z = np.float64(MODEL.prior(parameters(), EXTRA, KEYS, None))
    assert z.shape == (MANY, LATENT)
    assert np.all(np.abs(z.mean(0)) < 5 / np.sqrt(MANY)) and np.all(np.abs(z.var(0) - 1) < 5 * np.sqrt(2 / MANY))
    assert abs(np.mean(z[:, 0] * z[:, 1])) < 5 / np.sqrt(MANY)


def test_a_latent_of_no_dimension_is_refused():
    with pytest.raises(InputError, match="at least one dimension"):
        vae(LINEAR, LINEAR, 0)


def test_a_decoder_that_does_not_fit_its_likelihood_is_refused():
    shape = (4, 4, 1)
    encoder, decoder = network(MLP((2 * 2,), (8,))), network(MLP(shape, (8,)))
    model = vae(encoder, decoder, 2, likelihood=learned_gaussian())
    with pytest.raises(InputError, match=r"the decoder gives \(4, 4, 1\), the likelihood needs \(4, 4, 2\)"):
        model.game.init(jax.random.key(0), Batch(jnp.zeros((3, *shape))))
