"""DDPM of MNIST, conditioned on the label.

TFDS_DATA_DIR=... jaxgen train experiments/mnist_diffusion.py
"""

from typing import Literal

import optax

from jaxgen import Experiment, data, families, processes
from jaxgen.conditions import labels
from jaxgen.nets import network
from jaxgen.nets.unet import UNet
from jaxgen.sampling import ddim, iterate, uniform


def experiment(
    *,
    steps: int = 2_000,
    batch: int = 64,
    lr: float = 5e-4,
    width: int = 16,
    schedule: Literal["cosine", "linear"] = "cosine",
    prediction: Literal["eps", "x0", "v"] = "v",
    bf16: bool = False,
    name: str = "mnist",
) -> Experiment:
    """A UNet, drawn by 50 steps of DDIM.

    Args:
        steps: how long to train; 938 are an epoch at batch 64
        batch: examples a step
        lr: Adam's learning rate, warmed up and then lowered to nothing along a cosine
        width: channels of the UNet at full size
        schedule: of the noise
        prediction: what the network predicts
        bf16: compute in bfloat16, parameters stay float32
        name: of a data set with labels, mnist or fashion_mnist
    """
    images, process = data.load(name), getattr(processes, schedule)()
    unet = UNet(
        width,
        multipliers=(1, 2, 4),
        blocks=1,
        attention_at=(7,),
        heads=4,
        classes=len(images.classes),
        dtype="bfloat16" if bf16 else "float32",
    )
    model = families.diffusion(
        network(unet),
        process,
        images.shape,
        prediction=prediction,
        condition=labels(len(images.classes)),
        sampler=iterate(ddim(process), uniform(50), clip=1.0),
    )
    rate = optax.warmup_cosine_decay_schedule(0.0, lr, min(500, steps // 10), steps)
    adam = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))
    return Experiment(model, {"denoiser": adam}, images, batch=batch, steps=steps)
