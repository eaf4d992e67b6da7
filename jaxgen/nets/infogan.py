"""InfoGAN's networks, which comparisons of objectives train as well: two convolutions and wide dense layers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax.numpy as jnp

from jaxgen.nets.heads import Heads, seen
from jaxgen.nets.layers import Classes, Condition, Conv, ConvTranspose, Dense, Dtype, Weight, joined
from jaxgen.nets.norms import BatchNorm
from jaxgen.nets.primitives import constant_std, std_init
from jaxgen.types import Array, Seen, Tree

SMALL = constant_std(0.02)


class InfoGANGenerator(nn.Module):
    """z [B, D] -> image [B, *shape] in [-1, 1]: dense layers of 16 width and of 2 width channels at a quarter of the
    sides, then two transposed convolutions, ReLU and batch normalisation behind all but the last, tanh at the end (Chen
    et al. 2016, arXiv:1606.03657, table 1, width 64). Labels and attributes join z.

    norm: without batch normalisation it is a decoder that suits an autoencoder as well; its kernels begin larger then
    (He et al. 2015, arXiv:1502.01852, eq. 10), or hardly anything of z would reach the image.
    """

    shape: Sequence[int]
    width: int = 64
    classes: Classes = None
    norm: bool = True
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, z: Array, condition: Tree = None, train: bool = False) -> Array:
        def active(h: Array) -> Array:
            return nn.relu(BatchNorm(dtype=self.dtype)(h, train) if self.norm else h)

        height, breadth, channels = self.shape
        layer = {"kernel_init": SMALL if self.norm else std_init(2.0), "dtype": self.dtype}
        dense, enlarge = partial(Dense, **layer), partial(ConvTranspose, **layer)
        z = joined(z, Condition(self.classes, 32, dtype=self.dtype)(condition, z.shape[0]))
        small = (height // 4, breadth // 4, 2 * self.width)
        h = active(dense(16 * self.width)(z))
        h = active(dense(math.prod(small))(h)).reshape(-1, *small)
        h = active(enlarge(self.width)(h))
        return jnp.tanh(enlarge(channels)(h).astype(jnp.float32))


class InfoGANCritic(nn.Module):
    """Image [B, H, W, C] -> score [B]: two 4x4 stride-2 convolutions and a dense layer of 16 width, leaky ReLU, batch
    normalisation on all but the first (Chen et al. 2016, arXiv:1606.03657, table 1, width 64 and slope 0.1). Labels and
    attributes join as constant channels.

    norm: batch normalisation, which penalties on each image's gradient forbid. heads: what it gives besides, `Seen`
    with the dense layer as features; with `Heads(projection=True)` a label joins the score alone. weight:
    `weights.spectral`, instead of the batch normalisation.
    """

    width: int = 64
    classes: Classes = None
    norm: bool = True
    slope: float = 0.1
    heads: Heads | None = None
    weight: Weight | None = None
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, condition: Tree = None, train: bool = False) -> Array | Seen:
        def active(h: Array, norm: bool = True) -> Array:
            return nn.leaky_relu(BatchNorm(dtype=self.dtype)(h, train) if norm and self.norm else h, self.slope)

        layer = {"kernel_init": SMALL, "weight": self.weight, "dtype": self.dtype}
        projects = self.heads is not None and self.heads.projection
        c = None if projects else Condition(self.classes, 8, dtype=self.dtype)(condition, x.shape[0])
        if c is not None:
            c = jnp.broadcast_to(c[:, None, None, :], (*x.shape[:3], c.shape[-1]))
        h = active(Conv(self.width, 4, 2, **layer)(joined(x, c)), norm=False)
        h = active(Conv(2 * self.width, 4, 2, **layer)(h))
        h = active(Dense(16 * self.width, **layer)(h.reshape(h.shape[0], -1)))
        found = seen(self.heads or Heads(), h, condition, self.classes, partial(Dense, **layer))
        return found.score if self.heads is None else found
