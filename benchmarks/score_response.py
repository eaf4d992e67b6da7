"""The response of the scores to known damage of real images: a figure and a table.

    python benchmarks/score_response.py                                        # MNIST, a classifier's features
    python benchmarks/score_response.py --name photos --extractor inception --n 250 --references 1000 --out FILE.png

Real held-out images are damaged more and more and scored against the training images. Level 0 is no damage.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import tyro
from scipy.ndimage import gaussian_filter

from jaxgen import data, viz
from jaxgen.data import Dataset, in_memory, order
from jaxgen.metrics.evaluation import CLASSES, METRICS, Sets, drawn, extractor_for
from jaxgen.metrics.features import extract, feature_shapes
from jaxgen.metrics.report import columns, number

LEVELS = 5
SCORES = ("fid", "kid", "precision", "recall", "density", "coverage", "is", "copying")
METRIC = {score: name for name, metric in METRICS.items() for score in metric.better}
Damage = Callable[[np.ndarray, np.ndarray, np.ndarray, int, np.random.Generator], np.ndarray]


def blurred(x, labels, train, level, rng):
    """A Gaussian filter of deviation 0 to 2 pixels."""
    sigma = 0.5 * level
    return np.round(gaussian_filter(x.astype(np.float32), (0, sigma, sigma, 0))).astype(np.uint8)


def noisy(x, labels, train, level, rng):
    """Gaussian noise of deviation 0 to 80 of 255."""
    return np.clip(np.round(x + 20.0 * level * rng.normal(size=x.shape)), 0, 255).astype(np.uint8)


def few_classes(x, labels, train, level, rng):
    """2 of 10 classes fewer at each level, the others instead."""
    classes = np.unique(labels)
    kept = classes[: len(classes) - round(level * len(classes) / LEVELS)]
    allowed = np.flatnonzero(np.isin(labels, kept))
    return x[np.resize(allowed, len(x))]


def few_images(x, labels, train, level, rng):
    """Fewer and fewer different images: each 1, 4, 16, 64, 256 times."""
    return x[np.arange(len(x)) // 4**level]


def memorised(x, labels, train, level, rng):
    """A quarter more of training images at each level."""
    n = len(x) * level // (LEVELS - 1)
    return np.concatenate([train[:n], x[n:]])


DAMAGES: dict[str, Damage] = {
    f.__name__.replace("_", " "): f for f in (blurred, noisy, few_classes, few_images, memorised)
}


def main(
    name: str = "mnist",
    extractor: str = "auto",
    n: int = 2000,
    references: int = 10_000,
    out: Path = Path("experiments/score_response.png"),
) -> None:
    """Score damaged images.

    Args:
        name: the data set
        extractor: as in jaxgen evaluate
        n: held-out images
        references: training images
        out: the figure
    """
    train, test = data.load(name), data.load(name, "test")
    chosen = extractor_for(extractor, train)
    index = order(train.size, 0, 0, references)
    reals = drawn(chosen, train, references, 0, batch=256, keep=True)
    batch = test.take(order(test.size, 0, 0, 2 * n))
    labels = np.zeros(2 * n, int) if batch.condition is None else np.asarray(batch.condition)
    held_out, near = np.asarray(batch.x), np.asarray(train.take(index[:n]).x)
    other = extract(chosen, _images(name, held_out[n:]), batch=256)
    classes = feature_shapes(chosen, train)[1] is not None
    scores = [score for score in SCORES if classes or CLASSES not in METRICS[METRIC[score]].needs]
    found: dict[str, dict[str, list]] = {score: {} for score in scores}
    for damage, harm in DAMAGES.items():
        if damage == "few classes" and len(train.classes) < LEVELS:
            continue
        for level in range(LEVELS):
            x = harm(held_out[:n], labels[:n], near, level, np.random.default_rng(0))
            sets = Sets(reals, extract(chosen, _images(name, x), batch=256), other)
            values: dict = {}
            for metric in dict.fromkeys(METRIC[score] for score in scores):
                values |= METRICS[metric].score(sets)
            for score in scores:
                found[score].setdefault(damage, []).append(values[score])
    _write(chosen.name, found, out)


def _images(name: str, x: np.ndarray) -> Dataset:
    return in_memory(name, "damaged", x)


def _write(extractor: str, found: dict[str, dict[str, list]], out: Path) -> None:
    rows = [("score", "damage", *(f"level {i}" for i in range(LEVELS)))]
    panels = []
    for score, damages in found.items():
        rows += [(score, damage, *(number(e) for e in es)) for damage, es in damages.items()]
        curves = [
            viz.Curve(damage, [(i, e.value, e.error) for i, e in enumerate(es)]) for damage, es in damages.items()
        ]
        panels.append(viz.Panel("level of damage", f"{score} ({extractor})", curves, log=""))
    print("\n".join(columns(rows)))
    print(viz.save_panels(out, panels))


if __name__ == "__main__":
    tyro.cli(main)
