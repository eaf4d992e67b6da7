"""MeanFlow: the mean of a flow's velocity over an interval of time, with which one evaluation is a sample."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxgen.conditions import check_condition, condition_of
from jaxgen.families.denoiser import PLAYER, check_examples, droppable, kept
from jaxgen.losses.denoising import IntervalsOf, intervals
from jaxgen.losses.likelihood import total
from jaxgen.nets import Network
from jaxgen.parametrisations import CLOCK
from jaxgen.processes import diffuse, flow, like
from jaxgen.types import (
    Array,
    Batch,
    Conditioner,
    Game,
    Interval,
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


def mean_flow(
    denoiser: Network,
    shape: Sequence[int],
    *,
    sampler: Sampler,
    process: Process | None = None,
    times: IntervalsOf | None = None,
    power: float = 1.0,
    scale: float = 1.0,
    mix: float = 0.0,
    condition: Conditioner | None = None,
    drop: float = 0.1,
) -> Model:
    """u(x_t, r, t) = 1 / (t - r) int_r^t v(x_s, s) ds of the flow x_t = (1 - t) x_0 + t eps, v = eps - x_0, by

        loss = |u - sg(v - (t - r) du/dt)|^2 / sg(that + 1e-3)^power,   du/dt = d_x u v + d_t u,

    one forward-mode derivative a step (Geng et al. 2025, arXiv:2505.13447, eq. 6 to 11 and 22; its images of 256x256
    have power 1, those of CIFAR-10 in its code 0.75).

    denoiser: (x_t [B, ...], (t, t - r) / 1000 [B, 2], condition) -> u: networks that count the time to 1000 would have
    derivatives as large. sampler: of one evaluation, `iterate(jumping(ddim(process)), uniform(1))`, or of several;
    plain solvers take u at r = t, the velocity of the flow. times: `losses.denoising.intervals` by default. process:
    `flow()`, or one with its own clip.
    scale, mix: the guidance omega and kappa that are trained into u, v replaced by omega v + kappa u(x_t, t, t | c) +
    (1 - omega - kappa) u(x_t, t, t) where the condition was not dropped (eq. 20): evaluated once, guided all the same.
    """
    process, times = process or flow(), times or intervals()
    check(power >= 0, f"the power of the loss's weight must not be negative, it is {power}")
    condition = droppable(condition, drop)
    guided = (scale, mix) != (1.0, 0.0)
    can = condition is not None and condition.empty is not None
    check(not guided or can, "guidance is trained into a model with a condition that is dropped at times: drop > 0")

    def init(key: Array, batch: Batch) -> tuple[dict, Tree]:
        check_examples(tuple(shape), batch.x)
        c, both = condition_of(condition, batch), jnp.ones((batch.x.shape[0], 2))
        params, stats = denoiser.init(key, batch.x, both, c)
        return {PLAYER: params}, {PLAYER: stats}

    def mean_velocity(params, extra, x: Array, r: Array, t: Array, c: Tree, keys: Any = None) -> tuple:
        times = jnp.stack([t, t - r], axis=-1) / CLOCK
        return denoiser.call(keys, params[PLAYER], extra[PLAYER], x, times, c)

    def loss(params: Tree, extra: Tree, turn: Turn, batch: Batch) -> tuple[Array, tuple[dict, Tree]]:
        for_t, for_eps, for_drop, for_net = turn.split(4)
        t, r = times(for_t)
        eps, c = normal(for_eps.keys, shape), kept(condition, batch, for_drop, drop)
        x_t, v = diffuse(process, batch.x, eps, t), eps - batch.x
        v = followed(params, extra, x_t, t, c, v) if guided else v

        def along(x: Array, r: Array, t: Array) -> tuple[Array, Tree]:
            return mean_velocity(params, extra, x, r, t, c, for_net.keys)

        tangents = (v, jnp.zeros_like(r), jnp.ones_like(t))
        u, by_t, stats = jax.jvp(along, (x_t, r, t), tangents, has_aux=True)
        target = jax.lax.stop_gradient(v - like(t - r, x_t) * by_t)
        error = total(jnp.square(u - target))
        weight = jax.lax.stop_gradient(error + 1e-3) ** power
        measured = {"squared_error": error / x_t[0].size}
        return error / weight, (measured, {**extra, PLAYER: stats})

    def followed(params, extra, x_t: Array, t: Array, c: Tree, v: Array) -> Array:
        """The velocity with guidance."""
        nothing = condition.empty(x_t.shape[0])  # type: ignore[union-attr, misc]
        frozen = jax.lax.stop_gradient(params)
        with_c, without = (mean_velocity(frozen, extra, x_t, t, t, k)[0] for k in (c, nothing))
        return jnp.where(like(c.known, v), scale * v + mix * with_c + (1.0 - scale - mix) * without, v)

    def prior(params: Tree, extra: Tree, keys: Keys, condition: Tree) -> Array:
        return process.scale * normal(keys, shape)

    def predict(params: Tree, extra: Tree, condition: Tree) -> Predict:
        encoded = denoiser.encode(params[PLAYER], extra[PLAYER], condition)  # once, not at every step

        def denoise(x: Array, t: Array) -> Prediction:
            t, r = (jnp.broadcast_to(time, x.shape[:1]) for time in (t if isinstance(t, Interval) else (t, t)))
            u, _ = mean_velocity(params, extra, x, r, t, encoded)
            return Prediction(x - like(t, x) * u)

        return denoise

    game = Game(init, {PLAYER: loss}, partial(check_condition, condition))
    return Model(game, prior, predict, sampler, condition=condition, process=process)
