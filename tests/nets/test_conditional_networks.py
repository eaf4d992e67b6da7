"""Conditions of networks: labels, attributes, images, each of them optional or not, and several at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.conditions import Maybe
from jaxgen.nets import network
from jaxgen.nets.codes import PixelCNN
from jaxgen.nets.conv import ConvDecoder, ConvEncoder, DCGANCritic, DCGANGenerator
from jaxgen.nets.layers import Condition
from jaxgen.nets.mlp import MLP, MLPDenoiser
from jaxgen.nets.unet import UNet
from jaxgen.types import InputError

KEY = jax.random.key(0)
QUICK = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
RNG = np.random.default_rng(0)
SHAPE, CODES = (8, 8, 2), 5


def normal(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


# x of a single example: rows that differ in their condition alone show what the condition does
X, Z, T, INDEX = normal(1, *SHAPE), normal(1, 6), jnp.full(1, 0.3), jnp.asarray(RNG.integers(0, CODES, (1, 4, 4)))

MODULES = {
    "mlp": (lambda classes: MLP((3,), (8,), classes=classes), (Z,), (3,)),
    "points": (lambda classes: MLPDenoiser(8, 1, classes=classes), (Z, T), (6,)),
    "generator": (lambda classes: DCGANGenerator(SHAPE, 4, classes=classes), (Z,), SHAPE),
    "critic": (lambda classes: DCGANCritic(4, classes=classes), (X,), ()),
    "encoder": (lambda classes: ConvEncoder(3, 4, 32, classes=classes), (X,), (3,)),
    "decoder": (lambda classes: ConvDecoder(SHAPE, 4, 32, classes=classes), (Z,), SHAPE),
    "unet": (lambda classes: UNet(8, (1, 2), 1, (), classes=classes), (X, T), SHAPE),
    "codes": (lambda classes: PixelCNN(CODES, 8, 2, classes=classes), (INDEX,), (4, 4, CODES)),
}


def four(first):
    """Conditions of four examples, of which the last is that of the first."""
    return first[jnp.array([0, 1, 2, 0])]


LABELS, TRAITS, SKETCH = jnp.array([0, 1, 2, 0]), four(normal(3, 2)), four(normal(3, 8, 8, 1))
# {kind: (classes, conditions)}
KINDS = {
    "label": (3, LABELS),
    "one attribute": (None, jnp.array([[1.0], [-2.0], [0.5], [1.0]])),
    "attributes": (None, four(normal(3, 3))),
    "integer attributes": (None, jnp.array([[0, 1], [1, 1], [1, 0], [0, 1]])),
    "image": (None, SKETCH),
    "label and attributes": ({"label": 3}, {"label": LABELS, "traits": TRAITS}),
    "label and image": ({"label": 3}, {"sketch": SKETCH, "label": LABELS}),
    "attributes and image": (None, {"sketch": SKETCH, "traits": TRAITS}),
}


def rows(inputs, n):
    return tuple(jnp.repeat(a, n, axis=0) for a in inputs)


def filled(net, *inputs):
    """(params, stats) of size one: kernels that begin near zero would hide a condition."""
    params, stats = jax.eval_shape(net.init, KEY, *inputs)
    rng = np.random.default_rng(1)

    def random(leaf):
        return np.float32(rng.normal(size=leaf.shape) / np.sqrt(max(np.prod(leaf.shape[:-1]), 1)))

    return jax.tree.map(random, params), jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), stats)


def outputs(name, classes, condition, n):
    """[n, ...] of one x under n conditions."""
    make, inputs, shape = MODULES[name]
    net, inputs = network(make(classes)), rows(inputs, n)
    out = jax.jit(net.apply, compiler_options=QUICK)(*filled(net, *inputs, condition), *inputs, condition)[0]
    assert out.shape == (n, *shape) and out.dtype == jnp.float32
    return np.asarray(out).reshape(n, -1)


def apart(a, b):
    return np.abs(a - b).max()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", MODULES)
def test_every_network_depends_on_every_kind_of_condition(name, kind):
    classes, condition = KINDS[kind]
    out = outputs(name, classes, condition, 4)
    assert min(apart(out[i], out[j]) for i in range(3) for j in range(i)) > 1e-4
    assert apart(out[3], out[0]) < 1e-5  # an example's output depends on its own condition alone


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", MODULES)
def test_an_absent_condition_ignores_its_value_and_differs_from_every_known_one(name, kind):
    classes, value = KINDS[kind]
    # known, absent with another value, absent with zeros, zeros that are known
    value = jax.tree.map(lambda a: a.at[2:].set(0), value)
    out = outputs(name, classes, Maybe(value, jnp.array([True, False, False, True])), 4)
    assert apart(out[1], out[2]) < 1e-5
    assert apart(out[2], out[3]) > 1e-4 and apart(out[1], out[0]) > 1e-4


def test_parts_of_a_dictionary_are_absent_one_by_one():
    label, traits = jnp.array([0, 1, 0, 1]), TRAITS[:1].repeat(4, 0)
    known = jnp.array([True, True, False, False])
    condition = {"label": Maybe(label, known), "traits": traits}
    for name in MODULES:
        out = outputs(name, {"label": 2}, condition, 4)
        assert apart(out[0], out[1]) > 1e-4 and apart(out[2], out[3]) < 1e-5 and apart(out[0], out[2]) > 1e-4, name
        changed = outputs(name, {"label": 2}, {**condition, "traits": -traits}, 4)
        assert min(np.abs(changed - out).max(axis=1)) > 1e-4, name


def test_the_order_of_a_dictionary_s_names_is_of_no_account():
    classes, condition = KINDS["label and attributes"]
    turned = dict(reversed(condition.items()))
    for name in MODULES:
        assert apart(outputs(name, classes, condition, 4), outputs(name, classes, turned, 4)) == 0.0


def test_labels_and_the_absent_one_begin_as_vectors_of_size_one():
    net = network(MLPDenoiser(256, 1, classes=40))
    condition = Maybe(jnp.zeros(2, jnp.int32), jnp.ones(2, bool))
    params, _ = net.init(KEY, jnp.zeros((2, 3)), jnp.ones(2), condition)
    table, null = params["Condition_0"]["Embed_0"]["embedding"], params["Condition_0"]["null"]
    assert table.shape == (40, 256) and null.shape == (256,)
    for values in (table, null):
        assert abs(np.std(values) - 1) < 5 / np.sqrt(2 * values.size)
        assert abs(np.mean(values)) < 5 / np.sqrt(values.size)
    # attributes of 0 and 1 in a denoiser: of the size of a label's vector, at most
    net = network(Condition(None, 256, project=True))
    params, _ = net.init(KEY, jnp.ones((2, 40)), 2)
    assert abs(np.std(net.apply(params, {}, jnp.ones((2, 40)), 2)[0]) - 1) < 0.3


def test_an_image_that_is_not_known_is_zeros_and_a_channel_that_marks_it():
    for name, first, channels in (("unet", "Conv_0", 2 + 3), ("encoder", "Conv_0", 2 + 3), ("critic", "Conv_0", 2 + 3)):
        make, inputs, _ = MODULES[name]
        picture = Maybe(normal(1, 8, 8, 2), jnp.ones(1, bool))
        params, _ = jax.eval_shape(network(make(None)).init, KEY, *inputs, picture)
        assert params[first]["kernel"].shape[2] == channels, name


# --- mistakes ---------------------------------------------------------------------------------------------------------


def described(name, classes, condition, **trained):
    """Traced, not compiled; on=: the condition that it was trained with, by default the same."""
    make, inputs, _ = MODULES[name]
    net, inputs = network(make(classes)), rows(inputs, 4)
    params, stats = jax.eval_shape(net.init, KEY, *inputs, trained.get("on", condition))
    return jax.eval_shape(net.apply, params, stats, *inputs, condition)


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize(
    ("classes", "condition", "message"),
    [
        (None, KINDS["label"][1], "given labels: give it their number"),
        (3, None, "conditional: give a label, 0 to 2"),
        (3, KINDS["attributes"][1], "takes a label, 0 to 2 .*not an array float32 .4, 3."),
        (3, jnp.zeros(4), "not an array float32"),
        (3, jnp.zeros((4, 2), jnp.int32), "not an array int32 .4, 2."),
        (None, normal(1, 3), "one condition an example, 4 of them, not an array of shape .1, 3."),
        (None, normal(1, 8, 8, 1), "one condition an example, 4 of them"),
        (3, jnp.zeros(2, jnp.int32), "one condition an example, 4 of them"),
        (3, KINDS["label and attributes"][1], "the conditions label, traits: give classes as a dictionary"),
        ({"label": 3}, {"traits": TRAITS}, "needs the condition label, it is given traits"),
        ({"label": 3}, jnp.zeros(4, jnp.int32), "takes the conditions label"),
        ({"label": 3}, None, "conditional: give the conditions label"),
        (None, Maybe(TRAITS, jnp.ones(2, bool)), "one condition an example"),
    ],
)
def test_a_condition_that_a_network_does_not_take_is_one_line(name, classes, condition, message):
    with pytest.raises(InputError, match=message) as error:
        described(name, classes, condition)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["generator", "critic", "encoder", "decoder", "unet"])
def test_an_image_of_other_sides_is_refused(name):
    with pytest.raises(InputError, match=r"sides \(8, 8\), this one has \(8, 4\)"):
        described(name, None, normal(4, 8, 4, 1))


@pytest.mark.parametrize("sides", [(6, 6), (2, 2), (12, 12), (8, 4)])
def test_an_image_that_cannot_be_halved_to_the_grid_is_refused(sides):
    with pytest.raises(InputError, match="as large as the grid 4x4 or 2, 4, 8"):
        described("codes", None, normal(4, *sides, 1))
    assert described("codes", None, normal(4, 16, 16, 1))[0].shape == (4, 4, 4, CODES)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", MODULES)
def test_a_network_trained_with_a_condition_refuses_to_do_without_and_the_reverse(name, kind):
    classes, condition = KINDS[kind]
    with pytest.raises(InputError) as error:
        described(name, classes, None, on=condition)
    assert "condition" in str(error.value) and "\n" not in str(error.value)
    cases = [(Maybe(condition, jnp.ones(4, bool)), condition)] + [(condition, None)] * (classes is None)
    for given, on in cases:
        with pytest.raises(InputError, match=r"do not fit its inputs .*initialised with") as error:
            described(name, classes, given, on=on)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", MODULES)
def test_a_part_that_was_there_in_training_is_missed(name):
    both = {"label": LABELS, "traits": TRAITS}
    with pytest.raises(InputError, match=r"needs the condition traits|do not fit its inputs"):
        described(name, {"label": 3}, {"label": LABELS}, on=both)


# --- a prior over codes -----------------------------------------------------------------------------------------------


def test_a_condition_is_a_bias_of_every_gated_unit():
    """With the codes' kernels at zero a unit is tanh(V_f^T c) sigmoid(V_g^T c) (arXiv:1606.05328, eq. 4)."""
    net, c = network(PixelCNN(CODES, 4, 1)), normal(2, 3)
    index = jnp.zeros((2, 3, 3), jnp.int32)
    params, stats = filled(net, index, c)
    for name in ("CausalConv_0", "CausalConv_1"):
        params[name] = jax.tree.map(np.zeros_like, params[name])
    params["Embed_0"] = jax.tree.map(np.zeros_like, params["Embed_0"])
    logits = np.asarray(net.apply(params, stats, index, c)[0])

    def dense(name, x):
        return x @ params[name]["kernel"] + params[name].get("bias", 0.0)

    up = dense("up_condition_0", c)
    left = dense("left_condition_0", c) + dense("Dense_0", up)
    a, b = np.split(np.float64(left), 2, axis=-1)
    h = dense("Dense_1", np.tanh(a) / (1 + np.exp(-b)))
    want = dense("Dense_3", np.maximum(dense("Dense_2", np.maximum(h, 0)), 0))
    np.testing.assert_allclose(logits, np.broadcast_to(want[:, None, None], logits.shape), rtol=1e-4, atol=1e-5)


