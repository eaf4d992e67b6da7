"""What several commands share: opening a run, its data and its conditions, the flags of sampling."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import tyro

from jaxgen import inputs
from jaxgen.errors import InputError, check


def command(function: Callable) -> Callable:
    """A command, whose arguments are checked for what none of them can be."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def checked(*args: Any, **keywords: Any) -> Any:
        given = signature.bind(*args, **keywords)
        flags = {name for name, p in signature.parameters.items() if p.kind is not p.POSITIONAL_ONLY}
        check_arguments(given.arguments, flags)
        return function(*given.args, **given.kwargs)

    return checked


def check_arguments(given: Mapping[str, Any], flags: Collection[str] = ()) -> None:
    """InputError for a number that is not finite or too large, a seed that not all can take, an empty name, and one
    that no file system takes; flags: which of the arguments are flags."""
    for name, value in given.items():
        what = f"--{name.replace('_', '-')}" if name in flags else name
        if isinstance(value, Drawing):
            check_arguments(vars(value), vars(value))
            continue
        inputs.check_number(what, value)
        if name == "seed" and value is not None:
            inputs.check_seed(what, value)
        for word in value if isinstance(value, tuple) else (value,):
            if isinstance(word, str | Path):
                inputs.check_name(what, str(word))


def open_run(workdir: Path) -> tuple[Any, Any]:
    """(the run in `workdir`, a layout over all devices)."""
    import jax

    from jaxgen import accelerators, parallel
    from jaxgen.runs import load_run

    accelerators.say()
    name = "data" if jax.device_count() > 1 else "one"
    return load_run(workdir, name), parallel.layout(name)


def open_model(workdir: Path) -> tuple[Any, Any]:
    """`open_run`, and InputError for a run that has no generative model, such as a classifier's."""
    run, place = open_run(workdir)
    check(run.experiment.draws, f"the run in {workdir} is no generative model: it draws no samples")
    return run, place


def at_least(least: int, **flags: int | None) -> None:
    """InputError for a flag below the least value; None is a flag that is not given."""
    for name, value in flags.items():
        flag = name.replace("_", "-")
        check(value is None or value >= least, f"--{flag} must be at least {least}, it is {value}")


def out_file(out: str | None, default: Path, *suffixes: str) -> Path:
    """The file to write; a wrong name is refused before anything is computed."""
    file = Path(out or default)
    check(file.suffix in suffixes, f"--out {out}: give a name that ends in {' or '.join(suffixes)}")
    check(not inputs.is_folder(file), f"{file} is a folder, where a file is to be written: give another --out")
    return file


def check_drawn(run: Any, file: Path, n: int) -> None:
    """InputError for more samples than a picture of them can show, or memory hold."""
    from jaxgen import viz

    shape = run.experiment.data.shape
    if file.suffix == ".png":
        viz.check_picture(n, shape)
    inputs.check_memory(4 * n * math.prod(shape), f"{n:,} examples of shape {shape}", "give a smaller number")


# --- sampling --------------------------------------------------------------------------------------------------------


def _solvers() -> Any:
    """The type of --sampler, made only when a command that has it is parsed: the names come from a slow import."""
    from jaxgen.sampling import JUMPING, SOLVERS, UNMASKING

    return Literal[(*SOLVERS, *JUMPING, "adaptive", *UNMASKING)]


_SAMPLER = tyro.conf.arg(constructor_factory=_solvers, help_behavior_hint="(default: the experiment's own)")


@dataclass(frozen=True)
class Drawing:
    """How images of latents are made: the flags of every command that makes some.

    Args:
        condition: a label, by number or by name, or attributes, separated by commas; by default all labels in turn, or
            the conditions of held-out examples
        batch: images a call, over all devices
        ema: use the averaged parameters
    """

    condition: str | None = None
    batch: int = 64
    ema: bool = True


@dataclass(frozen=True)
class Solving(Drawing):
    """How a model that iterates draws: the flags besides, of commands that choose the times themselves.

    Args:
        guidance: classifier-free guidance scale
        sampler: solver of a model that iterates; adaptive: with as many steps as each image needs
        sampler_steps: steps of that solver
    """

    guidance: float | None = None
    sampler: Annotated[str | None, _SAMPLER] = None
    sampler_steps: int | None = None


