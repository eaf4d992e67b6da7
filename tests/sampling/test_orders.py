"""The orders of the solvers, measured: the error against the number of steps, of a mixture whose flow is known.

In one dimension the probability flow keeps the distribution function, F_u(x_u) = F_t(x_t), so that its solution is
exact, and the slope of log error against log steps is the order.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm
from solver_orders import (
    MODES,
    PROCESSES,
    STOP,
    STRONG,
    WEAK,
    WEIGHTS,
    WIDTH,
    exact,
    mixture,
    slope,
    strong_errors,
    walked,
    weak_errors,
)

from jaxgen import sampling
from jaxgen.processes import log_snr, variance_exploding
from jaxgen.sampling import (
    adaptive,
    custom,
    ddim,
    euler,
    heun,
    iterate,
    karras,
    log_uniform,
    multistep,
    quadratic,
    uniform,
)
from jaxgen.types import InputError, Prediction


@pytest.mark.parametrize(("solver", "name"), [(s, n) for s, of in STRONG.items() for n in of.processes])
def test_the_error_falls_with_the_solver_s_order(solver, name):
    of = STRONG[solver]
    found = strong_errors(of, name)
    order = slope(of.steps, found)
    assert of.order - 0.25 < order < of.order + 1.0, (found, order)  # above: not yet in the limit
    assert found[-1] < {1: 0.05, 2: 0.02, 3: 3e-3}[of.order]


@pytest.mark.parametrize(("solver", "name"), [(s, n) for s, of in WEAK.items() for n in of.processes])
def test_the_variance_s_error_falls_with_the_order_of_a_solver_that_adds_noise(solver, name):
    of = WEAK[solver]
    found = weak_errors(of, name)
    assert of.order - 0.25 < slope(of.steps, found) < of.order + 1.0, found
    assert found[-1] < {1: 0.05, 2: 0.005}[of.order]


@pytest.mark.parametrize("name", ["cosine", "flow"])
def test_multistep_of_order_one_is_ddim_and_in_an_exploding_process_euler_is_too(name):
    x = np.linspace(-2, 2, 16)[:, None].astype(np.float32)
    process, times = PROCESSES[name], uniform(12)
    one, other = (walked(iterate(s, times), process, x) for s in (multistep(process, 1), ddim(process)))
    np.testing.assert_allclose(one, other, atol=2e-5)
    for name in ("flow", "exploding"):
        process = PROCESSES[name]
        one, other = (walked(iterate(s, times), process, x * process.scale) for s in (euler(process), ddim(process)))
        np.testing.assert_allclose(one, other, atol=1e-4)


def distance(process, x):
    """The largest difference between the distribution functions of samples and of the mixture (Kolmogorov)."""
    x = np.sort(np.float64(x).ravel())
    exactly = WEIGHTS @ norm.cdf((x - MODES[:, None]) / WIDTH)
    return np.max(np.abs(exactly - (np.arange(len(x)) + 0.5) / len(x)))


@pytest.mark.parametrize("name", sorted(sampling.SOLVERS))
@pytest.mark.parametrize("process", ["cosine", "exploding", "flow"])
def test_every_solver_draws_the_mixture_down_to_time_zero(name, process):
    chosen = PROCESSES[process]
    times = karras(chosen, 100, sigma_max=10.0) if process == "exploding" else uniform(300)
    x = chosen.scale * jax.random.normal(jax.random.key(4), (4096, 1))
    sampler = iterate(sampling.SOLVERS[name](chosen), times)
    assert distance(chosen, walked(sampler, chosen, x)) < 2.2 / np.sqrt(4096) + 0.01  # one in ten thousand, and a bias


def test_few_even_steps_of_a_cosine_schedule_are_enough_for_heun_by_the_angle():
    """Its first step is over a ratio of noise levels of hundreds, which a slope by the level amplifies."""
    process, x = PROCESSES["cosine"], jax.random.normal(jax.random.key(4), (4096, 1))
    by = {
        of: distance(process, walked(iterate(heun(process, of=of), uniform(12)), process, x))
        for of in ("angle", "level")
    }
    assert by["angle"] < 0.06 and by["level"] > 2 * by["angle"], by


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_a_stochastic_multistep_has_the_variance_of_the_reverse_diffusion(eta):
    """A denoiser that knows x_0: one step of eta = 1 is the posterior q(x_u | x_t, x_0), of eta = 0 its mean's path."""
    process, t, u = PROCESSES["cosine"], 0.6, 0.4
    x = jnp.full((20_000, 1), 0.8)
    keys = jax.random.split(jax.random.key(1), len(x))
    sampler = iterate(multistep(process, 2, eta), custom([t, u]))
    got = np.float64(sampler(keys, lambda x, t: Prediction(jnp.zeros_like(x)), x))
    a_t, s_t, a_u, s_u = (float(f(jnp.asarray(at))) for at in (t, u) for f in (process.alpha, process.sigma))
    if eta == 0.0:
        np.testing.assert_allclose(got, 0.8 * s_u / s_t, rtol=1e-5)
        return
    keep = a_t / a_u
    mean, variance = 0.8 * keep * (s_u / s_t) ** 2, s_u**2 * (1 - (keep * s_u / s_t) ** 2)
    assert abs(got.mean() - mean) < 5 * np.sqrt(variance / len(x))
    assert abs(got.var() - variance) < 5 * variance * np.sqrt(2 / len(x))


