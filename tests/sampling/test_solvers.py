"""Solvers against distributions whose exact denoiser is known: a Gaussian, and a mixture of two."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from solver_orders import mixture

from jaxgen.processes import cosine, from_betas, linear
from jaxgen.sampling import ddim, ddpm, iterate, uniform
from jaxgen.types import InputError, Prediction

SCHEDULES = {"linear": linear(), "cosine": cosine()}
M, S = 0.3, 0.5  # x_0 ~ N(M, S^2)
WEIGHTS, MODES, WIDTH = np.array([0.3, 0.7]), np.array([-0.8, 0.6]), 0.1
MANY = 8192


def gaussian(schedule, x, t):
    """E[x_0 | x_t] = m + alpha s^2 (x_t - alpha m) / (alpha^2 s^2 + sigma^2)."""
    a, sigma = schedule.alpha(t), schedule.sigma(t)
    return M + a * S**2 * (x - a * M) / (a**2 * S**2 + sigma**2)


@jax.jit
def of_gaussian(sampler, schedule, keys, x):
    return sampler(keys, lambda x, t: Prediction(gaussian(schedule, x, t)), x)


@jax.jit
def of_mixture(sampler, schedule, keys, x):
    return sampler(keys, lambda x, t: Prediction(mixture(schedule, x, t, WEIGHTS, MODES, WIDTH)), x)


@jax.jit
def of_zero(sampler, keys, x):
    return sampler(keys, lambda x, t: Prediction(jnp.zeros_like(x)), x)


def keys_and_noise(n=MANY, seed=0):
    one, two = jax.random.split(jax.random.key(seed))
    return jax.random.split(one, n), jax.random.normal(two, (n, 1))


def flow(schedule, noise):
    """The exact probability flow of the Gaussian: x_0 = m + s (x_1 - alpha_1 m) / sqrt(alpha_1^2 s^2 + sigma_1^2)."""
    a, sigma = float(schedule.alpha(jnp.ones(()))), float(schedule.sigma(jnp.ones(())))
    return M + S * (np.float64(noise) - a * M) / np.sqrt(a**2 * S**2 + sigma**2)


def rms(x):
    return float(np.sqrt(np.mean(np.square(np.float64(x)))))


def assert_moments(x, mean, variance, slack=0.0):
    """Mean and variance of a sample of a near-Gaussian within five standard errors and a relative slack."""
    x = np.float64(x).ravel()
    assert abs(x.mean() - mean) < 5 * np.sqrt(variance / x.size) + slack * np.sqrt(variance)
    assert abs(x.var() - variance) < 5 * variance * np.sqrt(2 / x.size) + slack * variance


# --- DDIM -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_ddim_converges_to_the_probability_flow_with_order_one(name):
    schedule = SCHEDULES[name]
    keys, noise = keys_and_noise(64)
    exact, steps = flow(schedule, noise), [25, 50, 100, 200]
    errors = [rms(of_gaussian(iterate(ddim(schedule), uniform(n)), schedule, keys, noise) - exact) for n in steps]
    assert errors[0] < 0.1  # of values of size 0.5
    slope = np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert -1.1 < slope < -0.9


def test_ddim_is_exact_in_one_step_for_a_single_point():
    # a denoiser that knows x_0 is linear in sigma / alpha: Euler's step makes no error, whatever its length
    schedule = SCHEDULES["linear"]
    keys, noise = keys_and_noise(8)
    for steps in (1, 7):
        np.testing.assert_allclose(of_zero(iterate(ddim(schedule), uniform(steps)), keys, noise), 0.0, atol=1e-6)
    half = of_zero(iterate(ddim(schedule), uniform(3, stop=0.5)), keys, noise)
    want = noise * schedule.sigma(jnp.array(0.5)) / schedule.sigma(jnp.ones(()))
    np.testing.assert_allclose(half, want, rtol=1e-5, atol=1e-6)


def test_deterministic_ddim_ignores_the_keys_and_eta_does_not():
    schedule = SCHEDULES["cosine"]
    keys, noise = keys_and_noise(16)
    others = jax.random.split(jax.random.key(99), 16)
    for eta, same in ((0.0, True), (0.5, False)):
        sampler = iterate(ddim(schedule, eta), uniform(10))
        one, other = (of_gaussian(sampler, schedule, k, noise) for k in (keys, others))
        assert bool(jnp.all(one == other)) == same


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_ddim_of_eta_one_is_ddpm_of_the_smaller_variance(name):
    # the same draw enters both: they agree sample by sample, not only in distribution
    schedule = SCHEDULES[name]
    keys, noise = keys_and_noise(64)
    for steps in (1, 10, 50):
        one = of_gaussian(iterate(ddim(schedule, eta=1.0), uniform(steps)), schedule, keys, noise)
        other = of_gaussian(iterate(ddpm(schedule, "beta_tilde"), uniform(steps)), schedule, keys, noise)
        np.testing.assert_allclose(one, other, atol=2e-5)


def test_inverted_then_generated_is_the_data_and_better_with_more_steps():
    schedule = SCHEDULES["cosine"]
    keys, noise = keys_and_noise(64)
    x = np.float32(flow(schedule, noise))
    errors, latents = [], []
    for steps in (25, 50, 100, 200):
        there = iterate(ddim(schedule), uniform(steps, start=1e-3, stop=1.0))
        latents.append(of_gaussian(there, schedule, keys, x))
        errors.append(rms(of_gaussian(iterate(ddim(schedule), uniform(steps)), schedule, keys, latents[-1]) - x))
    assert all(fine < 0.6 * coarse for coarse, fine in itertools.pairwise(errors))
    assert errors[-1] < 0.01
    np.testing.assert_allclose(latents[-1], noise, atol=0.05)  # the flow's own inverse, not just some inverse


def test_inversion_from_time_zero_is_refused():
    # at t = 0 sigma is 0 and (x_t - alpha x_0) / sigma is 0 / 0
    with pytest.raises(InputError, match="cannot start at time 0"):
        uniform(20, start=0.0, stop=1.0)


@pytest.mark.parametrize("eta", [0.0, 0.3, 0.7, 1.0])
def test_one_step_of_ddim_has_the_mean_and_the_variance_of_its_eta(eta):
    # x_u ~ N(alpha_u x_0 + sqrt(sigma_u^2 - c^2) eps, c^2), eq. 12 and 16, from one x_t and a denoiser that knows x_0
    schedule, t, u = SCHEDULES["cosine"], 0.6, 0.4
    keys, _ = keys_and_noise()
    x = jnp.full((MANY, 1), 0.8)
    got = of_zero(iterate(ddim(schedule, eta), uniform(1, start=t, stop=u)), keys, x)
    a_t, s_t, a_u, s_u = (float(f(jnp.asarray(at))) for at in (t, u) for f in (schedule.alpha, schedule.sigma))
    c2 = (eta * s_u / s_t) ** 2 * (s_t**2 - (a_t / a_u) ** 2 * s_u**2)
    mean = np.sqrt(s_u**2 - c2) * 0.8 / s_t
    if eta == 0.0:
        np.testing.assert_allclose(got, mean, rtol=1e-5)
    else:
        assert_moments(got, mean, c2)


# --- DDPM -------------------------------------------------------------------------------------------------------------


def posterior(betas, i, j, x_t, x0):
    """Mean and variance of q(x_j | x_i, x_0), steps i > j of the chain, by Bayes' rule in float64."""
    bar = np.concatenate([[1.0], np.cumprod(1 - betas)])
    a2 = bar[i] / bar[j]
    # prior of x_j: N(sqrt(bar_j) x_0, 1 - bar_j); likelihood: x_i ~ N(sqrt(a2) x_j, 1 - a2)
    precision = 1 / (1 - bar[j]) + a2 / (1 - a2)
    mean = (np.sqrt(bar[j]) * x0 / (1 - bar[j]) + np.sqrt(a2) * x_t / (1 - a2)) / precision
    return mean, 1 / precision, 1 - a2


