"""Super-resolution by conditioning: a diffusion model draws digits of 28x28 that fit a digit of 14x14.

TFDS_DATA_DIR=... jaxgen train experiments/mnist_super_resolution.py
jaxgen sample runs/mnist_super_resolution --n 48
python experiments/mnist_super_resolution.py runs/mnist_super_resolution

The small digit, every pixel four times, joins x_t as a channel. The last command enlarges 50 test digits 6 times each
and prints root mean squares, pixels in [0, 1]: how far the best and the mean of 6 are from the true digit, how far they
are from each other, how far the repeated pixels are from the truth, and how far a drawn digit, made small again, is
from what it was given. (`jaxgen restore --task enlarge` does it with a model that was trained for no such thing.)
"""

from pathlib import Path

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
from jaxgen.nets.unet import UNet, doubled
from jaxgen.processes import cosine
from jaxgen.sampling import ddim, iterate, uniform
from jaxgen.types import Array

TESTED, TRIES = 50, 6


def small(x: Array) -> Array:
    """Means of 2x2 pixels: [B, H, W, C] -> [B, H / 2, W / 2, C]."""
    b, height, width, c = x.shape
    return x.reshape(b, height // 2, 2, width // 2, 2, c).mean((2, 4))


def given(x: Array) -> Array:
    """What the model is given of an image: its small version, every pixel four times."""
    return doubled(small(x))


def experiment(*, steps: int = 500, batch: int = 32, lr: float = 1e-3, width: int = 16) -> Experiment:
    """A UNet that predicts v, drawn by 25 steps of DDIM.

    Args:
        steps: how long to train
        batch: examples a step
        lr: Adam's learning rate, warmed up and then lowered to nothing along a cosine
        width: channels of the UNet at full size
    """
    mnist, process = data.load("mnist"), cosine()
    model = families.diffusion(
        network(UNet(width, multipliers=(1, 2), blocks=1, attention_at=(), heads=4)),
        process,
        mnist.shape,
        prediction="v",
        condition=image(given, mnist.shape),
        drop=0.0,
        sampler=iterate(ddim(process), uniform(25), clip=1.0),
    )
    rate = optax.warmup_cosine_decay_schedule(0.0, lr, steps // 10, steps)
    adam = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))
    return Experiment(model, {"denoiser": adam}, mnist, batch=batch, steps=steps, ema=0.99, save_every=500)


def main(run: Path, /) -> None:
    """Print the errors that the file's docstring names."""
    model, state = jaxgen.load(run)
    test = data.load("mnist", "test")
    x = normalize(jax.tree.map(jnp.asarray, test.take(np.arange(TESTED)))).x
    condition = np.repeat(np.asarray(given(x)), TRIES, axis=0)
    drawn = np.asarray(jaxgen.sample(model, state, jax.random.key(0), len(condition), condition, batch=300))
    tries, truth = drawn.reshape(TESTED, TRIES, *x.shape[1:]) / 2.0, np.asarray(x) / 2.0
    again = np.asarray(given(jnp.asarray(drawn))) / 2.0

    def size(a: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
        return np.sqrt(np.mean(np.square(a), axis=axes))

    errors = size(tries - truth[:, None], (2, 3, 4))
    print(f"best of {TRIES}         {errors.min(1).mean():.4f}")
    print(f"mean of {TRIES}         {errors.mean(1).mean():.4f}")
    print(f"spread            {size(tries - tries.mean(1, keepdims=True), (1, 2, 3, 4)).mean():.4f}")
    print(f"repeated pixels   {size(truth - np.asarray(given(x)) / 2.0, (1, 2, 3)).mean():.4f}")
    print(f"made small again  {size(again - condition / 2.0, (1, 2, 3)).mean():.4f}")


if __name__ == "__main__":
    script(main)
