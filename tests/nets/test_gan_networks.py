"""Residual, growing and style networks: the equations of their parts, their limits, and their shapes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.nets import network, unconditioned
from jaxgen.nets.conv import DCGANCritic
from jaxgen.nets.heads import AutoencoderCritic, Heads
from jaxgen.nets.infogan import InfoGANCritic, InfoGANGenerator
from jaxgen.nets.mlp import MLP
from jaxgen.nets.progressive import ProgressiveCritic, ProgressiveGenerator, size_at, stages
from jaxgen.nets.r3gan import R3Critic, R3Generator, Residual
from jaxgen.nets.resnet import ResNetCritic, ResNetGenerator, SelfAttention, downsampled, upsampled
from jaxgen.nets.style import (
    Mapping,
    ModulatedConv,
    Noise,
    StyleCritic,
    StyleSynthesis,
    StyleSynthesis2,
    enlarged,
    reduced,
    styles,
)
from jaxgen.types import InputError, Seen

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
LABELS = jnp.asarray([0, 2, 1, 2])


def normal(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def traced(net, *inputs):
    """(output, parameters, statistics) as shapes."""
    params, stats = jax.eval_shape(net.init, KEY, *inputs)
    return jax.eval_shape(net.apply, params, stats, *inputs)[0], params, stats


def made(net, *inputs):
    """(params, stats, a compiled apply)."""
    params, stats = jax.jit(net.init)(KEY, *inputs)
    return params, stats, jax.jit(net.apply, static_argnames="train")


# --- shapes ----------------------------------------------------------------------------------------------------------

SIZES = [(8, 8, 1), (28, 28, 1), (32, 32, 3), (64, 64, 3), (128, 128, 3)]
GENERATORS = {
    "resnet": lambda shape: ResNetGenerator(shape, 8, 16),
    "conditional": lambda shape: ResNetGenerator(shape, 8, 16, classes=3),
    "big": lambda shape: ResNetGenerator(shape, 8, 16, classes=3, skip=True, attention=8),
    "r3": lambda shape: R3Generator(shape, 16, 32),
    "conditional r3": lambda shape: R3Generator(shape, 16, 32, classes=3),
    "conditional infogan": lambda shape: InfoGANGenerator(shape, 4, classes=3),
}
CRITICS = {
    "resnet": ResNetCritic(8, 16),
    "projection": ResNetCritic(8, 16, classes=3),
    "attention": ResNetCritic(8, 16, smallest=4, attention=4),
    "style": StyleCritic(8, 16),
    "conditional style": StyleCritic(8, 16, classes=3),
    "r3": R3Critic(16, 32),
    "conditional r3": R3Critic(16, 32, classes=3),
}


@pytest.mark.parametrize("shape", SIZES, ids=str)
@pytest.mark.parametrize("name", GENERATORS)
def test_generators_make_images_of_every_size(name, shape):
    module = GENERATORS[name](shape)
    condition = LABELS if getattr(module, "classes", None) else None
    image, _, _ = traced(network(module), jnp.zeros((4, 24)), condition)
    assert image.shape == (4, *shape) and image.dtype == jnp.float32


@pytest.mark.parametrize("shape", SIZES, ids=str)
@pytest.mark.parametrize("name", CRITICS)
def test_critics_score_images_of_every_size(name, shape):
    module = CRITICS[name]
    condition = LABELS if module.classes else None
    score, _, _ = traced(network(module), jnp.zeros((4, *shape)), condition)
    assert score.shape == (4,) and score.dtype == jnp.float32
    seen, _, _ = traced(network(module.clone(heads=Heads(logits=5, codes=3))), jnp.zeros((4, *shape)))
    assert isinstance(seen, Seen) and (seen.logits.shape, seen.codes.shape) == ((4, 5), (4, 3))


def test_infogan_s_networks_are_those_of_its_table():
    """Chen et al. 2016, table 1: kernels of both networks on MNIST, and Q's on the critic's last hidden layer."""

    def kernels(params):
        return sorted(leaf.shape for leaf in jax.tree.leaves(params) if leaf.ndim > 1)

    image, params, stats = traced(network(InfoGANGenerator((28, 28, 1))), jnp.zeros((4, 74)))
    assert kernels(params) == [(4, 4, 64, 1), (4, 4, 128, 64), (74, 1024), (1024, 7 * 7 * 128)]
    assert image.shape == (4, 28, 28, 1) and len(jax.tree.leaves(stats)) == 2 * 3
    seen, params, stats = traced(network(InfoGANCritic(heads=Heads(codes=14))), jnp.zeros((4, 28, 28, 1)))
    own = [(4, 4, 1, 64), (4, 4, 64, 128), (1024, 1), (7 * 7 * 128, 1024)]
    assert kernels(params) == sorted([*own, (128, 14), (1024, 128)])
    assert (seen.score.shape, seen.codes.shape) == ((4,), (4, 14)) and len(jax.tree.leaves(stats)) == 2 * 2
    labelled = network(InfoGANCritic(4, classes=3, norm=False))
    score, _, stats = traced(labelled, jnp.zeros((4, 28, 28, 1)), LABELS)
    assert score.shape == (4,) and not jax.tree.leaves(stats)


@pytest.mark.parametrize("module", [m for m in CRITICS.values() if not m.classes], ids=lambda m: type(m).__name__)
def test_a_critic_that_is_given_labels_without_their_number_says_so(module):
    with pytest.raises(InputError, match="given labels"):
        traced(network(module), jnp.zeros((4, 8, 8, 1)), LABELS)
    traced(unconditioned(network(module)), jnp.zeros((4, 8, 8, 1)), LABELS)


# --- heads -----------------------------------------------------------------------------------------------------------


def test_heads_are_linear_in_the_features_and_a_projection_adds_the_label_s():
    """D(x, y) = psi(h) + <V_y, h> (Miyato and Koyama 2018, eq. 3), and the joint score is log sum exp of the logits."""
    x = normal(4, 8, 8, 1)
    params, stats, apply = made(network(DCGANCritic(4, classes=3, norm=False, heads=Heads(projection=True))), x, LABELS)
    found = apply(params, stats, x, LABELS)[0]
    psi, v = params["Dense_0"], np.float64(params["projection"]["embedding"])
    h = np.float64(found.features)
    want = h @ np.float64(psi["kernel"])[:, 0] + psi["bias"] + np.sum(v[LABELS] * h, -1)
    np.testing.assert_allclose(found.score, want, rtol=1e-4, atol=1e-5)
    params, stats, apply = made(network(DCGANCritic(4, norm=False, heads=Heads(logits=5, joint=True))), x)
    found = apply(params, stats, x)[0]
    np.testing.assert_allclose(found.score, np.log(np.exp(np.float64(found.logits)).sum(-1)), rtol=1e-5)
    with pytest.raises(InputError, match="joint score is that of logits"):
        traced(network(DCGANCritic(4, heads=Heads(joint=True))), x)


@pytest.mark.parametrize("order", [1, 2])
def test_an_autoencoder_scores_minus_the_error_of_its_reconstruction(order):
    x = normal(4, 3, 3, 1)
    net = network(AutoencoderCritic(MLP((2,), (5,)), MLP((3, 3, 1), (5,)), order))
    params, stats, apply = made(net, x)
    found = apply(params, stats, x)[0]
    again = network(MLP((3, 3, 1), (5,))).apply(params["decoder"], {}, found.features)[0]
    want = np.mean(np.abs(np.float64(x) - np.float64(again)) ** order, axis=(1, 2, 3))
    np.testing.assert_allclose(found.score, -want, rtol=1e-5)
    with pytest.raises(InputError, match="decoder makes"):
        traced(network(AutoencoderCritic(MLP((2,), (5,)), MLP((2,), (5,)))), x)


# --- resampling, attention -------------------------------------------------------------------------------------------


def test_resampling_keeps_what_it_should():
    x = normal(2, 4, 6, 3)
    np.testing.assert_allclose(downsampled(upsampled(x)), x, rtol=1e-6)
    ramp = jnp.broadcast_to(jnp.arange(8.0)[None, :, None, None], (1, 8, 4, 1))
    twice = np.asarray(enlarged(ramp))
    assert twice.shape == (1, 16, 8, 1)
    np.testing.assert_allclose(twice[0, 1:-1, 0, 0], (np.arange(16)[1:-1] - 0.5) / 2, atol=1e-6)
    np.testing.assert_allclose(np.asarray(reduced(ramp))[0, 1:-1, 0, 0], (2 * np.arange(4) + 0.5)[1:-1], atol=1e-6)
    np.testing.assert_allclose(np.mean(enlarged(x)), np.mean(x), atol=0.1)
    want = np.asarray(jax.image.resize(x, (2, 8, 12, 3), "bilinear"))
    np.testing.assert_allclose(enlarged(x), want, rtol=1e-5, atol=1e-6)


def test_self_attention_is_its_formula_and_nothing_at_first():
    x = normal(2, 4, 4, 16)
    params, _, apply = made(network(SelfAttention()), x)
    np.testing.assert_allclose(apply(params, {}, x)[0], x)
    y = np.float64(apply({**params, "gamma": jnp.asarray(0.7)}, {}, x)[0])
    f, g, h, o = (np.float64(params[f"Conv_{i}"]["kernel"])[0, 0] for i in range(4))
    flat = np.float64(x).reshape(2, 16, 16)
    pooled = lambda a: a.reshape(2, 2, 2, 2, 2, -1).max((2, 4)).reshape(2, 4, -1)  # noqa: E731
    scores = flat @ f @ pooled(flat @ g).transpose(0, 2, 1)
    weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    want = flat + 0.7 * (weights @ pooled(flat @ h)) @ o
    np.testing.assert_allclose(y.reshape(2, 16, 16), want, rtol=1e-4, atol=1e-4)


# --- growing ---------------------------------------------------------------------------------------------------------

SHAPE = (16, 16, 1)


def faded(stats, alpha):
    return {**stats, "fade": {"alpha": jnp.asarray(alpha)}}


@pytest.fixture(scope="module")
def grown():
    """[(generator, critic) of each stage, compiled], and parameters that all stages share."""
    z, out = normal(4, 6), []
    for stage in range(stages(SHAPE)):
        x = jnp.zeros((4, *size_at(SHAPE, stage), 1))
        g = network(ProgressiveGenerator(SHAPE, stage, 4, 8))
        d = network(ProgressiveCritic(SHAPE, stage, 4, 8))
        out.append((made(g, z), made(d, x)))
    return z, out


def test_all_stages_have_the_same_parameters_and_their_own_size(grown):
    z, made_at = grown
    shapes = [jax.tree.map(jnp.shape, (g[0], d[0])) for g, d in made_at]
    assert shapes[0] == shapes[1] == shapes[2]
    for stage, (g, d) in enumerate(made_at):
        image = g[2](g[0], g[1], z)[0]
        assert image.shape == (4, 4 << stage, 4 << stage, 1)
        assert d[2](d[0], d[1], image)[0].shape == (4,)


@pytest.mark.parametrize("stage", [1, 2])
def test_a_scale_that_has_not_faded_in_is_the_stage_before(grown, stage):
    """alpha = 0: the generator's image is that of the stage before, enlarged, and the critic sees the halved image."""
    z, made_at = grown
    (old_g, old_d), (g, d) = made_at[stage - 1], made_at[stage]
    before, now = old_g[2](g[0], faded(g[1], 1.0), z)[0], g[2](g[0], faded(g[1], 0.0), z)[0]
    np.testing.assert_allclose(now, upsampled(before), rtol=1e-5, atol=1e-6)
    x = normal(4, 4 << stage, 4 << stage, 1)
    scored = d[2](d[0], faded(d[1], 0.0), x)[0]
    np.testing.assert_allclose(scored, old_d[2](d[0], faded(d[1], 1.0), downsampled(x))[0], rtol=1e-4, atol=1e-5)
    half, full = (g[2](g[0], faded(g[1], a), z)[0] for a in (0.5, 1.0))
    np.testing.assert_allclose(half, 0.5 * (now + full), rtol=1e-4, atol=1e-5)  # linear in alpha


