"""DDPM of the 8x8 digits, conditioned on the label.

jaxgen train experiments/digits_diffusion.py
"""

import optax

from jaxgen import Experiment, data, families
from jaxgen.conditions import labels
from jaxgen.nets import network
from jaxgen.nets.unet import UNet
from jaxgen.processes import cosine
from jaxgen.sampling import ddim, iterate, uniform


def experiment(
    *, steps: int = 1500, batch: int = 128, lr: float = 1e-3, width: int = 32, drop: float = 0.1
) -> Experiment:
    """A UNet that predicts v on the cosine schedule, drawn by 50 steps of DDIM.

    Args:
        steps: how long to train
        batch: examples a step
        lr: Adam's learning rate, warmed up and then lowered to nothing along a cosine
        width: channels of the UNet at full size
        drop: probability that a label is left out; with 1 the model is unconditional
    """
    digits, process = data.load("digits"), cosine()
    classes = None if drop == 1 else len(digits.classes)
    unet = UNet(width, multipliers=(1, 2), blocks=1, attention_at=(4,), heads=4, classes=classes)
    model = families.diffusion(
        network(unet),
        process,
        digits.shape,
        prediction="v",
        condition=None if classes is None else labels(classes),
        drop=drop,
        sampler=iterate(ddim(process), uniform(50), clip=1.0),
    )
    rate = optax.warmup_cosine_decay_schedule(0.0, lr, steps // 20, steps)
    adam = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))
    return Experiment(model, {"denoiser": adam}, digits, batch=batch, steps=steps, ema=0.995)
