"""VAE/GAN of the 8x8 digits.

jaxgen train experiments/digits_vae_gan.py
"""

import optax

from jaxgen import Experiment, data, families
from jaxgen.nets import network
from jaxgen.nets.conv import ConvEncoder, DCGANCritic, DCGANGenerator
from jaxgen.nets.heads import Heads


def experiment(
    *,
    steps: int = 8000,
    batch: int = 128,
    lr: float = 2e-4,
    latent: int = 16,
    width: int = 16,
    gamma: float = 1e-2,
) -> Experiment:
    """A convolutional encoder and the DCGAN pair; reconstructions are compared by the critic's last hidden layer.

    Args:
        steps: how long to train
        batch: examples a step
        lr: Adam's learning rate of all three players, beta_1 = 0.5
        latent: dimensions of the latent
        width: channels of every network's first layer
        gamma: weight of the reconstruction for the decoder, beside its adversarial loss
    """
    digits = data.load("digits")
    model = families.vae_gan(
        network(ConvEncoder(2 * latent, width=width, hidden=128)),
        network(DCGANGenerator(digits.shape, width, 2)),
        network(DCGANCritic(width, 2, heads=Heads())),
        latent,
        gamma=gamma,
    )
    order = ("critic", "encoder", "decoder")
    adam = optax.adam(lr, b1=0.5)
    return Experiment(model, dict.fromkeys(order, adam), digits, order=order, batch=batch, steps=steps)
