"""Networks: shapes at every image size, types, conditions and normalisation."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.nets import network
from jaxgen.nets.codes import ConvGridEncoder
from jaxgen.nets.conv import ConvDecoder, ConvEncoder, DCGANCritic, DCGANGenerator
from jaxgen.nets.heads import Heads
from jaxgen.nets.layers import time_features
from jaxgen.nets.mlp import MLP, MLPDenoiser
from jaxgen.nets.network import parameter_count
from jaxgen.nets.norms import BatchNorm, GroupNorm
from jaxgen.nets.unet import UNet
from jaxgen.types import InputError, Seen

KEY = jax.random.key(0)
# on the CPU optimising a network that runs once costs more than it saves, and changes no value
QUICK = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
USUAL = [(8, 8, 1), (8, 8, 3), (28, 28, 1), (32, 32, 3), (64, 64, 3)]
ODD = [(1, 1, 1), (5, 7, 2), (30, 30, 1), (8, 32, 1), (3, 64, 1)]
N, LATENT = 2, 5


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def described(net, *inputs, train=False):
    """(output, parameters) as shapes and types: traced, not compiled."""
    params, stats = jax.eval_shape(net.init, KEY, *inputs)
    keys = jax.random.split(KEY, N) if train else None
    return jax.eval_shape(partial(net.call, keys), params, stats, *inputs)[0], params


def image_networks(shape, **options):
    """{name: (network, inputs, output shape)}; a denoiser's inputs begin with the image and the time."""
    x, z, t = jnp.zeros((N, *shape)), jnp.zeros((N, LATENT)), jnp.ones(N)
    unet = UNet(8, (1, 2), blocks=1, attention_at=(4,), **options)
    return {
        "mlp": (network(MLP(shape, (8,), **options)), (z,), x.shape),
        "generator": (network(DCGANGenerator(shape, width=4, **options)), (z,), x.shape),
        "critic": (network(DCGANCritic(width=4, **options)), (x,), (N,)),
        "encoder": (network(ConvEncoder(2 * LATENT, width=4, hidden=8, **options)), (x,), (N, 2 * LATENT)),
        "decoder": (network(ConvDecoder(shape, width=4, hidden=8, **options)), (z,), x.shape),
        "unet": (network(unet), (x, t), x.shape),
    }


NAMES = list(image_networks((8, 8, 1)))
ANY_SIZE = [name for name in NAMES if name != "unet"]


@pytest.mark.parametrize("shape", USUAL, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_the_output_has_its_shape_at_every_usual_size(name, shape):
    net, inputs, want = image_networks(shape)[name]
    for train in (False, True):
        output, _ = described(net, *inputs, train=train)
        assert output.shape == want and output.dtype == jnp.float32


@pytest.mark.parametrize("shape", ODD, ids=str)
@pytest.mark.parametrize("name", ANY_SIZE)
def test_the_output_has_its_shape_at_any_size(name, shape):
    net, inputs, want = image_networks(shape)[name]
    assert described(net, *inputs)[0].shape == want


@pytest.mark.parametrize("shape", [(7, 8, 1), (8, 9, 1), (30, 30, 1)], ids=str)
def test_a_unet_refuses_other_sizes(shape):
    net = network(UNet(8, (1, 2, 2), blocks=1))
    with pytest.raises(InputError, match="divisible by 4") as error:
        described(net, jnp.zeros((N, *shape)), jnp.ones(N))
    assert "\n" not in str(error.value)


def test_a_unet_refuses_heads_that_do_not_divide_its_channels():
    with pytest.raises(InputError, match="8 channels cannot be split into 3"):
        described(network(UNet(8, (1,), blocks=1, heads=3)), jnp.zeros((N, 8, 8, 1)), jnp.ones(N))


def test_points_have_a_denoiser_too():
    output, _ = described(network(MLPDenoiser(16, 2)), jnp.zeros((N, 3)), jnp.ones(N))
    assert output.shape == (N, 3)


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_keeps_its_parameters_and_outputs_in_float32(name):
    net, inputs, _ = image_networks((8, 8, 1), dtype=jnp.bfloat16)[name]
    output, params = described(net, *inputs, train=True)
    assert output.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(jnp.float32)}


def filled(net, *inputs):
    """(params, stats) of size one: those that begin near zero would compare nothing. Traced, not compiled."""
    rng = np.random.default_rng(0)
    params, stats = jax.eval_shape(net.init, KEY, *inputs)

    def random(leaf):
        return np.float32(rng.normal(size=leaf.shape) / np.sqrt(np.prod(leaf.shape[:-1])))

    return jax.tree.map(random, params), jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), stats)


def small_unet(**options):
    return network(UNet(8, (1, 2), blocks=1, attention_at=(4,), classes=3, **options))


X, TIMES, LABELS = normal(0, N, 4, 4, 1), jnp.array([0.2, 0.9]), jnp.array([0, 1])


