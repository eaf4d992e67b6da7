"""A classifier of digits: a game without a map from noise."""

import flax.linen as nn
import optax

from jaxgen import Experiment, data, families
from jaxgen.nets import network


class Linear(nn.Module):
    """Logits of an image, whatever its time."""

    @nn.compact
    def __call__(self, x, t, train=False):
        return nn.Dense(10)(x.reshape(x.shape[0], -1))


def experiment(*, steps: int = 40, batch: int = 16, sample_every: int = 10) -> Experiment:
    """A small classifier.

    Args:
        steps: how long to train
        batch: examples a step
        sample_every: steps between pictures, if there were any
    """
    model = families.classifier(network(Linear()), 10)
    adam, digits = optax.adam(1e-2), data.load("digits")
    return Experiment(
        model, {"classifier": adam}, digits, batch=batch, steps=steps, log_every=10, sample_every=sample_every
    )
