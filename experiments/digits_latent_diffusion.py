"""Latent diffusion of the 8x8 digits: a diffusion model of the codes of a frozen VAE.

jaxgen train experiments/digits_vae.py
jaxgen train experiments/digits_latent_diffusion.py --start autoencoder=runs/digits_vae
jaxgen sample runs/digits_latent_diffusion --condition 7 --guidance 2
"""

import math

import optax

from jaxgen import Experiment, data, families
from jaxgen.conditions import labels
from jaxgen.nets import network
from jaxgen.nets.conv import ConvDecoder, ConvEncoder
from jaxgen.nets.mlp import MLPDenoiser
from jaxgen.processes import cosine
from jaxgen.sampling import ddim, iterate, uniform


def experiment(
    *, steps: int = 6000, batch: int = 256, lr: float = 1e-3, latent: int = 8, width: int = 128, depth: int = 3
) -> Experiment:
    """A residual perceptron that predicts v on the cosine schedule, over the codes of `digits_vae.py`.

    Args:
        steps: how long to train
        batch: examples a step
        lr: Adam's learning rate, lowered to nothing along a cosine
        latent: dimensions of the VAE's latent
        width: of the denoiser's layers
        depth: residual layers of the denoiser
    """
    digits, process, classes = data.load("digits"), cosine(clip=math.inf), 10
    encoder = network(ConvEncoder(2 * latent, width=16, hidden=128))
    decoder = network(ConvDecoder(digits.shape, width=16, hidden=128))
    codes = families.diffusion(
        network(MLPDenoiser(width, depth, classes=classes)),
        process,
        (latent,),
        prediction="v",
        condition=labels(classes),
        sampler=iterate(ddim(process), uniform(50)),
    )
    model = families.latent(families.vae(encoder, decoder, latent), codes)
    adam = optax.adam(optax.cosine_decay_schedule(lr, steps))
    return Experiment(model, {"denoiser": adam}, digits, batch=batch, steps=steps, ema=0.995)
