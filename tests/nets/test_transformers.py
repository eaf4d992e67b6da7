"""Transformers, text and dropout: DiT, the UNet's attention to text, the encoder of words."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import sampling
from jaxgen.conditions import Maybe, Tokens, optional, sequence, several, text
from jaxgen.families import (
    adversarial_autoencoder,
    autoencoder,
    autoregressive,
    classifier,
    diffusion,
    gan,
    hierarchical_vae,
    m2,
    vae,
    wae_mmd,
)
from jaxgen.losses.likelihood import gaussian
from jaxgen.nets import network, with_encoder
from jaxgen.nets.attention import Attention, sincos, sincos_grid
from jaxgen.nets.dit import Block, Context, DiT, patches, unpatched
from jaxgen.nets.layers import Condition, Dropout, layer_keys
from jaxgen.nets.mlp import MLP
from jaxgen.nets.primitives import attention
from jaxgen.nets.text import TextEncoder
from jaxgen.nets.unet import ResBlock, UNet, doubled, filtered
from jaxgen.processes import cosine
from jaxgen.types import Batch, InputError, TrainState, turn

KEY = jax.random.key(0)
QUICK = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
RNG = np.random.default_rng(0)
B, SHAPE, WORDS = 3, (8, 8, 2), ("a", "one", "two", "thick")


def normal(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


X, T, KEYS = normal(B, *SHAPE), jnp.array([0.2, 0.9, 0.5]), jax.random.split(KEY, B)
TEXT = Tokens(normal(B, 4, 6), jnp.array([[1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]], bool))


def filled(net, *inputs):
    """(params, stats) of size one: what begins at zero would compare nothing. Traced, not compiled."""
    rng = np.random.default_rng(1)
    params, stats = jax.eval_shape(net.init, KEY, *inputs)
    random = lambda a: np.float32(rng.normal(size=a.shape) / np.sqrt(max(1, np.prod(a.shape[-2:-1]))))  # noqa: E731
    return jax.tree.map(random, params), stats


def tiny(kind, **options):
    if kind == "dit":
        return network(DiT(patch=4, width=8, depth=2, heads=2, **options))
    return network(UNet(8, (1, 2), blocks=1, attention_at=(4,), heads=2, **options))


@pytest.fixture(scope="module", params=["dit", "unet"])
def denoiser(request):
    """(its kind, apply(condition, x, t), params): with text and an image to condition on."""
    net = tiny(request.param, fused=False)
    condition = {"text": TEXT, "sketch": normal(B, 8, 8, 1)}
    params, stats = filled(net, X, T, condition)
    apply = jax.jit(lambda p, x, t, c: net.apply(p, stats, x, t, c)[0], compiler_options=QUICK)
    return request.param, lambda c=condition, x=X, t=T: apply(params, x, t, c), condition, params


# --- positions and patches -------------------------------------------------------------------------------------------


def test_positions_are_those_of_rows_and_columns_and_turn_with_distance():
    found = sincos_grid((3, 5), 16)
    assert found.shape == (15, 16) and len(np.unique(found.round(4), axis=0)) == 15
    rows, columns = np.divmod(np.arange(15), 5)
    np.testing.assert_allclose(found[:, :8], sincos(3, 8)[rows])
    np.testing.assert_allclose(found[:, 8:], sincos(5, 8)[columns])
    one = sincos(9, 8)  # the product of two positions depends on their distance alone: sum_i cos(w_i (p - q))
    wanted = [np.cos(d * 10_000.0 ** (-np.arange(4) / 4)).sum() for d in range(9)]
    np.testing.assert_allclose(one @ one[0], wanted, atol=1e-5)
    np.testing.assert_allclose(one[3:] @ one[3], wanted[:6], atol=1e-5)


def test_patches_are_squares_row_by_row_and_come_back():
    x = jnp.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3)
    found = patches(x, 2)
    assert found.shape == (2, 6, 12)
    np.testing.assert_array_equal(found[1, 4].reshape(2, 2, 3), x[1, 2:4, 2:4])
    np.testing.assert_array_equal(unpatched(found, 2, (4, 6, 3)), x)
    with pytest.raises(InputError, match="4x6 do not fall into patches of 4x4"):
        patches(x, 4)


# --- attention -------------------------------------------------------------------------------------------------------


def test_a_masked_key_is_as_if_it_were_not_there():
    q, k, v = normal(2, 3, 2, 4), normal(2, 5, 2, 4), normal(2, 5, 2, 4)
    mask = jnp.array([[1, 1, 0, 1, 0], [0, 1, 1, 1, 1]], bool)
    found = attention(q, k, v, mask=mask)
    for i, keep in enumerate(np.asarray(mask)):
        np.testing.assert_allclose(
            found[i], attention(q[i : i + 1], k[i : i + 1, keep], v[i : i + 1, keep])[0], atol=1e-6
        )
    assert np.all(np.isfinite(attention(q, k, v, mask=jnp.zeros_like(mask))))
    with pytest.raises(InputError, match="the mask has shape"):
        attention(q, k, v, mask=mask[:, :3])


def test_normalised_queries_and_keys_do_not_see_the_size_of_their_inputs():
    x = normal(2, 5, 8)
    for qk_norm, same in ((True, True), (False, False)):
        net = network(Attention(2, qk_norm=qk_norm))
        params, _ = net.init(KEY, x)
        a, b = (net.apply(params, {}, scale * x)[0] / scale for scale in (1.0, 30.0))
        assert np.allclose(a, b, atol=1e-4) == same


# --- DiT -------------------------------------------------------------------------------------------------------------


def test_a_block_begins_as_the_identity_and_the_network_at_zero():
    """adaLN-Zero (arXiv:2212.09748): whatever the time, the condition and the text."""
    h, given = normal(B, 4, 8), Context(normal(B, 8), TEXT, None)
    params, _ = network(Block(2)).init(KEY, h, given)
    np.testing.assert_array_equal(network(Block(2)).apply(params, {}, h, given)[0], h)
    net = tiny("dit")
    params, _ = jax.jit(net.init, compiler_options=QUICK)(KEY, X, T, TEXT)
    out, slopes = value_and_slopes(net, params)
    assert not np.any(out) and np.any(slopes["pixels"]["kernel"])  # zero, and it learns


def stacked(params, depth):
    blocks = [params[f"block_{i}"] for i in range(depth)]
    rest = {name: part for name, part in params.items() if not name.startswith("block_")}
    return {**rest, "blocks": jax.tree.map(lambda *each: jnp.stack(each), *blocks)}


def value_and_slopes(net, params, keys=None):
    def loss(p):
        out = net.call(keys, p, {}, X, T, TEXT)[0]
        return jnp.sum(out * X), out

    (_, out), slopes = jax.jit(jax.value_and_grad(loss, has_aux=True), compiler_options=QUICK)(params)
    return out, slopes


def assert_trees_close(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-4, atol=2e-4), a, b)


def test_a_scan_over_layers_and_rematerialisation_change_no_value_and_no_gradient():
    params, _ = filled(tiny("dit"), X, T, TEXT)
    out, slopes = value_and_slopes(tiny("dit"), params)
    for options in ({"remat": True}, {"scan": True}, {"scan": True, "remat": True}):
        net = tiny("dit", **options)
        own = stacked(params, 2) if "scan" in options else params
        drawn = jax.eval_shape(net.init, KEY, X, T, TEXT)[0]
        assert jax.tree.map(jnp.shape, drawn) == jax.tree.map(jnp.shape, own)
        found = value_and_slopes(net, own)
        assert_trees_close(found, (out, stacked(slopes, 2) if "scan" in options else slopes))


def test_layers_of_a_scan_begin_apart_and_draw_their_own_masks():
    net = tiny("dit", scan=True, dropout=0.5)
    one, other = jax.jit(net.init, compiler_options=QUICK)(KEY, X, T, TEXT)[0]["blocks"]["up"]["kernel"]
    assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.3 and abs(one.std() / other.std() - 1) < 0.3
    first, second = (Dropout(0.5).apply({}, jnp.ones((B, 50)), layer_keys(KEYS, i)) for i in range(2))
    assert 0.3 < np.mean(first != second) < 0.7


def test_a_rematerialised_unet_is_the_same_with_the_same_paths():
    nets = [network(UNet(8, (1,), 1, (), 2, remat=remat, dropout=0.3)) for remat in (False, True)]
    params, _ = filled(nets[0], X, T, TEXT)
    assert jax.tree.map(jnp.shape, jax.eval_shape(nets[1].init, KEY, X, T, TEXT)[0]) == jax.tree.map(jnp.shape, params)
    assert_trees_close(*(value_and_slopes(net, params, KEYS) for net in nets))  # dropout's masks too


# --- both denoisers --------------------------------------------------------------------------------------------------


def moved(a, b):
    return np.abs(np.asarray(a) - np.asarray(b)).reshape(B, -1).max(axis=1)


def test_padding_and_an_absent_text_do_not_matter_and_words_do(denoiser):
    _, apply, c, _ = denoiser
    out = apply()
    padded = TEXT._replace(values=TEXT.values.at[0, 3].add(9.0).at[1, 2].add(9.0))
    assert moved(apply({**c, "text": padded}), out).max() < 1e-5
    other = TEXT._replace(values=TEXT.values.at[0, 1].add(1.0))
    found = moved(apply({**c, "text": other}), out)
    assert found[0] > 1e-3 and found[1:].max() < 1e-5
    turned = TEXT._replace(values=TEXT.values[:, ::-1], mask=TEXT.mask[:, ::-1])
    assert moved(apply({**c, "text": turned}), out).max() < 1e-4  # a set of vectors: their order is in the vectors


def test_images_are_apart_from_each_other_whatever_their_order(denoiser):
    _, apply, c, _ = denoiser
    order = jnp.array([2, 0, 1])
    turned = jax.tree.map(lambda a: a[order], c)
    assert moved(apply(turned, X[order], T[order]), apply()[order]).max() < 1e-4


def test_forward_mode_is_the_limit_of_differences(denoiser):
    """As MeanFlow and exact divergences need it, in x and in t, which is counted to 1000."""
    _, apply, c, _ = denoiser
    for f, at, v, h in (
        (lambda x: apply(c, x, T), X, normal(*X.shape), 1e-3),
        (lambda t: apply(c, X, t), T, jnp.array([0.5, -1.0, 0.3]), 1e-5),
    ):
        slope = jax.jvp(f, (at,), (v,))[1]
        difference = (f(at + h * v) - f(at - h * v)) / (2 * h)
        assert np.abs(slope - difference).max() < 0.03 * np.abs(slope).max()


def test_an_absent_text_is_one_thing_whatever_its_words():
    net, known = tiny("dit"), jnp.array([True, False, False])
    one, other = Maybe(TEXT, known), Maybe(TEXT._replace(values=-TEXT.values, mask=~TEXT.mask), known)
    params, stats = filled(net, X, T, one)
    a, b = (jax.jit(net.apply, compiler_options=QUICK)(params, stats, X, T, c)[0] for c in (one, other))
    assert moved(a, b)[0] > 1e-3 and moved(a, b)[1:].max() < 1e-5


def test_a_dit_depends_on_its_label_its_time_and_its_image_and_is_close_to_itself_in_half_precision():
    options, sketch, labels = {"classes": {"label": 3}, "qk_norm": True}, normal(B, 8, 8, 1), jnp.array([0, 1, 2])
    net, c = tiny("dit", **options), {"label": labels, "sketch": sketch}
    params, _ = filled(net, X, T, c)
    run = jax.jit(net.apply, compiler_options=QUICK)
    out = run(params, {}, X, T, c)[0]
    for changed in (
        (X, T, {**c, "label": labels.at[1].set(0)}),
        (X, T.at[1].set(0.5), c),
        (X, T, {**c, "sketch": sketch.at[1, 4, 7].add(1.0)}),
    ):
        found = moved(run(params, {}, *changed)[0], out)
        assert found[1] > 1e-3 and max(found[0], found[2]) < 1e-5
    half = tiny("dit", **options, dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(jax.eval_shape(half.init, KEY, X, T, c)[0])} == {
        jnp.dtype("float32")
    }
    rounded = jax.jit(half.apply, compiler_options=QUICK)(params, {}, X, T, c)[0]
    assert rounded.dtype == jnp.float32 and 1e-4 < np.std(rounded - out) / np.std(out) < 0.1


# --- the UNet's variant ----------------------------------------------------------------------------------------------


def test_a_box_filter_repeats_and_averages_and_any_filter_keeps_constants():
    x = normal(2, 4, 6, 3)
    np.testing.assert_allclose(filtered(x, (1, 1), True), doubled(x), atol=1e-6)
    np.testing.assert_allclose(filtered(x, (1, 1), False), x.reshape(2, 2, 2, 3, 2, 3).mean((2, 4)), atol=1e-6)
    for up in (True, False):
        inside = filtered(jnp.ones((1, 8, 8, 1)), (1, 3, 3, 1), up)[:, 2:-2, 2:-2]
        np.testing.assert_allclose(inside, 1.0, atol=1e-6)
    ramp = jnp.broadcast_to(jnp.arange(8.0)[None, :, None, None], (1, 8, 8, 1))
    up = filtered(ramp, (1, 3, 3, 1), True)[0, 3:-3, 5, 0]
    np.testing.assert_allclose(np.diff(up), 0.5, atol=1e-6)  # linear where the image is


def test_a_block_of_the_variant_divides_its_sum_and_resamples_both_parts():
    x, e, options = normal(2, 4, 4, 3), normal(2, 5), {"features": 3}
    params, _ = filled(network(ResBlock(**options)), x, e)
    block = lambda **more: network(ResBlock(**options, **more)).apply(params, {}, x, e)[0]  # noqa: E731
    np.testing.assert_allclose(block(scaled=True) * np.sqrt(2), block(), rtol=1e-4, atol=1e-5)
    begun, _ = network(ResBlock(**options)).init(KEY, x, e)  # nearly the identity
    for way, wanted in (("up", doubled(x)), ("down", x.reshape(2, 2, 2, 2, 2, 3).mean((2, 4)))):
        found = network(ResBlock(**options, resampled=way)).apply(begun, {}, x, e)[0]
        np.testing.assert_allclose(found, wanted, atol=1e-3)
        assert block(resampled=way).shape == wanted.shape
    names = [set(jax.eval_shape(tiny("unet", **o).init, KEY, X, T)[0]) for o in ({}, {"filter": (1, 1)})]
    assert names[0] - names[1] == {"Conv_2", "Conv_3"} and names[1] - names[0] == {"ResBlock_8", "ResBlock_9"}


# --- text ------------------------------------------------------------------------------------------------------------

WRITTEN = optional(text(WORDS, 3))
ENCODER = network(TextEncoder(len(WORDS), 8, layers=1, heads=2, dropout=0.5))


def test_words_are_encoded_in_their_order_and_without_their_padding():
    net = network(TextEncoder(len(WORDS), 8, layers=1, heads=2))
    c = WRITTEN.given(3, ["a one", "one a", "a one thick"])
    params, stats = filled(net, c)
    found = net.apply(params, stats, c)[0]
    assert isinstance(found, Maybe) and found.value.values.shape == (3, 3, 8)
    np.testing.assert_array_equal(found.value.mask, c.value.mask)
    vectors = np.asarray(found.value.values)
    assert np.abs(vectors[0, :2] - vectors[1, 1::-1]).max() > 1e-2  # positions count
    longer = WRITTEN.given(3, np.array([[1, 2, 0], [2, 1, 0], [1, 2, 4]]))
    np.testing.assert_allclose(net.apply(params, stats, longer)[0].value.values, vectors, atol=1e-6)
    garbage = c._replace(value=c.value._replace(values=c.value.values.at[0, 2].set(3)))
    np.testing.assert_allclose(net.apply(params, stats, garbage)[0].value.values[0, :2], vectors[0, :2], atol=1e-5)


def test_a_text_is_encoded_once_for_all_steps_of_a_sampler():
    calls = []

    def counted(params, stats, *inputs, **options):
        jax.debug.callback(lambda: calls.append(None))
        return ENCODER.apply(params, stats, *inputs, **options)

    net = with_encoder(network(MLPText()), ENCODER._replace(apply=counted))
    process = cosine()
    model = diffusion(
        net, process, (2,), condition=WRITTEN, sampler=sampling.iterate(sampling.ddim(process), sampling.uniform(7))
    )
    batch = Batch(normal(4, 2), jnp.array([[1, 2, 0], [1, 3, 0], [4, 0, 0], [1, 2, 4]]))
    params, extra = model.game.init(KEY, batch)
    assert set(params["denoiser"]) == {"net", "encoder"}
    state = TrainState(jnp.zeros((), jnp.int32), KEY, params, {}, extra, None)
    calls.clear()
    drawn = jax.block_until_ready(sampling.sample(model, state, KEY, 4, "a thick one", guidance=2.0))
    jax.effects_barrier()
    assert len(calls) == 2  # of the text, and of none
    assert sampling.evaluations(model, state, guidance=2.0) == 14
    # that the one encoding is what every step of training computes
    c = WRITTEN.given(4, "a thick one")
    once = net.encode(params["denoiser"], extra["denoiser"], c)
    both = [net.apply(params["denoiser"], extra["denoiser"], batch.x, jnp.ones(4), one)[0] for one in (c, once)]
    np.testing.assert_allclose(*both, atol=1e-6)
    assert np.all(np.isfinite(drawn))


class MLPText(nn.Module):
    """A denoiser of points, given a text as the mean of its vectors."""

    @nn.compact
    def __call__(self, x, t, condition=None, train=False, keys=None):
        c = Condition(None, 8, project=True)(condition, x.shape[0])
        h = Dropout(0.5)(nn.Dense(16)(jnp.concatenate([x, c, t[:, None]], axis=1)), keys)
        return nn.Dense(x.shape[-1])(nn.silu(h))


def test_several_conditions_hold_a_text_and_a_sequence():
    c = several(caption=WRITTEN, embedded=sequence(2, 8))
    batch = Batch(X, {"caption": np.array([[1, 2, 0]] * B), "embedded": np.ones((B, 2, 8), np.float32)})
    given = c.of(batch)
    net = with_encoder(tiny("dit"), network(TextEncoder(len(WORDS), 8, 1, 2)))
    params, stats = filled(net, X, T, given)
    out = net.apply(params, stats, X, T, given)[0]
    for changed in (
        {**given, "caption": WRITTEN.given(B, "a two")},
        {**given, "embedded": sequence(2, 8).given(B, np.zeros((2, 8)))},
    ):
        assert moved(net.apply(params, stats, X, T, changed)[0], out).min() > 1e-3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: tiny("dit").init(KEY, X, T, WRITTEN.given(B, "a one")), "is given words.*with_encoder"),
        (lambda: network(MLP((3,))).init(KEY, X, WRITTEN.given(B, "a one")), "is given words"),
        (lambda: tiny("dit").init(KEY, X, T, Tokens(TEXT.values, TEXT.mask[:, :2])), "one number a vector"),
        (lambda: ENCODER.init(KEY, Maybe(jnp.zeros((B, 2)), jnp.ones(B, bool))), "this condition has none"),
        (lambda: tiny("dit").init(KEY, X[:, :6], T), "6x8 do not fall into patches of 4x4"),
        (lambda: network(Dropout(1.0)).apply({}, {}, X), "a rate from 0 to below 1"),
        (
            lambda: tiny("dit").init(KEY, X, T, {"a": TEXT, "b": Tokens(normal(B, 2, 3), jnp.ones((B, 2), bool))}),
            r"vectors of one size, not of \[3, 6\]",
        ),
    ],
)
def test_what_does_not_fit_is_one_line(call, message):
    with pytest.raises(InputError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


# --- dropout ---------------------------------------------------------------------------------------------------------


class Twice(nn.Module):
    """Two masks of one input."""

    rate: float

    @nn.compact
    def __call__(self, x, train=False, keys=None):
        return Dropout(self.rate)(x, keys), Dropout(self.rate)(x, keys)


def test_dropout_keeps_the_mean_and_its_masks_belong_to_the_examples():
    net, x, keys = network(Twice(0.3)), jnp.ones((64, 500)), jax.random.split(KEY, 64)
    assert net.random and not network(MLP((3,))).random
    a, b = net.train(keys, {}, {}, x)[0]
    assert set(np.unique(np.asarray(a).round(4))) == {0.0, np.float32(1 / 0.7).round(4)}
    assert abs(np.mean(a) - 1) < 5 * np.sqrt(0.3 / 0.7 / a.size)
    assert abs(np.corrcoef(np.ravel(a), np.ravel(b))[0, 1]) < 0.03  # a layer's place makes its mask
    assert abs(np.corrcoef(a[0], a[1])[0, 1]) < 0.25
    order = jnp.arange(64)[::-1]
    np.testing.assert_array_equal(net.train(keys[order], {}, {}, x)[0][0], a[order])
    np.testing.assert_array_equal(net.train(keys[:8], {}, {}, x[:8])[0][0], a[:8])  # as a device of eight draws it
    for same in (net.apply({}, {}, x)[0], net.apply({}, {}, x, keys=keys)[0]):
        np.testing.assert_array_equal(same[0], x)


class Dropped(nn.Module):
    """A network of any inputs whose output is that of dropout of ones, [B, 40]."""

    classes: int = 40

    @nn.compact
    def __call__(self, x, t=None, condition=None, train=False, keys=None):
        ones = Dropout(0.5)(jnp.ones((x.shape[0], 40)), keys)
        return jnp.broadcast_to(ones.reshape(-1, *(1,) * (x.ndim - 1), 40), (*x.shape, 40)) if x.ndim > 2 else ones


class Scored(nn.Module):
    """A critic whose score is the mean of dropout of ones."""

    @nn.compact
    def __call__(self, x, condition=None, train=False, keys=None):
        return jnp.mean(Dropout(0.5)(jnp.ones((x.shape[0], 40)), keys), axis=1)


def test_families_give_the_keys_of_the_examples_in_training_alone():
    keys, net, none = jax.random.split(KEY, 6), network(Dropped()), {}
    process, x = cosine(), jnp.zeros((6, 40))
    model = diffusion(net, process, (40,), sampler=sampling.iterate(sampling.ddim(process), sampling.uniform(2)))
    judge = classifier(net, 40, process)
    codes = autoregressive(network(Dropped()), 40, (2, 2))
    for game, player, batch in (
        (model.game, "denoiser", Batch(x)),
        (judge.game, "classifier", Batch(x, jnp.zeros(6, jnp.int32))),
        (codes.game, "prior", Batch(jnp.zeros((6, 2, 2), jnp.int32))),
        (autoencoder(net, net, 40).game, "autoencoder", Batch(x)),
        (vae(net, net, 20, likelihood=gaussian()).game, "vae", Batch(x)),
        (gan(net, network(Scored()), 3).game, "critic", Batch(x)),
        (gan(net, network(Scored()), 3).game, "generator", Batch(x)),
        (m2(net, net, net, 20, 40, alpha=1.0, likelihood=gaussian()).game, "m2", Batch(x, jnp.zeros(6, jnp.int32))),
        (hierarchical_vae([net], [], net, [20], likelihood=gaussian()).game, "vae", Batch(x)),
        (wae_mmd(net, net, 40, scale=0.0).game, "autoencoder", Batch(x)),
        (adversarial_autoencoder(net, net, network(Scored()), 40).game, "critic", Batch(x)),
    ):
        params, extra = game.init(KEY, batch)
        loss = lambda k, b: game.losses[player](params, extra, turn(k), b)[0]  # noqa: B023, E731
        every, some = loss(keys, batch), loss(keys[:2], jax.tree.map(lambda a: a[:2], batch))
        np.testing.assert_allclose(every[:2], some, rtol=1e-5)
        assert len(np.unique(np.asarray(every).round(4))) > 1
    found = judge.log_prob({"classifier": none}, {"classifier": none}, x, jnp.ones(6))
    np.testing.assert_allclose(found, -np.log(40), rtol=1e-5)


def test_in_training_a_network_that_draws_is_not_called_without_keys():
    with pytest.raises(InputError, match="takes keys"):
        network(Twice(0.3)).apply({}, {}, jnp.ones((2, 5)), train=True)
