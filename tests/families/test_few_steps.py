"""Few-step models: consistency, MeanFlow, progressive distillation, reflow; of a Gaussian, whose flow is linear."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from _functions import losses_of

import jaxgen
from jaxgen import data, families
from jaxgen.conditions import labels
from jaxgen.losses.denoising import Hybrid, easy, intervals
from jaxgen.nets import Network, network
from jaxgen.nets.mlp import MLPDenoiser
from jaxgen.processes import cosine, flow, linear, log_variance, variance_exploding
from jaxgen.sampling import consistency, custom, ddim, ddpm, iterate, jumping, uniform
from jaxgen.types import Batch, InputError, Interval, Prediction, one_shot, turn

M, S, N = 0.3, 0.5, 512
KEYS = jax.random.split(jax.random.key(0), N)
DATA = Batch(M + S * jax.random.normal(jax.random.key(7), (N, 2)))
NOTHING = {"denoiser": {}, "teacher": {"denoiser": {}}}
PROCESSES = {
    "cosine": cosine(clip=np.inf),
    "flow": flow(clip=np.inf),
    "exploding": variance_exploding(20.0, clip=np.inf),
}


def like(a, x):
    return jnp.broadcast_to(a, x.shape[:1])[:, None]


def length(process, t):
    """The standard deviation of x_t."""
    return jnp.sqrt(jnp.square(process.alpha(t) * S) + jnp.square(process.sigma(t)))


def flow_map(process, x, t, r):
    """Where the probability flow takes x from t to r: the same number of deviations from the mean."""
    z = (x - like(process.alpha(t) * M, x)) / like(length(process, t), x)
    return like(process.alpha(r) * M, x) + like(length(process, r), x) * z


def posterior_mean(process, x, t):
    a = process.alpha(t)
    return M + like(a * S**2 / length(process, t) ** 2, x) * (x - like(a * M, x))


def of(function):
    """The network without parameters that gives function(x, t)."""
    return Network(lambda key, *inputs: ({}, {}), lambda p, s, x, t, c=None, train=False: (function(x, t), s))


def exact(process, sampler=one_shot):
    """The diffusion model that knows E[x_0 | x_t]."""
    net = of(lambda x, t: posterior_mean(process, x, t))
    return families.diffusion(net, process, (2,), sampler=sampler, prediction="x0")


def loss_of(model, data=DATA, step=0):
    found = jax.jit(losses_of(model, step)["denoiser"])(NOTHING, NOTHING, KEYS[: len(data.x)], data)[0]
    return np.float64(found)


def noise(process, n=20_000):
    return process.scale * jax.random.normal(jax.random.key(3), (n, 2))


def moments(x):
    return float(jnp.mean(x)), float(jnp.std(x))


# --- consistency -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(PROCESSES))
def test_the_exact_flow_is_what_consistency_distillation_is_least_for(name):
    process = PROCESSES[name]

    def nearer(gap):
        return lambda process, t, step: t * (1.0 - gap)

    def model(f, gap):
        # v of the estimate f, so that the model gives f back
        net = of(lambda x, t: (like(process.alpha(t), x) * x - f(x, t) * like(r2(t), x)) / like(process.sigma(t), x))
        parts = {"prediction": "v", "teacher": exact(process), "pairs": nearer(gap), "times": lambda p, turn: times}
        return families.consistency(net, process, (2,), **parts)

    def r2(t):
        return process.alpha(t) ** 2 + process.sigma(t) ** 2

    times = jnp.linspace(0.2, 0.9, N)
    to_data = [np.mean(loss_of(model(lambda x, t: flow_map(process, x, t, 0.0 * t), gap))) for gap in (0.1, 0.05)]
    other = np.mean(loss_of(model(lambda x, t: posterior_mean(process, x, t), 0.05)))
    assert to_data[1] < 0.65 * to_data[0]  # DDIM's step is of first order: an error of gap^2 over a gap
    assert to_data[1] < 0.2 * other


def test_pairs_end_at_the_data_themselves():
    process = PROCESSES["exploding"]
    parts = {
        "prediction": "edm",
        "pairs": lambda process, t, step: 0.0 * t,
        "times": lambda p, turn: 0.5 + 0.0 * turn.own,
    }
    model = families.consistency(of(lambda x, t: 0.0 * x), process, (2,), **parts)
    x_t = DATA.x + 10.0 * jax.vmap(lambda key: jax.random.normal(key, (2,)))(turn(KEYS).split(4)[1].keys)
    skipped = 0.25 / (100.0 + 0.25) * x_t  # c_skip of EDM's parametrisation at the level 10
    want = np.linalg.norm(np.float64(skipped) - np.float64(DATA.x), axis=1) / 10.0
    np.testing.assert_allclose(loss_of(model), want, rtol=1e-4)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_multistep_consistency_of_the_exact_flow_draws_the_data(steps):
    process = PROCESSES["cosine"]
    sampler = iterate(consistency(process), custom(np.linspace(1, 0, steps + 1)))
    keys = jax.random.split(jax.random.key(1), 20_000)
    x = jax.jit(lambda x: sampler(keys, lambda x, t: Prediction(flow_map(process, x, t, 0.0 * t)), x))(noise(process))
    mean, deviation = moments(x)
    assert abs(mean - M) < 0.02 and abs(deviation - S) < 0.02


def test_easy_pairs_come_nearer_in_stages_by_levels():
    process, t = variance_exploding(80.0), jnp.asarray([1e-3, 0.01, 0.1, 1.0])
    levels, pairs = 80.0 * np.float64(t), easy(800)
    for step, stage in ((0, 0), (99, 0), (100, 1), (799, 7), (5000, 7)):
        ratio = 1 - 2.0 ** -(stage + 1) * (1 + 8 / (1 + np.exp(levels)))
        want = np.maximum(ratio, 0) * levels
        np.testing.assert_allclose(80.0 * np.float64(pairs(process, t, jnp.asarray(step))), want, rtol=2e-5, atol=1e-6)
    assert np.float64(pairs(process, t, jnp.asarray(0)))[0] == 0


def test_a_consistency_model_is_the_identity_without_noise_or_refused():
    with pytest.raises(InputError, match="x itself at t = 0"):
        families.consistency(of(lambda x, t: x), cosine(), (2,), prediction="x0", pairs=easy(10))


# --- MeanFlow --------------------------------------------------------------------------------------------------------

FLOW = PROCESSES["flow"]


def mean_velocity(x, times):
    """(x_t - x_r) / (t - r) of the Gaussian's flow, at r = t its velocity."""
    t, gap = 1000 * times[:, 0], jnp.maximum(1000 * times[:, 1], 1e-3)
    return (x - flow_map(FLOW, x, t, t - gap)) / gap[:, None]


