"""Walks in the latent space: ends, arcs, one coordinate at a time, and there and back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxgen.conditions import labels, optional
from jaxgen.processes import linear
from jaxgen.sampling import (
    arithmetic,
    attribute_vector,
    ddpm,
    encode,
    generate,
    image_shape,
    interpolate,
    iterate,
    lerp,
    manifold,
    reconstruct,
    slerp,
    traverse,
    uniform,
)
from jaxgen.types import Average, Game, InputError, Model, Prediction, TrainState, one_shot

A, B = np.random.default_rng(0).normal(size=(2, 3, 2, 2, 1)).astype(np.float32)


def shift(condition):
    return jnp.where(condition.known, condition.value, 0).reshape(-1, 1, 1, 1)


def predict(params, extra, condition):
    offset = 0.0 if condition is None else shift(condition)
    return lambda z, t: Prediction(params["w"] * z + offset)


def back(params, extra, x, condition):
    return (x - (0.0 if condition is None else shift(condition))) / params["w"]


MODEL = Model(
    Game(lambda key, batch: ({}, {}), {}),
    prior=lambda params, extra, keys, condition: jax.vmap(lambda key: jax.random.normal(key, (2, 2, 1)))(keys),
    predict=predict,
    sampler=one_shot,
    condition=optional(labels(3)),
    encode=back,
)
STATE = TrainState(
    jnp.zeros((), jnp.int32),
    jax.random.key(0),
    {"w": jnp.asarray(2.0)},
    {},
    {},
    Average({"w": jnp.asarray(0.5)}, {}),
)


SLERP = jax.jit(slerp)


def arc(a, b, s):
    return np.asarray(SLERP(a, b, s))


def norms(x):
    return np.linalg.norm(x.reshape(x.shape[0], -1), axis=1)


def test_an_arc_begins_and_ends_at_its_ends():
    np.testing.assert_allclose(arc(A, B, 0.0), A, atol=1e-6)
    np.testing.assert_allclose(arc(A, B, 1.0), B, atol=1e-6)


def test_an_arc_keeps_the_norm_of_ends_of_equal_norm_and_turns_evenly():
    a, b = (v / norms(v).reshape(-1, 1, 1, 1) * 3 for v in (A, B))
    full = np.arccos(np.sum(a * b, axis=(1, 2, 3)) / 9)
    for s in (0.1, 0.5, 0.8):
        at = arc(a, b, s)
        np.testing.assert_allclose(norms(at), 3.0, rtol=1e-5)
        np.testing.assert_allclose(np.arccos(np.sum(a * at, axis=(1, 2, 3)) / 9), s * full, rtol=1e-3)


def test_an_arc_between_parallel_ends_is_the_line():
    for b in (A, 2.5 * A, A * (1 + 1e-6)):
        np.testing.assert_allclose(arc(A, b, 0.3), lerp(A, b, 0.3), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("angle", [1e-2, 1e-3, 1e-4, 1e-5])
def test_an_arc_becomes_the_line_as_the_ends_become_parallel(angle):
    a, b = np.float32([[1.0, 0.0]]), np.float32([[np.cos(angle), np.sin(angle)]])
    np.testing.assert_allclose(arc(a, b, 0.4), lerp(a, b, 0.4), atol=angle**2 + 1e-6)


@pytest.mark.parametrize("b", [-A, np.zeros_like(A)])
def test_an_arc_is_finite_between_any_ends(b):
    for s in (0.0, 0.5, 1.0):
        assert np.all(np.isfinite(arc(A, b, s)))
    np.testing.assert_allclose(arc(A, b, 0.0), A, atol=1e-6)
    np.testing.assert_allclose(arc(A, b, 1.0), b, atol=1e-6)


def test_an_interpolation_is_the_images_along_the_path():
    images = interpolate(MODEL, STATE, jnp.asarray(A), jnp.asarray(B), 5)
    assert images.shape == (3, 5, 2, 2, 1)
    for i, s in enumerate(np.linspace(0, 1, 5)):
        np.testing.assert_allclose(images[:, i], 0.5 * arc(A, B, s), atol=1e-6)
    straight = interpolate(MODEL, STATE, jnp.asarray(A), jnp.asarray(B), 3, path=lerp)
    np.testing.assert_allclose(straight[:, 1], 0.25 * (A + B), atol=1e-6)


def test_the_rows_of_an_interpolation_keep_their_labels():
    # batch=4 cuts the 3 x 5 images in the middle of rows
    images = interpolate(MODEL, STATE, jnp.asarray(A), jnp.asarray(B), 5, condition=np.array([2, 0, 1]), batch=4)
    plain = interpolate(MODEL, STATE, jnp.asarray(A), jnp.asarray(B), 5)
    np.testing.assert_allclose(
        images - plain, np.float32([2, 0, 1]).reshape(3, 1, 1, 1, 1) * np.ones_like(plain), atol=1e-5
    )


def test_a_row_shares_the_sampler_s_noise():
    # equal latents in a row give equal images even where the sampler adds noise; other rows get other noise
    sampler = iterate(ddpm(linear()), uniform(5))
    row = jnp.broadcast_to(jnp.asarray(A[:1]), A.shape)
    images = interpolate(MODEL, STATE, row, row, 4, sampler=sampler)
    np.testing.assert_allclose(images, jnp.broadcast_to(images[:, :1], images.shape), rtol=1e-4, atol=1e-5)
    assert np.all(np.abs(images[0, 0] - images[1, 0]) > 1e-5)


def test_a_traverse_changes_its_coordinate_only():
    values = np.float32([-3.0, 0.0, 4.0])
    images = np.asarray(traverse(MODEL, STATE, jnp.asarray(A), 2, values)).reshape(3, 3, 4)
    np.testing.assert_allclose(images[:, :, 2], 0.5 * np.broadcast_to(values, (3, 3)), atol=1e-6)
    for other in (0, 1, 3):
        kept = np.repeat(0.5 * A.reshape(3, 4)[:, None, other], 3, axis=1)
        np.testing.assert_allclose(images[:, :, other], kept, atol=1e-6)


def test_a_reconstruction_is_generated_from_its_code():
    x, label = jnp.asarray(A), np.array([0, 2, 1])
    keys = jax.random.split(jax.random.key(0), 3)
    for options in ({}, {"ema": False}, {"condition": label}):
        code = encode(MODEL, STATE, x, **options)
        condition = options.get("condition")
        again = generate(MODEL, STATE, keys, code, condition, ema=options.get("ema", True))
        np.testing.assert_allclose(reconstruct(MODEL, STATE, x, **options), again, atol=1e-6)
        np.testing.assert_allclose(again, x, atol=1e-5)
    np.testing.assert_allclose(encode(MODEL, STATE, x), 2 * A, rtol=1e-6)
    np.testing.assert_allclose(encode(MODEL, STATE, x, ema=False), A / 2, rtol=1e-6)


def test_a_manifold_gives_every_image_the_same_mass_of_the_prior():
    images = np.asarray(manifold(MODEL, STATE, 4, (3, 1)))
    assert images.shape == (4, 4, 2, 2, 1)
    flat = images.reshape(4, 4, 4) / 0.5
    at = stats.norm.ppf([0.125, 0.375, 0.625, 0.875])
    np.testing.assert_allclose(flat[..., 3], np.repeat(at[:, None], 4, axis=1), rtol=1e-5)
    np.testing.assert_allclose(flat[..., 1], np.repeat(at[None], 4, axis=0), rtol=1e-5)
    assert np.all(flat[..., [0, 2]] == 0.0)
    labelled = manifold(MODEL, STATE, 4, (3, 1), condition=2)
    np.testing.assert_allclose(labelled, images + 2.0, atol=1e-6)


def test_an_attribute_s_vector_is_the_difference_of_the_mean_codes():
    has = np.array([True, False, True])
    want = 2 * (A[has].mean(0) - A[1])
    np.testing.assert_allclose(attribute_vector(MODEL, STATE, jnp.asarray(A), has), want, rtol=1e-5)
    np.testing.assert_allclose(attribute_vector(MODEL, STATE, jnp.asarray(A), 1 * has), want, rtol=1e-5)
    np.testing.assert_allclose(attribute_vector(MODEL, STATE, A, has, ema=False), want / 4, rtol=1e-5)
    # given its condition, what the condition explains is no part of it
    given = attribute_vector(MODEL, STATE, A + np.float32([1, 0, 1]).reshape(3, 1, 1, 1), has, condition=1 * has)
    np.testing.assert_allclose(given, want, rtol=1e-4)


def test_arithmetic_adds_a_vector_to_codes():
    vector, label = jnp.asarray(B[0]), np.array([0, 2, 1])
    for options in ({}, {"condition": label}, {"ema": False}):
        images = arithmetic(MODEL, STATE, jnp.asarray(A), vector, [-1.0, 0.0, 2.0], **options)
        assert images.shape == (3, 3, 2, 2, 1)
        np.testing.assert_allclose(images[:, 1], reconstruct(MODEL, STATE, jnp.asarray(A), **options), atol=1e-5)
        slope = 2.0 if "ema" in options else 0.5
        for i, s in ((0, -1.0), (2, 2.0)):
            np.testing.assert_allclose(images[:, i], A + slope * s * B[0], atol=1e-5)
    # an attribute's own vector takes the mean of those without it to the mean of those with it
    has = np.array([True, False, False])
    vector = attribute_vector(MODEL, STATE, jnp.asarray(A), has)
    np.testing.assert_allclose(arithmetic(MODEL, STATE, A, vector, [1.0])[1:, 0].mean(0), A[0], atol=1e-5)


def test_codes_do_not_depend_on_the_encoding_batch():
    label = np.array([2, 0, 1])
    full = encode(MODEL, STATE, jnp.asarray(A), condition=label)
    for batch in (1, 2, 3):
        np.testing.assert_allclose(encode(MODEL, STATE, A, condition=label, batch=batch), full, rtol=1e-6)


def test_images_of_another_shape_are_refused_before_anything_is_compiled():
    def never(*inputs):
        raise AssertionError("the encoder was traced")

    assert image_shape(MODEL, STATE) == (2, 2, 1)
    for wrong in (A[:, :1], A[..., 0], np.zeros((3, 2, 2, 3))):
        with pytest.raises(InputError, match=r"images have the shape \(2, 2, 1\)") as error:
            encode(MODEL._replace(encode=never), STATE, wrong)
        assert "\n" not in str(error.value)
    for nothing in (A[:0], np.float32(1.0)):
        with pytest.raises(InputError, match="images to encode"):
            encode(MODEL, STATE, nothing)


def test_walks_that_cannot_be_are_refused():
    a = jnp.asarray(A)
    with pytest.raises(InputError, match="at least 2 steps"):
        interpolate(MODEL, STATE, a, a, 1)
    with pytest.raises(InputError, match="one shape"):
        interpolate(MODEL, STATE, a, a[:2])
    for dimension in (4, -1):
        with pytest.raises(InputError, match="dimensions 0 to 3"):
            traverse(MODEL, STATE, a, dimension, [0.0])
    with pytest.raises(InputError, match="no encoder"):
        encode(MODEL._replace(encode=None), STATE, a)
    with pytest.raises(InputError, match="label 5"):
        reconstruct(MODEL, STATE, a, condition=5)
    for dimensions in ((0, 0), (0, 4), (-1, 0), (0, 1, 2)):
        with pytest.raises(InputError, match="two of the latent's dimensions 0 to 3"):
            manifold(MODEL, STATE, 2, dimensions)
    with pytest.raises(InputError, match="at least 1 image a side"):
        manifold(MODEL, STATE, 0)
    for has in (np.ones(3), np.zeros(3, bool)):
        with pytest.raises(InputError, match="some of both kinds"):
            attribute_vector(MODEL, STATE, a, has)
    with pytest.raises(InputError, match=r"for each of 3 images, its shape is \(2,\)"):
        attribute_vector(MODEL, STATE, a, np.ones(2))
    with pytest.raises(InputError, match=r"the shape \(2, 2, 1\), the vector \(4,\)"):
        arithmetic(MODEL, STATE, a, jnp.zeros(4), [1.0])
    with pytest.raises(InputError, match="strengths are a list"):
        arithmetic(MODEL, STATE, a, a[0], 1.0)
    with pytest.raises(InputError, match="encoding batch"):
        encode(MODEL, STATE, a, batch=0)
