"""Commands that draw a picture with a run's model."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from jaxgen.cli.common import (
    SAMPLING,
    Flags,
    Space,
    at_least,
    averaged,
    check_drawn,
    command,
    conditions,
    counted,
    held_out,
    in_space,
    latents_of,
    numbered,
    open_model,
    out_file,
    part_of,
)
from jaxgen.errors import check


@command
def sample(workdir: Path, /, *, n: int = 64, out: str | None = None, seed: int = 0, sampling: Flags = SAMPLING) -> None:
    """Draw samples of a run. A model that is conditioned on images gets those of held-out examples by default, each
    with up to 8 samples to its right.

    Args:
        workdir: the folder of a run
        n: how many
        out: a .png for a grid, a .npz for arrays (x, labels); WORKDIR/sample.png by default
        seed: the same seed draws the same images, on any number of devices
    """
    import jax
    import numpy as np

    import jaxgen
    from jaxgen import viz
    from jaxgen.conditions import repeat, rows

    at_least(1, n=n, batch=sampling.batch)
    file = out_file(out, workdir / "sample.png", ".png", ".npz")
    run, place = open_model(workdir)
    check_drawn(run, file, n)
    conditioner = run.experiment.model.condition
    shows = conditioner is not None and conditioner.show(conditioner.blank(1)) is not None
    each = next(d for d in range(8, 0, -1) if n % d == 0) if shows else 1  # samples of one image: a row
    given = repeat(conditions(run, sampling.condition, n // each), each)
    options = sampling.options(run, place)
    x = np.asarray(jaxgen.sample(run.experiment.model, run.state, jax.random.key(seed), n, given, **options))
    if file.suffix == ".npz":
        images = x if x.ndim == 2 else np.asarray(viz.to_uint8(x))
        print(viz.save_arrays(file, x=images, **_arrays(given)))
        return
    if conditioner is not None and shows:
        left = np.asarray(conditioner.show(rows(given, slice(None, None, each))))
        print(viz.save_picture(file, viz.beside([left], x), each + 1))
        return
    print(viz.save_picture(file, x, _columns(conditioner, sampling, n)))


def _columns(conditioner: Any, sampling: Any, n: int) -> int | None:
    """A column for each value of a condition whose values the samples take in turn; else as the grid chooses."""
    if conditioner is None or sampling.condition is not None or n <= conditioner.values:
        return None
    return conditioner.values or None


def _arrays(condition: Any) -> dict[str, Any]:
    """Conditions as named arrays: "labels", and the parts of a tree by their paths, "labels.NAME"."""
    import jax

    from jaxgen.conditions import Maybe

    if isinstance(condition, Maybe) and bool(condition.known.all()):
        condition = condition.value
    leaves = jax.tree.leaves_with_path(condition)
    return {".".join(["labels", *_words(path)]): leaf for path, leaf in leaves}


def _words(path: Any) -> list[str]:
    return [str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path]


@command
def interpolate(
    workdir: Path,
    /,
    *,
    rows: int = 8,
    steps: int = 10,
    out: str | None = None,
    seed: int = 0,
    path: Literal["slerp", "lerp"] = "slerp",
    reals: bool = False,
    space: Space = "z",
    sampling: Flags = SAMPLING,
) -> None:
    """Walk between pairs of latents.

    Args:
        workdir: the folder of a run
        rows: how many walks
        steps: images of a walk, both ends included
        out: a .png; WORKDIR/interpolate.png by default
        seed: of the ends
        path: along the sphere or straight
        reals: the ends are encoded test images instead of noise
        space: z, the noise, or w, the codes that the model makes of it
    """
    import jax
    import jax.numpy as jnp

    import jaxgen
    from jaxgen import sampling as walks
    from jaxgen import viz

    at_least(1, rows=rows, batch=sampling.batch)
    file = out_file(out, workdir / "interpolate.png", ".png")
    run, _ = open_model(workdir)
    check_drawn(run, file, rows * steps)
    model = in_space(run.experiment.model, space)
    given = conditions(run, sampling.condition, rows)
    both = jax.tree.map(lambda a: jnp.concatenate([a, a]), given)  # both ends of a walk have one condition
    if reals:
        x, _ = held_out(run, 2 * rows)
        latents = jaxgen.encode(model, run.state, x, condition=both, ema=sampling.ema, batch=sampling.batch)
    else:
        latents = latents_of(model, run.state, seed, both, 2 * rows, sampling.ema)
    options = {"path": getattr(walks, path), "condition": given, **sampling.options(run)}
    x = jaxgen.interpolate(model, run.state, latents[:rows], latents[rows:], steps, **options)
    print(viz.save_picture(file, x.reshape(-1, *x.shape[2:]), steps))


@command
def traverse(
    workdir: Path,
    /,
    *,
    dimensions: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6, 7),
    steps: int = 10,
    limit: float = 3.0,
    out: str | None = None,
    seed: int = 0,
    space: Space = "z",
    sampling: Flags = SAMPLING,
) -> None:
    """Vary one latent dimension at a time, a row each.

    Args:
        workdir: the folder of a run
        dimensions: which
        steps: images of a row
        limit: the dimension runs from -limit to limit
        out: a .png; WORKDIR/traverse.png by default
        seed: of the latent that is varied
        space: z, the noise, or w, the codes that the model makes of it
    """
    import jax.numpy as jnp

    import jaxgen
    from jaxgen import viz

    at_least(1, steps=steps, batch=sampling.batch)
    check(bool(dimensions), "--dimensions: vary which? Give at least one")
    file = out_file(out, workdir / "traverse.png", ".png")
    run, _ = open_model(workdir)
    check_drawn(run, file, len(dimensions) * steps)
    model = in_space(run.experiment.model, space)
    given, values = conditions(run, sampling.condition, 1), jnp.linspace(-limit, limit, steps)
    latent = latents_of(model, run.state, seed, given, 1, sampling.ema)
    options = {"condition": given, **sampling.options(run)}
    rows = [jaxgen.traverse(model, run.state, latent, d, values, **options)[0] for d in dimensions]
    print(viz.save_picture(file, jnp.concatenate(rows), steps))


@command
def manifold(
    workdir: Path,
    /,
    *,
    side: int = 20,
    dimensions: tuple[int, int] = (0, 1),
    out: str | None = None,
    sampling: Flags = SAMPLING,
) -> None:
    """The plane of two latent dimensions, every image for the same mass of the normal distribution.

    Args:
        workdir: the folder of a run
        side: images a side
        dimensions: the one that grows downwards and the one that grows to the right
        out: a .png; WORKDIR/manifold.png by default
    """
    import numpy as np

    import jaxgen
    from jaxgen import viz
    from jaxgen.conditions import rows

    at_least(1, side=side, batch=sampling.batch)
    file = out_file(out, workdir / "manifold.png", ".png")
    run, _ = open_model(workdir)
    check_drawn(run, file, side * side)
    given = rows(conditions(run, sampling.condition, 1), np.zeros(side, int))  # one for all
    x = jaxgen.manifold(run.experiment.model, run.state, side, dimensions, condition=given, **sampling.options(run))
    print(viz.save_picture(file, x.reshape(-1, *x.shape[2:]), side))


@command
def arithmetic(
    workdir: Path,
    /,
    *,
    attribute: str | None = None,
    among: str | None = None,
    examples: int = 1000,
    n: int = 8,
    steps: int = 7,
    limit: float = 2.0,
    out: str | None = None,
) -> None:
    """Add an attribute to test images: mean code with it minus mean code without, times -limit to limit.

    Args:
        workdir: the folder of a run
        attribute: a class or an attribute, by name or by number, the first one by default; the vector is estimated from
            training images
        among: the data set whose classes these are, such as mnist_attributes; the run's own by default
        examples: how many training images it is estimated from
        n: how many test images
        steps: images of a row
        limit: the largest strength
        out: a .png; WORKDIR/arithmetic.png by default
    """
    import jax.numpy as jnp
    import numpy as np

    import jaxgen
    from jaxgen import data as sets
    from jaxgen import viz

    at_least(1, n=n, steps=steps, examples=examples)
    file = out_file(out, workdir / "arithmetic.png", ".png")
    run, _ = open_model(workdir)
    check_drawn(run, file, n * (steps + 1))
    model, dataset = run.experiment.model, sets.load(among) if among else run.experiment.data
    x, has, given = _with_attribute(model, dataset, attribute, examples, own=among is None)
    vector = jaxgen.attribute_vector(model, run.state, x, has, condition=given)
    x, given = held_out(run, n)
    images = jaxgen.arithmetic(model, run.state, x, vector, jnp.linspace(-limit, limit, steps), condition=given)
    rows = viz.beside([np.asarray(x)], np.asarray(images).reshape(-1, *images.shape[2:]))
    print(viz.save_picture(file, rows, steps + 1))


def _with_attribute(model: Any, dataset: Any, attribute: str | None, examples: int, own: bool) -> tuple[Any, Any, Any]:
    """(images in [-1, 1], which of them have the attribute, the model's conditions of them or None); own: the data set
    is the model's, whose labels are its conditions."""
    import jax.numpy as jnp
    import numpy as np

    from jaxgen.data.pipeline import normalize
    from jaxgen.metrics.pieces import conditions_at
    from jaxgen.types import Batch

    index = np.arange(min(examples, dataset.size))
    batch = dataset.take(index)
    labels = batch.condition
    check(getattr(labels, "ndim", 0) in (1, 2), f"{dataset.name} has neither labels nor attributes: give --among")
    which = numbered(dataset, attribute or "0", "attribute")
    has = labels == which if labels.ndim == 1 else labels[:, which] > 0
    usable = model.condition is not None and (own or model.condition.derived)
    given = conditions_at(model.condition, dataset, index) if usable else None
    return normalize(Batch(jnp.asarray(batch.x))).x, has, given


@command
def reconstruct(
    workdir: Path,
    /,
    *,
    n: int = 1000,
    columns: int = 10,
    out: str | None = None,
    split: str = "test",
    batch: int = 128,
    ema: bool = True,
) -> None:
    """Encode data and decode it again: originals above, reconstructions below; the squared error and the PSNR of all n.

    Args:
        workdir: the folder of a run
        n: how many images are measured; all where the split has fewer
        columns: how many of them are pictured
        out: a .png; WORKDIR/reconstruct.png by default
        split: of the data set
        batch: images a call
        ema: use the averaged parameters
    """
    import jax
    import numpy as np

    import jaxgen
    from jaxgen import viz
    from jaxgen.data.pipeline import normalize
    from jaxgen.losses.likelihood import total
    from jaxgen.metrics.quality import psnr, ssim
    from jaxgen.types import Batch

    at_least(1, n=n, columns=columns, batch=batch)
    file = out_file(out, workdir / "reconstruct.png", ".png")
    run, _ = open_model(workdir)
    part = part_of(run, split, n)
    check_drawn(run, file, 2 * min(columns, len(part.x)))
    x = normalize(Batch(jax.numpy.asarray(part.x))).x
    again = jaxgen.reconstruct(run.experiment.model, run.state, x, condition=part.condition, batch=batch, ema=ema)
    shown = min(columns, len(x))
    print(viz.save_picture(file, np.concatenate([a[:shown] for a in (x, again)]), shown))
    error, ratio = averaged(total(jax.numpy.square(x - again))), averaged(psnr(x, again))
    similarity = f", SSIM {averaged(ssim(x, again))}" if x.ndim == 4 and min(x.shape[1:3]) >= 11 else ""  # its window
    print(f"{counted(part)}: squared error {error} an image, PSNR {ratio} dB{similarity}")


@command
def denoise(
    workdir: Path,
    /,
    *,
    noise: Literal["gaussian", "masking", "salt_and_pepper"] = "gaussian",
    level: float = 0.5,
    n: int = 1000,
    columns: int = 10,
    out: str | None = None,
    split: str = "test",
    seed: int = 0,
    batch: int = 128,
    ema: bool = True,
) -> None:
    """Corrupt data, encode and decode it: originals above, then corrupted, then denoised; PSNR over all n.

    Args:
        workdir: the folder of a run
        noise: kind of corruption
        level: the noise's standard deviation (black is -1, white is 1), or the share of corrupted pixels
        n: how many images are measured; all where the split has fewer
        columns: how many of them are pictured
        out: a .png; WORKDIR/denoise.png by default
        split: of the data set
        seed: of the noise
        batch: images a call
        ema: use the averaged parameters
    """
    import jax
    import numpy as np

    import jaxgen
    from jaxgen import viz
    from jaxgen.data import noise as noises
    from jaxgen.data.pipeline import normalize
    from jaxgen.metrics.quality import psnr
    from jaxgen.types import Batch

    at_least(1, n=n, columns=columns, batch=batch)
    file, corrupt = out_file(out, workdir / "denoise.png", ".png"), getattr(noises, noise)(level)
    run, _ = open_model(workdir)
    part = part_of(run, split, n)
    check_drawn(run, file, 3 * min(columns, len(part.x)))
    x = normalize(Batch(jax.numpy.asarray(part.x))).x
    noisy = corrupt(jax.random.split(jax.random.key(seed), len(x)), x)
    again = jaxgen.reconstruct(run.experiment.model, run.state, noisy, condition=part.condition, batch=batch, ema=ema)
    columns = min(columns, len(x))
    print(viz.save_picture(file, np.concatenate([a[:columns] for a in (x, noisy, again)]), columns))
    before, after = (averaged(psnr(x, y)) for y in (noisy, again))
    print(f"PSNR of {counted(part)}: noisy {before} dB, denoised {after} dB")
