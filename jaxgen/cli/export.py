"""The command that hands a trained model to other programs."""

from __future__ import annotations

from pathlib import Path

from jaxgen.cli.common import command, open_model


@command
def export(workdir: Path, /, *, to: str | None = None, ema: bool = True) -> None:
    """A run's model for other programs: model.safetensors, the weights under torch's names and in its layouts, and
    sampler.jax, its sampler as jax.export writes it, for any number of images; about.json says what to give.

    Args:
        workdir: the folder of a run
        to: a new folder; WORKDIR/exported by default
        ema: the averaged parameters
    """
    from jaxgen import exports

    run, _ = open_model(workdir)
    exp = run.experiment
    print(exports.export_model(exp.model, run.state, to or workdir / exports.KEPT, exp.data, ema))