@pytest.mark.parametrize("steps", [1, 3])
def test_the_mean_velocity_jumps_exactly_in_any_number_of_steps(steps):
    model = families.mean_flow(of(mean_velocity), (2,), sampler=one_shot, process=FLOW)
    predict, x = model.predict(NOTHING, NOTHING, None), noise(FLOW, 64)
    jumped = iterate(jumping(ddim(FLOW)), uniform(steps))(KEYS[:64], predict, x)
    np.testing.assert_allclose(jumped, flow_map(FLOW, x, jnp.ones(64), jnp.zeros(64)), atol=1e-4)
    walked = iterate(ddim(FLOW), uniform(400))(KEYS[:64], predict, x)  # at r = t it is the flow itself
    np.testing.assert_allclose(walked, jumped, atol=0.02)


def test_the_loss_of_mean_flow_is_its_identity_with_a_derivative_along_the_flow():
    net = network(MLPDenoiser(16, 1))
    model = families.mean_flow(net, (2,), sampler=one_shot, process=FLOW, power=0.0)
    batch = Batch(DATA.x[:64])
    params, extra = model.game.init(jax.random.key(0), batch)
    params = jax.tree.map(lambda w: w + 0.05, params)
    found = np.float64(jax.jit(losses_of(model)["denoiser"])(params, extra, KEYS[:64], batch)[0])
    for_t, for_eps, *_ = turn(KEYS[:64]).split(4)
    t, r = intervals()(for_t)
    eps = jax.vmap(lambda key: jax.random.normal(key, (2,)))(for_eps.keys)
    x, v = (1 - t)[:, None] * batch.x + t[:, None] * eps, eps - batch.x

    def u(h):
        times = jnp.stack([t + h, t + h - r], axis=1) / 1000
        return np.float64(net.apply(params["denoiser"], extra["denoiser"], x + h * v, times, None)[0])

    h = 2e-3
    target = np.float64(v) - np.float64(t - r)[:, None] * (u(h) - u(-h)) / (2 * h)
    np.testing.assert_allclose(found, np.sum((u(0.0) - target) ** 2, axis=1), rtol=0.02)


