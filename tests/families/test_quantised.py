"""Discrete latents: quantisers against brute force and k-means, and a model of which everything can be counted."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from _functions import drawn, losses_of, mapped

from jaxgen import checkpoint, parallel, training
from jaxgen.families import fsq, vq, vq_vae
from jaxgen.losses.likelihood import categorical, gaussian
from jaxgen.nets import Network, network
from jaxgen.nets.codes import PixelCNN
from jaxgen.types import Batch, InputError, turn

KEY = jax.random.key(0)
KEYS = jax.random.split(KEY, 64)
RNG = np.random.default_rng(0)


def normal(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


# --- quantisers ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clusters():
    """[64, 4, 4, 2] vectors about four points, and the point of each."""
    which = np.arange(64 * 16).reshape(64, 4, 4) % 4
    centres = np.array([[3.0, 0.0], [-3.0, 1.0], [0.0, 4.0], [1.0, -5.0]])
    return jnp.asarray(centres[which] + 0.3 * RNG.normal(size=(64, 4, 4, 2)), jnp.float32), which


@partial(jax.jit, static_argnums=(0, 3))
def learned(q, state, u, steps):
    def body(i, state):
        return q.learn(state, turn(jax.vmap(jax.random.fold_in, (0, None))(KEYS[: u.shape[0]], i)), u).state

    return jax.lax.fori_loop(0, steps, body, state)


def perplexity(index, codes):
    p = np.bincount(np.ravel(index), minlength=codes) / np.size(index)
    return np.exp(-np.sum(p[p > 0] * np.log(p[p > 0])))


def test_vq_takes_the_nearest_code():
    q, u = vq(17, 3, restart=0.0), normal(5, 2, 3, 3)
    state = q.init(KEY)
    book = np.asarray(q.vectors(state, jnp.arange(17)), np.float64)
    squared = np.sum((np.float64(u)[..., None, :] - book) ** 2, axis=-1)
    got = q.learn(state, turn(KEYS[:5]), u)
    np.testing.assert_array_equal(q.nearest(state, u), squared.argmin(-1))
    np.testing.assert_array_equal(got.index, squared.argmin(-1))
    np.testing.assert_allclose(got.vectors, book[squared.argmin(-1)], rtol=1e-6)
    np.testing.assert_allclose(got.penalty, 0.25 * squared.min(-1).mean(axis=(1, 2)), rtol=1e-4)
    np.testing.assert_array_equal(q.nearest(state, q.vectors(state, jnp.arange(17))), np.arange(17))


def test_the_commitment_draws_the_encoder_to_its_codes_and_moves_nothing_else():
    # d/du of beta mean over the grid of |u - sg(e)|^2 is 2 beta (u - e) / (h w); the codebook moves by averages alone
    q, u = vq(17, 3, commitment=0.7, restart=0.0), normal(5, 2, 3, 3)
    state = q.init(KEY)

    def total(state, u):
        return jnp.sum(q.learn(state, turn(KEYS[:5]), u).penalty)

    of_state, of_u = jax.grad(total, argnums=(0, 1))(state, u)
    e = q.vectors(state, q.nearest(state, u))
    np.testing.assert_allclose(of_u, 2 * 0.7 * (u - e) / 6, rtol=1e-4, atol=1e-6)
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(of_state))


def test_vq_s_codebook_converges_to_the_means_of_the_clusters(clusters):
    u, which = clusters
    q = vq(4, 2, decay=0.9)
    one_each = u.reshape(-1, 4, 2)[0].reshape(1, 2, 2, 2)
    state = learned(q, learned(q, q.init(KEY), one_each, 1), u, 200)
    means = np.stack([np.asarray(u)[which == c].mean(axis=0) for c in range(4)])
    order = np.asarray(q.nearest(state, jnp.asarray(means, jnp.float32)))
    assert sorted(order) == [0, 1, 2, 3]
    np.testing.assert_allclose(q.vectors(state, jnp.asarray(order)), means, rtol=1e-4, atol=1e-4)


def test_vq_s_moving_averages_are_those_of_the_paper():
    # one vector a step: m_t / n_t, and both start as the first of them
    q, u = vq(2, 1, decay=0.5), jnp.float32([[1.0, 1.0], [2.0, 9.0], [4.0, 9.0]])
    state = learned(q, q.init(KEY), jnp.float32([1.0, 9.0]).reshape(1, 1, 2, 1), 1)
    for now in u[1:]:
        state = learned(q, state, now.reshape(1, 1, 2, 1), 1)
    book = np.sort(np.ravel(q.vectors(state, jnp.arange(2))))
    np.testing.assert_allclose(book, [(((1 * 0.5 + 1 * 0.5) * 0.5 + 2 * 0.5) * 0.5 + 4 * 0.5), 9.0], rtol=1e-6)


def test_restarts_revive_dead_codes(clusters):
    u, used = clusters[0], {}
    for restart in (0.0, 0.05):
        q = vq(8, 2, decay=0.9, restart=restart)
        state = learned(q, q.init(KEY), u, 1)
        there = u + 100.0  # far from every code: the nearest takes all
        used[restart] = perplexity(q.nearest(learned(q, state, there, 200), there), 8)
    assert used[0.0] < 1.01 and used[0.05] > 4.0


@pytest.mark.parametrize("restart", [0.0, 0.05])
def test_a_code_that_nobody_uses_stays_a_number(restart):
    q = vq(2, 1, decay=0.5, restart=restart)
    state = learned(q, q.init(KEY), jnp.float32([0.0, 100.0]).reshape(1, 1, 2, 1), 1)
    before = q.vectors(state, jnp.arange(2))
    after = q.vectors(learned(q, state, jnp.zeros((1, 1, 2, 1)), 5000), jnp.arange(2))
    assert np.all(np.isfinite(after))
    if restart == 0.0:
        unused = np.argmax(np.abs(before))
        np.testing.assert_allclose(after[unused], before[unused], rtol=1e-2)


def test_parts_of_a_minibatch_mapped_by_hand_learn_what_the_whole_learns(clusters):
    u, q = clusters[0], vq(8, 2)
    state = q.init(KEY)
    for _ in range(2):  # the first step draws every code anew
        full = q.learn(state, turn(KEYS), u)
        learn = jax.vmap(lambda keys, u, state=state: q.learn(state, mapped(keys), u), axis_name="data")
        parts = learn(KEYS.reshape(2, 32), u.reshape(2, 32, 4, 4, 2))
        for ours, theirs in zip(jax.tree.leaves(parts.state), jax.tree.leaves(full.state), strict=True):
            np.testing.assert_allclose(ours, np.stack([theirs] * 2), rtol=1e-5)
        np.testing.assert_array_equal(parts.index.reshape(full.index.shape), full.index)
        state = full.state


@pytest.mark.parametrize("levels", [(3,), (4, 3), (8, 5, 5, 5), (7, 6)])
def test_fsq_reaches_every_level_and_its_codes_are_numbered(levels):
    q = fsq(levels)
    every = jnp.arange(q.codes)
    vectors = np.asarray(q.vectors({}, every))
    assert q.codes == np.prod(levels) and q.features == len(levels)
    assert len(np.unique(vectors, axis=0)) == q.codes and np.all(np.abs(vectors) <= 1.0)
    np.testing.assert_array_equal(q.nearest({}, jnp.asarray(vectors)), every)
    np.testing.assert_array_equal(q.nearest({}, jnp.asarray(vectors) * 1.0001), every)
    z = jnp.linspace(-6.0, 6.0, 4001)[:, None] * jnp.ones(len(levels))
    u = q.bound(z)
    digits = np.asarray(q.vectors({}, q.nearest({}, u)))
    for j, l in enumerate(levels):
        assert len(np.unique(digits[:, j])) == l and np.all(np.diff(digits[:, j]) >= 0)
    np.testing.assert_allclose(q.bound(jnp.zeros(len(levels))), 0.0, atol=1e-6)
    # never past the last rounding: half a level is the most that is rounded away
    assert np.max(np.abs(digits - u) * (np.array(levels) // 2)) <= 0.5 + 1e-5


# --- a model that can be counted -------------------------------------------------------------------------------------
# 2x2 images of three levels are their own codes: 81 grids

CODE = fsq((3,))
GRIDS = jnp.asarray(list(itertools.product((-1.0, 0.0, 1.0), repeat=4)), jnp.float32).reshape(81, 2, 2, 1)
IMAGES = Batch(GRIDS)
AS_IT_IS = Network(lambda key, x: ({}, {}), lambda params, stats, x, train=False: (10.0 * x, stats))


def levels(gain):
    """A decoder whose output is the logits of the three levels: they prefer the code's own."""
    return Network(
        lambda key, z: ({}, {}),
        lambda params, stats, z, train=False: (-gain * jnp.square(z - jnp.float32([-1.0, 0.0, 1.0])), stats),
    )


