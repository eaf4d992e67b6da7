"""StyleGAN and StyleGAN2: a mapping network, two synthesis networks, and a residual critic.

All layers have the equalised learning rate. The i-th scale from the full size has min(2^i width, most) channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxgen.nets import primitives
from jaxgen.nets.conv import halvings, width_at
from jaxgen.nets.heads import Heads, judged
from jaxgen.nets.layers import Classes, Condition, Conv, Dense, Dtype, joined
from jaxgen.nets.minibatch import MinibatchStd
from jaxgen.nets.norms import AdaIN, pixel_norm
from jaxgen.nets.primitives import constant_std
from jaxgen.nets.weights import equalised
from jaxgen.types import Array, Keys, Seen, Tree, check, normal


def equal(layer: type, *args, gain: float = 1.0, rate: float = 1.0, **options) -> nn.Module:
    """A layer with the equalised learning rate."""
    return layer(*args, weight=equalised(gain, rate), kernel_init=constant_std(1.0 / rate), **options)


def leaky(x: Array) -> Array:
    """Leaky ReLU of slope 0.2, which keeps a mean square of 1."""
    return nn.leaky_relu(x, 0.2) * math.sqrt(2.0)


def enlarged(x: Array) -> Array:
    """Twice as large by the filter (1, 3, 3, 1), bilinear: a new pixel is 3/4 the nearest old one and 1/4 the next."""
    for axis in (1, 2):
        n, (first, last) = x.shape[axis], _edges(x, axis)
        before = jax.lax.slice_in_dim(jnp.concatenate([first, x], axis), 0, n, axis=axis)
        after = jax.lax.slice_in_dim(jnp.concatenate([x, last], axis), 1, n + 1, axis=axis)
        both = jnp.stack([0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after], axis=axis + 1)
        x = both.reshape(*x.shape[:axis], 2 * n, *x.shape[axis + 1 :])
    return x


def reduced(x: Array) -> Array:
    """Half as large by the same filter."""
    for axis in (1, 2):
        n, (first, last) = x.shape[axis], _edges(x, axis)
        wide = jnp.concatenate([first, x, last], axis)
        parts = [jax.lax.slice_in_dim(wide, i, i + n - 1, 2, axis=axis) for i in range(4)]
        x = (parts[0] + 3.0 * parts[1] + 3.0 * parts[2] + parts[3]) / 8.0
    return x


def _edges(x: Array, axis: int) -> tuple[Array, Array]:
    n = x.shape[axis]
    return jax.lax.slice_in_dim(x, 0, 1, axis=axis), jax.lax.slice_in_dim(x, n - 1, n, axis=axis)


def styles(shape: Sequence[int], smallest: int = 4) -> int:
    """How many styles a synthesis network of images [height, width, channels] takes, two a scale."""
    return 2 * (halvings(shape, smallest) + 1)


class Mapping(nn.Module):
    """z [B, D] -> w [B, features]: z made a unit of mean square 1, then fully connected layers at a hundredth of the
    others' rate (Karras et al. 2018, arXiv:1812.04948, section 2 and appendix C). Labels join z, embedded."""

    features: int = 512
    layers: int = 8
    classes: Classes = None
    rate: float = 0.01
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, z: Array, condition: Tree = None, train: bool = False) -> Array:
        c = Condition(self.classes, self.features, dtype=self.dtype)(condition, z.shape[0])
        h = joined(pixel_norm(z.astype(self.dtype)), None if c is None else pixel_norm(c))
        for _ in range(self.layers):
            h = leaky(equal(Dense, self.features, rate=self.rate, dtype=self.dtype)(h))
        return h


class Noise(nn.Module):
    """x + b eps, eps ~ N(0, 1) a pixel, the same in all channels, b learned and 0 at first; without keys eps = 0."""

    number: int

    @nn.compact
    def __call__(self, x: Array, keys: Keys | None) -> Array:
        b = self.param("strength", nn.initializers.zeros, (), jnp.float32)
        if keys is None:
            return x
        own = jax.vmap(jax.random.fold_in, (0, None))(keys, self.number)
        return x + (b * normal(own, (*x.shape[1:3], 1))).astype(x.dtype)


class ModulatedConv(nn.Module):
    """y = conv(x, w'), w'_ijk = s_i w_ijk / sqrt(sum_ik (s_i w_ijk)^2 + eps): kernels scaled by a style s = A w, then
    to unit length, an image at a time (Karras et al. 2019, arXiv:1912.04958, eq. 1 and 3). Scaling the channels of x
    by s and those of y by the length is the same, and needs one kernel for all images."""

    features: int
    size: int = 3
    demodulate: bool = True
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, w: Array) -> Array:
        channels = x.shape[-1]
        s = 1.0 + equal(Dense, channels, dtype=self.dtype, name="style")(w)
        shape = (self.size, self.size, channels, self.features)
        kernel = self.param("kernel", constant_std(1.0), shape, jnp.float32) / math.sqrt(math.prod(shape[:-1]))
        y = primitives.conv(x * s[:, None, None, :], kernel.astype(self.dtype))
        if self.demodulate:
            lengths = jnp.square(s.astype(jnp.float32)) @ jnp.sum(jnp.square(kernel), axis=(0, 1))
            y = y * jax.lax.rsqrt(lengths + 1e-8)[:, None, None, :].astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        return y + bias.astype(self.dtype)


