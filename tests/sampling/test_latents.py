"""Two latent spaces and what is found in them: codes, mixed styles, directions, inverted images."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxgen.conditions import labels
from jaxgen.nets import network
from jaxgen.nets.norms import BatchNorm
from jaxgen.sampling import (
    along,
    analogy,
    boundary,
    encode,
    factors,
    generate,
    in_codes,
    interpolate,
    invert,
    lerp,
    mix,
    principal,
    sample,
    standing,
    truncated,
)
from jaxgen.sampling.inversion import squares
from jaxgen.types import Average, Game, InputError, Model, Prediction, TrainState, normal, one_shot

RNG = np.random.default_rng(0)
MAP = jnp.asarray(RNG.normal(size=(3, 2, 3)), jnp.float32)  # z [3] -> w [2, 3]
PAINT = jnp.asarray(RNG.normal(size=(2, 3, 9)), jnp.float32)  # w -> nine pixels


def predict(params, extra, condition):
    return lambda z, t: Prediction(jnp.einsum("bd,dlw->blw", z, params["map"]))


def decode(params, extra, keys, w, condition):
    return jnp.tanh(jnp.einsum("blw,lwp->bp", w, params["paint"]) / 4).reshape(-1, 3, 3, 1)


MODEL = Model(
    Game(lambda key, batch: ({}, {}), {}),
    lambda params, extra, keys, condition: normal(keys, (3,)),
    predict,
    one_shot,
    decode,
)
STATE = TrainState(jnp.zeros((), jnp.int32), jax.random.key(0), {"map": MAP, "paint": PAINT}, {}, {}, None)
CODES = in_codes(MODEL)
KEYS = jax.random.split(jax.random.key(1), 6)
Z = normal(KEYS, (3,))
W = jnp.einsum("bd,dlw->blw", Z, MAP)
PLAIN = MODEL._replace(predict=lambda *a: lambda z, t: Prediction(3.0 * z), decode=Model._field_defaults["decode"])


# --- codes -----------------------------------------------------------------------------------------------------------


def test_codes_of_latents_give_the_images_of_the_latents():
    np.testing.assert_allclose(generate(CODES, STATE, KEYS, W), generate(MODEL, STATE, KEYS, Z), atol=1e-6)


def test_a_model_in_codes_draws_the_same_distribution():
    x, y = (np.asarray(sample(m, STATE, jax.random.key(2), 4000, batch=4000)).reshape(4000, -1) for m in (MODEL, CODES))
    for i in range(9):
        assert stats.ks_2samp(x[:, i], y[:, i]).pvalue > 1e-4


def test_a_path_between_codes_is_not_that_between_latents():
    in_w = interpolate(CODES, STATE, W[:2], W[2:4], 3, path=lerp)
    np.testing.assert_allclose(in_w[:, 1], decode(STATE.params, {}, None, 0.5 * (W[:2] + W[2:4]), None), atol=1e-6)


def test_a_model_without_codes_is_refused():
    with pytest.raises(InputError, match="no codes in between"):
        in_codes(PLAIN)


def test_an_encoder_gives_codes():
    encoding = MODEL._replace(encode=lambda params, extra, x, c: jnp.broadcast_to(x[:, :2, :, 0], (len(x), 2, 3)))
    x = jnp.asarray(RNG.uniform(-1, 1, (4, 3, 3, 1)), jnp.float32)
    np.testing.assert_array_equal(encode(in_codes(encoding), STATE, x), x[:, :2, :, 0])


def test_mixed_styles_are_those_of_the_columns_at_the_chosen_layers():
    a, b = W[:2], W[2:5]
    for layers in ([], [1], [0, 1]):
        taken = np.isin(np.arange(2), layers)[:, None]
        images = mix(CODES, STATE, a, b, layers)
        assert images.shape == (2, 3, 3, 3, 1)
        for i in range(2):
            for j in range(3):
                w = jnp.where(taken, b[j], a[i])[None]
                np.testing.assert_allclose(images[i, j], decode(STATE.params, {}, None, w, None)[0], atol=1e-6)


@pytest.mark.parametrize(
    ("a", "layers", "line"), [(W, [2], "styles 0 to 1"), (W, [-1], "styles 0 to 1"), (Z, [0], "rows, L, W")]
)
def test_styles_that_are_not_there_are_refused(a, layers, line):
    with pytest.raises(InputError, match=line):
        mix(CODES, STATE, a, W, layers)


# --- directions ------------------------------------------------------------------------------------------------------


def test_an_analogy_is_with_minus_without_plus_plain():
    with_, without, plain = jnp.ones((2, 3)), 2 * jnp.eye(3), jnp.asarray([[0.0, 1.0, 5.0]])
    np.testing.assert_allclose(analogy(with_, without, plain), np.array([1, 2, 6]) - 2 / 3, rtol=1e-6)
    with pytest.raises(InputError, match="no latents of one of the kinds"):
        analogy(with_[:0], without, plain)


def test_a_boundary_is_the_plane_that_the_labels_were_made_with():
    z, n = RNG.normal(size=(4000, 2, 3)), RNG.normal(size=(2, 3))
    found = boundary(z, np.einsum("nij,ij->n", z, n) > 0.5)
    assert found.direction.shape == (2, 3)
    np.testing.assert_allclose(jnp.linalg.norm(found.direction), 1.0, rtol=1e-5)
    assert float(jnp.vdot(found.direction, n / np.linalg.norm(n))) > 0.995  # and to the side that has it
    assert found.accuracy > 0.97
    assert abs(boundary(z, RNG.random(4000) < 0.5).accuracy - 0.5) < 0.07  # held out: 800 coins, 4 deviations
    with pytest.raises(InputError, match="some on either side"):
        boundary(z, np.ones(4000))


def test_a_large_penalty_turns_a_boundary_to_the_difference_of_the_means_whatever_the_scale():
    """Of classes that differ little along a narrow direction and much along a wide one."""
    has = np.arange(2000) % 2 == 0
    z = RNG.normal(size=(2000, 2)) * [0.01, 1.0] + np.where(has[:, None], [0.05, 1.0], 0.0)
    means = z[has].mean(0) - z[~has].mean(0)
    tight, wide = (boundary(100.0 * z, has, penalty=penalty).direction for penalty in (1e-5, 1e4))
    assert abs(float(tight[0])) > 0.9  # what parts best: five deviations
    assert float(wide @ (means / np.linalg.norm(means))) > 0.999
    np.testing.assert_allclose(boundary(z, has).direction, boundary(100.0 * z, has).direction, atol=1e-3)


def test_principal_directions_are_the_covariance_s():
    x = RNG.normal(size=(500, 4)) @ RNG.normal(size=(4, 4)) + 3.0
    found = principal(x.reshape(500, 2, 2), 3)
    values, vectors = np.linalg.eigh(np.cov(x.T))
    np.testing.assert_allclose(found.strengths, np.sqrt(values[::-1][:3]), rtol=1e-5)
    cosines = np.sum(np.asarray(found.vectors).reshape(3, 4) * vectors[:, ::-1][:, :3].T, axis=1)
    np.testing.assert_allclose(np.abs(cosines), 1.0, rtol=1e-5)
    with pytest.raises(InputError, match="1 to 4 components"):
        principal(x, 5)


def test_no_direction_moves_a_layer_more_than_its_first_factor():
    kernels = [jnp.asarray(RNG.normal(size=(5, m)), jnp.float32) for m in (3, 7)]
    found, both = factors(kernels, 5), np.concatenate(kernels, axis=1)
    np.testing.assert_allclose(found.strengths, np.linalg.svd(both, compute_uv=False), rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found.vectors @ both, axis=1), found.strengths, rtol=1e-5)
    np.testing.assert_allclose(found.vectors @ found.vectors.T, np.eye(5), atol=1e-6)
    others = RNG.normal(size=(200, 5))
    moved = np.linalg.norm(others @ both, axis=1) / np.linalg.norm(others, axis=1)
    assert np.all(moved <= float(found.strengths[0]) * (1 + 1e-6))
    with pytest.raises(InputError, match="with one D"):
        factors([kernels[0], jnp.ones((4, 3))])


def test_images_along_a_direction_are_those_of_the_moved_latents():
    n = jnp.asarray([1.0, 0.0, -1.0])
    images = along(MODEL, STATE, Z[:2], n, [-2.0, 0.0, 1.0])
    for j, s in enumerate([-2.0, 0.0, 1.0]):
        np.testing.assert_allclose(images[:, j], generate(MODEL, STATE, KEYS[:2], Z[:2] + s * n), atol=1e-6)


# --- truncation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threshold", [0.3, 1.0, 2.5])
def test_truncated_latents_have_the_quantiles_of_a_truncated_normal(threshold):
    z = jnp.asarray(np.linspace(-6, 6, 49), jnp.float32).reshape(7, 7)
    keys = jax.random.split(jax.random.key(0), 7)
    x = generate(
        PLAIN._replace(prior=lambda p, e, k, c: normal(k, (7,))), STATE, keys, z, guidance=truncated(threshold)
    )
    wanted = stats.truncnorm(-threshold, threshold).ppf(stats.norm.cdf(np.asarray(z, np.float64)))
    np.testing.assert_allclose(x / 3.0, wanted, atol=2e-5 * threshold)


def test_without_a_threshold_latents_stay():
    z = jnp.asarray([[-9.0, 0.1, 5.5]])
    np.testing.assert_array_equal(generate(PLAIN, STATE, KEYS[:1], z, guidance=truncated(jnp.inf)), 3.0 * z)


# --- inversion -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [MODEL, CODES], ids=["z", "w"])
def test_what_a_model_made_is_found_again(model):
    latents = Z if model is MODEL else W
    x = generate(model, STATE, KEYS, latents)
    found = invert(model, STATE, x, steps=400)
    np.testing.assert_allclose(found.images, x, atol=2e-3)
    np.testing.assert_allclose(found.images, generate(model, STATE, KEYS, found.latents), atol=1e-6)
    np.testing.assert_allclose(found.distances, squares(found.images, x), atol=1e-7)
    if model is MODEL:
        np.testing.assert_allclose(found.latents, Z, atol=2e-2)  # three numbers from nine pixels: only one solution


def test_a_richer_space_comes_nearer_to_an_image_that_no_latent_gives():
    x = jnp.asarray(RNG.uniform(-0.9, 0.9, (5, 3, 3, 1)), jnp.float32)
    in_z, in_w = (invert(model, STATE, x).distances for model in (MODEL, CODES))
    assert np.all(np.asarray(in_w) < np.asarray(in_z))


def test_an_inversion_is_no_worse_than_its_start_and_descent_helps():
    x = jnp.asarray(RNG.uniform(-1, 1, (4, 3, 3, 1)), jnp.float32)
    tries = [invert(MODEL, STATE, x, tries=n, steps=1, rate=1e-9).distances for n in (1, 4, 32)]
    assert np.all(tries[1] <= tries[0]) and np.all(tries[2] <= tries[1]) and np.any(tries[2] < tries[0])
    assert np.all(invert(MODEL, STATE, x, tries=32).distances < tries[2])
    wild = invert(MODEL, STATE, x, rate=1e4, steps=20)  # a rate that throws it out: the start is kept
    assert np.all(wild.distances <= tries[2] + 1e-7)


def test_images_are_inverted_one_by_one():
    x = generate(MODEL, STATE, KEYS, Z) * 0.7
    together, apart = invert(MODEL, STATE, x, steps=50), invert(MODEL, STATE, x, steps=50, batch=4)
    np.testing.assert_allclose(together.latents, apart.latents, atol=1e-5)


def test_what_cannot_be_inverted_is_refused():
    with pytest.raises(InputError, match=r"images have the shape \(3, 3, 1\)"):
        invert(MODEL, STATE, jnp.zeros((1, 4, 4, 1)))
    with pytest.raises(InputError, match="must be positive"):
        invert(MODEL, STATE, jnp.zeros((1, 3, 3, 1)), steps=0)
    whole = MODEL._replace(
        prior=lambda p, e, keys, c: jnp.zeros((len(keys), 3), jnp.int32),
        predict=lambda *a: lambda z, t: Prediction(z.astype(jnp.float32)),
        decode=lambda p, e, k, w, c: jnp.zeros((len(w), 3, 3, 1)),
    )
    with pytest.raises(InputError, match="latents are integers"):
        invert(whole, STATE, jnp.zeros((1, 3, 3, 1)))


# --- standing statistics ---------------------------------------------------------------------------------------------


class Normalised(nn.Module):
    """Batch normalisation of z, or of z and a label's own multiple of it."""

    momentum: float = 0.9

    @nn.compact
    def __call__(self, z, condition=None, train=False):
        gain = 1.0 if condition is None else condition[:, None].astype(jnp.float32)
        return BatchNorm(momentum=self.momentum)(gain * z, train)


