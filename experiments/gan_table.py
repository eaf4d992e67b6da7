"""Adversarial objectives by the protocol of a published comparison: one pair of networks, one budget, one FID.

jaxgen train experiments/gan_table.py --objective wgan_gp --name fashion_mnist
python experiments/gan_table.py runs/gan_table --epochs 2 --samples 2000      # the table, of as long as one likes
python experiments/gan_table.py runs/gan_table --runs runs/mnist_diffusion    # any run by the same measure

Lucic et al. 2018 (arXiv:1711.10337), section 5 and appendix: InfoGAN's networks, z uniform in [-1, 1]^64, minibatches
of 64, 20 epochs of 50,000 images; Fréchet distance of 10,000 samples to the 10,000 test images, grey ones in three
equal channels. There the numbers of an optimizer are searched (100 settings each, the best one counts); here each
objective has one setting, that of its own paper or else Adam at 2e-4 with beta_1 = 0.5.
"""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import flax.linen as nn
import jax
import numpy as np
import optax

from jaxgen import Experiment, data, families, fit, sample, viz
from jaxgen.cli import script
from jaxgen.data.pipeline import to_uint8
from jaxgen.losses import adversarial, heads, penalties
from jaxgen.losses.information import Codes
from jaxgen.metrics import evaluation, frechet
from jaxgen.metrics.features import extract
from jaxgen.nets import network
from jaxgen.nets.heads import AutoencoderCritic
from jaxgen.nets.infogan import InfoGANCritic, InfoGANGenerator
from jaxgen.nets.layers import Conv, Dense
from jaxgen.nets.primitives import std_init
from jaxgen.optimizers import clip_weights
from jaxgen.runs import load_run
from jaxgen.types import Array, Model, TrainState, Tree

Objective = Literal["minimax", "non_saturating", "lsgan", "wgan", "wgan_gp", "dragan", "began"]
EPOCH, BATCH, LATENT = 50_000, 64, 64
SCALED = std_init(2.0)


class Encoder(nn.Module):
    """BEGAN's critic is an autoencoder; its first half."""

    width: int

    @nn.compact
    def __call__(self, x: Array, condition: Tree = None, train: bool = False) -> Array:
        h = nn.elu(Conv(self.width, 4, 2, kernel_init=SCALED)(x))
        h = nn.elu(Conv(2 * self.width, 4, 2, kernel_init=SCALED)(h))
        return Dense(LATENT)(h.reshape(h.shape[0], -1))


class Choice(NamedTuple):
    loss: adversarial.Objective
    norm: bool = True
    paid: tuple[penalties.Penalty, ...] = ()
    turns: int = 1
    rate: float = 2e-4
    momentum: float = 0.5


NS = adversarial.non_saturating()
CHOICES = {
    "minimax": Choice(adversarial.minimax()),
    "non_saturating": Choice(NS),
    "lsgan": Choice(adversarial.least_squares()),
    "wgan": Choice(adversarial.wasserstein(), turns=5, rate=5e-5),
    "wgan_gp": Choice(adversarial.wasserstein(), False, (penalties.gradient_penalty(10.0),), 5, 1e-4, 0.0),
    "dragan": Choice(NS, False, (penalties.dragan(),), 5),
    "began": Choice(heads.began(0.7)),
}


