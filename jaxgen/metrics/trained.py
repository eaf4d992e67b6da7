"""Scores of a model that need more than its samples: its density, its reconstructions, its codes, its latent paths."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.conditions import count, rows
from jaxgen.data import Dataset, labels_of, normalize, order
from jaxgen.metrics.clusters import codes
from jaxgen.metrics.estimate import Estimate, mean_of
from jaxgen.metrics.likelihood import likelihood
from jaxgen.metrics.paths import Distance, perceptual_path_length, squared_distance
from jaxgen.metrics.pieces import conditions_at
from jaxgen.metrics.probe import linear_probe
from jaxgen.metrics.quality import distances, psnr, ssim
from jaxgen.sampling import reconstruct
from jaxgen.types import Array, Model, TrainState, check

DRAWS = 500  # importance samples of the likelihood an image
WINDOW = 11  # of SSIM; of smaller images the largest odd one


class Trained(NamedTuple):
    """A model with its training data and held-out data (None: there are none), of which n images at most are used.

    perceptual   (its name, a distance (x, y) -> [B] of images), such as LPIPS; None: paths are measured by the squared
                 distance of pixels
    epsilon      the step of the paths
    """

    model: Model
    state: TrainState
    train: Dataset
    test: Dataset | None
    n: int
    seed: int = 0
    ema: bool = True
    perceptual: tuple[str, Distance] | None = None
    epsilon: float = 1e-4

    @property
    def images(self) -> int:
        """How many held-out images are used."""
        return 0 if self.test is None else min(self.n, self.test.size)


def held_out_likelihood(t: Trained) -> Mapping[str, Estimate]:
    """nll and bits per dimension; of importance samples the ELBO too (`likelihood.likelihood`)."""
    density = t.model.density
    samples = DRAWS if density is not None and density.kind == "weights" else None
    found = likelihood(t.model, t.state, _test(t), samples=samples, images=t.images, seed=t.seed, ema=t.ema)
    named = {"nll": found.nll, "elbo": found.elbo, "bits": found.bits}
    return {name: estimate for name, estimate in named.items() if estimate is not None}


def reconstruction(t: Trained) -> Mapping[str, Estimate]:
    """PSNR, SSIM and, with a perceptual distance, LPIPS of reconstructed held-out images."""
    test = _test(t)
    index = _index(test, t.n, t.seed)
    x = normalize(jax.tree.map(jnp.asarray, test.take(index)._replace(condition=None))).x
    again = reconstruct(t.model, t.state, x, condition=conditions_at(t.model.condition, test, index), ema=t.ema)
    how = f"{len(x):,} held-out images, error over them"
    found = {"psnr": mean_of(psnr(x, again), f"{how}, dB"), "ssim": _ssim(x, again, how)}
    if t.perceptual is not None:
        name, distance = t.perceptual
        found["lpips"] = mean_of(distances(distance, np.asarray(x), np.asarray(again)), f"{name}, {how}")
    return found


def _ssim(x: Array, again: Array, how: str) -> Estimate:
    """With the window of the paper, of images smaller than it with the largest that fits, which `how` states."""
    least = min(x.shape[1:3])
    side = min(WINDOW, least - 1 + least % 2)
    note = "" if side == WINDOW else f", through a window of {side} pixels instead of {WINDOW}"
    return mean_of(ssim(x, again, window=side), how + note)


def probe(t: Trained) -> Mapping[str, Estimate]:
    """Accuracy of a linear classifier of the codes. InputError for an encoder that is given the label."""
    check(
        t.model.condition is None or t.model.condition.derived,
        "this model's encoder is given the label: a probe would read it off the codes",
    )
    parts = []
    for data in (t.train, _test(t)):
        index = _index(data, t.n, t.seed)
        labels = labels_of(data)[index]
        given = conditions_at(t.model.condition, data, index)
        parts += [codes(t.model, t.state, data.take(index).x, condition=given, ema=t.ema), labels]
    return {"probe": linear_probe(*parts)}


def path_length(t: Trained) -> Mapping[str, Estimate]:
    """Perceptual path length of n paths, whose conditions are those of training examples."""
    condition = conditions_at(t.model.condition, t.train, _index(t.train, t.n, t.seed))
    if condition is not None:
        condition = rows(condition, np.arange(t.n) % count(condition))
    name, distance = t.perceptual or ("squared distance of pixels", squared_distance)
    options = {"n": t.n, "seed": t.seed, "ema": t.ema, "condition": condition, "epsilon": t.epsilon}
    found = perceptual_path_length(t.model, t.state, distance, **options)
    return {"ppl": found._replace(how=f"{name}; {found.how}")}


def _test(t: Trained) -> Dataset:
    check(t.test is not None, f"this score needs held-out data of {t.train.name}, and there are none")
    return t.test  # type: ignore[return-value]


def _index(data: Dataset, n: int, seed: int) -> np.ndarray:
    return np.sort(order(data.size, seed, 0, min(n, data.size)))
