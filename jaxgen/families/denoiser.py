"""What the families of denoisers share: what a network's output means, dropped conditions, the prior."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxgen.conditions import condition_of, optional, where
from jaxgen.losses.denoising import Weighting
from jaxgen.losses.likelihood import total
from jaxgen.nets import Network
from jaxgen.parametrisations import Parametrisation
from jaxgen.processes import diffuse, like
from jaxgen.types import (
    Array,
    Batch,
    Conditioner,
    Guidance,
    Interval,
    Keys,
    Model,
    Predict,
    Prediction,
    Process,
    Tree,
    Turn,
    check,
    normal,
)

PLAYER = "denoiser"
TEACHER = "teacher"


class Output(NamedTuple):
    """Of a network at (x_t, t): raw, what its parametrisation names; x0, the estimate that this stands for; fraction,
    of `Prediction`, or None; and its statistics."""

    raw: Array
    x0: Array
    fraction: Array | None
    stats: Tree


class Denoiser(NamedTuple):
    """A network, (x_t [B, ...], t [B], condition) -> output, with what gives its output a meaning.

    learned: a second half of its channels is the fraction of the log variance of a step back in time, from -1 to 1
    """

    network: Network
    process: Process
    f: Parametrisation
    shape: tuple[int, ...]
    learned: bool = False

    def init(self, key: Array, x: Array, condition: Tree) -> tuple[dict, Tree]:
        """(params, extra) of the one player; x: data [B, ...]."""
        check_examples(self.shape, x)
        params, stats = self.network.init(key, x, jnp.ones(x.shape[0]), condition)
        return {PLAYER: params}, {PLAYER: stats}

    def scales(self, x: Array, t: Array) -> tuple[Array, Array]:
        """(alpha, sigma) at t, shaped to multiply x."""
        return like(self.process.alpha(t), x), like(self.process.sigma(t), x)

    def __call__(
        self, params: Tree, extra: Tree, x: Array, t: Array, condition: Tree, keys: Keys | None = None
    ) -> Output:
        """The network's output at x_t [B, ...] and t, [B] or a scalar; keys: in training, one an example."""
        check(not isinstance(t, Interval), "this model knows no means over time: take a solver of points of time")
        t = jnp.broadcast_to(t, x.shape[:1])
        a, s = self.scales(x, t)
        inputs = self.f.inputs(a, s, x, t)
        raw, stats = self.network.call(keys, params[PLAYER], extra[PLAYER], *inputs, condition)
        fraction = None
        if self.learned:
            needed = 2 * self.shape[-1]
            check(
                raw.shape[-1] == needed,
                f"a denoiser that learns variances gives {needed} channels, this one {raw.shape[-1]}: change outputs",
            )
            raw, v = jnp.split(raw, 2, axis=-1)
            fraction = 0.5 * (v + 1.0)
        return Output(raw, self.f.to_x0(a, s, x, raw), fraction, stats)

    def error(
        self,
        params: Tree,
        extra: Tree,
        x0: Array,
        eps: Array,
        t: Array,
        condition: Tree,
        keys: Keys,
        weighting: Weighting | None = None,
    ) -> tuple[Array, Output]:
        """w_t mean_i (x_0 - x^_0)_i^2, [B], of x_t = alpha_t x_0 + sigma_t eps; without a weighting that of the raw
        output."""
        found = self(params, extra, diffuse(self.process, x0, eps, t), t, condition, keys)
        a, s = self.scales(x0, t)
        error = total(jnp.square(self.f.target(a, s, x0, eps) - found.raw)) / x0[0].size
        if weighting is not None:
            slope = self.f.error(self.process.alpha(t), self.process.sigma(t))
            error = weighting(self.process, t) * jnp.square(slope) * error
        return error, found

    def predict(self, params: Tree, extra: Tree, condition: Tree) -> Predict:
        """The model's prediction."""
        encoded = self.network.encode(params[PLAYER], extra[PLAYER], condition)  # once, not at every step

        def denoise(x: Array, t: Array) -> Prediction:
            found = self(params, extra, x, t, encoded)
            return Prediction(found.x0, found.fraction)

        return denoise

    def prior(self, params: Tree, extra: Tree, keys: Keys, condition: Tree) -> Array:
        """x_1 ~ N(0, scale^2 I)."""
        return self.process.scale * normal(keys, self.shape)


def droppable(condition: Conditioner | None, drop: float) -> Conditioner | None:
    """The condition of a model that leaves it out with probability `drop`; InputError for what is no probability."""
    check(0.0 <= drop <= 1.0, f"drop is a probability, it is {drop}")
    return optional(condition) if condition is not None and drop > 0 else condition


def kept(condition: Conditioner | None, batch: Batch, turn: Turn, drop: float) -> Tree:
    """The condition of the data, left out with probability `drop` where the conditioner has a value for that."""
    c = condition_of(condition, batch)
    if condition is None or condition.empty is None:
        return c
    dropped = jax.vmap(jax.random.uniform)(turn.keys) < drop
    return where(dropped, condition.empty(batch.x.shape[0]), c)


def check_examples(shape: tuple[int, ...], x: Array) -> None:
    """InputError for data [B, ...] that are not of that shape."""
    check(x.shape[1:] == shape, f"the model is of examples {shape}, the data are {x.shape[1:]}: change one")


Source = Callable[[Keys], Array]


def noise_of(keys: Keys, shape: Sequence[int], source: Source | None) -> Array:
    """x_1 of unit scale: from `source`, or normal."""
    if source is None:
        return normal(keys, shape)
    noise = source(keys)
    got = noise.shape[1:]
    check(got == tuple(shape), f"the source draws {got} an example, the model is of {tuple(shape)}: change one")
    return noise


class Teacher(NamedTuple):
    """A trained model, whose parameters are the frozen group "teacher": `fit(..., start={"teacher": RUN})` takes them
    from a run. guidance: with which it is followed."""

    model: Model
    guidance: Guidance | None = None

    def beside(self, own: tuple[dict, Tree], key: Array, batch: Batch) -> tuple[dict, Tree]:
        """(params, extra) of a student, with its group."""
        params, extra = self.model.game.init(key, batch)
        return {**own[0], TEACHER: params}, {**own[1], TEACHER: extra}

    def predict(self, params: Tree, extra: Tree, condition: Tree) -> Predict:
        """Its prediction under the student's condition, without a gradient."""
        conditioner = self.model.condition

        def predict_of(c: Tree) -> Predict:
            if c is None and conditioner is not None and conditioner.empty is not None:
                c = conditioner.empty(jax.tree.leaves(condition)[0].shape[0])
            return self.model.predict(params[TEACHER], extra[TEACHER], c if conditioner is not None else None)

        base = predict_of(condition) if self.guidance is None else self.guidance(predict_of, condition, None)
        return lambda x, t: jax.lax.stop_gradient(base(x, t))


def check_teacher(teacher: Model, condition: Conditioner | None) -> None:
    """InputError for a teacher that does not iterate, or whose conditions have another form than the student's."""
    check(teacher.process is not None, "a teacher is a model that iterates, this one draws in one step")
    known = teacher.condition
    check(condition is not None or known is None, "the teacher is conditional and the student is not: give condition=")
    same = known is None or condition is None or (known.empty is None) == (condition.empty is None)
    check(same, "the conditions of teacher and student have two forms: give both drop=0, or both drop > 0")
