"""The command line: thin functions over the library, one a command."""

from __future__ import annotations

import contextlib
import inspect
import io
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from jaxgen import __version__
from jaxgen.errors import InputError, check

Layout = Literal["one", "data", "fsdp", "pmap"]
USAGE = """usage: jaxgen COMMAND ...

  train EXPERIMENT.py     train an experiment, or go on with it; its keywords are flags
  sample WORKDIR          a picture (or .npz) of new samples of a run
  interpolate WORKDIR     a picture of walks between samples
  traverse WORKDIR        a picture of walks along single latent dimensions
  reconstruct WORKDIR     a picture of data, encoded and decoded
  list                    the experiments and the runs here
  show WORKDIR            what a run is and how far it is
  data list               the data sets and whether they are ready
  data prepare NAME       download and prepare a data set

jaxgen COMMAND --help tells the flags.
"""


def sample(
    workdir: Path,
    /,
    *,
    n: int = 64,
    out: str | None = None,
    seed: int = 0,
    condition: str | None = None,
    guidance: float | None = None,
    sampler: str | None = None,
    sampler_steps: int | None = None,
    batch: int = 64,
    ema: bool = True,
) -> None:
    """Draw samples of a run.

    Args:
        workdir: the folder of a run
        n: how many
        out: a .png for a grid, a .npz for arrays (x, labels); WORKDIR/sample.png by default
        seed: the same seed draws the same images, on any number of devices
        condition: a label, by number or by name, or attributes, separated by commas; by default all labels in turn,
            or the conditions of held-out examples
        guidance: classifier-free guidance scale
        sampler: ddim or ddpm, for a model that iterates
        sampler_steps: steps of that sampler
        batch: images a call, over all devices
        ema: use the averaged parameters
    """
    import jax
    import numpy as np

    import jaxgen
    from jaxgen import viz

    _at_least(1, n=n, batch=batch)
    file = _out(out, workdir / "sample.png", ".png", ".npz")
    run, place = _run(workdir)
    model = run.experiment.model
    labels = _conditions(run, condition, n)
    options = {"batch": batch, "ema": ema, "guidance": guidance, "sampler": _sampler(run, sampler, sampler_steps)}
    x = np.asarray(jaxgen.sample(model, run.state, jax.random.key(seed), n, labels, sharding=place.rows, **options))
    if file.suffix == ".npz":
        images = x if x.ndim == 2 else np.asarray(viz.to_uint8(x))
        print(viz.save_arrays(file, x=images, labels=labels))
    else:
        in_turn = condition is None and model.condition is not None and model.condition.kind == "label"
        classes = len(run.experiment.data.classes)
        print(viz.save_picture(file, x, classes if in_turn and n > classes else None))


def interpolate(
    workdir: Path,
    /,
    *,
    rows: int = 8,
    steps: int = 10,
    out: str | None = None,
    seed: int = 0,
    condition: str | None = None,
    path: Literal["slerp", "lerp"] = "slerp",
    reals: bool = False,
) -> None:
    """Walk between pairs of latents.

    Args:
        workdir: the folder of a run
        rows: how many walks
        steps: images of a walk, both ends included
        out: a .png; WORKDIR/interpolate.png by default
        seed: of the ends
        condition: a label, by number or by name
        path: along the sphere or straight
        reals: the ends are encoded test images instead of noise
    """
    import jaxgen
    from jaxgen import sampling, viz

    _at_least(1, rows=rows)
    file = _out(out, workdir / "interpolate.png", ".png")
    run, _ = _run(workdir)
    model = run.experiment.model
    labels = _conditions(run, condition, rows)
    latents = _encoded(run, 2 * rows, labels) if reals else _noise(run, seed, 2 * rows)
    walk = getattr(sampling, path)
    x = jaxgen.interpolate(model, run.state, latents[:rows], latents[rows:], steps, path=walk, condition=labels)
    print(viz.save_picture(file, x.reshape(-1, *x.shape[2:]), steps))


def traverse(
    workdir: Path,
    /,
    *,
    dimensions: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6, 7),
    steps: int = 10,
    limit: float = 3.0,
    out: str | None = None,
    seed: int = 0,
    condition: str | None = None,
) -> None:
    """Vary one latent dimension at a time, a row each.

    Args:
        workdir: the folder of a run
        dimensions: which
        steps: images of a row
        limit: the dimension runs from -limit to limit
        out: a .png; WORKDIR/traverse.png by default
        seed: of the latent that is varied
        condition: a label, by number or by name
    """
    import jax.numpy as jnp

    import jaxgen
    from jaxgen import viz

    _at_least(1, steps=steps)
    file = _out(out, workdir / "traverse.png", ".png")
    run, _ = _run(workdir)
    model = run.experiment.model
    labels = _conditions(run, condition, 1)
    latent, values = _noise(run, seed, 1), jnp.linspace(-limit, limit, steps)
    rows = [jaxgen.traverse(model, run.state, latent, d, values, condition=labels)[0] for d in dimensions]
    print(viz.save_picture(file, jnp.concatenate(rows), steps))


