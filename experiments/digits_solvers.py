"""How good are samples for how many network evaluations? Every solver on one trained model of the digits.

jaxgen train experiments/digits_diffusion.py
python experiments/digits_solvers.py runs/digits_diffusion runs/digits_solvers.png     # a table and a figure
python experiments/digits_solvers.py runs/digits_diffusion runs/some.png dpmpp_2m_sde heun_churn

What was scored of a run is kept beside the figure, FIGURE-RUN.json, and not drawn again.
"""

import json
from pathlib import Path

import jax
import numpy as np

import jaxgen
from jaxgen import data, viz
from jaxgen.cli import script
from jaxgen.data import in_memory
from jaxgen.data.pipeline import to_uint8
from jaxgen.metrics.evaluation import extractor_for
from jaxgen.metrics.features import extract
from jaxgen.metrics.frechet import fid
from jaxgen.sampling import SOLVERS, evaluations, heun, iterate, log_uniform, uniform
from jaxgen.types import Process, Sampler, check

EVALUATIONS, N = (4, 8, 16, 32, 64), 1500
CHURN = "heun_churn"
NAMES = (*SOLVERS, CHURN)
S_CHURN, MOST = 4.0, 2**0.5 - 1  # Karras et al. 2022, algorithm 2


def solving(process: Process, name: str, times: str, count: int) -> Sampler:
    """The sampler of about so many evaluations."""
    steps = count // 2 if name in ("heun", CHURN) else count
    grid = uniform(steps) if times == "uniform" else log_uniform(process, steps)
    solver = heun(process, min(S_CHURN / steps, MOST)) if name == CHURN else SOLVERS[name](process)
    return iterate(solver, grid, process.clip)


def main(run: Path, out: Path, solvers: tuple[str, ...] = NAMES, /) -> None:
    """Draw with those solvers, or every one, and every number of evaluations, score, tabulate and draw the curves."""
    unknown = set(solvers) - set(NAMES)
    check(not unknown, f"unknown solvers {', '.join(sorted(unknown))}: choose of {', '.join(NAMES)}")
    model, state = jaxgen.load(run)
    digits, labels = data.load("digits"), np.arange(N) % 10
    extractor = extractor_for("classifier", digits)
    reals = extract(extractor, digits).vectors
    process, kept = model.process, out.with_name(f"{out.stem}-{run.name}.json")
    assert process is not None
    known = json.loads(kept.read_text()) if kept.exists() else {}
    print("| solver, times | " + " | ".join(map(str, EVALUATIONS)) + " |\n|---|" + "---|" * len(EVALUATIONS))
    for name in solvers:
        for times in ("uniform", "log-SNR"):
            if (curve := f"{name}, {times}") not in known:
                points = []
                for count in EVALUATIONS:
                    sampler = solving(process, name, times, count)
                    x = jaxgen.sample(model, state, jax.random.key(0), N, labels, sampler=sampler, batch=500)
                    found = extract(extractor, in_memory("drawn", "all", np.asarray(to_uint8(x)))).vectors
                    points.append((float(evaluations(model, state, sampler=sampler)), fid(reals, found).value, 0.0))
                known[curve] = points
                kept.write_text(json.dumps(known))
            print(f"| {curve} | " + " | ".join(f"{y:.3f}" for _, y, _ in known[curve]) + " |", flush=True)
    print(draw(out, known))


def draw(out: Path, known: dict[str, list]) -> Path:
    """A panel for each kind of times."""
    panels = []
    for times in ("uniform", "log-SNR"):
        curves = [viz.Curve(c.partition(",")[0], [tuple(p) for p in known[c]]) for c in known if c.endswith(times)]
        panels.append(viz.Panel(f"network evaluations, {times} times", "Fréchet distance", curves, None, "xy"))
    return viz.save_panels(out, panels)


if __name__ == "__main__":
    script(main)
