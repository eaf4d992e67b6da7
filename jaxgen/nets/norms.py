"""Normalisations, each a small module of its equation: (x - mean) / sqrt(var + eps) gamma + beta, over different axes.

Batch, layer, instance, group and pixel; and those whose gamma and beta come from elsewhere, a class or a style.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxgen.nets.layers import Dense, Dtype, mapped
from jaxgen.types import Array, Tree, check


class BatchNorm(nn.Module):
    """(x - mean) / sqrt(var + eps) gamma + beta, the statistics of the global batch wherever its parts lie,
    and their running averages when not training (Ioffe and Szegedy 2015, arXiv:1502.03167, algorithm 1).

    affine: with gamma and beta."""

    momentum: float = 0.9
    affine: bool = True
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        norm = nn.BatchNorm(
            use_running_average=not train,
            momentum=self.momentum,
            use_scale=self.affine,
            use_bias=self.affine,
            dtype=self.dtype,
            axis_name=mapped(),
            name="norm",
        )
        return norm(x)


class GroupNorm(nn.Module):
    """(x - mean) / sqrt(var + eps) gamma + beta over each example's positions and each group of channels
    (Wu and He 2018, arXiv:1803.08494, eq. 7). groups: by default at most 32, of at least four channels where there are
    as many; 1 is layer normalisation, 0 instance normalisation: a group a channel.

    Sums over the positions come first, then groups of the [B, C] that is left, and the result is one product and one
    sum an element: grouping the image itself, as the equation reads, is slower on the CPU (`benchmarks/primitives.py`).
    """

    affine: bool = True
    eps: float = 1e-5
    groups: int | None = None
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        b, c = x.shape[0], x.shape[-1]
        groups = self._groups(c)
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

    def _groups(self, channels: int) -> int:
        if self.groups is None:
            return next(g for g in range(max(1, min(32, channels // 4)), 0, -1) if channels % g == 0)
        groups = self.groups or channels
        check(channels % groups == 0, f"{channels} channels do not fall into {groups} groups: choose a divisor")
        return groups


def LayerNorm(**options) -> GroupNorm:
    """Over all positions and channels of an example (Ba, Kiros and Hinton 2016, arXiv:1607.06450, eq. 3)."""
    return GroupNorm(groups=1, **options)


def InstanceNorm(**options) -> GroupNorm:
    """Over the positions of each channel of an example (Ulyanov, Vedaldi and Lempitsky 2016, arXiv:1607.08022,
    eq. 4)."""
    return GroupNorm(groups=0, **options)


class AdaIN(nn.Module):
    """y_s (x - mean) / sd + y_b, an instance normalisation whose scale and shift are a linear map of a style w [B, F]
    (Karras et al. 2018, arXiv:1812.04948, eq. 1; Huang and Belongie 2017, arXiv:1703.06868, eq. 8). At first y_s is 1
    on average."""

    dense: Callable[[int], nn.Module] = Dense
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, w: Array) -> Array:
        scale, shift = jnp.split(self.dense(2 * x.shape[-1])(w), 2, axis=-1)
        over = (x.shape[0],) + (1,) * (x.ndim - 2) + (-1,)
        h = InstanceNorm(affine=False, dtype=self.dtype)(x)
        return h * (1.0 + scale.reshape(over)) + shift.reshape(over)


class ConditionalBatchNorm(nn.Module):
    """Batch normalisation whose gamma = 1 + W c and beta = V c are linear maps of a condition c [B, F], an embedded
    label for example (Dumoulin, Shlens and Kudlur 2016, arXiv:1610.07629, eq. 5; as in Brock, Donahue and Simonyan
    2018, arXiv:1809.11096, appendix B)."""

    dense: Callable[..., nn.Module] = Dense
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, c: Array, train: bool) -> Array:
        over = (x.shape[0],) + (1,) * (x.ndim - 2) + (-1,)
        gain, shift = (self.dense(x.shape[-1], bias=False, name=name)(c).reshape(over) for name in ("gain", "shift"))
        return BatchNorm(affine=False, dtype=self.dtype)(x, train) * (1.0 + gain) + shift


def pixel_norm(x: Array, eps: float = 1e-8) -> Array:
    """x / sqrt(mean of x^2 over the channels + eps), [..., C] (Karras et al. 2017, arXiv:1710.10196, section 4.2)."""
    return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + eps)


class VirtualBatchNorm(nn.Module):
    """Batch normalisation by the statistics of a reference batch and of the example itself, so that examples of a
    minibatch do not depend on each other (Salimans et al. 2016, arXiv:1606.03498, section 3.5).

    The first `reference` rows of x are the activations of the reference batch, as in a network inside `Referenced`:
    example i is normalised by the first two moments (R m + m_i) / (R + 1), m_i its own means over positions.
    """

    reference: int
    eps: float = 1e-5
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        axes = tuple(range(1, x.ndim - 1))
        wide = x.astype(jnp.float32)
        r = self.reference

        own_share = jnp.where(jnp.arange(x.shape[0]) < r, 0.0, 1.0 / (r + 1.0)).reshape((-1,) + (1,) * (x.ndim - 1))

        def moment(v: Array) -> Array:
            own = jnp.mean(v, axis=axes, keepdims=True)
            of_reference = jnp.mean(own[:r], axis=0, keepdims=True)
            return of_reference + own_share * (own - of_reference)

        mean = moment(wide)
        var = moment(jnp.square(wide)) - jnp.square(mean)
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],), jnp.float32)
        return ((wide - mean) * jax.lax.rsqrt(jnp.maximum(var, 0.0) + self.eps) * scale + bias).astype(self.dtype)


class Referenced(nn.Module):
    """A network whose layers are `VirtualBatchNorm(count)`: a reference batch goes before its input and is left out of
    its output. The batch is the first `count` examples of the first real minibatch, and is saved with the run. Layers
    that compare the examples of a minibatch with each other have no place inside: the reference is among them."""

    net: nn.Module
    count: int = 64

    @nn.compact
    def __call__(self, x: Array, condition: Tree = None, train: bool = False) -> Any:
        inputs = (x, condition)
        n = x.shape[0]
        if not self.has_variable("reference", "inputs"):
            check(n >= self.count, f"a reference batch of {self.count} needs a minibatch as large, this one has {n}")
        first = self.variable("reference", "inputs", lambda: jax.tree.map(lambda a: a[: self.count], inputs))
        joined = jax.tree.map(lambda a, b: jnp.concatenate([a.astype(b.dtype), b]), first.value, inputs)
        output = self.net(*joined, train)
        return jax.tree.map(lambda a: a[self.count :], output)