def reconstruct(workdir: Path, /, *, n: int = 10, out: str | None = None, split: str = "test") -> None:
    """Encode data and decode it again: originals above, reconstructions below.

    Args:
        workdir: the folder of a run
        n: how many images
        out: a .png; WORKDIR/reconstruct.png by default
        split: of the data set
    """
    import numpy as np

    import jaxgen
    from jaxgen import viz

    file = _out(out, workdir / "reconstruct.png", ".png")
    run, _ = _run(workdir)
    x, labels = _held_out(run, n, split)
    again = jaxgen.reconstruct(run.experiment.model, run.state, x, condition=labels)
    both = np.concatenate([np.asarray(x), np.asarray(again)])
    print(viz.save_picture(file, both, len(x)))


def list_(experiments: str = "experiments", runs: str = "runs") -> None:
    """The experiments and the runs here.

    Args:
        experiments: a folder of experiments
        runs: a folder of runs
    """
    from jaxgen import checkpoint
    from jaxgen.experiment import checkpoints

    for path in sorted(Path(experiments).glob("*.py")):
        text = path.read_text(errors="replace")
        if re.search(r"^def experiment\(", text, re.M):
            summary = re.search(r'"""(.+?)[.\n"]', text)
            print(f"{path}  {summary.group(1) if summary else ''}")
    for path in sorted(Path(runs).glob("*/settings.json")):
        step = checkpoint.latest(checkpoints(path.parent))
        print(f"{path.parent}  {'no checkpoint yet' if step is None else f'step {step}'}")


def show(workdir: Path, /) -> None:
    """What a run is and how far it is.

    Args:
        workdir: the folder of a run
    """
    import jax

    from jaxgen import records

    run, _ = _run(workdir)
    exp = run.experiment
    print(f"experiment  {exp.source}")
    print("keywords    " + ", ".join(f"{k}={v}" for k, v in exp.settings.items()))
    print(f"data        {exp.data.name}, {exp.data.size:,} examples of shape {exp.data.shape}")
    for player, params in run.state.params.items():
        print(f"player      {player}, {sum(leaf.size for leaf in jax.tree.leaves(params)):,} parameters")
    print(f"step        {run.step} of {exp.steps}")
    for record in records.read(workdir, before=run.step)[-1:]:
        print("last        " + ", ".join(f"{k} {v:.5g}" for k, v in record.items()))


def data(action: Literal["list", "prepare"], name: str | None = None, /, *, data_dir: str | None = None) -> None:
    """The data sets: `list` them, or `prepare NAME` (download it and lay it out for fast reading).

    Args:
        action: list or prepare
        name: of the data set to prepare
        data_dir: where prepared data sets are; TFDS_DATA_DIR or ~/tensorflow_datasets by default
    """
    from jaxgen import data as sets

    if action == "prepare":
        check(name is not None, "prepare which data set? Give its name: jaxgen data prepare mnist")
        print(sets.prepare(str(name), data_dir))
        return
    rows = sets.available()
    widths = [max(len(row[i]) for row in rows) for i in range(2)]
    for name, text, state in rows:
        print(f"{name:{widths[0]}}  {text:{widths[1]}}  {state}")


def train(path: str, argv: Sequence[str]) -> None:
    """`jaxgen train EXPERIMENT.py [flags]`: the experiment's keywords and the run's own options are the flags."""
    from jaxgen import experiment

    function = experiment.load_function(path)
    given = _parse(_with_run_options(function), [*argv], f"jaxgen train {path}")
    options = {name: given.pop(name) for name in ("workdir", "layout", "coordinator", "processes", "process")}
    _join(options["coordinator"], options["processes"], options["process"])
    given = {name: value for name, value in given.items() if value is not None or name not in ("steps", "seed")}
    exp = experiment.load_experiment(path, **given)
    experiment.fit(exp, options["workdir"], layout=options["layout"])


def _run_options(
    *,
    workdir: str | None = None,
    layout: Layout = "one",
    steps: int | None = None,
    seed: int | None = None,
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
) -> None: ...


RUN_HELP = {
    "workdir": "folder of the run, runs/<experiment> by default; an interrupted run goes on",
    "layout": "one device; data: the batch over all; fsdp: the state too; pmap: as data, mapped by hand",
    "steps": "train up to this step",
    "seed": "of everything random",
    "coordinator": "HOST:PORT of the first of several processes, or 'auto' on a cluster that JAX knows",
    "processes": "how many processes there are",
    "process": "which of them this is, from 0",
}


