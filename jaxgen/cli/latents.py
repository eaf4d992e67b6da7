"""Commands that look for images and for directions in the latent spaces of a run's model."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NamedTuple

from jaxgen.cli.common import (
    DRAWING,
    SAMPLING,
    DrawingFlags,
    Flags,
    Sampling,
    Space,
    at_least,
    averaged,
    check_drawn,
    command,
    conditions,
    held_out,
    in_space,
    latents_of,
    numbered,
    open_model,
    out_file,
    pictures_of,
)
from jaxgen.errors import check


@command
def invert(
    workdir: Path,
    /,
    *,
    image: str | None = None,
    n: int = 8,
    space: Space = "z",
    steps: int = 500,
    rate: float = 0.1,
    lpips: Literal["alex", "vgg"] | None = None,
    out: str | None = None,
    sampling: DrawingFlags = DRAWING,
) -> None:
    """The latents whose images are nearest to given ones, by descent: given images above, what was found below.

    Args:
        workdir: the folder of a run
        image: a picture, or a folder or .npz file of some; held-out images of the run's data by default
        n: how many held-out images, or images of a folder
        space: z, the noise, or w, the codes that the model makes of it
        steps: of Adam
        rate: of Adam
        lpips: the trunk of LPIPS, which is added to the squared difference; its files as in jaxgen evaluate
        out: a .png; WORKDIR/invert.png by default
    """
    import numpy as np

    import jaxgen
    from jaxgen import viz
    from jaxgen.cli.evaluate import perceptual
    from jaxgen.metrics.quality import psnr
    from jaxgen.sampling.inversion import squares

    at_least(1, n=n, steps=steps, batch=sampling.batch)
    file = out_file(out, workdir / "invert.png", ".png")
    run, _ = open_model(workdir)
    x, given = held_out(run, n) if image is None else (pictures_of(run, image, n), None)
    given = conditions(run, sampling.condition, len(x)) if given is None or sampling.condition else given
    check_drawn(run, file, 2 * len(x))
    distance = squares if lpips is None else _sum(squares, perceptual(lpips, run.experiment.data.shape)[1])
    model = in_space(run.experiment.model, space)
    options: Any = {"condition": given, "ema": sampling.ema, "batch": sampling.batch, "distance": distance}
    found = jaxgen.invert(model, run.state, x, steps=steps, rate=rate, **options)
    print(viz.save_picture(file, np.concatenate([x, found.images]), len(x)))
    error, ratio = averaged(squares(x, found.images)), averaged(psnr(x, found.images))
    print(f"{len(x)} images in {space}: mean squared difference {error}, PSNR {ratio} dB")


def _sum(*distances: Any) -> Any:
    """The sum of distances, a pytree where they are."""
    from jax.tree_util import Partial

    traced = tuple(d if isinstance(d, Partial) else Partial(d) for d in distances)
    return Partial(_added, traced)


def _added(distances: Any, x: Any, y: Any) -> Any:
    return sum(d(x, y) for d in distances)


@command
def mix(
    workdir: Path,
    /,
    *,
    rows: int = 5,
    columns: int = 7,
    layers: tuple[int, ...] = (0, 1, 2, 3),
    out: str | None = None,
    seed: int = 0,
    sampling: Flags = SAMPLING,
) -> None:
    """Mixed styles of a StyleGAN: the images to the left with the styles of those above at some layers.

    Args:
        workdir: the folder of a run
        rows: images to the left
        columns: images above
        layers: which styles are those of the images above; the first are coarse (pose, shape), the last fine (colour)
        out: a .png; WORKDIR/mix.png by default
        seed: of the images
    """
    import numpy as np

    import jaxgen
    from jaxgen import viz
    from jaxgen.conditions import rows as of_rows

    at_least(1, rows=rows, columns=columns)
    file = out_file(out, workdir / "mix.png", ".png")
    run, _ = open_model(workdir)
    check_drawn(run, file, (rows + 1) * (columns + 1))
    model, n = in_space(run.experiment.model, "w"), rows + columns
    given = conditions(run, sampling.condition, n)
    w = latents_of(model, run.state, seed, given, n, sampling.ema)
    options = sampling.options(run)
    own = of_rows(given, slice(rows))
    x = np.asarray(jaxgen.mix(model, run.state, w[:rows], w[rows:], layers, condition=own, **options))
    alone = np.asarray(jaxgen.mix(model, run.state, w, w[:1], (), condition=given, **options))[:, 0]
    blank = np.ones_like(alone[:1])
    table = [blank, alone[rows:]] + [part for left, row in zip(alone, x, strict=False) for part in (left[None], row)]
    print(viz.save_picture(file, np.concatenate(table), columns + 1))


# --- directions ------------------------------------------------------------------------------------------------------


@command
def directions(
    workdir: Path,
    /,
    *,
    method: Literal["principal", "weights"] = "principal",
    k: int = 8,
    space: Space = "w",
    steps: int = 7,
    limit: float = 3.0,
    examples: int = 2000,
    out: str | None = None,
    seed: int = 0,
    sampling: Flags = SAMPLING,
) -> None:
    """Walks along directions that nobody chose, a row each: the principal components of the latents (GANSpace), or what
    changes the layers that read a StyleGAN's w most (SeFa).

    Args:
        workdir: the folder of a run
        method: principal components, or the weights of the layers
        k: how many directions
        space: z, the noise, whose principal components say nothing, or w, the codes that the model makes of it
        steps: images of a row
        limit: a row goes from -limit to limit deviations of the latents along its direction
        examples: latents whose components they are
        out: a .png; WORKDIR/directions.png by default
        seed: of the latents
    """
    import jax.numpy as jnp
    import numpy as np

    import jaxgen
    from jaxgen import sampling as walks
    from jaxgen import viz

    at_least(1, k=k, steps=steps, examples=examples)
    file = out_file(out, workdir / "directions.png", ".png")
    run, _ = open_model(workdir)
    check_drawn(run, file, k * steps)
    drawn = _Drawn.of(run, space, examples, seed, sampling)
    found = walks.principal(drawn.latents, k) if method == "principal" else _of_weights(run, drawn, k, sampling.ema)
    start, given, rows = drawn.latents[:1], drawn.first(1), []
    for vector in found.vectors:
        strengths = jnp.linspace(-limit, limit, steps) * np.std(drawn.along(vector))
        options = {"condition": given, **sampling.options(run)}
        rows.append(jaxgen.along(drawn.model, run.state, start, vector, strengths, **options)[0])
    print(viz.save_picture(file, jnp.concatenate(rows), steps))
    print(f"strengths: {', '.join(f'{v:.3g}' for v in np.asarray(found.strengths))}")


class _Drawn(NamedTuple):
    """Latents of a run: the model of their space, they, and their conditions."""

    model: Any
    latents: Any
    given: Any

    @classmethod
    def of(cls, run: Any, space: Space, n: int, seed: int, sampling: Sampling) -> _Drawn:
        model, given = in_space(run.experiment.model, space), conditions(run, sampling.condition, n)
        return cls(model, latents_of(model, run.state, seed, given, n, sampling.ema), given)

    def first(self, n: int) -> Any:
        """The conditions of the first n."""
        from jaxgen.conditions import rows

        return rows(self.given, slice(n))

    def along(self, vector: Any) -> Any:
        """The latents' coordinates along a unit vector, [N]."""
        import numpy as np

        return np.asarray(self.latents).reshape(len(self.latents), -1) @ np.asarray(vector).ravel()


