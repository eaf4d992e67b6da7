"""Hooks: what a run does every so many steps beside training. `record`, `save`, `draw` and `score` are jaxgen's own.

def norm(moment):
    return {"norm": float(optax.global_norm(moment.state.params))}

jaxgen.fit(exp, hooks=[Hook(100, norm)])
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen import checkpoint, conditions, exports, parallel, runs, viz
from jaxgen.data import normalize
from jaxgen.errors import notice
from jaxgen.records import Records
from jaxgen.runs import Experiment
from jaxgen.sampling import sample
from jaxgen.types import InputError, TrainState, Tree

POINTS = 1024  # samples of a picture of points
QUICK = 10.0  # seconds
FIRST_PICTURE = 20.0  # seconds of training, after which the first one is drawn


class Moment(NamedTuple):
    """What a hook is given.

    exp, folder, place   the run, its folder, and where its arrays lie
    state, step          after that many steps; the next call overwrites the state: copy what is to be kept
    metrics              the means since the last record, and what the hooks before this one have measured
    chief                whether this process is the one that writes files
    """

    exp: Experiment
    folder: Path
    place: parallel.Layout
    state: TrainState
    step: int
    metrics: Mapping[str, float] = {}
    chief: bool = True


class Hook(NamedTuple):
    """every   steps between calls; it is called after the last step too
    call    (moment) -> numbers for the record of this step, or None; in a run of several processes all of them call it
    also    "stop": also when a signal stops the run; "any": also then, and whenever another hook is called
    ready   () -> whether it is to be called now, before its time; asked of runs of one process after each compiled call
    """

    every: int
    call: Callable[[Moment], Mapping[str, float] | None]
    also: str = ""
    ready: Callable[[], bool] = lambda: False


def due(hooks: Sequence[Hook], step: int, last: int, stop: bool) -> list[Hook]:
    """The hooks to call after a step, in order; last: of the run; stop: a signal stops it here."""
    now = [step % hook.every == 0 or step == last or (stop and hook.also != "") for hook in hooks]
    early = [jax.process_count() == 1 and hook.ready() for hook in hooks]
    return [
        hook
        for hook, its_turn, before in zip(hooks, now, early, strict=True)
        if its_turn or before or (hook.also == "any" and any(now))
    ]


def steps_until(hooks: Sequence[Hook], step: int, last: int) -> int:
    """How many steps there are before the next hook."""
    return min(last - step, *(hook.every - step % hook.every for hook in hooks))


def record(records: Records, every: int) -> Hook:
    """A line of metrics.jsonl, and scalars for TensorBoard."""
    return Hook(every, lambda moment: records.log(moment.step, moment.metrics), also="any")


def save(store: checkpoint.Store, every: int) -> Hook:
    """A checkpoint. A save that fails, for want of space say, does not end the run: the next one is tried at its time;
    that the last one is there is for the loop to require."""

    def call(moment: Moment) -> None:
        with going_on(f"training goes on, the next save is that of step {moment.step}"):
            checkpoint.wait(store)
        with going_on(f"training goes on, the next save is {every} steps from here"):
            checkpoint.save(store, moment.state, moment.step)

    return Hook(every, call, also="stop")


def watch(store: checkpoint.Store, every: int) -> Hook:
    """Says soon that a save in the background has failed."""

    def call(moment: Moment) -> None:
        with going_on("training goes on, and the next save is tried at its time"):
            checkpoint.poll(store)

    return Hook(every, call)


def look(every: int) -> Hook:
    """The game's signs of going wrong, in the record as 0 or 1, and in a line where one appears."""
    before: dict[str, bool] = {}

    def call(moment: Moment) -> dict[str, float]:
        for name, sign in moment.exp.game.signs.items():
            now = sign.found(moment.metrics)
            if now and not before.get(name) and moment.chief:
                notice(f"jaxgen: note: step {moment.step}: {sign.line}; training goes on")
            before[name] = now
        return {f"sign/{name}": float(found) for name, found in before.items()}

    return Hook(every, call)


@contextlib.contextmanager
def going_on(what: str) -> Iterator[None]:
    """What could not be written is said in a line. Of several processes one alone may have failed: these stop."""
    try:
        yield
    except (checkpoint.SaveError, InputError) as error:
        if jax.process_count() > 1:
            raise
        notice(f"{error}; {what}")


def score(best: Any, every: int) -> Hook:
    """A score of samples, whose best state is kept; best: a `jaxgen.scoring.Best`."""
    return Hook(every, lambda moment: best.update(moment.state, moment.step))


