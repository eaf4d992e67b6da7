"""`fit`: the loop that trains an experiment, calling its hooks, until its last step, a signal, or a loss that is not
finite."""

from __future__ import annotations

import contextlib
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import jax
import numpy as np

from jaxgen import accelerators, ahead, checkpoint, compile_cache, files, grafts, parallel, runs, signals, training
from jaxgen.data import Dataset, pipeline
from jaxgen.errors import notice
from jaxgen.grafts import Graft, Start
from jaxgen.hooks import (
    Hook,
    Moment,
    aside,
    draw,
    due,
    final_picture,
    keep_sampler,
    look,
    missing_picture,
    no_picture,
    picture,
    record,
    save,
    score,
    steps_until,
    watch,
)
from jaxgen.records import Records
from jaxgen.runs import Experiment
from jaxgen.types import Batch, TrainState, check

if TYPE_CHECKING:
    from jaxgen.scoring import Best, Scoring

CALL_BYTES = 4 << 20  # data of one compiled call: small beside a model, large beside a transfer's cost
CALL_STEPS = 100
CALL_SECONDS = 0.5  # of one compiled call, about: what a signal or the progress bar waits for
# Of a slow model a call takes at least so many steps, or as many as fit into so many seconds: each call allocates its
# temporaries anew, which costs a large model more than a tenth of its time where a call is one step.
SLOW_STEPS = 3
SLOW_SECONDS = 30.0


class Diverged(RuntimeError):
    """A loss or a gradient was not finite: which player's, at which step, and the last good checkpoint."""


class Gone(RuntimeError):
    """The run's folder was removed or renamed while it trained, or another of its processes has ended."""


class Stopped(RuntimeError):
    """A signal stopped the run, which was saved first. `signal` is its number."""

    def __init__(self, message: str, number: int):
        super().__init__(message)
        self.signal = number


def fit(
    exp: Experiment,
    workdir: str | Path | None = None,
    *,
    layout: str = "one",
    start: Start = None,
    scoring: Scoring | None = None,
    hooks: Sequence[Hook] = (),
    progress: bool = True,
) -> TrainState:
    """Train `exp` up to its step `exp.steps` in `workdir`, by default runs/<name>, and return the state.

    Goes on from the newest good checkpoint there. Writes settings.json and experiment.py, metrics.jsonl, TensorBoard
    scalars, grids samples/*.png, checkpoints, and samples.png at the end. layout: one of `parallel.LAYOUTS`. start: a
    run, or a state, whose parameters a new one begins with, or {group: such}, see `jaxgen.grafts`; step and optimizers
    are fresh.
    scoring: score samples while it trains and keep the best state in `workdir`/best, a run's folder of its own.
    hooks: of your own, called in this order before the record of a step is written; see `jaxgen.hooks`.
    Raises Diverged for a loss that is not finite, Stopped after SIGTERM or SIGINT (both with everything good saved),
    SaveError where the last state could not be saved, Gone where the folder or another process of the run went away,
    and InputError for a folder of another run, or one in which another process trains.
    """
    compile_cache.enable()
    accelerators.say()
    folder, place = Path(workdir or Path("runs") / exp.name), parallel.layout(layout)
    order = _check(exp, place, hooks)
    runs.check_folder(folder)
    donors = start or runs.noted_start(folder)
    begins = grafts.resolved(donors)
    make, batch = partial(runs.init, exp), runs.first_batch(exp)
    shapes = runs.template(exp, place, make, batch)
    new = checkpoint.latest(runs.checkpoints(folder)) is None
    graft = grafts.load(donors, shapes) if donors and new else None  # refused before anything is written
    if scoring is not None:
        _check_scoring(folder, scoring, exp)
    chief = jax.process_index() == 0
    with contextlib.ExitStack() as closing:
        closing.enter_context(_together(folder))
        stop = closing.enter_context(signals.stopping(jax.process_count() > 1))
        lock = closing.enter_context(_alone(folder, chief))
        runs.claim(folder, exp, begins, write=chief)
        store = checkpoint.open_store(runs.checkpoints(folder))
        closing.push(partial(_close, store))
        found = checkpoint.restore(store, shapes, report=notice)
        state, step = found or (_begun(exp, parallel.create(shapes, make, batch), graft), 0)
        records = closing.enter_context(Records(folder, step, exp.steps, _step_size(exp), progress, write=chief))
        trained = ahead.computed(exp, state, place) if exp.cache else exp
        calls = closing.enter_context(_calls(trained, place, shapes, step, _Reports(folder, store, records, order)))
        best = None if scoring is None else _best(exp, folder, scoring, place, chief)
        if best is not None:
            closing.push(partial(_close, best.store))
        every = _hooks(exp, store, records, best, hooks)
        state = _train(Moment(exp, folder, place, state, step, chief=chief), calls, every, stop, lock)
    if chief:
        notice(records.summary(folder, missing_picture(exp, folder)))
    return state


