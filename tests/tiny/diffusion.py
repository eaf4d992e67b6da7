"""A diffusion model conditioned on the label, whose denoiser is a multilayer perceptron."""

import flax.linen as nn
import optax

from jaxgen import Experiment, data, families
from jaxgen.conditions import labels
from jaxgen.nets import network
from jaxgen.nets.mlp import MLPDenoiser
from jaxgen.processes import cosine
from jaxgen.sampling import ddim, iterate, uniform


class Flat(nn.Module):
    """A denoiser of pictures that takes them as points."""

    @nn.compact
    def __call__(self, x, t, condition=None, train=False):
        denoise = MLPDenoiser(16, 1, classes=10)
        return denoise(x.reshape(x.shape[0], -1), t, condition, train).reshape(x.shape)


def experiment(*, steps: int = 120, batch: int = 16, save_every: int = 10) -> Experiment:
    """A small diffusion model.

    Args:
        steps: how long to train
        batch: examples a step
        save_every: steps between checkpoints
    """
    digits, process = data.load("digits"), cosine()
    model = families.diffusion(
        network(Flat()),
        process,
        digits.shape,
        prediction="v",
        condition=labels(10),
        sampler=iterate(ddim(process), uniform(4), clip=1.0),
    )
    return Experiment(
        model,
        {"denoiser": optax.adam(1e-3)},
        digits,
        batch=batch,
        steps=steps,
        log_every=10,
        sample_every=10**6,
        save_every=save_every,
    )
