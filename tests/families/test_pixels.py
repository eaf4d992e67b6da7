"""What pixels are taken to be: dequantised ones have probabilities that add up, binarised ones are drawn anew."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _functions import losses_of

from jaxgen import data
from jaxgen.conditions import attributes, image
from jaxgen.families import dequantised, dynamically_binarised, vae
from jaxgen.losses.likelihood import (
    bernoulli,
    categorical,
    check_probability,
    check_support,
    gaussian,
    optimal_gaussian,
)
from jaxgen.nets import Network
from jaxgen.types import Batch, InputError

LEVELS, SIGMA = 4, 0.3
KEYS = jax.random.split(jax.random.key(0), 30_000)


def affine(params, stats, x, condition=None, train=False):
    return x @ params["w"] + params["b"], stats


NET = Network(lambda key, *inputs: ({}, {}), affine)
PARAMS = {
    "vae": {
        "encoder": {"w": jnp.zeros((1, 2)), "b": jnp.array([0.0, 0.5])},
        "decoder": {"w": jnp.full((1, 1), 0.3), "b": jnp.full(1, 0.2)},
        "prior": {},
    }
}
EXTRA = {"encoder": {}, "decoder": {}}


def test_probabilities_of_dequantised_pixels_add_up_to_one():
    model = dequantised(vae(NET, NET, 1, likelihood=gaussian(SIGMA)), LEVELS)
    x = jnp.linspace(-1.0, 1.0, LEVELS)
    draws = len(KEYS) // LEVELS
    batch = Batch(jnp.repeat(x, draws)[:, None])
    log_w = jax.jit(model.density.log_p, static_argnums=4)(PARAMS, EXTRA, KEYS[: LEVELS * draws], batch, 2)
    p = np.exp(np.float64(log_w)).reshape(LEVELS, -1)
    error = np.sqrt((p.var(axis=1) / p.shape[1]).sum())
    # p(x) = N(0.2, 0.3^2 + 0.3^2): what lies beyond the outer cells, 4/3 away from 0, is about half a percent
    assert abs(p.mean(axis=1).sum() - 0.9955) < 5 * error + 1e-3
    assert np.all(p.mean(axis=1) > 0.01)


def test_the_loss_of_dequantised_pixels_is_that_of_blurred_ones():
    seen = []

    def spy(params, stats, x, condition=None, train=False):
        seen.append(x)
        return affine(params, stats, x)

    model = dequantised(vae(Network(NET.init, spy), NET, 1, likelihood=gaussian(SIGMA)), LEVELS)
    x = jnp.zeros((20_000, 1))
    losses_of(model)["vae"](PARAMS, EXTRA, KEYS[:20_000], Batch(x))
    u, width = np.asarray(seen[0]), 2 / (LEVELS - 1)
    assert u.min() >= -width / 2 and u.max() <= width / 2
    assert abs(u.var() - width**2 / 12) < 0.003 and len(np.unique(u)) > 10_000


def test_binarised_pixels_are_drawn_with_the_grey_value_s_probability_anew_at_every_use():
    seen = []

    def spy(params, stats, x, condition=None, train=False):
        seen.append(np.asarray(x))
        return affine(params, stats, x)

    plain = vae(Network(NET.init, spy), NET, 1)
    model = dynamically_binarised(plain)
    x = Batch(jnp.full((20_000, 1), -0.4))  # p = 0.3
    for keys in (KEYS[:20_000], KEYS[5_000:25_000]):
        losses_of(model)["vae"](PARAMS, EXTRA, keys, x)
    assert set(np.unique(seen[0])) == {-1.0, 1.0}
    assert abs((seen[0] > 0).mean() - 0.3) < 5 * np.sqrt(0.21 / 20_000)
    assert 0.3 < (seen[0] != seen[1]).mean() < 0.55  # 2 p (1 - p) = 0.42
    np.testing.assert_array_equal(seen[0][5_000:], seen[1][:-5_000])  # and belongs to its key
    assert model.density.log_p is plain.density.log_p and model.density.measure == "a probability of binary pixels"
    assert dequantised(plain, 17).density.measure.endswith("17 levels, by uniform dequantisation")


def test_a_bernoulli_likelihood_of_grey_pixels_is_refused_as_a_probability():
    grey, binary = np.array([[0, 255, 7]], np.uint8), np.array([[0, 255, 0]], np.uint8)
    check_probability(bernoulli(), binary)
    check_probability(bernoulli(), np.float32([[-1, 1]]))
    check_probability(categorical(), grey)
    with pytest.raises(InputError, match="an objective, no density"):
        check_probability(optimal_gaussian(), grey)
    for x in (grey, np.float32([[-1, 0.5]])):
        with pytest.raises(InputError, match="no probability: give binary images"):
            check_probability(bernoulli(), x)


@pytest.mark.parametrize("value", [1.5, -2.0, np.nan])
def test_pixels_out_of_range_are_refused_before_anything_runs(value):
    model = vae(NET, NET, 1)
    model.game.check(Batch(np.float32([[1.0], [-1.0]])))
    with pytest.raises(InputError, match="takes -1 to 1"):
        model.game.check(Batch(np.float32([[0.0], [value]])))
    check_support(gaussian(), np.float32([[value]]))  # a density of all reals


def test_attributes_and_images_are_checked_in_one_line():
    three, half = attributes(3), image(lambda x: x[:, :2], (2, 4, 1))
    np.testing.assert_array_equal(three.given(2, [1, 0, 1]), [[1, 0, 1]] * 2)
    assert half.given(3, np.zeros((2, 4, 1))).shape == (3, 2, 4, 1)
    assert half.of(Batch(jnp.ones((5, 4, 4, 1)))).shape == (5, 2, 4, 1)
    for given, value, line in (
        (three, [1, 0], "give 3 attributes"),
        (three, [1, 0, np.nan], "finite"),
        (three, ["a", "b", "c"], "3 numbers"),
        (half, np.zeros((4, 4, 1)), r"shape \(2, 4, 1\)"),
        (half, np.full((2, 4, 1), 2.0), "from -1 to 1"),
    ):
        with pytest.raises(InputError, match=line):
            given.given(2, value)


# --- static binarisation ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def binary():
    try:
        return {split: data.load("binary_mnist", split) for split in ("train", "validation", "test")}
    except InputError as error:
        pytest.skip(str(error))


def test_static_binary_mnist_is_always_the_same_draw_of_the_grey_values(binary):
    assert [binary[split].size for split in binary] == [50_000, 10_000, 10_000]
    index = np.arange(2_000)
    x = binary["test"].take(index).x
    assert set(np.unique(x)) == {0, 255}
    np.testing.assert_array_equal(x, data.load("binary_mnist", "test").take(index).x)
    p = data.load("mnist", "test").take(index).x / 255.0
    z = ((x > 0) - p).sum() / np.sqrt((p * (1 - p)).sum())
    assert abs(z) < 5 and np.all((x > 0)[p == 1]) and not np.any((x > 0)[p == 0])


def test_every_picture_of_static_binary_mnist_has_noise_of_its_own(binary):
    """The edges of pictures, where the grey values are about one half, are drawn independently across splits."""
    train, validation = (binary[split].take(np.arange(500)).x > 0 for split in ("train", "validation"))
    grey = data.load("mnist", "train")
    a, b = grey.take(np.arange(500)).x / 255, grey.take(np.arange(50_000, 50_500)).x / 255
    both = (np.abs(a - 0.5) < 0.3) & (np.abs(b - 0.5) < 0.3)
    u, v = (train - a)[both], (validation - b)[both]
    assert both.sum() > 500 and abs(np.corrcoef(u, v)[0, 1]) < 5 / np.sqrt(both.sum())
    with pytest.raises(InputError, match="give one of train, validation, test"):
        data.load("binary_mnist", "train[:10]")
