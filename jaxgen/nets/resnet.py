"""Residual networks for GANs: SNGAN's, SAGAN's attention, and BigGAN's conditioning, in one generator and one critic.

Every one works at any image size that halves to about `smallest` pixels a side. At the i-th scale from the full size a
block has min(2^i width, most) channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax.numpy as jnp

from jaxgen.nets import primitives
from jaxgen.nets.conv import halvings, width_at
from jaxgen.nets.heads import Heads, judged
from jaxgen.nets.layers import Classes, Condition, Conv, Dense, Dtype, Embed, Weight, joined, separated
from jaxgen.nets.norms import BatchNorm, ConditionalBatchNorm
from jaxgen.nets.weights import spectral
from jaxgen.types import Array, Seen, Tree, check


def upsampled(x: Array) -> Array:
    """Twice as large, each pixel four times."""
    return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)


def downsampled(x: Array) -> Array:
    """Half as large, means of four pixels."""
    n, height, width, channels = x.shape
    return jnp.mean(x.reshape(n, height // 2, 2, width // 2, 2, channels), axis=(2, 4))


class SelfAttention(nn.Module):
    """x + gamma W_o softmax(f(x) g(x)^T) h(x) over all positions, gamma 0 at first; f and g of C / 8 channels, h of
    C / 2 (Zhang et al. 2018, arXiv:1805.08318, eq. 1 to 3), g and h at half the size, as in the authors' code."""

    weight: Weight | None = None
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        n, height, width, channels = x.shape
        check(height % 2 == width % 2 == 0, f"attention here halves the sides, {height} and {width} must be even")
        thin, wide = max(1, channels // 8), max(1, channels // 2)
        layer = partial(Conv, size=1, bias=False, weight=self.weight, dtype=self.dtype)
        f = layer(thin)(x).reshape(n, -1, 1, thin)
        g = primitives.max_pool(layer(thin)(x), 2, 2).reshape(n, -1, 1, thin)
        h = primitives.max_pool(layer(wide)(x), 2, 2).reshape(n, -1, 1, wide)
        # the primitive takes queries as wide as values and divides by the root of that; zeros change no product
        f, g = (jnp.pad(a, ((0, 0), (0, 0), (0, 0), (0, wide - thin))) for a in (f * math.sqrt(wide), g))
        seen_there = primitives.attention(f, g, h, fused=False).reshape(n, height, width, wide)
        gamma = self.param("gamma", nn.initializers.zeros, (), jnp.float32).astype(self.dtype)
        return x + gamma * layer(channels)(seen_there)


class UpBlock(nn.Module):
    """x -> twice as large: shortcut + Conv(ReLU(norm(Conv(up(ReLU(norm(x))))))), the shortcut a 1x1 convolution (Miyato
    et al. 2018, arXiv:1802.05957, figure 8; Gulrajani et al. 2017, arXiv:1704.00028). style: of a conditional norm."""

    features: int
    weight: Weight | None = None
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, style: Array | None, train: bool) -> Array:
        conv = partial(Conv, self.features, weight=self.weight, dtype=self.dtype)
        h = nn.relu(normed(self, x, style, train))
        h = conv(name="first")(upsampled(h))
        h = nn.relu(normed(self, h, style, train))
        return conv(size=1, name="shortcut")(upsampled(x)) + conv(name="second")(h)


def normed(block: UpBlock, x: Array, style: Array | None, train: bool) -> Array:
    """Batch normalisation, by the style where there is one; called inside the block, whose layer it is."""
    if style is None:
        return BatchNorm(dtype=block.dtype)(x, train)
    dense = partial(Dense, weight=block.weight, dtype=block.dtype)
    return ConditionalBatchNorm(dense, dtype=block.dtype)(x, style, train)


class DownBlock(nn.Module):
    """shortcut + Conv(ReLU(Conv(ReLU(x)))), half as large with `down`; the first block of a critic begins with the
    image itself, without ReLU (Miyato et al. 2018, arXiv:1802.05957, figure 9)."""

    features: int
    down: bool = True
    first: bool = False
    weight: Weight | None = None
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        conv = partial(Conv, self.features, weight=self.weight, dtype=self.dtype)
        h = conv(name="first_conv")(x if self.first else nn.relu(x))
        h = conv(name="second_conv")(nn.relu(h))
        if not self.down:
            short = x if x.shape[-1] == self.features else conv(size=1, name="shortcut")(x)
            return short + h
        if self.first:
            return conv(size=1, name="shortcut")(downsampled(x)) + downsampled(h)
        return downsampled(conv(size=1, name="shortcut")(x) + h)