def _of_weights(run: Any, drawn: _Drawn, k: int, ema: bool) -> Any:
    """SeFa's directions, of all layers' styles at once."""
    import jax.numpy as jnp

    from jaxgen import sampling as walks
    from jaxgen.families import style_kernels

    found, latents = walks.factors(style_kernels(run.state, ema), k), drawn.latents
    check(latents.ndim == 3, "the layers that read w are known of a StyleGAN: --space w")
    layers = latents.shape[1]
    everywhere = jnp.broadcast_to(found.vectors[:, None], (k, *latents.shape[1:])) / jnp.sqrt(layers)
    return found._replace(vectors=everywhere)


@command
def turn(
    workdir: Path,
    /,
    *,
    to: str | None = None,
    space: Space = "z",
    n: int = 8,
    steps: int = 7,
    limit: float = 2.0,
    examples: int = 2000,
    out: str | None = None,
    seed: int = 0,
    sampling: Flags = SAMPLING,
) -> None:
    """Turn samples into a class: along the normal of the plane that parts the latents of that class from the others, as
    a classifier of the data set sees their images.

    Args:
        workdir: the folder of a run whose data have labels
        to: the class, by name or by number; the first by default
        space: z, the noise, or w, the codes that the model makes of it
        n: how many samples, a row each
        steps: images of a row
        limit: a row goes from -limit to limit times the way from the others' mean latent to the class's
        examples: samples from which the plane is learned
        out: a .png; WORKDIR/turn.png by default
        seed: of the samples
    """
    import jax.numpy as jnp
    import numpy as np

    import jaxgen
    from jaxgen import viz

    at_least(1, n=n, steps=steps, examples=examples)
    file = out_file(out, workdir / "turn.png", ".png")
    run, _ = open_model(workdir)
    which = numbered(run.experiment.data, "0" if to is None else to, "class")
    check_drawn(run, file, n * steps)
    drawn = _Drawn.of(run, space, max(examples, n), seed, sampling)
    classes = _classes(run, drawn, sampling)
    found = jaxgen.boundary(drawn.latents, classes == which)
    along = drawn.along(found.direction)
    gap = np.mean(along[classes == which]) - np.mean(along[classes != which])
    strengths = jnp.linspace(-limit, limit, steps) * gap
    options = {"condition": drawn.first(n), **sampling.options(run)}
    x = jaxgen.along(drawn.model, run.state, drawn.latents[:n], found.direction, strengths, **options)
    print(viz.save_picture(file, x.reshape(-1, *x.shape[2:]), steps))
    share = float(np.mean(classes == which))
    print(
        f"{share:.3f} of the samples are {run.experiment.data.classes[which]}; the plane in {space} is right on "
        f"{found.accuracy:.3f} of {-(-len(classes) // 5)} others"
    )


