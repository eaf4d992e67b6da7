"""The one step: turns, minibatches, noise, accumulation, averages, and calls of many steps."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgen.training import init_state, make_step, minibatches, play_order, repeat
from jaxgen.types import Average, Batch, Game, InputError, weights

RNG = np.random.default_rng(0)
KEY = jax.random.key(0)


def normal(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def game_of(losses, params=None, extra=None):
    params = {player: jnp.array([0.5, -0.3, 0.2]) for player in losses} if params is None else params
    return Game(lambda key, batch: (params, {} if extra is None else extra), losses)


def noisy(params, extra, turn, batch):
    """The square distance of the weights to the example and its own noise."""
    z = jax.vmap(lambda key: jax.random.normal(key, (3,)))(turn.keys)
    loss = jnp.sum(jnp.tanh(params["p"] - batch.x + z) ** 2, axis=1)
    return loss, ({"z": z[:, 0]}, extra)


def plain(params, extra, turn, batch):
    return jnp.sum(jnp.tanh(params["p"] - batch.x) ** 2, axis=1), ({}, extra)


SGD = {"p": optax.sgd(0.3)}
NOISY = game_of({"p": noisy})
STEP = jax.jit(make_step(NOISY, SGD))


def start(game=NOISY, optimizers=SGD, ema=False):
    return init_state(game, optimizers, KEY, Batch(jnp.zeros((2, 3))), ema=ema)


def leaves_equal(one, other):
    """Bit by bit; keys by their data."""
    data = [
        jax.tree.map(lambda a: jax.random.key_data(a) if jnp.issubdtype(a.dtype, jax.dtypes.prng_key) else a, tree)
        for tree in (one, other)
    ]
    return all(np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, data), strict=True))


# --- one step ---------------------------------------------------------------------------------------------------------


def test_a_step_is_the_optimizer_s_update_of_the_mean_gradient():
    x, state = normal(8, 3), start(game_of({"p": plain}))
    after, metrics = jax.jit(make_step(game_of({"p": plain}), SGD))(state, Batch(x[None, None]))
    w = np.float64(state.params["p"])
    tanh = np.tanh(w - np.float64(x))
    gradient = np.mean(2 * tanh * (1 - tanh**2), axis=0)
    np.testing.assert_allclose(after.params["p"], w - 0.3 * gradient, rtol=1e-5)
    np.testing.assert_allclose(metrics["p/loss"], np.mean(np.sum(tanh**2, axis=1)), rtol=1e-5)
    np.testing.assert_allclose(metrics["p/grad_norm"], np.linalg.norm(gradient), rtol=1e-5)
    assert int(after.step) == 1


def test_the_same_inputs_give_the_same_bits_and_are_left_as_they_were():
    state, batch = start(ema=True), Batch(normal(1, 1, 8, 3))
    before = jax.tree.map(jnp.copy, state)
    step = jax.jit(make_step(NOISY, SGD, ema=0.9))
    one, other = step(state, batch), step(state, batch)
    assert leaves_equal(one, other) and leaves_equal(state, before)


def test_bytes_become_numbers_between_minus_one_and_one():
    x = np.array([[[[0, 255, 51]]]], np.uint8)
    game = game_of({"p": lambda p, e, t, b: (jnp.sum(p["p"] * b.x, 1), ({}, {"x": b.x}))}, extra={"x": jnp.zeros(())})
    after, _ = jax.jit(make_step(game, SGD))(start(game), Batch(x))
    np.testing.assert_allclose(after.extra["x"], [[-1.0, 1.0, 2 * 51 / 255 - 1]], atol=1e-6)


def test_the_order_of_the_examples_does_not_change_a_gradient_without_noise():
    game, x, label = game_of({"p": labelled}), normal(12, 3), jnp.arange(12)
    mixed = RNG.permutation(12)
    step = jax.jit(make_step(game, SGD))
    one, _ = step(start(game), Batch(x[None, None], label[None, None]))
    other, _ = step(start(game), Batch(x[mixed][None, None], label[mixed][None, None]))
    np.testing.assert_allclose(one.params["p"], other.params["p"], rtol=1e-6, atol=1e-7)
    # and the label stays with its example: mixed labels alone do change it
    apart, _ = step(start(game), Batch(x[None, None], label[mixed][None, None]))
    assert np.max(np.abs(one.params["p"] - apart.params["p"])) > 1e-4


def labelled(params, extra, turn, batch):
    return jnp.sum(jnp.tanh(params["p"] - batch.x) ** 2, axis=1) * batch.condition, ({}, extra)


@pytest.mark.parametrize("slices", [2, 3, 6])
def test_accumulated_slices_are_the_step_of_the_full_batch(slices):
    x = normal(12, 3)
    full, metrics = STEP(start(), Batch(x[None, None]))
    cut, metrics_cut = STEP(start(), Batch(x.reshape(1, slices, -1, 3)))
    np.testing.assert_allclose(cut.params["p"], full.params["p"], atol=1e-6)
    assert set(metrics) == set(metrics_cut)
    for name in metrics:
        np.testing.assert_allclose(metrics_cut[name], metrics[name], atol=1e-6)


def test_accumulated_slices_pass_the_statistics_on():
    def counting(params, extra, turn, batch):
        return jnp.sum(params["p"] * batch.x, 1), ({}, {"n": extra["n"] + 1, "last": batch.x[0, 0]})

    game = game_of({"p": counting}, extra={"n": jnp.zeros((), jnp.int32), "last": jnp.zeros(())})
    x = normal(1, 4, 2, 3)
    after, _ = jax.jit(make_step(game, SGD))(start(game), Batch(x))
    assert int(after.extra["n"]) == 4 and float(after.extra["last"]) == float(x[0, 3, 0, 0])


# --- turns ------------------------------------------------------------------------------------------------------------

TURNS, SIZE = ("critic", "critic", "critic", "generator"), 2


def witness(player):
    """A loss that writes down, turn by turn, the mean of its minibatch and the keys it was given."""

    def loss(params, extra, turn, batch):
        i = extra["count"]
        seen = extra["means"].at[i].set(jnp.mean(batch.x))
        drawn = extra["keys"].at[i].set(jax.random.key_data(turn.keys))
        return jnp.sum(params[player] * batch.x, 1), ({}, {"count": i + 1, "means": seen, "keys": drawn})

    return loss


def witnesses(turns):
    extra = {
        "count": jnp.zeros((), jnp.int32),
        "means": jnp.zeros(turns),
        "keys": jnp.zeros((turns, SIZE, 2), jnp.uint32),
    }
    return game_of({"critic": witness("critic"), "generator": witness("generator")}, extra=extra)


TWO = {"critic": optax.sgd(0.1), "generator": optax.sgd(0.1)}


def test_each_turn_of_a_player_has_its_own_minibatch():
    game = witnesses(4)
    x = normal(3, 1, SIZE, 3)
    after, _ = jax.jit(make_step(game, TWO, order=TURNS))(start(game, TWO), Batch(x))
    means = np.mean(x, axis=(1, 2, 3))
    np.testing.assert_allclose(after.extra["means"], [*means, means[0]], rtol=1e-5, atol=1e-6)
    assert minibatches(TURNS) == 3 and minibatches(("critic", "generator")) == 1


def test_no_two_examples_turns_or_steps_share_their_noise():
    game = witnesses(8)
    step, state = jax.jit(make_step(game, TWO, order=TURNS)), start(game, TWO)
    for _ in range(2):
        state, _ = step(state, Batch(normal(3, 1, SIZE, 3)))
    drawn = np.asarray(state.extra["keys"]).reshape(-1, 2)
    assert len(np.unique(drawn, axis=0)) == 2 * 4 * SIZE


def test_only_the_player_whose_turn_it_is_moves():
    game = game_of(
        {
            "a": lambda p, e, t, b: (jnp.sum(p["a"] * p["b"] * b.x, 1), ({}, e)),
            "b": lambda p, e, t, b: (jnp.sum(p["a"] * p["b"] * b.x, 1), ({}, e)),
        }
    )
    for still, moving in (("a", "b"), ("b", "a")):
        optimizers = {still: optax.sgd(0.0), moving: optax.sgd(0.1)}
        state = start(game, optimizers)
        after, _ = jax.jit(make_step(game, optimizers))(state, Batch(normal(1, 1, 4, 3)))
        assert jnp.all(after.params[still] == state.params[still])
        assert jnp.all(after.params[moving] != state.params[moving])


def test_metrics_are_means_over_the_turns_of_a_player():
    game = witnesses(4)
    x = normal(3, 1, SIZE, 3)
    frozen = {"critic": optax.sgd(0.0), "generator": optax.sgd(0.0)}
    state = start(game, frozen)
    _, metrics = jax.jit(make_step(game, frozen, order=TURNS))(state, Batch(x))
    by_turn = np.mean(np.sum(np.float64(state.params["critic"]) * x, axis=-1), axis=(1, 2))
    np.testing.assert_allclose(metrics["critic/loss"], by_turn.mean(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(metrics["generator/loss"], by_turn[0], rtol=1e-5, atol=1e-6)


def test_without_an_order_each_player_has_one_turn():
    assert play_order(witnesses(1), None) == ("critic", "generator")


@pytest.mark.parametrize("order", [("critic",), ("critic", "generator", "judge"), ()])
def test_an_order_that_does_not_name_the_players_is_refused(order):
    with pytest.raises(InputError, match="has to name the players"):
        make_step(witnesses(1), TWO, order=order)


@pytest.mark.parametrize("players", [("critic",), ("critic", "generator", "judge"), ()])
def test_players_need_one_optimizer_each(players):
    optimizers = dict.fromkeys(players, optax.sgd(0.1))
    with pytest.raises(InputError, match="one optimizer each"):
        init_state(witnesses(1), optimizers, KEY, Batch(jnp.zeros((2, 3))))


def test_a_step_without_a_player_s_optimizer_is_refused():
    # where the state comes from a checkpoint, `init_state` has not checked the optimizers
    game = witnesses(4)
    state = start(game, TWO)
    with pytest.raises(InputError, match="optimizer"):
        make_step(game, {"critic": TWO["critic"]}, order=TURNS)(state, Batch(normal(3, 1, SIZE, 3)))


# --- averages ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decay", [0.3, 0.999])
def test_the_averages_follow_their_closed_form_with_its_warm_up(decay):
    def drifting(params, extra, turn, batch):
        return plain(params, extra, turn, batch)[0], ({}, {"mean": extra["mean"] + 1.0})

    game = game_of({"p": drifting}, extra={"mean": jnp.zeros(())})
    step, state = jax.jit(make_step(game, SGD, ema=decay)), start(game, ema=True)
    w, m = np.float64(state.params["p"]), 0.0
    for n in range(1, 7):
        state, _ = step(state, Batch(normal(1, 1, 4, 3)))
        d = min(decay, (1 + n) / (10 + n))
        w, m = d * w + (1 - d) * np.float64(state.params["p"]), d * m + (1 - d) * n
        np.testing.assert_allclose(state.ema.params["p"], w, rtol=1e-5)
        np.testing.assert_allclose(state.ema.extra["mean"], m, rtol=1e-5)


def test_the_first_step_keeps_two_elevenths_of_the_initialisation():
    state = start(ema=True)
    after, _ = jax.jit(make_step(NOISY, SGD, ema=0.9999))(state, Batch(normal(1, 1, 4, 3)))
    want = 2 / 11 * state.params["p"] + 9 / 11 * after.params["p"]
    np.testing.assert_allclose(after.ema.params["p"], want, rtol=1e-6)


def test_whole_numbers_are_copied_into_the_averages():
    def counting(params, extra, turn, batch):
        return plain(params, extra, turn, batch)[0], ({}, {"n": extra["n"] + 3})

    game = game_of({"p": counting}, extra={"n": jnp.zeros((), jnp.int32)})
    state, step = start(game, ema=True), jax.jit(make_step(game, SGD, ema=0.99))
    for n in (3, 6):
        state, _ = step(state, Batch(normal(1, 1, 4, 3)))
        assert int(state.ema.extra["n"]) == n and state.ema.extra["n"].dtype == jnp.int32


def test_the_averages_begin_as_copies_and_not_as_the_same_arrays():
    state = start(ema=True)
    assert isinstance(state.ema, Average) and leaves_equal(state.ema.params, state.params)
    pointers = [leaf.unsafe_buffer_pointer() for leaf in (state.ema.params["p"], state.params["p"])]
    assert pointers[0] != pointers[1]  # one buffer twice could not be donated
    assert start().ema is None


# --- calls of many steps ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run():
    adam = {"p": optax.adam(0.05)}
    return (
        jax.jit(repeat(make_step(NOISY, adam, ema=0.9))),
        start(optimizers=adam, ema=True),
        normal(7, 1, 1, 4, 3),
    )


def test_any_cut_into_calls_gives_the_same_bits(run):
    run, state, x = run
    full, _ = run(state, Batch(x), 7)
    for cuts in ((3, 4), (1,) * 7, (6, 1)):
        cut, at = state, 0
        for n in cuts:
            cut, _ = run(cut, Batch(jnp.roll(x, -at, axis=0)), n)
            at += n
        assert leaves_equal(cut, full), cuts
    assert int(full.step) == 7


def test_calls_of_another_length_give_the_same_bits(run):
    run, state, x = run
    full, _ = run(state, Batch(x), 7)
    cut, _ = run(state, Batch(x[:3]), 3)
    cut, _ = run(cut, Batch(x[3:]), 4)
    assert leaves_equal(cut, full)


def test_a_call_is_its_steps_one_by_one_and_reports_their_means(run):
    run, state, x = run
    step = jax.jit(make_step(NOISY, {"p": optax.adam(0.05)}, ema=0.9))
    after, report = run(state, Batch(x), 5)
    each = []
    for i in range(5):
        state, metrics = step(state, Batch(x[i]))
        each.append(metrics)
    np.testing.assert_allclose(after.params["p"], state.params["p"], rtol=1e-5)
    for name in each[0]:
        np.testing.assert_allclose(report.metrics[name], np.mean([m[name] for m in each]), rtol=1e-5)
    assert {player: int(step) for player, step in report.broken.items()} == {"p": -1}


def fragile(player):
    """Not finite where the condition is 1; finite with a gradient that is not where it is 2."""

    def loss(params, extra, turn, batch):
        own = jnp.sum(params[player] * batch.x, 1)
        flag = jnp.max(batch.condition[:, {"a": 0, "b": 1}[player]])
        broken = jnp.where(flag == 1, jnp.nan, 0.0)
        corner = jnp.sqrt(jnp.sum(params[player] * 0.0) + (flag != 2))  # at 0 the slope is 0 times infinity
        return own + broken + corner, ({}, extra)

    return loss


@pytest.fixture(scope="module")
def fragile_run():
    game = game_of({"a": fragile("a"), "b": fragile("b")})
    optimizers = {"a": optax.sgd(0.0), "b": optax.sgd(0.0)}
    return jax.jit(repeat(make_step(game, optimizers))), start(game, optimizers)


@pytest.mark.parametrize(
    "flags, broken",
    [
        ({}, {"a": -1, "b": -1}),
        ({(3, 0): 1}, {"a": 3, "b": -1}),
        ({(5, 1): 1, (2, 0): 1, (6, 0): 1}, {"a": 2, "b": 5}),
        ({(1, 1): 1, (8, 0): 1}, {"a": -1, "b": 1}),  # the eighth step lies beyond n
    ],
)
def test_the_first_step_that_is_not_finite_is_reported_with_its_player(fragile_run, flags, broken):
    run, state = fragile_run
    label = np.zeros((8, 1, 1, 2, 2), np.int32)
    for (step, player), flag in flags.items():
        label[step - 1, ..., player] = flag
    _, report = run(state, Batch(jnp.ones((8, 1, 1, 2, 3)), jnp.asarray(label)), 7)
    # a learning rate of 0 times not-a-number is not-a-number: the player stays broken, its first step counts
    assert {player: int(step) for player, step in report.broken.items()} == broken


def test_the_step_that_is_not_finite_counts_from_the_beginning_of_the_run(fragile_run):
    run, state = fragile_run
    label = np.zeros((8, 1, 1, 2, 2), np.int32)
    label[1, ..., 0] = 1
    _, report = run(state._replace(step=jnp.asarray(40, jnp.int32)), Batch(jnp.ones((8, 1, 1, 2, 3)), label), 7)
    assert int(report.broken["a"]) == 42


def test_a_gradient_that_is_not_finite_is_reported_though_the_loss_is(fragile_run):
    run, state = fragile_run
    label = np.zeros((8, 1, 1, 2, 2), np.int32)
    label[3, ..., 1] = 2
    _, report = run(state, Batch(jnp.ones((8, 1, 1, 2, 3)), label), 4)
    assert (int(report.broken["a"]), int(report.broken["b"])) == (-1, 4)
    assert np.isfinite(report.metrics["b/loss"]) and not np.isfinite(report.metrics["b/grad_norm"])


# --- frozen groups, and what an average takes as it is ----------------------------------------------------------------


def test_a_group_without_a_loss_is_frozen_and_has_no_average():
    params = {"p": jnp.ones(3), "base": jnp.full(3, 0.1)}

    def loss(params, extra, turn, batch):
        return jnp.sum((params["p"] * params["base"] - batch.x) ** 2, axis=1), ({}, extra)

    game = game_of({"p": loss}, params)
    state = init_state(game, SGD, KEY, Batch(jnp.zeros((2, 3))), ema=True)
    after, _ = jax.jit(make_step(game, SGD, ema=0.9))(state, Batch(normal(1, 1, 4, 3)))
    assert set(after.opt) == set(after.ema.params) == {"p"}
    assert after.params["base"].tobytes() == np.asarray(params["base"]).tobytes()
    used, _ = weights(after)
    np.testing.assert_array_equal(used["base"], params["base"])
    np.testing.assert_array_equal(used["p"], after.ema.params["p"])


def test_directions_and_states_are_copied_into_the_averages():
    def moving(params, extra, turn, batch):
        extra = jax.tree.map(lambda a: a + 1.0, extra)
        return plain(params, extra, turn, batch)[0], ({}, extra)

    names = {"power_iteration": 5.0, "moments": 5.0, "state": 5.0, "batch_stats": 2 / 11 * 4.0 + 9 / 11 * 5.0}
    game = game_of({"p": moving}, extra={"net": {name: {"u": jnp.asarray(4.0)} for name in names}})
    after, _ = jax.jit(make_step(game, SGD, ema=0.99))(start(game, ema=True), Batch(normal(1, 1, 4, 3)))
    for name, value in names.items():
        np.testing.assert_allclose(after.ema.extra["net"][name]["u"], value, rtol=1e-6)


def test_a_loss_knows_the_step_of_the_run_whatever_the_slices_and_calls():
    def counting(params, extra, turn, batch):
        return plain(params, extra, turn, batch)[0], ({"step": jnp.full(batch.x.shape[:1], turn.step)}, extra)

    game = game_of({"p": counting})
    call = jax.jit(repeat(make_step(game, SGD)))
    state, report = call(start(game), Batch(normal(4, 1, 4, 2, 3)), 4)  # four slices a step
    assert float(report.metrics["p/step"]) == 1.5  # of steps 0, 1, 2, 3
    _, report = call(state, Batch(normal(4, 1, 4, 2, 3)), 1)
    assert float(report.metrics["p/step"]) == 4.0


def test_what_is_gathered_is_the_minibatch_and_own_its_rows():
    def coupled(params, extra, turn, batch):
        everything = turn.gather(batch.x)
        own = jnp.max(jnp.abs(everything[turn.own] - batch.x), axis=1)
        return jnp.sum(params["p"] * (batch.x - everything.mean(0)), axis=1) ** 2, ({"apart": own}, extra)

    game, x = game_of({"p": coupled}), normal(1, 1, 8, 3)
    state = start(game)
    after, metrics = jax.jit(make_step(game, SGD))(state, Batch(x))
    step = make_step(game, SGD, axis_name="data")
    parts = jax.jit(jax.vmap(step, in_axes=(None, 2), axis_name="data"))(state, Batch(x.reshape(1, 1, 4, 2, 3)))
    for i in range(4):
        np.testing.assert_allclose(parts[0].params["p"][i], after.params["p"], rtol=1e-5, atol=1e-6)
    assert float(metrics["p/apart"]) == 0.0 and np.all(parts[1]["p/apart"] == 0.0)