def normalised(momentum, condition=None):
    net = network(Normalised(momentum))
    given = None if condition is None else condition.blank(4)
    params, stats = net.init(jax.random.key(0), jnp.zeros((4, 3)), given)
    model = MODEL._replace(
        predict=lambda p, e, c: lambda z, t: Prediction(net.apply(p["generator"], e["generator"], z, c)[0]),
        decode=Model._field_defaults["decode"],
        condition=condition,
    )
    return model, net, STATE._replace(params={"generator": params}, extra={"generator": stats})


@pytest.mark.parametrize("momentum", [0.9, 0.99])
@pytest.mark.parametrize("threshold", [0.5, np.inf])
def test_standing_statistics_are_those_of_the_truncated_latents(threshold, momentum):
    model, net, state = normalised(momentum)
    after = standing(model, net, state, jax.random.key(3), threshold=threshold, passes=50, batch=200)
    found = after.extra["generator"]["batch_stats"]["BatchNorm_0"]["norm"]
    wanted = stats.truncnorm(-threshold, threshold).var()
    np.testing.assert_allclose(found["mean"], 0.0, atol=5 * np.sqrt(wanted / 10_000))
    np.testing.assert_allclose(found["var"], wanted, rtol=5 * np.sqrt(2 / 10_000))
    x = np.asarray(sample(model, after, jax.random.key(5), 4000, guidance=truncated(threshold), batch=4000))
    assert abs(x.std() - 1) < 0.05  # normalised as in training


def test_standing_statistics_are_over_all_labels_and_of_averaged_weights():
    model, net, state = normalised(0.9, labels(3))  # gains 0, 1, 2: a variance of 5 / 3 on average
    averaged = state._replace(ema=Average(state.params, state.extra))
    after = standing(model, net, averaged, jax.random.key(3), passes=50, batch=200)
    found = after.ema.extra["generator"]["batch_stats"]["BatchNorm_0"]["norm"]
    np.testing.assert_allclose(found["var"], 5 / 3, rtol=0.08)
    assert after.extra is state.extra
    with pytest.raises(InputError, match="has no batch statistics"):
        standing(model, net, state._replace(extra={"generator": {}}), jax.random.key(3))