def counted(gain):
    model = vq_vae(AS_IT_IS, levels(gain), CODE, network(PixelCNN(3, 6, 2)), (2, 2), likelihood=categorical(3))
    params, extra = model.game.init(KEY, IMAGES)
    params["prior"] = jax.tree.map(lambda a: 4.0 * a, params["prior"])  # far from uniform
    return model, params, extra


@pytest.fixture(scope="module")
def probabilities():
    """p(c) of the 81 grids."""
    model, params, extra = counted(1.0)
    nats = jax.jit(losses_of(model)["prior"])(params, extra, KEYS, IMAGES)[0]
    return np.exp(-np.float64(nats))


def test_the_prior_is_a_distribution_over_the_grids(probabilities):
    np.testing.assert_allclose(probabilities.sum(), 1.0, rtol=1e-5)
    assert probabilities.max() > 3 * probabilities.min()


def test_samples_follow_the_prior(probabilities):
    model, params, extra = counted(1.0)
    n = 20_000
    draw = jax.jit(model.prior)
    z = draw(params, extra, jax.random.split(KEY, n), None)
    assert z.shape == (n, 2, 2, 1)
    number = np.asarray(CODE.nearest(extra["vq_vae"]["codes"], z)).reshape(n, 4) @ [27, 9, 3, 1]
    counts, want = np.bincount(number, minlength=81), n * probabilities
    # chi-square of 80 degrees of freedom: mean 80, variance 160
    assert np.sum((counts - want) ** 2 / want) < 80 + 5 * np.sqrt(160)
    np.testing.assert_array_equal(draw(params, extra, jax.random.split(KEY, n)[5:8], None), z[5:8])


