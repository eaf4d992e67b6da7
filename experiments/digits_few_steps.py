"""The digits in one evaluation, or a few: consistency models, MeanFlow, progressive distillation, reflow.

jaxgen train experiments/digits_few_steps.py --method mean_flow
python experiments/digits_few_steps.py runs/digits_few_steps       # all of them, a table, a figure and a grid
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args

import jax
import numpy as np
import optax

from jaxgen import Experiment, data, families, fit, sample, viz
from jaxgen.cli import script
from jaxgen.conditions import labels
from jaxgen.data.pipeline import to_uint8
from jaxgen.losses.denoising import continuous, easy, intervals, log_normal
from jaxgen.metrics.evaluation import extractor_for
from jaxgen.metrics.features import extract
from jaxgen.metrics.frechet import fid
from jaxgen.nets import Network, network
from jaxgen.nets.unet import UNet
from jaxgen.parametrisations import edm
from jaxgen.processes import cosine, flow, variance_exploding
from jaxgen.sampling import consistency, custom, ddim, heun, iterate, jumping, karras, uniform
from jaxgen.types import Model, Sampler, TrainState, one_shot

Method = Literal["edm", "flow", "v", "consistency", "distilled", "mean_flow", "progressive", "reflow"]
SHAPE, N = (8, 8, 1), 1500
LEVELS, STRAIGHT, COSINE = variance_exploding(80.0), flow(), cosine()
EDM = edm(0.75)  # the deviation of the digits' pixels, from -1 to 1
NUMBERS = {"condition": labels(10), "drop": 0.1}


def unet() -> Network:
    return network(UNet(32, multipliers=(1, 2), blocks=1, attention_at=(4,), heads=4, classes=10))


def base(method: str) -> Model:
    """A diffusion model to begin with, or a teacher."""
    if method == "edm":
        sampler = iterate(heun(LEVELS, of="level"), karras(LEVELS, 18), 1.0)
        return families.diffusion(unet(), LEVELS, SHAPE, sampler=sampler, prediction=EDM, times=log_normal(), **NUMBERS)
    if method == "flow":
        sampler = iterate(ddim(STRAIGHT), uniform(16), 1.0)
        return families.diffusion(
            unet(), STRAIGHT, SHAPE, sampler=sampler, prediction="velocity", times=continuous(), **NUMBERS
        )
    return families.diffusion(
        unet(), COSINE, SHAPE, sampler=iterate(ddim(COSINE), uniform(16), 1.0), prediction="v", **NUMBERS
    )


def model_of(method: str, steps: int, student: int) -> Model:
    """The model of a method; steps: of its training; student: how many steps a distilled one takes."""
    if method in ("consistency", "distilled"):
        teacher = base("edm") if method == "distilled" else None
        return families.consistency(
            unet(), LEVELS, SHAPE, pairs=easy(steps), prediction=EDM, teacher=teacher, huber=0.03, **NUMBERS
        )
    if method == "mean_flow":
        sampler = iterate(jumping(ddim(STRAIGHT)), uniform(1))
        times = intervals(-0.4, 1.0, share=0.5)
        return families.mean_flow(unet(), SHAPE, sampler=sampler, process=STRAIGHT, times=times, power=0.75, **NUMBERS)
    if method == "progressive":
        sampler = iterate(ddim(COSINE), uniform(student), 1.0)
        return families.progressive(unet(), base("v"), SHAPE, steps=student, sampler=sampler, **NUMBERS)
    if method == "reflow":
        sampler = iterate(ddim(STRAIGHT), uniform(1), 1.0)
        return families.reflow(unet(), base("flow"), SHAPE, sampler=sampler, **NUMBERS)
    return base(method)


def experiment(*, method: Method = "mean_flow", steps: int = 1500, student: int = 8, lr: float = 1e-3) -> Experiment:
    """A model of few evaluations, or one to begin with.

    Args:
        method: consistency begins with a run of edm, distilled takes one for its teacher besides, reflow one of flow,
            progressive one of v or of twice as many steps: `--start denoiser=RUN,teacher=RUN`
        steps: how long to train
        student: steps that a progressively distilled model takes
        lr: Adam's learning rate, warmed up and then lowered to nothing along a cosine
    """
    rate = optax.warmup_cosine_decay_schedule(0.0, lr, steps // 20, steps)
    adam = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))
    model = model_of(method, steps, student)
    return Experiment(model, {"denoiser": adam}, data.load("digits"), 128, steps, ema=0.995, sample_every=steps)


# --- all of them -----------------------------------------------------------------------------------------------------


def samplers(method: str, steps: int) -> Sampler:
    """That of a method in so many evaluations."""
    if method in ("consistency", "distilled"):
        times = np.geomspace(1.0, 1e-2, steps + 1)[:-1]
        return one_shot if steps == 1 else iterate(consistency(LEVELS), custom([*times, 0.0]), 1.0)
    if method == "edm":
        return iterate(ddim(LEVELS), karras(LEVELS, steps), 1.0)
    if method == "mean_flow":
        return iterate(jumping(ddim(STRAIGHT)), uniform(steps), 1.0)
    process = COSINE if method in ("v", "progressive") else STRAIGHT
    return iterate(ddim(process), uniform(steps), 1.0)


def trained(out: Path, method: Method, steps: int, seed: int) -> Callable:
    """(evaluations) -> (model, state) of a method, after the runs that it begins with."""

    def run(name: str, method: Method, start=None, student: int = 8, lr: float = 1e-3):
        exp = experiment(method=method, steps=steps, student=student, lr=lr)._replace(seed=seed)
        return exp.model, fit(exp, out / name, start=start, progress=False)

    def both(state: TrainState) -> dict:
        return {"denoiser": state, "teacher": state}

    first = {"consistency": "edm", "distilled": "edm", "reflow": "flow", "progressive": "v"}.get(method)
    if first is None:
        pair = run(method, method)
        return lambda count: pair
    begun = run(first, first)  # type: ignore[arg-type]
    if method != "progressive":
        pair = run(method, method, begun[1] if method == "consistency" else both(begun[1]), lr=3e-4)
        return lambda count: pair
    students = {16: begun}
    for count in (8, 4, 2, 1):
        students[count] = run(f"progressive_{count}", method, both(students[2 * count][1]), count, 3e-4)
    return students.__getitem__


def main(out: Path, /, *, methods: tuple[Method, ...] = get_args(Method), steps: int = 1500, seed: int = 0) -> None:
    """Train everything, draw with few evaluations, score, tabulate.

    Args:
        out: a folder for the runs, the figure and the grid
        methods: which ones
        steps: how long to train each
        seed: of all of them
    """
    digits, wanted = data.load("digits"), np.arange(N) % 10
    extractor = extractor_for("classifier", digits)
    reals = extract(extractor, digits).vectors
    curves, rows, grids = [], [], []
    for method in methods:
        at, points = trained(out, method, steps, seed), []
        for count in (1, 2, 4, 8, 16):
            model, state = at(count)
            x = sample(model, state, jax.random.key(0), N, wanted, sampler=samplers(method, count), batch=500)
            found = extract(extractor, data.in_memory("drawn", "all", np.asarray(to_uint8(x)))).vectors
            points.append((float(count), fid(reals, found).value, 0.0))
            grids += [x[:20]] if count == 1 else []
        rows.append({"method": method, **{str(int(n)): round(score, 3) for n, score, _ in points}})
        print(json.dumps(rows[-1]), flush=True)
        curves.append(viz.Curve(method, points))
    panel = viz.Panel("network evaluations", "Fréchet distance", curves, None, "xy")
    print(viz.save_panels(out / "few_steps.png", [panel]))
    print(viz.save_picture(out / "one_step.png", np.concatenate(grids), 20))


if __name__ == "__main__":
    script(main)
