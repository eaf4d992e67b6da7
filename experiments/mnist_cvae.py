"""Conditional VAE of MNIST: a digit is drawn by its label.

TFDS_DATA_DIR=... jaxgen train experiments/mnist_cvae.py
jaxgen sample runs/mnist_cvae --condition 3
"""

import optax

from jaxgen import Experiment, data, families
from jaxgen.conditions import labels
from jaxgen.nets import network
from jaxgen.nets.conv import ConvDecoder, ConvEncoder
from jaxgen.nets.mlp import MLP


def experiment(
    *, steps: int = 4_000, batch: int = 128, lr: float = 1e-3, latent: int = 10, conv: bool = False
) -> Experiment:
    """q(z|x, y) and p(x|z, y), Bernoulli likelihood of the grey values; the latent tells style, the label the digit.

    Args:
        steps: how long to train; 469 are an epoch at batch 128
        batch: examples a step
        lr: Adam's learning rate, lowered to nothing along a cosine
        latent: dimensions of the latent
        conv: convolutional networks instead of multilayer perceptrons; slower, fewer steps will do
    """
    mnist = data.load("mnist")
    if conv:
        encoder, decoder = ConvEncoder(2 * latent, width=16, classes=10), ConvDecoder(mnist.shape, width=16, classes=10)
    else:
        encoder, decoder = MLP((2 * latent,), (400, 400), classes=10), MLP(mnist.shape, (400, 400), classes=10)
    model = families.vae(network(encoder), network(decoder), latent, condition=labels(10))
    adam = optax.adam(optax.cosine_decay_schedule(lr, steps))
    return Experiment(model, {"vae": adam}, mnist, batch=batch, steps=steps, log_every=500, sample_every=4_000)
