"""A thousand modes: three digits as the colours of one image, and how many of the triples a GAN draws.

jaxgen train experiments/stacked_mnist.py --objective r3gan
python experiments/stacked_mnist.py runs/stacked_mnist --objectives dcgan pacdcgan2 r3gan   # the table and the curves

Lin et al. 2018 (arXiv:1712.04086), section 4.2: 128,000 training images, DCGAN's networks, Adam at 2e-4 with beta_1 =
0.5, minibatches of 64 packs; 26,000 samples, whose three digits a classifier of MNIST reads, as in Metz et al. 2017
(arXiv:1611.02163). Huang et al. 2025 (arXiv:2501.05441), table 1, for the relativistic loss with R1 and R2.
"""

import json
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import jax
import numpy as np
import optax

from jaxgen import Experiment, data, families, fit, sample, viz
from jaxgen.cli import script
from jaxgen.data.pipeline import to_uint8
from jaxgen.losses import adversarial, penalties
from jaxgen.metrics.features import extract
from jaxgen.metrics.modes import Coverage, of_counts
from jaxgen.metrics.referee import referee
from jaxgen.nets import network
from jaxgen.nets.conv import DCGANCritic, DCGANGenerator
from jaxgen.nets.r3gan import R3Critic, R3Generator

Objective = Literal["dcgan", "pacdcgan2", "rpgan_r1_r2", "r3gan"]
SAMPLES = 26_000


class Choice(NamedTuple):
    loss: adversarial.Adversarial
    pack: int = 1
    paid: tuple[penalties.Penalty, ...] = ()
    residual: bool = False


BOTH = (penalties.r1(1.0), penalties.r2(1.0))
CHOICES = {
    "dcgan": Choice(adversarial.non_saturating()),
    "pacdcgan2": Choice(adversarial.non_saturating(), 2),
    "rpgan_r1_r2": Choice(adversarial.relativistic(), 1, BOTH),
    "r3gan": Choice(adversarial.relativistic(), 1, BOTH, True),
}


def experiment(
    *, objective: Objective = "r3gan", width: int = 32, latent: int = 100, steps: int = 20_000, batch: int = 64
) -> Experiment:
    """A GAN of three digits at once.

    Args:
        objective: DCGAN alone or packed, the relativistic loss with R1 and R2 on DCGAN's networks or on R3GAN's
        width: channels at full size; 64 in the published runs
        latent: dimensions of z
        steps: how long to train
        batch: packs a turn
    """
    digits, choice = data.load("stacked_mnist"), CHOICES[objective]
    shape = digits.shape
    if choice.residual:
        generator, critic = R3Generator(shape, width, 4 * width, 1), R3Critic(width, 4 * width, 1)
    else:
        generator = DCGANGenerator(shape, width)
        critic = DCGANCritic(width, norm=not choice.paid)
    parts = {"objective": choice.loss, "penalties": choice.paid, "pack": choice.pack}
    model = families.gan(network(generator), network(critic), latent, **parts)
    players = {name: optax.adam(2e-4, b1=0.0 if choice.paid else 0.5, b2=0.99) for name in ("critic", "generator")}
    return Experiment(model, players, digits, batch * choice.pack, steps, order=tuple(players), ema=0.995)


# --- how many modes --------------------------------------------------------------------------------------------------


def modes(images: np.ndarray, extractor) -> tuple[Coverage, float]:
    """(of 1,000 triples, as a classifier of MNIST reads the three channels of uint8 images [N, 28, 28, 3]; the share of
    images whose three digits are all read with a probability over 0.9: the classifier gives noise some class, too)."""
    grey = images.transpose(0, 3, 1, 2).reshape(-1, 28, 28, 1)
    log_p = extract(extractor, data.in_memory("channels", "drawn", grey)).log_probs
    assert log_p is not None
    triples = np.argmax(log_p, axis=-1).reshape(-1, 3) @ np.array([100, 10, 1])
    sure = np.max(log_p, axis=-1).reshape(-1, 3).min(axis=1) > np.log(0.9)
    return of_counts(np.bincount(triples, minlength=1000), len(triples)), float(np.mean(sure))


def main(
    out: Path,
    /,
    *,
    objectives: tuple[Objective, ...] = get_args(Objective),
    every: int = 1000,
    steps: int = 20_000,
    width: int = 32,
) -> None:
    """Train, count the modes every so many steps, and draw the curves.

    Args:
        out: a folder for the runs, the counts and the pictures
        objectives: which ones
        every: steps from one count to the next
        steps: how long to train
        width: channels of the networks
    """
    extractor = referee(data.load("mnist"), data.load("mnist", "test"))
    real = np.asarray(data.load("stacked_mnist", "test", n=SAMPLES).take(np.arange(SAMPLES)).x)
    found, sure = modes(real, extractor)
    print(json.dumps({"real images": SAMPLES, "modes": found.modes, "kl": found.kl, "sure": sure}), flush=True)
    for objective in objectives:
        rows = []
        for step in range(every, steps + 1, every):
            exp = experiment(objective=objective, steps=step, width=width)._replace(name=objective)
            state = fit(exp, out / objective, progress=False)  # goes on from the last count
            images = sample(exp.model, state, jax.random.key(1), SAMPLES, batch=500)
            (found, sure), seen = modes(np.asarray(to_uint8(images)), extractor), step * exp.batch
            row = {"objective": objective, "images": seen, "modes": found.modes, "kl": found.kl, "sure": sure}
            print(json.dumps(row), flush=True)
            rows.append(row)
            (out / f"{objective}.json").write_text(json.dumps(rows))
            viz.save_picture(out / f"{objective}.png", images[:64], 16)
    print(draw(out))


def draw(folder: Path) -> Path:
    """The curves of all the objectives that were counted in a folder."""
    curves = []
    for file in sorted(folder.glob("*.json")):
        points = [(float(row["images"]), float(row["modes"]), 0.0) for row in json.loads(file.read_text())]
        curves.append(viz.Curve(file.stem, points))
    panel = viz.Panel("images seen", "modes of 1,000", curves, log="")
    return viz.save_panels(folder / "modes.png", [panel])


if __name__ == "__main__":
    script(main)
