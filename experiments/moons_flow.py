"""Eight Gaussians to two moons, the plane's usual test of flow matching, by a published protocol, with its figure.

jaxgen train experiments/moons_flow.py --coupling optimal
python experiments/moons_flow.py runs/moons_flow --seeds 3          # a table, densities and trajectories

Cheng and Schwing 2025 (arXiv:2503.10636) and its code: sources and targets as in TorchCFM (Tong et al. 2023,
arXiv:2302.00482), a residual perceptron, Adam at 3e-4, 20,000 minibatches of 256; the "2-Wasserstein distance" there
is the least mean squared distance of a matching of 10,000 samples to 10,000 fresh points. There couplings are optimal
within 1,024 pairs, which make four minibatches; here within a minibatch. There the time enters linearly, here by
features.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from jaxgen import Experiment, data, families, sample
from jaxgen.cli import script
from jaxgen.losses.denoising import continuous, independent, optimal
from jaxgen.nets import network
from jaxgen.nets.layers import Dense, time_features
from jaxgen.processes import flow
from jaxgen.sampling import adaptive, euler, iterate, uniform
from jaxgen.types import Array, Keys, Tree

POINTS = 10_000
Coupling = Literal["independent", "optimal"]


class Denoiser(nn.Module):
    """Three residual blocks of 128 numbers, four times as many inside."""

    width: int = 128

    @nn.compact
    def __call__(self, x: Array, t: Array, condition: Tree = None, train: bool = False) -> Array:
        h = Dense(self.width)(x) + Dense(self.width)(time_features(t / 100.0, 32))
        for _ in range(3):
            h = h + Dense(self.width)(nn.gelu(Dense(4 * self.width)(h)))
        return Dense(2)(h)


def eight_gaussians(keys: Keys) -> Array:
    """[B, 2] around eight points of a circle of radius 5, of variance sqrt(0.1) in both directions."""

    def one(key: Array) -> Array:
        for_mode, for_place = jax.random.split(key)
        angle = 2.0 * math.pi / 8.0 * jax.random.randint(for_mode, (), 0, 8)
        centre = 5.0 * jnp.stack([jnp.cos(angle), jnp.sin(angle)])
        return centre + 0.1**0.25 * jax.random.normal(for_place, (2,))

    return jax.vmap(one)(keys)


def moons(n: int, seed: int) -> np.ndarray:
    """Two half circles blurred by 0.2, three times as large and moved by -1, as in TorchCFM: float32 [n, 2]."""
    rng = np.random.default_rng(seed)
    angle, lower = np.pi * rng.random(n), np.arange(n) % 2
    x = np.stack([np.cos(angle), np.sin(angle)], 1)
    x = np.where(lower[:, None] > 0, [1.0, 0.5] - x, x) + 0.2 * rng.standard_normal((n, 2))
    return (3.0 * x - 1.0).astype(np.float32)


def experiment(*, coupling: Coupling = "independent", steps: int = 20_000) -> Experiment:
    """A flow between two distributions of points.

    Args:
        coupling: of sources and targets in a minibatch
        steps: how long to train
    """
    process = flow(clip=math.inf)
    model = families.diffusion(
        network(Denoiser()),
        process,
        (2,),
        sampler=adaptive(process, 1e-4),
        prediction="velocity",
        times=continuous(),
        coupling={"independent": independent, "optimal": optimal}[coupling],
        source=eight_gaussians,
    )
    points = data.in_memory("moons of TorchCFM", "train", moons(500_000, 0))
    return Experiment(
        model, {"denoiser": optax.adam(3e-4)}, points, batch=256, steps=steps, log_every=500, sample_every=steps
    )


# --- the table -------------------------------------------------------------------------------------------------------


def squared_distance(x: np.ndarray, y: np.ndarray) -> float:
    """The least mean |x_i - y_j|^2 of a matching: the square of the 2-Wasserstein distance of two sets of points."""
    cost = cdist(x, y, "sqeuclidean")
    rows, columns = linear_sum_assignment(cost)
    return float(cost[rows, columns].mean())


def samples(exp: Experiment, states: Tree, steps: int | None) -> list[np.ndarray]:
    """Of every seed, by so many Euler steps, or adaptive ones."""
    process = exp.model.process
    assert process is not None
    sampler = adaptive(process, 1e-4) if steps is None else iterate(euler(process), uniform(steps))
    seeds = states.step.shape[0]
    each = [jax.tree.map(lambda a, i=i: a[i], states) for i in range(seeds)]
    options = {"sampler": sampler, "batch": POINTS, "ema": False}
    return [np.asarray(sample(exp.model, one, jax.random.key(7), POINTS, **options)) for one in each]


def trained(exp: Experiment, file: Path, seeds: int, euler: Sequence[int]) -> dict[str, np.ndarray]:
    """{"1", ..., "adaptive": samples of every seed [seeds, POINTS, 2] by so many Euler steps; "paths": of the first},
    kept in a file: the matchings take longer than one may want to wait."""
    from mode_coverage import train

    if not file.exists():
        *_, (_, states) = train(exp, seeds, exp.steps // 1000)
        counts = (*sorted({1, *euler}), None)  # one and adaptive ones are in the picture
        drawn: dict[str, Any] = {str(count or "adaptive"): np.stack(samples(exp, states, count)) for count in counts}
        np.savez(file, **drawn, paths=paths(exp, states))
    with np.load(file) as found:
        return dict(found)


def main(
    out: Path,
    /,
    *,
    couplings: tuple[Coupling, ...] = get_args(Coupling),
    steps: int = 20_000,
    seeds: int = 10,
    euler: tuple[int, ...] = (1, 2, 4, 100),
    points: int = POINTS,
) -> None:
    """Train all seeds at once, draw, and measure.

    Args:
        out: a folder for the samples and the figure
        couplings: which ones
        steps: how long to train
        seeds: trained at once
        euler: how many steps of Euler's method to draw with, beside adaptive ones
        points: of the matching, whose time grows with the cube
    """
    out.mkdir(parents=True, exist_ok=True)
    drawn = {}
    for coupling in couplings:
        exp = experiment(coupling=coupling, steps=steps)
        settings = "-".join(map(str, (coupling, steps, seeds, *euler)))
        drawn[coupling] = trained(exp, out / f"{settings}.npz", seeds, euler)
    draw(out / "moons_flow.png", drawn)
    fresh = moons(POINTS, 1)
    print(json.dumps({"reals": squared_distance(moons(points, 2), fresh[:points])}), flush=True)
    for coupling, found in drawn.items():
        for name in filter(lambda name: name != "paths", found):
            each = [squared_distance(x[:points], fresh[:points]) for x in found[name]]
            row = {"coupling": coupling, "euler": name, "mean": np.mean(each), "seeds": np.std(each)}
            print(json.dumps(row), flush=True)


def paths(exp: Experiment, states: Tree, n: int = 200, steps: int = 50) -> np.ndarray:
    """Where points are on their way: [steps + 1, n, 2]."""
    from jaxgen.sampling import stopped

    process, one = exp.model.process, jax.tree.map(lambda a: a[0], states)
    assert process is not None
    sampler = iterate(euler(process), uniform(steps))
    key = jax.random.key(9)
    at = [sample(exp.model, one, key, n, sampler=stopped(sampler, i), batch=256, ema=False) for i in range(steps + 1)]
    return np.asarray(at)


def draw(file: Path, drawn: dict[str, dict[str, np.ndarray]]) -> None:
    """A row a coupling: trajectories, then samples by adaptive steps and by one, of the first seed."""
    figure = Figure(figsize=(12, 4 * len(drawn)), dpi=80)
    for row, (coupling, found) in zip(figure.subplots(len(drawn), 3, squeeze=False), drawn.items(), strict=True):
        path = found["paths"]
        row[0].plot(path[..., 0], path[..., 1], color="0.6", linewidth=0.5)
        row[0].scatter(*path[0].T, s=4, label="source")
        row[0].scatter(*path[-1].T, s=4, label="samples")
        row[0].set_title(f"{coupling} coupling: trajectories")
        row[0].legend(loc="upper right")
        for axes, steps, name in ((row[1], "adaptive", "adaptive steps"), (row[2], "1", "one Euler step")):
            axes.hexbin(*found[steps][0].T, gridsize=60, extent=(-7, 7, -7, 7), mincnt=1)
            axes.set_title(name)
        for axes in row:
            axes.set(xlim=(-7, 7), ylim=(-7, 7), aspect="equal")
    figure.tight_layout()
    figure.savefig(file)
    print(file)


if __name__ == "__main__":
    script(main)
