"""Students of a trained denoiser, who need fewer steps: progressive distillation and reflow."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp

from jaxgen.conditions import check_condition, condition_of
from jaxgen.families.denoiser import PLAYER, Denoiser, Teacher, check_teacher, droppable, kept
from jaxgen.families.flow import flow_density
from jaxgen.losses.denoising import TimesOf, Weighting, continuous
from jaxgen.losses.likelihood import total
from jaxgen.nets import Network
from jaxgen.parametrisations import Parametrisation, parametrisation
from jaxgen.processes import diffuse, flowed, like
from jaxgen.types import Array, Batch, Conditioner, Game, Guidance, Model, Sampler, Tree, Turn, check, normal


def progressive(
    denoiser: Network,
    teacher: Model,
    shape: Sequence[int],
    *,
    steps: int,
    sampler: Sampler,
    prediction: str | Parametrisation = "v",
    guidance: Guidance | None = None,
    condition: Conditioner | None = None,
    drop: float = 0.1,
) -> Model:
    """One step of DDIM as good as two of the teacher's: at t = i / steps, with s = t - 1 / (2 steps) and u = t - 1 /
    steps, x_s and x_u by the teacher's steps from x_t, the estimate should be

        x~ = (x_u - (sigma_u / sigma_t) x_t) / (alpha_u - (sigma_u / sigma_t) alpha_t),

    weighed by max(SNR, 1) (Salimans and Ho 2022, arXiv:2202.00512, algorithm 2 and eq. 9). A student of `steps` begins
    as its teacher, `fit(..., start={"teacher": RUN, "denoiser": RUN})`, and is the teacher of one of half as many.

    denoiser: as of `diffusion`, whose process is the teacher's; sampler: `iterate(ddim(process), uniform(steps))`.
    guidance: with which the teacher is followed. InputError for a teacher that does not iterate.
    """
    condition = droppable(condition, drop)
    check(steps >= 1, f"a student takes at least one step, not {steps}")
    student, guide = _pair(denoiser, teacher, shape, prediction, guidance, condition)
    process = student.process

    def loss(params: Tree, extra: Tree, turn: Turn, batch: Batch) -> tuple[Array, tuple[dict, Tree]]:
        for_t, for_eps, for_drop, for_net = turn.split(4)
        i = jnp.floor(jax.vmap(jax.random.uniform)(for_t.keys) * steps) + 1.0
        t, s, u = i / steps, (i - 0.5) / steps, (i - 1.0) / steps
        x_t, c = diffuse(process, batch.x, normal(for_eps.keys, shape), t), kept(condition, batch, for_drop, drop)
        follow = guide.predict(params, extra, c)
        x_s = flowed(process, follow(x_t, t).x0, x_t, t, s)
        x_u = flowed(process, follow(x_s, s).x0, x_s, s, u)
        ratio = process.sigma(u) / process.sigma(t)
        target = (x_u - like(ratio, x_t) * x_t) / like(process.alpha(u) - ratio * process.alpha(t), x_t)
        found = student(params, extra, x_t, t, c, for_net.keys)
        snr = jnp.square(process.alpha(t) / process.sigma(t))
        error = jnp.maximum(snr, 1.0) * total(jnp.square(target - found.x0)) / target[0].size
        return error, ({}, {**extra, PLAYER: found.stats})

    return _model(student, guide, loss, sampler, condition)


def reflow(
    denoiser: Network,
    teacher: Model,
    shape: Sequence[int],
    *,
    sampler: Sampler,
    prediction: str | Parametrisation = "velocity",
    times: TimesOf | None = None,
    weighting: Weighting | None = None,
    guidance: Guidance | None = None,
    condition: Conditioner | None = None,
    drop: float = 0.1,
) -> Model:
    """The loss of `diffusion` on pairs of a noise and what the teacher's own sampler makes of it, whose paths cross
    less: rectified flow's second round (Liu, Gong and Liu 2022, arXiv:2209.03003, eq. 1 and algorithm 1). Of the data
    it takes the conditions alone. Pairs are drawn as they are needed, one evaluation of the teacher's network for each
    step of its sampler, which should add no noise. Groups and errors as of `progressive`; the density is that of the
    probability flow.
    """
    condition = droppable(condition, drop)
    student, guide = _pair(denoiser, teacher, shape, prediction, guidance, condition)
    times = times or continuous()

    def loss(params: Tree, extra: Tree, turn: Turn, batch: Batch) -> tuple[Array, tuple[dict, Tree]]:
        for_t, for_eps, for_drop, for_net, for_walk = turn.split(5)
        t, eps = times(student.process, for_t), normal(for_eps.keys, shape)
        c = kept(condition, batch, for_drop, drop)
        noise = student.process.scale * eps
        x0 = jax.lax.stop_gradient(teacher.sampler(for_walk.keys, guide.predict(params, extra, c), noise))
        error, found = student.error(params, extra, x0, eps, t, c, for_net.keys, weighting)
        return error, ({}, {**extra, PLAYER: found.stats})

    model = _model(student, guide, loss, sampler, condition)
    return model._replace(density=flow_density(model))


def _pair(denoiser, teacher: Model, shape, prediction, guidance, condition) -> tuple[Denoiser, Teacher]:
    check_teacher(teacher, condition)
    process = teacher.process
    assert process is not None
    return Denoiser(denoiser, process, parametrisation(prediction), tuple(shape)), Teacher(teacher, guidance)


def _model(student: Denoiser, guide: Teacher, loss, sampler: Sampler, condition: Conditioner | None) -> Model:
    def init(key: Array, batch: Batch) -> tuple[dict, Tree]:
        for_student, for_teacher = jax.random.split(key)
        own = student.init(for_student, batch.x, condition_of(condition, batch))
        return guide.beside(own, for_teacher, batch)

    game = Game(init, {PLAYER: loss}, partial(check_condition, condition))
    return Model(game, student.prior, student.predict, sampler, condition=condition, process=student.process)
