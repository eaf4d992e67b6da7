"""Denoising diffusion (Ho, Jain and Abbeel 2020, arXiv:2006.11239)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp

from jaxgen.losses.likelihood import total
from jaxgen.nets import Network
from jaxgen.schedules import Schedule, diffuse, like, parametrisation
from jaxgen.types import (
    Array,
    Batch,
    Conditioner,
    Keys,
    Model,
    Predict,
    Sampler,
    Tree,
    check,
    check_condition,
    condition_of,
    normal,
)


def diffusion(
    denoiser: Network,
    schedule: Schedule,
    shape: Sequence[int],
    *,
    sampler: Sampler,
    prediction: str = "eps",
    steps: int | None = 1000,
    inversion: Sampler | None = None,
    condition: Conditioner | None = None,
    drop: float = 0.1,
) -> Model:
    """loss = mean_i (target_i - f(x_t, t)_i)^2, x_t = alpha_t x_0 + sigma_t eps, one t an example: with prediction
    "eps" the simple loss L_simple (eq. 14), up to the mean over dimensions.

    denoiser: (x_t [B, ...], t [B] in [0, 1], condition) -> what `prediction` names ("eps", "x0" or "v"), like x_t.
    shape: of one example; sampler: the model's default; inversion: a deterministic sampler from data to noise, by
    which `encode` works; steps: times are uniform on {1/steps, ..., 1}, or on (0, 1] with None.
    condition: what the denoiser is given besides; it is dropped with probability `drop`, which trains the
    unconditional model that classifier-free guidance needs (Ho and Salimans 2022, arXiv:2207.12598, algorithm 1).
    """
    f = parametrisation(prediction)
    check(0.0 <= drop <= 1.0, f"drop is a probability, it is {drop}")

    def init(key: Array, batch: Batch) -> tuple[dict, Tree]:
        params, stats = denoiser.init(key, batch.x, jnp.ones(batch.x.shape[0]), condition_of(condition, batch))
        return {"denoiser": params}, {"denoiser": stats}

    def draw(key: Array) -> tuple[Array, Array, Array]:
        """(t, eps, whether the condition is dropped) of one example."""
        for_t, for_eps, for_drop = jax.random.split(key, 3)
        u = jax.random.uniform(for_t)
        t = 1.0 - u if steps is None else (jnp.floor(u * steps) + 1.0) / steps
        return t, jax.random.normal(for_eps, tuple(shape)), jax.random.uniform(for_drop) < drop

    def loss(params: Tree, extra: Tree, keys: Keys, batch: Batch) -> tuple[Array, tuple[dict, Tree]]:
        t, eps, dropped = jax.vmap(draw)(keys)
        c = condition_of(condition, batch)
        if condition is not None and c is not None:
            c = jnp.where(like(dropped, c), condition.empty(c), c)
        x_t = diffuse(schedule, batch.x, eps, t)
        output, stats = denoiser.apply(params["denoiser"], extra["denoiser"], x_t, t, c, train=True)
        target = f.target(like(schedule.alpha(t), x_t), like(schedule.sigma(t), x_t), batch.x, eps)
        return total(jnp.square(target - output)) / eps[0].size, ({}, {"denoiser": stats})

    def prior(params: Tree, extra: Tree, keys: Keys) -> Array:
        return normal(keys, shape)

    def predict(params: Tree, extra: Tree, condition: Tree) -> Predict:
        def denoise(x: Array, t: Array) -> Array:
            t = jnp.broadcast_to(t, x.shape[:1])
            output, _ = denoiser.apply(params["denoiser"], extra["denoiser"], x, t, condition)
            return f.to_x0(like(schedule.alpha(t), x), like(schedule.sigma(t), x), x, output)

        return denoise

    def encode(params: Tree, extra: Tree, x: Array, condition: Tree) -> Array:
        assert inversion is not None
        return inversion(jax.random.split(jax.random.key(0), x.shape[0]), predict(params, extra, condition), x)

    return Model(
        init,
        {"denoiser": loss},
        prior,
        predict,
        sampler,
        condition=condition,
        encode=encode if inversion is not None else None,
        schedule=schedule,
        check=partial(check_condition, condition),
    )