def test_of_one_point_the_loss_vanishes_at_the_straight_line():
    line = of(lambda x, times: (x - M) / (1000 * times[:, :1]))
    model = families.mean_flow(line, (2,), sampler=one_shot, process=FLOW, power=0.0)
    assert np.max(loss_of(model, Batch(jnp.full((64, 2), M)))) < 1e-6


def test_guidance_is_trained_into_the_velocity():
    def apply(params, stats, x, times, c, train=False):
        return jnp.broadcast_to(jnp.where(c.known, 2.0, -1.0)[:, None], x.shape), stats

    net, scale, mix = Network(lambda key, *inputs: ({}, {}), apply), 1.5, 0.25
    parts = {"scale": scale, "mix": mix, "condition": labels(3), "power": 0.0, "process": FLOW}
    model = families.mean_flow(net, (2,), sampler=one_shot, drop=0.3, **parts)
    batch = Batch(DATA.x, jnp.zeros(N, jnp.int32))
    found = loss_of(model, batch)
    _, for_eps, for_drop, _ = turn(KEYS).split(4)
    kept = np.asarray(jax.vmap(jax.random.uniform)(for_drop.keys) >= 0.3)[:, None]
    v = np.float64(jax.vmap(lambda key: jax.random.normal(key, (2,)))(for_eps.keys) - batch.x)
    guided = scale * v + mix * 2.0 - (1 - scale - mix)
    want = np.sum(np.square(np.where(kept, 2.0 - guided, -1.0 - v)), axis=1)
    np.testing.assert_allclose(found, want, rtol=1e-4)


def test_what_knows_no_intervals_refuses_them_and_intervals_are_ordered():
    with pytest.raises(InputError, match="no means over time"):
        exact(FLOW).predict(NOTHING, NOTHING, None)(DATA.x, Interval(jnp.ones(()), jnp.zeros(())))
    t, r = intervals(share=0.25)(turn(KEYS))
    assert bool(jnp.all((r <= t) & (t < 1) & (r > 0)))
    assert abs(float(jnp.mean(r < t)) - 0.25) < 5 * np.sqrt(0.25 * 0.75 / N)


