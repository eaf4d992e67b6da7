"""VAE of the 8x8 digits.

jaxgen train experiments/digits_vae.py
"""

import optax

from jaxgen import Experiment, data, families
from jaxgen.nets import network
from jaxgen.nets.conv import ConvDecoder, ConvEncoder


def experiment(
    *, steps: int = 8000, batch: int = 128, lr: float = 1e-3, latent: int = 8, beta: float = 1.0
) -> Experiment:
    """A convolutional VAE with Bernoulli likelihood.

    Args:
        steps: how long to train
        batch: examples a step
        lr: Adam's learning rate, lowered to nothing along a cosine
        latent: dimensions of the latent
        beta: weight of the KL term
    """
    digits = data.load("digits")
    encoder = network(ConvEncoder(2 * latent, width=16, hidden=128))
    decoder = network(ConvDecoder(digits.shape, width=16, hidden=128))
    adam = optax.adam(optax.cosine_decay_schedule(lr, steps))
    return Experiment(
        families.vae(encoder, decoder, latent, beta=beta), {"vae": adam}, digits, batch=batch, steps=steps
    )