def _with_run_options(function: Callable) -> Callable[..., dict]:
    """A function of the experiment's keywords and the run's options, which returns what it was given."""
    import tyro

    def options(**given: Any) -> dict:
        return given

    own = inspect.signature(function, eval_str=True).parameters
    bad = [name for name, p in own.items() if p.default is p.empty]
    check(not bad, f"every keyword of an experiment needs a default, {', '.join(bad)} has none")
    general = inspect.signature(_run_options, eval_str=True).parameters
    merged = {name: p for name, p in general.items() if name not in own} | dict(own)
    keyword = inspect.Parameter.KEYWORD_ONLY
    for name, p in merged.items():
        hint = p.annotation if p.annotation is not p.empty else type(p.default)
        if name in RUN_HELP:
            hint = Annotated[hint, tyro.conf.arg(help=RUN_HELP[name])]
        merged[name] = p.replace(kind=keyword, annotation=hint)
    options.__signature__ = inspect.Signature(list(merged.values()))  # type: ignore[attr-defined]
    options.__annotations__ = {name: p.annotation for name, p in merged.items()}
    options.__doc__ = function.__doc__
    return options


def _parse(function: Callable, argv: list[str], prog: str) -> Any:
    """tyro, with its mistakes said in one line."""
    import tyro

    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told):
            return tyro.cli(function, args=argv, prog=prog)
    except SystemExit as error:
        if error.code in (0, None):
            raise
        text = re.sub(r"\x1b\[[0-9;]*m", "", told.getvalue()).split("For full helptext")[0]
        lines = [line.strip("│| ") for line in text.splitlines()[1:]]  # of a box with a title
        lines = [line for line in lines if line.strip("-─╰╯+") and line != "Argument helptext:"]
        raise InputError(f"{' '.join(lines).rstrip('.')}; see {prog} --help") from None


def _join(coordinator: str | None, processes: int | None, process: int | None) -> None:
    """Join the other processes of a run, before anything else asks for a device."""
    import jax

    if coordinator == "auto":
        jax.distributed.initialize()
    elif coordinator is not None:
        check(processes is not None and process is not None, "--coordinator needs --processes and --process as well")
        jax.distributed.initialize(coordinator, processes, process)


def _run(workdir: Path) -> tuple[Any, Any]:
    """(the run in `workdir`, a layout over all devices)."""
    import jax

    from jaxgen import parallel
    from jaxgen.experiment import load_run

    name = "data" if jax.device_count() > 1 else "one"
    return load_run(workdir, name), parallel.layout(name)


def _at_least(least: int, **flags: int) -> None:
    for name, value in flags.items():
        check(value >= least, f"--{name} must be at least {least}, it is {value}")


def _out(out: str | None, default: Path, *suffixes: str) -> Path:
    """The file to write; a wrong name is refused before there is anything to lose."""
    file = Path(out or default)
    check(file.suffix in suffixes, f"--out {out}: give a name that ends in {' or '.join(suffixes)}")
    return file


def _sampler(run: Any, name: str | None, steps: int | None) -> Any:
    from jaxgen import sampling

    if name is None and steps is None:
        return None
    model, points = run.experiment.model, len(run.experiment.data.shape) == 1
    name = name or "ddim"
    steps = (1000 if name == "ddpm" else 50) if steps is None else steps
    return sampling.named(model, name, steps, float("inf") if points else 1.0)


def _conditions(run: Any, condition: str | None, n: int) -> Any:
    """A condition for each of n images: the one that was named; or else all labels in turn, held-out examples' own."""
    model, classes = run.experiment.model, run.experiment.data.classes
    if model.condition is None:
        check(condition is None, "this run is unconditional: it was trained without conditions; leave --condition out")
        return None
    return _DEFAULTS[model.condition.kind](run, n) if condition is None else _named(model, classes, condition, n)


def _named(model: Any, classes: tuple[str, ...], condition: str, n: int) -> Any:
    """The condition that the user wrote: a label, or the names of attributes that are 1, separated by commas."""
    import numpy as np

    kind = model.condition.kind
    check(kind != "image", "this run is conditioned on images: leave --condition out, held-out ones serve")
    known = {name.lower(): i for i, name in enumerate(classes)} | {str(i): i for i in range(len(classes))}
    words = [word.strip().lower() for word in condition.split(",")] if kind == "attributes" else [condition.lower()]
    unknown = [word for word in words if word not in known]
    check(not unknown, f"unknown {kind} {', '.join(unknown)!r}: this run knows {', '.join(classes)}")
    if kind == "label":
        return np.full(n, known[words[0]])
    return np.tile(np.isin(np.arange(len(classes)), [known[word] for word in words]).astype(np.float32), (n, 1))


