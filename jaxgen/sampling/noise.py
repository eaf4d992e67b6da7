"""Gaussian noise that belongs to the example: one key, one draw."""

from __future__ import annotations

import jax

from jaxgen.types import Array, Keys


def normal(keys: Keys, x: Array) -> Array:
    """z ~ N(0, I) like x: [B, ...], row i drawn from keys[i] alone."""
    return jax.vmap(lambda key: jax.random.normal(key, x.shape[1:], x.dtype))(keys)
