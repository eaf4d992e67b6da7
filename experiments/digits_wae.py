"""Wasserstein autoencoders of the 8x8 digits: deterministic, with codes that follow N(0, I).

jaxgen train experiments/digits_wae.py --kind mmd
jaxgen train experiments/digits_wae.py --kind adversarial
"""

from typing import Literal

import optax

from jaxgen import Experiment, data, families
from jaxgen.nets import network
from jaxgen.nets.conv import ConvDecoder, ConvEncoder
from jaxgen.nets.mlp import MLP


def experiment(
    *,
    kind: Literal["mmd", "adversarial"] = "mmd",
    steps: int = 4000,
    batch: int = 256,
    lr: float = 1e-3,
    latent: int = 8,
    scale: float | None = None,
) -> Experiment:
    """A convolutional autoencoder whose codes are drawn to the prior.

    Args:
        kind: by the maximum mean discrepancy of a minibatch, or by a critic of codes (an adversarial autoencoder)
        steps: how long to train
        batch: examples a step
        lr: Adam's learning rate, lowered to nothing along a cosine
        latent: dimensions of the code
        scale: weight of the codes' distribution beside the squared error; 200 (mmd) and 10 (adversarial) by
            default
    """
    digits = data.load("digits")
    encoder = network(ConvEncoder(latent, width=16, hidden=128))
    decoder = network(ConvDecoder(digits.shape, width=16, hidden=128))
    scale = {"mmd": 200.0, "adversarial": 10.0}[kind] if scale is None else scale
    adam = optax.adam(optax.cosine_decay_schedule(lr, steps))
    if kind == "mmd":
        model = families.wae_mmd(encoder, decoder, latent, scale=scale)
        return Experiment(model, {"autoencoder": adam}, digits, batch=batch, steps=steps)
    critic = network(MLP((), (128, 128)))
    model = families.adversarial_autoencoder(encoder, decoder, critic, latent, scale=scale)
    players = {"critic": optax.adam(lr, b1=0.5), "autoencoder": adam}
    return Experiment(model, players, digits, batch=batch, steps=steps)
