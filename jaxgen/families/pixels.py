"""What a model takes pixels to be: models made from models, for data that the likelihood does not fit as they are."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxgen.families.common import folded, split_keys
from jaxgen.losses.augmentation import Transform
from jaxgen.types import Array, Batch, Keys, Loss, Model, Tree, Turn, check


def dynamically_binarised(model: Model) -> Model:
    """Trains `model` on images that are binarised anew at every use: y ~ Bernoulli((x + 1) / 2), pixel by pixel
    (Burda et al. 2015, arXiv:1509.00519, section 5.1), x = 2 y - 1.

    Only the losses draw. The density takes images as they are and refuses grey ones: a likelihood is one of a test
    set that was binarised once (`data.load("binary_mnist", "test")`).
    """

    def binarise(key: Array, x: Array) -> Array:
        return 2.0 * jax.random.bernoulli(key, (x + 1.0) / 2.0).astype(jnp.float32) - 1.0

    return _trained_on(model, binarise)


def augmented(model: Model, *transforms: Transform) -> Model:
    """Trains `model` on images changed anew at every use, such as by `augmentation.mirror` and `augmentation.crop()`:
    what it draws is such changed images, too, so that they should be ones that could be in the data.

    Only the losses draw; the density takes images as they are. Not for conditions that are other images of the data
    set, which stay as they were.
    """
    check(bool(transforms), "augment by what? Give at least one transform of losses.augmentation")

    def change(key: Array, x: Array) -> Array:
        for i, transform in enumerate(transforms):
            x = transform(jax.random.fold_in(key, i), jnp.ones(()), x)
        return x

    return _trained_on(model, change)


def dequantised(model: Model, levels: int = 256) -> Model:
    """Makes a density of x in [-1, 1] a probability of pixels on `levels` values: P(x) = int p(x + u) du over u in the
    pixel's cell, width d = 2 / (levels - 1). Losses get x + u, u uniform, so that they bound -log P(x) up to the
    constant D log d (Theis et al. 2015, arXiv:1511.01844, section 3.1); the density, log p(x + u) + D log d, has it.
    """
    check(levels >= 2, f"dequantisation needs at least 2 levels, there are {levels}")
    width = 2.0 / (levels - 1)

    def blur(key: Array, x: Array) -> Array:
        return x + jax.random.uniform(key, x.shape, minval=-width / 2, maxval=width / 2)

    def log_p(params: Tree, extra: Tree, keys: Keys, batch: Batch, k: int) -> Array:
        def one(i: Array) -> Array:  # its own u for every z: both are latents of the bound
            for_u, for_z = split_keys(folded(keys, i))
            blurred = batch._replace(x=jax.vmap(blur)(for_u, batch.x))
            return density.log_p(params, extra, for_z, blurred, 1)[:, 0]  # type: ignore[union-attr]

        return jax.lax.map(one, jnp.arange(k)).T + math.prod(batch.x.shape[1:]) * math.log(width)

    density, measure = model.density, f"a probability of pixels on {levels} levels, by uniform dequantisation"
    if density is not None:
        # exp of an exact log p(x + u) is a weight of P(x): its mean over u is P(x) d^-D; of an estimate it is not
        kind = {"exact": "weights", "unbiased": "bound"}.get(density.kind, density.kind)
        model = model._replace(density=density._replace(log_p=log_p, kind=kind, measure=measure))
    return _trained_on(model, blur)


def _trained_on(model: Model, change: Callable[[Array, Array], Array]) -> Model:
    """The model whose losses get images changed by `change(key, x)`, example by example."""

    def changed(loss: Loss) -> Loss:
        def of_changed(params: Tree, extra: Tree, turn: Turn, batch: Batch) -> tuple:
            for_x, for_loss = turn.split()
            return loss(params, extra, for_loss, batch._replace(x=jax.vmap(change)(for_x.keys, batch.x)))

        return of_changed

    losses = {player: changed(loss) for player, loss in model.game.losses.items()}
    return model._replace(game=model.game._replace(losses=losses))
