"""A diffusion model of MNIST that is trained for its likelihood, in bits a dimension.

TFDS_DATA_DIR=... jaxgen train experiments/mnist_likelihood.py
jaxgen likelihood runs/mnist_likelihood --by bound --levels 256 --steps 4000 --samples 4   # by the variational bound
jaxgen likelihood runs/mnist_likelihood --samples 1 --n 256                                # by the probability flow

jaxgen train experiments/mnist_likelihood.py --kind numbers --workdir runs/numbers
jaxgen likelihood runs/numbers --samples 1                                       # by the probability flow
"""

from typing import Literal

import flax.linen as nn
import optax

from jaxgen import Experiment, data, families
from jaxgen.losses import denoising
from jaxgen.nets import network, over_levels
from jaxgen.nets.layers import Dense
from jaxgen.nets.unet import UNet
from jaxgen.processes import log_linear
from jaxgen.sampling import ddpm, iterate, uniform
from jaxgen.types import Array, Tree

LEVELS = 256
LOG_SNR = (14.0, 11.5, 9.5, 7.5, 5.5, 3.0, -10.0)  # at even times: grey levels cost most of the bits


class OverLevels(nn.Module):
    """(x_t [B, H, W, 1], t [B]) -> what is known of every pixel's level [B, H, W, 256]: a UNet's last channels, and one
    layer for each pixel."""

    width: int
    blocks: int

    @nn.compact
    def __call__(self, x: Array, t: Array, condition: Tree = None, train: bool = False) -> Array:
        options = {"outputs": 2 * self.width, "fourier": (4, 5, 6, 7)}  # an image's brightest pixels are of one level
        unet = UNet(self.width, multipliers=(1, 2), blocks=self.blocks, attention_at=(), **options)
        return Dense(LEVELS)(nn.silu(unet(x, t)))


def experiment(
    *,
    kind: Literal["levels", "numbers"] = "levels",
    name: str = "mnist",
    steps: int = 36_000,
    batch: int = 16,
    lr: float = 2e-3,
    width: int = 24,
    blocks: int = 1,
) -> Experiment:
    """A UNet trained by the variational bound in continuous time (Kingma et al. 2021, arXiv:2107.00630, eq. 17), at
    log-SNRs uniform from 14 to -10, and drawn by 250 ancestral steps.

    Args:
        kind: of pixels as 256 levels, of which the network gives probabilities, or as numbers, trained with uniform
            noise of their quantum, which makes the flow's density a probability
        name: of a data set of grey images
        steps: how long to train
        batch: examples a step
        lr: Adam's learning rate, warmed up and then lowered to nothing along a cosine
        width: channels of the UNet at full size
        blocks: residual blocks a resolution
    """
    images, process = data.load(name), log_linear(*LOG_SNR)
    if kind == "levels":
        net, prediction = over_levels(network(OverLevels(width, blocks)), process, LEVELS), "x0"
    else:
        unet = UNet(width, multipliers=(1, 2), blocks=blocks, attention_at=(), fourier=(6, 7))
        net, prediction = network(unet), "eps"
    model = families.diffusion(
        net,
        process,
        images.shape,
        prediction=prediction,
        times=denoising.low_discrepancy(),
        weighting=denoising.likelihood(),
        sampler=iterate(ddpm(process), uniform(250), process.clip),
    )
    rate = optax.warmup_cosine_decay_schedule(0.0, lr, min(500, steps // 10), steps)
    adam = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))
    if kind == "levels":  # which are no density: the probability flow is given them with the noise at which it begins
        model = model._replace(density=families.flow_density(model, levels=LEVELS))
    else:
        model = families.dequantised(model)
    return Experiment(model, {"denoiser": adam}, images, batch=batch, steps=steps, ema=0.999)
