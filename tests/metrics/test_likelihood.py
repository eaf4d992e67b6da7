"""-log p(x) by importance sampling against the linear Gaussian model, whose evidence is known."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxgen.data import in_memory
from jaxgen.families import vae
from jaxgen.losses.evidence import log_mean_exp
from jaxgen.losses.likelihood import bernoulli, gaussian
from jaxgen.metrics import likelihood as module
from jaxgen.metrics.likelihood import likelihood
from jaxgen.nets import Network
from jaxgen.types import Batch, InputError, TrainState

SIGMA, LATENT, DIMS, N = 0.6, 2, 4, 600
RNG = np.random.default_rng(0)
# orthogonal columns: the posterior's covariance is diagonal, as the encoder's is
W = np.linalg.qr(RNG.normal(size=(DIMS, LATENT)))[0] * [1.5, 0.7]
B = RNG.normal(size=DIMS)
VAR = 1 / (1 + np.sum(W**2, axis=0) / SIGMA**2)
X = (RNG.normal(size=(N, LATENT)) @ W.T + B + SIGMA * RNG.normal(size=(N, DIMS))).astype(np.float32)
DATA = in_memory("points", "test", X)
EVIDENCE = -stats.multivariate_normal.logpdf(X, B, W @ W.T + SIGMA**2 * np.eye(DIMS))


def affine(params, stats, x, condition=None, train=False):
    return x @ params["w"] + params["b"], stats


LINEAR = Network(init=lambda key, *inputs: ({}, {}), apply=affine)
MODEL = vae(LINEAR, LINEAR, LATENT, likelihood=gaussian(SIGMA))


def state(log_var_shift=0.0):
    """The exact posterior, N(VAR W^T (x - b) / sigma^2, VAR), or a wider one."""
    gain = W * VAR / SIGMA**2
    log_var = 15 * np.arctanh((np.log(VAR) + log_var_shift) / 15)  # the family reads 15 tanh(. / 15)
    encoder = {"w": np.hstack([gain, np.zeros_like(gain)]), "b": np.concatenate([-B @ gain, log_var])}
    params = {"vae": {"encoder": encoder, "decoder": {"w": W.T, "b": B}, "prior": {}}}
    params = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), params)
    extra = {"encoder": {}, "decoder": {}, "step": jnp.zeros((), jnp.int32)}
    return TrainState(jnp.zeros((), jnp.int32), jax.random.key(0), params, {}, extra, None)


@pytest.mark.parametrize("samples", [1, 200])
def test_at_the_exact_posterior_it_is_the_evidence_whatever_the_samples(samples):
    got = likelihood(MODEL, state(), DATA, samples=samples)
    np.testing.assert_allclose([got.nll, got.elbo], EVIDENCE.mean(), rtol=1e-5)
    error = EVIDENCE.std(ddof=1) / math.sqrt(N)
    np.testing.assert_allclose([got.nll_error, got.elbo_error], error, rtol=1e-4)
    np.testing.assert_allclose(got.bits, EVIDENCE.mean() / (DIMS * math.log(2)), rtol=1e-5)
    assert (got.samples, got.images) == (samples, N)


def test_beside_it_the_bounds_fall_to_the_evidence_as_samples_grow():
    wide, gap = state(1.0), np.e - 1 - 1  # 1/2 sum_j exp(s) - 1 - s, of two dimensions
    got = [likelihood(MODEL, wide, DATA, samples=k, seed=k) for k in (1, 5, 2000)]
    nll = [one.nll for one in got]
    assert nll[0] == pytest.approx(got[0].elbo, rel=1e-6)  # the same bound at one sample
    assert all(one.nll <= one.elbo for one in got) and nll == sorted(nll, reverse=True)
    assert got[2].elbo - EVIDENCE.mean() == pytest.approx(gap, abs=0.02)
    assert nll[2] == pytest.approx(EVIDENCE.mean(), abs=5e-3)


def test_pieces_of_the_samples_and_of_the_images_make_no_difference(monkeypatch):
    # four pieces of a hundred draws against all four hundred at once: both are within their deviation of the evidence
    wide = state(1.0)
    got = likelihood(MODEL, wide, DATA, samples=400, images=60)
    keys, x = jax.random.split(jax.random.key(5), 60), Batch(jnp.asarray(X[:60]))
    weights = jax.jit(MODEL.log_weights, static_argnums=4)(wide.params, wide.extra, keys, x, 400)
    at_once = float(-log_mean_exp(weights).mean())
    deviation = math.sqrt((math.exp(1.0) ** 2 / (2 * math.e - 1) - 1) / 400 / 60)  # of the mean, by the delta method
    assert abs(got.nll - EVIDENCE[:60].mean()) < 5 * deviation and abs(at_once - got.nll) < 7 * deviation
    # 60 images in calls of 50 or of 7, the last of them not full: image i draws from its own key
    monkeypatch.setattr(module, "DRAWS", 700)
    np.testing.assert_allclose(likelihood(MODEL, wide, DATA, samples=400, images=60), got, rtol=1e-5)


def test_the_first_images_are_those_of_the_data_set_and_the_seed_draws():
    wide = state(1.0)
    first = likelihood(MODEL, wide, DATA, samples=5, images=7)
    alone = likelihood(MODEL, wide, in_memory("seven", "test", X[:7]), samples=5)
    np.testing.assert_allclose(first, alone, rtol=1e-5)
    assert first.nll != likelihood(MODEL, wide, DATA, samples=5, images=7, seed=1).nll
    assert math.isnan(likelihood(MODEL, wide, DATA, samples=5, images=1).nll_error)


def test_what_has_no_likelihood_is_refused():
    for model, data, options, said in [
        (MODEL._replace(log_weights=None), DATA, {}, "only draws samples"),
        (MODEL, DATA, {"samples": 0}, "at least one sample an image is needed, there are 0"),
        (MODEL, DATA, {"images": 601}, "601 images: points has 1 to 600 in its test split"),
        (MODEL, DATA, {"images": 0}, "0 images"),
    ]:
        with pytest.raises(InputError, match=said):
            likelihood(model, state(), data, **options)


def test_a_bernoulli_likelihood_is_one_of_black_and_white_pixels():
    model = vae(LINEAR, LINEAR, LATENT, likelihood=bernoulli())
    binary = np.sign(X)
    grey = binary.copy()
    grey[99, -1] = 0.5
    got = likelihood(model, state(), in_memory("binary", "test", binary), samples=2, images=99)
    assert np.isfinite(got.nll) and got.nll > 0
    assert likelihood(model, state(), in_memory("grey", "test", grey), samples=2, images=99) == got
    with pytest.raises(InputError, match="grey pixels is no probability: give binary images"):
        likelihood(model, state(), in_memory("grey", "test", grey), samples=2, images=100)