class ResNetGenerator(nn.Module):
    """z [B, D] -> image [B, *shape] in [-1, 1]: a dense layer to about 4x4, residual blocks, tanh (Miyato et al. 2018,
    arXiv:1802.05957, table 4; labels by conditional batch normalisation as Miyato and Koyama 2018, arXiv:1802.05637).

    skip        BigGAN's conditioning: z falls into one part for the dense layer and one for each block, where it
                joins the embedded label (Brock, Donahue and Simonyan 2018, arXiv:1809.11096, appendix B)
    shared      dimensions of the label's embedding, which all blocks share
    attention   side at which there is self-attention; 0: none
    weight      `weights.spectral` for SAGAN and BigGAN
    """

    shape: Sequence[int]
    width: int = 256
    most: int = 256
    smallest: int = 4
    classes: Classes = None
    shared: int = 128
    skip: bool = False
    attention: int = 0
    weight: Weight | None = None
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, z: Array, condition: Tree = None, train: bool = False) -> Array:
        height, breadth, _ = self.shape
        count = halvings(self.shape, self.smallest)
        rest, picture = separated(condition, z.shape[0], self.shape)
        check(picture is None, "this generator takes labels and attributes, no images: DCGANGenerator does")
        c = Condition(self.classes, self.shared, dtype=self.dtype)(rest, z.shape[0])
        first, chunks = z, [None] * count
        if self.skip:
            first, *chunks = jnp.array_split(z, count + 1, axis=-1)
        small = (height >> count, breadth >> count, width_at(self, max(count - 1, 0)))
        h = Dense(math.prod(small), weight=self.weight, dtype=self.dtype)(first).reshape(-1, *small)
        for i, chunk in reversed(list(zip(range(count), reversed(chunks), strict=True))):
            style = c if chunk is None else joined(chunk, c)
            block = UpBlock(width_at(self, i), weight=self.weight, dtype=self.dtype)
            h = block(h, style, train)
            if h.shape[1] == self.attention:
                h = SelfAttention(self.weight, self.dtype)(h)
        h = nn.relu(BatchNorm(dtype=self.dtype)(h, train))
        return jnp.tanh(Conv(self.shape[-1], weight=self.weight, dtype=self.dtype)(h).astype(jnp.float32))


class ResNetCritic(nn.Module):
    """Image [B, H, W, C] -> score [B]: residual blocks, ReLU, a sum over the positions, a dense layer; with spectral
    normalisation by default (Miyato et al. 2018, arXiv:1802.05957, table 4).

    Labels join by projection (classes: how many; Miyato and Koyama 2018, arXiv:1802.05637), or are told by `heads`.
    plain: blocks that do not halve, at the end, of which SNGAN has 2 at 8x8. Otherwise as the generator.
    """

    width: int = 128
    most: int = 128
    smallest: int = 8
    plain: int = 2
    classes: Classes = None
    heads: Heads | None = None
    attention: int = 0
    weight: Weight | None = spectral
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, condition: Tree = None, train: bool = False) -> Array | Seen:
        count = halvings(x.shape[1:], self.smallest)
        rest, picture = separated(condition, x.shape[0], x.shape[1:3])
        check(picture is None, "this critic takes labels, no images: DCGANCritic does")
        h = x.astype(self.dtype)
        for i in range(count + self.plain):
            features = width_at(self, min(i, max(count - 1, 0)))
            h = DownBlock(features, i < count, i == 0, self.weight, self.dtype)(h)
            if h.shape[1] == self.attention:
                h = SelfAttention(self.weight, self.dtype)(h)
        h = jnp.sum(nn.relu(h), axis=(1, 2))
        dense = partial(Dense, weight=self.weight, dtype=self.dtype)
        return judged(self.heads, h, rest, self.classes, dense, partial(Embed, weight=self.weight))
