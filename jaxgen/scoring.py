"""Scores while a run trains, and its best state: RUN/best, a run's folder of its own that every command takes."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from jaxgen import checkpoint, parallel, runs
from jaxgen.data import Dataset
from jaxgen.files import atomically
from jaxgen.hooks import going_on
from jaxgen.inputs import check_memory, read_json
from jaxgen.metrics.evaluation import HELD_OUT, METRICS, MODEL, Sets, drawn, extractor_for, samples
from jaxgen.metrics.features import check_images, extract
from jaxgen.types import InputError, Model, TrainState, check

LEAST = 100
BATCH = 256
NOTE = "best.json"


class Scoring(NamedTuple):
    """What `fit` scores while it trains.

    metric      the score that decides which state is the best: "fid", "kid", "recall", ...
    every, n    in steps; samples a score
    extractor   as in `jaxgen evaluate`
    """

    metric: str = "fid"
    every: int = 1000
    n: int = 2000
    extractor: str = "auto"


class Best(NamedTuple):
    """The best state of a run so far. `score(state) -> float`, better: "lower" or "higher"."""

    scoring: Scoring
    score: Callable[[TrainState], float]
    better: str
    folder: Path
    store: checkpoint.Store
    write: bool

    def update(self, state: TrainState, step: int) -> dict[str, float]:
        """Score a state and keep it if it is the best; what stands in the run's records."""
        value = self.score(state)
        known = read_best(self.folder)
        sign = 1.0 if self.better == "lower" else -1.0
        # a run that lost steps in a kill comes by scored ones again
        best = known is None or (sign * value < sign * known["value"] and step > known["step"])
        if parallel.from_first(math.isfinite(value) and best):
            with going_on("training goes on, the best state so far is not kept"):
                self._keep(state, step, {"value": value, "step": step, **self.scoring._asdict()})
        return {f"score/{self.scoring.metric}": value}

    def _keep(self, state: TrainState, step: int, note: dict[str, Any]) -> None:
        if self.write:
            runs.copy_settings(self.folder.parent, self.folder)
        checkpoint.save(self.store, state, step, note)
        checkpoint.wait(self.store)
        if self.write:
            _write(self.folder, note)


BETTER = {
    name: side
    for metric in METRICS.values()
    for name, side in metric.better.items()
    if not metric.needs & {HELD_OUT, MODEL}
}


def check_scoring(run: Path, scoring: Scoring, data: Dataset) -> None:
    """InputError for an unknown metric, bad numbers, data that are no images, and a best that another metric has
    chosen: before anything is written."""
    check(scoring.metric in BETTER, f"unknown score {scoring.metric!r}: choose one of {', '.join(BETTER)}")
    check(scoring.every >= 1, f"score every {scoring.every} steps: give at least 1")
    check(scoring.n >= LEAST, f"{scoring.n} samples a score are too few: give at least {LEAST}")
    check_memory(24 * scoring.n, f"the places of {scoring.n:,} samples a score", "give fewer")
    check_images(data)
    folder = run / "best"
    known = read_best(folder)
    theirs = None if known is None else {name: known.get(name) for name in ("metric", "n", "extractor")}
    mine = {name: value for name, value in scoring._asdict().items() if name != "every"}
    check(
        theirs in (None, mine),
        f"{folder} was chosen by {theirs}, not by {mine}: give the same score, or remove that folder",
    )


def open_best(run: Path, scoring: Scoring, model: Model, data: Dataset, seed: int, rows: Any, write: bool) -> Best:
    """The best of a run whose folder has its settings already, by a `scoring` that `check_scoring` has passed.
    rows: the sharding that samples are drawn with."""
    folder = run / "best"
    measure = _measure(scoring, model, data, seed, rows)
    known = read_best(folder)
    if write and known is not None:
        _write(folder, known)
    store = checkpoint.open_store(folder / "checkpoints", 2)
    return Best(scoring, measure, BETTER[scoring.metric], folder, store, write)


def read_best(folder: Path) -> dict[str, Any] | None:
    """What is known of the best state: metric, value, step, n, extractor; None where there is none yet.

    It lies in the state's own checkpoint, under its checksum; best.json is a copy to read, which
    may be damaged. InputError for a state of which nothing is known.
    """
    saved = checkpoint.notes(folder / "checkpoints")
    for step in reversed(saved):
        if saved[step]:
            return saved[step]
    if not checkpoint.steps(folder / "checkpoints"):
        return None
    with contextlib.suppress(InputError):  # of a state that was saved without a note
        note = read_json(folder / NOTE, {"value": float, "step": int}, "is damaged", "")
        if math.isfinite(note["value"]) and note["step"] in saved:
            return note
    raise InputError(f"{folder} holds a state whose score is damaged: remove that folder, or put {NOTE} back")


def _write(folder: Path, note: dict[str, Any]) -> None:
    atomically(folder / NOTE, lambda tmp: tmp.write_text(json.dumps(note, indent=1) + "\n"))


def _measure(scoring: Scoring, model: Model, data: Dataset, seed: int, rows: Any) -> Callable[[TrainState], float]:
    """state -> the score of n samples, always of the same noise, against the training images."""
    name = next(name for name, metric in METRICS.items() if scoring.metric in metric.better)
    extractor = extractor_for(scoring.extractor, data)
    reals = drawn(extractor, data, None, seed, batch=BATCH, keep=True)
    batch = BATCH if rows is None else -(-BATCH // rows.num_devices) * rows.num_devices

    def measure(state: TrainState) -> float:
        fakes = extract(extractor, samples(model, state, data, scoring.n, seed, sharding=rows), batch=batch)
        return METRICS[name].score(Sets(reals, fakes, seed=seed))[scoring.metric].value

    return measure