@pytest.fixture(scope="module")
def unet():
    net = small_unet()
    apply, (params, stats) = jax.jit(net.apply, compiler_options=QUICK), filled(net, X, TIMES, LABELS)
    return apply, params, stats, apply(params, stats, X, TIMES, LABELS)[0]


def assert_close_to_half(one, half):
    """Rounded to 8 bits and not to 24, layer after layer: a few per cent, and not nothing."""
    scale = np.std(one)
    assert scale > 1e-3
    assert 1e-4 < np.sqrt(np.mean((np.asarray(half) - one) ** 2)) / scale < 0.1


@pytest.mark.parametrize("name", ["mlp", "generator", "critic", "encoder", "decoder"])
def test_half_precision_is_close_to_float32(name):
    outputs = []
    for dtype in (jnp.float32, jnp.bfloat16):
        net, inputs, _ = image_networks((8, 8, 1), dtype=dtype)[name]
        outputs.append(
            jax.jit(net.apply, compiler_options=QUICK)(*filled(net, *inputs), normal(1, *inputs[0].shape))[0]
        )
    assert_close_to_half(*outputs)


def test_half_precision_is_close_to_float32_in_a_unet(unet):
    _, params, stats, one = unet
    half, _ = jax.jit(small_unet(dtype=jnp.bfloat16).apply, compiler_options=QUICK)(params, stats, X, TIMES, LABELS)
    assert_close_to_half(one, half)


def test_a_unet_begins_near_zero_and_not_at_zero(unet):
    apply, *_ = unet
    params, stats = jax.jit(small_unet().init, compiler_options=QUICK)(KEY, X, TIMES, LABELS)
    assert 0 < np.max(np.abs(apply(params, stats, X, TIMES, LABELS)[0])) < 1e-2


def moved(one, other):
    """The largest change of each example's output."""
    return np.abs(np.asarray(one) - np.asarray(other)).reshape(N, -1).max(axis=1)


def test_a_unet_depends_on_each_example_s_label_and_time(unet):
    apply, params, stats, one = unet
    by_label = moved(one, apply(params, stats, X, TIMES, jnp.array([0, 2]))[0])
    assert by_label[0] < 1e-5 and by_label[1] > 1e-3  # the other image's label is not its own
    by_time = moved(one, apply(params, stats, X, jnp.array([0.2, 0.5]), LABELS)[0])
    assert by_time[0] < 1e-5 and by_time[1] > 1e-3


def test_outputs_of_generators_are_images():
    net, inputs, _ = image_networks((8, 8, 1))["generator"]
    image = jax.jit(net.apply, compiler_options=QUICK)(*filled(net, *inputs), 100 * normal(4, N, LATENT))[0]
    assert 0.9 < np.max(np.abs(image)) <= 1.0


def test_the_key_alone_makes_the_parameters():
    net, inputs, _ = image_networks((8, 8, 1))["mlp"]
    init = jax.jit(net.init, compiler_options=QUICK)
    one, same, other = (init(key, *inputs)[0] for key in (KEY, KEY, jax.random.key(1)))
    pairs = list(zip(*map(jax.tree.leaves, (one, same, other)), strict=True))
    assert all(np.array_equal(a, b) for a, b, _ in pairs)
    assert all(np.any(a != c) for a, _, c in pairs if np.any(a))  # biases begin at zero


def test_a_critic_gives_its_features_beside_the_same_score():
    x = normal(3, N, 8, 8, 1)
    plain, seen = (network(DCGANCritic(4, heads=heads)) for heads in (None, Heads()))
    params, stats = filled(plain, x)
    score, found = plain.apply(params, stats, x)[0], seen.apply(params, stats, x)[0]
    assert isinstance(found, Seen) and found.logits is None and found.codes is None
    np.testing.assert_array_equal(found.score, score)
    weights, bias = params["Dense_0"]["kernel"], params["Dense_0"]["bias"]
    assert found.features.shape == (N, weights.shape[0]) and found.features.dtype == jnp.float32
    np.testing.assert_allclose(found.features @ weights[:, 0] + bias, score, rtol=1e-4, atol=1e-5)


def test_parameters_are_counted():
    params, _ = jax.eval_shape(network(MLP((3,), (7,))).init, KEY, jnp.zeros((N, 5)))
    assert parameter_count(params) == 5 * 7 + 7 + 7 * 3 + 3


NORMALISED = {
    "generator": lambda: (DCGANGenerator((8, 8, 1), 4, smallest=2), (normal(7, 8, LATENT),)),
    "critic": lambda: (DCGANCritic(4, smallest=2), (normal(7, 8, 8, 8, 1),)),
    "conditional generator": lambda: (
        DCGANGenerator((8, 8, 1), 4, smallest=2),
        (normal(7, 8, LATENT), normal(8, 8, 8, 8, 1)),
    ),
    "grid encoder": lambda: (ConvGridEncoder(3, 4, 1, blocks=1), (normal(7, 8, 8, 8, 1),)),
    "bare grid encoder": lambda: (ConvGridEncoder(3, 4, 1, blocks=1, norm=False), (normal(7, 8, 8, 8, 1),)),
}