@pytest.mark.parametrize("i, j", [(20, 19), (7, 6), (20, 10), (9, 2)])
@pytest.mark.parametrize("variance", ["beta", "beta_tilde"])
def test_a_step_of_ddpm_is_the_posterior_by_bayes_rule(i, j, variance):
    betas = np.linspace(0.01, 0.3, 20)
    solver, x_t, x0 = ddpm(from_betas(betas), variance), 0.7, -0.4
    x = jnp.full((20_000, 1), x_t)
    keys, _ = keys_and_noise(20_000, seed=i)
    t, u = jnp.asarray(i / 20, jnp.float32), jnp.asarray(j / 20, jnp.float32)
    got = jax.jit(
        lambda solver, t, u: solver.step(keys, lambda x, t: Prediction(jnp.full_like(x, x0)), solver.init(x), t, u)[0]
    )
    mean, small, large = posterior(betas, i, j, x_t, x0)
    assert_moments(got(solver, t, u), mean, large if variance == "beta" else small, slack=1e-4)


@pytest.mark.parametrize("variance", ["beta", "beta_tilde"])
def test_the_last_step_of_ddpm_is_the_clean_estimate_without_noise(variance):
    schedule = SCHEDULES["linear"]
    keys, noise = keys_and_noise(64)
    got = of_gaussian(iterate(ddpm(schedule, variance), uniform(1)), schedule, keys, noise)
    np.testing.assert_allclose(got, gaussian(schedule, noise, jnp.ones(())), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("variance", ["beta", "beta_tilde"])
@pytest.mark.parametrize("steps", [10, 100])
def test_ddpm_on_a_gaussian_has_the_moments_of_the_exact_chain(variance, steps):
    # with a linear denoiser every x_t is Gaussian: its mean and variance follow by recursion, in float64
    schedule = SCHEDULES["linear"]
    grid = np.arange(steps, -1, -1) / steps
    alpha, sigma = (np.float64(f(jnp.asarray(grid, jnp.float32))) for f in (schedule.alpha, schedule.sigma))
    mean, var = 0.0, 1.0
    for i in range(steps):
        a, beta = alpha[i] / alpha[i + 1], sigma[i] ** 2 - (alpha[i] / alpha[i + 1] * sigma[i + 1]) ** 2
        gain = alpha[i] * S**2 / (alpha[i] ** 2 * S**2 + sigma[i] ** 2)
        by_x, by_x0 = a * sigma[i + 1] ** 2 / sigma[i] ** 2, alpha[i + 1] * beta / sigma[i] ** 2
        mean = by_x * mean + by_x0 * (M + gain * (mean - alpha[i] * M))
        noise = 0.0 if i == steps - 1 else beta * (1.0 if variance == "beta" else sigma[i + 1] ** 2 / sigma[i] ** 2)
        var = (by_x + by_x0 * gain) ** 2 * var + noise
    keys, x = keys_and_noise(seed=steps)
    assert_moments(of_gaussian(iterate(ddpm(schedule, variance), uniform(steps)), schedule, keys, x), mean, var, 1e-3)


def test_ddpm_of_many_steps_draws_the_gaussian():
    schedule = SCHEDULES["linear"]
    keys, x = keys_and_noise(seed=2)
    got = of_gaussian(iterate(ddpm(schedule), uniform(1000)), schedule, keys, x)
    assert_moments(got, M, S**2, slack=0.005)


def test_ddpm_of_many_steps_draws_the_mixture():
    schedule = SCHEDULES["linear"]
    keys, x = keys_and_noise(seed=3)
    got = np.float64(of_mixture(iterate(ddpm(schedule), uniform(1000)), schedule, keys, x)).ravel()
    left = got < -0.1  # midway: seven deviations from either mode
    assert abs(left.mean() - WEIGHTS[0]) < 5 * np.sqrt(WEIGHTS.prod() / got.size)
    assert_moments(got[left], MODES[0], WIDTH**2, slack=0.05)
    assert_moments(got[~left], MODES[1], WIDTH**2, slack=0.05)


@pytest.mark.parametrize("name", sorted(SCHEDULES))
@pytest.mark.parametrize("steps", [10, 20])
def test_in_few_steps_the_noisy_sampler_is_worse(name, steps):
    # Song et al. 2021, table 1: at few steps eta = 1 is worse than eta = 0. Here: the distance between quantiles
    schedule = SCHEDULES[name]
    keys, x = keys_and_noise(seed=4)
    rng = np.random.default_rng(0)
    true = np.sort(MODES[(rng.random(100 * MANY) < WEIGHTS[1]).astype(int)] + WIDTH * rng.normal(size=100 * MANY))[
        50::100
    ]

    def distance(solver):
        got = of_mixture(iterate(solver, uniform(steps)), schedule, keys, x)
        return np.mean(np.abs(np.sort(np.ravel(got)) - true))

    assert distance(ddpm(schedule, "beta_tilde")) > 1.2 * distance(ddim(schedule))


def test_an_unknown_variance_is_refused():
    with pytest.raises(InputError, match="beta_tilde"):
        ddpm(SCHEDULES["linear"], "learned")


# --- iterate and times ------------------------------------------------------------------------------------------------


def test_estimates_are_clipped_to_the_images_range():
    schedule = SCHEDULES["linear"]
    keys, noise = keys_and_noise(64)
    sampler = iterate(ddim(schedule), uniform(10), clip=0.2)
    got = of_gaussian(sampler, schedule, keys, noise)
    free = of_gaussian(iterate(ddim(schedule), uniform(10)), schedule, keys, noise)
    assert np.max(np.abs(got)) <= 0.2 + 1e-6 < np.max(np.abs(free))


def test_uniform_times_run_evenly_from_start_to_stop():
    for steps, start, stop in ((1, 1.0, 0.0), (7, 1.0, 0.0), (20, 0.001, 1.0), (1000, 1.0, 0.0)):
        times = uniform(steps, start, stop)
        assert int(times.count) == steps
        np.testing.assert_allclose(times.grid[: steps + 1], np.linspace(start, stop, steps + 1), atol=1e-6)


@pytest.mark.parametrize("steps", [0, -3, 1001])
def test_a_number_of_steps_that_no_grid_holds_is_refused(steps):
    with pytest.raises(InputError, match="1 to 1000"):
        uniform(steps)