@pytest.mark.parametrize("gain", [0.0, 2.0, 100.0])
def test_the_bound_is_below_the_evidence_and_is_it_where_the_decoder_is_sure(gain, probabilities):
    model, params, extra = counted(gain)
    log_w = np.asarray(model.density.log_p(params, extra, KEYS, IMAGES, 3))
    assert log_w.shape == (81, 3) and np.all(log_w <= 0.0)
    np.testing.assert_array_equal(log_w, np.repeat(log_w[:, :1], 3, axis=1))
    # p(x) = sum_c p(c) p(x | c), and of 81 images the evidence adds up to 1
    logits = -gain * jnp.square(GRIDS - jnp.float32([-1.0, 0.0, 1.0]))  # of every code
    log_px_c = jax.vmap(lambda x: categorical(3).log_prob(jnp.broadcast_to(x, GRIDS.shape), logits))(GRIDS)
    evidence = np.exp(np.float64(log_px_c)) @ probabilities
    np.testing.assert_allclose(evidence.sum(), 1.0, rtol=1e-4)
    assert np.all(np.exp(log_w[:, 0]) <= evidence * (1 + 1e-4))
    if gain == 100.0:
        np.testing.assert_allclose(np.exp(log_w[:, 0]), evidence, rtol=1e-3)


def test_any_vectors_are_decoded_as_the_nearest_codes():
    model, params, extra = counted(100.0)
    predict = drawn(model, params, extra, None)
    np.testing.assert_allclose(predict(model.encode(params, extra, GRIDS, None), jnp.ones(())), GRIDS, atol=1e-5)
    np.testing.assert_allclose(predict(0.7 * GRIDS, jnp.ones(())), GRIDS, atol=1e-5)


# --- training --------------------------------------------------------------------------------------------------------

W, V = normal(3, 3), normal(3, 3)


def shifting(matrix):
    """x -> (x + b) M, with b learned."""
    return Network(
        lambda key, x: ({"b": jnp.zeros(x.shape[-1])}, {}),
        lambda params, stats, x, train=False: ((x + params["b"]) @ matrix, stats),
    )


def linear(quantiser):
    model = vq_vae(
        shifting(V), shifting(W), quantiser, network(PixelCNN(quantiser.codes, 4, 1)), (2, 2),
        likelihood=gaussian(1.0),
    )  # fmt: skip
    x = Batch(normal(16, 2, 2, 3))
    return model, x, *model.game.init(KEY, x)