@command
def analogy(
    workdir: Path,
    /,
    *,
    having: str | None = None,
    lacking: str | None = None,
    plain: str | None = None,
    space: Space = "z",
    each: int = 3,
    n: int = 6,
    examples: int = 1000,
    out: str | None = None,
    seed: int = 0,
    sampling: Flags = SAMPLING,
) -> None:
    """Arithmetic on averaged latents: having - lacking + plain, of samples that a classifier of the data set takes for
    each of the three classes. A row is the three averages' images and what they come to.

    Args:
        workdir: the folder of a run whose data have labels
        having: a class, by name or by number; the first by default
        lacking: a class; the second by default
        plain: a class; the third by default
        space: z, the noise, or w, the codes that the model makes of it
        each: latents of an average
        n: how many rows, each of other samples
        examples: samples among which those of the classes are found
        out: a .png; WORKDIR/analogy.png by default
        seed: of the samples
    """
    import jax
    import jax.numpy as jnp
    import numpy as np

    import jaxgen
    from jaxgen import viz

    at_least(1, each=each, n=n, examples=examples)
    file = out_file(out, workdir / "analogy.png", ".png")
    run, _ = open_model(workdir)
    given = [str(i) if name is None else name for i, name in enumerate((having, lacking, plain))]
    wanted = [numbered(run.experiment.data, name, "class") for name in given]
    check_drawn(run, file, 4 * n)
    check(run.experiment.model.condition is None, "a conditional model draws a class by --condition: nothing to add up")
    drawn = _Drawn.of(run, space, examples, seed, sampling)
    classes, rows = _classes(run, drawn, sampling), []
    for which in wanted:
        name, count = run.experiment.data.classes[which], int(np.sum(classes == which))
        check(count >= n * each, f"{count} of {examples} samples are {name}, {n * each} are needed: more --examples")
    groups = [drawn.latents[np.flatnonzero(classes == which)[: n * each]] for which in wanted]
    for i in range(n):
        three = [group[i * each : (i + 1) * each] for group in groups]
        rows += [*(jnp.mean(latents, axis=0) for latents in three), jaxgen.analogy(*three)]
    keys = jax.random.split(jax.random.key(0), len(rows))
    images = jaxgen.generate(drawn.model, run.state, keys, jnp.stack(rows), **sampling.options(run))
    print(viz.save_picture(file, images, 4))


