"""The one training step: players in turn, each following the gradient of its own loss in its own parameters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxgen.data.pipeline import normalize
from jaxgen.types import Array, Average, Batch, Game, Player, TrainState, Tree, Turn, check

Step = Callable[[TrainState, Batch], tuple[TrainState, dict[str, Array]]]
Optimizers = Mapping[Player, optax.GradientTransformation]


# Collections of `extra` that an average takes as they are: a direction (the vectors of a power iteration) or a count is
# not what the mean of its past values is, and a reference batch never changes. Everything else that is floating, as
# batch statistics are, is averaged, so that it belongs to the averaged parameters.
COPIED = frozenset({"power_iteration", "state", "moments", "reference", "fade"})


def init_state(game: Game, optimizers: Optimizers, key: Array, batch: Batch, *, ema: bool = False) -> TrainState:
    """A fresh state. batch: a first minibatch [B, ...] as a data set gives it, which may set what depends on data."""
    _check_optimizers(game, optimizers)
    for_params, for_steps = jax.random.split(key)
    params, extra = game.init(for_params, normalize(batch))
    opt = {player: optimizers[player].init(params[player]) for player in game.losses}
    return TrainState(
        jnp.zeros((), jnp.int32), for_steps, params, opt, extra, first_average(game, params, extra) if ema else None
    )


def first_average(game: Game, params: Tree, extra: Tree) -> Average:
    """The averages before the first step: copies, for a donated buffer may not appear twice."""
    own = {player: params[player] for player in game.losses}
    return Average(*jax.tree.map(jnp.copy, (own, extra)))


def _check_optimizers(game: Game, optimizers: Optimizers) -> None:
    check(
        set(game.losses) == set(optimizers),
        f"players {sorted(game.losses)} need one optimizer each, there are {sorted(optimizers)}",
    )


def play_order(game: Game, order: Sequence[Player] | None) -> tuple[Player, ...]:
    """The players of one step, in turn; without an order, each of the game's once."""
    order = tuple(game.losses) if order is None else tuple(order)
    unknown = sorted(set(order) ^ set(game.losses))
    check(not unknown, f"the order {order} has to name the players {tuple(game.losses)}, each at least once")
    return order


def minibatches(order: Sequence[Player]) -> int:
    """Minibatches that one step consumes: as many as the most frequent player has turns."""
    return max(Counter(order).values())


def make_step(
    game: Game,
    optimizers: Optimizers,
    *,
    order: Sequence[Player] | None = None,
    ema: float = 0.0,
    prepare: Callable[[Batch], Batch] = normalize,
    axis_name: str | None = None,
) -> Step:
    """`step(state, batch) -> (state, metrics)`, a pure function of a minibatch: see `parallel` for layouts.

    batch: arrays [M, A, B, ...], M = `minibatches(order)` and A slices whose gradients are accumulated: the step is
    that of a batch A B large (batch statistics aside). A player's i-th turn in a step sees the i-th minibatch, so each
    of k critic turns has its own (Arjovsky et al. 2017, arXiv:1701.07875, algorithm 1); every turn has its own noise.
    order: the players' turns, such as ("critic",) * 5 + ("generator",); ema: decay of the averages, 0 for none;
    prepare: from data to what losses see; axis_name: of the mapped batch axis where a layout maps one (pmap).
    metrics: "player/loss", "player/grad_norm" and the loss's own, means over the turn's examples and over turns.
    """
    _check_optimizers(game, optimizers)
    order = play_order(game, order)
    turns = [(i, player, order[:i].count(player)) for i, player in enumerate(order)]

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
        check((ema > 0) == (state.ema is not None), f"ema is {ema}, but init_state had ema={state.ema is not None}")
        key = jax.random.fold_in(state.key, state.step)
        metrics: dict[str, list] = {}
        for i, player, minibatch in turns:
            slices = jax.tree.map(lambda a, m=minibatch: a[m], batch)
            gradient = partial(_gradient, game, player, prepare, axis_name, jax.random.fold_in(key, i))
            grads, extra, measured = gradient(state.step, state.params, state.extra, slices)
            state = _update(state, optimizers[player], player, grads, extra)
            for name, value in measured.items():
                metrics.setdefault(f"{player}/{name}", []).append(value)
        if ema:
            state = state._replace(ema=average(state, ema))
        state = state._replace(step=state.step + 1)
        return state, {name: jnp.mean(jnp.stack(values)) for name, values in metrics.items()}

    return step


