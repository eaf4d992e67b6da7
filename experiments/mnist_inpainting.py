"""In-painting MNIST: the lower half of a digit is drawn to fit the upper one, several times.

TFDS_DATA_DIR=... jaxgen train experiments/mnist_inpainting.py
jaxgen sample runs/mnist_inpainting --n 48
python experiments/mnist_inpainting.py runs/mnist_inpainting

The last command measures the hidden half of test digits: how far the best of 6 completions is from the truth and how
far they are on average (root mean square, pixels in [0, 1]), how much they differ from each other, and how far a naive
completion is, the mean of the training digits.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxgen
from jaxgen import Experiment, data, families
from jaxgen.cli import script
from jaxgen.conditions import image
from jaxgen.data.pipeline import normalize
from jaxgen.nets import network
from jaxgen.nets.conv import ConvDecoder, ConvEncoder
from jaxgen.nets.mlp import MLP
from jaxgen.types import Array

TESTED, TRIES = 1000, 6


def upper_half(x: Array) -> Array:
    """Images with their lower half mid-grey."""
    return x.at[:, x.shape[1] // 2 :].set(0.0)


def experiment(
    *, steps: int = 4_000, batch: int = 128, lr: float = 1e-3, latent: int = 16, conv: bool = False
) -> Experiment:
    """A VAE of the digit, both of whose networks are given its upper half.

    Args:
        steps: how long to train
        batch: examples a step
        lr: Adam's learning rate, lowered to nothing along a cosine
        latent: dimensions of the latent
        conv: convolutional networks instead of multilayer perceptrons; slower, fewer steps will do
    """
    mnist = data.load("mnist")
    if conv:
        encoder, decoder = ConvEncoder(2 * latent, width=16), ConvDecoder(mnist.shape, width=16)
    else:
        encoder, decoder = MLP((2 * latent,), (400, 400)), MLP(mnist.shape, (400, 400))
    model = families.vae(network(encoder), network(decoder), latent, condition=image(upper_half, mnist.shape))
    adam = optax.adam(optax.cosine_decay_schedule(lr, steps))
    return Experiment(model, {"vae": adam}, mnist, batch=batch, steps=steps, log_every=500, sample_every=4_000)


def main(run: Path, /) -> None:
    """Print the errors that the file's docstring names."""
    model, state = jaxgen.load(run)
    test = data.load("mnist", "test")
    x = normalize(jax.tree.map(jnp.asarray, test.take(np.arange(TESTED)))).x
    condition = np.repeat(np.asarray(upper_half(x)), TRIES, axis=0)
    drawn = jaxgen.sample(model, state, jax.random.key(0), len(condition), condition, batch=500)
    hidden = 28 // 2
    tries = np.asarray(drawn).reshape(TESTED, TRIES, *x.shape[1:])[:, :, hidden:] / 2.0
    truth = np.asarray(x)[:, hidden:] / 2.0
    train: Any = data.load("mnist").take(np.arange(60_000)).x
    naive = train[:, hidden:].mean(0) / 255.0 - 0.5

    def error(a: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
        return np.sqrt(np.mean(np.square(a), axis=axes))

    errors = error(tries - truth[:, None], (2, 3, 4))
    print(f"best of {TRIES}      {errors.min(1).mean():.4f}")
    print(f"mean of {TRIES}      {errors.mean(1).mean():.4f}")
    print(f"spread         {error(tries - tries.mean(1, keepdims=True), (1, 2, 3, 4)).mean():.4f}")
    print(f"naive, a mean  {error(truth - naive, (1, 2, 3)).mean():.4f}")


if __name__ == "__main__":
    script(main)
