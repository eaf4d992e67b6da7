"""What a command was asked for: a run, a file, conditions, data; everything that several commands read alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from jaxgen.errors import check


def open_run(workdir: Path) -> tuple[Any, Any]:
    """(the run in `workdir`, a layout over all devices)."""
    import jax

    from jaxgen import parallel
    from jaxgen.experiment import load_run

    name = "data" if jax.device_count() > 1 else "one"
    return load_run(workdir, name), parallel.layout(name)


def at_least(least: int, **flags: int) -> None:
    for name, value in flags.items():
        check(value >= least, f"--{name} must be at least {least}, it is {value}")


def out_file(out: str | None, default: Path, *suffixes: str) -> Path:
    """The file to write; a wrong name is refused before there is anything to lose."""
    file = Path(out or default)
    check(file.suffix in suffixes, f"--out {out}: give a name that ends in {' or '.join(suffixes)}")
    return file


def conditions(run: Any, condition: str | None, n: int) -> Any:
    """A condition for each of n images: the one that was named; or else all labels in turn, held-out examples' own."""
    model, classes = run.experiment.model, run.experiment.data.classes
    if model.condition is None:
        check(condition is None, "this run is unconditional: it was trained without conditions; leave --condition out")
        return None
    return _DEFAULTS[model.condition.kind](run, n) if condition is None else named(model, classes, condition, n)


def named(model: Any, classes: tuple[str, ...], condition: str, n: int) -> Any:
    """The condition that the user wrote: a label, or the names of attributes that are 1, separated by commas."""
    import numpy as np

    kind = model.condition.kind
    check(kind != "image", "this run is conditioned on images: leave --condition out, held-out ones serve")
    known = {str(i): i for i in range(len(classes))} | {name.lower(): i for i, name in enumerate(classes)}
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
    _, condition = held_out_images(run, min(n, size))
    return np.resize(np.asarray(condition), (n, *condition.shape[1:]))


_DEFAULTS = {"label": _all_labels, "attributes": _held_out_conditions, "image": _held_out_conditions}


def noise_of(run: Any, seed: int, n: int) -> Any:
    import jax

    from jaxgen.sampling import weights

    return run.experiment.model.prior(*weights(run.state), jax.random.split(jax.random.key(seed), n))


def held_out_images(run: Any, n: int, split: str = "test") -> tuple[Any, Any]:
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


def encoded(run: Any, n: int, labels: Any) -> Any:
    import numpy as np

    from jaxgen import sampling

    x, _ = held_out_images(run, n)
    condition = None if labels is None else np.concatenate([labels, labels])
    return sampling.encode(run.experiment.model, run.state, x, condition=condition)


class Part(NamedTuple):
    """The first images of a data set as they are, their labels or None, and what the model is given beside them."""

    data: Any
    x: Any
    labels: Any
    given: Any


def part_of(run: Any, split: str, n: int | None) -> Part:
    """The first n images of the run's data set's split, all where it has fewer."""
    from jaxgen import data as sets

    return first_of(run, sets.other_split(run.experiment.data, split), n)


def first_of(run: Any, data: Any, n: int | None) -> Part:
    import jax
    import numpy as np

    from jaxgen.data.pipeline import normalize
    from jaxgen.types import condition_of

    model = run.experiment.model
    batch = data.take(np.arange(data.size if n is None else min(n, data.size)))
    model.check(batch)
    kind = None if model.condition is None else model.condition.kind
    seen = normalize(jax.tree.map(jax.numpy.asarray, batch)) if kind == "image" else batch
    return Part(data, batch.x, batch.condition, condition_of(model.condition, seen))


def alike(exp: Any, data: Any) -> Any:
    """Another data set, whose examples the run's model can take."""
    check(
        data.shape == exp.data.shape,
        f"{data.name} has examples of shape {data.shape}, this run was trained on {exp.data.shape}",
    )
    return data


def counted(seen: Part) -> str:
    return f"{len(seen.x):,} images of {seen.data.name} {seen.data.split}"
