"""Discrete diffusion with an absorbing state, over grids of codes (Austin et al. 2021, arXiv:2107.03006)."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from jaxgen.conditions import check_condition, condition_of
from jaxgen.families.autoregressive import log_probs
from jaxgen.families.common import folded, output_shape
from jaxgen.families.denoiser import PLAYER, droppable, kept
from jaxgen.losses.denoising import TimesOf, low_discrepancy
from jaxgen.losses.likelihood import total
from jaxgen.nets import Network
from jaxgen.processes import absorbing as masking
from jaxgen.types import (
    Array,
    Batch,
    Conditioner,
    Density,
    Game,
    Keys,
    Model,
    Predict,
    Prediction,
    Sampler,
    Tree,
    Turn,
    check,
)


def absorbing(
    network: Network,
    codes: int,
    grid: tuple[int, int],
    *,
    sampler: Sampler,
    times: TimesOf | None = None,
    condition: Conditioner | None = None,
    drop: float = 0.1,
) -> Model:
    """-log p(c) <= E_n (N / n) sum_{i masked} -log p(c_i | the codes that are not), nats, of grids of codes c
    [B, *grid] in {0, ..., codes - 1}: n of the N positions are masked, n uniform on {1, ..., N}, all sets as likely.

    It is the variational bound of the absorbing process in continuous time, E_t (1 / t) sum of the same with each
    position masked by itself with probability t (Sahoo et al. 2024, arXiv:2406.07524, eq. 10; Shi et al. 2024,
    arXiv:2406.04329, section 3), where the integral over the times of a given n is taken: no weight 1 / t without
    bound. So it is that of autoregressive models of any order (Hoogeboom et al. 2021, arXiv:2110.02037, section 3), and
    -log p(c) itself where the network knows all conditional distributions.

    network: (c with `codes` for a mask, condition) -> logits [B, *grid, codes], such as `nets.codes.CodeTransformer`.
    It sees no time: how much is masked shows. sampler: by `sampling.unmask` or `confident`, of
    `processes.absorbing(codes)`. times: of `losses.denoising`, n = ceil(t N); another than a uniform distribution
    weights the bound. metrics: "code", the mean -log p of a masked code, and its share of hits, "accuracy".
    condition, drop: as of `families.diffusion`.
    """
    check(len(grid) == 2 and min(grid) >= 1, f"a grid of codes has a height and a width of at least 1, not {grid}")
    process, size, times = masking(codes), grid[0] * grid[1], times or low_discrepancy()
    condition = droppable(condition, drop)

    def init(key: Array, batch: Batch) -> tuple[dict, Tree]:
        index, c = jnp.zeros((batch.x.shape[0], *grid), jnp.int32), condition_of(condition, batch)
        params, stats = network.init(key, index, c)
        got = output_shape(network, params, stats, index, c)
        check(got == (*grid, codes), f"the network gives {got}, the logits of the codes are {(*grid, codes)}")
        return {PLAYER: params}, {PLAYER: stats}

    def guessed(params, extra, keys: Keys, x: Array, t: Array, c: Tree, training: Keys | None = None) -> tuple:
        """(log p of every code, which of them are masked, the weight N / n, the logits, statistics)."""
        n = jnp.clip(jnp.ceil(t * size), 1, size)
        hidden = masked(keys, n, grid)
        logits, stats = network.call(training, params[PLAYER], extra[PLAYER], jnp.where(hidden, codes, x), c)
        return log_probs(logits, x), hidden, size / n, logits, stats

    def loss(params: Tree, extra: Tree, turn: Turn, batch: Batch) -> tuple[Array, tuple[dict, Tree]]:
        for_t, for_masks, for_drop, for_net = turn.split(4)
        c, t = kept(condition, batch, for_drop, drop), times(process, for_t)
        found = guessed(params, extra, for_masks.keys, batch.x, t, c, for_net.keys)
        log_p, hidden, weight, logits, stats = found
        share = weight / size  # 1 / n
        hits = total(hidden & (jnp.argmax(logits, axis=-1) == batch.x)) * share
        nats = -total(jnp.where(hidden, log_p, 0.0))
        return weight * nats, ({"code": share * nats, "accuracy": hits}, {**extra, PLAYER: stats})

    def log_p(params: Tree, extra: Tree, keys: Keys, batch: Batch, k: int) -> Array:
        c, u = condition_of(condition, batch), jax.vmap(jax.random.uniform)(folded(keys, k))

        def draw(j: Array) -> Array:  # each n is as likely in every draw, and the k draws cover them evenly
            t = 1.0 - jnp.mod(u + j / k, 1.0)
            nats, hidden, weight, *_ = guessed(params, extra, folded(keys, j), batch.x, t, c)
            return weight * total(jnp.where(hidden, nats, 0.0))

        return jax.lax.map(draw, jnp.arange(k)).T

    def prior(params: Tree, extra: Tree, keys: Keys, condition: Tree) -> Array:
        return jnp.full((keys.shape[0], *grid), codes, jnp.int32)

    def predict(params: Tree, extra: Tree, condition: Tree) -> Predict:
        encoded = network.encode(params[PLAYER], extra[PLAYER], condition)  # once, not at every step
        return lambda x, t: Prediction(network.apply(params[PLAYER], extra[PLAYER], x, encoded)[0])

    return Model(
        Game(init, {PLAYER: loss}, partial(check_condition, condition)),
        prior,
        predict,
        sampler,
        encode=lambda params, extra, x, condition: x,
        condition=condition,
        density=Density(log_p, "bound", "a probability of grids of codes", draws=1000),
        process=process,
    )


def masked(keys: Keys, n: Array, grid: tuple[int, int]) -> Array:
    """n [B] positions of a grid, every set of so many as likely as any other: bool [B, *grid]."""
    u = jax.vmap(lambda key: jax.random.uniform(key, (grid[0] * grid[1],)))(keys)
    rank = jnp.argsort(jnp.argsort(u, axis=1), axis=1)
    return (rank < n[:, None]).reshape(-1, *grid)
