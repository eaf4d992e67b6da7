"""`jaxgen train`: an experiment's keywords as flags."""

from __future__ import annotations

import contextlib
import inspect
import io
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from jaxgen.cli.common import check_arguments
from jaxgen.cli.join import joined
from jaxgen.errors import InputError, check

# how tyro says that a flag, which may be left out, is no number
OPTIONAL = re.compile(
    r"no type matching \{None\}\|(\w+) could be instantiated from \['(.*?)'\]\. Got errors: .*?(?= --)"
)
Layout = Literal["one", "data", "fsdp", "pmap"]


def train(path: str, argv: Sequence[str]) -> None:
    """`jaxgen train EXPERIMENT.py [flags]`: the experiment's keywords and the run's own options are the flags."""
    from jaxgen import grafts, loop, runs
    from jaxgen.runs import GENERAL

    path = str(runs.find(path))
    function = runs.load_function(path)
    given = parse(_with_run_options(function), function.__doc__, [*argv], f"jaxgen train {path}")
    options = {name: given.pop(name) for name in RUN_HELP if name not in GENERAL}
    check_arguments(options, options)
    given = {name: value for name, value in given.items() if value is not None or name not in GENERAL}
    folder = Path(options["workdir"] or Path("runs") / Path(path).stem)
    count = options["stages"]
    growing = "stage" in inspect.signature(function).parameters
    check(count is None or growing, f"--stages trains an experiment with stage=0, 1, ...: {path} has no such keyword")
    with joined(folder, options["coordinator"], options["processes"], options["process"]):
        scoring = _scoring(*(options[name] for name in ("score", "score_every", "score_n", "score_extractor")))
        start = None if options["start"] is None else grafts.parse(options["start"])
        how = {"layout": options["layout"], "start": start, "scoring": scoring, "progress": not options["quiet"]}
        if count is None:
            loop.fit(runs.load_experiment(path, **given), folder, **how)
        else:
            loop.fit_stages(lambda i: runs.load_experiment(path, **{**given, "stage": i}), count, folder, **how)


def _scoring(metric: str | None, every: int, n: int, extractor: str) -> Any:
    if metric is None:
        return None
    from jaxgen.scoring import Scoring

    return Scoring(metric, every, n, extractor)


def _run_options(
    *,
    workdir: str | None = None,
    layout: Layout = "one",
    start: str | None = None,
    stages: int | None = None,
    score: str | None = None,
    score_every: int = 1000,
    score_n: int = 2000,
    score_extractor: str = "auto",
    steps: int | None = None,
    seed: int | None = None,
    batch: int | None = None,
    accumulate: int | None = None,
    ema: float | None = None,
    log_every: int | None = None,
    sample_every: int | None = None,
    save_every: int | None = None,
    quiet: bool = False,
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
) -> None: ...


RUN_HELP = {
    "workdir": "folder of the run, runs/<experiment> by default; an interrupted run goes on",
    "layout": "one device; data: the batch over all; fsdp: the state too; pmap: as data, mapped by hand",
    "start": "folder of a run of the same networks, whose parameters a new run begins with; or GROUP=RUN,GROUP=RUN",
    "stages": "train this experiment with --stage 0, 1, ..., each beginning with the one before, in folders 0, 1, ...",
    "score": "fid, kid, recall, ...: score samples while training and keep the best state in the run's folder best",
    "score_every": "in steps",
    "score_n": "samples a score",
    "score_extractor": "auto, inception, classifier, pixels: as in jaxgen evaluate",
    "steps": "train up to this step",
    "seed": "of everything random",
    "batch": "examples of a minibatch, over all devices",
    "accumulate": "slices of a minibatch, whose gradients are added up: less memory",
    "ema": "decay of the averaged parameters, 0 for none",
    "log_every": "steps between records",
    "sample_every": "steps between pictures",
    "save_every": "steps between checkpoints",
    "quiet": "no progress bar, and no lines about the progress",
    "coordinator": "HOST:PORT of the first of several processes, or 'auto' on a cluster that JAX knows",
    "processes": "how many processes there are",
    "process": "which of them this is, from 0",
}


def _with_run_options(function: Callable) -> inspect.Signature:
    """The signature of the experiment's keywords and the run's options."""
    import tyro

    from jaxgen.runs import GENERAL

    own = inspect.signature(function, eval_str=True).parameters
    bad = [name for name, p in own.items() if p.default is p.empty]
    check(not bad, f"every keyword of an experiment needs a default, {', '.join(bad)} has none")
    taken = [name for name in own if name in RUN_HELP and name not in GENERAL]
    check(not taken, f"the keyword {', '.join(taken)} is an option of every run: give the experiment's another name")
    general = inspect.signature(_run_options, eval_str=True).parameters
    merged = {name: p for name, p in general.items() if name not in own} | dict(own)
    keyword = inspect.Parameter.KEYWORD_ONLY
    for name, p in merged.items():
        hint = p.annotation if p.annotation is not p.empty else type(p.default)
        if name in RUN_HELP:
            hint = Annotated[hint, tyro.conf.arg(help=RUN_HELP[name])]
        merged[name] = p.replace(kind=keyword, annotation=hint)
    return inspect.Signature(list(merged.values()))


def execute(function: Callable, argv: list[str], prog: str) -> None:
    """`function` with the arguments that the flags give."""
    signature = inspect.signature(function, eval_str=True)
    given = signature.bind_partial()
    given.arguments.update(parse(signature, function.__doc__, argv, prog))
    function(*given.args, **given.kwargs)


def parse(signature: inspect.Signature, doc: str | None, argv: list[str], prog: str) -> dict[str, Any]:
    """What the flags give for a function of that signature and docstring, by name: by tyro, whose error messages become
    one line. The call is the caller's: what it writes to stderr is not the parser's."""
    import tyro

    def given(*positional: Any, **keywords: Any) -> dict[str, Any]:
        return dict(signature.bind(*positional, **keywords).arguments)

    given.__signature__ = signature  # type: ignore[attr-defined]
    given.__annotations__ = {name: p.annotation for name, p in signature.parameters.items()}
    given.__doc__ = doc

    message = io.StringIO()
    try:
        with contextlib.redirect_stderr(message):
            return tyro.cli(given, args=argv, prog=prog)
    except SystemExit as error:
        if error.code in (0, None):
            raise
        text = re.sub(r"\x1b\[[0-9;]*m", "", message.getvalue()).split("For full helptext")[0]
        lines = [line.strip("│| ") for line in text.splitlines()[1:]]  # of a box with a title
        lines = [line for line in lines if line.strip("-─╰╯+") and line != "Argument helptext:"]
        text = OPTIONAL.sub(r"'\2' is no \1", " ".join(lines))
        raise InputError(f"{text.rstrip('.')}; see {prog} --help") from None
