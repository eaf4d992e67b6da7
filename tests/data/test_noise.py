"""Corruptions: their statistics are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.data import noise
from jaxgen.types import InputError

N, SHAPE = 400, (6, 5, 3)
KEYS = jax.random.split(jax.random.key(0), N)
X = np.random.default_rng(0).uniform(-0.9, 0.9, (N, *SHAPE)).astype(np.float32)  # neither black nor white
EVERY = [noise.gaussian(0.5), noise.masking(0.3), noise.salt_and_pepper(0.3)]


def within(share, p, count):
    """A share of `count` events of probability p, to five standard errors."""
    return abs(share - p) < 5 * np.sqrt(p * (1 - p) / count)


def test_gaussian_noise_is_white_and_of_the_given_deviation():
    e = (np.asarray(noise.gaussian(0.7)(KEYS, X)) - X) / 0.7
    assert abs(e.mean()) < 5 / np.sqrt(e.size) and abs(e.var() - 1) < 5 * np.sqrt(2 / e.size)
    assert abs(np.mean(e[:, 1:] * e[:, :-1])) < 5 / np.sqrt(e[:, 1:].size)
    assert abs(np.mean(e[1:] * e[:-1])) < 5 / np.sqrt(e[1:].size)


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_masked_pixels_are_black_with_the_given_probability_and_the_others_untouched(p):
    y = np.asarray(noise.masking(p)(KEYS, X))
    black = y == -1
    assert np.array_equal(y[~black], X[~black])
    assert np.all(black == black[..., :1])  # a pixel is black in all of its channels
    black = black[..., 0]
    assert within(black.mean(), p, black.size)
    assert within(np.mean(black[:, 1:] & black[:, :-1]), p**2, black[:, 1:].size)  # pixels are independent


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_salt_is_as_frequent_as_pepper(p):
    y = np.asarray(noise.salt_and_pepper(p)(KEYS, X))
    black, white = (np.all(y == value, axis=-1) for value in (-1, 1))
    assert np.array_equal(y[~(black | white)], X[~(black | white)])
    assert within(black.mean(), p / 2, black.size) and within(white.mean(), p / 2, white.size)


@pytest.mark.parametrize("corruption", EVERY)
def test_the_noise_belongs_to_the_example(corruption):
    every, again = corruption(KEYS, X), jax.jit(corruption)(KEYS, jnp.asarray(X))  # inside a step and outside
    np.testing.assert_allclose(every, again, atol=1e-6)
    np.testing.assert_array_equal(corruption(KEYS[3:5], X[3:5]), every[3:5])
    assert np.any(corruption(KEYS[3:5], X[:2]) - X[:2] != every[:2] - X[:2])


@pytest.mark.parametrize("corruption", EVERY)
def test_of_points_every_number_is_spoilt_by_itself(corruption):
    x = X.reshape(N, -1)
    y = np.asarray(corruption(KEYS, x))
    assert y.shape == x.shape and y.dtype == x.dtype
    touched = (y != x).reshape(N, -1, 3)
    assert np.any(touched.any(-1) & ~touched.all(-1)) or touched.all()  # Gaussian noise touches all


def test_the_ends_are_nothing_and_everything():
    for none in (noise.gaussian(0.0), noise.masking(0.0), noise.salt_and_pepper(0.0)):
        np.testing.assert_array_equal(none(KEYS, X), X)
    assert np.all(np.asarray(noise.masking(1.0)(KEYS, X)) == -1)
    assert set(np.unique(noise.salt_and_pepper(1.0)(KEYS, X))) == {-1.0, 1.0}


def test_what_is_no_noise_is_refused():
    for wrong in (-0.1, 1.1, float("nan")):
        for make in (noise.masking, noise.salt_and_pepper):
            with pytest.raises(InputError, match="from 0 to 1"):
                make(wrong)
    for wrong in (-0.1, float("inf"), float("nan")):
        with pytest.raises(InputError, match="sigma must be"):
            noise.gaussian(wrong)
    for corruption in EVERY:
        with pytest.raises(InputError, match=r"not uint8: `jaxgen.data.normalize`"):
            corruption(KEYS, X.astype(np.uint8))
        with pytest.raises(InputError, match=r"one key an example, \(400,\) here"):
            corruption(KEYS[:3], X)