@pytest.mark.parametrize("of", ["angle", "level", "time"])
def test_churned_heun_keeps_the_distribution(of):
    """Noise is added and taken away again: the marginals are those of the process, with or without."""
    process = PROCESSES["exploding"]
    x, times = process.scale * jax.random.normal(jax.random.key(6), (8192, 1)), karras(process, 60, sigma_max=10.0)
    plain, churned = (walked(iterate(heun(process, churn, of=of), times), process, x) for churn in (0.0, 0.3))
    assert float(jnp.mean(jnp.abs(plain - churned))) > 0.1  # other samples
    assert max(distance(process, plain), distance(process, churned)) < 2.2 / np.sqrt(8192) + 0.01


# --- times -----------------------------------------------------------------------------------------------------------


def test_karras_levels_are_equally_spaced_in_their_roots_and_end_at_zero():
    process = variance_exploding(80.0)
    times = karras(process, 18)
    levels = 80.0 * np.float64(times.grid[: int(times.count) + 1])
    assert int(times.count) == 18 and levels[-1] == 0
    np.testing.assert_allclose(levels[[0, 17]], [80.0, 0.002], rtol=1e-4)
    np.testing.assert_allclose(np.diff(levels[:18] ** (1 / 7), 2), 0.0, atol=2e-4)


@pytest.mark.parametrize("name", sorted(PROCESSES))
def test_log_uniform_times_are_equal_steps_of_the_log_snr(name):
    process = PROCESSES[name]
    times = log_uniform(process, 9)
    grid = np.float64(times.grid[:10])
    assert grid[-1] == 0 and np.all(np.diff(grid) < 0)
    steps = np.diff(np.float64(log_snr(process, times.grid[1:9])))
    np.testing.assert_allclose(steps, steps.mean(), rtol=0.02)


def test_quadratic_and_custom_times():
    np.testing.assert_allclose(quadratic(4).grid[:5], [1, 9 / 16, 1 / 4, 1 / 16, 0], atol=1e-6)
    assert custom([0.5, 0.1]).grid.shape == uniform(3).grid.shape  # one compiled sampler serves all grids
    for wrong, line in (([0.5], "2 to 1001 times"), ([0.0, 0.5], "first above 0"), ([1.0, -0.1], "between 0 and 1")):
        with pytest.raises(InputError, match=line):
            custom(wrong)
    for steps in (0, 1001):
        with pytest.raises(InputError, match="1 to 1000"):
            quadratic(steps)
        with pytest.raises(InputError, match="1 to 1000"):
            karras(PROCESSES["linear"], steps)