def test_a_conditional_prior_depends_on_no_later_code_either():
    net, n = network(PixelCNN(CODES, 8, 4, classes=3)), 16
    base = RNG.integers(0, CODES, n)
    changed = np.where(np.eye(n, dtype=bool), (base + 1) % CODES, base)
    grids = jnp.asarray(np.concatenate([base[None], changed]).reshape(-1, 4, 4), jnp.int32)
    labels = jnp.full(n + 1, 2)
    params, stats = net.init(KEY, grids, labels)
    logits = np.asarray(jax.jit(net.apply)(params, stats, grids, labels)[0]).reshape(n + 1, n, CODES)
    moved = np.abs(logits[1:] - logits[0]).max(axis=-1) / logits.std()
    assert moved[~np.triu(np.ones((n, n), bool), k=1)].max() < 1e-5


def test_an_image_acts_on_a_prior_at_its_place():
    net = network(PixelCNN(CODES, 8, 1))
    index, c = jnp.zeros((1, 8, 8), jnp.int32), normal(1, 16, 16, 1)
    params, stats = filled(net, index, c)
    apply = jax.jit(lambda c: net.apply(params, stats, index, c)[0])
    change = np.abs(apply(c.at[0, 8, 8].add(1.0)) - apply(c)).max(-1)[0]
    assert change[4, 4] > 1e-3 and change[:2].max() < 1e-6 and change[:, :2].max() < 1e-6 and change[7, 7] < 1e-6


def test_a_generator_acts_on_a_pixel_of_the_condition_around_that_pixel():
    net = network(DCGANGenerator((16, 16, 1), 4))
    z, c = normal(2, 3), normal(2, 16, 16, 1)
    params, stats = filled(net, z, c)
    apply = jax.jit(lambda c: net.apply(params, stats, z, c)[0], compiler_options=QUICK)
    change = np.abs(apply(c.at[0, 4, 11].add(1.0)) - apply(c)).max(-1)
    assert np.all(change[1] < 1e-6)  # the other image's condition is not its own
    assert change[0, 2:7, 9:14].max() > 1e-3
    far = change[0, 10:, :4]  # through the smallest scale it is felt far away, too
    assert (far > 1e-7).mean() > 0.5
