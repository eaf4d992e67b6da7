"""Convolutional networks: the DCGAN pair, and an encoder and a decoder of the same shape for autoencoders.

Every one works at any image size: it halves while the side is even and above `smallest`, which is DCGAN's four
unless told otherwise (28 -> 14 -> 7, 64 -> ... -> 4).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp

from jaxgen.nets.layers import BatchNorm, Condition, Conv, ConvTranspose, Dense, Dtype, joined
from jaxgen.nets.primitives import constant_std, std_init
from jaxgen.types import Array

DCGAN_INIT = constant_std(0.02)


def halvings(shape: Sequence[int], smallest: int) -> int:
    """How often an image [height, width, ...] is halved on the way to about `smallest` pixels a side."""
    count, sides = 0, shape[:2]
    while all(side > smallest and side % 2 == 0 for side in sides):
        sides, count = [side // 2 for side in sides], count + 1
    return count


def widths(width: int, count: int) -> list[int]:
    """Channels after each halving: width, 2 width, 4 width, ... at most 8 width."""
    return [width * min(2**i, 8) for i in range(max(count, 1))]


class DCGANGenerator(nn.Module):
    """z [B, D] -> image [B, *shape] in [-1, 1]: projected to about 4x4, then transposed convolutions with batch
    normalisation and ReLU, tanh at the end (Radford, Metz and Chintala 2015, arXiv:1511.06434, section 3)."""

    shape: Sequence[int]
    width: int = 64
    smallest: int = 4
    classes: int | None = None
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, z: Array, condition: Array | None = None, train: bool = False) -> Array:
        height, breadth, channels = self.shape
        count = halvings(self.shape, self.smallest)
        z = joined(z, Condition(self.classes, 32, dtype=self.dtype)(condition, z.shape[0]))
        small = (height >> count, breadth >> count, 2 * widths(self.width, count)[-1])
        h = Dense(math.prod(small), bias=False, init=DCGAN_INIT, dtype=self.dtype)(z).reshape(-1, *small)
        h = nn.relu(BatchNorm(dtype=self.dtype)(h, train))
        for width in reversed(widths(self.width, count)[: count - 1] if count else []):
            h = ConvTranspose(width * 2, bias=False, init=DCGAN_INIT, dtype=self.dtype)(h)
            h = nn.relu(BatchNorm(dtype=self.dtype)(h, train))
        last = ConvTranspose if count else Conv
        return jnp.tanh(last(channels, init=DCGAN_INIT, dtype=self.dtype)(h).astype(jnp.float32))


class DCGANCritic(nn.Module):
    """Image [B, H, W, C] -> score [B]: 4x4 stride-2 convolutions, leaky ReLU of slope 0.2, batch normalisation on all
    but the first (Radford, Metz and Chintala 2015, arXiv:1511.06434, section 3). A label joins as constant channels."""

    width: int = 64
    smallest: int = 4
    classes: int | None = None
    norm: bool = True
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, condition: Array | None = None, train: bool = False) -> Array:
        count = halvings(x.shape[1:], self.smallest)
        c = Condition(self.classes, 8, dtype=self.dtype)(condition, x.shape[0])
        if c is not None:
            c = jnp.broadcast_to(c[:, None, None, :], (*x.shape[:3], c.shape[-1]))
        h = joined(x, c)
        for i, width in enumerate(widths(self.width, count)):
            norm = self.norm and i > 0
            h = Conv(width, 4, 2 if count else 1, bias=not norm, init=DCGAN_INIT, dtype=self.dtype)(h)
            h = nn.leaky_relu(BatchNorm(dtype=self.dtype)(h, train) if norm else h, 0.2)
        h = h.reshape(h.shape[0], -1)
        return Dense(1, init=DCGAN_INIT, dtype=self.dtype)(h)[:, 0].astype(jnp.float32)


class ConvEncoder(nn.Module):
    """Image [B, H, W, C] -> [B, out]: strided 4x4 convolutions with ReLU, then a dense layer."""

    out: int
    width: int = 32
    hidden: int = 256
    smallest: int = 4
    classes: int | None = None
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, condition: Array | None = None, train: bool = False) -> Array:
        count = halvings(x.shape[1:], self.smallest)
        h = nn.relu(Conv(self.width, init=std_init(2.0), dtype=self.dtype)(x))
        for width in widths(2 * self.width, count)[:count]:
            h = nn.relu(Conv(width, 4, 2, init=std_init(2.0), dtype=self.dtype)(h))
        c = Condition(self.classes, 32, dtype=self.dtype)(condition, x.shape[0])
        h = joined(h.reshape(h.shape[0], -1), c)
        h = nn.relu(Dense(self.hidden, init=std_init(2.0), dtype=self.dtype)(h))
        return Dense(self.out, dtype=self.dtype)(h).astype(jnp.float32)


class ConvDecoder(nn.Module):
    """z [B, D] -> [B, *shape]: dense layers, then transposed 4x4 convolutions with ReLU, a linear output."""

    shape: Sequence[int]
    width: int = 32
    hidden: int = 256
    smallest: int = 4
    classes: int | None = None
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, z: Array, condition: Array | None = None, train: bool = False) -> Array:
        height, breadth, channels = self.shape
        count = halvings(self.shape, self.smallest)
        z = joined(z, Condition(self.classes, 32, dtype=self.dtype)(condition, z.shape[0]))
        h = nn.relu(Dense(self.hidden, init=std_init(2.0), dtype=self.dtype)(z))
        small = (height >> count, breadth >> count, widths(2 * self.width, count)[-1])
        h = nn.relu(Dense(math.prod(small), init=std_init(2.0), dtype=self.dtype)(h)).reshape(-1, *small)
        for width in reversed([self.width, *widths(2 * self.width, count)[: max(count - 1, 0)]][:count]):
            h = nn.relu(ConvTranspose(width, init=std_init(2.0), dtype=self.dtype)(h))
        return Conv(channels, dtype=self.dtype)(h).astype(jnp.float32)
