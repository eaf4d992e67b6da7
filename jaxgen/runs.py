"""What a run is: an experiment, a function of plain keywords in a file, and the folder that training it fills.

A run's folder stands by itself. It holds

  settings.json     the experiment's name and keywords, where its file was, the SHA-256 and the signature of its
                    source, what the run began with, the data sets that it loads, and the shapes of one example
  experiment.py     the source of the experiment that the newest state was trained by; of a run that went on with a
                    changed file, experiment-until-STEP.py is what it was before
  checkpoints       see `jaxgen.checkpoint`

so that it can be moved, and loaded where its training data is not. Loading it executes experiment.py: see
`jaxgen.trust` for whose.
"""

from __future__ import annotations

import difflib
import importlib.util
import inspect
import json
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxgen import checkpoint, parallel, training, trust
from jaxgen.data import Dataset, order
from jaxgen.data.described import DESCRIPTION, OUTLINE, Description, batch_of, outline, recording, standing_in
from jaxgen.errors import notice
from jaxgen.exports import exported_in, load_exported
from jaxgen.files import atomically
from jaxgen.inputs import (
    check_memory,
    check_name,
    check_number,
    check_seed,
    is_file,
    is_folder,
    memory,
    misfit,
    read_json,
    table,
)
from jaxgen.types import Batch, Game, InputError, Model, TrainState, check

SOURCE = "experiment.py"
SETTINGS = "settings.json"
AT_LEAST_ONE = ("batch", "steps", "accumulate", "log_every", "sample_every", "save_every")
# keywords that every experiment has, also where its function does not name them
GENERAL = ("steps", "seed", "batch", "accumulate", "ema", "log_every", "sample_every", "save_every")
OFTEN = ("steps", "log_every", "sample_every", "save_every")  # of those: may differ when a run is gone on with
RECIPES = Path(__file__).parent / "recipes"
MOST = 2**31 - 1  # of those: steps are counted in 32 bits
PIECE = 8192  # examples that are checked at once


class Experiment(NamedTuple):
    """What an experiment's function returns.

    model               a `Model`; or, for what is trained and draws no samples, anything with a field `game`, such as
                        `families.Classifier`
    optimizers          as `training.make_step` takes them
    data                a `jaxgen.data.Dataset` to train on
    batch               examples of a minibatch, over all devices
    steps, seed         how long, and the seed of everything random
    order, accumulate   turns of the players; slices of a minibatch whose gradients are added up
    ema                 decay of the averaged parameters, 0 for none
    cache               what losses need of the examples and frozen groups give (`Game.ahead`) is computed once
    log_every, sample_every, save_every    in steps
    name, source, code, settings, sets     filled in by `load_experiment`: the file and its text, the keywords, and
                        descriptions of the data sets that were loaded
    """

    model: Any
    optimizers: training.Optimizers
    data: Dataset
    batch: int = 128
    steps: int = 1000
    seed: int = 0
    order: Sequence[str] | None = None
    accumulate: int = 1
    ema: float = 0.999
    cache: bool = False
    log_every: int = 50
    sample_every: int = 1000
    save_every: int = 1000
    name: str = "experiment"
    source: str = ""
    code: str = ""
    settings: Mapping[str, Any] = {}
    sets: Sequence[Description] = ()

    @property
    def game(self) -> Game:
        """What is trained."""
        return self.model.game

    @property
    def draws(self) -> bool:
        """Whether there is anything to sample from."""
        return isinstance(self.model, Model)


# --- experiments ---------------------------------------------------------------------------------------------------


