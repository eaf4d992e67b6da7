"""Autoregressive models of grids of codes (van den Oord et al. 2016, arXiv:1606.05328)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from jaxgen.conditions import check_condition, condition_of
from jaxgen.families.common import codes as as_codes
from jaxgen.families.common import folded, output_shape
from jaxgen.nets import Network
from jaxgen.types import Array, Batch, Conditioner, Density, Game, Keys, Model, Tree, Turn, check, one_shot

PLAYER = "prior"


def autoregressive(
    network: Network, codes: int, grid: tuple[int, int], *, condition: Conditioner | None = None
) -> Model:
    """-log p(c) = -sum_i log p(c_i | c_1, ..., c_{i-1}) of grids of codes c [B, *grid] in {0, ..., codes - 1}, nats.

    network: (c, condition) -> logits [B, *grid, codes], those of a position from the codes before it, row by row, such
    as `nets.codes.PixelCNN`. The player is "prior", for that is its use: `families.latent(autoencoder, this)`. Its
    noise is a grid of codes already, drawn position by position.
    """
    check(len(grid) == 2 and min(grid) >= 1, f"a grid of codes has a height and a width of at least 1, not {grid}")

    def init(key: Array, batch: Batch) -> tuple[dict, Tree]:
        index, c = jnp.zeros((batch.x.shape[0], *grid), jnp.int32), condition_of(condition, batch)
        params, stats = network.init(key, index, c)
        got = output_shape(network, params, stats, index, c)
        check(got == (*grid, codes), f"the prior gives {got}, the logits of the codes are {(*grid, codes)}: change one")
        return {PLAYER: params}, {PLAYER: stats}

    def loss(params: Tree, extra: Tree, turn: Turn, batch: Batch) -> tuple[Array, tuple[dict, Tree]]:
        c = condition_of(condition, batch)
        logits, stats = network.train(turn.keys, params[PLAYER], extra[PLAYER], batch.x, c)
        return -_log_prob(logits, batch.x), ({}, {**extra, PLAYER: stats})

    def log_p(params: Tree, extra: Tree, keys: Keys, batch: Batch, k: int) -> Array:
        logits, _ = network.apply(params[PLAYER], extra[PLAYER], batch.x, condition_of(condition, batch))
        return jnp.broadcast_to(_log_prob(logits, batch.x)[:, None], (batch.x.shape[0], k))

    def prior(params: Tree, extra: Tree, keys: Keys, condition: Tree) -> Array:
        encoded = network.encode(params[PLAYER], extra[PLAYER], condition)  # once, not at every position

        def logits_of(index: Array) -> Array:
            return network.apply(params[PLAYER], extra[PLAYER], index, encoded)[0]

        return _sampled(logits_of, keys, *grid)

    return Model(
        Game(init, {PLAYER: loss}, partial(check_condition, condition)),
        prior,
        as_codes,
        one_shot,
        encode=lambda params, extra, x, condition: x,
        condition=condition,
        density=Density(log_p, "exact", "a probability of grids of codes"),
    )


def log_probs(logits: Array, index: Array) -> Array:
    """log softmax(logits_i)[c_i] of every position i: [B, h, w, K], [B, h, w] -> nats [B, h, w]."""
    chosen = jnp.take_along_axis(logits, index[..., None], axis=-1)[..., 0]
    return chosen - jax.nn.logsumexp(logits, axis=-1)


def _log_prob(logits: Array, index: Array) -> Array:
    """Its sum over the positions: nats [B]."""
    return jnp.sum(log_probs(logits, index), axis=(1, 2))


def _sampled(logits_of: Callable[[Array], Array], keys: Keys, height: int, width: int) -> Array:
    """c_i ~ p(c_i | c_1, ..., c_{i-1}), position by position: [B, height, width]. Position i of an example draws from
    (its key, i)."""

    def body(i: Array, index: Array) -> Array:
        logits = logits_of(index.reshape(-1, height, width)).reshape(*index.shape, -1)[:, i]
        keys_i = folded(keys, i)
        return index.at[:, i].set(jax.vmap(jax.random.categorical)(keys_i, logits).astype(jnp.int32))

    index = jnp.zeros((keys.shape[0], height * width), jnp.int32)
    return jax.lax.fori_loop(0, height * width, body, index).reshape(-1, height, width)