@dataclass(frozen=True)
class Sampling(Solving):
    """How samples are drawn: the flags of every command that draws them.

    Args:
        truncation: of a one-step model: psi of a StyleGAN's w, by which it is drawn to its mean, else the threshold at
            which a normal z is cut off; less gives better and fewer kinds of images
    """

    truncation: float | None = None

    def options(self, run: Any, place: Any = None) -> dict[str, Any]:
        """`sampling.Options` of the flags; place: a layout whose devices share a call."""
        options = {"sampler": self._sampler(run), "guidance": self._guidance(run), "batch": self.batch, "ema": self.ema}
        return options if place is None else {**options, "sharding": place.rows}

    def _guidance(self, run: Any) -> Any:
        from jaxgen import sampling
        from jaxgen.families import is_style, mean_style

        if self.truncation is None:
            return self.guidance
        value = self.truncation
        check(self.guidance is None, "--guidance is for models that iterate, --truncation for others: give one")
        one_step = run.experiment.model.process is None
        check(one_step, "--truncation is for models that draw in one step, this one iterates: leave it out")
        if is_style(run.state):
            check(value >= 0, f"--truncation of a StyleGAN is by 0 or a positive number, not {value:g}")
            return sampling.truncation(value, mean_style(run.state, self.ema))
        check(value > 0, f"--truncation is by a positive number, not {value:g}")
        return sampling.truncated(value)

    def _sampler(self, run: Any) -> Any:
        from jaxgen.sampling import named

        if self.sampler is None and self.sampler_steps is None:
            return None
        own = self.sampler == "adaptive" and self.sampler_steps is not None
        check(not own, "--sampler adaptive chooses its own steps: leave --sampler-steps out")
        usual = 1000 if self.sampler == "ddpm" else 50
        return named(run.experiment.model, self.sampler, usual if self.sampler_steps is None else self.sampler_steps)

    def chosen(self) -> dict[str, Any]:
        """The flags that change what is sampled, where they are given."""
        flags = ("condition", "guidance", "truncation", "sampler", "sampler_steps")
        return {name: getattr(self, name) for name in flags if getattr(self, name) is not None}


DRAWING, SOLVING, SAMPLING = Drawing(), Solving(), Sampling()
DrawingFlags = Annotated[Drawing, tyro.conf.arg(name="")]
SolvingFlags = Annotated[Solving, tyro.conf.arg(name="")]
Flags = Annotated[Sampling, tyro.conf.arg(name="")]
"""`sampling: Flags = SAMPLING` gives a command the flags of `Sampling` under their own names; a command that would
ignore some of them has those of `Solving` or of `Drawing`."""


def conditions(run: Any, condition: str | None, n: int) -> Any:
    """A condition for each of n samples: the one that the user wrote, or else every value in turn, or else those of
    held-out examples; None of an unconditional model."""
    import numpy as np

    conditioner = run.experiment.model.condition
    if conditioner is None:
        check(condition is None, "this run is unconditional: it was trained without conditions; leave --condition out")
        return None
    if condition is not None:
        return named_condition(run, condition, n)
    if conditioner.values:
        return conditioner.given(n, np.arange(n) % conditioner.values)
    return held_out_conditions(run, n)


def named_condition(run: Any, condition: str, n: int) -> Any:
    """The condition that the user wrote, for each of n samples."""
    conditioner = run.experiment.model.condition
    check(
        conditioner is not None,
        "this run is unconditional: it was trained without conditions; leave --condition out",
    )
    return conditioner.given(n, conditioner.read(condition, n, run.experiment.data.classes))


def held_out_conditions(run: Any, n: int) -> Any:
    """The conditions of n examples of the test split, or of the training data where there is none; from the first again
    where there are fewer."""
    import numpy as np

    from jaxgen.metrics.pieces import conditions_at

    data = run.experiment.data
    data = test_split(data) or data
    return conditions_at(run.experiment.model.condition, data, np.arange(n) % data.size)


Space = Literal["z", "w"]


def in_space(model: Any, space: Space) -> Any:
    """The model with the latents of that space: z, the noise, or w, the codes that it makes of it."""
    from jaxgen.sampling import in_codes

    return in_codes(model) if space == "w" else model


