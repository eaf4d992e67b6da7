"""The orders of the solvers, measured: how fast the error falls with the steps, where the solution is known exactly.

python experiments/solver_orders.py runs/solver_orders.png     # a table and a figure

Solvers of the probability flow are measured by the strong error. Of a mixture of Gaussians on a line the denoiser
E[x_0 | x_t] is known, and so is the flow: it keeps the distribution function, F_u(x_u) = F_t(x_t). Solvers that add
noise are measured by the weak error, that of the variance of what they draw: of N(0, s^2) it is a_u^2 s^2 + sigma_u^2
at time u, when the noise they begin with has that of time t. The order is the slope of log error against log steps.
"""

from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import brentq
from scipy.stats import norm

from jaxgen import viz
from jaxgen.cli import script
from jaxgen.processes import cosine, flow, linear, log_snr, variance_exploding
from jaxgen.sampling import Times, custom, ddim, ddpm, euler, heun, iterate, multistep
from jaxgen.types import Array, Prediction, Process, Sampler, Solver

WEIGHTS, MODES, WIDTH = np.array([0.3, 0.7]), np.array([-1.0, 0.8]), 0.4
DEVIATION = 0.5  # s
PROCESSES = {"cosine": cosine(), "linear": linear(), "flow": flow(), "exploding": variance_exploding(10.0)}
STOP = 0.1
DRAWS, MOST = 1024, 512  # draws of which the coefficients of at most so many steps are solved for


class Order(NamedTuple):
    """A solver, the order that is claimed for it, the processes for which, the steps it is measured at, and S_churn of
    Karras et al. 2022, which is divided among the steps."""

    make: Callable[..., Solver]
    order: int
    processes: Sequence[str] = tuple(PROCESSES)
    steps: tuple[int, ...] = (16, 32, 64)
    churn: float = 0.0

    def sampler(self, name: str, steps: int) -> Sampler:
        """From time 1 to STOP of the process of that name, in so many steps."""
        process = PROCESSES[name]
        options = {"churn": self.churn / steps} if self.churn else {}
        return iterate(self.make(process, **options), grid(name, steps))


STRONG = {
    "DDIM": Order(ddim, 1),
    "Euler, in time": Order(euler, 1),
    "Heun, by the angle": Order(heun, 2),
    "Heun, by the level": Order(partial(heun, of="level"), 2),
    "Heun, in time": Order(partial(heun, of="time"), 2, ("flow", "exploding")),
    "DPM-Solver++ 1": Order(partial(multistep, order=1), 1),
    "DPM-Solver++ 2M": Order(multistep, 2),
    # from alpha = 0 the first step is infinite in the log-SNR: of a flow the third order is lost
    "DPM-Solver++ 3M": Order(partial(multistep, order=3), 3, ("cosine", "linear", "exploding")),
}
WEAK = {
    "DDPM, the smaller variance": Order(partial(ddim, eta=1.0), 1, steps=(64, 128, 256)),
    "DDPM, the larger variance": Order(ddpm, 1, ("cosine", "linear"), (64, 128, 256)),
    "Heun, S_churn = 4": Order(heun, 2, steps=(64, 128, 256), churn=4.0),
    "DPM-Solver++ 2M SDE": Order(partial(multistep, eta=1.0), 2, steps=(128, 256, 512)),
}


def mixture(process: Process, x: Array, t: Array, weights=WEIGHTS, modes=MODES, width=WIDTH) -> Array:
    """E[x_0 | x_t] of Gaussians on a line: each mode's estimate, weighted by its probability given x_t."""
    a, sigma = process.alpha(t), process.sigma(t)
    v = a**2 * width**2 + sigma**2
    away = x[..., None] - a * modes
    given = jax.nn.softmax(jnp.log(weights) - away**2 / (2 * v), axis=-1)
    return jnp.sum(given * (modes + a * width**2 * away / v), axis=-1)


@jax.jit
def walked(sampler: Sampler, process: Process, x: Array) -> Array:
    """x [B, 1] at the end of the sampler's times, of the mixture."""
    keys = jax.random.split(jax.random.key(0), len(x))
    return sampler(keys, lambda x, t: Prediction(mixture(process, x, t)), x)


def distribution(process: Process, x: float, t: float) -> float:
    """F_t(x) of the mixture."""
    a, sigma = float(process.alpha(jnp.asarray(t))), float(process.sigma(jnp.asarray(t)))
    return float(np.sum(WEIGHTS * norm.cdf((x - a * MODES) / np.sqrt(a**2 * WIDTH**2 + sigma**2))))


def exact(process: Process, x: np.ndarray) -> np.ndarray:
    """The flow's solution from time 1 to STOP, by equal values of the distribution functions."""

    def at(start: float) -> float:
        level = distribution(process, start, 1.0)
        return brentq(lambda y: distribution(process, y, STOP) - level, -99, 99, xtol=1e-12)  # type: ignore[return-value]

    return np.array([at(float(start)) for start in x[:, 0]])


