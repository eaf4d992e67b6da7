"""The likelihood of a diffusion model: by its flow, exact for a mixture whose denoiser is known and unbiased by random
vectors; and by the variational bound, term by term of a Gaussian."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxgen.conditions import labels
from jaxgen.data import in_memory
from jaxgen.families import dequantised, diffusion, flow_density, gan, variational_density
from jaxgen.families.bound import decoder_term
from jaxgen.metrics.likelihood import likelihood
from jaxgen.nets import Network
from jaxgen.processes import cosine, flow, linear, variance_exploding
from jaxgen.types import Batch, InputError, TrainState, one_shot

PROCESSES = {"cosine": cosine(clip=np.inf), "linear": linear(), "flow": flow(), "exploding": variance_exploding(80.0)}
WEIGHTS, WIDTH = np.array([0.2, 0.5, 0.3]), 0.35
MODES = np.array([[-1.0, 0.5], [0.8, 1.0], [0.2, -1.2]])
NOTHING, N = {"denoiser": {}}, 64
RNG = np.random.default_rng(0)
X = (MODES[RNG.choice(3, N, p=WEIGHTS)] + WIDTH * RNG.normal(size=(N, 2))).astype(np.float32)
KEYS = jax.random.split(jax.random.key(0), N)


def mixture(process, shift=0.0):
    """The exact denoiser of the mixture, all modes moved by a label times `shift`."""

    def apply(params, extra, x, t, condition=None, train=False):
        a, s = process.alpha(t)[:, None, None], process.sigma(t)[:, None, None]
        modes = MODES + (0.0 if condition is None else shift * condition[:, None, None])
        v = a**2 * WIDTH**2 + s**2
        away = x[:, None] - a * modes
        share = jax.nn.softmax(jnp.log(WEIGHTS) - jnp.sum(away**2, -1) / (2 * v[..., 0]), axis=-1)
        return jnp.sum(share[..., None] * (modes + a * WIDTH**2 * away / v), axis=1), extra

    return Network(lambda key, *inputs: ({}, {}), apply)


def model(process, **options):
    return diffusion(mixture(process, 0.5), process, (2,), sampler=one_shot, prediction="x0", **options)


def exact(x, shift=0.0):
    each = [np.atleast_1d(stats.multivariate_normal(mode + shift, WIDTH**2).logpdf(x)) for mode in MODES]
    return np.logaddexp.reduce(np.log(WEIGHTS)[:, None] + each)


@pytest.mark.parametrize("name", sorted(PROCESSES))
def test_the_density_of_a_mixture_is_recovered(name):
    """Within 0.02 nats a dimension; the start at a noise level of 1e-3 is 1e-5 of a width of 0.35."""
    m = model(PROCESSES[name])
    density = flow_density(m, trace="exact")
    found = np.asarray(jax.jit(density.log_p, static_argnums=4)(NOTHING, NOTHING, KEYS, Batch(jnp.asarray(X)), 1))
    assert found.shape == (N, 1) and density.kind == "exact"
    np.testing.assert_allclose(found[:, 0], exact(X), atol=0.03)
    assert abs(np.mean(found[:, 0] - exact(X))) < 0.004


def test_far_from_the_data_the_density_falls_as_the_mixture_s():
    far = np.float32([[4.0, 0.0], [0.0, -5.0], [-3.0, 3.0]])
    density = flow_density(model(PROCESSES["cosine"]), trace="exact", tolerance=1e-5)
    found = density.log_p(NOTHING, NOTHING, KEYS[:3], Batch(jnp.asarray(far)), 1)
    np.testing.assert_allclose(found[:, 0], exact(far), rtol=0.01)


def test_one_random_vector_is_right_on_average():
    m = model(PROCESSES["flow"])
    draws = np.float64(jax.jit(m.density.log_p, static_argnums=4)(NOTHING, NOTHING, KEYS, Batch(jnp.asarray(X)), 60))
    assert m.density.kind == "unbiased" and draws.shape == (N, 60)
    error = draws.std(axis=1, ddof=1) / np.sqrt(60)
    assert np.all(error > 1e-4)  # another vector another number
    z = (draws.mean(axis=1) - exact(X)) / np.sqrt(error**2 + 0.005**2)
    assert np.max(np.abs(z)) < 5 and abs(z.mean()) < 5 / np.sqrt(N)


def test_a_condition_is_that_of_the_data():
    m = model(PROCESSES["cosine"], condition=labels(3), drop=0.0)
    density, label = flow_density(m, trace="exact"), np.arange(N) % 3
    batch = Batch(jnp.asarray(X), jnp.asarray(label))
    found = np.asarray(density.log_p(NOTHING, NOTHING, KEYS, batch, 1))[:, 0]
    wanted = np.array([exact(x[None], 0.5 * c)[0] for x, c in zip(X, label, strict=True)])
    np.testing.assert_allclose(found, wanted, atol=0.03)


def test_the_likelihood_of_data_is_read_off_the_model_and_pixels_get_a_bound():
    m = model(PROCESSES["flow"])
    state = TrainState(jnp.zeros((), jnp.int32), jax.random.key(0), NOTHING, NOTHING, {}, None)
    state = state._replace(params=NOTHING, extra=NOTHING, opt={})
    found = likelihood(m, state, in_memory("points", "test", X), samples=40)
    assert found.kind == "unbiased" and found.elbo is None
    assert abs(found.nll.value + exact(X).mean()) < 0.06
    pixels = dequantised(m, levels=32)
    assert pixels.density.kind == "bound" and pixels.density.draws == m.density.draws


def test_what_has_no_flow_is_refused():
    nothing = Network(lambda key, *inputs: ({}, {}), lambda *a, **k: (a[2], {}))
    with pytest.raises(InputError, match="draws in one step"):
        flow_density(gan(nothing, nothing, 2))
    for wrong in ({"trace": "none"}, {"tolerance": 0.0}, {"level": -1.0}):
        with pytest.raises(InputError):
            flow_density(model(PROCESSES["flow"]), **wrong)


# --- the variational bound -------------------------------------------------------------------------------------------

M, S = 0.4, 0.6  # x_0 ~ N(M, S^2)


def of_gaussian(process):
    def apply(params, extra, x, t, condition=None, train=False):
        a, s = process.alpha(t)[:, None], process.sigma(t)[:, None]
        return M + a * S**2 * (x - a * M) / (a**2 * S**2 + s**2), extra

    net = Network(lambda key, *inputs: ({}, {}), apply)
    return diffusion(net, process, (1,), sampler=one_shot, prediction="x0")


def expected(process, steps, variance):
    """The bound on average over the data, from the formulas of its terms, in float64."""
    t = np.arange(steps + 1) / steps
    a, s = (np.float64(f(jnp.asarray(t, jnp.float32))) for f in (process.alpha, process.sigma))
    left = S**2 * s**2 / (a**2 * S**2 + s**2)  # E (x_0 - its estimate)^2
    scale = float(process.scale)
    bound = 0.5 * ((s[-1] ** 2 + a[-1] ** 2 * (M**2 + S**2)) / scale**2 - 1 - np.log(s[-1] ** 2 / scale**2))
    bound += 0.5 * left[1] / s[1] ** 2 + np.log(s[1]) + 0.5 * np.log(2 * np.pi)
    beta = s[2:] ** 2 - (a[2:] / a[1:-1] * s[1:-1]) ** 2
    small = beta * (s[1:-1] / s[2:]) ** 2
    v = beta if variance == "beta" else small
    terms = (a[1:-1] * beta / s[2:] ** 2) ** 2 * left[2:] / v + small / v - 1 - np.log(small / v)
    return bound + 0.5 * terms.sum()


@pytest.mark.parametrize("variance", ["beta", "beta_tilde"])
@pytest.mark.parametrize(("name", "steps"), [("linear", 1), ("linear", 5), ("linear", 50), ("exploding", 20)])
def test_the_bound_of_a_gaussian_is_the_sum_of_its_terms(name, steps, variance):
    process, n = PROCESSES[name], 2000
    x = (M + S * np.random.default_rng(1).normal(size=(n, 1))).astype(np.float32)
    density = variational_density(of_gaussian(process), steps=steps, variance=variance)
    keys = jax.random.split(jax.random.key(3), n)
    found = jax.jit(density.log_p, static_argnums=4)(NOTHING, NOTHING, keys, Batch(jnp.asarray(x)), steps)
    each = -np.float64(found).mean(axis=1)
    assert abs(each.mean() - expected(process, steps, variance)) < 5 * each.std() / np.sqrt(n) + 1e-3
    entropy = 0.5 * np.log(2 * np.pi * np.e * S**2)
    assert expected(process, steps, variance) > entropy


def test_the_bound_becomes_tight_with_many_steps():
    entropy = 0.5 * np.log(2 * np.pi * np.e * S**2)
    gaps = [expected(PROCESSES["linear"], steps, "beta") - entropy for steps in (10, 100, 1000)]
    assert gaps[0] > 3 * gaps[1] > 9 * gaps[2] > 0


def test_pixels_have_probabilities_that_add_up_to_one():
    levels = jnp.linspace(-1.0, 1.0, 17)[:, None]
    for estimate, sigma in ((0.3, 0.2), (-1.4, 0.1), (0.99, 1e-3), (0.0, 5.0), (0.06, 1e-2)):
        sure = decoder_term(levels, jnp.full_like(levels, estimate), jnp.full(17, sigma), 17)
        np.testing.assert_allclose(np.exp(-np.float64(sure)).sum(), 1.0, rtol=1e-4)
    far = decoder_term(levels[:1], jnp.full((1, 1), 5.0), jnp.full(1, 0.5), 17)  # twelve deviations away
    np.testing.assert_allclose(far, -stats.norm.logcdf((-1 + 1 / 16 - 5) / 0.5), rtol=1e-4)


def test_a_bound_that_there_is_not_is_refused():
    m = of_gaussian(PROCESSES["linear"])
    for wrong in ({"steps": 0}, {"variance": "none"}, {"levels": 1}):
        with pytest.raises(InputError):
            variational_density(m, **wrong)
    with pytest.raises(InputError, match="draws in one step"):
        variational_density(m._replace(process=None))
