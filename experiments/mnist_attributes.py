"""Conditional VAE of MNIST on attributes that are measured from the digits: thick, slanted, wide, top_heavy, looped.

TFDS_DATA_DIR=... jaxgen train experiments/mnist_attributes.py
jaxgen sample runs/mnist_attributes --condition thick,slanted
python experiments/mnist_attributes.py runs/mnist_attributes

The last command draws 3,200 digits, a hundred of each combination of attributes, measures their attributes and prints
the share that agrees with the condition; a model that ignores it gets 0.5. Beside it stands what the same measurement
finds in reconstructions of test digits, given their own attributes: what a blurred digit can reach.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxgen
from jaxgen import Experiment, data, families
from jaxgen.cli import script
from jaxgen.conditions import attributes
from jaxgen.data import attributes as measured
from jaxgen.data.pipeline import normalize, to_uint8
from jaxgen.losses.evidence import elbo
from jaxgen.nets import network
from jaxgen.nets.mlp import MLP
from jaxgen.types import Array

EACH = 100


def experiment(
    *, steps: int = 3_000, batch: int = 128, lr: float = 1e-3, latent: int = 16, beta: float = 4.0
) -> Experiment:
    """q(z|x, a) and p(x|z, a) of multilayer perceptrons, Bernoulli likelihood of the grey values.

    Args:
        steps: how long to train
        batch: examples a step
        lr: Adam's learning rate, lowered to nothing along a cosine
        latent: dimensions of the latent
        beta: weight of the KL term; the more it costs, the less the latent repeats the attributes
    """
    mnist = data.load("mnist_attributes")
    encoder, decoder = network(MLP((2 * latent,), (400, 400))), network(MLP(mnist.shape, (400, 400)))
    model = families.vae(encoder, decoder, latent, objective=elbo(beta=beta), condition=attributes(len(mnist.classes)))
    adam = optax.adam(optax.cosine_decay_schedule(lr, steps))
    return Experiment(model, {"vae": adam}, mnist, batch=batch, steps=steps, log_every=500, sample_every=3_000)


def main(run: Path, /) -> None:
    """Print the share of each attribute that agrees with the condition."""
    model, state = jaxgen.load(run)
    wanted = np.repeat(np.indices((2,) * len(measured.NAMES)).reshape(len(measured.NAMES), -1).T, EACH, axis=0)
    drawn = jaxgen.sample(model, state, jax.random.key(0), len(wanted), wanted.astype(np.float32), batch=800)
    test = normalize(jax.tree.map(jnp.asarray, data.load("mnist_attributes", "test").take(np.arange(len(wanted)))))
    own = np.asarray(test.condition)
    again = jaxgen.reconstruct(model, state, test.x, condition=own.astype(np.float32), batch=800)
    agree, ceiling = ((found(x) == (condition == 1)) for x, condition in ((drawn, wanted), (again, own)))
    print("attribute   drawn  reconstructed")
    for k, name in enumerate(measured.NAMES):
        print(f"{name:10}  {agree[:, k].mean():.3f}  {ceiling[:, k].mean():.3f}")
    print(f"{'mean':10}  {agree.mean():.3f}  {ceiling.mean():.3f}")
    print(f"{'all five':10}  {agree.all(1).mean():.3f}  {ceiling.all(1).mean():.3f}")


def found(x: Array) -> np.ndarray:
    """bool [N, 5]: which attributes images in [-1, 1] have."""
    return measured.measurements(np.asarray(to_uint8(x))) > measured.MNIST


if __name__ == "__main__":
    script(main)