def draw(every: int) -> Hook:
    """A picture of samples; after the last step also as samples.png. Of a run of one process the first one is drawn
    after `FIRST_PICTURE` seconds. A signal that stops the run gets one, too, where the one before took less than
    `QUICK` seconds: whoever sends SIGTERM may not wait."""
    began, took = [], []

    def call(moment: Moment) -> None:
        on_time = moment.step % every == 0 or moment.step == moment.exp.steps
        early, start = ready(), time.monotonic()
        if not (on_time or early or (alone and took and took[-1] < QUICK)):
            return
        last = [final_picture(moment.folder)] if moment.step == moment.exp.steps else []
        with going_on(f"there is no picture of step {moment.step}"):
            path = moment.folder / "samples" / f"step_{moment.step:08d}.png"
            picture(moment, path, *last)
            if early and not on_time:
                notice(f"jaxgen: a first picture: {path}")
        took.append(time.monotonic() - start)

    def ready() -> bool:
        if not began:  # after the first call, which was compiled
            began.append(time.monotonic())
        return alone and not took and time.monotonic() - began[0] > FIRST_PICTURE

    alone = jax.process_count() == 1  # several, whose clocks differ, have to draw together or not at all
    return Hook(every, call, also="stop", ready=ready)


def keep_sampler() -> Hook:
    """Of a run without a source, after its last step and when a signal stops it: what `jaxgen.load` reads instead."""

    def call(moment: Moment) -> None:
        exp = moment.exp
        try:
            exports.export_model(exp.model, moment.state, moment.folder / exports.KEPT, exp.data)
        except Exception as error:  # of functions of the user's own, which may do what cannot be lowered
            reason = (str(error).splitlines() or [""])[0][:200]
            notice(
                f"jaxgen: note: {moment.folder} cannot be loaded without its code ({type(error).__name__}: {reason})"
            )

    return Hook(runs.MOST, call, also="stop")


def aside(hook: Hook, records: Records, what: str = "") -> Hook:
    """The hook, whose time counts as none of training; what: the bar says meanwhile."""

    def call(moment: Moment) -> Mapping[str, float] | None:
        with records.aside(what):
            return hook.call(moment)

    return hook._replace(call=call)


# --- pictures ------------------------------------------------------------------------------------------------------


def final_picture(folder: Path) -> Path:
    """The picture that a run ends with."""
    return folder / "samples.png"


def picture(moment: Moment, *paths: Path) -> None:
    """A grid of samples from always the same noise, in each of the files."""
    exp, plan = moment.exp, picture_plan(moment.exp)
    key, batch = jax.random.key(exp.seed), max(plan.n, 64)
    x = sample(exp.model, moment.state, key, plan.n, plan.condition, sharding=moment.place.rows, batch=batch)
    x = parallel.to_host(x)
    for path in paths if moment.chief else ():
        viz.save_picture(path, viz.beside(plan.left, x), plan.columns)


def missing_picture(exp: Experiment, folder: Path) -> str:
    """Why a run has not ended with a picture, or "" where it has."""
    return no_picture(exp) or ("" if final_picture(folder).is_file() else "it could not be written")


def no_picture(exp: Experiment) -> str:
    """Why there can be no picture of a run's samples, or "" where there can."""
    shape = exp.data.shape
    if not exp.draws:
        return "it draws no samples"
    drawable = shape == (2,) or (len(shape) == 3 and shape[-1] in viz.CHANNELS)
    return "" if drawable else f"there is no picture of samples of shape {shape}"


class Plan(NamedTuple):
    """A run's picture: n samples in so many columns, their conditions, and images to the left of each row."""

    n: int
    columns: int
    condition: Tree = None
    left: Sequence[np.ndarray] = ()


def picture_plan(exp: Experiment) -> Plan:
    """Every value of the condition in turn; where these are too many to list, six samples for each of the first
    examples' conditions, which stand beside them."""
    given, points = exp.model.condition, len(exp.data.shape) == 1
    if given is None:
        return Plan(POINTS, 1) if points else Plan(64, 8)
    if given.values > 0:
        columns = given.values if 5 <= given.values <= 20 else 8
        n = POINTS if points else 8 * columns
        return Plan(n, columns, np.arange(n) % given.values)
    wanted = POINTS if points else 8
    batch = normalize(jax.tree.map(jnp.asarray, exp.data.take(np.arange(min(wanted, exp.data.size)))))
    condition = given.of(batch)
    if points:
        return Plan(POINTS, 1, conditions.rows(condition, np.arange(POINTS) % conditions.count(condition)))
    shown = given.show(condition)
    left = [np.asarray(batch.x), *([] if shown is None else [np.asarray(shown)])]
    return Plan(6 * len(batch.x), 6 + len(left), conditions.repeat(condition, 6), left)
