"""A trained model as a prior: operators and their pseudo-inverses, projections, posteriors, resampling in time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.processes import cosine, flow
from jaxgen.sampling import (
    blurred,
    compose,
    custom,
    ddim,
    ddpm,
    grey,
    iterate,
    masked,
    pooled,
    posterior,
    project,
    renoising,
    sample,
    travel,
    uniform,
)
from jaxgen.types import Game, InputError, Model, Prediction, TrainState, normal

RNG = np.random.default_rng(0)
MASK = RNG.integers(0, 2, (8, 8))
OPERATORS = {"masked": masked(MASK), "pooled": pooled(2), "grey": grey(), "blurred": blurred(0.8)}
X = jnp.asarray(RNG.normal(size=(3, 8, 8, 3)), jnp.float32)


@pytest.mark.parametrize("name", sorted(OPERATORS))
def test_back_is_the_pseudo_inverse(name):
    """A A^+ A = A, A^+ A A^+ = A^+, and A^+ A is symmetric (Penrose 1955)."""
    a = OPERATORS[name]
    np.testing.assert_allclose(a.of(a.back(a.of(X))), a.of(X), atol=1e-5)
    y = a.of(X)
    np.testing.assert_allclose(a.back(a.of(a.back(y))), a.back(y), atol=1e-4)
    other = jnp.asarray(RNG.normal(size=X.shape), jnp.float32)
    both = [jnp.vdot(u, a.back(a.of(v))) for u, v in ((X, other), (other, X))]
    np.testing.assert_allclose(*both, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["masked", "pooled", "grey"])
def test_the_gain_is_that_of_a_a_transposed(name):
    a = OPERATORS[name]
    y, transposed = jax.vjp(a.of, X)
    twice = a.of(transposed(y)[0])
    np.testing.assert_allclose(twice, a.gain * y, atol=1e-5)


def test_a_blur_is_a_mean_of_neighbours():
    flat = jnp.ones((1, 8, 8, 1))
    np.testing.assert_allclose(blurred(1.0).of(flat), flat, atol=1e-6)
    dot = jnp.zeros((1, 16, 16, 1)).at[0, 8, 8, 0].set(1.0)
    spread = np.asarray(blurred(1.5, 1e-3).of(dot))[0, :, :, 0]
    row = spread.sum(0)
    np.testing.assert_allclose(np.sum(row * (np.arange(16) - 8) ** 2), 1.5**2, rtol=0.02)


@pytest.mark.parametrize("wrong", [lambda: masked(np.full((4, 4), 0.5)), lambda: pooled(0), lambda: blurred(0.0)])
def test_operators_that_are_none_are_refused(wrong):
    with pytest.raises(InputError):
        wrong()
    with pytest.raises(InputError, match="cannot be made 3 times smaller"):
        pooled(3).of(X)


# --- with a Gaussian, whose posterior is known -----------------------------------------------------------------------

M, D = 0.2, 0.5  # x_0 ~ N(M, D^2 I)
STATE = TrainState(jnp.zeros((), jnp.int32), jax.random.key(0), {}, {}, {}, None)


def gaussian(process, shape=(4, 4, 1)):
    def predict(params, extra, condition):
        def denoise(x, t):
            a, s = process.alpha(t), process.sigma(t)
            return Prediction(M + a * D**2 * (x - a * M) / (a**2 * D**2 + s**2))

        return denoise

    return Model(
        Game(lambda key, batch: ({}, {}), {}),
        lambda params, extra, keys, condition: normal(keys, shape),
        predict,
        iterate(ddim(process, 1.0), uniform(300)),
        process=process,
    )


HALF = np.zeros((4, 4))
HALF[:2] = 1


@pytest.mark.parametrize("guidance", ["project", "posterior"])
def test_what_is_known_stays_and_the_rest_is_drawn_from_the_prior(guidance):
    process = cosine(clip=np.inf)
    model, y = gaussian(process), jnp.asarray(RNG.normal(size=(1, 4, 4, 1)), jnp.float32) * HALF[None, :, :, None]
    a = masked(HALF)
    how = project(a) if guidance == "project" else posterior(a, process, noise=0.0, spread=D)
    x = np.float64(
        sample(model, STATE, jax.random.key(1), 1000, guidance=how, given=jnp.repeat(y, 1000, 0), batch=1000)
    )
    np.testing.assert_allclose(x[:, :2], np.broadcast_to(y[:, :2], (1000, 2, 4, 1)), atol=0.02)
    free = x[:, 2:].ravel()
    assert abs(free.mean() - M) < 5 * D / np.sqrt(8000) + 0.01 and abs(free.std() - D) < 0.03


@pytest.mark.parametrize("noise", [0.2, 0.6])
def test_the_posterior_of_a_noisy_mean_is_that_of_bayes_rule(noise):
    """y = the mean of each 2x2 pixels + noise: x_0 | y is a Gaussian whose mean and variance are known."""
    process, a = cosine(clip=np.inf), pooled(2)
    y = jnp.broadcast_to(jnp.asarray([[0.9, -0.4], [0.1, 0.6]])[None, :, :, None], (2000, 2, 2, 1))
    how = posterior(a, process, noise=noise, spread=D)
    x = np.float64(sample(gaussian(process), STATE, jax.random.key(2), 2000, guidance=how, given=y, batch=2000))
    means = np.asarray(a.of(jnp.asarray(x)))[..., 0]
    prior = D**2 / 4  # of a mean of four
    mean = (np.asarray(y[0, :, :, 0]) / noise**2 + M / prior) / (1 / noise**2 + 1 / prior)
    variance = 1 / (1 / noise**2 + 1 / prior)
    np.testing.assert_allclose(means.mean(0), mean, atol=5 * np.sqrt(variance / 2000) + 0.01)
    np.testing.assert_allclose(means.var(0), variance, rtol=5 * np.sqrt(2 / 2000) + 0.05)


def test_restorations_need_what_is_known_and_compose():
    model = gaussian(cosine(clip=np.inf))
    with pytest.raises(InputError, match="given=y"):
        sample(model, STATE, jax.random.key(0), 2, guidance=project(masked(HALF)))
    y = jnp.ones((2, 4, 4, 1))
    both = compose(project(masked(HALF)), project(pooled(2)))
    x = sample(model, STATE, jax.random.key(0), 2, guidance=both, given=(y, pooled(2).of(0.0 * y)))
    np.testing.assert_allclose(x[:, :2], 1.0, atol=0.02)  # the outermost has the last word


# --- resampling ------------------------------------------------------------------------------------------------------


def test_travelling_times_go_back_and_end_at_zero():
    times = travel(6, jump=2, repeats=3)
    grid = np.float64(times.grid[: int(times.count) + 1]) * 6
    wanted = [6, 5, 4, 6, 5, 4, 6, 5, 4, 3, 2, 4, 3, 2, 4, 3, 2, 1, 0]
    np.testing.assert_allclose(grid, wanted, atol=1e-5)
    np.testing.assert_allclose(travel(7, jump=7, repeats=4).grid[:8], uniform(7).grid[:8], atol=1e-6)
    with pytest.raises(InputError, match="more than 1000"):
        travel(500, jump=1, repeats=9)


@pytest.mark.parametrize("process", [cosine(clip=np.inf), flow()], ids=["cosine", "flow"])
def test_a_step_back_is_the_process_s_own_and_resampling_keeps_the_distribution(process):
    solver, n = renoising(ddim(process), process), 20_000
    keys, x = jax.random.split(jax.random.key(0), n), jnp.full((n, 1), 0.7)
    t, u = 0.3, 0.6
    back = iterate(solver, custom([t, u]))(keys, lambda x, t: Prediction(x), x)
    a_t, s_t, a_u, s_u = (float(f(jnp.asarray(at))) for at in (t, u) for f in (process.alpha, process.sigma))
    variance = s_u**2 - (a_u / a_t * s_t) ** 2
    assert abs(float(back.mean()) - 0.7 * a_u / a_t) < 5 * np.sqrt(variance / n)
    assert abs(float(back.var()) - variance) < 5 * variance * np.sqrt(2 / n)
    model = gaussian(process, (1,))
    for solver in (ddim(process), ddpm(process)):
        walk = iterate(renoising(solver, process), travel(60, 10, 3))
        drawn = np.float64(sample(model, STATE, jax.random.key(3), 4000, sampler=walk, batch=4000))
        assert abs(drawn.mean() - M) < 0.05 and abs(drawn.std() - D) < 0.05
