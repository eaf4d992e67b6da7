"""VAE of MNIST.

TFDS_DATA_DIR=... jaxgen train experiments/mnist_vae.py
"""

import optax

from jaxgen import Experiment, data, families
from jaxgen.losses.evidence import elbo
from jaxgen.nets import network
from jaxgen.nets.conv import ConvDecoder, ConvEncoder


def experiment(
    *, steps: int = 4_000, batch: int = 128, lr: float = 1e-3, latent: int = 20, beta: float = 1.0, bf16: bool = False
) -> Experiment:
    """A convolutional VAE with Bernoulli likelihood of the grey values.

    Args:
        steps: how long to train; 469 are an epoch at batch 128
        batch: examples a step
        lr: Adam's learning rate, lowered to nothing along a cosine
        latent: dimensions of the latent
        beta: weight of the KL term
        bf16: compute in bfloat16, parameters stay float32
    """
    mnist, dtype = data.load("mnist"), "bfloat16" if bf16 else "float32"
    encoder = network(ConvEncoder(2 * latent, width=16, dtype=dtype))
    decoder = network(ConvDecoder(mnist.shape, width=16, dtype=dtype))
    adam = optax.adam(optax.cosine_decay_schedule(lr, steps))
    model = families.vae(encoder, decoder, latent, objective=elbo(beta=beta))
    return Experiment(model, {"vae": adam}, mnist, batch=batch, steps=steps)
