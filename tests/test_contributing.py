"""The worked examples of CONTRIBUTING.md do what they say."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from _functions import losses_of

from jaxgen import Experiment, families, fit, processes, sample, sampling
from jaxgen.conditions import labels, optional, several
from jaxgen.losses import evidence
from jaxgen.metrics import evaluation
from jaxgen.metrics.features import Features
from jaxgen.nets import Network, network
from jaxgen.nets.conv import DCGANCritic, DCGANGenerator
from jaxgen.nets.mlp import MLP, MLPDenoiser
from jaxgen.types import Batch, Prediction, Seen, TrainState, turn

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
    model = families.gan(generator, critic, 4, objective=examples["kullback_leibler"]())
    adam = {"critic": optax.adam(1e-3), "generator": optax.adam(1e-3)}
    state = fit(Experiment(model, adam, squares, batch=16, steps=2), tmp_path, progress=False)
    assert int(state.step) == 2
    objective, p, q = examples["kullback_leibler"](), jnp.array([0.1, 0.5, 3.0]), jnp.array([0.4, 0.5, 0.2])

    def expected(score):  # of data p against samples q
        on_real = objective.critic(Seen(score), Seen(jnp.full(3, -jnp.inf)), None)
        on_fake = objective.critic(Seen(jnp.zeros(3)), Seen(score), None)
        return jnp.sum(p * on_real + q * on_fake)

    best = 1.0 + jnp.log(p / q)
    np.testing.assert_allclose(jax.grad(expected)(best), np.zeros(3), atol=1e-6)
    divergence = jnp.sum(p * jnp.log(p / q))
    np.testing.assert_allclose(-expected(best), divergence, rtol=1e-5)


def test_the_weight_is_the_snr_where_that_is_large_and_goes_with_any_parametrisation(examples):
    process, t = processes.cosine(), jnp.linspace(0.05, 0.95, 9)
    w = examples["truncated_snr"]()
    snr = np.square(np.float64(process.alpha(t)) / np.float64(process.sigma(t)))
    np.testing.assert_allclose(w(process, t), np.maximum(snr, 1.0), rtol=1e-4)
    net, keys = network(MLPDenoiser(8, 1)), jax.random.split(jax.random.key(0), 4)
    sampler, batch = sampling.iterate(sampling.heun(process), sampling.uniform(2)), Batch(jnp.ones((4, 2)))
    for prediction in ("eps", "velocity", "edm"):
        model = families.diffusion(net, process, (2,), sampler=sampler, prediction=prediction, weighting=w)
        params, extra = model.game.init(jax.random.key(0), batch)
        loss, _ = losses_of(model)["denoiser"](params, extra, keys, batch)
        assert loss.shape == (4,) and bool(jnp.all(jnp.isfinite(loss)))


def test_the_penalty_is_that_of_a_linear_critic(examples):
    rng, keys = np.random.default_rng(0), jax.random.split(jax.random.key(0), 6)
    real, fake = jnp.asarray(rng.normal(size=(2, 6, 2)), jnp.float32)
    penalty = examples["lipschitz_penalty"](2.0)
    steep, flat = (penalty(lambda x, w=w: x @ jnp.asarray(w), real, fake, turn(keys)) for w in ([3.0, 4.0], [0.3, 0.4]))
    np.testing.assert_allclose(steep, np.full(6, 2.0 * (5.0 - 1.0) ** 2), rtol=1e-5)
    np.testing.assert_allclose(flat, np.zeros(6), atol=1e-6)


def test_the_guidance_keeps_known_pixels(examples):
    process = processes.cosine(clip=np.inf)

    def denoise(params, stats, x, t, condition=None, train=False):
        return 0.5 * x, stats

    net = Network(lambda key, *inputs: ({}, {}), denoise)
    sampler = sampling.iterate(sampling.ddim(process), sampling.uniform(10))
    model = families.diffusion(net, process, (4,), sampler=sampler, prediction="x0")
    empty = {"denoiser": {}}
    state = TrainState(jnp.zeros((), jnp.int32), jax.random.key(0), empty, {}, empty, None)
    y, m = jnp.arange(8.0).reshape(2, 4), jnp.asarray([[1.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
    x = sample(model, state, jax.random.key(1), 2, guidance=examples["inpainting"](), given=(y, m))
    np.testing.assert_allclose((m * x), m * y, atol=1e-5)
    free = sample(model, state, jax.random.key(1), 2)
    np.testing.assert_allclose((1 - m) * x, (1 - m) * free, atol=1e-5)  # pixel by pixel here: the others are as before


def test_the_solver_is_of_second_order(examples):
    process, s = processes.linear(), 0.5

    def predict(x, t):  # the exact denoiser of x_0 ~ N(0, s^2)
        alpha, sigma = process.alpha(t), process.sigma(t)
        return Prediction(alpha * s**2 * x / (alpha**2 * s**2 + sigma**2))

    noise = jnp.linspace(-2.0, 2.0, 5)[:, None]
    start, stop = 0.8, 0.2

    def scale(t):
        return jnp.sqrt(process.alpha(t) ** 2 * s**2 + process.sigma(t) ** 2)

    exact = noise * scale(stop) / scale(start)  # the probability flow of a Gaussian
    errors = []
    for steps in (20, 40):
        times = sampling.uniform(steps, start, stop)
        solver = sampling.iterate(examples["dpm_solver_2m"](process), times)
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
        params, extra = model.game.init(jax.random.key(0), batch)
        return jax.jit(losses_of(model)["vae"])(params, extra, jax.random.split(jax.random.key(1), 8), batch)[0]

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


def test_the_condition_is_a_point_of_the_circle_and_combines_with_others(examples):
    angle = examples["angle"]()
    np.testing.assert_allclose(angle.given(2, 90), [[0, 1], [0, 1]], atol=1e-6)
    np.testing.assert_array_equal(angle.given(2, angle.given(2, [0, 30])), angle.given(2, [0, 30]))
    np.testing.assert_allclose(angle.read("-90", 3, ()), [-90] * 3)
    both = optional(several(angle=angle, label=labels(3)))
    x, data = jnp.zeros((2, 4)), {"angle": jnp.asarray([0.0, 180.0]), "label": jnp.asarray([2, 0])}
    net = network(MLPDenoiser(8, 1, classes={"label": 3}))
    params, _ = net.init(jax.random.key(0), x, jnp.ones(2), both.of(Batch(x, data)))
    assert net.apply(params, {}, x, jnp.ones(2), both.empty(2))[0].shape == (2, 4)


def test_the_score_is_an_unbiased_distance_of_means(examples, monkeypatch):
    monkeypatch.setitem(evaluation.METRICS, "mean_matching", examples["MEAN_MATCHING"])
    rng = np.random.default_rng(0)
    for shift in (0.0, 1.0):
        x, y = (Features(rng.normal(size=(4000, 3)) + at) for at in (0.0, shift))
        found = evaluation.scored(evaluation.Sets(x, y), ["mean_matching"])["mean_matching"]
        value, error, _ = found.estimate
        assert abs(value - 3 * shift**2) < 5 * error + 0.1 and error < 0.1
        assert found.floor is not None and abs(found.floor.value) < 0.2 and found.better == "lower"