def _classes(run: Any, drawn: _Drawn, sampling: Sampling) -> Any:
    """What a classifier of the run's data takes the images of the latents for, int [N]."""
    import jax
    import numpy as np

    import jaxgen
    from jaxgen.data import in_memory
    from jaxgen.data.pipeline import to_uint8
    from jaxgen.metrics.evaluation import extractor_for
    from jaxgen.metrics.features import extract

    keys = jax.random.split(jax.random.key(0), len(drawn.latents))
    options: Any = {**sampling.options(run), "batch": 256}
    images = jaxgen.generate(drawn.model, run.state, keys, drawn.latents, drawn.given, **options)
    referee = extractor_for("classifier", run.experiment.data)
    log_p = extract(referee, in_memory("samples", "drawn", np.asarray(to_uint8(images)))).log_probs
    return np.argmax(np.asarray(log_p), axis=-1)


# --- truncation ------------------------------------------------------------------------------------------------------


@command
def truncation(
    workdir: Path,
    /,
    *,
    values: tuple[float, ...] = (0.3, 0.5, 0.7, 0.85, 1.0, 2.0),
    n: int = 1000,
    columns: int = 12,
    extractor: str = "auto",
    weights: str | None = None,
    out: str | None = None,
    seed: int = 0,
    sampling: Flags = SAMPLING,
) -> None:
    """Quality against variety: precision and recall of samples as truncation runs through values, as a table, a curve
    (.png) and rows of the same samples (-samples.png).

    Args:
        workdir: the folder of a run
        values: psi of a StyleGAN, the threshold of z of other one-step models
        n: samples of each value; as many of the training images, at most, are the reference set
        columns: samples pictured
        extractor: as in jaxgen evaluate
        weights: the file of Inception's weights
        out: a .png; WORKDIR/truncation.png by default
        seed: of the samples
    """
    from dataclasses import replace

    import numpy as np

    from jaxgen import viz
    from jaxgen.metrics import report
    from jaxgen.metrics.evaluation import evaluate, extractor_for, samples
    from jaxgen.metrics.features import pieces

    at_least(1, n=n, columns=columns)
    check(sampling.truncation is None, "leave --truncation out: it runs through --values")
    check(len(values) >= 1, "--values: which values? Give at least one")
    file = out_file(out, workdir / "truncation.png", ".png")
    run, place = open_model(workdir)
    check_drawn(run, file, columns * len(values))
    data, names = run.experiment.data, ("precision", "recall", "fid")
    rows: list[tuple[str, ...]] = [("truncation", *names)]
    points, images = [], []
    chosen = extractor_for(extractor, data, weights)
    for value in values:
        options = replace(sampling, truncation=value).options(run, place)
        drawn = samples(run.experiment.model, run.state, data, n, seed, None, **options)
        found = evaluate(data, drawn, chosen, ["prdc", "fid"], references=n, seed=seed).scores
        precision, recall = found["precision"].estimate, found["recall"].estimate
        points.append((recall.value, precision.value, precision.error))
        rows.append((f"{value:g}", *(report.number(found[name].estimate) for name in names)))
        images.append(next(pieces(drawn, np.arange(columns), columns)))
    print("\n".join(report.columns(rows)))
    curve = viz.Panel("recall", "precision", [viz.Curve(run.experiment.name, points)], log="")
    print(viz.save_panels(file, [curve]))
    print(viz.save_picture(file.with_name(f"{file.stem}-samples.png"), np.concatenate(images), columns))
