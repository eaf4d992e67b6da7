"""How near one image is to another."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxgen.losses.likelihood import total
from jaxgen.metrics.pieces import in_pieces
from jaxgen.sampling import reconstruct
from jaxgen.types import Array, Batch, Model, TrainState, Tree, check

PEAK = 2.0  # from black, -1, to white, 1


def psnr(x: Any, y: Any) -> Array:
    """10 log10(2^2 / mean_i (x_i - y_i)^2), the peak signal-to-noise ratio: [B, ...] in [-1, 1] each -> dB [B].

    Infinite for equal images. InputError where the shapes differ.
    """
    x, y = jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)
    check(x.shape == y.shape, f"images are compared one by one: give two arrays of one shape, not {x.shape}, {y.shape}")
    mean = total(jnp.square(x - y)) / (x[0].size if len(x) else 1)
    return 10.0 * jnp.log10(PEAK**2 / mean)


def reconstruction_error(
    model: Model, state: TrainState, x: Any, *, condition: Tree = None, batch: int = 128, **options
) -> np.ndarray:
    """||x - x_hat||^2 of the reconstruction x_hat, summed over pixels of range 2: x [N, ...], as a data set gives it or
    in [-1, 1] -> [N].

    condition: what the model is given beside x, [N, ...]; batch: images a call; options: those of `sampling.generate`.
    InputError for a model without an encoder.
    """

    def error(given: Batch) -> Array:
        again = reconstruct(model, state, given.x, condition=given.condition, batch=batch, **options)
        return total(jnp.square(given.x - again))

    return in_pieces(error, x, condition)
