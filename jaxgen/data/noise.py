"""Corruptions of images: what a denoising autoencoder is trained to undo (Vincent et al. 2008, 2010).

A corruption is `(keys [B], x [B, ...] in [-1, 1]) -> x [B, ...]`; it serves arrays of NumPy as well as those inside a
step. A pixel of an image [B, H, W, C] is spoilt in all its channels; of other arrays every number is one by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxgen.types import Array, Keys, check, normal

Corruption = Callable[[Keys, Any], Array]
"""`corruption(keys [B], x [B, ...]) -> x [B, ...]`: row i is spoilt by keys[i] alone."""

BLACK, WHITE = -1.0, 1.0


def gaussian(sigma: float) -> Corruption:
    """x + sigma eps, eps ~ N(0, I), not clipped (Vincent et al. 2010, JMLR 11, section 3.3). InputError: sigma < 0."""
    check(0 <= sigma < float("inf"), f"sigma must be a number of at least 0, it is {sigma}")

    def corrupt(keys: Keys, x: Any) -> Array:
        x = _images(keys, x)
        return x + sigma * normal(keys, x.shape[1:], x.dtype)

    return corrupt


def masking(p: float) -> Corruption:
    """Each pixel is black, -1, with probability p, independently (Vincent et al. 2008, section 2.3, which blackens a
    fixed share). InputError: p outside 0 to 1."""
    _check_probability(p)

    def corrupt(keys: Keys, x: Any) -> Array:
        x = _images(keys, x)
        return jnp.where(_uniform(keys, x) < p, jnp.asarray(BLACK, x.dtype), x)

    return corrupt


def salt_and_pepper(p: float) -> Corruption:
    """Each pixel is black or white, -1 or 1, with probability p / 2 each (Vincent et al. 2010, JMLR 11, section 3.3).
    InputError: p outside 0 to 1."""
    _check_probability(p)

    def corrupt(keys: Keys, x: Any) -> Array:
        x = _images(keys, x)
        u = _uniform(keys, x)
        extreme = jnp.where(u < p / 2, BLACK, WHITE).astype(x.dtype)
        return jnp.where(u < p, extreme, x)

    return corrupt


def _uniform(keys: Keys, x: Array) -> Array:
    """U(0, 1) for every pixel: [B, H, W, 1] of images, [B, ...] of anything else."""
    shape = (*x.shape[1:-1], 1) if x.ndim == 4 else x.shape[1:]
    return jax.vmap(lambda key: jax.random.uniform(key, shape))(keys)


def _images(keys: Keys, x: Any) -> Array:
    x = jnp.asarray(x)
    check(
        jnp.issubdtype(x.dtype, jnp.floating),
        f"a corruption takes numbers from -1 to 1, not {x.dtype}: `jaxgen.data.normalize` the batch first",
    )
    check(
        keys.shape == x.shape[:1],
        f"a corruption takes one key an example, {x.shape[:1]} here, not keys of shape {keys.shape}",
    )
    return x


def _check_probability(p: float) -> None:
    check(0 <= p <= 1, f"the share of spoilt pixels must be from 0 to 1, it is {p}")
