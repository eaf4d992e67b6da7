"""DDPM of 25 Gaussians in the plane: a picture of modes and densities in seconds.

jaxgen train experiments/gaussians_diffusion.py
"""

import math

import optax

from jaxgen import Experiment, data, families
from jaxgen.nets import network
from jaxgen.nets.mlp import MLPDenoiser
from jaxgen.processes import cosine
from jaxgen.sampling import ddim, iterate, uniform


def experiment(*, steps: int = 3000, batch: int = 512, lr: float = 1e-3, name: str = "gaussians25") -> Experiment:
    """A residual perceptron that predicts v on the cosine schedule, drawn by 50 steps of DDIM.

    Args:
        steps: how long to train
        batch: examples a step
        lr: Adam's learning rate
        name: of a set of points: gaussians25, gaussians8, rings or moons
    """
    points, process = data.load(name), cosine(clip=math.inf)
    sampler = iterate(ddim(process), uniform(50))
    model = families.diffusion(network(MLPDenoiser(128, 3)), process, points.shape, prediction="v", sampler=sampler)
    return Experiment(model, {"denoiser": optax.adam(lr)}, points, batch=batch, steps=steps)