@pytest.mark.parametrize("name", NORMALISED)
def test_no_bias_is_without_effect_in_training(name):
    """One before a batch normalisation has a gradient of rounding errors, which Adam makes as large as any other."""
    module, inputs = NORMALISED[name]()
    net = network(module)
    params, stats = filled(net, *inputs)

    def loss(params):
        out = net.train(jax.random.split(KEY, inputs[0].shape[0]), params, stats, *inputs)[0]
        return jnp.sum(out * jnp.linspace(-1.0, 1.3, out.size).reshape(out.shape))

    gradients = jax.jit(jax.grad(loss), compiler_options=QUICK)(params)
    sizes = {jax.tree_util.keystr(path): np.abs(g).max() for path, g in jax.tree.leaves_with_path(gradients)}
    assert [path for path, size in sizes.items() if size < 1e-4 * max(sizes.values())] == []


# --- batch normalisation ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def batch_norm():
    net = network(BatchNorm())
    x = 3.0 * normal(5, 64, 4, 4, 2) + jnp.array([2.0, -5.0])
    params, stats = net.init(KEY, x)
    return jax.jit(net.apply, static_argnames="train"), params, stats, x


def moments(x):
    return np.mean(np.float64(x), axis=(0, 1, 2)), np.var(np.float64(x), axis=(0, 1, 2))


def test_in_training_a_batch_has_mean_zero_and_variance_one_before_the_affine_map(batch_norm):
    apply, params, stats, x = batch_norm
    mean, var = moments(apply(params, stats, x, train=True)[0])
    np.testing.assert_allclose(mean, 0.0, atol=1e-5)
    np.testing.assert_allclose(var, 1.0, atol=1e-4)
    affine = jax.tree.map(lambda a: a * 0 + 3.0, params)  # gamma = beta = 3
    mean, var = moments(apply(affine, stats, x, train=True)[0])
    np.testing.assert_allclose(mean, 3.0, atol=1e-4)
    np.testing.assert_allclose(var, 9.0, atol=1e-3)


def test_running_averages_converge_to_the_moments_of_the_batch(batch_norm):
    apply, params, stats, x = batch_norm
    mean, var = moments(x)
    for n in range(1, 61):
        _, stats = apply(params, stats, x, train=True)
        if n in (1, 5, 60):
            kept = 0.9**n  # of the beginning, mean 0 and variance 1
            running = stats["batch_stats"]["norm"]
            np.testing.assert_allclose(running["mean"], (1 - kept) * mean, rtol=1e-4)
            np.testing.assert_allclose(running["var"], kept + (1 - kept) * var, rtol=1e-4)
    # and what they normalise when not training is nearly what the batch's own do
    trained, _ = apply(params, stats, x, train=True)
    used, same = apply(params, stats, x, train=False)
    np.testing.assert_allclose(used, trained, atol=0.02)
    assert all(np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (same, stats)), strict=True))


def test_time_features_differ_between_times():
    features = time_features(jnp.linspace(0, 1, 1001), 16)
    assert features.shape == (1001, 16)
    assert len(np.unique(np.round(features, 3), axis=0)) == 1001
    np.testing.assert_allclose(features[0], [1.0] * 8 + [0.0] * 8, atol=1e-6)
    i = np.arange(8)
    np.testing.assert_allclose(features[500, :8], np.cos(500 * 10000.0 ** (-i / 8)), atol=1e-3)


@pytest.mark.parametrize("channels", [3, 12, 32])
def test_group_normalisation_is_the_plain_one_with_its_gradient(channels):
    groups = {3: 1, 12: 3, 32: 8}[channels]  # of four channels where there are as many
    x = 3.0 + jax.random.normal(jax.random.key(0), (2, 5, 4, channels))
    weight = jax.random.normal(jax.random.key(1), x.shape)
    params = {"params": {"scale": jnp.linspace(0.5, 1.5, channels), "bias": jnp.linspace(-1.0, 1.0, channels)}}

    def value_and_gradient(module):
        return jax.value_and_grad(lambda p, x: jnp.sum(weight * module.apply(p, x)), argnums=(0, 1))(params, x)

    ours, plain = value_and_gradient(GroupNorm()), value_and_gradient(nn.GroupNorm(num_groups=groups, epsilon=1e-5))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_group_normalisation_without_affine_has_zero_mean_and_unit_variance():
    x = 5.0 + 2.0 * jax.random.normal(jax.random.key(0), (3, 6, 6, 8))
    y = GroupNorm(affine=False).apply({}, x).reshape(3, 36, 2, 4)
    np.testing.assert_allclose(y.mean((1, 3)), 0.0, atol=1e-5)
    np.testing.assert_allclose(y.var((1, 3)), 1.0, atol=1e-4)
