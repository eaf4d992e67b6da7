"""Published recipes of CIFAR-10, and the same for other images of 32x32, at any width.

TFDS_DATA_DIR=... jaxgen train experiments/cifar10_diffusion.py --recipe flow --layout data
jaxgen train experiments/cifar10_diffusion.py --recipe flow --width 32 --batch 32 --steps 5000   # a core

flow, ot_flow   TorchCFM (Tong et al. 2023, arXiv:2302.00482, and its code): Fréchet distance 3.5
edm             Karras et al. 2022, arXiv:2206.00364, table 7, without its augmentation: 1.97 with it, unconditional
mean_flow       Geng et al. 2025, arXiv:2505.13447, and its code: 2.92 in one evaluation
ect             Geng et al. 2024, arXiv:2406.14548: from a run of edm (`--start RUN`), 4.54 in one evaluation
                and 2.20 in two after 100,000 steps
dit             none of them: a DiT with patches of 2, with flow matching

The published numbers are of 50,000 samples against the 50,000 training images, by Inception's features.
"""

from typing import Any, Literal, NamedTuple

import optax

from jaxgen import Experiment, data, families
from jaxgen.losses import denoising
from jaxgen.nets import network
from jaxgen.nets.dit import DiT
from jaxgen.nets.unet import UNet
from jaxgen.processes import flow, variance_exploding
from jaxgen.sampling import adaptive, ddim, heun, iterate, jumping, karras, uniform
from jaxgen.types import Model, one_shot

Recipe = Literal["flow", "ot_flow", "edm", "mean_flow", "ect", "dit"]


class Training(NamedTuple):
    """Learning rate, steps of its warm-up, minibatch, decay of the averages, steps of the published run."""

    rate: float
    warmup: int
    batch: int
    ema: float
    steps: int


TRAININGS = {
    "flow": Training(2e-4, 5000, 128, 0.9999, 400_000),
    "ot_flow": Training(2e-4, 5000, 128, 0.9999, 400_000),
    "edm": Training(1e-3, 20_000, 512, 0.9993, 400_000),
    "mean_flow": Training(6e-4, 10_000, 1024, 0.9999, 800_000),
    "ect": Training(1e-4, 0, 128, 0.9999, 200_000),
    "dit": Training(2e-4, 1000, 128, 0.9999, 400_000),
}


def experiment(
    *,
    recipe: Recipe = "flow",
    name: str = "cifar10",
    width: int = 128,
    batch: int | None = None,
    steps: int | None = None,
    bf16: bool = False,
) -> Experiment:
    """An unconditional model of small colour images.

    Args:
        recipe: whose
        name: of a data set of images whose sides divide by 4
        width: channels of the network at full size, of a token of a DiT three times as many
        batch: examples a step, the recipe's by default
        steps: how long to train, the recipe's by default
        bf16: compute in bfloat16, parameters stay float32
    """
    images, training = data.load(name), TRAININGS[recipe]
    steps = training.steps if steps is None else steps
    model = model_of(recipe, images.shape, width, steps, "bfloat16" if bf16 else "float32")
    rate = optax.join_schedules(
        [optax.linear_schedule(0.0, training.rate, training.warmup), optax.constant_schedule(training.rate)],
        [min(training.warmup, steps // 10)],
    )
    adam = optax.chain(optax.clip_by_global_norm(1.0), optax.radam(rate) if recipe == "ect" else optax.adam(rate))
    size = training.batch if batch is None else batch
    return Experiment(model, {"denoiser": adam}, images, size, steps, ema=training.ema)


def model_of(recipe: Recipe, shape: tuple[int, ...], width: int, steps: int, dtype: Any) -> Model:
    """The model of a recipe for images of that shape."""
    small: dict[str, Any] = {"multipliers": (1, 2, 2, 2), "blocks": 2, "attention_at": (16,), "dropout": 0.1}
    song: dict[str, Any] = {"multipliers": (2, 2, 2), "blocks": 4, "attention_at": (16,), "heads": 1, "scaled": True}
    song["filter"] = (1, 3, 3, 1) if recipe == "mean_flow" else (1, 1)
    straight, levels = flow(), variance_exploding(80.0)
    if recipe in ("flow", "ot_flow", "dit"):
        coupling = denoising.optimal if recipe == "ot_flow" else denoising.independent
        net = DiT(2, 3 * width, 8, 6, dtype=dtype) if recipe == "dit" else UNet(width, dtype=dtype, **small)
        values: dict[str, Any] = {"prediction": "velocity", "times": denoising.continuous(), "coupling": coupling}
        return families.diffusion(network(net), straight, shape, sampler=adaptive(straight, 1e-4), **values)
    if recipe == "mean_flow":
        net = network(UNet(width, dropout=0.2, fused=False, dtype=dtype, **song))
        sampler, times = iterate(jumping(ddim(straight)), uniform(1)), denoising.intervals(-0.4, 1.0, share=0.75)
        return families.mean_flow(net, shape, sampler=sampler, process=straight, times=times, power=0.75)
    net = network(UNet(width, dropout=0.2 if recipe == "ect" else 0.13, dtype=dtype, **song))
    if recipe == "ect":
        return families.consistency(net, levels, shape, pairs=denoising.easy(steps), sampler=one_shot)
    sampler = iterate(heun(levels, of="level"), karras(levels, 18), 1.0)
    values: dict[str, Any] = {"prediction": "edm", "times": denoising.log_normal()}
    return families.diffusion(net, levels, shape, sampler=sampler, **values)