class StyleSynthesis(nn.Module):
    """(w [B, styles, D], keys [B]) -> image [B, *shape]: a learned constant of about 4x4, at each scale two 3x3
    convolutions, each with noise, leaky ReLU and AdaIN by its own style (Karras et al. 2018, arXiv:1812.04948, figure
    1b)."""

    shape: Sequence[int]
    width: int = 64
    most: int = 512
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, w: Array, keys: Keys | None = None, train: bool = False) -> Array:
        count, at = halvings(self.shape, 4), 0
        h = constant(self, w, count)
        for i in reversed(range(count + 1)):
            for second in (False, True):
                if i < count and not second:
                    h = enlarged(h)
                if i < count or second:  # the first layer is the constant's own
                    h = equal(Conv, width_at(self, i), dtype=self.dtype)(h)
                h = leaky(Noise(at)(h, keys))
                h = AdaIN(partial(equal, Dense), dtype=self.dtype)(h, w[:, at])
                at += 1
        return equal(Conv, self.shape[-1], 1, dtype=self.dtype, name="image")(h).astype(jnp.float32)


class StyleSynthesis2(nn.Module):
    """(w [B, styles, D], keys [B]) -> image [B, *shape], the sum of images made at each scale and enlarged; modulated
    convolutions, noise, leaky ReLU (Karras et al. 2019, arXiv:1912.04958, figures 2d and 7b)."""

    shape: Sequence[int]
    width: int = 64
    most: int = 512
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, w: Array, keys: Keys | None = None, train: bool = False) -> Array:
        count, at = halvings(self.shape, 4), 0
        h, image = constant(self, w, count), jnp.zeros(())
        for i in reversed(range(count + 1)):
            for enlarge in (True, False) if i < count else (False,):
                h = enlarged(h) if enlarge else h
                h = ModulatedConv(width_at(self, i), dtype=self.dtype)(h, w[:, at])
                h = leaky(Noise(at)(h, keys))
                at += 1
            layer = ModulatedConv(self.shape[-1], 1, demodulate=False, dtype=self.dtype)
            part = layer(h, w[:, at]).astype(jnp.float32)
            image = enlarged(image) + part if i < count else part
        return image


def constant(module: StyleSynthesis | StyleSynthesis2, w: Array, count: int) -> Array:
    """The learned constant with which a synthesis begins, `count` halvings below its images, for each w [B, styles, D].
    InputError for another number of styles."""
    shape, needed = tuple(module.shape), styles(module.shape)
    fits = w.ndim == 3 and w.shape[1] == needed
    check(fits, f"a synthesis of images {shape} takes w [B, {needed}, D], one row a style, not {list(w.shape)}")
    small = (1, shape[0] >> count, shape[1] >> count, width_at(module, count))
    const = module.param("constant", constant_std(1.0), small, jnp.float32)
    return jnp.broadcast_to(const, (w.shape[0], *small[1:])).astype(module.dtype)


class StyleCritic(nn.Module):
    """Image [B, H, W, C] -> score [B]: residual blocks (a shortcut of one 1x1 convolution, the sum divided by sqrt 2),
    the deviation of the minibatch, a dense layer (Karras et al. 2019, arXiv:1912.04958, figure 7c and appendix B)."""

    width: int = 64
    most: int = 512
    group: int = 4
    classes: Classes = None
    heads: Heads | None = None
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, condition: Tree = None, train: bool = False) -> Array | Seen:
        count = halvings(x.shape[1:], 4)
        conv = partial(equal, Conv, dtype=self.dtype)
        h = leaky(conv(self.width, 1, name="from_image")(x.astype(self.dtype)))
        for i in range(count):
            features = width_at(self, i + 1)
            short = conv(features, 1, bias=False)(reduced(h))
            h = leaky(conv(h.shape[-1])(h))
            h = leaky(conv(features)(reduced(h)))
            h = (short + h) / math.sqrt(2.0)
        h = leaky(conv(h.shape[-1])(MinibatchStd(self.group)(h)))
        dense = partial(equal, Dense, dtype=self.dtype)
        h = leaky(dense(h.shape[-1])(h.reshape(h.shape[0], -1)))
        return judged(self.heads, h, condition, self.classes, dense)