def find(path: str | Path) -> Path:
    """The file of an experiment, given by its path, or by its name where it lies in ./experiments or comes with jaxgen:
    "folder_gan"."""
    path = Path(path)
    if len(path.parts) == 1 and path.suffix == "":
        for folder in (Path("experiments"), RECIPES):
            if is_file(folder / f"{path}.py"):
                return folder / f"{path}.py"
        names = [p.stem for p in recipes()]
        close = difflib.get_close_matches(str(path), names, 1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        check(os.path.lexists(path), f"no experiment {path}{hint}: give a Python file, or one of {', '.join(names)}")
    return path


def recipes() -> list[Path]:
    """The files of the experiments that come with jaxgen."""
    return sorted(p for p in RECIPES.glob("*.py") if not p.name.startswith("_"))


def load_function(path: str | Path) -> Callable[..., Experiment]:
    """The function `experiment` of a Python file, or of an experiment by its name."""
    path = find(path)
    return _function(path, _read_code(path))


def load_experiment(path: str | Path, /, **keywords: Any) -> Experiment:
    """The experiment of a file, or by its name, with its keywords changed as given; those of `GENERAL` every one has.

    InputError for what is wrong with the file or the keywords, also where the experiment's own code raises something.
    """
    path = find(path)
    with recording() as sets:
        exp = _build(path, _read_code(path), keywords)
    return exp._replace(sets=tuple(sets))


def _read_code(path: Path) -> str:
    folder = path if is_folder(path) else path.parent
    near = sorted(p.name for p in folder.glob("*.py"))[:10] if is_folder(folder) else []
    check(is_file(path), f"no experiment file {path}" + (f"; in {folder} there are {', '.join(near)}" if near else ""))
    check(path.suffix == ".py", f"{path} is not a Python file: an experiment's name ends in .py")
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path} ({error}): give a Python file in UTF-8") from None


def _function(path: Path, code: str) -> Callable[..., Experiment]:
    """The function `experiment` of this code, executed as it is: no compiled file that lies beside it is used."""
    name = f"jaxgen_experiment_{path.stem}_{trust.sha256(code)[:8]}"
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(name, None, origin=str(path)))  # type: ignore[arg-type]
    module.__file__ = str(path)
    sys.modules[name] = module  # where annotations of the file are resolved
    try:
        compiled = compile(code, str(path), "exec")
    except (ValueError, RecursionError, MemoryError) as error:  # a NUL character; what nests too deep for the parser
        raise InputError(f"{path} cannot be compiled ({error or type(error).__name__}); mend the file") from None
    _own_mistakes(path, lambda: exec(compiled, module.__dict__))
    function = getattr(module, "experiment", None)
    check(callable(function), f"{path} defines no function `experiment(*, ...) -> jaxgen.Experiment`")
    return function  # type: ignore[return-value]


def _build(path: Path, code: str, keywords: Mapping[str, Any]) -> Experiment:
    function = _function(path, code)
    defaults = {name: p.default for name, p in inspect.signature(function).parameters.items()}
    general = {name: keywords[name] for name in GENERAL if name in keywords and name not in defaults}
    own = {name: value for name, value in keywords.items() if name not in general}
    unknown = sorted(set(own) - set(defaults))
    known = ", ".join(dict.fromkeys((*defaults, *GENERAL)))
    check(not unknown, f"{path.name} has no keyword {', '.join(unknown)}: it takes {known}")
    check_numbers({name: value for name, value in keywords.items() if value is not None})
    exp = _own_mistakes(path, lambda: function(**own))
    check(isinstance(exp, Experiment), f"`experiment` of {path} returned {type(exp).__name__}, not a jaxgen.Experiment")
    exp = exp._replace(**general)
    check_numbers(exp._asdict())
    settings = {**defaults, **own, **general, "steps": exp.steps, "seed": exp.seed}
    for name, value in settings.items():  # JSON has no other numbers, and a run with a NaN would never equal itself
        check_number(f"the keyword {name} of {path.name}", value)
    return exp._replace(name=path.stem, source=str(path.resolve()), code=code, settings=settings)


def _own_mistakes(path: Path, call: Callable[[], Any]) -> Any:
    """`call()`, where whatever an experiment's code raises becomes one line."""
    try:
        return call()
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        text = " ".join(str(error).split())[:300]
        raise InputError(
            f"{path} raised {type(error).__name__}{f': {text}' if text else ''}; mend the file or the keywords "
            "(JAXGEN_TRACEBACK=1 shows where)"
        ) from error


