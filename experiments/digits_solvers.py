"""How good are samples for how many network evaluations? Every solver on one trained model of the digits.

jaxgen train experiments/digits_diffusion.py
python experiments/digits_solvers.py runs/digits_diffusion runs/digits_solvers.png     # a table and a figure
python experiments/digits_solvers.py runs/digits_diffusion runs/some.png dpmpp_2m_sde heun
"""

import sys

import jax
import numpy as np

import jaxgen
from jaxgen import data, viz
from jaxgen.data import in_memory
from jaxgen.data.pipeline import to_uint8
from jaxgen.metrics.evaluation import extractor_for
from jaxgen.metrics.features import extract
from jaxgen.metrics.frechet import fid
from jaxgen.sampling import SOLVERS, evaluations, iterate, log_uniform, uniform

EVALUATIONS, N = (4, 8, 16, 32, 64), 1500
OF_OTHERS = ("consistency", "mean_flow")  # of models that are trained for them


def main(run: str, out: str, *solvers: str) -> None:
    """Draw with those solvers, or every one, and every number of evaluations, score, tabulate and draw the curves."""
    model, state = jaxgen.load(run)
    digits, labels = data.load("digits"), np.arange(N) % 10
    extractor = extractor_for("classifier", digits)
    reals = extract(extractor, digits).vectors
    process = model.process
    assert process is not None
    curves = []
    print("| solver, times | " + " | ".join(map(str, EVALUATIONS)) + " |\n|---|" + "---|" * len(EVALUATIONS))
    for name in solvers or [name for name in SOLVERS if name not in OF_OTHERS]:
        for times in ("uniform", "log-SNR"):
            points = []
            for count in EVALUATIONS:
                steps = count // 2 if name == "heun" else count
                grid = uniform(steps) if times == "uniform" else log_uniform(process, steps)
                sampler = iterate(SOLVERS[name](process), grid, process.clip)
                x = jaxgen.sample(model, state, jax.random.key(0), N, labels, sampler=sampler, batch=500)
                found = extract(extractor, in_memory("drawn", "all", np.asarray(to_uint8(x)))).vectors
                made = evaluations(model, state, sampler=sampler)
                points.append((float(made), fid(reals, found).value, 0.0))
            print(f"| {name}, {times} | " + " | ".join(f"{y:.3f}" for _, y, _ in points) + " |", flush=True)
            curves.append((times, viz.Curve(name, points)))
    panels = [
        viz.Panel(
            f"network evaluations, {times} times", "Fréchet distance", [c for t, c in curves if t == times], None, "xy"
        )
        for times in ("uniform", "log-SNR")
    ]
    print(viz.save_panels(out, panels))


if __name__ == "__main__":
    main(*sys.argv[1:])
