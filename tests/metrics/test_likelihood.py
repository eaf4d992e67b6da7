"""-log p(x) by a model's density against the linear Gaussian model, whose evidence is known."""

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
from jaxgen.metrics.likelihood import likelihood, paired
from jaxgen.nets import Network
from jaxgen.types import Batch, Density, InputError, TrainState

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


def close(got, expected):
    """The same numbers, but for rounding."""
    for name in ("nll", "elbo", "bits"):
        np.testing.assert_allclose(getattr(got, name)[:2], getattr(expected, name)[:2], rtol=1e-5)
    assert got[3:] == expected[3:]


@pytest.mark.parametrize("samples", [1, 200])
def test_at_the_exact_posterior_it_is_the_evidence_whatever_the_samples(samples):
    got = likelihood(MODEL, state(), DATA, samples=samples)
    np.testing.assert_allclose([got.nll.value, got.elbo.value], EVIDENCE.mean(), rtol=1e-5)
    error = EVIDENCE.std(ddof=1) / math.sqrt(N)
    np.testing.assert_allclose([got.nll.error, got.elbo.error], error, rtol=1e-4)
    nats = DIMS * math.log(2)
    np.testing.assert_allclose(got.bits[:2], [EVIDENCE.mean() / nats, error / nats], rtol=1e-4)
    assert (got.samples, got.images, got.kind) == (samples, N, "weights")
    assert (
        f"{samples} importance samples" in got.nll.how and f"error over {N} images, which models share" in got.nll.how
    )


def test_beside_it_the_bounds_fall_to_the_evidence_as_samples_grow():
    wide, gap = state(1.0), np.e - 1 - 1  # 1/2 sum_j exp(s) - 1 - s, of two dimensions
    got = [likelihood(MODEL, wide, DATA, samples=k, seed=k) for k in (1, 5, 2000)]
    nll = [one.nll.value for one in got]
    assert nll[0] == pytest.approx(got[0].elbo.value, rel=1e-6)  # the same bound at one sample
    assert all(one.nll.value <= one.elbo.value for one in got) and nll == sorted(nll, reverse=True)
    assert got[2].elbo.value - EVIDENCE.mean() == pytest.approx(gap, abs=0.02)
    assert nll[2] == pytest.approx(EVIDENCE.mean(), abs=5e-3)


def test_pieces_of_the_samples_and_of_the_images_make_no_difference():
    # four pieces of a hundred draws against all four hundred at once: both are within their deviation of the evidence
    wide = state(1.0)
    got = likelihood(MODEL, wide, DATA, samples=400, images=60)
    keys, x = jax.random.split(jax.random.key(5), 60), Batch(jnp.asarray(X[:60]))
    weights = jax.jit(MODEL.density.log_p, static_argnums=4)(wide.params, wide.extra, keys, x, 400)
    at_once = float(-log_mean_exp(weights).mean())
    deviation = math.sqrt((math.exp(1.0) ** 2 / (2 * math.e - 1) - 1) / 400 / 60)  # of the mean, by the delta method
    assert abs(got.nll.value - EVIDENCE[:60].mean()) < 5 * deviation and abs(at_once - got.nll.value) < 7 * deviation
    # 60 images in calls of 50 or of 7, the last of them not full: image i draws from its own key
    fewer = MODEL._replace(density=MODEL.density._replace(draws=700))
    close(likelihood(fewer, wide, DATA, samples=400, images=60), got)


def test_the_first_images_are_those_of_the_data_set_and_the_seed_draws():
    wide = state(1.0)
    first = likelihood(MODEL, wide, DATA, samples=5, images=7)
    alone = likelihood(MODEL, wide, in_memory("seven", "test", X[:7]), samples=5)
    close(first, alone)
    assert first.nll != likelihood(MODEL, wide, DATA, samples=5, images=7, seed=1).nll
    assert math.isnan(likelihood(MODEL, wide, DATA, samples=5, images=1).nll.error)


def test_what_has_no_likelihood_is_refused():
    for model, data, options, message in [
        (MODEL._replace(density=None), DATA, {}, "only draws samples"),
        (MODEL, DATA, {"samples": 0}, "at least one sample an image is needed, there are 0"),
        (MODEL, DATA, {"images": 601}, "601 images: points has 1 to 600 in its test split"),
        (MODEL, DATA, {"images": 0}, "0 images"),
    ]:
        with pytest.raises(InputError, match=message):
            likelihood(model, state(), data, **options)


def test_a_bernoulli_likelihood_is_one_of_black_and_white_pixels():
    model = vae(LINEAR, LINEAR, LATENT, likelihood=bernoulli())
    binary = np.sign(X)
    grey = binary.copy()
    grey[99, -1] = 0.5
    got = likelihood(model, state(), in_memory("binary", "test", binary), samples=2, images=99)
    assert np.isfinite(got.nll.value) and got.nll.value > 0
    assert likelihood(model, state(), in_memory("grey", "test", grey), samples=2, images=99) == got
    with pytest.raises(InputError, match="grey pixels is no probability: give binary images"):
        likelihood(model, state(), in_memory("grey", "test", grey), samples=2, images=100)


def constant(log_p, kind):
    """A model whose log p of image i is log_p(x_i) + its draws' noise, of a kind."""

    def density(params, extra, keys, batch, k):
        noise = jax.vmap(lambda key: jax.random.normal(key, (k,)))(keys)
        return log_p(batch.x)[:, None] + 0.5 * noise

    return MODEL._replace(density=Density(density, kind, "a density"))


@pytest.mark.parametrize("kind", ["exact", "bound"])
def test_a_density_that_is_no_weight_is_averaged_and_not_exponentiated(kind):
    model = constant(lambda x: jnp.sum(x, axis=1), kind)
    got = likelihood(model, state(), DATA, samples=400, images=50)
    truth = -X[:50].sum(1).mean()
    assert got.nll.value == pytest.approx(truth, abs=5 * 0.5 / math.sqrt(400 * 50)) and got.elbo is None
    by_weights = likelihood(constant(lambda x: jnp.sum(x, axis=1), "weights"), state(), DATA, samples=400, images=50)
    assert by_weights.nll.value == pytest.approx(truth - 0.125, abs=0.02)  # log E exp(s e) = s^2 / 2
    assert by_weights.elbo.value == pytest.approx(got.nll.value, rel=1e-6)
    assert likelihood(model, state(), DATA, images=5).samples == 1  # one unbiased draw is enough of a mean
    assert got.kind == kind and "400 " in got.nll.how


def test_models_that_share_images_are_compared_by_paired_differences():
    def gap(x):
        return 0.1 + 0.02 * jnp.sign(x[:, 0])

    one, other = (constant(lambda x, s=s: 10 * x[:, 0] + s * gap(x), "exact") for s in (0.0, 1.0))
    apart = likelihood(one, state(), DATA).nll.error
    found = paired((one, state()), (other, state()), DATA)
    differences = 0.1 + 0.02 * np.sign(X[:, 0])
    assert found.value == pytest.approx(differences.mean(), abs=1e-4)
    assert found.error == pytest.approx(differences.std(ddof=1) / math.sqrt(N), rel=0.01)
    assert found.error < apart / 100  # what both have in common is not in it


def test_a_likelihood_is_computed_at_full_precision():
    precisions = []

    def log_p(params, extra, keys, batch, k):
        precisions.append(jax.config.jax_default_matmul_precision)
        return jnp.zeros((len(keys), k))

    likelihood(MODEL._replace(density=Density(log_p, "exact", "a density")), state(), DATA, images=3)
    assert set(precisions) == {"highest"}
