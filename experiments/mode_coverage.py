"""Mode coverage in the plane, by the protocol of PacGAN: its data, networks, optimizer and measures, ten seeds at once.

jaxgen train experiments/mode_coverage.py --objective rpgan_r1_r2
python experiments/mode_coverage.py runs/mode_coverage --epochs 400 --seeds 10    # the table and the picture

Lin et al. 2018 (arXiv:1712.04086), section 4.1 and the authors' code, which has what the paper leaves out: 100,000
points, minibatches of 100 packs, Adam at 1e-4 with beta_1 = 0.8, all weights from N(0, 0.02^2), a generator of four
layers of 400 with batch normalisation, a critic of three maxout layers of 200 with 5 pieces, no dropout, 2,500 samples.
There both players move at once; here the critic moves first.
"""

import json
import math
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

from jaxgen import Experiment, data, families, sample
from jaxgen.cli import script
from jaxgen.data.pipeline import order
from jaxgen.data.synthetic import GRID, RING
from jaxgen.losses import adversarial, penalties
from jaxgen.metrics.modes import coverage
from jaxgen.nets import network
from jaxgen.nets.layers import Dense
from jaxgen.nets.norms import BatchNorm
from jaxgen.nets.primitives import constant_std
from jaxgen.training import init_state, make_step, repeat
from jaxgen.types import Array, Batch, Model, Tree, check

Objective = Literal["gan", "pacgan2", "pacgan4", "wgan_gp", "rpgan_r1_r2", "gan_r1_r2"]
Points = Literal["grid25", "ring8"]
SAMPLES, CALL = 2500, 250
MODES = {"grid25": (GRID, 0.05), "ring8": (RING, 0.01)}


def small(width: int):
    """N(0, 0.02^2) for the published width of 400; of narrower layers the same scale of what comes out."""
    return constant_std(0.02 * math.sqrt(400 / width))


class Generator(nn.Module):
    """z [B, 2] -> point [B, 2]: four layers, 400 wide as published, with batch normalisation and ReLU."""

    width: int = 400

    @nn.compact
    def __call__(self, z: Array, condition: Tree = None, train: bool = False) -> Array:
        h, init = z, small(self.width)
        for _ in range(4):
            h = nn.relu(BatchNorm(momentum=0.95)(Dense(self.width, bias=False, kernel_init=init)(h), train))
        return Dense(2, kernel_init=init)(h)


class Critic(nn.Module):
    """Points, packed or not, [B, D] -> score [B]: three maxout layers of 5 pieces, 200 wide as published (Goodfellow et
    al. 2013, arXiv:1302.4389, section 2)."""

    width: int = 200

    @nn.compact
    def __call__(self, x: Array, condition: Tree = None, train: bool = False) -> Array:
        h, init = x, small(2 * self.width)
        for _ in range(3):
            h = jnp.max(Dense(5 * self.width, kernel_init=init)(h).reshape(h.shape[0], 5, self.width), axis=1)
        return Dense(1, kernel_init=init)(h)[:, 0]


class Choice(NamedTuple):
    loss: adversarial.Adversarial
    pack: int = 1
    paid: tuple[penalties.Penalty, ...] = ()


def choice(objective: Objective, gamma: float, factor: optax.Schedule) -> Choice:
    """What the players minimise; gamma: weight of the penalties of gradients, `factor` times as large."""
    both = tuple(penalties.scheduled(one(gamma), factor) for one in (penalties.r1, penalties.r2))
    return {
        "gan": Choice(adversarial.non_saturating()),
        "pacgan2": Choice(adversarial.non_saturating(), 2),
        "pacgan4": Choice(adversarial.non_saturating(), 4),
        "wgan_gp": Choice(adversarial.wasserstein(), 1, (penalties.gradient_penalty(gamma),)),
        "rpgan_r1_r2": Choice(adversarial.relativistic(), 1, both),
        "gan_r1_r2": Choice(adversarial.non_saturating(), 1, both),
    }[objective]


