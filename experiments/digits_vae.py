"""VAE of the 8x8 digits.

jaxgen train experiments/digits_vae.py
"""

from typing import Literal

import optax

from jaxgen import Experiment, data, families
from jaxgen.losses import evidence
from jaxgen.losses import likelihood as likelihoods
from jaxgen.nets import network
from jaxgen.nets.conv import ConvDecoder, ConvEncoder

LEVELS = 17  # ink of 0 to 16, as data.load gives it on [0, 255] to within a rounding


def experiment(
    *,
    steps: int = 8000,
    batch: int = 128,
    lr: float = 1e-3,
    latent: int = 8,
    objective: Literal["elbo", "info", "tc"] = "elbo",
    beta: float = 1.0,
    warmup: int = 0,
    free_bits: float = 0.0,
    likelihood: Literal[
        "bernoulli", "gaussian", "learned_gaussian", "optimal_gaussian", "categorical", "discretised_logistic"
    ] = "bernoulli",
    dequantise: bool = False,
) -> Experiment:
    """A convolutional VAE.

    Args:
        steps: how long to train
        batch: examples a step
        lr: Adam's learning rate, lowered to nothing along a cosine
        latent: dimensions of the latent
        objective: the negative ELBO, or InfoVAE's without its KL term, or beta-TCVAE's
        beta: weight of the KL term, of the total correlation under "tc", of the MMD under "info"
        warmup: steps in which the KL term rises from nothing, under "elbo"
        free_bits: nats that each dimension of the latent may hold without cost, under "elbo"
        likelihood: of the pixels
        dequantise: blur them over the cells of the 17 values that ink takes, which makes a density a probability
    """
    digits, p = data.load("digits"), getattr(likelihoods, likelihood)()
    height, width, channels = digits.shape
    encoder = network(ConvEncoder(2 * latent, width=16, hidden=128))
    decoder = network(ConvDecoder((height, width, channels * p.outputs), width=16, hidden=128))
    objectives = {
        "elbo": evidence.elbo(beta=beta, warmup=warmup, free_bits=free_bits),
        "info": evidence.info(alpha=1.0, scale=beta),
        "tc": evidence.tc(digits.size, beta=beta),
    }
    model = families.vae(encoder, decoder, latent, likelihood=p, objective=objectives[objective])
    model = families.dequantised(model, LEVELS) if dequantise else model
    adam = optax.adam(optax.cosine_decay_schedule(lr, steps))
    return Experiment(model, {"vae": adam}, digits, batch=batch, steps=steps)
