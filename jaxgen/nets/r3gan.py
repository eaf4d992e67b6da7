"""R3GAN: residual networks without any normalisation, for the relativistic loss with R1 and R2."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax.numpy as jnp

from jaxgen.nets import primitives
from jaxgen.nets.conv import halvings, width_at
from jaxgen.nets.heads import Heads, judged
from jaxgen.nets.layers import Classes, Condition, Conv, Dense, Dtype, joined
from jaxgen.nets.primitives import std_init
from jaxgen.nets.style import enlarged, reduced
from jaxgen.types import Array, Seen, Tree


class Residual(nn.Module):
    """x + W_3 act(W_2 act(W_1 x)): 1x1 to twice the channels, a 3x3 convolution in groups of 16, 1x1 back; W_3 is 0 at
    first and the others are scaled by depth^(-1/4), so that the network begins as the identity and its first steps are
    of one size at any depth (Huang et al. 2025, arXiv:2501.05441, section 3 and figure 4; Zhang et al. 2019,
    arXiv:1901.09321, Fixup)."""

    depth: int
    group: int = 16
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        channels, scale = x.shape[-1], 2.0 * self.depth**-0.5
        wide = 2 * channels
        act = partial(nn.leaky_relu, negative_slope=0.2)
        layer = partial(Conv, wide, kernel_init=std_init(scale), dtype=self.dtype)
        h = act(layer(size=1)(x))
        h = act(layer(groups=max(1, wide // self.group))(h))
        return x + Conv(channels, 1, bias=False, kernel_init=std_init(0.0), dtype=self.dtype)(h)


class R3Generator(nn.Module):
    """z [B, D] -> image [B, *shape]: a learned 4x4 basis, scaled by a linear map of z; at each scale residual blocks,
    bilinear enlarging and a 1x1 convolution where the number of channels changes (Huang et al. 2025, arXiv:2501.05441,
    section 3.3). The i-th scale from the full size has min(2^i width, most) channels; labels join z, embedded."""

    shape: Sequence[int]
    width: int = 64
    most: int = 512
    blocks: int = 2
    classes: Classes = None
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, z: Array, condition: Tree = None, train: bool = False) -> Array:
        count = halvings(self.shape, 4)
        c = Condition(self.classes, z.shape[-1], dtype=self.dtype)(condition, z.shape[0])
        first = width_at(self, count)
        small = (self.shape[0] >> count, self.shape[1] >> count, first)
        basis = self.param("basis", primitives.constant_std(1.0), small, jnp.float32)
        h = basis.astype(self.dtype) * Dense(first, bias=False, dtype=self.dtype)(joined(z, c))[:, None, None, :]
        for i in reversed(range(count + 1)):
            if i < count:
                h = _changed(enlarged(h), width_at(self, i), self.dtype)
            for _ in range(self.blocks):
                h = Residual(self.blocks * (count + 1), dtype=self.dtype)(h)
        return Conv(self.shape[-1], 1, dtype=self.dtype)(h).astype(jnp.float32)


class R3Critic(nn.Module):
    """Image [B, H, W, C] -> score [B]: the generator's mirror image; at 4x4 every channel is weighted over its
    positions and a dense layer follows (Huang et al. 2025, arXiv:2501.05441, section 3.3); labels by projection."""

    width: int = 64
    most: int = 512
    blocks: int = 2
    classes: Classes = None
    heads: Heads | None = None
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, condition: Tree = None, train: bool = False) -> Array | Seen:
        count = halvings(x.shape[1:], 4)
        h = Conv(self.width, 1, dtype=self.dtype)(x.astype(self.dtype))
        for i in range(count + 1):
            for _ in range(self.blocks):
                h = Residual(self.blocks * (count + 1), dtype=self.dtype)(h)
            if i < count:
                h = _changed(reduced(h), width_at(self, i + 1), self.dtype)
        init = primitives.constant_std((h.shape[1] * h.shape[2]) ** -0.5)
        weight = self.param("positions", init, h.shape[1:], jnp.float32)
        h = jnp.sum(h * weight.astype(self.dtype), axis=(1, 2))
        return judged(self.heads, h, condition, self.classes, partial(Dense, dtype=self.dtype))


def _changed(x: Array, features: int, dtype: Dtype) -> Array:
    """A 1x1 convolution where the number of channels changes; inside a module, whose layer it is."""
    return x if x.shape[-1] == features else Conv(features, 1, bias=False, dtype=dtype)(x)