def latents_of(model: Any, state: Any, seed: int, condition: Any, n: int, ema: bool = True) -> Any:
    """n latents drawn by the seed."""
    import jax

    from jaxgen.types import weights

    return jax.jit(model.prior)(*weights(state, ema), jax.random.split(jax.random.key(seed), n), condition)


def averaged(values: Any) -> str:
    """The mean over images with its standard error."""
    from jaxgen.metrics.estimate import mean_of
    from jaxgen.metrics.report import number

    return number(mean_of(values, ""))


# --- data ------------------------------------------------------------------------------------------------------------


class Part(NamedTuple):
    """Images of a data set as they are, their labels or attributes or None, and the model's conditions or None."""

    data: Any
    x: Any
    labels: Any
    condition: Any


def test_split(data: Any) -> Any:
    """The test split of a data set, or None where there is none."""
    from jaxgen import data as sets

    try:
        return sets.other_split(data, "test")
    except InputError:
        return None


def part_of(run: Any, split: str, n: int | None) -> Part:
    """The first n images of the run's data set's split, all where it has fewer."""
    from jaxgen import data as sets

    return first_of(run, sets.other_split(run.experiment.data, split), n)


def first_of(run: Any, data: Any, n: int | None) -> Part:
    """The first n images of a data set, all where it has fewer."""
    import numpy as np

    from jaxgen.metrics.pieces import conditions_at

    model = run.experiment.model
    index = np.arange(data.size if n is None else min(n, data.size))
    batch = data.take(index)
    model.game.check(batch)
    return Part(data, batch.x, batch.condition, conditions_at(model.condition, data, index))


def held_out(run: Any, n: int) -> tuple[Any, Any]:
    """(n test images in [-1, 1], the model's conditions of them)."""
    import jax.numpy as jnp

    from jaxgen import data as sets
    from jaxgen.data.pipeline import normalize
    from jaxgen.types import Batch

    data = sets.other_split(run.experiment.data, "test")
    check(1 <= n <= data.size, f"{n} images of {data.name}: give 1 to {data.size}, which its test split has")
    part = first_of(run, data, n)
    return normalize(Batch(jnp.asarray(part.x))).x, part.condition


def numbered(data: Any, word: str, kind: str) -> int:
    """The number of a class or an attribute of a data set, by name or by number; kind: which, in words."""
    from jaxgen.data.subsets import numbers_by_word

    known = numbers_by_word(data)
    there = ", ".join(data.classes) or "none"
    check(word.lower() in known, f"{data.name} has no {kind} {word!r}: it has {there}")
    return known[word.lower()]


def pictures_of(run: Any, name: str, n: int) -> Any:
    """Pictures from a file or a folder, in the shape and the range of the model's images."""
    import jax.numpy as jnp

    from jaxgen import data as sets
    from jaxgen.data.pictures import read_picture
    from jaxgen.data.pipeline import normalize
    from jaxgen.types import Batch

    shape = run.experiment.data.shape
    check(len(shape) == 3, f"this model draws points {shape}: there is no picture of one")
    if inputs.is_folder(name):
        folder = sets.load(f"folder:{name}", "all", size=shape[0], channels=shape[-1], labels=False)
        x = first_of(run, folder, n).x
    elif name.endswith(".npz"):
        x = first_of(run, sets.load(name, "all"), n).x
    else:
        check(Path(name).is_file(), f"no picture {name}: give a file, a folder of some, or a .npz file")
        x = read_picture(name, name, channels=shape[-1], size=shape[0])[None]
    check(x.shape[1:] == shape, f"this run's images are {shape}, those of {name} {x.shape[1:]}")
    return normalize(Batch(jnp.asarray(x))).x


def same_shape(exp: Any, data: Any) -> Any:
    """Another data set, or InputError for examples of another shape than the run's."""
    check(
        data.shape == exp.data.shape,
        f"{data.name} has examples of shape {data.shape}, this run was trained on {exp.data.shape}",
    )
    return data


def counted(part: Part) -> str:
    """1,000 images of digits test."""
    return f"{len(part.x):,} images of {part.data.name} {part.data.split}"
