"""Scores of a model that look at more than its samples: at its density, its reconstructions, its codes, its paths."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.data import Dataset, labels_of, normalize, order
from jaxgen.metrics.clusters import codes
from jaxgen.metrics.estimate import Estimate, mean_of
from jaxgen.metrics.evaluation import Score
from jaxgen.metrics.likelihood import likelihood
from jaxgen.metrics.paths import Distance, perceptual_path_length, squared_distance
from jaxgen.metrics.probe import linear_probe
from jaxgen.metrics.quality import distances, psnr, ssim
from jaxgen.sampling import reconstruct
from jaxgen.types import Batch, Model, TrainState, check, condition_of

DRAWS = 500  # latents an image of the likelihood
WINDOW = 11  # of SSIM; of smaller images the largest odd one


class Trained(NamedTuple):
    """A model, what it was trained on, held-out data, at most n of whose images are looked at.

    perceptual   (its name, a distance (x, y) -> [B] of images), such as LPIPS, or None: paths are then measured by the
                 squared distance of pixels
    epsilon      the step of the paths
    """

    model: Model
    state: TrainState
    train: Dataset
    test: Dataset
    n: int
    seed: int = 0
    ema: bool = True
    perceptual: tuple[str, Distance] | None = None
    epsilon: float = 1e-4


class Look(NamedTuple):
    """score: Trained -> ({name: Estimate}, images looked at); better: of each name."""

    score: Callable[[Trained], tuple[Mapping[str, Estimate], int]]
    better: Mapping[str, str]


def _likelihood(t: Trained) -> tuple[Mapping[str, Estimate], int]:
    n = min(t.n, t.test.size)
    found = likelihood(t.model, t.state, t.test, samples=DRAWS, images=n, seed=t.seed, ema=t.ema)
    how = f"{DRAWS} importance samples an image of {t.model.measure}, error over images"
    bits = found.bits / found.nll if found.nll else 0.0
    nats = {"nll": Estimate(found.nll, found.nll_error, how), "elbo": Estimate(found.elbo, found.elbo_error, how)}
    return nats | {"bits": Estimate(found.bits, found.nll_error * bits, f"{how}, bits per dimension")}, n


def _reconstruction(t: Trained) -> tuple[Mapping[str, Estimate], int]:
    seen = _part(t.test, t.n, t.seed)
    x = normalize(jax.tree.map(jnp.asarray, seen)).x
    again = reconstruct(t.model, t.state, x, condition=_given(t.model, seen), ema=t.ema)
    side = min(WINDOW, min(x.shape[1:3]) - 1 + min(x.shape[1:3]) % 2)
    how = f"{len(x):,} held-out images, error over them"
    found = {"psnr": mean_of(psnr(x, again), f"{how}, dB"), "ssim": mean_of(ssim(x, again, window=side), how)}
    note = "" if side == WINDOW else f", through a window of {side} pixels instead of {WINDOW}"
    found |= {"ssim": found["ssim"]._replace(how=how + note)}
    if t.perceptual is not None:
        name, distance = t.perceptual
        found["lpips"] = mean_of(distances(distance, np.asarray(x), np.asarray(again)), f"{name}, {how}")
    return found, len(x)


def _probe(t: Trained) -> tuple[Mapping[str, Estimate], int]:
    told = t.model.condition is not None and t.model.condition.kind != "image"
    check(not told, "this model's encoder is told the label: a probe would read it off")
    for data in (t.train, t.test):
        labels_of(data)  # refused here where there are none
    parts = [_part(data, t.n, t.seed) for data in (t.train, t.test)]
    seen = [codes(t.model, t.state, part.x, condition=_given(t.model, part), ema=t.ema) for part in parts]
    return {"probe": linear_probe(seen[0], parts[0].condition, seen[1], parts[1].condition)}, len(seen[1])


def _paths(t: Trained) -> tuple[Mapping[str, Estimate], int]:
    condition = _given(t.model, _part(t.train, t.n, t.seed))
    condition = condition if condition is None else np.resize(condition, (t.n, *condition.shape[1:]))
    name, distance = t.perceptual or ("squared distance of pixels", squared_distance)
    options = {"n": t.n, "seed": t.seed, "ema": t.ema, "condition": condition, "epsilon": t.epsilon}
    found = perceptual_path_length(t.model, t.state, distance, **options)
    return {"ppl": found._replace(how=f"{name}; {found.how}")}, t.n


LOOKS: dict[str, Look] = {
    "likelihood": Look(_likelihood, dict.fromkeys(("nll", "elbo", "bits"), "lower")),
    "reconstruction": Look(_reconstruction, {"psnr": "higher", "ssim": "higher", "lpips": "lower"}),
    "probe": Look(_probe, {"probe": "higher"}),
    "ppl": Look(_paths, {"ppl": "lower"}),
}


def look(trained: Trained, names: Any) -> dict[str, Score]:
    """{name: Score} of each of `names` of `LOOKS`. InputError for an unknown one, and for what the model has not: a
    likelihood, an encoder."""
    scores: dict[str, Score] = {}
    for name in names:
        check(name in LOOKS, f"unknown metric {name!r}: choose of {', '.join(LOOKS)}")
        found, n = LOOKS[name].score(trained)
        scores |= {key: Score(*estimate, LOOKS[name].better[key], n) for key, estimate in found.items()}
    return scores


def _part(data: Dataset, n: int, seed: int) -> Batch:
    return data.take(np.sort(order(data.size, seed, 0, min(n, data.size))))


def _given(model: Model, batch: Batch) -> Any:
    """What the model is given beside the images."""
    if model.condition is None:
        return None
    return np.asarray(condition_of(model.condition, normalize(jax.tree.map(jnp.asarray, batch))))
