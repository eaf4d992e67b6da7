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
from jaxgen.types import Array, Average, Batch, Model, Player, TrainState, Tree, check

Step = Callable[[TrainState, Batch], tuple[TrainState, dict[str, Array]]]
Optimizers = Mapping[Player, optax.GradientTransformation]


def init_state(model: Model, optimizers: Optimizers, key: Array, batch: Batch, *, ema: bool = False) -> TrainState:
    """A fresh state. batch: examples [B, ...] as a data set gives them, of which only the shapes matter."""
    _check_optimizers(model, optimizers)
    for_params, for_steps = jax.random.split(key)
    params, extra = model.init(for_params, normalize(batch))
    opt = {player: optimizers[player].init(params[player]) for player in model.losses}
    copied = Average(*jax.tree.map(jnp.copy, (params, extra))) if ema else None  # a donated buffer may not appear twice
    return TrainState(jnp.zeros((), jnp.int32), for_steps, params, opt, extra, copied)


def _check_optimizers(model: Model, optimizers: Optimizers) -> None:
    check(
        set(model.losses) == set(optimizers),
        f"players {sorted(model.losses)} need one optimizer each, there are {sorted(optimizers)}",
    )


def play_order(model: Model, order: Sequence[Player] | None) -> tuple[Player, ...]:
    """The players of one step, in turn; without an order, each of the model's once."""
    order = tuple(model.losses) if order is None else tuple(order)
    unknown = sorted(set(order) ^ set(model.losses))
    check(not unknown, f"the order {order} has to name the players {tuple(model.losses)}, each at least once")
    return order


def minibatches(order: Sequence[Player]) -> int:
    """Minibatches that one step consumes: as many as the most frequent player has turns."""
    return max(Counter(order).values())


def make_step(
    model: Model,
    optimizers: Optimizers,
    *,
    order: Sequence[Player] | None = None,
    ema: float = 0.0,
    prepare: Callable[[Batch], Batch] = normalize,
    axis_name: str | None = None,
) -> Step:
    """`step(state, batch) -> (state, metrics)`, a pure function without collectives: see `parallel` for layouts.

    batch: arrays [M, A, B, ...], M = `minibatches(order)` and A slices whose gradients are accumulated: the step is
    that of a batch A B large (batch statistics aside). A player's i-th turn in a step sees the i-th minibatch, so each
    of k critic turns has its own (Arjovsky et al. 2017, arXiv:1701.07875, algorithm 1); every turn has its own noise.
    order: the players' turns, such as ("critic",) * 5 + ("generator",); ema: decay of the averages, 0 for none;
    prepare: from data to what losses see; axis_name: of the mapped batch axis where a layout maps one (pmap).
    metrics: "player/loss", "player/grad_norm" and the loss's own, means over the turn's examples and over turns.
    """
    _check_optimizers(model, optimizers)
    order = play_order(model, order)
    turns = [(i, player, order[:i].count(player)) for i, player in enumerate(order)]

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
        check((ema > 0) == (state.ema is not None), f"ema is {ema}, but init_state had ema={state.ema is not None}")
        key = jax.random.fold_in(state.key, state.step)
        metrics: dict[str, list] = {}
        for i, player, minibatch in turns:
            slices = jax.tree.map(lambda a, m=minibatch: a[m], batch)
            gradient = partial(_gradient, model, player, prepare, axis_name, jax.random.fold_in(key, i))
            grads, extra, told = gradient(state.params, state.extra, slices)
            state = _update(state, optimizers[player], player, grads, extra)
            for name, value in told.items():
                metrics.setdefault(f"{player}/{name}", []).append(value)
        if ema:
            state = state._replace(ema=average(state, ema))
        state = state._replace(step=state.step + 1)
        return state, {name: jnp.mean(jnp.stack(values)) for name, values in metrics.items()}

    return step


def _gradient(model, player, prepare, axis_name, key, params, extra, slices: Batch) -> tuple[Tree, Tree, dict]:
    """(gradient in the player's own parameters, extra, metrics), accumulated over the slices [A, B, ...]."""
    count, size = slices.x.shape[:2]
    devices = 1 if axis_name is None else jax.lax.axis_size(axis_name)
    first = 0 if axis_name is None else jax.lax.axis_index(axis_name) * size

    def loss(own: Tree, extra: Tree, index: Array, batch: Batch) -> tuple[Array, tuple[dict, Tree]]:
        # noise belongs to the example: its key comes from its place in the whole batch, wherever it lies
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, index)
        losses, (metrics, extra) = model.losses[player]({**params, player: own}, extra, keys, prepare(batch))
        return jnp.mean(losses), ({"loss": losses, **metrics}, extra)

    def one(extra: Tree, a: Array, batch: Batch) -> tuple[Tree, Tree, dict]:
        index = a * size * devices + first + jnp.arange(size)
        grads, (metrics, extra) = jax.grad(loss, has_aux=True)(params[player], extra, index, batch)
        return grads, extra, jax.tree.map(_mean, metrics)

    grads, extra, metrics = one(extra, jnp.zeros((), jnp.int32), jax.tree.map(lambda s: s[0], slices))
    if count > 1:

        def body(carry: tuple, slice_: tuple) -> tuple[tuple, None]:
            grads, extra, metrics = carry
            more, extra, told = one(extra, *slice_)
            return (jax.tree.map(jnp.add, grads, more), extra, jax.tree.map(jnp.add, metrics, told)), None

        rest = jnp.arange(1, count), jax.tree.map(lambda s: s[1:], slices)
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
    """ema <- d ema + (1 - d) now, d = min(decay, (1 + n) / (10 + n)) after n steps: the warm-up forgets the
    initialisation soon. Whole numbers are copied."""
    n = state.step.astype(jnp.float32) + 1.0
    d = jnp.minimum(decay, (1.0 + n) / (10.0 + n))
    now = Average(state.params, state.extra)
    return jax.tree.map(lambda old, new: d * old + (1.0 - d) * new if _floating(new) else new, state.ema, now)


class Report(NamedTuple):
    """What a call of several steps tells: the metrics' means over its steps, and for every player the first step
    whose loss or gradient was not finite, or -1."""

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