def check_numbers(fields: Mapping[str, Any]) -> None:
    """InputError for numbers of an `Experiment`, or keywords of those names, that cannot be."""
    for name in AT_LEAST_ONE:
        value = fields.get(name, 1)
        check(isinstance(value, int | np.integer), f"{name} must be an integer, it is {value!r}")
        check(value >= 1, f"{name} must be at least 1, it is {value}")
        check(value <= MOST, f"{name} must be at most {MOST}, it is {value}")
    seed, ema = fields.get("seed", 0), fields.get("ema", 0.0)
    check(isinstance(seed, int | np.integer), f"seed must be an integer, it is {seed!r}")
    check_seed("seed", seed)
    check(isinstance(ema, int | float | np.floating), f"ema must be a number, it is {ema!r}")
    check(0 <= ema < 1, f"ema must be in [0, 1), it is {ema}")


def check_data(exp: Experiment) -> None:
    """InputError for data that the model does not take, before anything is compiled: all of a set that is in memory."""
    count = min(256 if exp.data.streaming else exp.data.size, exp.data.size)
    for start in range(0, count, PIECE):
        exp.game.check(exp.data.take(np.arange(start, min(start + PIECE, count))))


def first_batch(exp: Experiment) -> Batch:
    """The first minibatch that a step is going to see, a slice of it where gradients are accumulated."""
    size = 4 * math.prod(exp.data.shape) * _examples(exp)
    check_memory(size, f"a minibatch of {_examples(exp):,} examples of {exp.data.name}", "give a smaller batch")
    return exp.data.take(order(exp.data.size, exp.seed, 0, _examples(exp)))


def init(exp: Experiment, batch: Batch) -> TrainState:
    """The state before the first step; batch: `first_batch(exp)`, or shapes under `jax.eval_shape`."""
    return training.init_state(exp.game, exp.optimizers, jax.random.key(exp.seed), batch, ema=exp.ema > 0)


