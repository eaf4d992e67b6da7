"""Every adversarial objective and every trick, on the 8x8 digits, with the same networks and as many steps.

jaxgen train experiments/digits_gan_zoo.py --objective hinge --trick spectral_norm
python experiments/digits_gan_zoo.py runs/digits_gan_zoo           # all of them, three seeds: a table and a grid
python experiments/digits_gan_zoo.py runs/digits_gan_zoo began r1  # some of them
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import flax.linen as nn
import jax
import numpy as np
import optax
from matplotlib.figure import Figure
from PIL import Image

from jaxgen import Experiment, data, families, fit, optimizers, sample
from jaxgen.cli import script
from jaxgen.conditions import labels
from jaxgen.data.pipeline import to_uint8
from jaxgen.losses import adversarial, augmentation, heads, information, penalties
from jaxgen.losses.penalties import Penalty
from jaxgen.metrics import frechet, neighbours
from jaxgen.metrics.features import Extractor, extract
from jaxgen.metrics.referee import referee
from jaxgen.nets import network, unconditioned
from jaxgen.nets.conv import ConvDecoder, ConvEncoder, DCGANCritic, DCGANGenerator
from jaxgen.nets.heads import AutoencoderCritic, Heads
from jaxgen.nets.layers import Conv, Dense
from jaxgen.nets.minibatch import MinibatchDiscrimination, MinibatchStd
from jaxgen.nets.norms import BatchNorm, Referenced, VirtualBatchNorm
from jaxgen.nets.weights import spectral
from jaxgen.types import Array, Tree, check
from jaxgen.viz import save_picture

Objective = Literal[
    "minimax", "non_saturating", "lsgan", "wgan", "wgan_gp", "dragan", "hinge", "rpgan", "ebgan", "began",
    "conditional", "projection", "acgan", "infogan", "semi_supervised", "pacgan", "r3gan_loss",
]  # fmt: skip
Trick = Literal[
    "none", "feature_matching", "minibatch_discrimination", "minibatch_std", "virtual_batch_norm", "label_smoothing",
    "historical_average", "instance_noise", "two_time_scales", "five_critic_turns", "no_average", "diff_augment",
    "adaptive_augment", "spectral_norm", "orthogonal", "r1", "lazy_r1",
]  # fmt: skip
CODES = information.Codes(22, categorical=(10,), continuous=2)
WIDTH, LATENT, REFERENCE = 16, 32, 32


class Game(NamedTuple):
    """What an objective needs besides the two networks that all share."""

    loss: adversarial.Objective
    norm: bool = True  # batch normalisation in the critic, which penalties on each image's gradient forbid
    spectral: bool = False  # spectral normalisation instead
    heads: Heads | None = None
    classes: int | None = None
    condition: bool = False
    blind: bool = False  # the critic is not given the label
    paid: tuple[Penalty, ...] = ()
    autoencoder: int = 0  # the critic is one, with an error of this order
    code: int = 32  # dimensions of that autoencoder's code
    latent: int | information.Codes = LATENT
    pack: int = 1
    turns: int = 0  # of the critic; 0: one, or five without batch normalisation, with which it learns faster
    optimizer: Callable[[], optax.GradientTransformation] | None = None


NS = adversarial.non_saturating()
GAMES: dict[str, Game] = {
    "minimax": Game(adversarial.minimax()),
    "non_saturating": Game(NS),
    "lsgan": Game(adversarial.least_squares()),
    # algorithm 1's constants, but for the rate, ten times as large: the budget is a tenth of a long training
    "wgan": Game(
        adversarial.wasserstein(),
        turns=5,
        optimizer=lambda: optax.chain(optax.rmsprop(5e-4), optimizers.clip_weights(0.01)),
    ),
    "wgan_gp": Game(
        adversarial.wasserstein(),
        norm=False,
        paid=(penalties.gradient_penalty(10.0),),
        optimizer=lambda: optax.adam(1e-4, b1=0.0, b2=0.9),
    ),
    "dragan": Game(NS, norm=False, paid=(penalties.dragan(),)),
    "hinge": Game(adversarial.hinge()),
    "rpgan": Game(adversarial.relativistic()),
    "ebgan": Game(heads.energy(0.2, pull_away=0.1), autoencoder=2),
    # k_t moves 20 times as fast as published, the budget is a hundredth of theirs; an autoencoder with a wide code
    # reconstructs whatever the generator makes, and the balance is reached with a few images
    "began": Game(heads.began(0.7, rate=0.02), autoencoder=1, code=8),
    "conditional": Game(NS, classes=10, condition=True),
    "projection": Game(adversarial.hinge(), spectral=True, heads=Heads(projection=True), classes=10, condition=True),
    "acgan": Game(heads.auxiliary_classifier(NS), spectral=True, heads=Heads(logits=10), condition=True, blind=True),
    "infogan": Game(information.information(NS, CODES), heads=Heads(codes=CODES.outputs), latent=CODES),
    "semi_supervised": Game(heads.semi_supervised(NS), spectral=True, heads=Heads(logits=10, joint=True)),
    "pacgan": Game(NS, pack=2),
    "r3gan_loss": Game(adversarial.relativistic(), norm=False, paid=(penalties.r1(1.0), penalties.r2(1.0))),
}


class SmallCritic(nn.Module):
    """DCGAN's critic, with what tricks put into it: a layer for the minibatch, or virtual batch normalisation."""

    kind: str

    @nn.compact
    def __call__(self, x: Array, condition: Tree = None, train: bool = False) -> Array:
        h = nn.leaky_relu(Conv(WIDTH, 4, 2)(x), 0.2)
        h = Conv(2 * WIDTH, 4, 2)(h)
        h = VirtualBatchNorm(REFERENCE)(h) if self.kind == "virtual_batch_norm" else BatchNorm()(h, train)
        h = nn.leaky_relu(h, 0.2)
        if self.kind == "minibatch_std":
            h = nn.leaky_relu(Conv(2 * WIDTH)(MinibatchStd()(h)), 0.2)
        h = h.reshape(h.shape[0], -1)
        if self.kind == "minibatch_discrimination":
            h = MinibatchDiscrimination()(h)
        return Dense(1)(h)[:, 0]


