"""A VAE of digits conditioned on two attributes, or on the upper half of the image."""

from typing import Literal

import numpy as np
import optax

from jaxgen import Experiment, data, families
from jaxgen.conditions import attributes, image
from jaxgen.nets import network
from jaxgen.nets.mlp import MLP
from jaxgen.types import Batch


def traits(split: str = "train") -> data.Dataset:
    """The digits with two attributes instead of their label: is it odd, is it 5 or more?"""
    digits = data.load("digits", split)
    values = np.stack([data.labels_of(digits) % 2, data.labels_of(digits) >= 5], axis=1).astype(np.int32)
    take = digits.take
    return digits._replace(name="traits", take=lambda i: Batch(take(i).x, values[i]), classes=("odd", "large"))


data.SETS.setdefault("traits", traits)  # by which its other splits are found


def experiment(*, kind: Literal["attributes", "image"] = "image", steps: int = 60, batch: int = 16) -> Experiment:
    """A small conditional VAE.

    Args:
        kind: of condition
        steps: how long to train
        batch: examples a step
    """
    digits = data.load("traits")
    height, width, channels = digits.shape
    upper = image(lambda x: x[:, : height // 2], (height // 2, width, channels))
    encoder, decoder = network(MLP((8,), (16,))), network(MLP(digits.shape, (16,)))
    model = families.vae(encoder, decoder, 4, condition=attributes(2) if kind == "attributes" else upper)
    return Experiment(model, {"vae": optax.adam(1e-3)}, digits, batch=batch, steps=steps, ema=0, sample_every=10**6)