def template(exp: Experiment, place: parallel.Layout, make: Callable[[Batch], TrainState], batch: Batch) -> TrainState:
    """`parallel.template(place, make, batch)`, in which networks see their sizes for the first time. InputError for a
    state that no device's memory holds: it would be found out after compiling, and on a CPU by the end of the process.
    """
    shapes = _own_mistakes(Path(exp.source or exp.name), lambda: parallel.template(place, make, batch))
    device = place.mesh.local_devices[0]
    most = (device.memory_stats() or {}).get("bytes_limit", memory() // len(place.mesh.local_devices))
    size = sum(math.prod(s.sharding.shard_shape(s.shape)) * s.dtype.itemsize for s in jax.tree.leaves(shapes))
    remedy = "make its networks smaller, or train by --layout fsdp on more devices"
    check_memory(size, f"the parameters and optimizers of {exp.name}", remedy, most)
    return shapes


def _examples(exp: Experiment) -> int:
    return max(1, exp.batch // exp.accumulate)


# --- reading a run back --------------------------------------------------------------------------------------------


class Run(NamedTuple):
    """A trained experiment read back: its pure functions, its newest good state, and the step of it."""

    experiment: Experiment
    state: TrainState
    step: int


def load_run(workdir: str | Path, layout: str = "one", trust: bool = False) -> Run:
    """The run of a folder that `fit` wrote: functions rebuilt from its own copy of the experiment, arrays from the
    checkpoint. Its data set need not be there: it is read at the first `take` of `experiment.data`.

    Of a run that was made in Python there is what `exports.load_exported` reads: a model that draws samples.
    trust: execute the folder's experiment.py though this user has not written it. InputError for a folder that is no
    run's, that has no good checkpoint, or whose code is another's and not trusted.
    """
    kept = exported_in(workdir)
    if kept is not None and not (is_file(Path(workdir) / SETTINGS) and read_settings(workdir)["source"]):
        model, state, data = load_exported(kept)
        return Run(Experiment(model, {}, data, name=Path(workdir).resolve().name), state, int(state.step))
    note, code = _own_code(Path(workdir), trust)
    with standing_in(note["data"]):
        exp = _build(Path(workdir) / SOURCE, code, note["keywords"])
    exp = exp._replace(name=note["name"], source=note["source"], sets=note["data"])
    batch = batch_of(note["example"] or outline(exp.data), _examples(exp))
    shapes = template(exp, parallel.layout(layout), partial(init, exp), batch)
    store = checkpoint.open_store(checkpoints(workdir), read_only=True)
    found = checkpoint.restore(store, shapes, report=notice)
    check(found is not None, f"{workdir} has no checkpoint yet: train it first")
    return Run(exp, *found)  # type: ignore[misc]


def load(workdir: str | Path, trust: bool = False) -> tuple[Any, TrainState]:
    """`model, state = jaxgen.load(workdir)`: what `sample` and the rest of the sampling API take. trust: as in
    `load_run`."""
    run = load_run(workdir, trust=trust)
    return run.experiment.model, run.state


def _own_code(folder: Path, trusted: bool) -> tuple[dict[str, Any], str]:
    """(the settings of a run, its own copy of the experiment), or InputError where that may not be executed."""
    note = read_settings(folder)
    check(checkpoint.latest(checkpoints(folder)) is not None, f"{folder} has no checkpoint yet: train it first")
    path, unless = folder / SOURCE, "to execute it nevertheless, read it, then give --trust (trust=True in Python)"
    check(
        note["source"] != "",
        f"the run in {folder} was made in Python, not from a file, and its sampler could not be kept: build its "
        "Experiment again and `fit` it there",
    )
    check(is_file(path), f"{folder} has no {SOURCE}, the source of its experiment: put that file there; {unless}")
    code = _read_code(path)
    if not (trusted or trust.is_trusting()):
        check(trust.sha256(code) == note["sha256"], f"{path} has changed since the run was trained; {unless}")
        check(trust.is_own(code, note["signature"]), f"{path} is not signed by you, so that it is not run; {unless}")
    original = Path(note["source"])
    if (
        is_file(original)
        and os.access(original, os.R_OK)
        and trust.sha256(original.read_text("utf-8", "replace")) != note["sha256"]
    ):
        notice(f"note: {original} has changed since the run in {folder} was trained, which keeps its own copy")
    return note, code


# --- the settings of a run -----------------------------------------------------------------------------------------


def checkpoints(workdir: str | Path) -> Path:
    """Where a run keeps its checkpoints."""
    return Path(workdir) / "checkpoints"


def check_folder(workdir: str | Path) -> None:
    """InputError for a folder in which a run cannot be trained, as far as that can be told before: what is to be a file
    of it is a folder, or the other way round."""
    check_name("the folder of the run", str(workdir))
    for name in (SETTINGS, SOURCE, "metrics.jsonl", "samples.png"):
        path = Path(workdir) / name
        check(not is_folder(path), f"{path} is a folder, where the run has a file: move it away")
    for name in ("checkpoints", "samples", "tensorboard", "best"):
        path = Path(workdir) / name
        check(
            is_folder(path) or not os.path.lexists(path), f"{path} is a file, where the run has a folder: move it away"
        )


def read_settings(workdir: str | Path) -> dict[str, Any]:
    """What `fit` noted of a run: name, source, sha256, signature, keywords, start, data, example."""
    check(is_folder(workdir), f"no folder {workdir}: give the folder of a run, such as runs/digits_vae")
    path = Path(workdir) / SETTINGS
    check(is_file(path), f"{workdir} is not the folder of a run (it has no {SETTINGS}): train into it first")
    wrong, remedy = "is damaged", "train into another folder, or restore the file"
    note = {**OLDER, **read_json(path, NEEDED, wrong, remedy)}
    misfits = misfit(note, NOTED)
    check(not misfits, f"{path} {wrong} ({misfits}): {remedy}")
    return note


NEEDED = {"name": str, "source": str, "sha256": str, "keywords": dict}
OLDER = {"signature": "", "start": "", "data": [], "example": None}  # of settings that were written without
NOTED = {"signature": str, "start": (str, table(str)), "data": [DESCRIPTION], "example": (None, OUTLINE)}


def noted_start(folder: Path) -> Any:
    """What the run in `folder` began with, should it have been killed before its first checkpoint; or ""."""
    return read_settings(folder)["start"] if os.path.lexists(folder / SETTINGS) else ""


def claim(folder: Path, exp: Experiment, start: Any, write: bool) -> None:
    """Make `folder` this experiment's, or go on in it if it is: the same experiment with the same keywords and, once it
    has a checkpoint, the same `start` (folders of other runs). write: whether this process is the one that writes."""
    done = checkpoint.latest(checkpoints(folder))
    theirs = None
    if (folder / SETTINGS).exists():
        theirs = read_settings(folder)
        _check_same(folder, exp, theirs, start, done)
    else:
        check(done is None, f"{folder} holds checkpoints but no {SETTINGS}: choose another --workdir")
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices("claimed")  # no process writes before all have read
    # with nothing left to train the note stays as it is: asking for fewer steps does not undo any
    goes_on = write and (theirs is None or (done or 0) < exp.steps)
    if theirs is not None and exp.code:
        if trust.sha256(exp.code) == theirs["sha256"]:
            _restore_source(folder, exp.code, write)
        else:
            changed = f"note: {exp.source} has changed since the run in {folder}"
            notice(_went_on(folder, exp, done) if goes_on else changed)
    if goes_on:
        _write(folder, exp, start if theirs is None or done is None else theirs["start"])


def _restore_source(folder: Path, code: str, write: bool) -> None:
    """Write the run's copy of its source again where it has been damaged: this is what the settings say it was."""
    path = folder / SOURCE
    if write and (not is_file(path) or path.read_bytes() != code.encode()):
        atomically(path, lambda tmp: tmp.write_text(code, encoding="utf-8"))
        notice(f"note: {path} was not the run's source any more: it is written again")


def _keywords(exp: Experiment) -> dict[str, Any]:
    return json.loads(json.dumps(dict(exp.settings), default=str))


def _check_same(folder: Path, exp: Experiment, theirs: Mapping[str, Any], start: Any, done: int | None) -> None:
    check(
        theirs["name"] == exp.name,
        f"{folder} holds a run of {theirs['name']}, not of {exp.name}: choose another --workdir",
    )
    mine, noted = _keywords(exp), theirs["keywords"]
    changed = [
        f"{k}={noted.get(k)!r} (now {mine.get(k)!r})"
        for k in sorted(set(mine) | set(noted))
        if k not in OFTEN and mine.get(k) != noted.get(k)
    ]
    check(
        not changed,
        f"{folder} holds a run with {', '.join(changed)}: choose another --workdir, or the same settings",
    )
    check(
        done is None or start in ("", theirs["start"]),
        f"{folder} holds a run that began with {theirs['start'] or 'fresh parameters'}, not with {start}: "
        "leave --start out to go on with it, or choose another --workdir",
    )


def _went_on(folder: Path, exp: Experiment, done: int | None) -> str:
    """The folder's source is always that of its newest state: the one before is put aside, not lost."""
    kept, line = folder / SOURCE, f"note: {exp.source} has changed since the run in {folder} began: it goes on with the"
    if not kept.exists():
        return f"{line} file as it is now"
    aside = folder / f"experiment-until-{done or 0}.py"
    kept.replace(aside)
    return f"{line} file as it is now, what it was stays in {aside.name}"


def _write(folder: Path, exp: Experiment, start: Any) -> None:
    if exp.code:
        atomically(folder / SOURCE, lambda tmp: tmp.write_text(exp.code, encoding="utf-8"))
    note = {
        "name": exp.name,
        "source": exp.source,
        "sha256": trust.sha256(exp.code),
        "signature": trust.sign(exp.code),
        "keywords": _keywords(exp),
        "start": start,
        "data": list(exp.sets),
        "example": outline(exp.data),
    }
    atomically(folder / SETTINGS, lambda tmp: tmp.write_text(json.dumps(note, indent=1) + "\n"))


def copy_settings(folder: Path, to: Path) -> None:
    """Make `to` a run's folder like `folder`, but for its checkpoints."""
    for name in (SOURCE, SETTINGS):
        path = folder / name
        if path.exists():
            content = path.read_bytes()
            atomically(to / name, lambda tmp, content=content: tmp.write_bytes(content))