def normalised(game: Game, trick: str) -> bool:
    """Whether the critic has batch normalisation."""
    return game.norm and not game.spectral and trick not in ("r1", "lazy_r1", "spectral_norm")


def critic_of(game: Game, trick: str):
    """The critic's network."""
    if game.autoencoder:
        autoencoder = ConvEncoder(game.code, WIDTH, 128, 2), ConvDecoder((8, 8, 1), WIDTH, 128, 2)
        return network(AutoencoderCritic(*autoencoder, order=game.autoencoder))
    if trick in ("minibatch_discrimination", "minibatch_std"):
        return network(SmallCritic(trick))
    if trick == "virtual_batch_norm":
        return network(Referenced(SmallCritic(trick), REFERENCE))
    wanted = Heads() if trick == "feature_matching" and game.heads is None else game.heads
    norm = normalised(game, trick)
    weight = spectral if game.spectral or trick == "spectral_norm" else None
    found = network(DCGANCritic(WIDTH, 2, classes=game.classes, norm=norm, heads=wanted, weight=weight))
    return unconditioned(found) if game.blind else found


def experiment(
    *, objective: Objective = "non_saturating", trick: Trick = "none", steps: int = 2000, batch: int = 64,
    lr: float = 5e-4,
) -> Experiment:  # fmt: skip
    """A DCGAN of the digits with an objective and a trick.

    Args:
        objective: what the players minimise
        trick: what is done besides
        steps: how long to train, in turns of the generator
        batch: examples a turn
        lr: Adam's learning rate of both players where the objective has no optimizer of its own, beta_1 = 0.5
    """
    digits, game = data.load("digits"), GAMES[objective]
    if objective == "semi_supervised":
        digits = data.labelled(digits, 100)
    loss = {
        "label_smoothing": adversarial.smoothed,
        "feature_matching": heads.feature_matching,
    }.get(trick, lambda loss: loss)(game.loss)
    paid = {"r1": (penalties.r1(1.0),), "lazy_r1": (penalties.lazy(penalties.r1(1.0), 16),)}.get(trick, ())
    changed = {
        "instance_noise": lambda: augmentation.instance_noise(0.3, steps // 2),
        "diff_augment": lambda: augmentation.augment(augmentation.shift),
        "adaptive_augment": lambda: augmentation.adaptive(augmentation.shift, augmentation.cutout, images=50_000),
    }.get(trick, lambda: None)()
    classes = 10 if game.condition else None
    model = families.gan(
        network(DCGANGenerator(digits.shape, WIDTH, 2, classes=classes)),
        critic_of(game, trick),
        game.latent,
        objective=loss,
        penalties=(*game.paid, *paid),
        augmentation=changed,
        condition=labels(10) if game.condition else None,
        pack=game.pack,
    )
    first = {
        "historical_average": optimizers.historical_average(1e-2),
        "orthogonal": optimizers.regularise(optimizers.orthogonal(1e-4)),
    }.get(trick, optax.identity())
    rate = {"two_time_scales": 4.0}.get(trick, 1.0)
    adam = game.optimizer or partial(optax.adam, lr, b1=0.5)
    critic = game.optimizer() if game.optimizer else optax.adam(rate * lr, b1=0.5)
    generator = optax.rmsprop(5e-4) if objective == "wgan" else adam()
    slow = not normalised(game, trick) and not game.autoencoder
    turns = 5 if trick == "five_critic_turns" or slow else max(game.turns, 1)
    return Experiment(
        model,
        {"critic": optax.chain(first, critic), "generator": optax.chain(first, generator)},
        digits,
        batch=batch,
        steps=steps,
        order=("critic",) * turns + ("generator",),
        ema=0.0 if trick == "no_average" else 0.995,
        sample_every=steps,
        save_every=steps,
        log_every=100,
    )


# --- all of them -----------------------------------------------------------------------------------------------------

N = 1500
SETTINGS: dict[str, tuple[Objective, Trick]] = {objective: (objective, "none") for objective in get_args(Objective)}
SETTINGS |= {trick: ("non_saturating", trick) for trick in get_args(Trick)[1:]}


def scores(images: Array, extractor: Extractor, reals: np.ndarray) -> tuple[dict[str, float], np.ndarray]:
    """(Fréchet distance, precision, recall and how many classes have over 1 % of the samples; each sample's class), in
    the classifier's features."""
    features, log_p = extract(extractor, data.in_memory("samples", "train", to_uint8(images)))
    measured = neighbours.prdc(reals, features)
    assert log_p is not None
    classes = np.argmax(log_p, axis=-1)
    share = np.bincount(classes, minlength=10) / len(classes)
    return {
        "fid": frechet.fid(reals, features).value,
        "precision": measured.precision.value,
        "recall": measured.recall.value,
        "classes": int(np.sum(share > 0.01)),
    }, classes


def measured(
    objective: Objective, trick: Trick, seed: int, folder: Path, extractor: Extractor, reals: np.ndarray
) -> dict:
    """The scores of one run, kept in its folder."""
    path = folder / f"{objective}-{trick}-{seed}"
    if (path / "zoo.json").exists():
        return json.loads((path / "zoo.json").read_text())
    exp = experiment(objective=objective, trick=trick)._replace(seed=seed, name=f"{objective}-{trick}")
    state = fit(exp, path, progress=False)
    wanted = np.arange(N) % 10 if exp.model.condition is not None else None
    images = sample(exp.model, state, jax.random.key(seed + 1), N, wanted, batch=500)
    found, classes = scores(images, extractor, reals)
    if wanted is not None:
        found["right_class"] = float(np.mean(classes == wanted))
    save_picture(path / "grid.png", images[:40], columns=10)
    (path / "zoo.json").write_text(json.dumps(found))
    return found


def row_of(objective: Objective, trick: Trick, rows: list[dict]) -> list[str]:
    """A row of the table: means over seeds and their standard deviation."""
    cells = [f"{objective}" if trick == "none" else trick]
    for name in ("fid", "precision", "recall", "classes", "right_class"):
        values = [row[name] for row in rows if name in row]
        cells.append(f"{np.mean(values):.3g} ± {np.std(values, ddof=1):.2g}" if values else "")
    return cells


def draw(folder: Path, settings: list[tuple[Objective, Trick]]) -> Path:
    """Samples of the first seed of the settings, side by side."""
    rows = -(-len(settings) // 6)
    figure = Figure(figsize=(18, 1.5 * rows), dpi=60)
    for axes, (objective, trick) in zip(figure.subplots(rows, 6).flat, settings, strict=False):
        axes.imshow(Image.open(folder / f"{objective}-{trick}-0" / "grid.png"), cmap="gray")
        axes.set_title(objective if trick == "none" else trick)
    for axes in figure.axes:
        axes.set_axis_off()
    figure.tight_layout()
    figure.savefig(folder / "grid.png")
    return folder / "grid.png"


def main(folder: Path, names: tuple[str, ...] = (), /, *, seeds: int = 3) -> None:
    """Train, score, tabulate and draw.

    Args:
        folder: for the runs and the grid
        names: of objectives and tricks, all of them by default
        seeds: of each
    """
    unknown = set(names) - set(SETTINGS)
    check(not unknown, f"unknown {', '.join(sorted(unknown))}: choose of {', '.join(SETTINGS)}")
    settings = [SETTINGS[name] for name in names or SETTINGS]
    train, test = data.load("digits"), data.load("digits", "test")
    extractor = referee(train, test)
    reals = extract(extractor, train).vectors
    print("| | FID | precision | recall | classes | right class |\n|---|---|---|---|---|---|")
    for objective, trick in settings:
        rows = [measured(objective, trick, seed, folder, extractor, reals) for seed in range(seeds)]
        print(f"| {' | '.join(row_of(objective, trick, rows))} |", flush=True)
    print(draw(folder, settings))


if __name__ == "__main__":
    script(main)
