"""Experiments: what is trained on what, as a function of plain keywords; `fit` trains it, `load` brings it back."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import inspect
import json
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen import checkpoint, parallel, training, viz
from jaxgen.data import Dataset, pipeline
from jaxgen.records import Records
from jaxgen.sampling import sample, weights
from jaxgen.types import Batch, InputError, Model, TrainState, check

if TYPE_CHECKING:
    from jaxgen.scoring import Best, Scoring

CALL_BYTES = 4 << 20  # data of one compiled call: small beside a model, large beside a transfer's cost
CALL_STEPS = 100
CALL_SECONDS = 0.5  # of one compiled call at most, about: what a signal or the progress bar waits for


class Experiment(NamedTuple):
    """What an experiment's function returns.

    model, optimizers   as `training.make_step` takes them
    data                a `jaxgen.data.Dataset` to train on
    batch               examples of a minibatch, over all devices
    steps, seed         how long, and the seed of everything random
    order, accumulate   turns of the players; slices of a minibatch whose gradients are added up
    ema                 decay of the averaged parameters, 0 for none
    log_every, sample_every, save_every    in steps
    name, source, settings   filled in by `load_experiment`
    """

    model: Model
    optimizers: training.Optimizers
    data: Dataset
    batch: int = 128
    steps: int = 1000
    seed: int = 0
    order: Sequence[str] | None = None
    accumulate: int = 1
    ema: float = 0.999
    log_every: int = 50
    sample_every: int = 1000
    save_every: int = 1000
    name: str = "experiment"
    source: str = ""
    settings: Mapping[str, Any] = {}


class Diverged(RuntimeError):
    """A loss or a gradient was not finite: which player's, at which step, and the last good checkpoint."""


class Stopped(RuntimeError):
    """A signal asked the run to stop: it was saved first. `signal` is its number."""

    def __init__(self, message: str, number: int):
        super().__init__(message)
        self.signal = number


# --- loading -------------------------------------------------------------------------------------------------------


def load_function(path: str | Path) -> Callable[..., Experiment]:
    """The function `experiment` of a Python file."""
    path = Path(path)
    folder = path if path.is_dir() else path.parent
    near = sorted(p.name for p in folder.glob("*.py"))[:10] if folder.is_dir() else []
    check(path.is_file(), f"no experiment file {path}" + (f"; in {folder} there are {', '.join(near)}" if near else ""))
    spec = importlib.util.spec_from_file_location(f"jaxgen_experiment_{path.stem}", path)
    check(
        spec is not None and spec.loader is not None, f"{path} is not a Python file: an experiment's name ends in .py"
    )
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    sys.modules[module.__name__] = module  # where annotations of the file are looked up
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    function = getattr(module, "experiment", None)
    check(callable(function), f"{path} defines no function `experiment(*, ...) -> jaxgen.Experiment`")
    return function  # type: ignore[return-value]


def load_experiment(path: str | Path, **keywords: Any) -> Experiment:
    """The experiment of a file, with its keywords changed as given. `steps` and `seed` every experiment has."""
    function = load_function(path)
    defaults = {name: p.default for name, p in inspect.signature(function).parameters.items()}
    general = {name: keywords.pop(name) for name in ("steps", "seed") if name in keywords and name not in defaults}
    unknown = sorted(set(keywords) - set(defaults))
    check(
        not unknown,
        f"{Path(path).name} has no keyword {', '.join(unknown)}: it takes {', '.join(defaults)}, steps, seed",
    )
    exp = function(**keywords)
    check(isinstance(exp, Experiment), f"`experiment` of {path} returned {type(exp).__name__}, not a jaxgen.Experiment")
    exp = exp._replace(**general)
    settings = {**defaults, **keywords, "steps": exp.steps, "seed": exp.seed}
    exp = exp._replace(name=Path(path).stem, source=str(Path(path).resolve()), settings=settings)
    _check_numbers(exp)
    return exp


def _check_numbers(exp: Experiment) -> None:
    for field in ("batch", "steps", "accumulate", "log_every", "sample_every", "save_every"):
        check(getattr(exp, field) >= 1, f"{field} must be at least 1, it is {getattr(exp, field)}")
    check(0 <= exp.ema < 1, f"ema must be in [0, 1), it is {exp.ema}")