def fit_stages(make: Callable[[int], Experiment], count: int, workdir: str | Path, **options: Any) -> TrainState:
    """Train `make(0)`, `make(1)`, ..., each in its own folder of `workdir`, 0, 1, ..., and beginning with the
    parameters of the one before (the averaged ones, where there are any); the last one's state.

    make: gives experiments made from a file, `load_experiment(path, stage=...)`, so that a stage finds the one before.
    Interrupted, the same call goes on in the stage that was interrupted. options: of `fit`; a `start` is the first
    stage's. Raises what `fit` raises, and InputError for no stage.
    """
    check(count >= 1, f"there is at least one stage, not {count}")
    folder, start = Path(workdir), options.pop("start", None)
    for stage, exp in enumerate([make(stage) for stage in range(count)]):  # a stage that cannot be is refused first
        state = fit(exp, folder / str(stage), start=start, **options)
        start = folder / str(stage)
    return state  # type: ignore[possibly-unbound]


def _train(moment: Moment, calls: Calls, every: Sequence[Hook], stop: signals.Stop, lock: files.Lock) -> TrainState:
    """The state after the last step of the experiment."""
    exp, store = moment.exp, calls.reports.store
    _draw_again(moment)
    while moment.step < exp.steps:
        n = steps_until(every, moment.step, exp.steps)
        state, step = calls.forward(moment.state, moment.step, n)
        stop.trained = True
        moment, number = moment._replace(state=state, step=step), _number(stop, calls.made)
        called = due(every, step, exp.steps, bool(number))
        if called:  # nothing is saved whose report has not been read
            calls.settle()
            _check_there(moment.folder, lock)
            _call(called, moment._replace(metrics=calls.reports.records.means()))
        if number and step < exp.steps:
            checkpoint.require(store, step)
            name = signal.Signals(number).name
            raise Stopped(f"stopped by {name}: saved step {step} in {moment.folder}; the same command goes on", number)
    if stop.trained:
        checkpoint.require(store, moment.step)
    return moment.state


@contextlib.contextmanager
def _together(folder: Path) -> Iterator[None]:
    """`Gone` in place of whatever is raised where another process of the run has ended."""
    try:
        yield
    except Exception as error:
        if not parallel.is_lost(error):
            raise
        good = checkpoint.latest(runs.checkpoints(folder))
        last = "there is no checkpoint yet" if good is None else f"the last checkpoint is step {good}"
        raise Gone(
            f"another process of the run in {folder} has ended, or cannot be reached: this one stops too; {last}, "
            "start all processes again to go on"
        ) from error


def _close(store: checkpoint.Store, kind: Any, error: Any, trace: Any) -> None:
    """Of a run that ends in an error, that is said, and not that the save in the background failed too."""
    if error and parallel.is_lost(error):
        return  # it would wait for the process that has gone
    with contextlib.suppress(checkpoint.SaveError) if error else contextlib.nullcontext():
        checkpoint.close(store)


def _number(stop: signals.Stop, calls: int) -> int:
    """Of the signal for which the run is to stop after so many calls, or 0. Several processes agree on a call first;
    JAX compares for equality, so that none may be left out."""
    if jax.process_count() == 1:
        return stop.number
    from jax.experimental import multihost_utils

    return (stop.number or signal.SIGTERM) if multihost_utils.reached_preemption_sync_point(calls) else 0


def _call(called: Sequence[Hook], moment: Moment) -> None:
    for hook in called:
        moment = moment._replace(metrics={**moment.metrics, **(hook.call(moment) or {})})


def _draw_again(moment: Moment) -> None:
    """The picture of a finished run, should it have been taken away; only then, for several processes draw together or
    not at all, and a file that the first has just written would divide them."""
    path = final_picture(moment.folder)
    if moment.step >= moment.exp.steps and not path.exists() and not no_picture(moment.exp):
        picture(moment, path)


# --- the parts of a run --------------------------------------------------------------------------------------------


def _check(exp: Experiment, place: parallel.Layout, own: Sequence[Hook]) -> tuple[str, ...]:
    """The turns of a step, of an experiment that can be trained."""
    runs.check_numbers(exp._asdict())
    for hook in own:
        check(hook.every >= 1, f"a hook is called every {hook.every} steps: give at least 1")
    check(
        exp.batch % (exp.accumulate * place.devices) == 0,
        f"batch {exp.batch} is no multiple of accumulate {exp.accumulate} times {place.devices} devices: change one",
    )
    check(exp.game.ahead is not None or not exp.cache, f"nothing of {exp.name} can be cached: it has no frozen encoder")
    order = training.play_order(exp.game, exp.order)
    runs.check_data(exp)
    return order