@cache
def problem(name: str) -> tuple[np.ndarray, np.ndarray]:
    """24 points to begin with, [24, 1], and where the flow takes them, [24]: the same for all solvers."""
    process = PROCESSES[name]
    x = (np.linspace(-1.5, 1.5, 24)[:, None] * np.float64(process.scale)).astype(np.float32)
    return x, exact(process, x)


def grid(name: str, steps: int) -> Times:
    """Times from 1 to STOP that suit the process: equal steps of the log-SNR, of t, of the seventh root of t."""
    process = PROCESSES[name]
    if name == "flow":
        return custom(np.linspace(1, STOP, steps + 1))
    if name == "exploding":
        return custom(np.linspace(1, STOP ** (1 / 7), steps + 1) ** 7)
    ends = [float(log_snr(process, jnp.asarray(t))) for t in (1.0, STOP)]
    times = np.array(process.time(jnp.linspace(ends[0], ends[1], steps + 1)))
    return custom([1.0, *times[1:-1], STOP])


def strong_errors(solver: Order, name: str) -> list[float]:
    """Root mean squared error of the flow from the points of `problem`, for each number of steps."""
    x, reference = problem(name)
    got = [walked(solver.sampler(name, n), PROCESSES[name], x)[:, 0] for n in solver.steps]
    return [float(np.sqrt(np.mean(np.square(np.float64(y) - reference)))) for y in got]


def variance(process: Process, t: Array) -> Array:
    """a^2 s^2 + sigma^2, of x_t."""
    return process.alpha(t) ** 2 * DEVIATION**2 + process.sigma(t) ** 2


@jax.jit
def drawn(sampler: Sampler, process: Process, keys: Array, x: Array) -> Array:
    """x [B, 1] at the end of the times, of N(0, s^2), whose denoiser is linear: E[x_0 | x_t] = a s^2 x_t / variance."""

    def predict(x: Array, t: Array) -> Prediction:
        return Prediction(process.alpha(t) * DEVIATION**2 * x / variance(process, t))

    return sampler(keys, predict, x)


@cache
def noises() -> tuple[Array, np.ndarray]:
    """(keys [DRAWS], the noise that each gives the steps, [DRAWS, MOST]): one set for all, so that one number of draws
    is compiled."""
    keys = jax.random.split(jax.random.key(0), DRAWS)
    of_steps = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (0, None))(keys, jnp.arange(MOST))
    noise = jax.vmap(jax.vmap(lambda key: jax.random.normal(key, (1,))[0]))(of_steps)
    return keys, np.asarray(noise, np.float64)


def drawn_variance(solver: Order, name: str, steps: int) -> float:
    """Of what the solver draws, without drawing much: it is linear in what it begins with and in the noise of every
    step, which the keys give, so that some draws give the coefficients."""
    process, sampler, (keys, noise) = PROCESSES[name], solver.sampler(name, steps), noises()
    still, moved = (np.float64(drawn(sampler, process, keys, jnp.full((DRAWS, 1), x))[:, 0]) for x in (0.0, 1.0))
    coefficients, *_ = np.linalg.lstsq(noise[:, :steps], still, rcond=None)
    left = np.max(np.abs(noise[:, :steps] @ coefficients - still))
    assert left < 1e-4, f"what is drawn is not linear in the noise: {left}"
    return float(np.mean(moved - still) ** 2 * variance(process, jnp.ones(())) + np.sum(coefficients**2))


def weak_errors(solver: Order, name: str) -> list[float]:
    """|variance / exact - 1| at time STOP for each number of steps."""
    want = float(variance(PROCESSES[name], jnp.asarray(STOP)))
    return [abs(drawn_variance(solver, name, n) / want - 1.0) for n in solver.steps]


def slope(steps: Sequence[int], found: Sequence[float]) -> float:
    """The order: minus the slope of log error against log steps."""
    return float(-np.polyfit(np.log(steps), np.log(found), 1)[0])


def measured(kind: str, solvers: dict[str, Order], errors: Callable[[Order, str], list[float]]) -> list[viz.Panel]:
    """A panel a process; the table of slopes is printed."""
    print(f"| {kind} error | order | {' | '.join(PROCESSES)} |\n|---|---|{'---|' * len(PROCESSES)}")
    curves: dict[str, list[viz.Curve]] = {name: [] for name in PROCESSES}
    for label, solver in solvers.items():
        slopes = dict.fromkeys(PROCESSES, "")
        for name in solver.processes:
            found = errors(solver, name)
            slopes[name] = f"{slope(solver.steps, found):.2f}"
            points = [(float(n), error, 0.0) for n, error in zip(solver.steps, found, strict=True)]
            curves[name].append(viz.Curve(label, points))
        print(f"| {label} | {solver.order} | {' | '.join(slopes.values())} |", flush=True)
    return [viz.Panel(f"steps, {name}", f"{kind} error", list(of), log="xy") for name, of in curves.items()]


def main(out: Path, /) -> None:
    """Measure all, print the slopes, and draw the errors."""
    panels = measured("strong", STRONG, strong_errors) + measured("weak", WEAK, weak_errors)
    print(viz.save_panels(out, panels))


if __name__ == "__main__":
    script(main)