def _all_labels(run: Any, n: int) -> Any:
    import numpy as np

    return np.arange(n) % max(1, len(run.experiment.data.classes))


def _held_out_conditions(run: Any, n: int) -> Any:
    """The conditions of n held-out examples, from the first again where there are fewer."""
    import numpy as np

    from jaxgen import data as sets

    size = sets.other_split(run.experiment.data, "test").size
    _, condition = _held_out(run, min(n, size))
    return np.resize(np.asarray(condition), (n, *condition.shape[1:]))


_DEFAULTS = {"label": _all_labels, "attributes": _held_out_conditions, "image": _held_out_conditions}


def _noise(run: Any, seed: int, n: int) -> Any:
    import jax

    from jaxgen.sampling import weights

    return run.experiment.model.prior(*weights(run.state), jax.random.split(jax.random.key(seed), n))


def _held_out(run: Any, n: int, split: str = "test") -> tuple[Any, Any]:
    """(n images of the data set's split, their labels where the model is conditional)."""
    import jax
    import numpy as np

    from jaxgen import data as sets
    from jaxgen.data.pipeline import normalize
    from jaxgen.types import condition_of

    exp = run.experiment
    held_out = sets.other_split(exp.data, split)
    check(
        1 <= n <= held_out.size,
        f"{n} images of {exp.data.name}: ask for at least 1, and {held_out.size} at most, which its {split} split has",
    )
    batch = jax.tree.map(jax.numpy.asarray, held_out.take(np.arange(n)))
    batch = normalize(batch)
    return batch.x, condition_of(exp.model.condition, batch)


def _encoded(run: Any, n: int, labels: Any) -> Any:
    import numpy as np

    from jaxgen import sampling

    x, _ = _held_out(run, n)
    condition = None if labels is None else np.concatenate([labels, labels])
    return sampling.encode(run.experiment.model, run.state, x, condition=condition)


COMMANDS = {
    "sample": sample,
    "interpolate": interpolate,
    "traverse": traverse,
    "reconstruct": reconstruct,
    "list": list_,
    "show": show,
    "data": data,
}


def main(argv: Sequence[str] | None = None) -> None:
    """The entry point: exit code 0, 1 for a run that failed, 2 for a mistake in what was asked."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        _dispatch(argv)
    except InputError as error:
        _exit(str(error), 2)
    except KeyboardInterrupt:
        _exit("interrupted", 130)
    except Exception as error:
        _known_failure(error)
        raise


def _dispatch(argv: list[str]) -> None:
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE, end="")
        return
    if argv[0] == "--version":
        print(f"jaxgen {__version__}")
        return
    command, rest = argv[0], argv[1:]
    known = ["train", *COMMANDS]
    check(command in known, f"unknown command {command!r}: choose one of {', '.join(known)}")
    _compile_cache()
    if command != "train":
        _parse(COMMANDS[command], rest, f"jaxgen {command}")
        return
    if not rest or rest[0] in ("-h", "--help"):
        print("usage: jaxgen train EXPERIMENT.py [flags]\n\nThe flags depend on it: jaxgen train EXPERIMENT.py --help")
        return
    check(not rest[0].startswith("-"), f"the experiment comes first: jaxgen train EXPERIMENT.py {rest[0]} ...")
    train(rest[0], rest[1:])


def _compile_cache() -> None:
    """Compiled programs are kept between calls, unless the user has said where or not at all."""
    cache = os.environ.get("JAXGEN_CACHE", str(Path.home() / ".cache" / "jaxgen"))
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(cache) / "compiled"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "1")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")


def _known_failure(error: Exception) -> None:
    """One line for failures that are not bugs; others keep their traceback."""
    from jaxgen.checkpoint import SaveError
    from jaxgen.experiment import Diverged, Stopped

    if isinstance(error, Stopped):
        _exit(str(error), 130 if error.signal == 2 else 0, kind="")
    if isinstance(error, Diverged | SaveError):
        _exit(str(error), 1)
    if isinstance(error, SyntaxError):
        _exit(f"{error.filename}, line {error.lineno}: {error.msg}; mend the file", 2)
    if "RESOURCE_EXHAUSTED" in str(error) or isinstance(error, MemoryError):
        _exit("the device is out of memory: give a smaller --batch, or another --layout over more devices", 2)


def _exit(message: str, code: int, kind: str = "error: ") -> None:
    print(f"jaxgen: {kind}{' '.join(message.split())}", file=sys.stderr, flush=True)
    raise SystemExit(code)
