"""A VQ-VAE small enough to compile in seconds; its codebook is carried from step to step beside the parameters."""

import optax

from jaxgen import Experiment, data, families
from jaxgen.nets import network
from jaxgen.nets.codes import PixelCNN
from jaxgen.nets.mlp import MLP


def experiment(*, steps: int = 120, lr: float = 1e-3) -> Experiment:
    """A small VQ-VAE.

    Args:
        steps: how long to train
        lr: Adam's learning rate
    """
    digits, q = data.load("digits"), families.vq(6, 3)
    encoder, decoder = network(MLP((2, 2, 3), (16,))), network(MLP(digits.shape, (16,)))
    model = families.vq_vae(encoder, decoder, q, network(PixelCNN(6, 4, layers=1)), (2, 2))
    adam = {player: optax.adam(lr) for player in model.game.losses}
    return Experiment(
        model, adam, digits, batch=16, steps=steps, ema=0.9, log_every=10, sample_every=10**6, save_every=10
    )
