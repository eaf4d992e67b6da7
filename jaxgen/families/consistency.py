"""Consistency models: one evaluation from any noise level to the clean sample."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp

from jaxgen.conditions import check_condition, condition_of
from jaxgen.families.denoiser import PLAYER, Denoiser, Teacher, check_teacher, droppable, kept
from jaxgen.losses.denoising import PairsOf, TimesOf, log_normal
from jaxgen.losses.likelihood import total
from jaxgen.nets import Network
from jaxgen.parametrisations import Parametrisation, parametrisation
from jaxgen.processes import diffuse, flowed, level, like
from jaxgen.types import (
    Array,
    Batch,
    Conditioner,
    Game,
    Guidance,
    Model,
    Process,
    Sampler,
    Tree,
    Turn,
    check,
    normal,
    one_shot,
)

LAST = 1.0 - 1e-4  # at t = 1 the level of a flow is infinite


def consistency(
    denoiser: Network,
    process: Process,
    shape: Sequence[int],
    *,
    pairs: PairsOf,
    sampler: Sampler = one_shot,
    prediction: str | Parametrisation = "edm",
    times: TimesOf | None = None,
    huber: float = 0.0,
    teacher: Model | None = None,
    guidance: Guidance | None = None,
    condition: Conditioner | None = None,
    drop: float = 0.1,
) -> Model:
    """loss = (sqrt(|f(x_t, t) - sg f(x_r, r)|^2 + c^2) - c) / (S_t - S_r), r < t, S = sigma / alpha the noise levels:
    x_r of the same x_0 and eps as x_t, or, with a teacher, a step of its flow from x_t. f is the estimate of x_0, which
    at t = 0 is x itself; both sides have the same dropout. Consistency training as made easy by Geng et al. 2024
    (arXiv:2406.14548, section 3), and distillation (Song et al. 2023, arXiv:2303.01469, algorithms 2 and 3, by DDIM's
    step, without a second average).

    pairs: r of t, such as `losses.denoising.easy(steps)`; times: log-normal by default, of mean -1.1 and deviation 2;
    huber: c. A run of `diffusion` with the same network and values is what to begin with: `fit(..., start=RUN)`, or
    {"denoiser": RUN, "teacher": RUN}; guidance: with which the teacher is followed.
    sampler: `one_shot`, or `sampling.iterate(sampling.consistency(process), times)` for several evaluations.
    InputError for a parametrisation whose estimate at t = 0 is not x.
    """
    f = parametrisation(prediction)
    exact = float(jnp.max(jnp.abs(f.error(jnp.ones(()), jnp.zeros(()))))) == 0
    check(exact, "a consistency model gives x itself at t = 0, which the prediction of x0 does not: take another")
    check(huber >= 0, f"c of the loss must not be negative, it is {huber}")
    times = times or log_normal(-1.1, 2.0)
    condition = droppable(condition, drop)
    net, guide = Denoiser(denoiser, process, f, tuple(shape)), None
    if teacher is not None:
        check_teacher(teacher, condition)
        guide = Teacher(teacher, guidance)

    def init(key: Array, batch: Batch) -> tuple[dict, Tree]:
        for_net, for_teacher = jax.random.split(key)
        own = net.init(for_net, batch.x, condition_of(condition, batch))
        return own if guide is None else guide.beside(own, for_teacher, batch)

    def loss(params: Tree, extra: Tree, turn: Turn, batch: Batch) -> tuple[Array, tuple[dict, Tree]]:
        for_t, for_eps, for_drop, for_net = turn.split(4)
        t, eps = jnp.minimum(times(process, for_t), LAST), normal(for_eps.keys, shape)
        r, c = pairs(process, t, turn.step), kept(condition, batch, for_drop, drop)
        x_t, x_r = (diffuse(process, batch.x, eps, time) for time in (t, r))
        found = net(params, extra, x_t, t, c, for_net.keys)
        if guide is not None:
            x_r = flowed(process, guide.predict(params, extra, c)(x_t, t).x0, x_t, t, r)
        fixed = jax.lax.stop_gradient(net(params, extra, x_r, jnp.maximum(r, 1e-6), c, for_net.keys).x0)
        clean = batch.x if guide is None else x_r
        target = jnp.where(like(r, x_r) > 0, fixed, clean)
        distance = jnp.sqrt(total(jnp.square(found.x0 - target)) + huber**2 + 1e-12) - huber
        gap = level(process, t) - level(process, r)
        return distance / gap, ({}, {**extra, PLAYER: found.stats})

    game = Game(init, {PLAYER: loss}, partial(check_condition, condition))
    return Model(game, net.prior, net.predict, sampler, condition=condition, process=process)