def test_stages_that_do_not_exist_and_images_of_another_stage_are_refused():
    with pytest.raises(InputError, match="grow in the stages 0 to 2, there is no stage 3"):
        traced(network(ProgressiveGenerator(SHAPE, 3)), jnp.zeros((4, 6)))
    with pytest.raises(InputError, match=r"stage 1 is of images \(8, 8\), these are \(16, 16\)"):
        traced(network(ProgressiveCritic(SHAPE, 1)), jnp.zeros((4, 16, 16, 1)))


# --- styles ----------------------------------------------------------------------------------------------------------


def test_a_modulated_convolution_is_that_of_each_image_s_own_unit_kernels():
    x, w = normal(3, 6, 6, 4), normal(3, 5)
    params, _, apply = made(network(ModulatedConv(7)), x, w)
    y = apply(params, {}, x, w)[0]
    kernel = np.float64(params["kernel"]) / np.sqrt(9 * 4)
    style = 1 + np.float64(w) @ np.float64(params["style"]["kernel"]) / np.sqrt(5) + params["style"]["bias"]
    for i in range(3):
        own = kernel * style[i][None, None, :, None]
        own = own / np.sqrt(np.square(own).sum((0, 1, 2)) + 1e-8)
        want = jax.lax.conv_general_dilated(
            x[i : i + 1], jnp.asarray(own, jnp.float32), (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        np.testing.assert_allclose(y[i], want[0], rtol=1e-3, atol=1e-4)


def test_noise_is_the_key_s_and_has_no_effect_at_first():
    x, keys = jnp.zeros((2, 5, 5, 3)), jax.random.split(KEY, 2)
    net = network(Noise(4))
    params, _ = net.init(KEY, x, keys)
    assert jnp.abs(net.apply(params, {}, x, keys)[0]).max() == 0
    strong = {"strength": jnp.asarray(2.0)}
    y = np.asarray(net.apply(strong, {}, x, keys)[0])
    np.testing.assert_array_equal(y[..., :1], y[..., 1:2])
    np.testing.assert_allclose(y[1, ..., 0], 2 * jax.random.normal(jax.random.fold_in(keys[1], 4), (5, 5, 1))[..., 0])
    assert jnp.abs(net.apply(strong, {}, x, None)[0]).max() == 0


@pytest.mark.parametrize("synthesis", [StyleSynthesis, StyleSynthesis2])
@pytest.mark.parametrize("shape", SIZES, ids=str)
def test_a_synthesis_takes_two_styles_a_scale(synthesis, shape):
    needed = styles(shape)
    net, keys = network(synthesis(shape, 4, 8)), jax.random.split(KEY, 2)
    image, _, _ = traced(net, jnp.zeros((2, needed, 5)), keys)
    assert image.shape == (2, *shape)
    with pytest.raises(InputError, match=f"one row a style, not .2, {needed - 1}, 5."):
        traced(net, jnp.zeros((2, needed - 1, 5)), keys)


@pytest.mark.parametrize("synthesis", [StyleSynthesis, StyleSynthesis2])
def test_every_style_changes_the_image(synthesis):
    shape = (8, 8, 1)
    w, keys = normal(1, styles(shape), 5), jax.random.split(KEY, 1)
    params, stats, apply = made(network(synthesis(shape, 4, 8)), w, keys)
    moved = jax.jit(jax.jacobian(lambda w: apply(params, stats, w, None)[0].sum((0, 3))))(w)
    assert (np.abs(moved).max((0, 1, 2, 4)) > 1e-6).all()


def test_a_mapping_does_not_depend_on_the_length_of_z():
    z = normal(4, 6)
    params, stats, apply = made(network(Mapping(5, 2, classes=3)), z, LABELS)
    w = apply(params, stats, z, LABELS)[0]
    np.testing.assert_allclose(apply(params, stats, 7.0 * z, LABELS)[0], w, rtol=1e-4, atol=1e-5)
    assert np.abs(apply(params, stats, z, (LABELS + 1) % 3)[0] - w).max() > 1e-3


def test_a_residual_block_of_r3gan_begins_as_the_identity():
    x = normal(2, 4, 4, 16)
    params, stats, apply = made(network(Residual(4)), x)
    np.testing.assert_array_equal(apply(params, stats, x)[0], x)
    std = {name: float(np.std(params[name]["kernel"])) for name in ("Conv_0", "Conv_1")}
    np.testing.assert_allclose(std["Conv_0"], np.sqrt(2.0 * 4**-0.5 / 16), rtol=0.1)
    np.testing.assert_allclose(std["Conv_1"], np.sqrt(2.0 * 4**-0.5 / (9 * 16)), rtol=0.1)
