"""Flax layers over the package's primitives. Parameters are float32; `dtype` is that of the computation."""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxgen.nets import primitives
from jaxgen.types import Array, check

Dtype = Any
AXIS = "data"  # the name of the mapped batch axis, where a layout maps one


def mapped(axis: str = AXIS) -> str | None:
    """The axis' name inside a function that is mapped over it (pmap, shard_map), else None: under jit the batch
    is whole, and a mean over it needs no collective."""
    try:
        jax.lax.axis_index(axis)
    except NameError:
        return None
    return axis


class Dense(nn.Module):
    """y = x W + b over the last axis."""

    features: int
    bias: bool = True
    init: Any = primitives.std_init()
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.param("kernel", self.init, (x.shape[-1], self.features), jnp.float32)
        y = primitives.dense(x.astype(self.dtype), kernel.astype(self.dtype))
        return y + _bias(self) if self.bias else y


class Conv(nn.Module):
    """A convolution, NHWC."""

    features: int
    size: int = 3
    stride: int = 1
    padding: Any = "SAME"
    bias: bool = True
    init: Any = primitives.std_init()
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", self.init, shape, jnp.float32)
        y = self._slide(x.astype(self.dtype), kernel.astype(self.dtype))
        return y + _bias(self) if self.bias else y

    def _slide(self, x: Array, kernel: Array) -> Array:
        return primitives.conv(x, kernel, stride=self.stride, padding=self.padding)


class ConvTranspose(Conv):
    """A transposed convolution, NHWC: `stride` times as large with padding "SAME"."""

    size: int = 4
    stride: int = 2

    def _slide(self, x: Array, kernel: Array) -> Array:
        return primitives.conv_transpose(x, kernel, stride=self.stride, padding=self.padding)


def _bias(layer: Any) -> Array:
    return layer.param("bias", nn.initializers.zeros, (layer.features,), jnp.float32).astype(layer.dtype)


class Embed(nn.Module):
    """A learned vector for each of `count` labels: int [B] -> [B, features]."""

    count: int
    features: int
    std: float = 1.0
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, label: Array) -> Array:
        check(jnp.issubdtype(label.dtype, jnp.integer), f"a label must be an integer array, not {label.dtype}")
        table = self.param("embedding", primitives.constant_std(self.std), (self.count, self.features), jnp.float32)
        return table.astype(self.dtype)[label]


class BatchNorm(nn.Module):
    """(x - mean) / sqrt(var + eps) gamma + beta, the statistics of the whole batch wherever its parts lie, and
    their running averages when not training (Ioffe and Szegedy 2015, arXiv:1502.03167, algorithm 1)."""

    momentum: float = 0.9
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        norm = nn.BatchNorm(
            use_running_average=not train, momentum=self.momentum, dtype=self.dtype, axis_name=mapped(), name="norm"
        )
        return norm(x)


class GroupNorm(nn.Module):
    """(x - mean) / sqrt(var + eps) gamma + beta over each example's positions and each group of channels
    (Wu and He 2018, arXiv:1803.08494, eq. 7); at most 32 groups, of at least four channels where there are as many.

    Sums over the positions come first, then groups of the [B, C] that is left, and the whole is one product and one sum
    an element: grouping the image itself, as the equation reads, is slower on the CPU (`benchmarks/primitives.py`).
    """

    affine: bool = True
    eps: float = 1e-5
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        b, c = x.shape[0], x.shape[-1]
        groups = next(g for g in range(max(1, min(32, c // 4)), 0, -1) if c % g == 0)
        axes = tuple(range(1, x.ndim - 1))
        wide = x.astype(jnp.float32)

        def grouped(v: Array) -> Array:
            means = jnp.mean(v, axis=axes).reshape(b, groups, c // groups).mean(-1, keepdims=True)
            return jnp.broadcast_to(means, (b, groups, c // groups)).reshape((b,) + (1,) * len(axes) + (c,))

        mean = grouped(wide)
        scale = jax.lax.rsqrt(grouped(jnp.square(wide - mean)) + self.eps)
        if self.affine:
            scale = scale * self.param("scale", nn.initializers.ones, (c,), jnp.float32)
        shift = -mean * scale
        if self.affine:
            shift = shift + self.param("bias", nn.initializers.zeros, (c,), jnp.float32)
        return (wide * scale + shift).astype(self.dtype)


def joined(x: Array, condition: Array | None) -> Array:
    """The features of a condition behind those of x, [..., C + features]; x itself where there is none."""
    return x if condition is None else jnp.concatenate([x, condition.astype(x.dtype)], axis=-1)


class Condition(nn.Module):
    """A condition as features [B, F]: a label [B] of `classes` is embedded, [B, features]; attributes [B, K] and images
    are numbers already and are flattened; None, of an unconditional model, stays None.

    With `null`, a condition of None (or the label `classes`) means "no condition" and has a vector of its own.
    """

    classes: int | None
    features: int
    null: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, condition: Array | None, batch: int) -> Array | None:
        if self.classes is None:
            if condition is None:
                return None
            floating = jnp.issubdtype(condition.dtype, jnp.floating)
            check(floating, "this network is given labels: say how many there are, with classes=")
            return condition.reshape(batch, -1).astype(self.dtype)
        check(condition is not None or self.null, f"this model is conditional: give a label, 0 to {self.classes - 1}")
        label = jnp.full((batch,), self.classes) if condition is None else condition
        return Embed(self.classes + self.null, self.features, dtype=self.dtype)(label)


def time_features(t: Array, features: int, dtype: Dtype = jnp.float32) -> Array:
    """[cos(1000 t w_i), sin(1000 t w_i)], w_i = 10000^(-i / half): [B] in [0, 1] -> [B, features]
    (Vaswani et al. 2017, arXiv:1706.03762, section 3.5; Ho et al. 2020 count the time to 1000)."""
    half = features // 2
    w = jnp.exp(-math.log(10_000.0) * jnp.arange(half) / half)
    angle = 1000.0 * t[:, None].astype(jnp.float32) * w
    return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1).astype(dtype)