def experiment(
    *,
    objective: Objective = "non_saturating",
    name: str = "mnist",
    epochs: int = 20,
    width: int = 64,
    averaged: bool = False,
) -> Experiment:
    """A GAN with InfoGAN's networks.

    Args:
        objective: what the players minimise
        name: of a data set, mnist or fashion_mnist
        epochs: times 50,000 images, by turns of the generator
        width: channels at half the size, 64 in the published networks
        averaged: average the parameters, as the published comparison does not
    """
    images, choice = data.load(name), CHOICES[objective]
    critic, generator = InfoGANCritic(width, norm=choice.norm, slope=0.2), InfoGANGenerator(images.shape, width)
    if objective == "began":  # an autoencoder without batch normalisation
        critic = AutoencoderCritic(Encoder(width), InfoGANGenerator(images.shape, width, norm=False), 1)
    model = families.gan(
        network(generator),
        network(critic),
        Codes(0, continuous=LATENT),
        objective=choice.loss,
        penalties=choice.paid,
    )
    adam = partial(optax.adam, choice.rate, b1=choice.momentum)
    rms = optax.rmsprop(choice.rate)
    players = {"critic": adam(), "generator": adam()}
    if objective == "wgan":
        players = {"critic": optax.chain(rms, clip_weights(0.01)), "generator": rms}
    steps = epochs * EPOCH // BATCH
    order = ("critic",) * choice.turns + ("generator",)
    return Experiment(model, players, images, BATCH, steps, order=order, ema=0.999 if averaged else 0.0)


# --- the table -------------------------------------------------------------------------------------------------------


def references(name: str, samples: int, kinds: Sequence[str]) -> dict[str, tuple]:
    """{extractor: (itself, features of so many test images, their distance to as many training images, the floor)}."""
    images, rows, found = data.load(name), np.arange(samples), {}
    for kind in kinds:
        extractor = evaluation.extractor_for(kind, images)
        test, floor = (extract(extractor, data.subset(data.load(name, s), rows)).vectors for s in ("test", "train"))
        found[kind] = extractor, test, frechet.fid(test, floor).value
    return found


def distances(model: Model, state: TrainState, test: data.Dataset, samples: int, reals: dict) -> dict[str, float]:
    """{extractor: Fréchet distance of so many samples, of the test images' labels, to the test images; the floor}."""
    drawn = evaluation.samples(model, state, test, samples, seed=1, batch=500)
    images = to_uint8(drawn.take(np.arange(samples)).x)
    kept, found = data.in_memory("samples", "drawn", np.asarray(images)), {}
    for kind, (extractor, vectors, floor) in reals.items():
        found |= {kind: frechet.fid(vectors, extract(extractor, kept).vectors).value, f"{kind} floor": floor}
    return found


def main(
    out: Path,
    /,
    *,
    objectives: tuple[Objective, ...] = get_args(Objective),
    names: tuple[str, ...] = ("mnist",),
    extractors: tuple[str, ...] = ("classifier", "inception"),
    epochs: int = 20,
    width: int = 64,
    seeds: int = 1,
    samples: int = 10_000,
    runs: tuple[Path, ...] = (),
) -> None:
    """Train every objective, and print its distances.

    Args:
        out: a folder for the runs
        objectives: which ones
        names: of data sets, mnist and fashion_mnist
        extractors: of the features, classifier and inception
        epochs: times 50,000 images
        width: channels at half the size
        seeds: of every objective
        samples: generated ones and real ones
        runs: score these instead
    """
    others = [load_run(run) for run in runs]
    for name in names:
        test, reals = data.load(name, "test"), references(name, samples, extractors)
        for run in filter(lambda run: run.experiment.data.name == name, others):
            found = distances(run.experiment.model, run.state, test, samples, reals)
            print(json.dumps({"name": name, "run": run.experiment.name, **found}), flush=True)
        for objective in () if runs else objectives:
            for seed in range(seeds):
                settings = {"objective": objective, "name": name, "epochs": epochs, "width": width}
                exp = experiment(**settings)._replace(seed=seed, name=f"{name}-{objective}")
                folder = out / f"{name}-{objective}-{seed}"
                state = fit(exp, folder, progress=False)
                found = distances(exp.model, state, test, samples, reals)
                print(json.dumps({"name": name, "objective": objective, "seed": seed, **found}), flush=True)
                viz.save_picture(folder / "grid.png", sample(exp.model, state, jax.random.key(1), 64), 8)


if __name__ == "__main__":
    script(main)
