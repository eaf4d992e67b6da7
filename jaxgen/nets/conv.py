"""Convolutional networks: the DCGAN pair, and an encoder and a decoder of the same shape for autoencoders.

Every one works at any image size: it halves while the side is even and above `smallest`, by default DCGAN's four
(28 -> 14 -> 7, 64 -> ... -> 4). Every one takes any condition: images have places and join as channels, labels
(classes: how many, see `layers.Condition`) and attributes as each network describes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxgen.nets.heads import Heads, seen
from jaxgen.nets.layers import Classes, Condition, Conv, ConvTranspose, Dense, Dtype, Weight, joined, separated
from jaxgen.nets.norms import BatchNorm
from jaxgen.nets.primitives import constant_std, std_init
from jaxgen.types import Array, Seen, Tree

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


def width_at(net: Any, scale: int) -> int:
    """Channels of a network of fields `width` and `most`, `scale` halvings below the full size."""
    return min(net.width << scale, net.most)


def pyramid(image: Array | None, count: int, width: int, dtype: Dtype) -> list[Array | None]:
    """Features of an image to condition on at full size, half of it, a quarter, ...: count + 1 of them. To be called
    inside a module, whose layers they are; of None they are all None."""
    if image is None:
        return [None] * (count + 1)
    scales = [nn.relu(Conv(width, kernel_init=std_init(2.0), dtype=dtype)(image))]
    for _ in range(count):
        scales.append(nn.relu(Conv(width, 4, 2, kernel_init=std_init(2.0), dtype=dtype)(scales[-1])))
    return [*scales]


class DCGANGenerator(nn.Module):
    """z [B, D] -> image [B, *shape] in [-1, 1]: projected to about 4x4, then transposed convolutions with batch
    normalisation and ReLU, tanh at the end (Radford, Metz and Chintala 2015, arXiv:1511.06434, section 3).

    Labels and attributes join z. An image to condition on is convolved down to the smallest scale and joins at each one
    on the way up; one more convolution makes the image at full size.
    """

    shape: Sequence[int]
    width: int = 64
    smallest: int = 4
    classes: Classes = None
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, z: Array, condition: Tree = None, train: bool = False) -> Array:
        height, breadth, channels = self.shape
        count = halvings(self.shape, self.smallest)
        rest, picture = separated(condition, z.shape[0], self.shape)
        scales = pyramid(picture, count, self.width, self.dtype)
        z = joined(z, Condition(self.classes, 32, dtype=self.dtype)(rest, z.shape[0]))
        small = (height >> count, breadth >> count, 2 * widths(self.width, count)[-1])
        h = Dense(math.prod(small), bias=False, kernel_init=DCGAN_INIT, dtype=self.dtype)(z).reshape(-1, *small)
        h = nn.relu(BatchNorm(dtype=self.dtype)(h, train))
        upwards = [2 * width for width in reversed(widths(self.width, count)[: max(count - 1, 0)])]
        if picture is not None and count:
            upwards.append(self.width)
        for width in upwards:
            h = ConvTranspose(width, bias=False, kernel_init=DCGAN_INIT, dtype=self.dtype)(joined(h, scales.pop()))
            h = nn.relu(BatchNorm(dtype=self.dtype)(h, train))
        last = ConvTranspose if count > len(upwards) else Conv
        h = last(channels, kernel_init=DCGAN_INIT, dtype=self.dtype)(joined(h, scales.pop()))
        return jnp.tanh(h.astype(jnp.float32))


class DCGANCritic(nn.Module):
    """Image [B, H, W, C] -> score [B]: 4x4 stride-2 convolutions, leaky ReLU of slope 0.2, batch normalisation on all
    but the first (Radford, Metz and Chintala 2015, arXiv:1511.06434, section 3). Labels and attributes join as constant
    channels, an image to condition on as channels.

    heads: what it gives besides, `Seen` with the last hidden layer as features [B, F]; with `Heads(projection=True)` a
    label joins the score alone. weight: `weights.spectral`, instead of the batch normalisation (norm=False).
    """

    width: int = 64
    smallest: int = 4
    classes: Classes = None
    norm: bool = True
    heads: Heads | None = None
    weight: Weight | None = None
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, condition: Tree = None, train: bool = False) -> Array | Seen:
        count = halvings(x.shape[1:], self.smallest)
        rest, picture = separated(condition, x.shape[0], x.shape[1:3])
        projects = self.heads is not None and self.heads.projection
        c = None if projects else Condition(self.classes, 8, dtype=self.dtype)(rest, x.shape[0])
        if c is not None:
            c = jnp.broadcast_to(c[:, None, None, :], (*x.shape[:3], c.shape[-1]))
        h = joined(joined(x, picture), c)
        for i, width in enumerate(widths(self.width, count)):
            norm = self.norm and i > 0
            layer = partial(Conv, bias=not norm, kernel_init=DCGAN_INIT, weight=self.weight, dtype=self.dtype)
            h = layer(width, 4, 2 if count else 1)(h)
            h = nn.leaky_relu(BatchNorm(dtype=self.dtype)(h, train) if norm else h, 0.2)
        h = h.reshape(h.shape[0], -1)
        dense = partial(Dense, kernel_init=DCGAN_INIT, weight=self.weight, dtype=self.dtype)
        found = seen(self.heads or Heads(), h, rest, self.classes, dense)
        return found.score if self.heads is None else found


class PatchCritic(nn.Module):
    """Image [B, H, W, C] -> a score of each of its overlapping patches [B, h, w]: `halvings` 4x4 convolutions of stride
    2, one more of stride 1, leaky ReLU of slope 0.2, batch normalisation on all but the first, and a linear output
    (Isola et al. 2016, arXiv:1611.07004, section 3.2.2 and appendix 6.1.2). A patch has 16, 34, 70 pixels a side with
    1, 2, 3 halvings.

    weight: `weights.spectral`, instead of the batch normalisation (norm=False).
    """

    width: int = 32
    halvings: int = 2
    norm: bool = True
    weight: Weight | None = None
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        h, outputs = x.astype(self.dtype), [self.width * min(2**i, 8) for i in range(self.halvings + 1)]
        for i, width in enumerate(outputs):
            norm = self.norm and i > 0
            layer = partial(Conv, bias=not norm, kernel_init=DCGAN_INIT, weight=self.weight, dtype=self.dtype)
            h = layer(width, 4, 2 if i < self.halvings else 1)(h)
            h = nn.leaky_relu(BatchNorm(dtype=self.dtype)(h, train) if norm else h, 0.2)
        score = Conv(1, 4, kernel_init=DCGAN_INIT, weight=self.weight, dtype=self.dtype)(h)
        return score[..., 0].astype(jnp.float32)


class ConvEncoder(nn.Module):
    """Image [B, H, W, C] -> [B, out]: strided 4x4 convolutions with ReLU, then a dense layer. An image to condition on
    joins as channels, labels and attributes join before the dense layer."""

    out: int
    width: int = 32
    hidden: int = 256
    smallest: int = 4
    classes: Classes = None
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, condition: Tree = None, train: bool = False) -> Array:
        count = halvings(x.shape[1:], self.smallest)
        rest, picture = separated(condition, x.shape[0], x.shape[1:3])
        h = nn.relu(Conv(self.width, kernel_init=std_init(2.0), dtype=self.dtype)(joined(x, picture)))
        for width in widths(2 * self.width, count)[:count]:
            h = nn.relu(Conv(width, 4, 2, kernel_init=std_init(2.0), dtype=self.dtype)(h))
        c = Condition(self.classes, 32, dtype=self.dtype)(rest, x.shape[0])
        h = joined(h.reshape(h.shape[0], -1), c)
        h = nn.relu(Dense(self.hidden, kernel_init=std_init(2.0), dtype=self.dtype)(h))
        return Dense(self.out, dtype=self.dtype)(h).astype(jnp.float32)


class ConvDecoder(nn.Module):
    """z [B, D] -> [B, *shape]: dense layers, then transposed 4x4 convolutions with ReLU, a linear output.

    Labels and attributes join z. An image to condition on is convolved down to the smallest scale and joins at each one
    on the way up; at full size two more layers take it, so that its edges are those of the output.
    """

    shape: Sequence[int]
    width: int = 32
    hidden: int = 256
    smallest: int = 4
    classes: Classes = None
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, z: Array, condition: Tree = None, train: bool = False) -> Array:
        height, breadth, channels = self.shape
        count = halvings(self.shape, self.smallest)
        rest, picture = separated(condition, z.shape[0], self.shape)
        scales = pyramid(picture, count, self.width, self.dtype)
        z = joined(z, Condition(self.classes, 32, dtype=self.dtype)(rest, z.shape[0]))
        h = nn.relu(Dense(self.hidden, kernel_init=std_init(2.0), dtype=self.dtype)(z))
        small = (height >> count, breadth >> count, widths(2 * self.width, count)[-1])
        h = nn.relu(Dense(math.prod(small), kernel_init=std_init(2.0), dtype=self.dtype)(h)).reshape(-1, *small)
        upwards = reversed([self.width, *widths(2 * self.width, count)[: max(count - 1, 0)]][:count])
        for width, c in zip(upwards, reversed(scales[1:]), strict=True):
            h = nn.relu(ConvTranspose(width, kernel_init=std_init(2.0), dtype=self.dtype)(joined(h, c)))
        if picture is not None:
            h = nn.relu(Conv(self.width, kernel_init=std_init(2.0), dtype=self.dtype)(joined(h, scales[0])))
        return Conv(channels, dtype=self.dtype)(joined(h, picture)).astype(jnp.float32)
