"""A VAE small enough to compile in a second."""

import jax.numpy as jnp
import optax

from jaxgen import Experiment, data, families
from jaxgen.nets import network
from jaxgen.nets.mlp import MLP


def experiment(
    *,
    steps: int = 120,
    batch: int = 16,
    lr: float = 1e-3,
    accumulate: int = 1,
    ema: float = 0.9,
    bf16: bool = False,
    broken_at: int = -1,
    save_every: int = 10,
) -> Experiment:
    """A small VAE.

    Args:
        steps: how long to train
        batch: examples a step
        lr: Adam's learning rate
        accumulate: slices of a minibatch
        ema: decay of the averaged parameters
        bf16: compute in bfloat16
        broken_at: the update of this step, counted from 0, is not a number
        save_every: steps between checkpoints
    """
    digits, dtype = data.load("digits"), "bfloat16" if bf16 else "float32"
    encoder, decoder = network(MLP((8,), (16,), dtype=dtype)), network(MLP(digits.shape, (16,), dtype=dtype))
    adam = optax.adam(lambda count: jnp.where(count == broken_at, jnp.nan, lr))
    return Experiment(
        families.vae(encoder, decoder, 4),
        {"vae": adam},
        digits,
        batch=batch,
        steps=steps,
        accumulate=accumulate,
        ema=ema,
        log_every=10,
        sample_every=10**6,
        save_every=save_every,
    )
