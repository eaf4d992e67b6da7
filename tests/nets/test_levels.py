"""A denoiser over the levels of pixels: Bayes' rule, and the likelihood that follows from it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.families import diffusion, flow_density, variational_density
from jaxgen.nets import Network, over_levels
from jaxgen.processes import cosine, log_linear
from jaxgen.types import Batch, InputError, one_shot

P = np.array([0.55, 0.1, 0.05, 0.3])
SHAPE = (3, 2, 2)


def knowing(log_p, channels=2):
    """A network that gives the same log-probabilities of levels to every value of a pixel."""
    numbers = jnp.tile(jnp.asarray(log_p, jnp.float32), channels)
    return Network(
        lambda key, *inputs: ({}, {}),
        lambda params, stats, x, t, *rest, **options: (jnp.broadcast_to(numbers, (*x.shape[:-1], numbers.size)), stats),
    )


@pytest.mark.parametrize("t", [0.02, 0.3, 0.9])
def test_two_even_levels_are_a_hyperbolic_tangent(t):
    process, x = cosine(), jax.random.normal(jax.random.key(0), (5, *SHAPE))
    found, _ = over_levels(knowing([0.0, 0.0]), process, 2).apply({}, {}, x, jnp.full(5, t))
    np.testing.assert_allclose(found, np.tanh(process.alpha(t) * x / process.sigma(t) ** 2), atol=2e-6)


def test_a_level_is_known_where_the_noise_is_below_the_distance_of_levels():
    process, t = log_linear(), np.zeros(4, np.float32)
    level = np.linspace(-1, 1, 256, dtype=np.float32)[np.arange(4 * 12).reshape(4, *SHAPE) * 5]
    noisy = process.alpha(t[0]) * level + process.sigma(t[0]) * jax.random.normal(jax.random.key(1), level.shape)
    found, _ = over_levels(knowing(np.zeros(256)), process).apply({}, {}, noisy, jnp.asarray(t))
    np.testing.assert_allclose(found, level, atol=2e-6)


def test_the_bound_of_independent_pixels_is_their_entropy():
    """With the true probabilities the bound is tight, but for the steps: -log p(x) of every image."""
    process, rng = log_linear(), np.random.default_rng(0)
    level = rng.choice(4, size=(64, *SHAPE), p=P)
    net = over_levels(knowing(np.log(P)), process, 4)
    model = diffusion(net, process, SHAPE, sampler=one_shot, prediction="x0")
    density = variational_density(model, steps=4000, levels=4)
    keys, x = jax.random.split(jax.random.key(2), 64), jnp.asarray(2 / 3 * level - 1, jnp.float32)
    nothing = {"denoiser": {}}
    found = jax.jit(density.log_p, static_argnums=4)(nothing, nothing, keys, Batch(x), 1000)
    exact = np.log(P)[level].sum((1, 2, 3))
    errors = np.std(found, axis=1) / np.sqrt(found.shape[1])
    assert np.all(np.abs(np.mean(found, axis=1) - exact) < 4 * errors + 0.02)
    assert abs(np.mean(found) - exact.mean()) < 0.05


@pytest.mark.parametrize("trace", ["exact", "hutchinson"])
def test_the_flow_s_probability_of_independent_pixels_is_theirs(trace):
    """Only the solver is approximate: the noise gives each pixel's level away, and the trace of a diagonal is exact."""
    process, rng = log_linear(), np.random.default_rng(0)
    level = rng.choice(4, size=(16, *SHAPE), p=P)
    net = over_levels(knowing(np.log(P)), process, 4)
    model = diffusion(net, process, SHAPE, sampler=one_shot, prediction="x0")
    density = flow_density(model, trace=trace, tolerance=1e-6, levels=4)
    keys, x = jax.random.split(jax.random.key(2), 16), jnp.asarray(2 / 3 * level - 1, jnp.float32)
    found = jax.jit(density.log_p, static_argnums=4)({"denoiser": {}}, {"denoiser": {}}, keys, Batch(x), 2)
    exact = np.log(P)[level].sum((1, 2, 3))
    np.testing.assert_allclose(found, np.stack([exact, exact], 1), atol=0.05)
    assert density.kind == {"exact": "weights", "hutchinson": "bound"}[trace]


def test_the_mean_of_levels_is_of_the_highest_precision():
    """On the CPU every precision computes the same, so the program itself is read."""
    net = over_levels(knowing(np.zeros(256)), cosine())
    text = jax.jit(lambda x, t: net.apply({}, {}, x, t)[0]).lower(jnp.zeros((2, *SHAPE)), jnp.ones(2)).as_text()
    assert text.count("dot_general") == text.count("HIGHEST, HIGHEST") > 0


def test_a_network_of_other_outputs_is_refused():
    net = over_levels(knowing(np.zeros(3)), cosine(), 4)
    with pytest.raises(InputError, match=r"gives 4 numbers for each of \(3, 2, 2\).*this one \(3, 2, 6\): change out"):
        net.apply({}, {}, jnp.zeros((2, *SHAPE)), jnp.ones(2))
    with pytest.raises(InputError, match="at least 2 levels, not 1"):
        over_levels(net, cosine(), 1)
