"""Colourisation: several colour versions of a grey patch of a photograph.

jaxgen train experiments/photos_colourisation.py
jaxgen sample runs/photos_colourisation --n 48
python experiments/photos_colourisation.py runs/photos_colourisation

The last command measures 6 versions each of 500 patches, of those trained on and of held-out ones: the root mean square
error of the colour (the two chroma channels of Rec. 601, in [-1/2, 1/2]) of the best version, on average, and of the
grey patch itself, and how far the versions differ, as the standard deviation of a pixel's chroma over them. Two
photographs are little data: the held-out quarter of each shows other things than the rest, no petals and no roofs.
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
from jaxgen.losses.likelihood import gaussian, optimal_gaussian
from jaxgen.nets import network
from jaxgen.nets.conv import ConvDecoder, ConvEncoder
from jaxgen.runs import load_run
from jaxgen.types import Array

LUMA = (0.299, 0.587, 0.114)  # Rec. 601
TESTED, TRIES = 500, 6


def grey(x: Array) -> Array:
    """Luma: [B, H, W, 3] -> [B, H, W, 1]."""
    return jnp.clip(x @ jnp.asarray(LUMA), -1.0, 1.0)[..., None]


def experiment(
    *,
    steps: int = 2_000,
    batch: int = 32,
    lr: float = 1e-3,
    latent: int = 16,
    size: int = 32,
    width: int = 8,
    sigma: float = 0.0,
) -> Experiment:
    """A VAE of the colour patch, both of whose networks are given its luma.

    Args:
        steps: how long to train
        batch: examples a step
        lr: Adam's learning rate, lowered to nothing along a cosine
        latent: dimensions of the latent
        size: pixels a side of a patch
        width: channels of the networks at full size
        sigma: of the Gaussian likelihood; 0 takes the best one for each patch
    """
    photos = data.load("photos", size=size)
    p = optimal_gaussian() if sigma == 0 else gaussian(sigma)
    encoder, decoder = ConvEncoder(2 * latent, width=width), ConvDecoder(photos.shape, width=width)
    condition = image(grey, (size, size, 1))
    model = families.vae(network(encoder), network(decoder), latent, likelihood=p, condition=condition)
    adam = optax.adam(optax.cosine_decay_schedule(lr, steps))
    return Experiment(model, {"vae": adam}, photos, batch=batch, steps=steps, log_every=100)


def chroma(x: np.ndarray) -> np.ndarray:
    """(B - Y) / 1.772 and (R - Y) / 1.402 of images with values in [-1, 1], halved: [..., 3] -> [..., 2]."""
    luma = x @ np.asarray(LUMA)
    return np.stack([(x[..., 2] - luma) / 1.772, (x[..., 0] - luma) / 1.402], axis=-1) / 2.0


def main(run: Path, /) -> None:
    """Print the errors that the file's docstring names."""
    trained = load_run(run)
    model, state = trained.experiment.model, trained.state
    print("patches  best of 6  mean of 6  grey itself  spread")
    for split in ("train", "test"):
        patches = data.other_split(trained.experiment.data, split)
        x: Any = normalize(jax.tree.map(jnp.asarray, patches.take(np.arange(TESTED)))).x
        condition = np.repeat(np.asarray(grey(x)), TRIES, axis=0)
        drawn = jaxgen.sample(model, state, jax.random.key(0), len(condition), condition, batch=300)
        tries = chroma(np.asarray(jnp.clip(drawn, -1, 1), np.float64).reshape(TESTED, TRIES, *x.shape[1:]))
        truth = chroma(np.asarray(x, np.float64))
        errors = np.sqrt(np.mean(np.square(tries - truth[:, None]), axis=(2, 3, 4)))
        naive = np.sqrt(np.mean(np.square(truth), axis=(1, 2, 3)))
        spread = tries.std(axis=1).mean()
        print(
            f"{split:7}  {errors.min(1).mean():.4f}     {errors.mean():.4f}     {naive.mean():.4f}       {spread:.4f}"
        )


if __name__ == "__main__":
    script(main)