def experiment(
    *,
    objective: Objective = "rpgan_r1_r2",
    points: Points = "grid25",
    epochs: int = 400,
    gamma: float = 0.1,
    width: int = 400,
    rate: float = 1e-4,
    decay: bool = False,
    anneal: float = 1.0,
) -> Experiment:
    """A GAN of points by PacGAN's protocol.

    Args:
        objective: what the players minimise
        points: grid25 or ring8
        epochs: times 1,000 minibatches of 100 packs
        gamma: weight of the penalties of gradients
        width: of the generator's layers, twice that of the critic's; 400 in the published networks
        rate: Adam's learning rate
        decay: lower it to nothing along a cosine
        anneal: the weight of R1 and R2 falls along a cosine to this part of gamma
    """
    check(width >= 2, f"width is {width}: the critic has half of it, give at least 2")
    loss, pack, paid = choice(objective, gamma, optax.cosine_decay_schedule(1.0, 1000 * epochs, anneal))
    model = families.gan(
        network(Generator(width)), network(Critic(width // 2)), 2, objective=loss, penalties=paid, pack=pack
    )
    rates = optax.cosine_decay_schedule(rate, 1000 * epochs) if decay else rate
    players = {name: optax.adam(rates, b1=0.8) for name in ("critic", "generator")}
    return Experiment(
        model,
        players,
        data.load(points),
        batch=100 * pack,
        steps=1000 * epochs,
        order=tuple(players),
        sample_every=1000 * epochs,
        save_every=10_000,
        log_every=1000,
    )


# --- all seeds at once -----------------------------------------------------------------------------------------------


def minibatches(exp: Experiment, x: np.ndarray, seeds: int, at: int) -> Batch:
    """[seeds, CALL, 1, 1, B, 2]: those of each seed's own steps."""
    count = CALL * exp.batch
    rows = np.stack([order(len(x), seed, at * exp.batch, count) for seed in range(seeds)])
    return Batch(jnp.asarray(x[rows]).reshape(seeds, CALL, 1, 1, exp.batch, 2))


def train(exp: Experiment, seeds: int, report: int):
    """Yields (epoch, states) every `report` epochs: one compiled call trains all seeds, CALL steps at a time."""
    x = np.asarray(exp.data.take(np.arange(exp.data.size)).x)
    optimizers = dict(exp.optimizers)
    first = minibatches(exp, x, seeds, 0)
    keys = jax.vmap(jax.random.key)(jnp.arange(seeds))
    begin = partial(init_state, exp.game, optimizers, ema=True)
    states = jax.jit(jax.vmap(begin))(keys, jax.tree.map(lambda a: a[:, 0, 0, 0], first))
    step = make_step(exp.game, optimizers, order=exp.order, ema=exp.ema)
    run = jax.jit(jax.vmap(repeat(step), in_axes=(0, 0, None)), donate_argnums=0)
    for at in range(0, exp.steps, CALL):
        states, _ = run(states, minibatches(exp, x, seeds, at), np.int32(CALL))
        if (at + CALL) % (1000 * report) == 0:
            yield (at + CALL) // 1000, states


def measured(model: Model, states, points: Points, ema: bool) -> tuple[list, np.ndarray]:
    """([coverage of each seed], the samples [seeds, N, 2])."""
    centres, std = MODES[points]
    seeds = states.step.shape[0]
    drawn = [
        np.asarray(
            sample(model, jax.tree.map(lambda a, i=i: a[i], states), jax.random.key(7), SAMPLES, batch=SAMPLES, ema=ema)
        )
        for i in range(seeds)
    ]
    return [coverage(x, centres, std) for x in drawn], np.stack(drawn)


def summary(found: list) -> dict[str, str]:
    """Mean and standard error over seeds."""
    out = {}
    for name in ("modes", "quality", "kl"):
        values = np.array([getattr(one, name) for one in found], float)
        out[name] = (
            f"{values.mean():.3f} ± {values.std(ddof=1) / np.sqrt(len(values)):.3f}"
            if len(values) > 1
            else f"{values[0]:.3f}"
        )
    return out


def draw(folder: Path) -> Path:
    """The samples of the first seed, of all that was trained in a folder: a row a data set, a column an objective."""
    files = [sorted(folder.glob(f"{points}-*.npz")) for points in MODES]
    rows = [row for row in files if row]
    columns = max(map(len, rows))
    figure = Figure(figsize=(4 * columns, 4 * len(rows)), dpi=80, layout="constrained")
    for line, row in zip(figure.subplots(len(rows), columns, squeeze=False), rows, strict=True):
        for axes, file in zip(line, row, strict=False):
            centres, _ = MODES[file.stem.partition("-")[0]]
            axes.scatter(*np.load(file)["samples"][0].T, s=2)
            axes.scatter(*np.asarray(centres).T, s=60, facecolors="none", edgecolors="0.6", linewidths=0.5)
            axes.set_title(file.stem)
            axes.set_aspect("equal")
    figure.savefig(folder / "modes.png")
    return folder / "modes.png"


def main(
    out: Path,
    /,
    *,
    points: Points = "grid25",
    objectives: tuple[Objective, ...] = get_args(Objective),
    epochs: int = 400,
    seeds: int = 10,
    report: int = 2,
    gamma: float = 0.1,
    width: int = 400,
    rate: float = 1e-4,
    decay: bool = False,
    anneal: float = 1.0,
) -> None:
    """Train, measure every few epochs, and draw.

    Args:
        out: a folder for the samples and the picture
        objectives: which ones
        seeds: trained at once
        report: epochs from one measurement to the next
        points, epochs, gamma, width, rate, decay, anneal: see `experiment`
    """
    out.mkdir(parents=True, exist_ok=True)
    networks = {"points": points, "width": width}
    training = {"epochs": epochs, "gamma": gamma, "rate": rate, "decay": decay, "anneal": anneal}
    for objective in objectives:
        exp = experiment(objective=objective, **networks, **training)
        for epoch, states in train(exp, seeds, report):
            for ema in (False, True):
                found, drawn = measured(exp.model, states, points, ema)
                at = {"objective": objective, "points": points, "epoch": epoch, "average": ema}
                print(json.dumps(at | summary(found), ensure_ascii=False), flush=True)
            np.savez(out / f"{points}-{objective}.npz", samples=drawn, epoch=epoch)
    print(draw(out))


if __name__ == "__main__":
    script(main)
