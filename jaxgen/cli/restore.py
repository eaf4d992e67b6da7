"""Commands that use a trained model that iterates as a prior of images, without training."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from jaxgen.cli.common import (
    SOLVING,
    Solving,
    SolvingFlags,
    at_least,
    check_drawn,
    command,
    conditions,
    held_out,
    open_model,
    out_file,
    pictures_of,
)
from jaxgen.errors import check

STEPS = 100  # of a sampler, by default


@command
def restore(
    workdir: Path,
    /,
    *,
    task: Literal["inpaint", "enlarge", "colour", "deblur"] = "inpaint",
    image: str | None = None,
    mask: str | None = None,
    factor: int = 2,
    deviation: float = 1.0,
    how: Literal["project", "posterior"] = "project",
    noise: float = 0.05,
    repeats: int = 1,
    jump: int = 10,
    n: int = 6,
    versions: int = 5,
    out: str | None = None,
    seed: int = 0,
    sampling: SolvingFlags = SOLVING,
) -> None:
    """Restore images with a model that was trained without any of this: fill in a mask, enlarge, colour, deblur. A row
    is an image, what was left of it, and versions of the rest, by default in 100 ancestral steps.

    Args:
        workdir: the folder of a run
        task: what is to be undone
        image: a picture, or a folder or .npz file of some; held-out images of the run's data by default
        mask: for inpaint: a picture that is white where pixels are to be drawn; the lower half by default
        factor: for enlarge: how many times smaller a side is
        deviation: for deblur: of the Gaussian, in pixels
        how: project every estimate onto what is known, or follow the posterior's slope through the network
        noise: for posterior: the deviation of the noise in what is known (black is -1, white is 1)
        repeats: for project: every so many steps are gone back and walked again, so often in all (RePaint)
        jump: how many steps
        n: how many held-out images, or images of a folder
        versions: of each
        out: a .png; WORKDIR/restore.png by default
        seed: of the versions
    """
    import jax
    import jax.numpy as jnp
    import numpy as np

    import jaxgen
    from jaxgen import sampling as walks
    from jaxgen import viz
    from jaxgen.conditions import repeat

    at_least(1, n=n, versions=versions, repeats=repeats, jump=jump)
    at_least(1, sampler_steps=sampling.sampler_steps, batch=sampling.batch)
    file = out_file(out, workdir / "restore.png", ".png")
    run, _ = open_model(workdir)
    model, process = run.experiment.model, _process(run)
    x, given = _images(run, image, n, sampling)
    check_drawn(run, file, len(x) * (versions + 2))
    operator = _operator(task, x, mask, factor, deviation)
    known = operator.of(x)
    guidance = (
        walks.project(operator) if how == "project" else walks.posterior(operator, process, noise=noise, spread=0.5)
    )
    guidance, held = _both(guidance, jnp.repeat(known, versions, axis=0), sampling)
    steps = sampling.sampler_steps or STEPS
    times = walks.uniform(steps) if repeats == 1 else walks.travel(steps, jump, repeats)
    sampler = walks.iterate(walks.renoising(_solver(process, sampling), process), times, process.clip)
    options: Any = {"batch": sampling.batch, "ema": sampling.ema, "sampler": sampler}
    key, count, given = jax.random.key(seed), len(x) * versions, repeat(given, versions)
    made = jaxgen.sample(model, run.state, key, count, given, guidance=guidance, given=held, **options)
    left = np.asarray(operator.back(known))
    if task == "inpaint":
        left = np.where(np.asarray(operator.of(jnp.ones_like(x))) > 0, left, 0.0)
    print(viz.save_picture(file, viz.beside([np.asarray(x), left], np.asarray(made)), versions + 2))


def _both(guidance: Any, held: Any, sampling: Solving) -> tuple[Any, Any]:
    """(guidance, what it is given): the restoration around classifier-free guidance, where there is any, so that what
    is known has the last word."""
    from jaxgen import sampling as walks

    if sampling.guidance is None:
        return guidance, held
    return walks.compose(guidance, walks.classifier_free(sampling.guidance)), (held, None)


def _process(run: Any) -> Any:
    from jaxgen.processes import check_gaussian

    process = run.experiment.model.process
    check(process is not None, "this model draws in one step: restorations and variations are of models that iterate")
    check_gaussian(process, "restorations and variations are of diffusion")
    check(len(run.experiment.data.shape) == 3, "this model draws points: there are no images to restore")
    return process


def _images(run: Any, image: str | None, n: int, sampling: Solving) -> tuple[Any, Any]:
    """(images in [-1, 1], the model's conditions of them)."""
    if image is None and sampling.condition is None:
        return held_out(run, n)
    x = held_out(run, n)[0] if image is None else pictures_of(run, image, n)
    return x, conditions(run, sampling.condition, len(x))


def _operator(task: str, x: Any, mask: str | None, factor: int, deviation: float) -> Any:
    from jaxgen import sampling as walks

    check(mask is None or task == "inpaint", f"--mask is for inpaint, not for {task}")
    if task == "inpaint":
        return walks.masked(_mask(mask, x.shape[1:3]))
    if task == "enlarge":
        return walks.pooled(factor)
    if task == "deblur":
        return walks.blurred(deviation)
    check(x.shape[-1] == 3, "colour is for models of colour images, this one's are grey")
    return walks.grey()


def _mask(name: str | None, shape: tuple[int, ...]) -> Any:
    """1 where pixels are known: the upper half, or where a picture of the images' own size is black."""
    import numpy as np

    if name is None:
        known = np.zeros(shape)
        known[: shape[0] // 2] = 1
        return known
    from jaxgen.data.pictures import read_picture

    check(Path(name).is_file(), f"no mask {name}: give a picture that is white where pixels are to be drawn")
    picture = read_picture(name, name, channels=1)[..., 0]
    check(picture.shape == shape, f"the mask {name} is of {picture.shape} pixels, the images are of {tuple(shape)}")
    return (picture < 128).astype(np.float32)


def _solver(process: Any, sampling: Solving) -> Any:
    """Ancestral steps by default."""
    from jaxgen.sampling import JUMPING, SOLVERS

    known = SOLVERS | JUMPING
    name = sampling.sampler or "euler_ancestral"
    check(name in known, f"--sampler {name}: this command chooses the times itself; give one of {', '.join(known)}")
    return known[name](process)


@command
def vary(
    workdir: Path,
    /,
    *,
    image: str | None = None,
    strengths: tuple[float, ...] = (0.2, 0.4, 0.6, 0.8),
    n: int = 6,
    out: str | None = None,
    seed: int = 0,
    sampling: SolvingFlags = SOLVING,
) -> None:
    """Variations of images: noised up to a time and drawn from there again (SDEdit), a column a time; by default in as
    many of 100 ancestral steps as lie below that time.

    Args:
        workdir: the folder of a run
        image: a picture, or a folder or .npz file of some; held-out images of the run's data by default
        strengths: the times, from 0, nothing, to 1, another image
        n: how many held-out images, or images of a folder
        out: a .png; WORKDIR/vary.png by default
        seed: of the noise
    """
    import jax
    import jax.numpy as jnp
    import numpy as np

    import jaxgen
    from jaxgen import sampling as walks
    from jaxgen import viz
    from jaxgen.processes import diffuse
    from jaxgen.types import normal

    at_least(1, n=n, sampler_steps=sampling.sampler_steps, batch=sampling.batch)
    check(bool(strengths) and all(0 < s <= 1 for s in strengths), "--strengths are times above 0 and at most 1")
    file = out_file(out, workdir / "vary.png", ".png")
    run, _ = open_model(workdir)
    process = _process(run)
    x, given = _images(run, image, n, sampling)
    check_drawn(run, file, len(x) * (1 + len(strengths)))
    keys, columns = jax.random.split(jax.random.key(seed), len(x)), [np.asarray(x)]
    for s in strengths:
        times = walks.uniform(max(1, round(s * (sampling.sampler_steps or STEPS))), start=s)
        sampler = walks.iterate(_solver(process, sampling), times, process.clip)
        begun = diffuse(process, x, normal(keys, x.shape[1:]), jnp.asarray(s))
        options: Any = {"sampler": sampler, "guidance": sampling.guidance, "ema": sampling.ema, "batch": sampling.batch}
        columns.append(np.asarray(jaxgen.generate(run.experiment.model, run.state, keys, begun, given, **options)))
    print(viz.save_picture(file, np.stack(columns, axis=1).reshape(-1, *x.shape[1:]), len(columns)))
