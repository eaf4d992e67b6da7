"""Commands that say what a run's model is worth."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

from jaxgen.cli.asked import alike, at_least, counted, first_of, open_run, out_file, part_of
from jaxgen.errors import check


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
    run, _ = open_run(workdir)
    seen = part_of(run, split, n)
    z = codes(run.experiment.model, run.state, seen.x, condition=seen.given, batch=batch, ema=ema)
    if file.suffix == ".npz":
        print(viz.save_arrays(file, codes=z, labels=seen.labels))
        return
    points, shares = principal(z)
    told = [f"principal component {i + 1} ({share:.0%} of the variance)" for i, share in enumerate(shares)]
    axes = ("z_1", "z_2") if z.shape[1] == 2 else (told[0], told[1])
    single = seen.labels is not None and seen.labels.ndim == 1
    print(viz.save_scatter(file, points, seen.labels if single else None, seen.data.classes, axes))


def likelihood(
    workdir: Path,
    /,
    *,
    samples: int = 5000,
    n: int = 10_000,
    split: str = "test",
    data: str | None = None,
    seed: int = 0,
    ema: bool = True,
) -> None:
    """-log p(x) of data by importance sampling, and the ELBO; the numbers and how they came about also go to
    WORKDIR/likelihood.json.

    Args:
        workdir: the folder of a run
        samples: latents an image
        n: how many images, from the first on; all where the split has fewer
        split: of the data set
        data: a data set instead of the run's own, such as binary_mnist
        seed: of the latents
        ema: use the averaged parameters
    """
    from jaxgen import data as sets
    from jaxgen import viz
    from jaxgen.metrics.likelihood import likelihood as estimate

    at_least(1, n=n, samples=samples)
    run, _ = open_run(workdir)
    exp = run.experiment
    held_out = sets.other_split(exp.data, split) if data is None else alike(exp, sets.load(data, split))
    found = estimate(exp.model, run.state, held_out, samples=samples, images=min(n, held_out.size), seed=seed, ema=ema)
    protocol = {
        "p": exp.model.measure,
        "data": held_out.name,
        "split": split,
        "step": run.step,
        "seed": seed,
        "ema": ema,
    }
    text = json.dumps(found._asdict() | protocol, indent=1) + "\n"
    viz.atomically(workdir / "likelihood.json", lambda tmp: tmp.write_text(text))
    print(f"-log p(x)  {found.nll:.2f} ± {found.nll_error:.2f} nats, {found.bits:.4f} bits per dimension")
    print(f"-ELBO      {found.elbo:.2f} ± {found.elbo_error:.2f} nats")
    print(
        f"p is {exp.model.measure}; {found.images:,} images of {held_out.name} {split}, {found.samples:,} samples each"
    )


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

    at_least(1, n=n, batch=batch, **({} if k is None else {"k": k}))
    run, _ = open_run(workdir)
    seen = part_of(run, split, n)
    sets.labels_of(seen.data)
    found = clusters(
        run.experiment.model,
        run.state,
        seen.x,
        seen.labels,
        k=k,
        condition=seen.given,
        seed=seed,
        batch=batch,
        ema=ema,
    )
    print(f"{found.k} clusters of {counted(seen)}")
    print("         accuracy         NMI    ARI")
    for name, a in (("codes", found.codes), ("pixels", found.pixels)):
        print(f"{name:7}  {a.accuracy:.3f} ± {a.error:.3f}  {a.nmi:.3f}  {a.ari:.3f}")


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
    """Score images by how badly they are reconstructed: does that tell those that are not like the training data?

    Args:
        workdir: the folder of a run, best of one that was trained without the outliers
        outlier: the class that counts as outlying, by number or by name
        data: instead of a class: a data set all of which is outlying
        relative: divide the error by the image's ink, for bright things on black
        n: images of each data set; all by default
        out: a .png of the 64 most outlying images, the most outlying first; none by default
        split: of the data sets
        batch: images a call
        ema: use the averaged parameters
    """
    import numpy as np

    from jaxgen import viz
    from jaxgen.metrics.outliers import auroc, outlier_scores

    at_least(1, batch=batch, **({} if n is None else {"n": n}))
    check((outlier is None) != (data is None), "what is an outlier? Give either --outlier CLASS or --data NAME")
    file = None if out is None else out_file(out, Path(out), ".png")
    run, _ = open_run(workdir)
    parts, truth, what = _outlying(run, outlier, data, split, n)
    score = partial(outlier_scores, run.experiment.model, run.state, relative=relative, batch=batch, ema=ema)
    scores = np.concatenate([score(p.x, condition=p.given) for p in parts])
    found = auroc(scores, truth)
    print(
        f"AUROC {found.value:.4f} ± {found.error:.4f}, {found.outliers:,} outliers ({what}), {found.inliers:,} others"
    )
    if file is not None:
        x = np.concatenate([p.x for p in parts])
        print(viz.save_picture(file, x[np.argsort(-scores, kind="stable")[:64]]))


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
    """Classifiers with few labels: a linear head on the frozen codes, encoder and head trained on, and the same network
    from scratch; the share of test images that they get right, in per cent.

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

    words = [word.strip() for word in labels.split(",")]
    check(all(word.isdigit() for word in words), f"--labels {labels}: give numbers, separated by commas")
    run, _ = open_run(workdir)
    exp = run.experiment
    whole, test = sets.other_split(exp.data, exp.data.split), sets.other_split(exp.data, "test")
    options = {"seeds": seeds, "steps": steps, "lr": lr, "batch": batch, "ema": ema, "images": n}
    rows = pretrained_classifier(exp.model, run.state, whole, test, labels=[int(word) for word in words], **options)
    print(f"{test.size if n is None else n:,} images of {test.name} test, per cent right, {seeds} seeds")
    print("labels  frozen encoder  trained on      from scratch", flush=True)
    for row in rows:
        shares = [f"{100 * a.mean:5.1f} ± {100 * a.error:.1f}" for a in row[1:]]
        print(f"{row.labels:6}  " + "".join(f"{share:16}" for share in shares).rstrip(), flush=True)


def _outlying(run: Any, outlier: str | None, data: str | None, split: str, n: int | None) -> tuple[list, Any, str]:
    """(what is scored, which of it is outlying, in words)."""
    import numpy as np

    from jaxgen import data as sets

    own = part_of(run, split, n)
    if data is not None:
        other = first_of(run, alike(run.experiment, sets.load(data, split)), n)
        return [own, other], np.repeat([False, True], [len(own.x), len(other.x)]), f"{other.data.name} {split}"
    (number,) = sets.class_numbers(own.data, str(outlier))
    sets.labels_of(own.data)
    what = f"class {own.data.classes[number]} of {own.data.name} {split}"
    if number in sets.labels_of(run.experiment.data):
        what += ", which the model was trained on"
    return [own], own.labels == number, what
