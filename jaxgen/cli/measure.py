"""Commands that measure a run's model: its codes, its likelihood, its uses."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any, Literal

from jaxgen.cli.common import at_least, command, counted, first_of, open_model, out_file, part_of, same_shape
from jaxgen.errors import check

BOUND = 1000  # steps of a variational bound


@command
def encode(
    workdir: Path,
    /,
    *,
    n: int = 2000,
    out: str | None = None,
    split: str = "test",
    batch: int = 128,
    ema: bool = True,
) -> None:
    """Codes of data: those of two dimensions as they are, the first two principal components of others.

    Args:
        workdir: the folder of a run
        n: how many images; all where the split has fewer
        out: a .png for a scatter plot, a .npz for arrays (codes, labels); WORKDIR/encode.png by default
        split: of the data set
        batch: images a call
        ema: use the averaged parameters
    """
    from jaxgen import viz
    from jaxgen.metrics.clusters import codes, principal

    at_least(1, n=n, batch=batch)
    file = out_file(out, workdir / "encode.png", ".png", ".npz")
    run, _ = open_model(workdir)
    part = part_of(run, split, n)
    z = codes(run.experiment.model, run.state, part.x, condition=part.condition, batch=batch, ema=ema)
    if file.suffix == ".npz":
        print(viz.save_arrays(file, codes=z, labels=part.labels))
        return
    points, shares = principal(z)
    titles = [f"principal component {i + 1} ({share:.0%} of the variance)" for i, share in enumerate(shares)]
    axes = ("z_1", "z_2") if z.shape[1] == 2 else (titles[0], titles[1])
    # colours are of named classes; labels without names, attributes and trees of conditions have none
    coloured = bool(part.data.classes) and getattr(part.labels, "ndim", 0) == 1
    print(viz.save_scatter(file, points, part.labels if coloured else None, part.data.classes, axes))


@command
def likelihood(
    workdir: Path,
    /,
    *,
    samples: int | None = None,
    n: int = 10_000,
    split: str = "test",
    data: str | None = None,
    by: Literal["flow", "bound"] | None = None,
    levels: int | None = None,
    dequantise: Literal["uniform", "noise"] | None = None,
    steps: int | None = None,
    seed: int = 0,
    ema: bool = True,
) -> None:
    """-log p(x) of data by the model's density, and the ELBO of importance samples; the numbers and how they were
    computed also go to WORKDIR/likelihood.json.

    Args:
        workdir: the folder of a run
        samples: draws an image; by default 5,000 importance samples, 1 of a density that is exact, unbiased or a bound
        n: how many images, from the first on; all where the split has fewer
        split: of the data set
        data: a data set instead of the run's own, such as binary_mnist
        by: of a model that iterates: the probability flow, as by default, or the variational bound
        levels: of pixels, whose probability is then bounded, 256 for 8 bits; by default the density as it is
        dequantise: how the flow is given pixels on levels: with uniform noise of their width, as by default and for a
            model that was trained so, or with the noise at which it begins, for a model trained on them as they are
        steps: of the variational bound, 1,000 by default; the more, the tighter, at no cost of its own
        seed: of the draws
        ema: use the averaged parameters
    """
    from jaxgen import data as sets
    from jaxgen.files import atomically
    from jaxgen.metrics.estimate import Estimate
    from jaxgen.metrics.likelihood import likelihood as estimate
    from jaxgen.metrics.report import number, plain

    at_least(1, n=n, samples=samples, steps=steps)
    run, _ = open_model(workdir)
    exp = run.experiment
    held_out = sets.other_split(exp.data, split) if data is None else same_shape(exp, sets.load(data, split))
    model = _iterating(exp.model, by, levels, dequantise, steps)
    found = estimate(model, run.state, held_out, samples=samples, images=min(n, held_out.size), seed=seed, ema=ema)
    measure = model.density.measure
    protocol = {"p": measure, "data": held_out.name, "split": split, "step": run.step, "seed": seed, "ema": ema}
    protocol |= {"steps": steps or BOUND} if by == "bound" else {}
    fields = {name: plain(v) if isinstance(v, Estimate) else v for name, v in found._asdict().items()}
    note = {**fields, **protocol}
    atomically(workdir / "likelihood.json", lambda tmp: tmp.write_text(json.dumps(note, indent=1) + "\n"))
    relation = "<= " if found.kind == "bound" else ""
    print(f"-log p(x)  {relation}{number(found.nll)} nats, {found.bits.value:.4f} bits per dimension")
    if found.elbo is not None:
        print(f"-ELBO      {number(found.elbo)} nats")
    draws = f"{found.samples:,} sample{'s' * (found.samples > 1)} each"
    print(f"p is {measure}; {found.images:,} images of {held_out.name} {split}, {draws}")


def _iterating(model: Any, by: str | None, levels: int | None, dequantise: str | None, steps: int | None) -> Any:
    """The model with the density that the flags choose; both are of models that iterate."""
    from jaxgen import families

    check(steps is None or by == "bound", f"--steps {steps} are those of a variational bound: add --by bound")
    unfit = dequantise is not None and (by == "bound" or levels is None)
    check(
        not unfit,
        f"--dequantise {dequantise} is for the flow, of pixels on levels: add --levels 256, and no --by bound",
    )
    if by is None and levels is None:
        return model
    check(model.process is not None, "--by and --levels are for models that iterate, this one has a density of its own")
    if by == "bound":
        return model._replace(density=families.variational_density(model, steps=steps or BOUND, levels=levels))
    noise = levels if dequantise == "noise" else None
    model = model._replace(density=families.flow_density(model, levels=noise))
    return model if levels is None or noise else families.dequantised(model, levels)


@command
def cluster(
    workdir: Path,
    /,
    *,
    k: int | None = None,
    n: int = 10_000,
    split: str = "test",
    seed: int = 0,
    batch: int = 128,
    ema: bool = True,
) -> None:
    """k-means of the codes against the labels, beside k-means of the pixels.

    Args:
        workdir: the folder of a run
        k: how many clusters; as many as classes by default
        n: how many images; all where the split has fewer
        split: of the data set
        seed: of the clusters' starts
        batch: images a call
        ema: use the averaged parameters
    """
    from jaxgen import data as sets
    from jaxgen.metrics.clusters import clusters
    from jaxgen.metrics.report import columns, number

    at_least(1, n=n, batch=batch, k=k)
    run, _ = open_model(workdir)
    part = part_of(run, split, n)
    sets.labels_of(part.data)
    options = {"k": k, "condition": part.condition, "seed": seed, "batch": batch, "ema": ema}
    found = clusters(run.experiment.model, run.state, part.x, part.labels, **options)
    print(f"{found.k} clusters of {counted(part)}")
    rows = [
        (name, number(a.accuracy), f"{a.nmi:.3f}", f"{a.ari:.3f}")
        for name, a in (("codes", found.codes), ("pixels", found.pixels))
    ]
    print("\n".join(columns([("", "accuracy", "NMI", "ARI"), *rows])))


@command
def outliers(
    workdir: Path,
    /,
    *,
    outlier: str | None = None,
    data: str | None = None,
    relative: bool = False,
    n: int | None = None,
    out: str | None = None,
    split: str = "test",
    batch: int = 128,
    ema: bool = True,
) -> None:
    """Score images by their reconstruction error, and how well that separates outliers from the training data's kind.

    Args:
        workdir: the folder of a run, best of one that was trained without the outliers
        outlier: the class that counts as outlying, by number or by name
        data: instead of a class: a data set all of which is outlying
        relative: divide the error by the image's distance from black, for bright things on black
        n: images of each data set; all by default
        out: a .png of the 64 most outlying images, the most outlying first; none by default
        split: of the data sets
        batch: images a call
        ema: use the averaged parameters
    """
    import numpy as np

    from jaxgen import viz
    from jaxgen.metrics.outliers import auroc, outlier_scores
    from jaxgen.metrics.report import number

    at_least(1, batch=batch, n=n)
    check((outlier is None) != (data is None), "what is an outlier? Give either --outlier CLASS or --data NAME")
    file = None if out is None else out_file(out, Path(out), ".png")
    run, _ = open_model(workdir)
    parts, truth, what = _outlying(run, outlier, data, split, n)
    score = partial(outlier_scores, run.experiment.model, run.state, relative=relative, batch=batch, ema=ema)
    scores = np.concatenate([score(p.x, condition=p.condition) for p in parts])
    counts = f"{truth.sum():,} outliers ({what}), {(~truth).sum():,} others"
    print(f"AUROC {number(auroc(scores, truth))}, {counts}")
    if file is not None:
        x = np.concatenate([p.x for p in parts])
        print(viz.save_picture(file, x[np.argsort(-scores, kind="stable")[:64]]))


@command
def pretrain(
    workdir: Path,
    /,
    *,
    labels: str = "10,50,100,1000",
    seeds: int = 3,
    steps: int = 300,
    lr: float = 1e-3,
    n: int | None = None,
    batch: int = 128,
    ema: bool = True,
) -> None:
    """Classifiers with few labels: a linear head on the frozen codes, encoder and head fine-tuned, and the same network
    from scratch; their accuracies in per cent.

    Args:
        workdir: the folder of a run
        labels: how many, separated by commas
        seeds: of labelled examples and fresh starts, over which is averaged
        steps: of Adam
        lr: Adam's learning rate
        n: how many test images; all by default
        batch: images a step and a call
        ema: begin with the averaged parameters
    """
    from jaxgen import data as sets
    from jaxgen.metrics.classifier import pretrained_classifier
    from jaxgen.metrics.estimate import scaled
    from jaxgen.metrics.report import number

    words = [word.strip() for word in labels.split(",")]
    check(all(word.isdecimal() for word in words), f"--labels {labels}: give numbers, separated by commas")
    run, _ = open_model(workdir)
    exp = run.experiment
    train, test = sets.other_split(exp.data, exp.data.split), sets.other_split(exp.data, "test")
    options = {"seeds": seeds, "steps": steps, "lr": lr, "batch": batch, "ema": ema, "images": n}
    rows = pretrained_classifier(exp.model, run.state, train, test, labels=[int(word) for word in words], **options)
    print(f"accuracy in per cent on {test.size if n is None else n:,} images of {test.name} test, {seeds} seeds")
    print("labels  frozen encoder  fine-tuned      from scratch", flush=True)
    for row in rows:
        accuracies = [number(scaled(a, 100.0)) for a in row[1:]]
        print(f"{row.labels:6}  " + "".join(f"{accuracy:16}" for accuracy in accuracies).rstrip(), flush=True)


def _outlying(run: Any, outlier: str | None, data: str | None, split: str, n: int | None) -> tuple[list, Any, str]:
    """(what is scored, which of it is outlying, in words)."""
    import numpy as np

    from jaxgen import data as sets

    own = part_of(run, split, n)
    if data is not None:
        other = first_of(run, same_shape(run.experiment, sets.load(data, split)), n)
        return [own, other], np.repeat([False, True], [len(own.x), len(other.x)]), f"{other.data.name} {split}"
    (number,) = sets.class_numbers(own.data, str(outlier))
    sets.labels_of(own.data)
    what = f"class {own.data.classes[number]} of {own.data.name} {split}"
    if number in sets.labels_of(run.experiment.data):
        what += ", which the model was trained on"
    return [own], np.asarray(own.labels == number), what
