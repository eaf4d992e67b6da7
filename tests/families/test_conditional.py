"""Conditions of a VAE: the conditional linear Gaussian model, whose likelihood is known; images in networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _functions import losses_of
from scipy import stats

from jaxgen.conditions import attributes, image, labels
from jaxgen.families import vae
from jaxgen.losses.evidence import iwae
from jaxgen.losses.likelihood import gaussian
from jaxgen.nets import Network, network
from jaxgen.nets.conv import ConvDecoder, ConvEncoder
from jaxgen.nets.mlp import MLP
from jaxgen.types import Batch, InputError

SIGMA, LATENT, N = 0.6, 2, 5
SHAPE, DIMS = (2, 2, 1), 4
RNG = np.random.default_rng(0)
# orthogonal columns: the posterior's covariance is diagonal, as the encoder's is
W = np.linalg.qr(RNG.normal(size=(DIMS, LATENT)))[0] * [1.5, 0.7]
VAR = 1 / (1 + np.sum(W**2, axis=0) / SIGMA**2)
GAIN, RAW = W * VAR / SIGMA**2, 15 * np.arctanh(np.log(VAR) / 15)  # the family reads 15 tanh(. / 15)
X = RNG.normal(size=(N, *SHAPE)).astype(np.float32)
ATTRIBUTES = RNG.normal(size=(N, 3)).astype(np.float32)
OFFSETS = RNG.normal(size=(4, DIMS)).astype(np.float32)  # of labels; the first three rows act on attributes too
KEYS = jax.random.split(jax.random.key(0), N)
QUICK = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None


def left(x):
    return x[:, :, :1]


CASES = {
    "label": (labels(4), np.array([3, 0, 1, 3, 2]), lambda c: jnp.asarray(OFFSETS)[c]),
    "attributes": (attributes(3), ATTRIBUTES, lambda c: c @ OFFSETS[:3]),
    "image": (image(left, (2, 1, 1)), left(X), lambda c: c.reshape(-1, 2) @ OFFSETS[:2]),
}


@pytest.mark.parametrize("kind", list(CASES))
def test_at_the_exact_posterior_the_bound_is_the_evidence_of_the_image_given_its_condition(kind):
    conditioner, condition, offset = CASES[kind]

    def encode(params, extra, x, c, train=False):
        mean = (x.reshape(-1, DIMS) - offset(c)) @ GAIN
        return jnp.concatenate([mean, jnp.broadcast_to(RAW, mean.shape)], axis=1), extra

    def decode(params, extra, z, c, train=False):
        return (z @ W.T + offset(c)).reshape(-1, *SHAPE), extra

    nothing = lambda key, *inputs: ({}, {})  # noqa: E731
    model = vae(
        Network(nothing, encode),
        Network(nothing, decode),
        LATENT,
        likelihood=gaussian(SIGMA),
        objective=iwae(),
        samples=3,
        condition=conditioner,
    )
    params, extra = model.game.init(KEYS[0], Batch(X, condition))
    batch = Batch(X, None if kind == "image" else condition)  # what the data have; an image condition is derived
    covariance = W @ W.T + SIGMA**2 * np.eye(DIMS)
    centred = X.reshape(N, DIMS) - np.asarray(offset(condition))
    evidence = stats.multivariate_normal.logpdf(centred, cov=covariance)
    loss = jax.jit(losses_of(model)["vae"], compiler_options=QUICK)(params, extra, KEYS, batch)[0]
    np.testing.assert_allclose(loss, -evidence, rtol=1e-4)
    weights = jax.jit(model.density.log_p, static_argnums=4, compiler_options=QUICK)(params, extra, KEYS, batch, 2)
    np.testing.assert_allclose(weights, np.repeat(evidence[:, None], 2, axis=1), rtol=1e-4)


def filled(net, *inputs):
    """(params, stats) of size one. Traced, not compiled."""
    rng, (params, stats) = np.random.default_rng(0), jax.eval_shape(net.init, KEYS[0], *inputs)
    return jax.tree.map(lambda a: np.float32(rng.normal(size=a.shape) / np.sqrt(np.prod(a.shape[:-1]))), params), stats


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [(8, 8), (28, 28), (32, 64), (5, 7), (1, 1)], ids=str)
def test_networks_take_an_image_to_condition_on_at_every_size(side, channels):
    x, c, z = jnp.zeros((2, *side, 3)), jnp.zeros((2, *side, channels)), jnp.zeros((2, LATENT))
    for dtype in (jnp.float32, jnp.bfloat16):
        for module, first, shape in (
            (ConvEncoder(7, width=4, hidden=8, dtype=dtype), x, (2, 7)),
            (ConvDecoder(x.shape[1:], width=4, hidden=8, dtype=dtype), z, x.shape),
            (MLP(x.shape[1:], (8,), dtype=dtype), z, x.shape),
        ):
            net = network(module)
            params, extra = jax.eval_shape(net.init, KEYS[0], first, c)
            output, _ = jax.eval_shape(net.apply, params, extra, first, c)
            assert output.shape == shape and output.dtype == jnp.float32


def test_an_image_of_other_sides_is_refused():
    c = jnp.zeros((2, 8, 4, 1))
    for module, first in ((ConvEncoder(2), jnp.zeros((2, 8, 8, 1))), (ConvDecoder((8, 8, 1)), jnp.zeros((2, 3)))):
        with pytest.raises(InputError, match=r"sides \(8, 8\), this one has \(8, 4\)"):
            jax.eval_shape(network(module).init, KEYS[0], first, c)


@pytest.fixture(scope="module")
def decoder():
    net = network(ConvDecoder((16, 16, 2), width=4, hidden=8))
    z, c = (jnp.asarray(RNG.normal(size=shape), jnp.float32) for shape in ((2, LATENT), (2, 16, 16, 1)))
    params, extra = filled(net, z, c)
    return jax.jit(lambda z, c: net.apply(params, extra, z, c)[0], compiler_options=QUICK), z, c


def test_a_decoder_answers_a_pixel_of_the_condition_around_that_pixel(decoder):
    decode, z, c = decoder
    change = np.abs(decode(z, c.at[0, 4, 11].add(1.0)) - decode(z, c)).max(-1)
    assert np.all(change[1] < 1e-6)  # the other image's condition is not its own
    assert change[0].max() == change[0, 2:7, 9:14].max() > 1e-2
    # through the smallest scale it is seen far away, too: a colour may depend on all of the picture
    assert (change[0] > 1e-6).mean() > 0.9


def test_a_decoder_hears_its_latent_beside_the_condition(decoder):
    decode, z, c = decoder
    change = np.abs(decode(z.at[1].add(1.0), c) - decode(z, c)).reshape(2, -1).max(1)
    assert change[0] < 1e-6 < 1e-2 < change[1]
    # and not as one term beside another: what the latent changes depends on the condition
    other = c.at[1].multiply(-1.0)
    differs = (decode(z.at[1].add(1.0), c) - decode(z, c)) - (decode(z.at[1].add(1.0), other) - decode(z, other))
    assert np.abs(differs[1]).max() > 1e-2


def test_an_encoder_hears_the_condition():
    net = network(ConvEncoder(3, width=4, hidden=8))
    x, c = (jnp.asarray(RNG.normal(size=(2, 8, 8, k)), jnp.float32) for k in (3, 1))
    params, extra = filled(net, x, c)
    apply = jax.jit(lambda c: net.apply(params, extra, x, c)[0], compiler_options=QUICK)
    change = np.abs(apply(c.at[1].multiply(-1.0)) - apply(c)).max(1)
    assert change[0] < 1e-6 < 1e-3 < change[1]
