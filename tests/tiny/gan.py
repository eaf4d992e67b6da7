"""A small DCGAN with two critic turns a step and batch statistics."""

import optax

from jaxgen import Experiment, data, families
from jaxgen.nets import network
from jaxgen.nets.conv import DCGANCritic, DCGANGenerator


def experiment(*, steps: int = 120, batch: int = 16, save_every: int = 10) -> Experiment:
    """A small GAN.

    Args:
        steps: how long to train
        batch: examples a step
        save_every: steps between checkpoints
    """
    digits = data.load("digits")
    generator, critic = network(DCGANGenerator(digits.shape, 2)), network(DCGANCritic(2))
    return Experiment(
        families.gan(generator, critic, 4),
        {"critic": optax.adam(1e-3, b1=0.5), "generator": optax.adam(1e-3, b1=0.5)},
        digits,
        batch=batch,
        steps=steps,
        order=("critic", "critic", "generator"),
        log_every=10,
        sample_every=10**6,
        save_every=save_every,
    )