def gradient(model, player, params, extra, x):
    def mean(params):
        return jnp.mean(losses_of(model)[player](params, extra, KEYS[:16], x)[0])

    return jax.jit(jax.grad(mean))(params)


def test_the_gradient_goes_straight_through_the_quantiser():
    model, x, params, extra = linear(vq(7, 3, commitment=0.0, restart=0.0))
    own = gradient(model, "vq_vae", params, extra, x)["vq_vae"]["vq_vae"]
    e = model.encode(params, extra, x.x, None)
    at_code = -jnp.mean(jnp.sum((x.x - e @ W) @ W.T, axis=(1, 2)), axis=0)  # d loss / d z, at the codes
    np.testing.assert_allclose(own["decoder"]["b"], at_code, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(own["encoder"]["b"], V @ at_code, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("quantiser", [vq(7, 3), fsq((4, 3, 5))], ids=["vq", "fsq"])
def test_a_loss_moves_its_own_player_alone(quantiser):
    model, x, params, extra = linear(quantiser)
    extra = losses_of(model)["vq_vae"](params, extra, KEYS[:16], x)[1][1]  # the codebook is born
    for player, other in (("vq_vae", "prior"), ("prior", "vq_vae")):
        grads = gradient(model, player, params, extra, x)
        assert all(np.all(np.asarray(g) == 0.0) for g in jax.tree.leaves(grads[other]))
        assert all(np.any(np.asarray(g) != 0.0) for g in jax.tree.leaves(grads[player]))
    _, after = losses_of(model)["prior"](params, extra, KEYS[:16], x)[1]
    for ours, theirs in zip(
        jax.tree.leaves(after["vq_vae"]["codes"]), jax.tree.leaves(extra["vq_vae"]["codes"]), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_a_run_that_was_interrupted_ends_with_the_same_codebook(tmp_path):
    model, x, _, _ = linear(vq(7, 3))
    optimizers, place = {player: optax.adam(1e-2) for player in model.game.losses}, parallel.layout("one")
    init = partial(training.init_state, model.game, optimizers, KEY, x)
    shapes = parallel.template(place, init)
    run = parallel.compile_step(place, partial(training.make_step, model.game, optimizers), shapes)
    batches = Batch(RNG.integers(0, 256, (6, 1, 1, 16, 2, 2, 3)).astype(np.uint8))
    full, _ = run(parallel.create(shapes, init), batches, np.int32(6))
    half, _ = run(parallel.create(shapes, init), batches, np.int32(2))
    store = checkpoint.open_store(tmp_path / "checkpoints")
    checkpoint.save(store, half, 2)
    checkpoint.wait(store)
    half, _ = checkpoint.restore(store, shapes)
    checkpoint.close(store)
    parts, _ = run(half, Batch(np.roll(batches.x, -2, axis=0)), np.int32(4))
    for ours, theirs in zip(jax.tree.leaves(parts.extra), jax.tree.leaves(full.extra), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert np.any(np.asarray(model.encode(full.params, full.extra, x.x, None)) != 0.0)


def test_networks_that_do_not_fit_are_refused():
    prior, encoder, decoder = network(PixelCNN(7, 4, 1)), shifting(V), shifting(W)
    x = Batch(normal(2, 2, 2, 3))
    for model, words in (
        (vq_vae(encoder, decoder, vq(7, 3), prior, (2, 1)), r"the encoder gives \(2, 2, 3\), .* \(2, 1, 3\)"),
        (
            vq_vae(encoder, shifting(V[:, :2]), vq(7, 3), prior, (2, 2)),
            r"the decoder gives \(2, 2, 2\), .* \(2, 2, 3\)",
        ),
        (vq_vae(encoder, decoder, vq(9, 3), prior, (2, 2)), r"the prior gives \(2, 2, 7\), .* \(2, 2, 9\)"),
    ):
        with pytest.raises(InputError, match=words):
            model.game.init(KEY, x)
    for wrong in (lambda: vq(1, 3), lambda: vq(4, 3, decay=1.0), lambda: vq(4, 3, restart=1.5), lambda: fsq((2, 3))):
        with pytest.raises(InputError):
            wrong()
