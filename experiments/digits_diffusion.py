"""Diffusion and flow models of the 8x8 digits, conditioned on the label: published methods as combinations of values.

jaxgen train experiments/digits_diffusion.py
jaxgen train experiments/digits_diffusion.py --method flow --workdir runs/digits_flow
"""

from typing import Literal, NamedTuple

import optax

from jaxgen import Experiment, data, families
from jaxgen.conditions import labels
from jaxgen.losses import denoising
from jaxgen.nets import network
from jaxgen.nets.dit import DiT
from jaxgen.nets.unet import UNet
from jaxgen.parametrisations import Parametrisation, edm
from jaxgen.processes import cosine, flow, linear, sigmoid, variance_exploding
from jaxgen.sampling import ddim, ddpm, heun, iterate, karras, uniform
from jaxgen.types import Process, Sampler

DEVIATION = 0.75  # of the digits' pixels, from -1 to 1


class Method(NamedTuple):
    """What a method is: five values and the sampler that its paper draws with."""

    process: Process
    prediction: str | Parametrisation
    sampler: Sampler
    times: denoising.TimesOf = denoising.discrete()
    weighting: denoising.Weighting | None = None
    coupling: denoising.Coupling = denoising.independent


def values(name: str) -> Method:
    """The values of a method."""
    cos, straight, levels = cosine(), flow(), variance_exploding(80.0)
    by_ddim, by_steps = iterate(ddim(cos), uniform(50), cos.clip), iterate(ddim(straight), uniform(50), straight.clip)
    by_levels = iterate(heun(levels, of="level"), karras(levels, 18), levels.clip)
    return {
        "v": Method(cos, "v", by_ddim),  # Salimans and Ho 2022
        "ddpm": Method(linear(), "eps", iterate(ddpm(linear()), uniform(250), 1.0)),  # Ho et al. 2020
        "min_snr": Method(cos, "v", by_ddim, weighting=denoising.min_snr()),  # Hang et al. 2023
        "sigmoid": Method(sigmoid(), "v", iterate(ddim(sigmoid()), uniform(50), 1.0)),  # Jabri et al. 2022
        "flow": Method(straight, "velocity", by_steps, denoising.continuous()),  # Lipman et al. 2022
        "logit_normal": Method(straight, "velocity", by_steps, denoising.logit_normal()),  # Esser et al. 2024
        "ot_flow": Method(
            straight, "velocity", by_steps, denoising.continuous(), coupling=denoising.optimal
        ),  # Tong et al. 2023
        "edm": Method(levels, edm(DEVIATION), by_levels, denoising.log_normal()),  # Karras et al. 2022
        "likelihood": Method(
            straight, "velocity", by_steps, denoising.low_discrepancy(), denoising.likelihood()
        ),  # Kingma et al. 2021
    }[name]


def experiment(
    *,
    method: Literal["v", "ddpm", "min_snr", "sigmoid", "flow", "logit_normal", "ot_flow", "edm", "likelihood"] = "v",
    steps: int = 1500,
    batch: int = 128,
    lr: float = 1e-3,
    width: int = 32,
    net: Literal["unet", "dit"] = "unet",
    drop: float = 0.1,
) -> Experiment:
    """A UNet or a DiT, by default one that predicts v on the cosine schedule, drawn by 50 steps of DDIM.

    Args:
        method: whose values
        steps: how long to train
        batch: examples a step
        lr: Adam's learning rate, warmed up and then lowered to nothing along a cosine
        width: channels of the UNet at full size
        net: a UNet, or a DiT of 2x2 patches, four times as wide
        drop: probability that a label is left out; with 1 the model is unconditional
    """
    digits, chosen = data.load("digits"), values(method)
    classes = None if drop == 1 else len(digits.classes)
    if net == "unet":
        denoiser = UNet(width, multipliers=(1, 2), blocks=1, attention_at=(4,), heads=4, classes=classes)
    else:
        denoiser = DiT(patch=2, width=4 * width, depth=4, heads=4, classes=classes)
    model = families.diffusion(
        network(denoiser),
        chosen.process,
        digits.shape,
        sampler=chosen.sampler,
        prediction=chosen.prediction,
        times=chosen.times,
        weighting=chosen.weighting,
        coupling=chosen.coupling,
        condition=None if classes is None else labels(classes),
        drop=drop,
    )
    rate = optax.warmup_cosine_decay_schedule(0.0, lr, steps // 20, steps)
    adam = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))
    return Experiment(model, {"denoiser": adam}, digits, batch=batch, steps=steps, ema=0.995)