# --- students --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cosine", "flow"])
def test_the_best_student_takes_one_step_for_two_of_its_teacher(name):
    process, steps = PROCESSES[name], 4
    teacher = exact(process)

    def two(x, t):
        x_s = walked(x, t, t - 0.5 / steps)
        x_u = walked(x_s, t - 0.5 / steps, t - 1.0 / steps)
        ratio = process.sigma(t - 1.0 / steps) / process.sigma(t)
        return (x_u - like(ratio, x) * x) / like(process.alpha(t - 1.0 / steps) - ratio * process.alpha(t), x)

    def walked(x, t, u):
        x0 = posterior_mean(process, x, t)
        eps = (x - like(process.alpha(t), x) * x0) / like(process.sigma(t), x)
        return like(process.alpha(u), x) * x0 + like(process.sigma(u), x) * eps

    sampler = iterate(ddim(process), uniform(steps))
    student = families.progressive(of(two), teacher, (2,), steps=steps, sampler=sampler, prediction="x0")
    assert np.max(loss_of(student)) < 1e-6
    unlike = families.progressive(of(lambda x, t: 0 * x), teacher, (2,), steps=steps, sampler=sampler, prediction="x0")
    assert np.mean(loss_of(unlike)) > 0.01
    x = noise(process, 64)
    ours = sampler(KEYS[:64], student.predict(NOTHING, NOTHING, None), x)
    theirs = iterate(ddim(process), uniform(2 * steps))(KEYS[:64], exact(process).predict(NOTHING, NOTHING, None), x)
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_reflowed_paths_of_a_gaussian_do_not_cross():
    """The teacher's own pairs are x_0 = M + S eps, so that x_t determines both: the best student has no loss left."""

    def velocity(x, t):
        eps = (x - like(1 - t, x) * M) / like((1 - t) * S + t, x)
        return eps - (M + S * eps)

    teacher = exact(FLOW, iterate(ddim(FLOW), uniform(300)))
    assert np.mean(loss_of(families.reflow(of(velocity), teacher, (2,), sampler=one_shot))) < 1e-4
    rounds = [
        families.diffusion(of(velocity), FLOW, (2,), sampler=one_shot, prediction="velocity"),
        families.reflow(of(lambda x, t: -velocity(x, t)), teacher, (2,), sampler=one_shot),
    ]
    assert min(np.mean(loss_of(model)) for model in rounds) > 0.1


def test_a_teacher_s_conditions_are_the_student_s():
    sampler = iterate(ddim(FLOW), uniform(2))
    conditional = families.diffusion(
        network(MLPDenoiser(8, 1, classes=3)), FLOW, (2,), sampler=sampler, prediction="velocity", condition=labels(3)
    )
    with pytest.raises(InputError, match="the student is not"):
        families.reflow(network(MLPDenoiser(8, 1)), conditional, (2,), sampler=sampler)
    with pytest.raises(InputError, match="two forms"):
        families.reflow(network(MLPDenoiser(8, 1)), conditional, (2,), sampler=sampler, condition=labels(3), drop=0.0)


# --- learned variances -----------------------------------------------------------------------------------------------

VP = linear(clip=np.inf)


def best_fraction(t, s):
    """v for which V is the variance of x_s given x_t: that of a Gaussian, exactly."""
    beta = VP.sigma(t) ** 2 - (VP.alpha(t) / VP.alpha(s) * VP.sigma(s)) ** 2
    left = S**2 * VP.sigma(t) ** 2 / length(VP, t) ** 2
    v = beta * (VP.sigma(s) / VP.sigma(t)) ** 2 + (VP.alpha(s) * beta / VP.sigma(t) ** 2) ** 2 * left
    low, high = (log_variance(VP, t, s, f) for f in (0.0, 1.0))
    return (jnp.log(v) - low) / (high - low)


def test_the_bound_s_gradient_in_the_variance_vanishes_at_the_true_one_and_does_not_reach_the_mean():
    steps = 10
    hybrid = Hybrid(1.0, steps, None)

    def mean_gradient(add_mean, add_v):
        def apply(params, stats, x, t, c=None, train=False):
            v = 2.0 * best_fraction(t, t - 1 / steps) - 1.0 + params["v"]
            return jnp.concatenate([posterior_mean(VP, x, t) + params["mean"], like(v, x) + 0 * x], -1), stats

        net = Network(lambda key, *inputs: ({}, {}), apply)

        def mean_loss(params, variance):
            times = {"times": lambda process, turn: jnp.full(len(turn.own), 0.5)}
            model = families.diffusion(
                net, VP, (2,), sampler=one_shot, prediction="x0", variance=variance, weighting=None, **times
            )
            many = Batch(M + S * jax.random.normal(jax.random.key(5), (20_000, 2)))
            keys = jax.random.split(jax.random.key(6), 20_000)
            return jnp.mean(losses_of(model)["denoiser"]({"denoiser": params}, NOTHING, keys, many)[0])

        params = {"mean": jnp.asarray(add_mean), "v": jnp.asarray(add_v)}
        return jax.grad(mean_loss)(params, hybrid), jax.grad(mean_loss)(params, Hybrid(0.0, steps, None))

    at_best, _ = jax.jit(mean_gradient, static_argnums=())(0.0, 0.0)
    above, below = (jax.jit(mean_gradient)(0.0, d)[0]["v"] for d in (0.3, -0.3))
    assert above > 5 * abs(at_best["v"]) and below < -5 * abs(at_best["v"])
    both, simple = jax.jit(mean_gradient)(0.2, 0.0)
    np.testing.assert_allclose(both["mean"], simple["mean"], rtol=1e-6)