def _gradient(game, player, prepare, axis_name, key, step, params, extra, slices: Batch) -> tuple[Tree, Tree, dict]:
    """(gradient in the player's own parameters, extra, metrics), accumulated over the slices [A, B, ...]."""
    count, size = slices.x.shape[:2]
    devices, device = (1, 0) if axis_name is None else (jax.lax.axis_size(axis_name), jax.lax.axis_index(axis_name))
    own_rows = device * size + jnp.arange(size, dtype=jnp.int32)

    def gather(tree: Tree) -> Tree:
        return tree if axis_name is None else jax.lax.all_gather(tree, axis_name, tiled=True)

    def loss(own: Tree, extra: Tree, a: Array, batch: Batch) -> tuple[Array, tuple[dict, Tree]]:
        # noise belongs to the example: its key comes from its place in the minibatch, wherever it lies
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, a * size * devices + own_rows)
        turn = Turn(keys, step, gather, own_rows)
        losses, (metrics, extra) = game.losses[player]({**params, player: own}, extra, turn, prepare(batch))
        return jnp.mean(losses), ({"loss": losses, **metrics}, extra)

    def one(extra: Tree, a: Array, batch: Batch) -> tuple[Tree, Tree, dict]:
        grads, (metrics, extra) = jax.grad(loss, has_aux=True)(params[player], extra, a, batch)
        return grads, extra, jax.tree.map(_mean, metrics)

    grads, extra, metrics = one(extra, jnp.zeros((), jnp.int32), jax.tree.map(lambda s: s[0], slices))
    if count > 1:

        def body(carry: tuple, slice_: tuple) -> tuple[tuple, None]:
            grads, extra, metrics = carry
            more, extra, measured = one(extra, *slice_)
            return (jax.tree.map(jnp.add, grads, more), extra, jax.tree.map(jnp.add, metrics, measured)), None

        rest = jnp.arange(1, count, dtype=jnp.int32), jax.tree.map(lambda s: s[1:], slices)
        (grads, extra, metrics), _ = jax.lax.scan(body, (grads, extra, metrics), rest)
        grads, metrics = jax.tree.map(lambda a: a / count, (grads, metrics))
    if axis_name is not None:
        grads, metrics = jax.lax.pmean((grads, metrics), axis_name)
        extra = jax.tree.map(lambda a: jax.lax.pmean(a, axis_name) if _floating(a) else a, extra)
    return grads, extra, {**metrics, "grad_norm": optax.global_norm(grads)}


def _update(
    state: TrainState, optimizer: optax.GradientTransformation, player: Player, grads: Tree, extra: Tree
) -> TrainState:
    updates, opt = optimizer.update(grads, state.opt[player], state.params[player])
    own = optax.apply_updates(state.params[player], updates)
    return state._replace(params={**state.params, player: own}, opt={**state.opt, player: opt}, extra=extra)


def average(state: TrainState, decay: float) -> Average:
    """ema <- ema + (1 - d) (now - ema), d = min(decay, (1 + n) / (10 + n)) after n steps: the warm-up forgets the
    initialisation soon, and what does not move is its own average, to the last bit. Of the players' parameters and of
    `extra`, whose integers and `COPIED` are copied."""
    n = state.step.astype(jnp.float32) + 1.0
    d = jnp.minimum(decay, (1.0 + n) / (10.0 + n))

    def mean(path: tuple, old: Array, new: Array) -> Array:
        copied = any(getattr(part, "key", None) in COPIED for part in path)
        return old + (1.0 - d) * (new - old) if _floating(new) and not copied else new

    assert state.ema is not None
    now = Average({player: state.params[player] for player in state.ema.params}, state.extra)
    return Average(
        jax.tree.map_with_path(mean, state.ema.params, now.params),
        jax.tree.map_with_path(mean, state.ema.extra, now.extra),
    )


class Report(NamedTuple):
    """Of a call of several steps: the metrics' means over its steps, and for every player the first step whose loss or
    gradient was not finite, or -1."""

    metrics: dict[str, Array]
    broken: dict[Player, Array]


def repeat(step: Step) -> Callable[[TrainState, Batch, Array], tuple[TrainState, Report]]:
    """`run(state, batches, n)`: n <= S steps over batches [S, ...] in one call.

    n is traced: one executable serves every n, and the parameters after a step do not depend, bit for bit, on how
    the steps were cut into calls. That is what makes a resumed run equal to an uninterrupted one.
    """

    def run(state: TrainState, batches: Batch, n: Array) -> tuple[TrainState, Report]:
        shapes = jax.eval_shape(step, state, jax.tree.map(lambda a: a[0], batches))[1]
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, jnp.float32), shapes)
        players = sorted({name.split("/")[0] for name in shapes})
        start = state.step

        def body(i: Array, carry: tuple) -> tuple:
            state, sums, broken = carry
            state, metrics = step(state, jax.tree.map(lambda a: a[i], batches))
            for player in players:
                # the parameters too: an update that is not finite shows in the next loss, when it has been saved
                norm = optax.global_norm(state.params[player])
                seen = jnp.stack([metrics[f"{player}/loss"], metrics[f"{player}/grad_norm"], norm])
                fine = jnp.isfinite(seen).all()
                broken = {**broken, player: jnp.where(fine | (broken[player] >= 0), broken[player], start + i + 1)}
            return state, jax.tree.map(jnp.add, sums, metrics), broken

        none = {player: jnp.full((), -1, jnp.int32) for player in players}
        state, sums, broken = jax.lax.fori_loop(0, n, body, (state, zeros, none))
        return state, Report(jax.tree.map(lambda a: a / jnp.maximum(n, 1), sums), broken)

    return run


def _mean(a: Any) -> Array:
    return jnp.mean(jnp.asarray(a, jnp.float32))


def _floating(a: Array) -> bool:
    return jnp.issubdtype(a.dtype, jnp.floating)