def _check_data(exp: Experiment) -> None:
    """InputError for data that the model does not take, before anything is compiled: all of a set that is in memory."""
    count, size = (256 if exp.data.streaming else exp.data.size), 8192
    for start in range(0, min(count, exp.data.size), size):
        exp.model.check(exp.data.take(np.arange(start, min(start + size, exp.data.size, count))))


class Run(NamedTuple):
    """A trained experiment read back: its pure functions, its newest good state, and the step of it."""

    experiment: Experiment
    state: TrainState
    step: int


def load_run(workdir: str | Path, layout: str = "one") -> Run:
    """The run of a folder that `fit` wrote: functions rebuilt from the saved settings, arrays from the checkpoint."""
    settings = read_settings(workdir)
    exp = load_experiment(settings["source"], **settings["keywords"])
    template = parallel.template(parallel.layout(layout), partial(init, exp))
    store = checkpoint.open_store(checkpoints(workdir), read_only=True)
    try:
        found = checkpoint.restore(store, template, report=_say)
    finally:
        checkpoint.close(store)
    check(found is not None, f"{workdir} has no checkpoint yet: train it first")
    return Run(exp, *found)  # type: ignore[misc]


def load(workdir: str | Path) -> tuple[Model, TrainState]:
    """`model, state = jaxgen.load(workdir)`: what `sample` and the rest of the sampling API take."""
    run = load_run(workdir)
    return run.experiment.model, run.state


def read_settings(workdir: str | Path) -> dict[str, Any]:
    """What `fit` noted of a run: {"name", "source", "sha256", "keywords"}, the source where it is now."""
    check(Path(workdir).is_dir(), f"no folder {workdir}: give the folder of a run, such as runs/digits_vae")
    path = Path(workdir) / "settings.json"
    check(path.is_file(), f"{workdir} is not the folder of a run (it has no settings.json): train into it first")
    note = _read_note(path)
    source = Path(note["source"])
    check(
        note["source"] != "",
        f"the run in {workdir} was made in Python, not from a file: build its Experiment again and `fit` it there",
    )
    here = Path("experiments") / source.name
    source = here.resolve() if here.is_file() and not source.is_file() else source  # a run from another machine
    check(source.is_file(), f"the experiment of {workdir}, {source}, is gone: put it back")
    _tell_if_changed(workdir, note, str(source))
    return {**note, "source": str(source)}


