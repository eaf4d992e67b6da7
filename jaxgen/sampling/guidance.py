"""Guidance: transformers of predictions, `(conditional, unconditional) -> Predict`, with traced scales."""

from __future__ import annotations

import jax.numpy as jnp
from jax.tree_util import Partial

from jaxgen.types import Array, Predict


def classifier_free(scale: float) -> Partial:
    """x_0 = u + scale (c - u), c with the condition and u without it; 1 is no guidance, 0 drops the condition.

    On a linear parametrisation it is the paper's eps combination with w = scale - 1
    (Ho and Salimans 2022, arXiv:2207.12598, eq. 6).
    """
    return Partial(_classifier_free, jnp.asarray(scale, jnp.float32))


def _classifier_free(scale: Array, conditional: Predict, unconditional: Predict) -> Predict:
    def predict(x: Array, t: Array) -> Array:
        u = unconditional(x, t)
        return u + scale * (conditional(x, t) - u)

    return predict
