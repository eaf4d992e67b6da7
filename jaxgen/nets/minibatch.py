"""Layers that show a critic how different the examples of a minibatch are, wherever its parts lie."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxgen.nets.layers import mapped
from jaxgen.nets.primitives import constant_std
from jaxgen.types import Array, check


def everyone(x: Array) -> tuple[Array, Array]:
    """(the examples of all the minibatch [B, ...], int [b]: the rows of these among them)."""
    axis, rows = mapped(), jnp.arange(x.shape[0])
    if axis is None:
        return x, rows
    return jax.lax.all_gather(x, axis, tiled=True), jax.lax.axis_index(axis) * x.shape[0] + rows


class MinibatchStd(nn.Module):
    """One more channel: the standard deviation over a group of examples, averaged over positions and channels, the same
    number everywhere, [..., C] -> [..., C + 1] (Karras et al. 2017, arXiv:1710.10196, section 3).

    group: examples that are compared, neighbours in the minibatch, 4 as in the authors' code; 0 for all of them. A
    minibatch that it does not divide is one group.
    """

    group: int = 4

    def __call__(self, x: Array) -> Array:
        every, own = everyone(x)
        n = every.shape[0]
        size = self.group if self.group and n % self.group == 0 else n
        h = every.astype(jnp.float32).reshape(n // size, size, -1)
        s = jnp.mean(jnp.sqrt(jnp.var(h, axis=1) + 1e-8), axis=-1)
        s = jnp.repeat(s, size)[own].reshape((-1,) + (1,) * (x.ndim - 1))
        return jnp.concatenate([x, jnp.broadcast_to(s, (*x.shape[:-1], 1)).astype(x.dtype)], axis=-1)


class MinibatchDiscrimination(nn.Module):
    """o(x_i)_b = sum_{j != i} exp(-|M_ib - M_jb|_1), M = h T, T [F, kernels, dims], behind the features:
    h [B, F] -> [B, F + kernels] (Salimans et al. 2016, arXiv:1606.03498, section 3.2; there the sum takes in j = i, a
    constant 1)."""

    kernels: int = 16
    dims: int = 8

    @nn.compact
    def __call__(self, h: Array) -> Array:
        check(h.ndim == 2, f"minibatch discrimination is of features [B, F], not of {list(h.shape)}: flatten them")
        shape = (h.shape[-1], self.kernels * self.dims)
        t = self.param("kernel", constant_std(h.shape[-1] ** -0.5), shape, jnp.float32)
        m = (h.astype(jnp.float32) @ t).reshape(-1, self.kernels, self.dims)
        every, _ = everyone(m)
        apart = jnp.sum(jnp.abs(m[:, None] - every[None]), axis=-1)
        return jnp.concatenate([h, (jnp.sum(jnp.exp(-apart), axis=1) - 1.0).astype(h.dtype)], axis=-1)
