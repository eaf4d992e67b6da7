"""DCGAN of MNIST.

TFDS_DATA_DIR=... jaxgen train experiments/mnist_gan.py
"""

import optax

from jaxgen import Experiment, data, families
from jaxgen.conditions import labels
from jaxgen.nets import network
from jaxgen.nets.conv import DCGANCritic, DCGANGenerator


def experiment(
    *,
    steps: int = 6_000,
    batch: int = 64,
    lr: float = 2e-4,
    latent: int = 100,
    width: int = 32,
    conditional: bool = False,
    bf16: bool = False,
) -> Experiment:
    """The non-saturating GAN with DCGAN's networks and its Adam.

    Args:
        steps: how long to train; 938 are an epoch at batch 64
        batch: examples a step
        lr: Adam's learning rate of both players, beta_1 = 0.5
        latent: dimensions of the noise
        width: channels of the critic's first layer
        conditional: give both players the label
        bf16: compute in bfloat16, parameters stay float32
    """
    mnist, dtype = data.load("mnist"), "bfloat16" if bf16 else "float32"
    classes = len(mnist.classes) if conditional else None
    generator = network(DCGANGenerator(mnist.shape, width, classes=classes, dtype=dtype))
    critic = network(DCGANCritic(width, classes=classes, dtype=dtype))
    model = families.gan(generator, critic, latent, condition=labels(classes) if classes else None)
    adam = optax.adam(lr, b1=0.5)
    return Experiment(model, {"critic": adam, "generator": adam}, mnist, batch=batch, steps=steps)