@contextlib.contextmanager
def _alone(folder: Path, chief: bool) -> Iterator[files.Lock]:
    """The folder's lock, which the process that writes has for all processes of the run; InputError where another run
    has it."""
    lock = files.Lock(folder)
    holder = lock.take() if chief else ""
    try:
        for part in (folder, folder / "samples", folder / "best") if chief and not holder else ():
            files.sweep(part)
        check(not holder, f"{holder} is training in {folder}: wait for it, stop it, or choose another --workdir")
        check(not parallel.from_first(bool(holder)), f"others are training in {folder}: choose another --workdir")
        yield lock
    finally:
        lock.release()


def _check_there(folder: Path, lock: files.Lock) -> None:
    """`Gone` where the folder has been removed or renamed: what is written would be no run."""
    if not parallel.from_first(lock.held()):
        raise Gone(
            f"{folder} was removed or renamed while it was trained in: nothing more is written; to go on in a folder "
            "that was renamed, give it as --workdir"
        )


def _begun(exp: Experiment, state: TrainState, graft: Graft | None) -> TrainState:
    """The state before the first step, with what is grafted; a frozen group that nobody trained is said."""
    untrained = sorted(set(state.params) - set(exp.game.losses) - set(graft.params if graft else ()))
    if untrained and jax.process_index() == 0:
        groups, flags = ", ".join(untrained), " ".join(f"--start {group}=RUN" for group in untrained)
        notice(f"jaxgen: note: {groups} of {exp.name}, frozen, begins at random: {flags} gives what a run has learned")
    return state if graft is None else grafts.apply(state, exp.game, graft)


def _shape(exp: Experiment) -> tuple[int, int, int]:
    """(minibatches, slices, examples) of a step."""
    minibatches = training.minibatches(training.play_order(exp.game, exp.order))
    return minibatches, exp.accumulate, exp.batch // exp.accumulate


def _step_size(exp: Experiment) -> int:
    return math.prod(_shape(exp))


def _hooks(exp: Experiment, store: Any, records: Records, best: Best | None, own: Sequence[Hook]) -> list[Hook]:
    """What measures, then the record of it, then the checkpoint: a run that goes on from it has the record too."""
    scored = [] if best is None else [aside(score(best, best.scoring.every), records, "scoring")]
    measured = [*scored, *(aside(hook, records) for hook in own)]
    drawn = [] if no_picture(exp) else [aside(draw(exp.sample_every), records, "drawing samples")]
    seen = [look(exp.log_every)] if exp.game.signs else []
    return [
        *measured,
        *seen,
        record(records, exp.log_every),
        watch(store, exp.log_every),
        save(store, exp.save_every),
        *([aside(keep_sampler(), records)] if exp.draws and not exp.source and jax.process_count() == 1 else []),
        *drawn,
    ]


def _check_scoring(folder: Path, scoring: Scoring, exp: Experiment) -> None:
    from jaxgen.scoring import check_scoring  # its extractors take a second to import: for those who score

    check(exp.draws, f"{exp.name} draws no samples, which a score needs: leave the score out")
    check_scoring(folder, scoring, exp.data)


def _best(exp: Experiment, folder: Path, scoring: Scoring, place: parallel.Layout, chief: bool) -> Best:
    from jaxgen.scoring import open_best

    return open_best(folder, scoring, exp.model, exp.data, exp.seed, place.rows, chief)


# --- compiled calls ------------------------------------------------------------------------------------------------


class _Reports(NamedTuple):
    """Where the reports of calls go; order: the players' turns."""

    folder: Path
    store: checkpoint.Store
    records: Records
    order: Sequence[str]

    def read(self, step: int, n: int, report: training.Report) -> None:
        """Wait for the report of the n steps that end at `step`; Diverged where one of them was not finite."""
        report = jax.device_get(report)
        broken = {player: int(at) for player, at in report.broken.items() if at >= 0}
        if broken:
            self._diverged(broken)
        self.records.add(step, n, report.metrics)

    def _diverged(self, broken: Mapping[str, int]) -> NoReturn:
        """broken: the first step of each player that was not finite. What is not finite spreads to the other players,
        in the order of their turns: the first of them is named."""
        player = min(broken, key=lambda name: (broken[name], self.order.index(name)))
        with contextlib.suppress(checkpoint.SaveError):  # the earlier steps are there, and this is the worse news
            checkpoint.wait(self.store)
        good = checkpoint.latest(runs.checkpoints(self.folder))
        last = "there is no checkpoint yet" if good is None else f"the last good checkpoint is step {good}"
        raise Diverged(
            f"the loss, gradient or update of player {player!r} is not finite at step {broken[player]}: {last} "
            f"in {self.folder}; lower the learning rate or clip the gradient, in another --workdir"
        )


