"""The values of a denoiser's loss: times, weights, couplings; and that they combine freely."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _functions import losses_of
from scipy import stats
from scipy.optimize import linear_sum_assignment

from jaxgen.families import diffusion
from jaxgen.losses import denoising
from jaxgen.nets import Network
from jaxgen.parametrisations import PARAMETRISATIONS, parametrisation
from jaxgen.processes import cosine, flow, linear, log_snr, variance_exploding
from jaxgen.types import Batch, InputError, one_shot, turn

N = 4000
TURN = turn(jax.random.split(jax.random.key(0), N))
PROCESSES = {"cosine": cosine(), "flow": flow(), "exploding": variance_exploding(80.0)}
NOTHING = {"denoiser": {}}

# --- times -----------------------------------------------------------------------------------------------------------


def test_times_have_their_distributions():
    process = variance_exploding(200.0)
    assert stats.kstest(np.asarray(denoising.continuous()(process, TURN)), "uniform").pvalue > 1e-4
    t = np.asarray(denoising.discrete(4)(process, TURN))
    assert set(np.unique(t)) == {0.25, 0.5, 0.75, 1.0}
    assert stats.chisquare(np.unique(t, return_counts=True)[1]).pvalue > 1e-4
    level = 200.0 * np.float64(denoising.log_normal(-1.2, 1.2)(process, TURN))
    assert stats.kstest(np.log(level), stats.norm(-1.2, 1.2).cdf).pvalue > 1e-4
    t = np.float64(denoising.logit_normal(0.5, 0.7)(process, TURN))
    assert stats.kstest(np.log(t / (1 - t)), stats.norm(0.5, 0.7).cdf).pvalue > 1e-4


def test_low_discrepancy_times_are_evenly_spaced_and_each_is_uniform():
    draw = denoising.low_discrepancy()
    t = np.sort(np.float64(draw(flow(), turn(jax.random.split(jax.random.key(1), 64)))))
    np.testing.assert_allclose(np.diff(t), 1 / 64, atol=1e-6)
    assert 0 < t[0] <= 1 / 64
    many = [draw(flow(), turn(jax.random.split(jax.random.key(i), 2)))[0] for i in range(400)]
    assert stats.kstest(np.asarray(many), "uniform").pvalue > 1e-4
    whole = turn(jax.random.split(jax.random.key(1), 64))
    half = whole._replace(keys=whole.keys[32:], own=whole.own[32:], gather=lambda u: jnp.concatenate([first, u]))
    first = jax.vmap(jax.random.uniform)(whole.keys[:32])
    np.testing.assert_allclose(draw(flow(), half), draw(flow(), whole)[32:], atol=1e-6)  # a device's part


# --- weights ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(PROCESSES))
def test_weights_are_their_formulas(name):
    process, t = PROCESSES[name], jnp.linspace(0.05, 0.95, 19)
    snr = np.exp(np.float64(log_snr(process, t)))
    np.testing.assert_allclose(denoising.simple()(process, t), snr, rtol=1e-4)
    np.testing.assert_allclose(denoising.min_snr(3.0)(process, t), np.minimum(snr, 3.0), rtol=1e-4)
    s, d = np.sqrt(1 / snr), 0.4
    np.testing.assert_allclose(denoising.edm_weight(d)(process, t), (s**2 + d**2) / (s * d) ** 2, rtol=1e-4)


@pytest.mark.parametrize("process", [flow(), variance_exploding(5.0)])
def test_the_likelihood_s_weight_is_half_the_fall_of_the_snr(process):
    t, h = np.linspace(0.2, 0.9, 8), 1e-3
    near = [np.exp(np.float64(log_snr(process, jnp.asarray(t + d, jnp.float32)))) for d in (-h, h)]
    found = denoising.likelihood()(process, jnp.asarray(t, jnp.float32))
    np.testing.assert_allclose(found, (near[0] - near[1]) / (4 * h), rtol=5e-3)


def estimating(prediction, process):
    """A network that stands for the estimate x_t / 2, whatever it is to predict."""
    f = parametrisation(prediction)

    def apply(params, stats, x, t, condition=None, train=False):
        a, s = params["scales"]
        x_t = params["x_t"]
        zero = f.to_x0(a, s, x_t, jnp.zeros_like(x_t))
        slope = f.to_x0(a, s, x_t, jnp.ones_like(x_t)) - zero
        return (0.5 * x_t - zero) / slope, stats

    return Network(lambda key, *inputs: ({}, {}), apply)


@pytest.mark.parametrize("prediction", sorted(PARAMETRISATIONS))
@pytest.mark.parametrize("weighting", ["simple", "min_snr", "edm_weight"])
def test_a_weighted_loss_does_not_depend_on_what_is_predicted(prediction, weighting):
    process = linear()
    x, keys = jax.random.normal(jax.random.key(2), (50, 3)), jax.random.split(jax.random.key(3), 50)
    t, eps = jnp.linspace(0.1, 0.9, 50), jax.random.normal(jax.random.key(4), x.shape)
    a, s = process.alpha(t)[:, None], process.sigma(t)[:, None]
    x_t = a * x + s * eps
    w = getattr(denoising, weighting)()
    model = diffusion(
        estimating(prediction, process),
        process,
        (3,),
        sampler=one_shot,
        prediction=prediction,
        times=lambda process, turn: t,
        weighting=w,
        coupling=lambda x0, noise, turn: eps,
    )
    params = {"denoiser": {"scales": (a, s), "x_t": x_t}}
    loss = losses_of(model)["denoiser"](params, NOTHING, keys, Batch(x))[0]
    wanted = w(process, t) * jnp.mean(jnp.square(x - 0.5 * x_t), axis=1)
    np.testing.assert_allclose(loss, wanted, rtol=5e-3)


def test_edm_s_own_loss_is_the_weighted_one_without_a_weight():
    f, w, process = parametrisation("edm"), denoising.edm_weight(0.5), variance_exploding()
    t = jnp.asarray([0.001, 0.01, 0.3])
    np.testing.assert_allclose(w(process, t) * f.error(process.alpha(t), process.sigma(t)) ** 2, 1.0, rtol=1e-5)


# --- couplings -------------------------------------------------------------------------------------------------------


def test_the_optimal_coupling_is_scipy_s_assignment_and_keeps_the_noises():
    x, eps = (jax.random.normal(jax.random.key(i), (24, 2, 3)) for i in (5, 6))
    at = turn(jax.random.split(jax.random.key(0), 24))
    found = np.asarray(denoising.optimal(3.0 * x, eps, at))
    flat_x, flat = np.asarray(3.0 * x).reshape(24, -1), np.asarray(eps).reshape(24, -1)
    cost = np.square(flat_x[:, None] - flat[None]).sum(-1)
    rows, columns = linear_sum_assignment(cost)
    assert sorted(map(tuple, found.reshape(24, -1))) == sorted(map(tuple, flat))  # each noise once
    np.testing.assert_allclose(np.square(flat_x - found.reshape(24, -1)).sum(), cost[rows, columns].sum(), rtol=1e-5)
    np.testing.assert_array_equal(denoising.independent(x, eps, at), eps)
    mine = (3.0 * x)[8:12]  # a device has rows 8 to 11; what it gathers is all of them
    part = at._replace(own=at.own[8:12], gather=lambda a: 3.0 * x if a is mine else eps)
    np.testing.assert_array_equal(denoising.optimal(mine, eps[8:12], part), found[8:12])


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: denoising.discrete(0),
        lambda: denoising.log_normal(0.0, 0.0),
        lambda: denoising.min_snr(0.0),
        lambda: denoising.edm_weight(-1.0),
    ],
)
def test_numbers_that_cannot_be_are_refused(wrong):
    with pytest.raises(InputError):
        wrong()
