"""DCGAN of the 8x8 digits.

jaxgen train experiments/digits_gan.py
jaxgen train experiments/digits_gan.py --r1 1 --workdir runs/digits_gan_r1
"""

import optax

from jaxgen import Experiment, data, families
from jaxgen.losses import penalties
from jaxgen.nets import network
from jaxgen.nets.conv import DCGANCritic, DCGANGenerator


def experiment(
    *,
    steps: int = 10_000,
    batch: int = 128,
    lr: float = 2e-4,
    latent: int = 32,
    width: int = 16,
    r1: float = 0.0,
    every: int = 16,
) -> Experiment:
    """The non-saturating GAN with DCGAN's networks and its Adam.

    Args:
        steps: how long to train
        batch: examples a step
        lr: Adam's learning rate of both players, beta_1 = 0.5
        latent: dimensions of the noise
        width: channels of the critic's first layer
        r1: weight of R1, the penalty on the critic's gradient at real images; without batch normalisation in the critic
        every: steps between the times that it is paid, each time so much more
    """
    digits = data.load("digits")
    generator, critic = network(DCGANGenerator(digits.shape, width, 2)), network(DCGANCritic(width, 2, norm=r1 == 0))
    adam = optax.adam(lr, b1=0.5)
    paid = (penalties.lazy(penalties.r1(r1), every),) if r1 > 0 else ()
    model = families.gan(generator, critic, latent, penalties=paid)
    return Experiment(model, {"critic": adam, "generator": adam}, digits, batch=batch, steps=steps)
