"""DCGAN of the 8x8 digits.

jaxgen train experiments/digits_gan.py
"""

import optax

from jaxgen import Experiment, data, families
from jaxgen.nets import network
from jaxgen.nets.conv import DCGANCritic, DCGANGenerator


def experiment(
    *, steps: int = 10_000, batch: int = 128, lr: float = 2e-4, latent: int = 32, width: int = 16
) -> Experiment:
    """The non-saturating GAN with DCGAN's networks and its Adam.

    Args:
        steps: how long to train
        batch: examples a step
        lr: Adam's learning rate of both players, beta_1 = 0.5
        latent: dimensions of the noise
        width: channels of the critic's first layer
    """
    digits = data.load("digits")
    generator, critic = network(DCGANGenerator(digits.shape, width, 2)), network(DCGANCritic(width, 2))
    adam = optax.adam(lr, b1=0.5)
    return Experiment(
        families.gan(generator, critic, latent), {"critic": adam, "generator": adam}, digits, batch=batch, steps=steps
    )