def _read_note(path: Path) -> dict[str, Any]:
    try:
        note = json.loads(path.read_text())
        return {"start": note.get("start", "")} | {
            name: note[name] for name in ("name", "source", "sha256", "keywords")
        }
    except (json.JSONDecodeError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is damaged ({error}): train into another folder, or restore the file") from None


def _tell_if_changed(workdir: str | Path, note: Mapping[str, Any], source: str) -> None:
    if _sha256(source) != note["sha256"]:
        _say(f"note: {source} has changed since the run in {workdir} began")


def checkpoints(workdir: str | Path) -> Path:
    """Where a run keeps its checkpoints."""
    return Path(workdir) / "checkpoints"


def init(exp: Experiment) -> TrainState:
    """The state before the first step."""
    one, size = exp.data.take(np.zeros(1, np.int64)), max(1, exp.batch // exp.accumulate)
    batch = jax.tree.map(lambda a: jnp.zeros((size, *a.shape[1:]), a.dtype), one)
    return training.init_state(exp.model, exp.optimizers, jax.random.key(exp.seed), batch, ema=exp.ema > 0)


# --- training ------------------------------------------------------------------------------------------------------


def fit(
    exp: Experiment,
    workdir: str | Path | None = None,
    *,
    layout: str = "one",
    start: str | Path | None = None,
    scoring: Scoring | None = None,
    progress: bool = True,
) -> TrainState:
    """Train `exp` up to its step `exp.steps` in `workdir` (runs/<name> unless told otherwise) and return the state.

    Goes on from the newest good checkpoint there. Writes settings.json, metrics.jsonl, TensorBoard scalars, grids
    samples/*.png, checkpoints, and samples.png at the end. layout: one of `parallel.LAYOUTS`. start: the folder of a
    run whose parameters a new one begins with, the averaged ones where there are any; step and optimizers are fresh.
    scoring: score samples while it trains and keep the best state in `workdir`/best, a run's folder of its own.
    Raises Diverged for a loss that is not finite, Stopped after SIGTERM or SIGINT (both with everything good saved),
    InputError for a folder of another run.
    """
    _check_numbers(exp)
    folder = Path(workdir or Path("runs") / exp.name)
    place = parallel.layout(layout)
    shape = (
        training.minibatches(training.play_order(exp.model, exp.order)),
        exp.accumulate,
        exp.batch // exp.accumulate,
    )
    check(
        exp.batch % (exp.accumulate * place.devices) == 0,
        f"batch {exp.batch} is no multiple of accumulate {exp.accumulate} times {place.devices} devices: change one",
    )
    chief = jax.process_index() == 0
    _check_data(exp)
    start, state_of = str(start or _noted_start(folder)), partial(init, exp)
    shapes = parallel.template(place, state_of)
    donor = _donor(start, shapes) if start else None  # refused before anything is written
    if scoring is not None:
        _check_scoring(folder, scoring, exp.data)
    _claim(folder, exp, start, write=chief)
    store = checkpoint.open_store(checkpoints(folder))
    with contextlib.ExitStack() as closing:
        closing.callback(checkpoint.close, store)
        found = checkpoint.restore(store, shapes, report=_say)
        state, first = found if found is not None else (_begun(parallel.create(shapes, state_of), donor), 0)
        make = partial(training.make_step, exp.model, exp.optimizers, order=exp.order, ema=exp.ema)
        run = parallel.compile_step(place, make, shapes)
        who = (jax.process_index(), jax.process_count())
        reader = closing.enter_context(pipeline.reader(exp.data, seed=exp.seed, shape=shape, step=first, process=who))
        examples = int(np.prod(shape))
        records = closing.enter_context(Records(folder, first, exp.steps, examples, progress, write=chief))
        asked = closing.enter_context(_signals())
        best = None if scoring is None else closing.enter_context(_best(exp, folder, scoring, place, chief))
        trainer = _Trainer(exp, folder, place, store, run, reader, records, asked, chief, best)
        state = trainer.train(state, first, _capacity(exp.data, examples))
    if chief:
        _say(records.summary(folder))
    return state


class _Trainer(NamedTuple):
    """What the loop of `fit` works with; nothing in it changes but files."""

    exp: Experiment
    folder: Path
    place: parallel.Layout
    store: checkpoint.Store
    run: Callable
    reader: pipeline.Reader
    records: Records
    asked: list[int]
    chief: bool
    best: Best | None

    def train(self, state: TrainState, step: int, capacity: int) -> TrainState:
        exp = self.exp
        # a finished run whose picture was taken away; only then, for several processes draw together or not at all,
        # and a file that the first has just written would divide them
        if step >= exp.steps and not self.samples.exists():
            self.picture(state, self.samples)
        n, waiting = 1, None
        while step < exp.steps:
            n = min(n, self._until_event(step), capacity)
            batches = parallel.place_batch(self.place, _padded(self.reader.take(n), capacity))
            began = time.perf_counter()
            state, report = self.run(state, batches, np.int32(n))
            step += n
            # one call in flight while the next is prepared: the device never waits for Python, nor piles up work
            if waiting is not None:
                self._digest(*waiting)
            waiting = (step, n, report)
            due = [step % every == 0 or step == exp.steps for every in self._intervals]
            stop = self._asked_to_stop(step)
            if any(due) or stop:  # nothing is saved whose report has not been looked at
                self._digest(*waiting)
                waiting = None
                self.records.log(step, self._scored(state, step) if any(due[3:]) else {})
            self._events(state, step, due, stop)
            n = self._next(n, capacity, time.perf_counter() - began)
        return state

    def _scored(self, state: TrainState, step: int) -> dict[str, float]:
        with self.records.aside():
            return self.best.look(state, step) if self.best is not None else {}

    @property
    def _intervals(self) -> list[int]:
        """Steps between records, checkpoints, pictures and scores."""
        exp = self.exp
        scores = [] if self.best is None else [self.best.scoring.every]
        return [exp.log_every, exp.save_every, exp.sample_every, *scores]

    @property
    def samples(self) -> Path:
        """The picture that a run ends with."""
        return self.folder / "samples.png"

    def _events(self, state: TrainState, step: int, due: list[bool], stop: int) -> None:
        _, saving, sampling, *_ = due
        if saving or stop:
            checkpoint.save(self.store, state, step)
        if sampling:
            last = [self.samples] if step == self.exp.steps else []
            self.picture(state, self.folder / "samples" / f"step_{step:08d}.png", *last)
        if stop and step < self.exp.steps:
            checkpoint.wait(self.store)
            name = signal.Signals(stop).name
            raise Stopped(f"stopped by {name}: saved step {step} in {self.folder}; the same command goes on", stop)

    def _asked_to_stop(self, step: int) -> int:
        """The signal that asks for a stop, or 0; several processes agree on the step first."""
        if jax.process_count() == 1:
            return self.asked[0] if self.asked else 0
        from jax.experimental import multihost_utils

        return signal.SIGTERM if multihost_utils.reached_preemption_sync_point(step) else 0

    def _digest(self, step: int, n: int, report: training.Report) -> None:
        """Wait for a call's report and look at it."""
        report = jax.device_get(report)
        for player, broken in report.broken.items():
            if broken >= 0:
                checkpoint.wait(self.store)
                good = checkpoint.latest(checkpoints(self.folder))
                last = "there is no checkpoint yet" if good is None else f"the last good checkpoint is step {good}"
                raise Diverged(
                    f"the loss, gradient or update of player {player!r} is not finite at step {int(broken)}: {last} "
                    f"in {self.folder}; lower the learning rate or clip the gradient, in another --workdir"
                )
        self.records.add(step, n, report.metrics)

    def picture(self, state: TrainState, *paths: Path) -> None:
        """A grid of samples from always the same noise, in each of the files."""
        exp = self.exp
        n, columns, condition, reals = _picture_plan(exp)
        x = sample(exp.model, state, jax.random.key(exp.seed), n, condition, sharding=self.place.rows, batch=max(n, 64))
        x = parallel.whole(x)
        for path in paths if self.chief else ():
            viz.save_picture(path, viz.beside(reals, x), columns)

    def _until_event(self, step: int) -> int:
        return min(self.exp.steps - step, *(every - step % every for every in self._intervals))

    def _next(self, n: int, capacity: int, seconds: float) -> int:
        """How many steps to ask for next: more while a call is short. The number is traced and changes no value."""
        if seconds < CALL_SECONDS / 2:
            return min(2 * n, capacity)
        return max(1, n // 2) if seconds > 2 * CALL_SECONDS and self.records.steps > n else n


class _Plan(NamedTuple):
    """A run's picture: n samples in so many columns, their conditions, and images to the left of each row."""

    n: int
    columns: int
    condition: Any = None
    left: Sequence[np.ndarray] = ()


def _picture_plan(exp: Experiment) -> _Plan:
    """Every class in turn; of attributes and images six samples each of the first examples', which stand beside."""
    given, classes = exp.model.condition, len(exp.data.classes)
    if len(exp.data.shape) == 1:
        condition = None if given is None else np.arange(1024) % max(classes, 1)
        return _Plan(1024, 1, condition)
    if given is None:
        return _Plan(64, 8)
    if given.kind == "label":
        columns = classes if 5 <= classes <= 20 else 8
        return _Plan(8 * columns, columns, np.arange(8 * columns) % max(classes, 1))
    batch = pipeline.normalize(jax.tree.map(jnp.asarray, exp.data.take(np.arange(min(8, exp.data.size)))))
    condition = np.asarray(given.of(batch))
    left = [np.asarray(batch.x), *([condition] if given.kind == "image" else [])]
    return _Plan(6 * len(condition), 6 + len(left), np.repeat(condition, 6, axis=0), left)


def _check_scoring(folder: Path, scoring: Scoring, data: Dataset) -> None:
    from jaxgen.scoring import check_scoring  # its extractors take a second to import: for those who score

    check_scoring(folder, scoring, data)


@contextlib.contextmanager
def _best(exp: Experiment, folder: Path, scoring: Scoring, place: parallel.Layout, chief: bool) -> Iterator[Best]:
    from jaxgen.scoring import open_best

    best = open_best(folder, scoring, exp.model, exp.data, exp.seed, place.rows, chief)
    try:
        yield best
    finally:
        checkpoint.close(best.store)


def _capacity(data: Dataset, examples: int) -> int:
    """Steps of so many examples that one compiled call takes at most. It must not depend on anything measured: another
    capacity is another executable, and only one and the same executable repeats a run bit for bit."""
    item = data.take(np.zeros(1, np.int64)).x.nbytes
    return int(np.clip(CALL_BYTES // max(1, item * examples), 1, CALL_STEPS))


def _padded(batch: Batch, capacity: int) -> Batch:
    """[n, ...] -> [capacity, ...], the rest never looked at: one shape for every call."""

    def pad(a: np.ndarray) -> np.ndarray:
        if len(a) == capacity:
            return a
        return np.concatenate([a, np.zeros((capacity - len(a), *a.shape[1:]), a.dtype)])

    return jax.tree.map(pad, batch)


def _noted_start(folder: Path) -> str:
    """The run that the one in `folder` began with, should it have been killed before its first checkpoint; or ""."""
    path = folder / "settings.json"
    return _read_note(path)["start"] if path.exists() else ""


def _donor(start: str, shapes: TrainState) -> tuple:
    """(params, extra) of the run that another begins with, where they fit its own."""
    donor = load_run(start)
    ours, theirs = (shapes.params, shapes.extra), weights(donor.state)
    fits = jax.tree.structure(ours) == jax.tree.structure(theirs) and all(
        jax.tree.leaves(jax.tree.map(lambda a, b: a.shape == b.shape, ours, theirs))
    )
    check(fits, f"the parameters of {donor.experiment.name} do not fit: start from a run of the same networks")
    return theirs


def _begun(state: TrainState, donor: tuple | None) -> TrainState:
    """A fresh state, with the donor's parameters placed as its own are."""
    if donor is None:
        return state

    def placed() -> tuple:
        own = (state.params, state.extra)
        return jax.tree.map(lambda a, b: jax.device_put(jnp.copy(b), a.sharding), own, donor)

    params, extra = placed()
    return state._replace(params=params, extra=extra, ema=None if state.ema is None else training.Average(*placed()))


def _claim(folder: Path, exp: Experiment, start: str, write: bool) -> None:
    """Make `folder` this experiment's, or go on in it if it is: the same experiment with the same keywords."""
    path = folder / "settings.json"
    mine = json.loads(json.dumps(dict(exp.settings), default=str))
    if path.exists():
        theirs = _read_note(path)
        check(
            theirs["name"] == exp.name,
            f"{folder} holds a run of {theirs['name']}, not of {exp.name}: choose another --workdir",
        )
        changed = [
            f"{k}={theirs['keywords'].get(k)!r} (you asked for {mine.get(k)!r})"
            for k in sorted(set(mine) | set(theirs["keywords"]))
            if k != "steps" and mine.get(k) != theirs["keywords"].get(k)
        ]
        check(
            not changed,
            f"{folder} holds a run with {', '.join(changed)}: choose another --workdir, or the same settings",
        )
        if exp.source:
            _tell_if_changed(folder, theirs, exp.source)
        # with nothing left to train the note stays as it is: asking for fewer steps does not undo any
        write = write and (checkpoint.latest(checkpoints(folder)) or 0) < exp.steps
    else:
        check(
            not checkpoints(folder).exists(),
            f"{folder} holds checkpoints but no settings.json: choose another --workdir",
        )
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices("claimed")  # nobody writes before everybody has looked
    if write:
        note = {"name": exp.name, "source": exp.source, "sha256": _sha256(exp.source), "keywords": mine}
        note |= {"start": str(Path(start).resolve())} if start else {}
        viz.atomically(path, lambda tmp: tmp.write_text(json.dumps(note, indent=1) + "\n"))


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """Collects SIGTERM and SIGINT instead of dying of them; a second SIGINT interrupts at once."""
    asked: list[int] = []
    # several processes: the distributed runtime watches for SIGTERM itself
    if threading.current_thread() is not threading.main_thread() or jax.process_count() > 1:
        yield asked
        return

    def note(number: int, frame: Any) -> None:
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _sha256(source: str) -> str:
    """Of an experiment's file; of none, nothing."""
    return hashlib.sha256(Path(source).read_bytes()).hexdigest() if source else ""


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
