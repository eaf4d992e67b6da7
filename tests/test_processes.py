"""Noise schedules, the forward process and the algebra between x_0, eps and v."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.losses.denoising import likelihood
from jaxgen.parametrisations import PARAMETRISATIONS, edm, parametrisation
from jaxgen.processes import (
    cosine,
    diffuse,
    flow,
    from_betas,
    like,
    linear,
    log_linear,
    log_snr,
    shifted,
    sigmoid,
    to_eps,
    variance_exploding,
)
from jaxgen.types import InputError

BETAS = {
    "linear": np.linspace(1e-4, 0.02, 1000),
    "cosine": None,  # from its own formula, below
    "rough": np.random.default_rng(0).uniform(0.001, 0.3, 20),
}
S = 0.008
F = np.cos((np.arange(1001) / 1000 + S) / (1 + S) * np.pi / 2) ** 2
BETAS["cosine"] = np.minimum(1 - F[1:] / F[:-1], 0.999)
SCHEDULES = {"linear": linear(), "cosine": cosine(), "rough": from_betas(BETAS["rough"])}


@pytest.fixture(params=sorted(SCHEDULES))
def name(request):
    return request.param


def times(count=4001):
    return jnp.linspace(0.0, 1.0, count)


def test_alpha_squared_and_sigma_squared_add_to_one(name):
    t = times()
    sum_ = np.float64(SCHEDULES[name].alpha(t)) ** 2 + np.float64(SCHEDULES[name].sigma(t)) ** 2
    assert np.max(np.abs(sum_ - 1)) < 1e-6


def test_alpha_squared_is_the_product_of_one_less_beta(name):
    betas = BETAS[name]
    t = jnp.arange(len(betas) + 1) / len(betas)
    got = np.float64(SCHEDULES[name].alpha(t)) ** 2
    want = np.concatenate([[1.0], np.cumprod(1 - betas)])
    # relative: the smallest signal is 2e-9; float32 times lie up to 6e-5 of a step beside the grid
    np.testing.assert_allclose(got, want, rtol=2e-3 if name == "cosine" else 2e-5)
    assert np.max(np.abs(got - want)) < 2e-6


def test_time_zero_is_data_exactly(name):
    assert float(SCHEDULES[name].alpha(jnp.zeros(()))) == 1.0 and float(SCHEDULES[name].sigma(jnp.zeros(()))) == 0.0


def test_linear_ends_where_the_paper_says():
    # Ho et al. 2020: beta_1 = 1e-4, beta_T = 0.02, T = 1000: alpha_bar_T = 4.0e-5
    schedule = linear()
    np.testing.assert_allclose(float(schedule.sigma(jnp.array(0.001))), 0.01, rtol=1e-5)
    np.testing.assert_allclose(float(schedule.alpha(jnp.ones(()))) ** 2, 4.0358e-5, rtol=1e-4)
    ratio = float(schedule.alpha(jnp.array(1.0)) / schedule.alpha(jnp.array(0.999)))
    np.testing.assert_allclose(ratio**2, 1 - 0.02, rtol=1e-4)


def test_cosine_is_its_formula_on_its_grid():
    i = np.arange(0, 1000)  # but the last: its beta is clipped at 0.999
    got = np.float64(cosine().alpha(jnp.asarray(i / 1000, jnp.float32))) ** 2
    np.testing.assert_allclose(got, F[:-1] / F[0], atol=2e-6)
    last = np.float64(cosine().alpha(jnp.ones(()))) ** 2
    np.testing.assert_allclose(last, 0.001 * F[-2] / F[0], rtol=1e-4)


def test_the_signal_to_noise_ratio_falls(name):
    t = times()[1:]
    snr = (np.float64(SCHEDULES[name].alpha(t)) / np.float64(SCHEDULES[name].sigma(t))) ** 2
    assert np.all(np.diff(snr) < 0) and snr[0] > 50 and snr[-1] < 0.1


def test_sigma_near_zero_does_not_cancel():
    # 1 - alpha^2 in float32 would have 1 digit here: alpha^2 = (1 - 1e-4)^(t T)
    t = np.array([1e-6, 1e-5, 1e-4])
    want = np.sqrt(-np.expm1(t * 1000 * np.log1p(-1e-4)))
    np.testing.assert_allclose(linear().sigma(jnp.asarray(t, jnp.float32)), want, rtol=1e-5)


@pytest.mark.parametrize("betas", [[], [0.0, 0.1], [0.1, 1.0], [[0.1]], [0.1, float("nan")], [-0.1]])
def test_betas_outside_zero_and_one_are_refused(betas):
    with pytest.raises(InputError, match="betas"):
        from_betas(betas)


def test_a_schedule_passes_through_jit_as_an_argument():
    traces = []

    @jax.jit
    def alpha(schedule, t):
        traces.append(1)
        return schedule.alpha(t)

    t = jnp.array(0.5)
    assert float(alpha(linear(), t)) != float(alpha(cosine(), t)) and len(traces) == 1


# --- the forward process ----------------------------------------------------------------------------------------------


def test_many_steps_have_the_mean_and_the_variance_of_one():
    # x_i = sqrt(1 - beta_i) x_{i-1} + sqrt(beta_i) z: mean and variance by recursion, in float64
    betas, schedule = BETAS["rough"], SCHEDULES["rough"]
    mean, variance = 1.7, 0.0
    for i, beta in enumerate(betas, 1):
        mean, variance = np.sqrt(1 - beta) * mean, (1 - beta) * variance + beta
        t = jnp.asarray(i / len(betas), jnp.float32)
        np.testing.assert_allclose(float(schedule.alpha(t)) * 1.7, mean, rtol=2e-5)
        np.testing.assert_allclose(float(schedule.sigma(t)) ** 2, variance, rtol=2e-5)


def test_many_steps_and_one_agree_in_distribution():
    betas, n = BETAS["rough"][:5], 100_000
    x0 = np.full((n, 1), 0.8, np.float32)
    rng = np.random.default_rng(1)
    x = x0
    for beta in betas:
        x = np.sqrt(1 - beta) * x + np.sqrt(beta) * rng.normal(size=x.shape)
    one = np.asarray(diffuse(from_betas(betas), x0, rng.normal(size=x.shape).astype(np.float32), jnp.ones(n)))
    error = np.sqrt((x.var() + one.var()) / n)
    assert abs(x.mean() - one.mean()) < 5 * error
    assert abs(x.var() - one.var()) < 5 * np.sqrt((x.var() ** 2 + one.var() ** 2) * 2 / n)


def test_diffuse_takes_a_time_an_example():
    schedule, t = linear(), jnp.array([0.1, 0.5, 0.9])
    x0, eps = np.random.default_rng(2).normal(size=(2, 3, 4, 4, 2)).astype(np.float32)
    got = diffuse(schedule, x0, eps, t)
    for i in range(3):
        np.testing.assert_allclose(got[i], diffuse(schedule, x0[i], eps[i], t[i]), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(diffuse(schedule, x0, eps, jnp.zeros(3)), x0, atol=1e-7)


def test_like_shapes_a_vector_and_leaves_a_number():
    x = jnp.zeros((3, 4, 4, 1))
    assert like(jnp.ones(3), x).shape == (3, 1, 1, 1) and like(jnp.ones(()), x).shape == ()


# --- parametrisations -------------------------------------------------------------------------------------------------


def diffused(t, seed=3):
    """(alpha, sigma, x_0, eps, x_t) at the times t [B], x: [B, 5]."""
    x0, eps = np.random.default_rng(seed).normal(size=(2, len(t), 5)).astype(np.float32)
    schedule = linear()
    # as numpy arrays: the algebra below is then float32 arithmetic without a compilation
    a, s = (np.asarray(like(f(t), x0)) for f in (schedule.alpha, schedule.sigma))
    return a, s, x0, eps, a * x0 + s * eps


INSIDE = jnp.linspace(0.001, 1.0, 97)


@pytest.mark.parametrize("prediction", sorted(PARAMETRISATIONS))
def test_the_clean_image_comes_back_from_the_target(prediction):
    a, s, x0, eps, x_t = diffused(INSIDE)
    f = parametrisation(prediction)
    got = f.to_x0(a, s, x_t, f.target(a, s, x0, eps))
    # (x_t - sigma eps) / alpha loses what float32 loses of x_t: 1e-7 / alpha
    assert np.all(np.abs(got - x0) < 1e-6 * (5 + 5 / a if prediction in ("eps", "edm") else 10))


@pytest.mark.parametrize("prediction", sorted(PARAMETRISATIONS))
def test_the_noise_comes_back_from_the_target(prediction):
    a, s, x0, eps, x_t = diffused(INSIDE)
    f = parametrisation(prediction)
    got = to_eps(a, s, x_t, f.to_x0(a, s, x_t, f.target(a, s, x0, eps)))
    assert np.all(np.abs(got - eps) < 1e-6 * (5 + 5 / s))


@pytest.mark.parametrize("one", sorted(PARAMETRISATIONS))
@pytest.mark.parametrize("other", sorted(PARAMETRISATIONS))
def test_any_output_means_the_same_in_every_parametrisation(one, other):
    # not only the true target: whatever a network says as `one`, said again as `other`, stands for the same x_0
    a, s, _, _, x_t = diffused(INSIDE[:60])
    said = np.random.default_rng(4).normal(size=x_t.shape).astype(np.float32)
    f, g = parametrisation(one), parametrisation(other)
    x0 = f.to_x0(a, s, x_t, said)
    again = g.to_x0(a, s, x_t, g.target(a, s, x0, to_eps(a, s, x_t, x0)))
    assert np.all(np.abs(again - x0) < 2e-5 * (1 + np.abs(x0)) * (1 + 1 / a))


def test_v_is_its_formula_and_a_rotation():
    a, s, x0, eps, x_t = diffused(INSIDE)
    v = parametrisation("v").target(a, s, x0, eps)
    np.testing.assert_allclose(v, a * eps - s * x0, atol=1e-6)
    np.testing.assert_allclose(a * x_t - s * v, x0, atol=5e-6)
    np.testing.assert_allclose(s * x_t + a * v, eps, atol=5e-6)
    np.testing.assert_allclose(x_t**2 + v**2, x0**2 + eps**2, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("prediction", sorted(PARAMETRISATIONS))
def test_an_error_of_the_output_is_so_much_of_one_in_the_clean_image(prediction):
    a, s, _, _, x_t = diffused(INSIDE[:60])
    f, output = parametrisation(prediction), np.zeros_like(x_t)
    moved = f.to_x0(a, s, x_t, output + 0.5) - f.to_x0(a, s, x_t, output)
    np.testing.assert_allclose(np.abs(moved), 0.5 * np.broadcast_to(f.error(a, s), x_t.shape), rtol=1e-3, atol=1e-6)


def test_the_velocity_of_a_flow_is_its_derivative_in_time():
    t = jnp.linspace(0.01, 0.99, 9)[:, None]
    x0, eps = np.random.default_rng(5).normal(size=(2, 9, 5)).astype(np.float32)
    process, u = flow(), parametrisation("velocity")
    _, slope = jax.jvp(lambda t: process.alpha(t) * x0 + process.sigma(t) * eps, (t,), (jnp.ones_like(t),))
    np.testing.assert_allclose(slope, u.target(process.alpha(t), process.sigma(t), x0, eps), atol=1e-6)
    end = u.to_x0(jnp.zeros(()), jnp.ones(()), eps, eps - x0)  # at t = 1, where eps says nothing of x_0
    np.testing.assert_allclose(end, x0, atol=1e-6)


@pytest.mark.parametrize("level", [0.01, 0.5, 3.0, 80.0])
def test_edm_s_network_sees_and_predicts_numbers_of_variance_one(level):
    d, n, f = 0.7, 200_000, edm(0.7)
    x0, eps = np.random.default_rng(6).normal(size=(2, n, 1)).astype(np.float32)
    a, s = np.ones((n, 1), np.float32), np.full((n, 1), level, np.float32)
    x_t = d * x0 + level * eps
    seen, noise = f.inputs(a, s, x_t, jnp.full(n, 0.3))
    np.testing.assert_allclose(1000 * noise, np.log(level) / 4, rtol=1e-6)
    assert abs(np.std(seen) - 1) < 5 / np.sqrt(2 * n) + 1e-4
    target = f.target(a, s, d * x0, eps)
    assert abs(np.std(target) - 1) < 5 / np.sqrt(2 * n) + 1e-3
    half = f.inputs(0.5 * a, 0.5 * s, 0.5 * x_t, jnp.full(n, 0.3))[0]  # of the level alone, not of the scale
    np.testing.assert_allclose(half, seen, rtol=1e-5, atol=1e-6)
    if level == 0.5:  # table 1
        np.testing.assert_allclose(f.error(1.0, 0.5), 0.5 * d / np.sqrt(0.25 + d**2), rtol=1e-6)
        np.testing.assert_allclose(f.to_x0(1.0, 0.5, 2.0, 0.0), 2.0 * d**2 / (0.25 + d**2), rtol=1e-6)


# --- other processes --------------------------------------------------------------------------------------------------

MORE = {"sigmoid": sigmoid(), "flow": flow(), "exploding": variance_exploding(50.0), "shifted": shifted(linear(), 2.0)}
MORE["shifted flow"] = shifted(flow(), 3.0)


@pytest.mark.parametrize("name", sorted(MORE))
def test_times_are_the_inverse_of_the_log_snr(name):
    # a shifted process of a largest noise level has that level at all its last times
    process, t = MORE[name], jnp.linspace(0.02, 0.9 if name == "shifted" else 0.98, 25)
    np.testing.assert_allclose(process.time(log_snr(process, t)), t, atol=2e-3 if "shifted" in name else 5e-4)
    falling = np.float64(log_snr(process, t))
    assert np.all(np.diff(falling) < 0)
    assert float(process.alpha(jnp.zeros(()))) == 1.0 and float(process.sigma(jnp.zeros(()))) == 0.0


def test_the_sigmoid_schedule_is_its_formula():
    t, start, stop, tau = np.arange(1, 1000) / 1000, -3.0, 3.0, 0.9
    ends, between = (1 / (1 + np.exp(-v / tau)) for v in (np.array([start, stop]), start + t * (stop - start)))
    wanted = (ends[1] - between) / (ends[1] - ends[0])
    got = np.float64(sigmoid(1000, start, stop, tau).alpha(jnp.asarray(t, jnp.float32))) ** 2
    np.testing.assert_allclose(got, wanted, atol=3e-6)


def test_a_shift_moves_the_log_snr_and_a_flow_s_times():
    t = jnp.linspace(0.05, 0.9, 12)
    for process in (linear(), flow(), variance_exploding()):
        moved = log_snr(shifted(process, 2.0), t) - log_snr(process, t)
        inside = np.float64(moved) > -2 * np.log(2) + 1e-2  # where the process has so much noise at all
        np.testing.assert_allclose(moved[~inside], -2 * np.log(2), atol=1e-2)
        assert inside.sum() <= 2
    np.testing.assert_allclose(shifted(flow(), 3.0).sigma(t), 3 * t / (1 + 2 * t), rtol=1e-4)
    np.testing.assert_allclose(shifted(linear(), 1.0).alpha(t), linear().alpha(t), rtol=2e-3)


@pytest.mark.parametrize("table", [(14.0, -10.0), (9.0, 8.5, 3.0, -2.0)])
def test_a_log_snr_is_linear_between_its_values_and_the_bound_depends_on_its_ends_alone(table):
    """The diffusion term of data of variance 1, whose best error is 1 / (1 + SNR), has a closed form."""
    process, t = log_linear(*table), (jnp.arange(40_000) + 0.5) / 40_000
    wanted = np.interp(t, np.linspace(0, 1, len(table)), table)
    np.testing.assert_allclose(log_snr(process, t), wanted, atol=2e-5)
    np.testing.assert_allclose(process.time(wanted), t, atol=1e-5)
    np.testing.assert_allclose(np.square(process.alpha(t)) + np.square(process.sigma(t)), 1.0, atol=1e-6)
    loss = np.mean(np.float64(likelihood()(process, t)) / (1 + np.exp(wanted)))
    first, last = np.logaddexp(0, [table[0], table[-1]])
    np.testing.assert_allclose(loss, 0.5 * (first - last), rtol=1e-3)
    with pytest.raises(InputError, match="falls from first to last, it is 3 4"):
        log_linear(3, 4)


@pytest.mark.parametrize("wrong", [lambda: shifted(flow(), 0.0), lambda: variance_exploding(0.0), lambda: edm(0.0)])
def test_scales_that_are_none_are_refused(wrong):
    with pytest.raises(InputError, match="must be positive"):
        wrong()


def test_an_unknown_parametrisation_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match=r"'eta'.*eps, x0, v"):
        parametrisation("eta")
