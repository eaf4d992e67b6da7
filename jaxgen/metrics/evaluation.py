"""Scores of generated images: one registry of metrics, each score with its error, its sample size and its floor."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen import conditions, parallel
from jaxgen import data as sets_of_images
from jaxgen.data import Dataset, order
from jaxgen.data.subsets import UNLABELLED
from jaxgen.metrics import trained as of_model
from jaxgen.metrics.classes import class_coverage
from jaxgen.metrics.estimate import Estimate
from jaxgen.metrics.features import Extractor, Features, check_size, extract, feature_shapes, pixels
from jaxgen.metrics.frechet import fid, fid_infinity
from jaxgen.metrics.inception_score import inception_score
from jaxgen.metrics.kernel import kid
from jaxgen.metrics.neighbours import copying, prdc
from jaxgen.metrics.pieces import conditions_at
from jaxgen.metrics.referee import referee
from jaxgen.metrics.report import Evaluation, Score
from jaxgen.metrics.trained import Trained
from jaxgen.sampling import drawer
from jaxgen.types import Batch, Model, TrainState, Tree, check

CLASSES, HELD_OUT, MODEL, TEST = "classes", "held_out", "model", "test"
NEEDS = {
    CLASSES: "an extractor that predicts classes, and this one does not: leave it out, or choose another extractor",
    HELD_OUT: "real images that are not in the reference set, and there are none: give held-out images",
    MODEL: "a model: two sets of images have no such score",
    TEST: "held-out data of the model's own data set, and there are none: its other split is missing",
}


class Sets(NamedTuple):
    """What scores of two sets of images are computed from.

    reals     features of the reference set
    fakes     features of the generated images
    held_out  features of real images that are not in the reference set; None: there are none
    seed      of everything that is drawn
    """

    reals: Features
    fakes: Features
    held_out: Features | None = None
    seed: int = 0


class Metric(NamedTuple):
    """A row of the registry.

    score    Sets -> {name: Estimate}; Trained -> {name: Estimate} of a metric that needs a model
    better   "lower", "higher" or "" of each name
    needs    which of `NEEDS`
    default  computed where no metrics are named and its needs are met
    images   of a metric that needs a model: how many images or paths it is a mean over
    """

    score: Callable[..., Mapping[str, Estimate]]
    better: Mapping[str, str]
    needs: frozenset[str] = frozenset()
    default: bool = True
    images: Callable[[Trained], int] = lambda trained: trained.images


def _of_vectors(name: str, score: Callable[..., Estimate], **options: Any) -> Metric:
    return Metric(lambda s: {name: score(s.reals.vectors, s.fakes.vectors, seed=s.seed)}, {name: "lower"}, **options)


def _of_model(score: Callable[[Trained], Mapping[str, Estimate]], needs: Collection[str], **better: str) -> Metric:
    return Metric(score, better, frozenset([MODEL, *needs]), default=False)


def _prdc(s: Sets) -> Mapping[str, Estimate]:
    n = min(len(s.reals.vectors), len(s.fakes.vectors))  # the published protocols compare equal numbers
    return prdc(s.reals.vectors[:n], s.fakes.vectors[:n], seed=s.seed)._asdict()


def _copying(s: Sets) -> Mapping[str, Estimate]:
    check(s.held_out is not None, f"copying needs {NEEDS[HELD_OUT]}")
    found = copying(s.reals.vectors, s.held_out.vectors, s.fakes.vectors)  # type: ignore[union-attr]
    return {"copying": found.nearer, "copies": found.copies, "copies_by_chance": found.by_chance}


METRICS: dict[str, Metric] = {
    "fid": _of_vectors("fid", fid),
    "fid_infinity": _of_vectors("fid_infinity", fid_infinity, default=False),
    "kid": _of_vectors("kid", kid),
    "is": Metric(lambda s: {"is": inception_score(s.fakes.log_probs)}, {"is": "higher"}, frozenset([CLASSES])),
    "prdc": Metric(_prdc, dict.fromkeys(("precision", "recall", "density", "coverage"), "higher")),
    "classes": Metric(
        lambda s: class_coverage(s.reals.log_probs, s.fakes.log_probs, seed=s.seed)._asdict(),
        {"reached": "higher", "kl": "lower", "confident": "higher"},
        frozenset([CLASSES]),
    ),
    "copying": Metric(_copying, {"copying": "", "copies": "lower", "copies_by_chance": ""}, frozenset([HELD_OUT])),
    "likelihood": _of_model(of_model.held_out_likelihood, [TEST], nll="lower", elbo="lower", bits="lower"),
    "reconstruction": _of_model(of_model.reconstruction, [TEST], psnr="higher", ssim="higher", lpips="lower"),
    "probe": _of_model(of_model.probe, [TEST], probe="higher"),
    "ppl": _of_model(of_model.path_length, [], ppl="lower")._replace(images=lambda trained: trained.n),
}
"""{name: Metric} of all metrics."""


def choose(metrics: Sequence[str] | None, there: Collection[str]) -> list[str]:
    """The metrics of those names, by default all `default` ones whose needs are `there`. InputError for an unknown name
    and for a metric that needs what is not there."""
    if metrics is None:
        return [name for name, metric in METRICS.items() if metric.default and metric.needs <= set(there)]
    for name in metrics:
        check(name in METRICS, f"unknown metric {name!r}: choose of {', '.join(METRICS)}")
        missing = [text for need, text in NEEDS.items() if need in METRICS[name].needs - set(there)]
        check(not missing, f"{name} needs {(missing or [''])[0]}")
    return list(metrics)


def evaluate(
    reals: Dataset,
    fakes: Dataset,
    extractor: Extractor | None,
    metrics: Sequence[str] | None = None,
    *,
    held_out: Dataset | None = None,
    trained: Trained | None = None,
    references: int | None = None,
    seed: int = 0,
    batch: int = 64,
    sharding: Any = None,
) -> Evaluation:
    """Scores of `fakes` against `reals`, each with the same score of real images as its floor: of as many `held_out`
    ones as there are fakes, or without them of one half of the reals against the other. The protocol states which.

    Any two sets of images: `data.in_memory` makes one of an array, `samples` of a model, `data.load` of a folder.
    extractor: may be None where all metrics are scores of a model; metrics: names of `METRICS`, by default those of
    `choose`; trained: the model behind the fakes, for the metrics that need it; references: the number of reals, drawn
    by the seed, all by default; batch, sharding: as in `features.extract`, which keeps the features of reals.
    InputError for an unknown metric, and for one whose needs are not met: `copying` without held-out images.
    """
    names = choose(metrics, _there(extractor, fakes, held_out, trained))
    of_sets = [name for name in names if MODEL not in METRICS[name].needs]
    protocol: dict[str, Any] = {"samples": fakes.size, "seed": seed}
    scores: dict[str, Score] = {}
    if of_sets:
        check(extractor is not None, f"{', '.join(of_sets)}: scores of two sets of images need an extractor: give one")
        options = {"batch": batch, "sharding": sharding}
        real = drawn(extractor, reals, references, seed, keep=True, **options)  # type: ignore[arg-type]
        fake = drawn(extractor, fakes, None, seed, **options)  # type: ignore[arg-type]
        others = None
        if held_out is not None:
            others = drawn(extractor, held_out, fakes.size, seed, keep=True, **options)  # type: ignore[arg-type]
        scores |= scored(Sets(real, fake, others, seed), of_sets)
        protocol = _protocol(extractor, reals, real, held_out, others) | protocol  # type: ignore[arg-type]
    elif trained is not None:
        protocol = {"held_out": "none" if trained.test is None else _in_words(trained.test), **protocol}
    scores |= scored_model(trained, [name for name in names if name not in of_sets])
    return Evaluation(scores, protocol)


def _there(extractor: Extractor | None, fakes: Dataset, held_out: Any, trained: Trained | None) -> set[str]:
    """Which of `NEEDS` are met."""
    met = {
        CLASSES: extractor is not None and feature_shapes(extractor, fakes)[1] is not None,
        HELD_OUT: held_out is not None,
        MODEL: trained is not None,
        TEST: trained is not None and trained.test is not None,
    }
    return {need for need, there in met.items() if there}


def _protocol(
    extractor: Extractor, reals: Dataset, real: Features, held_out: Dataset | None, others: Features | None
) -> dict[str, Any]:
    """What scores of two sets of images depend on, in plain values."""
    apart = "none: the floor is that of two halves of the reference set"
    if held_out is not None and others is not None:
        apart = _in_words(held_out, len(others.vectors))
    return {
        "extractor": extractor.name,
        "digest": extractor.digest,
        **extractor.protocol,
        "reals": _in_words(reals, len(real.vectors)),
        "held_out": apart,
    }


def _in_words(images: Dataset, n: int | None = None) -> str:
    return f"{images.size if n is None else n:,} images of {images.name} {images.split}"


def scored(sets: Sets, metrics: Sequence[str]) -> dict[str, Score]:
    """{name: Score} of each of `metrics` that needs no model. InputError as for `evaluate`."""
    there = {CLASSES: sets.fakes.log_probs is not None, HELD_OUT: sets.held_out is not None}
    scores = {}
    for name in choose(metrics, {need for need, met in there.items() if met}):
        scores |= _with_floor(METRICS[name], sets)
    return scores


def scored_model(trained: Trained | None, metrics: Sequence[str]) -> dict[str, Score]:
    """{name: Score} of each of `metrics` that needs a model. InputError for what the model has not: a likelihood, an
    encoder, held-out data."""
    scores: dict[str, Score] = {}
    there = [MODEL] * (trained is not None) + [TEST] * (trained is not None and trained.test is not None)
    for name in choose(metrics, there):
        metric = METRICS[name]
        n = metric.images(trained)  # type: ignore[arg-type]
        scores |= {key: Score(e, metric.better[key], n) for key, e in metric.score(trained).items()}
    return scores


def drawn(extractor: Extractor, images: Dataset, n: int | None, seed: int, **options: Any) -> Features:
    """The features of n images drawn by the seed, of all where there are not more, in the order of the draw: files are
    often sorted by class, and the first of them must be a random part. options: those of `extract`."""
    n = images.size if n is None else min(n, images.size)
    check_size(extractor, images, n)
    index = order(images.size, seed, 0, n)
    in_file = np.sort(index)  # so that the features of all images are cached once for all seeds
    return extract(extractor, images, in_file, **options).rows(np.searchsorted(in_file, index))


def _with_floor(metric: Metric, sets: Sets) -> dict[str, Score]:
    found, n = metric.score(sets), len(sets.fakes.vectors)
    scores = {name: Score(estimate, metric.better[name], n) for name, estimate in found.items()}
    if HELD_OUT in metric.needs:  # the held-out images are part of the score itself
        return scores
    reals, others = halves(sets.reals, sets.seed) if sets.held_out is None else (sets.reals, sets.held_out)
    m = min(n, len(others.vectors))
    floor = metric.score(Sets(reals, others.rows(slice(m)), seed=sets.seed))
    if reals is not sets.reals or m < n:
        found = metric.score(Sets(reals, sets.fakes.rows(slice(m)), seed=sets.seed))
    return {
        name: score._replace(floor=floor[name], floor_images=m, at_floor=found[name]) for name, score in scores.items()
    }


def halves(reals: Features, seed: int = 0) -> tuple[Features, Features]:
    """Two disjoint random halves, for the floor of a reference set without held-out images."""
    n = len(reals.vectors)
    check(n >= 4, f"{n} real images cannot be divided into a reference set and others: give more")
    index = order(n, seed, 0, n)
    return reals.rows(index[: n // 2]), reals.rows(index[n // 2 :])


def samples(
    model: Model, state: TrainState, data: Dataset, n: int, seed: int = 0, condition: Any = None, **options: Any
) -> Dataset:
    """n samples of a model as a data set whose images are drawn when they are read: image i depends on (seed, i) alone.

    By default the samples of a conditional model have the conditions of n examples of `data`, drawn without replacement
    as far as they go: a score against `data` compares images of the same conditions. options: those of
    `sampling.drawer`.
    """
    if condition is None and model.condition is not None:
        condition = _conditions(model, data, n, seed)
    draw = drawer(model, state, jax.random.key(seed), n, condition, **options)

    def take(index: np.ndarray) -> Batch:
        return Batch(parallel.to_host(draw(jnp.asarray(index))))  # type: ignore[arg-type]

    return Dataset("samples", f"of seed {seed}", n, data.shape, take, streaming=True)


def _conditions(model: Model, data: Dataset, n: int, seed: int) -> Tree:
    """Of n examples; those without a label, of a data set of few labels, are replaced by others."""
    given = conditions_at(model.condition, data, order(data.size, seed, 0, n))
    integers = [leaf for leaf in jax.tree.leaves(given) if np.issubdtype(leaf.dtype, np.integer)]
    known = np.ones(n, bool)
    for leaf in integers:
        known &= (leaf != UNLABELLED).reshape(n, -1).all(axis=1)
    check(bool(known.any()), f"{data.name} has no labels among {n} examples: give a condition")
    return conditions.rows(given, np.resize(np.flatnonzero(known), n))


EXTRACTORS = ("inception", "classifier", "classifier:NAME", "pixels")


def extractor_for(name: str, data: Dataset, weights: str | None = None, resize: str | None = None) -> Extractor:
    """The extractor of that name: "inception" (weights: its file; resize: as in `metrics.inception`), "classifier"
    trained on `data`'s own training split, or on another's, "classifier:mnist"; "pixels"; "auto" is the classifier for
    labelled grey images, else Inception."""
    kind, _, other = name.partition(":")
    if kind == "auto":
        given = data.take(np.zeros(1, np.int64)).condition
        labelled = getattr(given, "ndim", 0) == 1
        kind = "classifier" if labelled and data.shape[-1] == 1 and not data.streaming else "inception"
    bare = weights is None and resize is None
    check(kind == "inception" or bare, f"weights and resize are Inception's, {kind} has none: leave them out")
    if kind == "inception":
        from jaxgen.metrics.inception import inception

        return inception(weights, resize=resize or "tensorflow")
    if kind == "pixels":
        return pixels()
    check(kind == "classifier", f"unknown extractor {name!r}: choose of {', '.join(EXTRACTORS)}")
    split = partial(sets_of_images.load, other) if other else partial(sets_of_images.other_split, data)
    train = split("train")
    check(
        train.shape == data.shape,
        f"the classifier of {train.name} takes images {train.shape}, these are {data.shape}: choose another extractor",
    )
    return referee(train, split("test"))
