"""The worked examples of CONTRIBUTING.md do what they say."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgen import Experiment, families, fit, sample, sampling, schedules
from jaxgen.losses import evidence
from jaxgen.metrics import evaluation
from jaxgen.metrics.evaluation import halves
from jaxgen.metrics.features import Features
from jaxgen.nets import network
from jaxgen.nets.conv import DCGANCritic, DCGANGenerator
from jaxgen.nets.mlp import MLP
from jaxgen.types import Batch

TEXT = (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text()


@pytest.fixture(scope="module")
def examples():
    names = {}
    for block in re.findall(r"```python\n(.*?)```", TEXT, re.S):
        exec(block, names)
    return names


def test_the_loss_trains_a_gan(examples, tmp_path):
    squares = examples["squares"](n=64)
    generator, critic = network(DCGANGenerator(squares.shape, 2)), network(DCGANCritic(2))
    model = families.gan(generator, critic, 4, objective=examples["least_squares"]())
    adam = {"critic": optax.adam(1e-3), "generator": optax.adam(1e-3)}
    state = fit(Experiment(model, adam, squares, batch=16, steps=2), tmp_path, progress=False)
    assert int(state.step) == 2
    objective = examples["least_squares"]()
    assert objective.critic(1.0, 0.0) == 0.0  # the critic's and the generator's own optimum
    assert objective.generator(0.0, 1.0) == 0.0


def test_the_solver_is_of_second_order(examples):
    schedule, s = schedules.linear(), 0.5

    def predict(x, t):  # the exact denoiser of x_0 ~ N(0, s^2)
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        return alpha * s**2 * x / (alpha**2 * s**2 + sigma**2)

    noise = jnp.linspace(-2.0, 2.0, 5)[:, None]
    start, stop = 0.8, 0.2

    def scale(t):
        return jnp.sqrt(schedule.alpha(t) ** 2 * s**2 + schedule.sigma(t) ** 2)

    exact = noise * scale(stop) / scale(start)  # the probability flow of a Gaussian
    errors = []
    for steps in (20, 40):
        times = sampling.uniform(steps, start, stop)
        solver = sampling.iterate(examples["dpm_solver_2m"](schedule), times)
        x = solver(jax.random.split(jax.random.key(0), 5), predict, noise)
        errors.append(float(jnp.abs(x - exact).max()))
    assert 3.5 < errors[0] / errors[1] < 4.5  # twice the steps, a quarter of the error


def test_the_data_set_holds_squares(examples):
    batch = examples["squares"]("test", n=200).take(np.arange(200))
    side = 2 * batch.condition + 2
    np.testing.assert_array_equal((batch.x > 0).sum(axis=(1, 2, 3)), side**2)


def test_the_objective_lies_between_the_elbo_and_iwae(examples):
    squares = examples["squares"](n=8)
    batch = Batch(jnp.asarray(squares.take(np.arange(8)).x, jnp.float32) / 127.5 - 1.0)
    encoder, decoder = network(MLP((4,), (8,))), network(MLP(squares.shape, (8,)))

    def loss(objective):
        model = families.vae(encoder, decoder, 2, objective=objective, samples=5)
        params, extra = model.init(jax.random.key(0), batch)
        return jax.jit(model.losses["vae"])(params, extra, jax.random.split(jax.random.key(1), 8), batch)[0]

    iwae, half, elbo = (loss(examples["ciwae"](beta)) for beta in (0.0, 0.5, 1.0))
    np.testing.assert_allclose(iwae, loss(evidence.iwae()), rtol=1e-5)
    np.testing.assert_allclose(half, (iwae + elbo) / 2, rtol=1e-5)
    assert np.all(iwae < elbo)


def test_the_family_learns_to_draw_near_every_example(examples, tmp_path):
    squares = examples["squares"](n=256)
    model = examples["imle"](network(MLP(squares.shape, (64,))), 8)
    exp = Experiment(model, {"generator": optax.adam(3e-3)}, squares, batch=64, steps=200)
    state = fit(exp, tmp_path, progress=False)
    x = jnp.asarray(squares.take(np.arange(64)).x, jnp.float32) / 127.5 - 1.0
    drawn = sample(model, state, jax.random.key(0), 256)
    nearest = jnp.min(jnp.sum(jnp.square(x[:, None] - drawn[None]), axis=(2, 3, 4)), axis=1)
    assert jnp.mean(nearest) < 0.6 * jnp.mean(jnp.sum(jnp.square(x - x.mean(0)), axis=(1, 2, 3)))


def test_the_score_is_an_unbiased_distance_of_means(examples, monkeypatch):
    monkeypatch.setitem(evaluation.METRICS, "mean_matching", examples["MEAN_MATCHING"])
    rng = np.random.default_rng(0)
    for shift in (0.0, 1.0):
        x, y = (Features(rng.normal(size=(4000, 3)) + at) for at in (0.0, shift))
        found = evaluation.scored(x, y, ["mean_matching"], apart=halves(x))["mean_matching"]
        assert abs(found.value - 3 * shift**2) < 5 * found.error + 0.1 and found.error < 0.1
        assert found.floor is not None and abs(found.floor) < 0.2 and found.better == "lower"
