"""Denoising diffusion (Ho, Jain and Abbeel 2020, arXiv:2006.11239)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxgen.conditions import check_condition, condition_of, optional, where
from jaxgen.losses.likelihood import total
from jaxgen.nets import Network
from jaxgen.processes import diffuse, like, parametrisation
from jaxgen.types import (
    Array,
    Batch,
    Conditioner,
    Game,
    Keys,
    Model,
    Predict,
    Prediction,
    Process,
    Sampler,
    Tree,
    Turn,
    check,
    normal,
)

PLAYER = "denoiser"


def diffusion(
    denoiser: Network,
    process: Process,
    shape: Sequence[int],
    *,
    sampler: Sampler,
    prediction: str = "eps",
    steps: int | None = 1000,
    condition: Conditioner | None = None,
    drop: float = 0.1,
) -> Model:
    """loss = mean_i (target_i - f(x_t, t)_i)^2, x_t = alpha_t x_0 + sigma_t eps, one t an example: with prediction
    "eps" the simple loss L_simple (eq. 14), up to the mean over dimensions.

    denoiser: (x_t [B, ...], t [B] in [0, 1], condition) -> what `prediction` names ("eps", "x0" or "v"), like x_t.
    shape: of one example; sampler: the model's default; steps: times are uniform on {1/steps, ..., 1}, or on (0, 1]
    with None. condition: an input of the denoiser, dropped with probability `drop`, which trains the unconditional
    model that classifier-free guidance needs (Ho and Salimans 2022, arXiv:2207.12598, algorithm 1); 0: never.
    """
    f = parametrisation(prediction)
    check(0.0 <= drop <= 1.0, f"drop is a probability, it is {drop}")
    condition = optional(condition) if condition is not None and drop > 0 else condition

    def init(key: Array, batch: Batch) -> tuple[dict, Tree]:
        check(
            batch.x.shape[1:] == tuple(shape),
            f"the model is of examples {tuple(shape)}, the data are {batch.x.shape[1:]}: change one",
        )
        params, stats = denoiser.init(key, batch.x, jnp.ones(batch.x.shape[0]), condition_of(condition, batch))
        return {PLAYER: params}, {PLAYER: stats}

    def loss(params: Tree, extra: Tree, turn: Turn, batch: Batch) -> tuple[Array, tuple[dict, Tree]]:
        t, eps, dropped = jax.vmap(partial(_draw, tuple(shape), steps, drop))(turn.keys)
        c = condition_of(condition, batch)
        if condition is not None and condition.empty is not None:
            c = where(dropped, condition.empty(batch.x.shape[0]), c)
        x_t = diffuse(process, batch.x, eps, t)
        output, stats = denoiser.apply(params[PLAYER], extra[PLAYER], x_t, t, c, train=True)
        target = f.target(like(process.alpha(t), x_t), like(process.sigma(t), x_t), batch.x, eps)
        return total(jnp.square(target - output)) / eps[0].size, ({}, {**extra, PLAYER: stats})

    def prior(params: Tree, extra: Tree, keys: Keys, condition: Tree) -> Array:
        return process.scale * normal(keys, shape)

    def predict(params: Tree, extra: Tree, condition: Tree) -> Predict:
        def denoise(x: Array, t: Array) -> Prediction:
            t = jnp.broadcast_to(t, x.shape[:1])
            output, _ = denoiser.apply(params[PLAYER], extra[PLAYER], x, t, condition)
            return Prediction(f.to_x0(like(process.alpha(t), x), like(process.sigma(t), x), x, output))

        return denoise

    game = Game(init, {PLAYER: loss}, partial(check_condition, condition))
    return Model(game, prior, predict, sampler, condition=condition, process=process)


def _draw(shape: tuple[int, ...], steps: int | None, drop: float, key: Any) -> tuple[Array, Array, Array]:
    """(t, eps, whether the condition is dropped) of one example."""
    for_t, for_eps, for_drop = jax.random.split(key, 3)
    u = jax.random.uniform(for_t)
    t = 1.0 - u if steps is None else (jnp.floor(u * steps) + 1.0) / steps
    return t, jax.random.normal(for_eps, shape), jax.random.uniform(for_drop) < drop
