"""Low-rank adaptation: a model whose parameters stay, plus a product of two thin matrices that is trained."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxgen.types import Array, Batch, Game, Loss, Model, Player, Tree, Turn, check

BASE = "base"


def low_rank(model: Model, rank: int = 4, *, scale: float = 1.0, players: Sequence[Player] | None = None) -> Model:
    """Every kernel W [..., I, O] of `players` (all by default) becomes W + scale / rank A B, A [..., I, rank] and
    B [rank, O]; A and B are trained, W stays: LoRA (Hu et al. 2021, arXiv:2106.09685, eq. 3). A is normal of deviation
    1 / sqrt(fan in), B is 0 at first, so that training begins at the model itself. A convolution's kernel is a matrix,
    its taps and inputs by its outputs; kernels of layers that are scanned over are as many matrices, [L, I, O].

    params: the frozen group "base" holds the model's own, which `fit(..., start={"base": RUN})` takes from a run; each
    player's hold {path: {"a", "b"}}. `merged` gives the parameters of the plain model.
    """
    check(rank >= 1, f"a low-rank update has a rank of at least 1, not {rank}")
    check(BASE not in model.game.losses, f"a player may not be called {BASE!r}: that is the group of what is adapted")
    adapted = tuple(model.game.losses if players is None else players)
    unknown = sorted(set(adapted) - set(model.game.losses))
    check(not unknown and bool(adapted), f"adapt some of the players {sorted(model.game.losses)}, not {list(adapted)}")

    def full(params: Tree) -> Tree:
        return merged(params, scale / rank)

    def init(key: Array, batch: Batch) -> tuple[dict, Tree]:
        for_model, for_updates = jax.random.split(key)
        base, extra = model.game.init(for_model, batch)
        keys = jax.random.split(for_updates, len(adapted))
        updates = {p: _updates(k, base[p], rank) for p, k in zip(adapted, keys, strict=True)}
        return {BASE: base, **updates}, {BASE: extra}

    def of_full(loss: Loss) -> Loss:
        def adapted_loss(params: Tree, extra: Tree, turn: Turn, batch: Batch) -> tuple[Array, tuple[dict, Tree]]:
            value, (metrics, carried) = loss(full(params), extra[BASE], turn, batch)
            return value, (metrics, {**extra, BASE: carried})

        return adapted_loss

    def on(function: Any) -> Any:
        """A function of the model, of the parameters that it stands for."""
        return None if function is None else lambda params, extra, *rest: function(full(params), extra[BASE], *rest)

    density = model.density
    return model._replace(
        game=Game(init, {p: of_full(model.game.losses[p]) for p in adapted}, model.game.check),
        prior=on(model.prior),
        predict=on(model.predict),
        decode=on(model.decode),
        encode=on(model.encode),
        density=None if density is None else density._replace(log_p=on(density.log_p)),
    )


def merged(params: Tree, weight: float) -> Tree:
    """The parameters W + weight A B of the plain model: an adapted one is merged with weight = scale / rank."""
    return {
        player: _added(own, params[player], weight) if player in params else own for player, own in params[BASE].items()
    }


def _added(base: Tree, updates: Tree, weight: float) -> Tree:
    def add(path: tuple, w: Array) -> Array:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if name not in updates:
            return w
        a, b = updates[name]["a"], updates[name]["b"]
        return w + weight * (a @ b).reshape(w.shape).astype(w.dtype)

    return jax.tree.map_with_path(add, base)


def _updates(key: Array, base: Tree, rank: int) -> dict[str, dict[str, Array]]:
    kernels = {
        jax.tree_util.keystr(path, simple=True, separator="/"): w
        for path, w in jax.tree.leaves_with_path(base)
        if w.ndim >= 2 and getattr(path[-1], "key", None) == "kernel"
    }
    check(bool(kernels), "a low-rank update needs kernels, this network has none: adapt another player")
    shapes = {name: _matrices(w.shape, rank) for name, w in kernels.items()}
    # one draw: every shape of a generator is compiled anew
    noise = jax.random.normal(key, (sum(math.prod(a) for a, _ in shapes.values()),))
    updates, at = {}, 0
    for name, (of_a, of_b) in shapes.items():
        a = noise[at : at + math.prod(of_a)].reshape(of_a) / math.sqrt(of_a[-2])
        updates[name], at = {"a": a, "b": jnp.zeros(of_b)}, at + math.prod(of_a)
    return updates


def _matrices(shape: tuple[int, ...], rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The shapes of A and B of a kernel: one with an odd number of axes is of layers in its first (`nn.scan`)."""
    layers, (*inputs, outputs) = shape[: len(shape) % 2], shape[len(shape) % 2 :]
    return (*layers, math.prod(inputs), rank), (*layers, rank, outputs)
