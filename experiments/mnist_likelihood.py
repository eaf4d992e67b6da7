"""A diffusion model of MNIST that is trained for its likelihood, in bits a dimension.

TFDS_DATA_DIR=... jaxgen train experiments/mnist_likelihood.py
jaxgen likelihood runs/mnist_likelihood --samples 1                 # by the probability flow
jaxgen likelihood runs/mnist_likelihood --by bound --levels 256     # by the variational bound
"""

import optax

from jaxgen import Experiment, data, families
from jaxgen.losses.denoising import low_discrepancy
from jaxgen.nets import network
from jaxgen.nets.unet import UNet
from jaxgen.processes import log_linear
from jaxgen.sampling import ddpm, iterate, uniform


def experiment(
    *,
    name: str = "mnist",
    steps: int = 20_000,
    batch: int = 64,
    lr: float = 1e-3,
    width: int = 16,
    blocks: int = 1,
    dequantise: bool = True,
) -> Experiment:
    """A UNet with Fourier features that predicts eps at log-SNRs uniform from 14 to -10, which is the variational bound
    in continuous time (Kingma et al. 2021, arXiv:2107.00630), drawn by 250 ancestral steps.

    Args:
        name: of a data set of images
        steps: how long to train
        batch: examples a step
        lr: Adam's learning rate, warmed up and then lowered to nothing along a cosine
        width: channels of the UNet at full size
        blocks: residual blocks a resolution
        dequantise: train on pixels with uniform noise of their quantum, which makes the flow's density a probability
    """
    images, process = data.load(name), log_linear()
    model = families.diffusion(
        network(UNet(width, multipliers=(1, 2), blocks=blocks, attention_at=(), heads=4, fourier=(6, 7))),
        process,
        images.shape,
        prediction="eps",
        times=low_discrepancy(),
        sampler=iterate(ddpm(process), uniform(250), process.clip),
    )
    rate = optax.warmup_cosine_decay_schedule(0.0, lr, min(500, steps // 10), steps)
    adam = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))
    model = families.dequantised(model) if dequantise else model
    return Experiment(model, {"denoiser": adam}, images, batch=batch, steps=steps, ema=0.999)
