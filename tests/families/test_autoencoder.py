"""The autoencoder against principal components, the Wiener filter and the moments of its own codes."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from _functions import drawn, losses_of
from sklearn.decomposition import PCA

from jaxgen import data
from jaxgen.data import noise
from jaxgen.families import autoencoder, denoising_autoencoder
from jaxgen.losses import likelihood as likelihoods
from jaxgen.nets import Network, network
from jaxgen.nets.conv import ConvDecoder, ConvEncoder
from jaxgen.nets.mlp import MLP
from jaxgen.sampling import encode, reconstruct, sample
from jaxgen.training import init_state, make_step, repeat
from jaxgen.types import Batch, InputError

RNG = np.random.default_rng(0)


def affine(params, stats, x, condition=None, train=False):
    return x @ params["w"] + params["b"], stats


LINEAR = Network(lambda key, *inputs: ({}, {}), affine)


def tree(f, g, f_bias=0.0, g_bias=0.0):
    f, g = np.float32(f), np.float32(g)
    code = {"w": f, "b": np.full(f.shape[1], f_bias, np.float32)}
    return {"autoencoder": {"encoder": code, "decoder": {"w": g, "b": np.full(g.shape[1], g_bias, np.float32)}}}


def fresh(params, dims):
    """What an initialisation carries beside these parameters."""
    nets = [Network(lambda key, *inputs, own=own: (own, {}), affine) for own in params["autoencoder"].values()]
    return autoencoder(*nets, dims).game.init(jax.random.key(0), Batch(jnp.zeros((2, dims))))[1]


def test_a_linear_autoencoder_finds_the_principal_components():
    x = data.normalize(Batch(jnp.asarray(data.load("digits").take(np.arange(1500)).x))).x
    latent, steps = 8, 2000
    model = autoencoder(network(MLP((latent,), ())), network(MLP((8, 8, 1), ())), latent)
    adam = {"autoencoder": optax.adam(optax.cosine_decay_schedule(0.1, steps))}
    state = init_state(model.game, adam, jax.random.key(0), Batch(x))
    step = make_step(model.game, adam)
    run = jax.jit(repeat(lambda state, _: step(state, Batch(x[None, None]))))
    state, _ = run(state, Batch(jnp.zeros((steps, 1))), steps)
    error = float(jnp.mean(jnp.sum(jnp.square(reconstruct(model, state, x) - x), axis=(1, 2, 3))))
    flat = np.float64(x.reshape(len(x), -1))
    pca = PCA(latent).fit(flat)
    best = np.mean(np.sum((pca.inverse_transform(pca.transform(flat)) - flat) ** 2, axis=1))
    assert best * (1 - 1e-5) < error < 1.01 * best  # and nothing affine of eight numbers is better


def test_without_a_likelihood_the_loss_is_the_squared_error():
    x, params = jnp.asarray(RNG.normal(size=(7, 4)), jnp.float32), tree(*RNG.normal(size=(2, 4, 4)), 0.3, -0.2)
    model = autoencoder(LINEAR, LINEAR, 4)
    extra = fresh(params, 4)
    loss, (metrics, _) = jax.jit(losses_of(model)["autoencoder"])(
        params, extra, jax.random.split(jax.random.key(0), 7), Batch(x)
    )
    f, g = (params["autoencoder"][name] for name in ("encoder", "decoder"))
    error = np.sum((np.float64(x) - ((x @ f["w"] + f["b"]) @ g["w"] + g["b"])) ** 2, axis=1)
    np.testing.assert_allclose(loss, error, rtol=1e-5)
    np.testing.assert_allclose(metrics["squared_error"], error, rtol=1e-5)


@pytest.mark.parametrize("name", ["bernoulli", "gaussian", "learned_gaussian", "categorical", "discretised_logistic"])
def test_the_loss_is_minus_the_log_likelihood_of_the_reconstruction(name):
    p, shape = getattr(likelihoods, name)(), (4, 4, 1)
    x = jnp.asarray(RNG.integers(0, 256, (3, *shape)) / 127.5 - 1, jnp.float32)
    f, g = network(MLP((2,), (8,))), network(MLP((4, 4, p.outputs), (8,)))
    model = autoencoder(f, g, 2, likelihood=p)
    params, extra = model.game.init(jax.random.key(0), Batch(x))
    loss, (metrics, _) = losses_of(model)["autoencoder"](
        params, extra, jax.random.split(jax.random.key(1), 3), Batch(x)
    )
    z = model.encode(params, extra, x, None)
    np.testing.assert_allclose(loss, -p.log_prob(x, g.apply(params["autoencoder"]["decoder"], {}, z)[0]), rtol=1e-5)
    x_hat = drawn(model, params, extra, None)(z, jnp.ones(()))
    np.testing.assert_allclose(metrics["squared_error"], np.sum((x_hat - x) ** 2, axis=(1, 2, 3)), rtol=1e-4)


# --- denoising -----------------------------------------------------------------------------------------------------


def test_the_best_linear_denoiser_is_the_wiener_filter():
    # E |x - A (x + sigma eps)|^2 = tr (I - A) S (I - A)^T + sigma^2 |A|^2 is least at A = S (S + sigma^2 I)^-1
    sigma, n, groups = 0.6, 40, 2000
    x = RNG.normal(size=(n, 3)) @ RNG.normal(size=(3, 3))
    x -= x.mean(0)
    s = x.T @ x / n
    wiener = s @ np.linalg.inv(s + sigma**2 * np.eye(3))
    model = denoising_autoencoder(LINEAR, LINEAR, 3, noise.gaussian(sigma))
    params = tree(wiener.T, np.eye(3))
    extra = fresh(params, 3)

    @jax.jit
    @partial(jax.vmap, in_axes=(None, 0))
    @jax.value_and_grad
    def slope(params, key):
        return jnp.mean(losses_of(model)["autoencoder"](params, extra, jax.random.split(key, n), batch)[0])

    keys, batch = jax.random.split(jax.random.key(0), groups), Batch(jnp.asarray(x, jnp.float32))
    loss, gradient = slope(params, keys)
    least = np.trace(sigma**2 * wiener)
    assert abs(loss.mean() - least) < 5 * loss.std() / np.sqrt(groups)
    for leaf in jax.tree.leaves(gradient):  # stationary in the encoder, in the decoder and in both biases
        assert np.all(np.abs(leaf.mean(0)) < 5 * leaf.std(0) / np.sqrt(groups))
    # the power of the test: doing nothing to the noisy image is not stationary
    leaf = slope(tree(np.eye(3), np.eye(3)), keys)[1]["autoencoder"]["encoder"]["w"]
    assert np.any(np.abs(leaf.mean(0)) > 20 * leaf.std(0) / np.sqrt(groups))


def test_only_the_training_spoils_images():
    x, params = jnp.asarray(RNG.uniform(-0.9, 0.9, (50, 4)), jnp.float32), tree(np.eye(4), np.eye(4))
    model = denoising_autoencoder(LINEAR, LINEAR, 4, noise.masking(1.0))
    extra = fresh(params, 4)
    loss, _ = losses_of(model)["autoencoder"](params, extra, jax.random.split(jax.random.key(0), 50), Batch(x))
    np.testing.assert_allclose(loss, np.sum((x + 1) ** 2, axis=1), rtol=1e-5)  # all black, compared with the clean one
    np.testing.assert_array_equal(model.encode(params, extra, x, None), x)


# --- the prior -----------------------------------------------------------------------------------------------------

CODES = [RNG.normal(size=(64, 3)) * scale + shift for scale, shift in ((1.0, 5.0), (0.3, -2.0), (2.0, 0.5))]
IDENTITY = tree(np.eye(3), np.eye(3))
PLAIN = autoencoder(LINEAR, LINEAR, 3)
START = fresh(IDENTITY, 3)
KEYS = jax.random.split(jax.random.key(0), 20_000)


@partial(jax.jit, static_argnums=2)
def after(extra, x, axis=None):
    return losses_of(PLAIN, axis=axis)["autoencoder"](IDENTITY, extra, KEYS[: len(x)], Batch(x))[1][1]


def test_the_first_hundred_batches_of_codes_are_remembered_alike():
    extra = START
    for z in CODES:
        extra = after(extra, jnp.float32(z))
    z = np.concatenate(CODES)
    np.testing.assert_allclose(extra["codes"]["mean"], z.mean(0), rtol=1e-5)
    np.testing.assert_allclose(extra["codes"]["covariance"], np.cov(z.T, bias=True), rtol=1e-4, atol=1e-5)


def test_later_batches_weigh_a_hundredth():
    def many(extra, x, n):
        return jax.lax.fori_loop(0, n, lambda i, extra: after(extra, x), extra)

    extra = after(jax.jit(many)(START, jnp.float32(CODES[0]), 150), jnp.float32(CODES[1]))
    weights = np.repeat([0.99, 0.01], 64) / 64
    z = np.concatenate(CODES[:2])
    np.testing.assert_allclose(extra["codes"]["mean"], weights @ z, rtol=1e-4)
    covariance = np.cov(z.T, aweights=weights, bias=True)
    np.testing.assert_allclose(extra["codes"]["covariance"], covariance, rtol=1e-3, atol=1e-4)


def test_the_prior_draws_what_the_codes_look_like():
    mixed = CODES[2] @ RNG.normal(size=(3, 3))
    z = np.float64(PLAIN.prior(IDENTITY, after(START, jnp.float32(mixed)), KEYS, None))
    mean, covariance = mixed.mean(0), np.cov(mixed.T, bias=True)
    variances = np.diag(covariance)
    assert np.all(np.abs(z.mean(0) - mean) < 5 * np.sqrt(variances / len(z)))
    error = np.sqrt((np.outer(variances, variances) + covariance**2) / len(z))  # of the covariance of Gaussian draws
    assert np.all(np.abs(np.cov(z.T) - covariance) < 5 * error)


def test_codes_that_leave_a_direction_unused_can_be_drawn():
    flat = np.float32(CODES[0] * [1.0, 0.0, 0.0] + [0.0, 100.0, 0.0])
    z = PLAIN.prior(IDENTITY, after(after(START, flat), flat), KEYS[:100], None)
    assert np.all(np.isfinite(z)) and np.std(z[:, 0]) > 0.5
    np.testing.assert_allclose(z[:, 1:], np.broadcast_to([100.0, 0.0], (100, 2)), atol=1e-2)


def test_the_moments_are_the_whole_batch_s_where_its_parts_lie_apart():
    x = jnp.float32(CODES[2])
    parts = jax.vmap(lambda x: after(START, x, "data"), axis_name="data")(x.reshape(4, 16, 3))
    for part, full in zip(jax.tree.leaves(parts), jax.tree.leaves(after(START, x)), strict=True):
        for one in part:
            np.testing.assert_allclose(one, full, rtol=1e-5, atol=1e-6)


# --- sizes and errors ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [8, 28, 32, 64, 128])
def test_the_convolutional_pair_takes_every_size(size, channels):
    shape = (size, size, channels)
    pair = network(ConvEncoder(5, width=4, hidden=16)), network(ConvDecoder(shape, width=4, hidden=16))
    model = denoising_autoencoder(*pair, 5, noise.salt_and_pepper(0.2))

    def once(key, x):
        params, extra = model.game.init(key, Batch(x))
        z = model.encode(params, extra, x, None)
        image = drawn(model, params, extra, None)(
            model.prior(params, extra, jax.random.split(key, 2), None), jnp.ones(())
        )
        return losses_of(model)["autoencoder"](params, extra, jax.random.split(key, 2), Batch(x))[0], z, image

    keys = jax.eval_shape(lambda: jax.random.key(0))
    loss, z, image = jax.eval_shape(once, keys, jax.ShapeDtypeStruct((2, *shape), jnp.float32))
    assert (loss.shape, z.shape, image.shape) == ((2,), (2, 5), (2, *shape))


def test_the_sampling_calls_work():
    model = autoencoder(network(MLP((2,), (8,))), network(MLP((4, 4, 1), (8,))), 2)
    x = jnp.zeros((3, 4, 4, 1))
    state = init_state(model.game, {"autoencoder": optax.sgd(0.1)}, jax.random.key(0), Batch(x))
    assert sample(model, state, jax.random.key(1), 5).shape == (5, 4, 4, 1)
    assert encode(model, state, x).shape == (3, 2) and reconstruct(model, state, x).shape == x.shape


def test_what_does_not_fit_is_refused():
    with pytest.raises(InputError, match="at least one dimension"):
        autoencoder(LINEAR, LINEAR, 0)
    shape, x = (4, 4, 1), Batch(jnp.zeros((3, 4, 4, 1)))
    f, g = network(MLP((2,), (8,))), network(MLP(shape, (8,)))
    with pytest.raises(InputError, match=r"the encoder gives \(2,\), the code has 3 numbers"):
        autoencoder(f, g, 3).game.init(jax.random.key(0), x)
    with pytest.raises(InputError, match=r"the likelihood needs \(4, 4, 2\)"):
        autoencoder(f, g, 2, likelihood=likelihoods.learned_gaussian()).game.init(jax.random.key(0), x)
    far = Batch(np.full((2, 4, 4, 1), 3.0, np.float32))
    autoencoder(f, g, 2).game.check(far)  # the squared error takes any number
    with pytest.raises(InputError, match="a pixel is 3"):
        autoencoder(f, g, 2, likelihood=likelihoods.bernoulli()).game.check(far)