# --- reverse mode ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [ddim, heun, multistep], ids=lambda f: f.__name__)
def test_a_sampler_of_fixed_steps_is_the_same_and_can_be_differentiated(make):
    process, x = PROCESSES["linear"], np.linspace(-2, 2, 8)[:, None].astype(np.float32)
    times = uniform(10, stop=0.05)
    free, fixed = iterate(make(process), times), iterate(make(process), times, steps=10)
    np.testing.assert_allclose(walked(free, process, x), walked(fixed, process, x), atol=1e-6)
    slope = jax.grad(lambda x: jnp.sum(walked(fixed, process, x)))(x)
    near = (walked(fixed, process, x + 1e-2) - walked(fixed, process, x - 1e-2)) / 2e-2
    np.testing.assert_allclose(slope, near, rtol=0.02, atol=2e-3)
    with pytest.raises(InputError, match="are of 10 steps, not of 7"):
        iterate(make(process), times, steps=7)


@pytest.mark.parametrize("wrong", [lambda p: multistep(p, 4), lambda p: multistep(p, 2, -1.0), lambda p: heun(p, -0.1)])
def test_numbers_that_no_solver_has_are_refused(wrong):
    with pytest.raises(InputError):
        wrong(PROCESSES["linear"])


def test_ancestral_steps_of_an_exploding_process_are_ddim_s():
    """sigma_up and sigma_down of Karras et al.'s ancestral step, in one step from a known x_0."""
    process, t, u = PROCESSES["exploding"], 0.5, 0.3
    keys, x = jax.random.split(jax.random.key(2), 8), jnp.full((8, 1), 2.0)
    got = iterate(sampling.SOLVERS["euler_ancestral"](process), custom([t, u]))(
        keys, lambda x, t: Prediction(jnp.zeros_like(x)), x
    )
    s_t, s_u = 10 * t, 10 * u
    up = s_u * np.sqrt(s_t**2 - s_u**2) / s_t
    down = np.sqrt(s_u**2 - up**2)
    fresh = jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, 0), (1,)))(keys)
    np.testing.assert_allclose(got, x * down / s_t + up * fresh, rtol=1e-5)


@pytest.mark.parametrize("name", sorted(PROCESSES))
def test_the_adaptive_solver_keeps_to_its_tolerance_and_every_image_to_itself(name):
    process = PROCESSES[name]
    x = (np.linspace(-1.5, 1.5, 24)[:, None] * np.float64(process.scale)).astype(np.float32)

    def predict(x, t):  # every image at a time of its own
        return Prediction(jax.vmap(lambda x, t: mixture(process, x, t, WEIGHTS, MODES, WIDTH))(x, t))

    def down(tolerance, x):  # to a level at which the estimate of x_0 is still away from x_0
        level = float(process.sigma(jnp.asarray(STOP)) / process.alpha(jnp.asarray(STOP)))
        keys = jax.random.split(jax.random.key(0), len(x))
        return np.asarray(
            jax.jit(lambda sampler, x: sampler(keys, predict, x))(adaptive(process, tolerance, level=level), x)
        )

    at = exact(process, x)[:, None]
    want = mixture(process, jnp.asarray(at, jnp.float32), jnp.asarray(STOP), WEIGHTS, MODES, WIDTH)
    errors = [np.max(np.abs(down(tolerance, x) - want)) for tolerance in (1e-2, 1e-6)]
    assert errors[0] < 0.05 and errors[1] < 2e-4, errors
    np.testing.assert_array_equal(down(1e-3, x)[5:7], down(1e-3, x[5:7]))


def test_an_adaptive_walk_ends_even_where_there_is_no_flow():
    process = PROCESSES["cosine"]
    x = jax.random.normal(jax.random.key(0), (4, 1))
    keys = jax.random.split(jax.random.key(0), 4)
    rough = jax.jit(lambda x: adaptive(process)(keys, lambda x, t: Prediction(jnp.sin(1e9 * x)), x))
    assert rough(x).shape == (4, 1)
