"""Discrete diffusion over grids of codes, of distributions of which everything can be counted."""

import itertools
import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from _functions import losses_of

from jaxgen import sampling
from jaxgen.cli import restore
from jaxgen.conditions import labels
from jaxgen.families import absorbing, flow_density, fsq, latent, quantised, variational_density
from jaxgen.losses.likelihood import categorical
from jaxgen.nets import Network, network
from jaxgen.nets.codes import CodeTransformer
from jaxgen.processes import absorbing as masking
from jaxgen.processes import cosine
from jaxgen.sampling.sample import _render
from jaxgen.training import init_state
from jaxgen.types import Batch, InputError, Prediction

RNG = np.random.default_rng(0)
KEY = jax.random.key(0)
K, GRID = 3, (2, 2)
GRIDS = np.array(list(itertools.product(range(K), repeat=4)), np.int32)  # all 81
P = np.exp(1.5 * RNG.normal(size=81))
P /= P.sum()
PROCESS = masking(K)
RANDOM = sampling.iterate(sampling.confident(PROCESS, np.inf), sampling.uniform(4))


def exact(p):
    """The network that knows p(c_i | the codes that are not masked) of a distribution of the 81 grids."""

    def apply(params, stats, c, condition=None, train=False):
        flat = c.reshape(-1, 1, 4)
        fits = jnp.all((flat == K) | (flat == GRIDS), axis=-1)  # [B, 81] grids that agree with what is seen
        counts = jnp.einsum("bg,gik->bik", fits * jnp.float32(p), jax.nn.one_hot(GRIDS, K), precision="highest")
        return jnp.log(counts).reshape(*c.shape, K), stats

    return Network(lambda key, *inputs: ({}, {}), apply)


def model_of(net, codes=K, grid=GRID, sampler=RANDOM, **options):
    return absorbing(net, codes, grid, sampler=sampler, **options)


def begun(model, batch):
    return init_state(model.game, {"denoiser": optax.sgd(0.1)}, KEY, batch)


X = Batch(jnp.asarray(GRIDS.reshape(81, *GRID)))
EMPTY = {"denoiser": {}}


def keys(n, seed=0):
    return jax.random.split(jax.random.key(seed), n)


def chi_square(model, p, n, **options):
    """Of n samples against the probabilities p of the 81 grids, in standard deviations from its mean."""
    c = np.asarray(sampling.sample(model, begun(model, X), KEY, n, batch=n, **options)).reshape(n, 4)
    assert c.min() >= 0 and c.max() < K  # no mask is left
    counts = np.bincount(c @ [27, 9, 3, 1], minlength=81)
    return (np.sum((counts - n * p) ** 2 / (n * p)) - 80) / np.sqrt(160)


def test_the_bound_of_exact_conditionals_is_the_log_probability():
    model = model_of(exact(P))
    log_p = np.float64(jax.jit(model.density.log_p, static_argnums=4)(EMPTY, EMPTY, keys(81), X, 400))
    assert model.density.kind == "bound"
    error = log_p.std(axis=1) / np.sqrt(400)
    np.testing.assert_array_less(np.abs(log_p.mean(axis=1) - np.log(P)), 5 * error + 1e-5)
    # the loss is an estimate of the same: of one minibatch of 81 copies of a grid, spread evenly over the times
    loss = jax.jit(losses_of(model)["denoiser"])
    one = Batch(jnp.broadcast_to(X.x[7], X.x.shape))
    nats = np.stack([loss(EMPTY, EMPTY, keys(81, seed), one)[0] for seed in range(5)])
    assert abs(nats.mean() + np.log(P[7])) < 5 * nats.std() / np.sqrt(nats.size)


def test_the_bound_is_that_of_masks_drawn_position_by_position_in_continuous_time():
    """Of any network: int_0^1 (1 / t) sum_m t^|m| (1 - t)^(N - |m|) cost(m) dt over all sets m of masked positions,
    whose integrals are (|m| - 1)! (N - |m|)! / N!."""
    w = jnp.asarray(RNG.normal(size=(4 * (K + 1), 4 * K)), jnp.float32)

    def apply(params, stats, c, condition=None, train=False):
        seen = jax.nn.one_hot(c, K + 1).reshape(c.shape[0], -1)
        return (seen @ w).reshape(*c.shape, K), stats

    model, c = model_of(Network(lambda key, *inputs: ({}, {}), apply)), np.array([2, 0, 1, 1])
    masks = np.array(list(itertools.product((False, True), repeat=4)))[1:]
    logits, _ = apply({}, {}, jnp.asarray(np.where(masks, K, c)).reshape(-1, *GRID))
    nats = -np.asarray(jax.nn.log_softmax(logits)).reshape(-1, 4, K)[:, np.arange(4), c]
    count = masks.sum(axis=1)
    integral = np.array([math.factorial(n - 1) * math.factorial(4 - n) / math.factorial(4) for n in count])
    want = -np.sum(integral * np.sum(nats * masks, axis=1))
    one = Batch(jnp.broadcast_to(jnp.asarray(c).reshape(GRID), (100, *GRID)))
    log_p = np.asarray(jax.jit(model.density.log_p, static_argnums=4)(EMPTY, EMPTY, keys(100), one, 400))
    assert abs(log_p.mean() - want) < 5 * log_p.std() / np.sqrt(log_p.size) < 0.2


