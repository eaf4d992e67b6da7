"""Denoising diffusion: the loss of the best denoiser is known for a Gaussian, and dropped labels are really dropped."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _functions import drawn, losses_of

from jaxgen.conditions import Maybe, labels
from jaxgen.families import diffusion
from jaxgen.losses import denoising
from jaxgen.nets import Network
from jaxgen.processes import linear
from jaxgen.types import Batch, InputError, one_shot

SCHEDULE, M, S, MANY = linear(), 0.3, 0.5, 20_000
KEYS = jax.random.split(jax.random.key(0), MANY)
NOTHING = {"denoiser": {}}


def scales(t):
    return (np.float64(f(jnp.asarray(t, jnp.float32))) for f in (SCHEDULE.alpha, SCHEDULE.sigma))


def best(prediction, gain=1.0):
    """The network that predicts E[target | x_t] for x_0 ~ N(M, S^2), times `gain`."""

    def apply(params, stats, x, t, condition=None, train=False):
        a, sigma = SCHEDULE.alpha(t)[:, None], SCHEDULE.sigma(t)[:, None]
        v = a**2 * S**2 + sigma**2
        x0, eps = M + a * S**2 * (x - a * M) / v, sigma * (x - a * M) / v
        return gain * {"x0": x0, "eps": eps, "v": a * eps - sigma * x0}[prediction], stats

    return Network(lambda key, *inputs: ({}, {}), apply)


def left_over(prediction, t):
    """Var(target | x_t) at the times t: what no denoiser can remove."""
    a, sigma = scales(t)
    return {"x0": S**2 * sigma**2, "eps": a**2 * S**2, "v": S**2 * (a**2 + sigma**2) ** 2}[prediction] / (
        a**2 * S**2 + sigma**2
    )


def data(n=MANY):
    return Batch(M + S * jax.random.normal(jax.random.key(7), (n, 2)))


@pytest.mark.parametrize("prediction, steps", [("eps", 4), ("x0", 4), ("v", 4), ("v", 1000), ("eps", None)])
def test_the_loss_of_the_best_denoiser_is_the_conditional_variance(prediction, steps):
    # times {1, ..., T} / T, or all of (0, 1]: with T = 4 a grid from 0, or without 1, would show
    times = denoising.continuous() if steps is None else denoising.discrete(steps)
    model = diffusion(best(prediction), SCHEDULE, (2,), sampler=one_shot, prediction=prediction, times=times)
    loss = np.float64(jax.jit(losses_of(model)["denoiser"])(NOTHING, NOTHING, KEYS, data())[0])
    grid = (np.arange(20_000) + 0.5) / 20_000 if steps is None else np.arange(1, steps + 1) / steps
    assert loss.shape == (MANY,)
    assert abs(loss.mean() - left_over(prediction, grid).mean()) < 5 * loss.std() / np.sqrt(MANY)


def test_any_other_denoiser_loses_more():
    @jax.jit
    def mean_loss(gain):
        model = diffusion(best("eps", gain), SCHEDULE, (2,), sampler=one_shot)
        return jnp.mean(losses_of(model)["denoiser"](NOTHING, NOTHING, KEYS, data())[0])

    assert mean_loss(0.8) > mean_loss(1.0) < mean_loss(1.2)


@pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
def test_predict_is_the_clean_estimate_whatever_the_network_predicts(prediction):
    model = diffusion(best(prediction), SCHEDULE, (2,), sampler=one_shot, prediction=prediction)
    predict = jax.jit(drawn(model, NOTHING, NOTHING, None))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(5, 2)), jnp.float32)
    for t in (0.1, 0.5, 0.8):
        got = predict(x, jnp.asarray(t))
        a, sigma = scales(t)
        want = M + a * S**2 * (np.float64(x) - a * M) / (a**2 * S**2 + sigma**2)
        np.testing.assert_allclose(got, want, atol=1e-6 + 1e-6 / a)


# --- conditions -------------------------------------------------------------------------------------------------------


def spy(params, stats, x, t, condition=None, train=False):
    """Predicts the label it was given, 10 for none, and gives it back as its statistics."""
    label = jnp.where(condition.known, condition.value, 10) if isinstance(condition, Maybe) else condition
    return jnp.broadcast_to(label[:, None].astype(jnp.float32), x.shape), {"label": label}


SPY = Network(lambda key, *inputs: ({}, {}), spy)


def labels_seen(drop):
    model = diffusion(SPY, SCHEDULE, (2,), sampler=one_shot, condition=labels(10), drop=drop)
    label = jnp.arange(MANY) % 10
    loss, (_, extra) = jax.jit(losses_of(model)["denoiser"])(NOTHING, NOTHING, KEYS, Batch(data().x, label))
    return np.asarray(extra["denoiser"]["label"]), np.asarray(label), loss


def test_a_label_is_dropped_with_the_given_probability():
    seen, label, _ = labels_seen(0.3)
    assert np.all((seen == label) | (seen == 10))  # 10: no label
    dropped = np.mean(seen == 10)
    assert abs(dropped - 0.3) < 5 * np.sqrt(0.3 * 0.7 / MANY)
    by_label = [np.mean(seen[label == k] == 10) for k in range(10)]
    assert np.max(np.abs(np.array(by_label) - 0.3)) < 5 * np.sqrt(0.3 * 0.7 / (MANY / 10))
    assert np.array_equal(labels_seen(0.0)[0], label) and np.all(labels_seen(1.0)[0] == 10)


def test_with_every_label_dropped_the_loss_does_not_depend_on_it():
    always = diffusion(SPY, SCHEDULE, (2,), sampler=one_shot, condition=labels(10), drop=1.0)
    never = diffusion(SPY, SCHEDULE, (2,), sampler=one_shot, condition=labels(10), drop=0.0)
    one, other = (Batch(data(8).x, jnp.full((8,), k)) for k in (0, 9))
    for model, same in ((always, True), (never, False)):
        loss = jax.jit(losses_of(model)["denoiser"])
        values = [loss(NOTHING, NOTHING, KEYS[:8], batch)[0] for batch in (one, other)]
        assert np.array_equal(*values) == same


def test_the_drop_does_not_depend_on_the_noise_level():
    # were one draw shared between the time and the drop, labels would go missing at some times only
    def keep_time(params, stats, x, t, condition=None, train=False):
        return jnp.zeros_like(x), {"t": t, "dropped": ~condition.known}

    net = Network(SPY.init, keep_time)
    model = diffusion(net, SCHEDULE, (2,), sampler=one_shot, condition=labels(10), drop=0.5)
    batch = Batch(data().x, jnp.zeros(MANY, jnp.int32))
    _, (_, extra) = jax.jit(losses_of(model)["denoiser"])(NOTHING, NOTHING, KEYS, batch)
    t, dropped = (np.asarray(extra["denoiser"][k]) for k in ("t", "dropped"))
    assert abs(t[dropped].mean() - t[~dropped].mean()) < 5 * t.std() * 2 / np.sqrt(MANY)
    assert t.min() == np.float32(0.001) and t.max() == 1.0


def test_an_unconditional_model_leaves_the_condition_alone():
    seen = []

    def apply(params, stats, x, t, condition=None, train=False):
        seen.append(condition)
        return x, stats

    model = diffusion(Network(SPY.init, apply), SCHEDULE, (2,), sampler=one_shot)
    assert model.condition is None
    jax.eval_shape(losses_of(model)["denoiser"], NOTHING, NOTHING, KEYS[:4], data(4))
    assert seen == [None]


@pytest.mark.parametrize("drop", [-0.1, 1.5])
def test_a_drop_that_is_no_probability_is_refused(drop):
    with pytest.raises(InputError, match="probability"):
        diffusion(SPY, SCHEDULE, (2,), sampler=one_shot, condition=labels(3), drop=drop)


def test_a_condition_that_is_never_dropped_is_always_needed():
    always, never = (diffusion(SPY, SCHEDULE, (2,), sampler=one_shot, condition=labels(3), drop=d) for d in (0.1, 0.0))
    assert always.condition.empty is not None and never.condition.empty is None
    np.testing.assert_array_equal(always.condition.empty(4).known, np.zeros(4, bool))