class _Pending(NamedTuple):
    """A call whose report has not been read: `n` steps that end at `step`, begun at `began`."""

    step: int
    n: int
    began: float
    report: training.Report


class Calls:
    """The compiled calls of a run, one in flight while the next is prepared: the device never waits for Python, nor
    piles up work.

    run: of `parallel.compile_step`; size: steps of a call at most, one shape for all of them. How many a call takes
    follows from what the last one took (`call_length`): the number is traced, and changes no value.
    """

    def __init__(
        self, run: Callable, reader: pipeline.Reader, place: parallel.Layout, capacity: int, reports: _Reports
    ):
        self.run, self.reader, self.place, self.capacity, self.reports = run, reader, place, capacity, reports
        self.seconds: float | None = None  # a step, as measured last
        self.made = 0
        self._pending: _Pending | None = None
        self._ready = 0.0  # when the last call was done

    def forward(self, state: TrainState, step: int, most: int) -> tuple[TrainState, int]:
        """The state after one more call, of `most` steps at most, and its step."""
        n = evenly(most, call_length(self.seconds, self.capacity))
        batches = parallel.place_batch(self.place, _padded(self.reader.take(n), self.capacity))
        began = time.perf_counter()
        state, report = self.run(state, batches, np.int32(n))
        before, self._pending = self._pending, _Pending(step + n, n, began, report)
        self.made += 1
        if before is not None:
            self._read(before)
        if self.made <= 2:  # the first has been compiled, the second is measured by itself
            self.settle()
        return state, step + n

    def settle(self) -> None:
        """Wait for the call in flight."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            self._read(pending)
            if (
                jax.process_count() > 1
            ):  # they have to make the same calls, so that they agree when nothing is in flight
                self.seconds = parallel.from_first(self.seconds)

    def _read(self, call: _Pending) -> None:
        self.reports.read(call.step, call.n, call.report)
        now = time.perf_counter()
        if jax.process_count() == 1 or self._pending is None:
            self.seconds = (now - max(call.began, self._ready)) / call.n
        self._ready = now


def call_length(seconds: float | None, capacity: int) -> int:
    """Steps of the next call, if one takes so many seconds (None: unknown): about CALL_SECONDS of them; of a slow model
    SLOW_STEPS, in SLOW_SECONDS at most; from 1 to `capacity`."""
    if seconds is None:
        return 1
    seconds = max(seconds, 1e-6)
    slow = min(SLOW_STEPS, int(SLOW_SECONDS / seconds))
    return min(max(1, slow, int(CALL_SECONDS / seconds)), capacity)


def evenly(steps: int, n: int) -> int:
    """Steps of the first of as few calls as `steps` need, at most n each, where all are about as long."""
    return -(-steps // -(-steps // n))


@contextlib.contextmanager
def _calls(
    exp: Experiment, place: parallel.Layout, shapes: TrainState, step: int, reports: _Reports
) -> Iterator[Calls]:
    make = partial(training.make_step, exp.game, exp.optimizers, order=exp.order, ema=exp.ema)
    process = jax.process_index(), jax.process_count()
    with pipeline.reader(exp.data, seed=exp.seed, shape=_shape(exp), step=step, process=process) as reader:
        run = parallel.compile_step(place, make, shapes)
        yield Calls(run, reader, place, _capacity(exp.data, _step_size(exp)), reports)


def _capacity(data: Dataset, examples: int) -> int:
    """Steps of so many examples that one compiled call takes at most. It must not depend on anything measured: another
    capacity is another executable, and only one and the same executable repeats a run bit for bit."""
    item = data.take(np.zeros(1, np.int64)).x.nbytes
    return int(np.clip(CALL_BYTES // max(1, item * examples), SLOW_STEPS, CALL_STEPS))


def _padded(batch: Batch, capacity: int) -> Batch:
    """[n, ...] -> [capacity, ...], the rest never read: one shape for every call."""

    def pad(a: np.ndarray) -> np.ndarray:
        if len(a) == capacity:
            return a
        return np.concatenate([a, np.zeros((capacity - len(a), *a.shape[1:]), a.dtype)])

    return jax.tree.map(pad, batch)