def test_every_draw_of_the_bound_is_exact_where_positions_are_independent_and_like_each_other():
    q = np.array([0.5, 0.3, 0.2])
    p = q[GRIDS].prod(axis=1)
    same = Batch(jnp.asarray([[[2, 2], [2, 2]], [[0, 0], [0, 0]]]))
    model = model_of(exact(p))
    log_p = model.density.log_p(EMPTY, EMPTY, keys(2), same, 8)
    np.testing.assert_allclose(log_p, 4 * np.log(q[[2, 0]])[:, None] * np.ones((1, 8)), rtol=1e-5)
    loss, (metrics, _) = losses_of(model)["denoiser"](EMPTY, EMPTY, keys(2), same)
    np.testing.assert_allclose(loss, -4 * np.log(q[[2, 0]]), rtol=1e-5)
    np.testing.assert_allclose(metrics["code"], -np.log(q[[2, 0]]), rtol=1e-5)
    np.testing.assert_array_equal(metrics["accuracy"], [0.0, 1.0])  # the likeliest code is 0


def test_a_position_a_step_in_random_order_draws_exactly():
    assert abs(chi_square(model_of(exact(P)), P, 20_000)) < 5


def test_the_reverse_process_draws_exactly_in_the_limit_of_many_steps_and_independently_in_one():
    unmask = sampling.unmask(PROCESS)
    model = model_of(exact(P), sampler=sampling.iterate(unmask, sampling.uniform(150)))
    assert abs(chi_square(model, P, 5000)) < 5
    marginals = np.einsum("g,gik->ik", P, np.eye(K)[GRIDS])
    product = np.prod(marginals[np.arange(4), GRIDS], axis=1)
    once = sampling.iterate(unmask, sampling.uniform(1))
    assert abs(chi_square(model, product, 5000, sampler=once)) < 5
    assert chi_square(model, P, 5000, sampler=once) > 20  # the test would notice


def test_masks_are_as_many_as_the_process_says():
    """After a step to u a share sigma_u of the positions is masked: on average by `unmask`, exactly by `confident`."""
    big, n = (8, 8), 400
    c = jnp.full((n, *big), K)

    def predict(x, t):
        return Prediction(jnp.zeros((*x.shape, K)))

    t, u = jnp.asarray(0.75), jnp.asarray(0.3125)
    first = jax.random.uniform(KEY, c.shape) < t
    for solver, exactly in ((sampling.unmask(PROCESS), False), (sampling.confident(PROCESS), True)):
        (after,) = solver.step(keys(n), predict, (jnp.where(first, c, 0),), t, u)
        left = np.mean(after == K, axis=(1, 2))
        assert abs(left.mean() - u) < 5 * np.sqrt(0.25 / c.size) and np.all((after != K) | first)
        assert (np.ptp(left) == 0) == exactly
    np.testing.assert_allclose(sampling.cosine(3).grid[:5], [1.0, 0.75**0.5, 0.5, 0.0, 0.0], atol=1e-6)
    greedy = sampling.confident(PROCESS, 0.0)
    peaked = jnp.arange(64.0).reshape(1, 8, 8, 1) * jnp.array([1.0, 0.0, 0.0])  # later positions are surer
    (after,) = greedy.step(keys(1), lambda x, t: predict(x, t)._replace(x0=peaked), (c[:1],), jnp.ones(()), u)
    np.testing.assert_array_equal(after.ravel() == K, np.arange(64) < 20)


def test_another_number_of_steps_compiles_nothing():
    model = model_of(exact(P))
    state = begun(model, X)
    sampling.sample(model, state, KEY, 4, sampler=sampling.named(model, "unmask", 3))
    size = _render._cache_size()
    sampling.sample(model, state, KEY, 4, sampler=sampling.named(model, None, 17))
    assert _render._cache_size() == size
    assert sampling.evaluations(model, state, sampler=sampling.named(model, "confident", 17)) == 17