def test_ancestral_steps_with_learned_variances_keep_every_marginal_however_few():
    keys = jax.random.split(jax.random.key(1), 40_000)
    times = custom([1.0, 0.7, 0.45, 0.2])
    nexts = {1.0: 0.7, 0.7: 0.45, 0.45: 0.2}

    def drawn(variance):
        def predict(x, t):
            u = jnp.select([t > 0.9, t > 0.6], [nexts[1.0], nexts[0.7]], nexts[0.45])
            fraction = jnp.broadcast_to(best_fraction(t, u), x.shape)
            return Prediction(posterior_mean(VP, x, t), fraction)

        sampler = iterate(ddpm(VP, variance), times)
        x = float(VP.alpha(1.0)) * M + float(length(VP, 1.0)) * jax.random.normal(jax.random.key(2), (40_000, 2))
        return moments(jax.jit(lambda x: sampler(keys, predict, x))(x))[1]

    want = float(length(VP, jnp.asarray(0.2)))
    assert abs(drawn("own") - want) < 5 * want / np.sqrt(2 * 80_000)
    assert drawn("beta_tilde") < want * 0.97 and drawn("beta") > want * 1.03


def test_channels_of_the_variance_are_needed():
    model = families.diffusion(network(MLPDenoiser(8, 1)), VP, (2,), sampler=one_shot, variance=Hybrid())
    params, extra = model.game.init(jax.random.key(0), DATA)
    with pytest.raises(InputError, match="gives 4 channels, this one 2"):
        losses_of(model)["denoiser"](params, extra, KEYS, DATA)


def test_a_state_begins_what_is_trained_after_it_and_a_student_becomes_a_teacher(tmp_path):
    sampler = iterate(ddim(FLOW), uniform(2))
    net = {"prediction": "velocity", "sampler": sampler}
    base = families.diffusion(network(MLPDenoiser(8, 1)), FLOW, (2,), **net)
    points = data.in_memory("points", "train", np.zeros((16, 2), np.float32))

    def trained(model, name, start, rate=0.0):
        exp = jaxgen.Experiment(model, {"denoiser": optax.sgd(rate)}, points, 4, 2, name=name, ema=0.0)
        return jaxgen.fit(exp, tmp_path / name, start=start, progress=False)

    def same(a, b):
        return all(jax.tree.leaves(jax.tree.map(lambda x, y: bool(jnp.all(x == y)), a, b)))

    first = trained(base, "base", None, 0.1)
    student = families.reflow(network(MLPDenoiser(8, 1)), base, (2,), sampler=sampler)
    second = trained(student, "student", {"denoiser": first, "teacher": first}, 0.1)
    assert same(second.params["teacher"], first.params) and not same(
        second.params["denoiser"], first.params["denoiser"]
    )
    third = trained(student, "next", {"denoiser": second, "teacher": second})
    assert same(third.params["teacher"]["denoiser"], second.params["denoiser"])
    with pytest.raises(InputError, match="the parameters of the given state do not fit"):
        trained(student, "misfit", first)
    with pytest.raises(InputError, match="start from its state, in Python"):
        trained(student, "from a folder", {"denoiser": tmp_path / "base"})
