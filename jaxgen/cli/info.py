"""Commands that list what there is: experiments, runs, data sets."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from jaxgen.cli.common import command, open_run
from jaxgen.errors import check
from jaxgen.inputs import is_file


@command
def list_(experiments: str = "experiments", runs: str = "runs") -> None:
    """The experiments and the runs here, and the experiments that come with jaxgen.

    Args:
        experiments: a folder of experiments
        runs: a folder of runs
    """
    from jaxgen import checkpoint
    from jaxgen.runs import checkpoints, recipes

    for path in [*filter(is_file, sorted(Path(experiments).glob("*.py"))), *recipes()]:
        text = path.read_text(errors="replace")
        if re.search(r"^def experiment\(", text, re.M):
            summary = re.search(r'"""(.+?)[.\n"]', text)
            print(f"{path.stem if path in recipes() else path}  {summary.group(1) if summary else ''}")
    for path in sorted(Path(runs).glob("*/settings.json")):
        step = checkpoint.latest(checkpoints(path.parent))
        print(f"{path.parent}  {'no checkpoint yet' if step is None else f'step {step}'}")


@command
def show(workdir: Path, /) -> None:
    """What a run is and how far it has trained.

    Args:
        workdir: the folder of a run
    """
    import jax

    from jaxgen import records

    run, _ = open_run(workdir)
    exp = run.experiment
    last = records.read(workdir, before=run.step)[-1:]
    print(f"experiment  {exp.source}")
    print("keywords    " + ", ".join(f"{k}={v}" for k, v in exp.settings.items()))
    print(f"data        {exp.data.name}, {exp.data.size:,} examples of shape {exp.data.shape}")
    for group, params in run.state.params.items():
        kind = "player" if group in exp.game.losses else "frozen"
        print(f"{kind}      {group}, {sum(leaf.size for leaf in jax.tree.leaves(params)):,} parameters")
    print(f"step        {run.step} of {exp.steps}")
    for record in last:
        print("last        " + ", ".join(f"{k} {v:.5g}" for k, v in record.items()))


@command
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
