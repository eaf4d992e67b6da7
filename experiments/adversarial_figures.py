"""Two claims about adversarial losses, measured on the digits: which of them say how good the samples are, and which
leave the generator without a gradient.

python experiments/adversarial_figures.py runs/adversarial_figures      # two figures and the numbers, in minutes

The first is Arjovsky, Chintala and Bottou's (2017, arXiv:1701.07875, figures 3 and 4): a Wasserstein critic's loss
follows the quality of the samples, that of the original game does not. The second is Arjovsky and Bottou's (2017,
arXiv:1701.04862, figure 2): with a fixed generator and a critic that trains on, the gradient of log(1 - D) vanishes.
"""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.stats import spearmanr

from jaxgen import fit, load_experiment, records, viz
from jaxgen.cli import script
from jaxgen.data import normalize, reader
from jaxgen.scoring import Scoring
from jaxgen.training import init_state, make_step, repeat
from jaxgen.types import Array, Batch, Game, TrainState, Tree, turn

ZOO = Path(__file__).with_name("digits_gan_zoo.py")
BATCH, CALL = 64, 25
BEGUN = 300  # before this step the critic has not caught up with a generator of noise


def follows(folder: Path, objective: str) -> tuple[viz.Panel, float]:
    """(the critic's loss against the Fréchet distance of the samples while training, their rank correlation)."""
    run = folder / objective
    fit(load_experiment(ZOO, objective=objective), run, scoring=Scoring("fid", every=100, n=1000), progress=False)
    written = [record for record in records.read(run) if "score/fid" in record and record["step"] >= BEGUN]
    fid, loss = (np.array([record[name] for record in written]) for name in ("score/fid", "critic/loss"))
    name = "the critic's loss"
    if objective.startswith("wgan"):
        name, real = "the critic's estimate of a distance", [record["critic/score_real"] for record in written]
        loss = np.array(real) - [record["critic/score_fake"] for record in written]
    points = [(float(x), float(y), 0.0) for x, y in zip(fid, loss, strict=True)]
    panel = viz.Panel(f"Fréchet distance of the samples, {objective}", name, [viz.Curve(objective, points)])
    return panel, float(spearmanr(fid, loss).statistic)  # type: ignore[attr-defined]


def vanishing(folder: Path, trained: int, steps: int = 1500) -> viz.Panel:
    """The length of the generator's gradient under two losses, against the turns of a critic that begins anew, with a
    generator that is held fixed after so many steps of the game."""
    exp = load_experiment(ZOO, objective="non_saturating", steps=trained)
    state = fit(exp, folder / f"begun_{trained}", progress=False)
    games = {name: load_experiment(ZOO, objective=name).model.game for name in ("minimax", "non_saturating")}
    alone = exp.model.game._replace(losses={"critic": exp.model.game.losses["critic"]})
    adam, first = {"critic": optax.adam(5e-4, b1=0.5)}, exp.data.take(np.arange(BATCH))
    fresh = init_state(alone, adam, jax.random.key(1), first)
    now = fresh._replace(params={**fresh.params, "generator": state.params["generator"]})
    train = jax.jit(repeat(make_step(alone, adam)))
    lengths = {name: jax.jit(partial(length, game)) for name, game in games.items()}
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in games}
    with reader(exp.data, seed=1, shape=(1, 1, BATCH)) as batches:
        for at in range(CALL, steps + 1, CALL):
            now, _ = train(now, batches.take(CALL), np.int32(CALL))
            for name in games:
                found[name].append((float(at), float(lengths[name](now, normalize(first))), 0.0))
    curves = [viz.Curve(name, points) for name, points in found.items()]
    return viz.Panel(f"turns of the critic, generator after {trained}", "its gradient", curves, log="xy")


def length(game: Game, state: TrainState, batch: Batch) -> Array:
    """|grad| of the generator's loss."""

    def loss(own: Tree) -> Array:
        at = turn(jax.random.split(jax.random.key(2), BATCH))
        return jnp.mean(game.losses["generator"]({**state.params, "generator": own}, state.extra, at, batch)[0])

    return optax.global_norm(jax.grad(loss)(state.params["generator"]))


def main(folder: Path, /) -> None:
    """Train, draw, and print the correlations."""
    panels, folder = [], folder / "runs"
    for objective in ("wgan_gp", "non_saturating"):
        panel, correlation = follows(folder, objective)
        panels.append(panel)
        print(f"{objective}: rank correlation of {panel.y} and the Fréchet distance {correlation:.2f}", flush=True)
    print(viz.save_panels(folder.parent / "loss_against_quality.png", panels))
    of_steps = [vanishing(folder, trained) for trained in (25, 500)]
    for panel in of_steps:
        ends = ", ".join(f"{c.name} {c.points[0][1]:.2g} -> {c.points[-1][1]:.2g}" for c in panel.curves)
        print(f"{panel.x}: {ends}")
    print(viz.save_panels(folder.parent / "vanishing_gradient.png", of_steps))


if __name__ == "__main__":
    script(main)
