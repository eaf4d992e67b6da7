"""A VAE in the code space of the tiny VAE, which is frozen: the two-stage VAE."""

import optax

from jaxgen import Experiment, data, families
from jaxgen.losses.likelihood import gaussian
from jaxgen.nets import network
from jaxgen.nets.mlp import MLP


def experiment(*, steps: int = 20, batch: int = 16, width: int = 16) -> Experiment:
    """A small latent model.

    Args:
        steps: how long to train
        batch: examples a step
        width: of the layers of the outer VAE
    """
    digits = data.load("digits")
    outer = families.vae(network(MLP((8,), (width,))), network(MLP(digits.shape, (width,))), 4)
    inner = families.vae(network(MLP((4,), (8,))), network(MLP((4,), (8,))), 2, likelihood=gaussian(1.0))
    return Experiment(
        families.latent(outer, inner),
        {"vae": optax.adam(1e-3)},
        digits,
        batch=batch,
        steps=steps,
        ema=0.9,
        log_every=10,
        sample_every=10**6,
        save_every=10,
    )
