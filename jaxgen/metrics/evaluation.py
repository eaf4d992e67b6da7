"""Scores of generated images, each with its error, the sizes it rests on, and what real images score at that size."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen import data as sets_of_images
from jaxgen import parallel
from jaxgen.data import Dataset, normalize, order
from jaxgen.data.subsets import UNLABELLED
from jaxgen.metrics.classes import class_coverage
from jaxgen.metrics.estimate import Estimate
from jaxgen.metrics.features import Extractor, Features, extract, pixels, seen_shapes
from jaxgen.metrics.frechet import fid, fid_infinity
from jaxgen.metrics.inception_score import inception_score
from jaxgen.metrics.kernel import kid
from jaxgen.metrics.neighbours import copying, prdc
from jaxgen.metrics.referee import referee
from jaxgen.sampling import drawer
from jaxgen.types import Batch, Model, TrainState, check, condition_of

CHUNK = 1024  # examples whose conditions are read at once


class Sets(NamedTuple):
    """What a score looks at.

    reals, fakes   the reference and what is compared with it
    apart          (a reference, real images that are not in it): what real images score, and what copying is told by
    seed           of everything that is drawn
    """

    reals: Features
    fakes: Features
    apart: tuple[Features, Features] | None = None
    seed: int = 0


class Metric(NamedTuple):
    """score: Sets -> {name: Estimate}; better: "lower", "higher" or "" of each name; classes: it needs log_probs;
    apart: it needs real images that are not in the reference, without which it says nothing, {}."""

    score: Callable[[Sets], Mapping[str, Estimate]]
    better: Mapping[str, str]
    classes: bool = False
    apart: bool = False


class Score(NamedTuple):
    """value, error, how     an `Estimate`, of so many `images`
    better                   "lower" or "higher", or ""
    floor, floor_error       the same score of `floor_images` real images that are not in the reference; None: unknown
    at_floor                 that of as many generated images against the reference of the floor: what to hold beside it
    """

    value: float
    error: float | None
    how: str
    better: str
    images: int
    floor: float | None = None
    floor_error: float | None = None
    floor_images: int | None = None
    at_floor: float | None = None


class Evaluation(NamedTuple):
    """scores: {name: Score}; protocol: what they depend on, in plain values; cost: what the samples took."""

    scores: Mapping[str, Score]
    protocol: Mapping[str, Any]
    cost: Mapping[str, Any] = {}


def _one(name: str, score: Callable[..., Estimate], better: str) -> Metric:
    return Metric(lambda s: {name: score(s.reals.codes, s.fakes.codes, seed=s.seed)}, {name: better})


def _prdc(s: Sets) -> Mapping[str, Estimate]:
    n = min(len(s.reals.codes), len(s.fakes.codes))  # the published protocols compare equally many
    return prdc(s.reals.codes[:n], s.fakes.codes[:n], seed=s.seed)._asdict()


def _copying(s: Sets) -> Mapping[str, Estimate]:
    if s.apart is None:
        return {}
    found = copying(s.apart[0].codes, s.apart[1].codes, s.fakes.codes)
    return {"copying": found.nearer, "copies": found.copies, "copies_by_chance": found.by_chance}


CLASSES = {"reached": "higher", "kl": "lower", "confident": "higher"}
METRICS: dict[str, Metric] = {
    "fid": _one("fid", fid, "lower"),
    "fid_infinity": _one("fid_infinity", fid_infinity, "lower"),
    "kid": _one("kid", kid, "lower"),
    "is": Metric(lambda s: {"is": inception_score(s.fakes.log_probs)}, {"is": "higher"}, classes=True),
    "prdc": Metric(_prdc, dict.fromkeys(("precision", "recall", "density", "coverage"), "higher")),
    "classes": Metric(
        lambda s: class_coverage(s.reals.log_probs, s.fakes.log_probs, seed=s.seed)._asdict(), CLASSES, classes=True
    ),
    "copying": Metric(_copying, {"copying": "", "copies": "lower", "copies_by_chance": ""}, apart=True),
}


def evaluate(
    reals: Dataset,
    fakes: Dataset,
    extractor: Extractor,
    metrics: Sequence[str] | None = None,
    *,
    held_out: Dataset | None = None,
    references: int | None = None,
    seed: int = 0,
    batch: int = 64,
    sharding: Any = None,
) -> Evaluation:
    """Scores of `fakes` against `reals`, each beside what real images score: those of `held_out`, as many as there are
    fakes, or else one half of the reals against the other.

    Any two sets of images: `data.in_memory` makes one of an array, `samples` of a model, `data.load` of a folder.
    metrics: names of `METRICS`; all that the extractor allows but "fid_infinity" unless told otherwise; references: so
    many of the reals, drawn by the seed, all by default; batch, sharding: as in `features.extract`, which keeps the
    features of reals. InputError for an unknown metric, and for one that needs classes where the extractor has none.
    """
    classes = seen_shapes(extractor, fakes)[1] is not None
    if metrics is None:
        metrics = [name for name, m in METRICS.items() if name != "fid_infinity" and (classes or not m.classes)]
    _check_metrics(metrics, classes)
    see = {"batch": batch, "sharding": sharding}
    real = drawn(extractor, reals, references, seed, keep=True, **see)
    fake = drawn(extractor, fakes, None, seed, **see)
    if held_out is None:
        apart = halves(real, seed)
    else:
        apart = (real, drawn(extractor, held_out, fakes.size, seed, keep=True, **see))
    protocol = {
        "extractor": extractor.name,
        "digest": extractor.digest,
        **extractor.protocol,
        "reals": f"{len(real.codes):,} images of {reals.name} {reals.split}",
        "samples": fakes.size,
        "seed": seed,
    }
    return Evaluation(scored(real, fake, metrics, apart=apart, seed=seed), protocol)


def scored(
    reals: Features,
    fakes: Features,
    metrics: Sequence[str],
    *,
    apart: tuple[Features, Features] | None = None,
    seed: int = 0,
) -> dict[str, Score]:
    """{name: Score} of each of `metrics`; arguments as in `Sets`. InputError as for `evaluate`."""
    _check_metrics(metrics, fakes.log_probs is not None)
    sets, scores = Sets(reals, fakes, apart, seed), {}
    for name in metrics:
        scores |= _scored(METRICS[name], sets)
    return scores


def _check_metrics(metrics: Sequence[str], classes: bool) -> None:
    for name in metrics:
        check(name in METRICS, f"unknown metric {name!r}: choose of {', '.join(METRICS)}")
        told = classes or not METRICS[name].classes
        check(told, f"{name} needs an extractor that names classes, this one does not: leave it out, or choose another")


def drawn(extractor: Extractor, images: Dataset, n: int | None, seed: int, **options: Any) -> Features:
    """The features of n images drawn by the seed, all where there are not more, in the order in which they are drawn:
    files often lie class by class, and the first of them must be like the rest. options: those of `extract`."""
    index = order(images.size, seed, 0, images.size if n is None else min(n, images.size))
    as_they_lie = np.sort(index)  # so that all of them are kept once for all seeds
    return extract(extractor, images, as_they_lie, **options).rows(np.searchsorted(as_they_lie, index))


def _scored(metric: Metric, sets: Sets) -> dict[str, Score]:
    found, n = metric.score(sets), len(sets.fakes.codes)
    scores = {name: Score(*estimate, metric.better[name], n) for name, estimate in found.items()}
    if sets.apart is None:
        return scores
    reals, held_out = sets.apart
    m = min(n, len(held_out.codes))
    floor = metric.score(Sets(reals, held_out.rows(slice(m)), seed=sets.seed))
    if reals is not sets.reals or m < n:
        found = metric.score(Sets(reals, sets.fakes.rows(slice(m)), seed=sets.seed))
    return scores | {
        name: scores[name]._replace(
            floor=real.value, floor_error=real.error, floor_images=m, at_floor=found[name].value
        )
        for name, real in floor.items()
    }


def halves(reals: Features, seed: int = 0) -> tuple[Features, Features]:
    """Two disjoint random halves, for the floor of a set that comes alone."""
    n = len(reals.codes)
    check(n >= 4, f"{n} real images cannot be divided into a reference and others: give more")
    index = order(n, seed, 0, n)
    return reals.rows(index[: n // 2]), reals.rows(index[n // 2 :])


def samples(
    model: Model, state: TrainState, data: Dataset, n: int, seed: int = 0, condition: Any = None, **options: Any
) -> Dataset:
    """n samples of a model as a data set that is drawn when it is asked for: image i depends on (seed, i) alone.

    Where the model is conditional and no condition is given, theirs are those of n examples of `data`, drawn without
    replacement as far as they go: a score against `data` compares images of the same conditions. options: those of
    `sampling.drawer`.
    """
    if condition is None and model.condition is not None:
        condition = _conditions(model, data, n, seed)
    draw = drawer(model, state, jax.random.key(seed), n, condition, **options)

    def take(index: np.ndarray) -> Batch:
        return Batch(parallel.whole(draw(jnp.asarray(index))))  # type: ignore[arg-type]

    return Dataset("samples", f"of seed {seed}", n, data.shape, take, streaming=True)


def _conditions(model: Model, data: Dataset, n: int, seed: int) -> np.ndarray:
    index = order(data.size, seed, 0, n)
    read = jax.jit(lambda batch: condition_of(model.condition, normalize(batch)))
    parts = (jax.tree.map(jnp.asarray, data.take(index[i : i + CHUNK])) for i in range(0, n, CHUNK))
    given = np.concatenate([np.asarray(read(batch)) for batch in parts])
    if np.issubdtype(given.dtype, np.integer):  # labels, of which some may be missing
        given = given[given != UNLABELLED]
        check(given.size > 0, f"{data.name} has no labels among {n} examples: give a condition")
    return np.resize(given, (n, *given.shape[1:]))


EXTRACTORS = ("inception", "classifier", "classifier:NAME", "pixels")


def extractor_for(name: str, data: Dataset, weights: str | None = None, resize: str | None = None) -> Extractor:
    """The extractor of that name: "inception" (weights: its file; resize: as in `metrics.inception`), "classifier"
    trained on `data`'s own training split, or on another's, "classifier:mnist"; "pixels"; "auto" is the classifier for
    labelled grey images, else Inception."""
    kind, _, other = name.partition(":")
    if kind == "auto":
        given = data.take(np.zeros(1, np.int64)).condition
        labelled = np.ndim(given) == 1 and data.shape[-1] == 1 and not data.streaming
        kind = "classifier" if labelled else "inception"
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
        f"the classifier of {train.name} sees images {train.shape}, these are {data.shape}: choose another extractor",
    )
    return referee(train, split("test"))
