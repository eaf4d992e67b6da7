"""Three ways to give a GAN of MNIST the label: joined to the images, told from them, compared with their features.

TFDS_DATA_DIR=... jaxgen train experiments/mnist_conditional_gan.py --kind projection
python experiments/mnist_conditional_gan.py runs/mnist_conditional --steps 2000 --seeds 3       # the table

concatenated is Mirza and Osindero's (2014, arXiv:1411.1784), acgan Odena, Olah and Shlens's (2016, arXiv:1610.09585),
projection Miyato and Koyama's (2018, arXiv:1802.05637). The table has the share of samples that a classifier of MNIST
takes for the class that was wanted, their Fréchet distance to the test images in its features, and how much the samples
of a class differ from each other, 1 for as much as test images do; the networks are DCGAN's, the critic's with spectral
normalisation and five turns where its paper has no batch normalisation: with fewer the samples of a class are all the
same.
"""

import json
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import jax
import numpy as np
import optax

from jaxgen import Experiment, data, families, fit, sample, viz
from jaxgen.cli import script
from jaxgen.conditions import labels
from jaxgen.data.pipeline import to_uint8
from jaxgen.losses import adversarial, heads
from jaxgen.metrics import frechet
from jaxgen.metrics.features import Extractor, extract
from jaxgen.metrics.referee import referee
from jaxgen.nets import network, unconditioned
from jaxgen.nets.conv import DCGANCritic, DCGANGenerator
from jaxgen.nets.heads import Heads
from jaxgen.nets.weights import spectral

Kind = Literal["concatenated", "acgan", "projection"]
SAMPLES = 5_000


class Choice(NamedTuple):
    loss: adversarial.Objective
    heads: Heads | None = None
    spectral: bool = True  # instead of batch normalisation
    blind: bool = False  # the critic is not given the label
    turns: int = 5


CHOICES = {
    "concatenated": Choice(adversarial.non_saturating(), spectral=False, turns=1),
    "acgan": Choice(heads.auxiliary_classifier(adversarial.hinge()), Heads(logits=10), blind=True),
    "projection": Choice(adversarial.hinge(), Heads(projection=True)),
}


def experiment(
    *, kind: Kind = "projection", steps: int = 6_000, batch: int = 64, width: int = 16, latent: int = 64,
    lr: float = 5e-4, turns: int = 0,
) -> Experiment:  # fmt: skip
    """A conditional DCGAN, averaged generator.

    Args:
        kind: how the critic takes the label
        steps: how long to train, in turns of the generator
        batch: examples a turn
        width: channels of the critic's first layer
        latent: dimensions of z
        lr: Adam's learning rate of both players, beta_1 = 0.5
        turns: of the critic; 0: one with batch normalisation, five with spectral normalisation
    """
    mnist, choice = data.load("mnist"), CHOICES[kind]
    weight, classes = spectral if choice.spectral else None, None if choice.blind else 10
    critic = network(DCGANCritic(width, classes=classes, norm=not choice.spectral, heads=choice.heads, weight=weight))
    model = families.gan(
        network(DCGANGenerator(mnist.shape, width, classes=10)),
        unconditioned(critic) if choice.blind else critic,
        latent,
        objective=choice.loss,
        condition=labels(10),
    )
    adam, order = optax.adam(lr, b1=0.5), ("critic",) * (turns or choice.turns) + ("generator",)
    return Experiment(model, {"critic": adam, "generator": adam}, mnist, batch, steps, order=order, ema=0.995)


# --- the table -------------------------------------------------------------------------------------------------------


def within(images: np.ndarray, classes: np.ndarray) -> float:
    """The standard deviation of a pixel within a class, the root of its mean square over pixels and classes."""
    return float(np.sqrt(np.mean([np.var(images[classes == c] / 255.0, axis=0) for c in range(10)])))


def scores(exp: Experiment, state, extractor: Extractor, test: data.Dataset) -> dict[str, float]:
    """The share of samples of the class that was wanted, their Fréchet distance to the test images, and their deviation
    within a class, that of the test images being 1."""
    wanted = np.arange(SAMPLES) % 10
    images = np.asarray(to_uint8(sample(exp.model, state, jax.random.key(1), SAMPLES, wanted, batch=500)))
    found = extract(extractor, data.in_memory("samples", "drawn", images))
    assert found.log_probs is not None
    right = float(np.mean(found.log_probs.argmax(1) == wanted))
    reals = test.take(np.arange(test.size))
    differ = within(images, wanted) / within(np.asarray(reals.x), np.asarray(reals.condition))
    fid = frechet.fid(extract(extractor, test).vectors, found.vectors).value
    return {"right class": right, "fid": fid, "differ": differ}


def main(out: Path, /, *, kinds: tuple[Kind, ...] = get_args(Kind), steps: int = 2_000, seeds: int = 3) -> None:
    """Train every kind, print its scores, draw a column a label.

    Args:
        out: a folder for the runs
        kinds: which ones
        steps: how long to train each
        seeds: of every kind
    """
    test = data.load("mnist", "test")
    extractor = referee(data.load("mnist"), test)
    for kind in kinds:
        for seed in range(seeds):
            exp = experiment(kind=kind, steps=steps)._replace(seed=seed, name=kind)
            folder = out / f"{kind}-{seed}"
            state = fit(exp, folder, progress=False)
            print(json.dumps({"kind": kind, "seed": seed, **scores(exp, state, extractor, test)}), flush=True)
            images = sample(exp.model, state, jax.random.key(1), 80, np.arange(80) % 10)
            viz.save_picture(folder / "grid.png", images, 10)


if __name__ == "__main__":
    script(main)
