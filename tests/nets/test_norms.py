"""Normalisations, kernels that are changed before their use, and layers of a minibatch, each against its equation."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.nets import network
from jaxgen.nets.layers import Conv, ConvTranspose, Dense, Embed
from jaxgen.nets.minibatch import MinibatchDiscrimination, MinibatchStd
from jaxgen.nets.norms import (
    AdaIN,
    BatchNorm,
    ConditionalBatchNorm,
    GroupNorm,
    InstanceNorm,
    LayerNorm,
    Referenced,
    VirtualBatchNorm,
    pixel_norm,
)
from jaxgen.nets.primitives import constant_std
from jaxgen.nets.weights import equalised, spectral
from jaxgen.training import average
from jaxgen.types import Average, InputError, TrainState

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(1.0, 2.0, (6, 4, 4, 8)), jnp.float32)
C = jnp.asarray(RNG.normal(size=(6, 5)), jnp.float32)


def normalised(x, axes, eps=1e-5):
    x = np.float64(x)
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + eps)


@pytest.mark.parametrize(
    ("norm", "axes", "split"),
    [
        (LayerNorm(), (1, 2, 3, 4), 1),
        (InstanceNorm(), (1, 2, 4), 8),
        (GroupNorm(groups=4), (1, 2, 4), 4),
        (GroupNorm(), (1, 2, 4), 2),
    ],
)
def test_norms_of_an_example_are_over_their_own_axes(norm, axes, split):
    net = network(norm)
    params, stats = net.init(KEY, X)
    want = normalised(np.reshape(X, (6, 4, 4, split, -1)), axes).reshape(X.shape)
    np.testing.assert_allclose(net.apply(params, stats, X)[0], want, rtol=1e-4, atol=1e-5)
    scaled = jax.tree.map(lambda a: a + 1.0, params)  # gamma 2, beta 1
    np.testing.assert_allclose(net.apply(scaled, stats, X)[0], 2 * want + 1, rtol=1e-4, atol=1e-4)


def test_groups_that_do_not_divide_the_channels_are_refused():
    with pytest.raises(InputError, match="8 channels do not fall into 3 groups"):
        network(GroupNorm(groups=3)).init(KEY, X)


def test_pixel_norm_makes_every_pixel_s_mean_square_one():
    y = np.float64(pixel_norm(X))
    np.testing.assert_allclose(np.square(y).mean(-1), np.ones((6, 4, 4)), rtol=1e-5)
    np.testing.assert_allclose(y / np.float64(X), np.broadcast_to((y / X)[..., :1], y.shape), rtol=1e-4)


class Styled(nn.Module):
    kind: str

    @nn.compact
    def __call__(self, x, c, train=False):
        return AdaIN()(x, c) if self.kind == "adain" else ConditionalBatchNorm()(x, c, train)


def test_adain_gives_each_channel_the_style_s_mean_and_deviation():
    net = network(Styled("adain"))
    params, stats = net.init(KEY, X, C)
    y = np.float64(net.apply(params, stats, X, C)[0])
    kernel, bias = (np.float64(params["AdaIN_0"]["Dense_0"][name]) for name in ("kernel", "bias"))
    scale, shift = np.split(np.float64(C) @ kernel + bias, 2, axis=-1)
    np.testing.assert_allclose(y.mean((1, 2)), shift, atol=1e-4)
    np.testing.assert_allclose(y.std((1, 2)), np.abs(1 + scale), rtol=1e-3)


def test_conditional_batch_norm_is_batch_norm_whose_scale_and_shift_are_the_condition_s():
    net = network(Styled("batch"))
    params, stats = net.init(KEY, X, C)
    y, after = net.apply(params, stats, X, C, train=True)
    linear = params["ConditionalBatchNorm_0"]
    gain, shift = (np.float64(C) @ np.float64(linear[name]["kernel"]) for name in ("gain", "shift"))
    over = (6, 1, 1, 8)
    want = normalised(X, (0, 1, 2)) * (1 + gain.reshape(over)) + shift.reshape(over)
    np.testing.assert_allclose(y, want, rtol=1e-3, atol=1e-4)
    mean = jax.tree.leaves(after["batch_stats"])[0]
    np.testing.assert_allclose(mean, 0.1 * np.float64(X).mean((0, 1, 2)), rtol=1e-4, atol=1e-5)


# --- virtual batch normalisation -------------------------------------------------------------------------------------


class Virtual(nn.Module):
    @nn.compact
    def __call__(self, x, condition=None, train=False):
        return VirtualBatchNorm(4)(x)


def test_a_virtual_batch_is_the_reference_and_the_example_itself():
    net = network(Referenced(Virtual(), 4))
    first, later = X, X[:3] * 1.5 + 0.3
    params, stats = net.init(KEY, first)
    y, after = net.apply(params, stats, later, train=True)
    reference = np.float64(first[:4])
    for i, x in enumerate(np.float64(later)):
        mean = (4 * reference.mean((0, 1, 2)) + x.mean((0, 1))) / 5
        square = (4 * np.square(reference).mean((0, 1, 2)) + np.square(x).mean((0, 1))) / 5
        np.testing.assert_allclose(y[i], (x - mean) / np.sqrt(square - mean**2 + 1e-5), rtol=1e-3, atol=1e-4)
    one = net.apply(params, stats, later[:1])[0]  # examples do not depend on each other
    np.testing.assert_allclose(one[0], y[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(jax.tree.leaves(after["reference"])[0], first[:4])  # nothing moves it
    with pytest.raises(InputError, match="reference batch of 4 needs a minibatch as large, this one has 3"):
        net.init(KEY, later)


# --- spectral normalisation ------------------------------------------------------------------------------------------

LAYERS = {
    "dense": (Dense(7, weight=spectral), (6, 5)),
    "conv": (Conv(7, weight=spectral), (2, 5, 5, 3)),
    "transposed": (ConvTranspose(7, weight=spectral), (2, 5, 5, 3)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_the_largest_singular_value_becomes_one(name):
    """Of the kernel [outputs, everything else], found by what the layer does to its input."""
    module, shape = LAYERS[name]
    net, x = network(module), jnp.asarray(RNG.normal(size=shape), jnp.float32)
    params, stats = net.init(KEY, x)
    bare = network(module.clone(weight=None))
    sigma = np.linalg.svd(np.float64(params["kernel"]).reshape(-1, 7), compute_uv=False)[0]
    for _ in range(100):
        _, stats = net.apply(params, stats, x, train=True)
    want = bare.apply({**params, "kernel": params["kernel"] / sigma}, {}, x)[0]
    np.testing.assert_allclose(net.apply(params, stats, x)[0], want, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(net.apply(params, stats, x, train=True)[0], want, rtol=1e-4, atol=1e-5)


def test_one_use_in_training_is_one_power_iteration():
    net, x = network(Dense(7, weight=spectral)), jnp.ones((2, 5))
    params, stats = net.init(KEY, x)
    (u,) = jax.tree.leaves(stats)
    w = np.float64(params["kernel"]).T
    v = w.T @ np.float64(u)
    want = w @ (v / np.linalg.norm(v))
    _, after = net.apply(params, stats, x, train=True)
    np.testing.assert_allclose(jax.tree.leaves(after)[0], want / np.linalg.norm(want), rtol=1e-4, atol=1e-6)


def test_the_gradient_is_that_of_w_over_sigma_with_fixed_vectors():
    """Miyato et al. 2018, eq. 12: (G - <G, W / sigma> u v^T) / sigma, with G the gradient in the normalised kernel."""
    net, x = network(Dense(7, bias=False, weight=spectral)), jnp.asarray(RNG.normal(size=(6, 5)), jnp.float32)
    params, stats = net.init(KEY, x)
    for _ in range(100):
        _, stats = net.apply(params, stats, x, train=True)
    target = jnp.asarray(RNG.normal(size=(6, 7)), jnp.float32)
    gradient = jax.grad(lambda p: jnp.sum(net.apply(p, stats, x)[0] * target))(params)["kernel"]
    w = np.float64(params["kernel"])
    left, sigmas, right = np.linalg.svd(w, full_matrices=False)
    g = np.float64(x).T @ np.float64(target)
    want = (g - np.sum(g * w / sigmas[0]) * np.outer(left[:, 0], right[0])) / sigmas[0]
    np.testing.assert_allclose(gradient, want, rtol=1e-3, atol=1e-4)


def test_averaged_weights_are_normalised_by_their_own_singular_value():
    """The vector is that of the last weights, not of the averaged ones; it follows before it is used."""
    net, x = network(Dense(7, weight=spectral)), jnp.asarray(RNG.normal(size=(6, 5)), jnp.float32)
    params, stats = net.init(KEY, x)
    ema = Average({"net": params}, {"net": stats})
    apart = np.random.default_rng(3)
    for step in range(50):
        params = jax.tree.map(lambda a: a + jnp.asarray(0.05 * apart.normal(size=a.shape), jnp.float32), params)
        _, stats = net.apply(params, stats, x, train=True)
        now = TrainState(jnp.asarray(step), KEY, {"net": params}, {}, {"net": stats}, ema)
        ema = average(now, 0.99)
    np.testing.assert_array_equal(jax.tree.leaves(ema.extra), jax.tree.leaves(stats))  # copied
    averaged = ema.params["net"]
    y = net.apply(averaged, ema.extra["net"], x)[0] - averaged["bias"]
    sigma = np.linalg.svd(np.float64(averaged["kernel"]), compute_uv=False)[0]
    np.testing.assert_allclose(y, np.float64(x) @ np.float64(averaged["kernel"]) / sigma, rtol=2e-2, atol=2e-2)


def test_an_embedding_can_be_normalised_too():
    net, label = network(Embed(4, 6, weight=spectral)), jnp.arange(4)
    params, stats = net.init(KEY, label)
    for _ in range(100):
        table, stats = net.apply(params, stats, label, train=True)
    np.testing.assert_allclose(np.linalg.svd(table, compute_uv=False)[0], 1.0, rtol=1e-4)


def test_an_equalised_layer_is_scaled_in_use_and_begins_at_one():
    net, x = network(Conv(400, 3, weight=equalised(), kernel_init=constant_std(1.0))), jnp.ones((1, 4, 4, 25))
    params, _ = net.init(KEY, x)
    np.testing.assert_allclose(np.std(params["kernel"]), 1.0, rtol=0.01)
    bare = network(Conv(400, 3))
    scaled = {**params, "kernel": params["kernel"] * np.sqrt(2.0 / (9 * 25))}
    np.testing.assert_allclose(net.apply(params, {}, x)[0], bare.apply(scaled, {}, x)[0], rtol=1e-4, atol=1e-4)
    slow = network(Dense(5, weight=equalised(1.0, 0.01), kernel_init=constant_std(100.0)))
    params, _ = slow.init(KEY, C)
    np.testing.assert_allclose(
        slow.apply(params, {}, C)[0], np.float64(C) @ np.float64(params["kernel"]) * 0.01 / np.sqrt(5), rtol=1e-4
    )


# --- minibatches -----------------------------------------------------------------------------------------------------


def test_the_deviation_of_a_group_is_one_more_channel():
    y = network(MinibatchStd(3)).apply({}, {}, X)[0]
    np.testing.assert_array_equal(y[..., :8], X)
    for at in (0, 3):
        group = np.float64(X[at : at + 3])
        np.testing.assert_allclose(y[at : at + 3, ..., 8], np.full((3, 4, 4), group.std(0).mean()), rtol=1e-5)
    every = network(MinibatchStd(4)).apply({}, {}, X)[0]  # 4 does not divide 6
    np.testing.assert_allclose(every[..., 8], np.full((6, 4, 4), np.float64(X).std(0).mean()), rtol=1e-5)
    alike = network(MinibatchStd()).apply({}, {}, jnp.broadcast_to(X[:1], X.shape))[0]
    assert alike[..., 8].max() < 1e-3


def test_discrimination_counts_how_near_the_others_are():
    net, h = network(MinibatchDiscrimination(3, 2)), C
    params, _ = net.init(KEY, h)
    y = net.apply(params, {}, h)[0]
    np.testing.assert_array_equal(y[:, :5], h)
    m = (np.float64(h) @ np.float64(params["kernel"])).reshape(6, 3, 2)
    near = np.exp(-np.abs(m[:, None] - m[None]).sum(-1)) * (1 - np.eye(6))[:, :, None]
    want = near.sum(1)
    np.testing.assert_allclose(y[:, 5:], want, rtol=1e-4, atol=1e-5)
    alike = net.apply(params, {}, jnp.broadcast_to(h[:1], h.shape))[0]
    np.testing.assert_allclose(alike[:, 5:], np.full((6, 3), 5.0), rtol=1e-5)


def test_batch_norm_without_gamma_and_beta_has_no_parameters():
    assert network(BatchNorm(affine=False)).init(KEY, X)[0] == {}
