"""From Flax modules to networks: ordinary Linen modules as they are, ours by one draw, and clear refusals."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.nets import network
from jaxgen.nets.codes import ConvGridDecoder, PixelCNN
from jaxgen.nets.conv import ConvDecoder, DCGANCritic, DCGANGenerator
from jaxgen.nets.flows import InverseAutoregressive
from jaxgen.nets.layers import Conv, Dense
from jaxgen.nets.mlp import MLP, MLPDenoiser
from jaxgen.nets.primitives import std_init
from jaxgen.nets.unet import UNet
from jaxgen.types import InputError

KEY = jax.random.key(3)
X, IMAGES, LABELS = jnp.ones((2, 6)), jnp.ones((2, 8, 8, 3)), jnp.array([0, 1])


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for p, q in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(p, q)


# --- ordinary modules -------------------------------------------------------------------------------------------------


class Ordinary(nn.Module):
    """What a Flax user would write."""

    @nn.compact
    def __call__(self, x, train):
        h = nn.Conv(16, (3, 3), kernel_init=nn.initializers.orthogonal())(x)
        h = nn.BatchNorm(use_running_average=not train)(h)
        h = nn.LayerNorm()(nn.Dense(5)(nn.relu(h)))
        return h.mean((1, 2))


class Mixed(nn.Module):
    """Layers of both kinds, and an ordinary one with our initialiser."""

    @nn.compact
    def __call__(self, x):
        h = Dense(64)(nn.Dense(32)(x))
        h = nn.Dense(64, kernel_init=std_init(2.0), name="ours")(h)
        return h + nn.Embed(4, 64)(jnp.zeros(x.shape[0], int))


@pytest.mark.parametrize(
    ("module", "inputs", "options"),
    [
        (nn.Dense(50), (X,), {}),
        (nn.Dense(50, kernel_init=nn.initializers.orthogonal()), (X,), {}),
        (nn.Embed(7, 40), (LABELS,), {}),
        (nn.Conv(9, (3, 3)), (IMAGES,), {}),
        (nn.Sequential([nn.Dense(4), nn.relu, nn.Dense(3)]), (X,), {}),
        (Ordinary(), (IMAGES,), {"train": False}),
    ],
    ids=["Dense", "orthogonal", "Embed", "Conv", "Sequential", "BatchNorm"],
)
def test_an_ordinary_module_begins_as_its_own_initialisers_make_it(module, inputs, options):
    want = dict(module.init(KEY, *inputs, **options))
    for init in (network(module).init, jax.jit(network(module).init)):
        params, stats = init(KEY, *inputs)
        if init is network(module).init:
            assert_same(params, want["params"])
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), params, want["params"])
        assert set(stats) == set(want) - {"params"}
    shapes, _ = jax.eval_shape(network(module).init, KEY, *inputs)
    assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(jnp.shape, params)


def test_an_orthogonal_kernel_stays_orthogonal():
    kernel = network(nn.Dense(6, kernel_init=nn.initializers.orthogonal())).init(KEY, X)[0]["kernel"]
    np.testing.assert_allclose(kernel @ kernel.T, np.eye(6), atol=1e-5)


def test_a_mixed_module_draws_what_is_ours_alone():
    params, _ = network(Mixed()).init(KEY, X)
    flax = nn.meta.unbox(Mixed().init(KEY, X)["params"])
    for name in ("Dense_1", "Embed_0"):
        assert_same(params[name], flax[name])
    for name, std in (("Dense_0", 1 / np.sqrt(32)), ("ours", np.sqrt(2 / 64))):
        kernel = np.asarray(params[name]["kernel"])
        n = kernel.size
        assert abs(kernel.mean()) < 5 * std / np.sqrt(n) and abs(kernel.std() / std - 1) < 5 / np.sqrt(2 * n), name
        assert np.all(params[name]["bias"] == 0)


def test_statistics_change_in_training_and_only_there():
    net = network(Ordinary())
    params, stats = net.init(KEY, IMAGES)
    x = 3.0 + jax.random.normal(KEY, IMAGES.shape)
    _, trained = net.apply(params, stats, x, train=True)
    _, same = net.apply(params, stats, x)
    assert_same(same, stats)
    assert np.any(trained["batch_stats"]["BatchNorm_0"]["mean"] != stats["batch_stats"]["BatchNorm_0"]["mean"])


def test_parameters_of_lifted_layers_are_drawn_one_by_one():
    mapped = nn.vmap(Dense, variable_axes={"params": 0}, split_rngs={"params": True}, axis_size=3, in_axes=None)(20)

    class Deep(nn.Module):
        @nn.compact
        def __call__(self, x):
            layer = nn.remat(Dense)(6)

            def body(layer, x, _):
                return layer(x), None

            scan = nn.scan(body, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
            return scan(layer, x, None)[0]

    for module, shape in ((mapped, (3, 6, 20)), (Deep(), (3, 6, 6))):
        params, stats = network(module).init(KEY, X)
        (kernel,) = [leaf for leaf in jax.tree.leaves(params) if leaf.ndim == 3]
        assert kernel.shape == shape and abs(np.std(kernel) - 6**-0.5) < 5 * 6**-0.5 / np.sqrt(2 * kernel.size)
        assert np.abs(np.corrcoef(kernel.reshape(3, -1)) - np.eye(3)).max() < 0.9
        network(module).apply(params, stats, X)


# --- our own ----------------------------------------------------------------------------------------------------------

OURS = {
    "unet": (UNet(8, (1, 2), blocks=1, attention_at=(4,), classes=3), (IMAGES, jnp.ones(2), LABELS)),
    "generator": (DCGANGenerator((8, 8, 3), 4), (X,)),
    "critic": (DCGANCritic(4, classes=3), (IMAGES, LABELS)),
    "mlp": (MLP((3,), (8, 8), gated=True), (X,)),
    "denoiser": (MLPDenoiser(8, 2), (X, jnp.ones(2))),
    "decoder": (ConvDecoder((8, 8, 3), 4, 8), (X, IMAGES)),
    "codes": (PixelCNN(5, 8, 2), (jnp.zeros((2, 4, 4), int),)),
    "grid": (ConvGridDecoder((8, 8, 3), 4), (jnp.zeros((2, 2, 2, 4)),)),
    "flow": (InverseAutoregressive(2, 8), (X, X)),
}


@pytest.mark.parametrize("name", OURS)
def test_our_own_layers_draw_their_kernels_and_embeddings_in_the_order_of_their_paths(name):
    """The rule before parameters were marked, which saved runs began with: everything of those names is drawn."""
    module, inputs = OURS[name]
    filled = nn.meta.unbox(module.init(KEY, *inputs, train=False)["params"])
    leaves, structure = jax.tree_util.tree_flatten_with_path(filled)
    drawn = [path[-1].key in ("kernel", "embedding") for path, _ in leaves]
    noise = jax.random.normal(KEY, (sum(leaf.size for (_, leaf), d in zip(leaves, drawn, strict=True) if d),))
    want, at = [], 0
    for (_, leaf), d in zip(leaves, drawn, strict=True):
        want.append(leaf * noise[at : at + leaf.size].reshape(leaf.shape) if d else leaf)
        at += leaf.size if d else 0
    assert_same(network(module).init(KEY, *inputs)[0], jax.tree.unflatten(structure, want))
    assert np.any(np.concatenate([np.ravel(leaf) for leaf in want]))


# --- what is accepted -------------------------------------------------------------------------------------------------


class Plain(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(x)


class Conditional(nn.Module):
    @nn.compact
    def __call__(self, x, condition=None):
        return nn.Dense(3)(x if condition is None else jnp.concatenate([x, condition], -1))


class Early(nn.Module):
    def __call__(self, x, train, condition):
        return x


class Other(nn.Module):
    def __call__(self, x, training, train=False):
        return x


class Careless(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        return nn.BatchNorm(use_running_average=False)(x)


class Random(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        return nn.Dropout(0.5, deterministic=not train)(x)


def run(module, *inputs, train=False):
    net = network(module)
    params, stats = net.init(KEY, *inputs)
    return net.apply(params, stats, *inputs, train=train)[0]


def ordinary_params():
    return network(Ordinary()).init(KEY, IMAGES)[0]


def test_a_module_without_train_or_a_place_for_a_condition_serves_where_there_is_none():
    for train in (False, True):
        assert_same(run(Plain(), X, None, train=train), run(Plain(), X))
    assert_same(run(nn.Sequential([nn.Dense(3)]), X, None), run(nn.Sequential([nn.Dense(3)]), X))
    assert run(Conditional(), X, X).shape == (2, 3) and run(Conditional(), X, None).shape == (2, 3)
    assert run(Random(), X).shape == X.shape  # no random number outside training


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: network("MLP"), "a module of flax.linen or flax.nnx, or a function rngs -> one, not a str"),
        (lambda: network(Early()), r"Early: train has to be the last argument of __call__"),
        (lambda: run(Plain(), X, X), "Plain takes x, it is given 2 inputs"),
        (
            lambda: run(Other(), X),
            "Other takes x, training, train, it is given 1 inputs",
        ),
        (lambda: run(MLP((3,)), X, None, X), "MLP takes x, condition, train, it is given 3 inputs"),
        (lambda: run(Careless(), X), "Careless changes its statistics outside training .*=not train"),
        (lambda: run(Random(), X, train=True), "Random draws random numbers .*use jaxgen.nets.layers.Dropout"),
        (lambda: network(Conv(3)).apply(*network(Conv(3)).init(KEY, IMAGES), IMAGES[..., :2]), "do not fit .*kernel"),
        (lambda: network(Plain()).apply({}, {}, X), "the parameters of Plain do not fit its inputs"),
        (lambda: network(Ordinary()).apply(ordinary_params(), {}, IMAGES), "of Ordinary do not fit"),
    ],
)
def test_what_is_no_network_is_one_line(call, message):
    with pytest.raises(InputError, match=message) as error:
        call()
    assert "\n" not in str(error.value) and "flax.readthedocs" not in str(error.value)
