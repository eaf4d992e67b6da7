"""Autoencoders of MNIST: linear (PCA by gradient descent), deep, convolutional; plain or denoising.

TFDS_DATA_DIR=... jaxgen train experiments/mnist_autoencoder.py --kind deep
TFDS_DATA_DIR=... jaxgen train experiments/mnist_autoencoder.py --kind deep --noise masking
jaxgen reconstruct runs/mnist_autoencoder --n 10000
jaxgen denoise runs/mnist_autoencoder --noise masking --level 0.5 --n 10000
TFDS_DATA_DIR=... python experiments/mnist_autoencoder.py 32

The last command prints what the linear one should reach: the held-out squared error of the first 32 principal
components.
"""

from typing import Literal

import jax.numpy as jnp
import numpy as np
import optax
from sklearn.decomposition import PCA

from jaxgen import Experiment, data, families
from jaxgen.cli import script
from jaxgen.data import noise as corruptions
from jaxgen.data.pipeline import normalize
from jaxgen.nets import network
from jaxgen.nets.conv import ConvDecoder, ConvEncoder
from jaxgen.nets.mlp import MLP

LEVELS = {"gaussian": 0.8, "masking": 0.5, "salt_and_pepper": 0.4}


def experiment(
    *,
    kind: Literal["linear", "linear_sigmoid", "deep", "conv"] = "deep",
    latent: int = 32,
    noise: Literal["none", "gaussian", "masking", "salt_and_pepper"] = "none",
    level: float | None = None,
    without: int | None = None,
    dataset: Literal["mnist", "fashion_mnist"] = "mnist",
    steps: int = 5_000,
    batch: int = 128,
    lr: float = 1e-3,
) -> Experiment:
    """An autoencoder that minimises the squared error.

    Args:
        kind: both networks linear; a sigmoid behind them; two hidden layers each, and the sigmoid; convolutions
        latent: dimensions of the code
        noise: what is done to the images that the encoder sees
        level: the noise's standard deviation (gaussian; images reach from -1 to 1) or the share of spoilt pixels; 0.8,
            0.5 (masking) and 0.4 (salt_and_pepper) by default
        without: a class that is left out of the training
        dataset: the images
        steps: how long to train; 469 are an epoch at batch 128
        batch: examples a step
        lr: Adam's learning rate, lowered to nothing along a cosine
    """
    images = data.load(dataset)
    if without is not None:
        images = data.without_classes(images, [without])
    encoder, decoder = networks(kind, images.shape, latent)
    if noise == "none":
        model = families.autoencoder(encoder, decoder, latent)
    else:
        corruption = getattr(corruptions, noise)(LEVELS[noise] if level is None else level)
        model = families.denoising_autoencoder(encoder, decoder, latent, corruption)
    adam = optax.adam(optax.cosine_decay_schedule(lr, steps))
    return Experiment(model, {"autoencoder": adam}, images, batch=batch, steps=steps)


def networks(kind, shape, latent):
    """The encoder and the decoder of images of any `shape`."""
    if kind == "conv":
        return network(ConvEncoder(latent, width=16)), network(ConvDecoder(shape, width=16))
    hidden = (512, 256) if kind == "deep" else ()
    last = None if kind == "linear" else jnp.tanh  # the sigmoid that ends at -1 and 1
    return network(MLP((latent,), hidden)), network(MLP(shape, hidden[::-1], last=last))


def main(components: int, /) -> None:
    """Print the baseline."""
    sets = (data.load("mnist", split) for split in ("train", "test"))
    train, test = (np.asarray(normalize(d.take(np.arange(d.size))).x).reshape(d.size, -1) for d in sets)
    pca = PCA(components, svd_solver="covariance_eigh").fit(train)
    error = np.square(pca.inverse_transform(pca.transform(test)) - test).sum(1).mean()
    print(f"{components} principal components: squared error {error:.2f} an image of {len(test):,} held-out ones")


if __name__ == "__main__":
    script(main)