def test_guidance_tilts_the_probabilities_of_the_codes():
    """p_u^(1 - s) p_c^s, normalised (Schiff et al. 2024, arXiv:2412.10193, section 3.1)."""
    c, u, s, n = np.array([0.2, 0.5, 0.3]), np.array([0.4, 0.4, 0.2]), 2.5, 20_000

    def apply(params, stats, index, condition=None, train=False):
        logits = jnp.where(condition.known[:, None], jnp.log(c), jnp.log(u))
        return jnp.broadcast_to(logits[:, None, None], (*index.shape, K)), stats

    net = Network(lambda key, *inputs: ({}, {}), apply)
    model = model_of(net, grid=(1, 1), condition=labels(2), drop=0.2)
    state = begun(model, Batch(jnp.zeros((2, 1, 1), jnp.int32), jnp.arange(2)))
    drawn = np.asarray(sampling.sample(model, state, KEY, n, 1, guidance=s, batch=n)).ravel()
    tilted = u ** (1 - s) * c**s
    tilted /= tilted.sum()
    counts = np.bincount(drawn, minlength=K)
    assert np.sum((counts - n * tilted) ** 2 / (n * tilted)) < 2 + 5 * np.sqrt(4)
    # a condition is dropped as often as is said: the loss is that of the mixture
    batch = Batch(jnp.full((n, 1, 1), 1), jnp.zeros(n, jnp.int32))
    loss = jax.jit(losses_of(model)["denoiser"])(EMPTY, EMPTY, keys(n), batch)[0]
    share = np.mean(np.abs(loss + np.log(u[1])) < 1e-5)
    assert abs(share - 0.2) < 5 * np.sqrt(0.16 / n)
    np.testing.assert_allclose(np.unique(np.round(loss, 5)), np.sort(-np.log([c[1], u[1]])), atol=1e-5)


@pytest.fixture(scope="module")
def composed():
    """Images of 2x2 pixels of three levels, which are their own codes."""
    as_it_is = Network(lambda key, x: ({}, {}), lambda params, stats, x, train=False: (10.0 * x, stats))
    levels = Network(
        lambda key, z: ({}, {}),
        lambda params, stats, z, train=False: (-100.0 * jnp.square(z - jnp.float32([-1.0, 0.0, 1.0])), stats),
    )
    outer = quantised(as_it_is, levels, fsq((3,)), GRID, likelihood=categorical(3))
    net = network(CodeTransformer(3, 8, 1, 2, classes=2))
    model = latent(outer, model_of(net, condition=labels(2)))
    x = Batch((X.x - 1.0)[..., None], jnp.arange(81) % 2)
    return model, begun(model, x), x


def test_images_of_codes_are_drawn_and_come_back(composed):
    model, state, x = composed
    drawn = np.asarray(sampling.sample(model, state, KEY, 6, 1, guidance=2.0))
    assert drawn.shape == (6, *GRID, 1) and set(np.round(drawn.ravel())) <= {-1.0, 0.0, 1.0}
    again = sampling.reconstruct(model, state, x.x, condition=0)  # codes without a mask stay
    np.testing.assert_allclose(again, x.x, atol=1e-5)
    loss = losses_of(model)["denoiser"](state.params, state.extra, keys(81), x)[0]
    # at first all codes are nearly as likely, whatever is masked
    np.testing.assert_allclose(loss, 4 * np.log(3), atol=0.2)


def test_what_is_for_gaussian_noise_is_refused(composed):
    model = composed[0]
    for call, line in (
        (lambda: sampling.named(model, "ddim", 10), "'ddim' for this model's process: choose one of unmask, confident"),
        (lambda: sampling.unmask(cosine()), "for processes over codes"),
        (lambda: sampling.confident(PROCESS, -1.0), "must not be negative"),
        (lambda: flow_density(model), "by Gaussian noise, this model's process masks codes"),
        (lambda: variational_density(model), "by Gaussian noise"),
        (lambda: restore._process(SimpleNamespace(experiment=SimpleNamespace(model=model))), "by Gaussian noise"),
        (lambda: model_of(exact(P), grid=(2, 0)), "at least 1"),
        (lambda: model_of(exact(P), codes=4).game.init(KEY, X), r"gives \(2, 2, 3\), .* \(2, 2, 4\)"),
        (lambda: masking(1), "at least 2"),
    ):
        with pytest.raises(InputError, match=line):
            call()
