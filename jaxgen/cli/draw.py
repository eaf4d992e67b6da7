"""Commands that draw a picture with a run's model."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from jaxgen.cli.asked import (
    at_least,
    conditions,
    counted,
    encoded,
    held_out_images,
    noise_of,
    open_run,
    out_file,
    part_of,
)
from jaxgen.errors import check


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
            or the attributes of held-out examples, or their images, each with up to 8 samples to its right
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

    at_least(1, n=n, batch=batch)
    file = out_file(out, workdir / "sample.png", ".png", ".npz")
    run, place = open_run(workdir)
    model = run.experiment.model
    given_image = model.condition is not None and model.condition.kind == "image"
    each = next(d for d in range(8, 0, -1) if n % d == 0) if given_image else 1  # samples of one given image: a row
    labels = conditions(run, condition, n // each)
    labels = np.repeat(labels, each, axis=0) if each > 1 else labels
    options = {"batch": batch, "ema": ema, "guidance": guidance, "sampler": sampler_of(run, sampler, sampler_steps)}
    x = np.asarray(jaxgen.sample(model, run.state, jax.random.key(seed), n, labels, sharding=place.rows, **options))
    if file.suffix == ".npz":
        images = x if x.ndim == 2 else np.asarray(viz.to_uint8(x))
        print(viz.save_arrays(file, x=images, labels=labels))
        return
    in_turn = condition is None and model.condition is not None and model.condition.kind == "label"
    classes = len(run.experiment.data.classes)
    columns = each + 1 if given_image else classes if in_turn and n > classes else None
    print(viz.save_picture(file, viz.beside([labels[::each]] if given_image else [], x), columns))


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

    at_least(1, rows=rows)
    file = out_file(out, workdir / "interpolate.png", ".png")
    run, _ = open_run(workdir)
    model = run.experiment.model
    labels = conditions(run, condition, rows)
    latents = encoded(run, 2 * rows, labels) if reals else noise_of(run, seed, 2 * rows)
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

    at_least(1, steps=steps)
    file = out_file(out, workdir / "traverse.png", ".png")
    run, _ = open_run(workdir)
    model = run.experiment.model
    labels = conditions(run, condition, 1)
    latent, values = noise_of(run, seed, 1), jnp.linspace(-limit, limit, steps)
    rows = [jaxgen.traverse(model, run.state, latent, d, values, condition=labels)[0] for d in dimensions]
    print(viz.save_picture(file, jnp.concatenate(rows), steps))


def manifold(
    workdir: Path,
    /,
    *,
    side: int = 20,
    dimensions: tuple[int, int] = (0, 1),
    out: str | None = None,
    condition: str | None = None,
) -> None:
    """The plane of two latent dimensions, every image for the same mass of the normal distribution.

    Args:
        workdir: the folder of a run
        side: images a side
        dimensions: the one that grows downwards and the one that grows to the right
        out: a .png; WORKDIR/manifold.png by default
        condition: a label, by number or by name
    """
    import jaxgen
    from jaxgen import viz

    file = out_file(out, workdir / "manifold.png", ".png")
    run, _ = open_run(workdir)
    labels = conditions(run, condition, 1)
    labels = None if labels is None else labels[0]
    x = jaxgen.manifold(run.experiment.model, run.state, side, dimensions, condition=labels)
    print(viz.save_picture(file, x.reshape(-1, *x.shape[2:]), side))


def arithmetic(
    workdir: Path,
    /,
    *,
    attribute: str = "thick",
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
        attribute: a class or an attribute, by name or by number; the vector is estimated from training images
        among: the data set whose classes these are, such as mnist_attributes; the run's own by default
        examples: how many training images it is estimated from
        n: how many test images
        steps: images of a row
        limit: the largest strength
        out: a .png; WORKDIR/arithmetic.png by default
    """
    import jax
    import jax.numpy as jnp
    import numpy as np

    import jaxgen
    from jaxgen import data as sets
    from jaxgen import viz
    from jaxgen.data.pipeline import normalize
    from jaxgen.types import condition_of

    at_least(1, n=n, steps=steps, examples=examples)
    file = out_file(out, workdir / "arithmetic.png", ".png")
    run, _ = open_run(workdir)
    model, dataset = run.experiment.model, sets.load(among) if among else run.experiment.data
    names = {name.lower(): i for i, name in enumerate(dataset.classes)} | {
        str(i): i for i in range(len(dataset.classes))
    }
    known = ", ".join(dataset.classes) or "none"
    check(attribute.lower() in names, f"{dataset.name} has no attribute {attribute!r}: it has {known}")
    which = names[attribute.lower()]
    batch = normalize(jax.tree.map(jnp.asarray, dataset.take(np.arange(min(examples, dataset.size)))))
    has = batch.condition == which if batch.condition.ndim == 1 else batch.condition[:, which] > 0
    given = None if among else condition_of(model.condition, batch)
    vector = jaxgen.attribute_vector(model, run.state, batch.x, has, condition=given)
    x, labels = held_out_images(run, n)
    images = jaxgen.arithmetic(model, run.state, x, vector, jnp.linspace(-limit, limit, steps), condition=labels)
    rows = viz.beside([np.asarray(x)], np.asarray(images).reshape(-1, *images.shape[2:]))
    print(viz.save_picture(file, rows, steps + 1))


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
    run, _ = open_run(workdir)
    seen = part_of(run, split, n)
    x = normalize(Batch(jax.numpy.asarray(seen.x))).x
    again = jaxgen.reconstruct(run.experiment.model, run.state, x, condition=seen.given, batch=batch, ema=ema)
    shown = min(columns, len(x))
    print(viz.save_picture(file, np.concatenate([a[:shown] for a in (x, again)]), shown))
    error, ratio = _mean(total(jax.numpy.square(x - again))), _mean(psnr(x, again))
    alike = f", SSIM {_mean(ssim(x, again))}" if x.ndim == 4 and min(x.shape[1:3]) >= 11 else ""  # its window's side
    print(f"{counted(seen)}: squared error {error} an image, PSNR {ratio} dB{alike}")


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
    """Spoil data, encode and decode it: originals above, then spoilt, then denoised; PSNR over all n.

    Args:
        workdir: the folder of a run
        noise: what is done to an image
        level: the noise's standard deviation (black is -1, white is 1), or the share of spoilt pixels
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
    file, spoil = out_file(out, workdir / "denoise.png", ".png"), getattr(noises, noise)(level)
    run, _ = open_run(workdir)
    seen = part_of(run, split, n)
    x = normalize(Batch(jax.numpy.asarray(seen.x))).x
    noisy = spoil(jax.random.split(jax.random.key(seed), len(x)), x)
    again = jaxgen.reconstruct(run.experiment.model, run.state, noisy, condition=seen.given, batch=batch, ema=ema)
    columns = min(columns, len(x))
    print(viz.save_picture(file, np.concatenate([a[:columns] for a in (x, noisy, again)]), columns))
    before, after = (_mean(psnr(x, y)) for y in (noisy, again))
    print(f"PSNR of {counted(seen)}: noisy {before} dB, denoised {after} dB")


def sampler_of(run: Any, name: str | None, steps: int | None) -> Any:
    from jaxgen import sampling

    if name is None and steps is None:
        return None
    model, points = run.experiment.model, len(run.experiment.data.shape) == 1
    name = name or "ddim"
    steps = (1000 if name == "ddpm" else 50) if steps is None else steps
    return sampling.named(model, name, steps, float("inf") if points else 1.0)


def _mean(values: Any) -> str:
    """mean ± standard error."""
    import numpy as np

    values = np.asarray(values, np.float64)
    known = len(values) > 1 and bool(np.isfinite(values).all())
    error = values.std(ddof=1) / len(values) ** 0.5 if known else float("nan")
    return f"{values.mean():.2f} ± {error:.2f}"
