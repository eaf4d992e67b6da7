"""FactorVAE of the 8x8 digits.

jaxgen train experiments/digits_factor_vae.py --workdir runs/digits_factor_vae
jaxgen traverse runs/digits_factor_vae
"""

import optax

from jaxgen import Experiment, data, families
from jaxgen.nets import network
from jaxgen.nets.conv import ConvDecoder, ConvEncoder
from jaxgen.nets.mlp import MLP


def experiment(
    *,
    steps: int = 6000,
    batch: int = 128,
    lr: float = 1e-3,
    critic_lr: float = 1e-4,
    latent: int = 8,
    gamma: float = 6.0,
) -> Experiment:
    """A convolutional VAE, and a multilayer perceptron that tells its latents from permuted ones.

    Args:
        steps: how long to train
        batch: examples a step
        lr: Adam's learning rate of the VAE, lowered to nothing along a cosine
        critic_lr: that of the critic, beta_1 = 0.5
        latent: dimensions of the latent
        gamma: weight of the total correlation
    """
    digits = data.load("digits")
    model = families.factor_vae(
        network(ConvEncoder(2 * latent, width=16, hidden=128)),
        network(ConvDecoder(digits.shape, width=16, hidden=128)),
        network(MLP((), (128, 128, 128))),
        latent,
        gamma=gamma,
    )
    adam = optax.adam(optax.cosine_decay_schedule(lr, steps))
    return Experiment(model, {"vae": adam, "critic": optax.adam(critic_lr, b1=0.5)}, digits, batch=batch, steps=steps)
