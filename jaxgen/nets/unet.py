"""The UNet of diffusion models: residual blocks, attention at chosen sizes, the time as scale and shift."""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp

from jaxgen.nets.layers import (
    Classes,
    Condition,
    Conv,
    Dense,
    Dtype,
    fourier_features,
    joined,
    separated,
    time_features,
)
from jaxgen.nets.norms import GroupNorm
from jaxgen.nets.primitives import attention, constant_std
from jaxgen.types import Array, Tree, check

NEARLY_ZERO = constant_std(1e-5)  # a block starts as the identity, its gradient does not start at nothing


class ResBlock(nn.Module):
    """h + conv(silu((1 + scale) norm(conv(silu(norm(h)))) + shift)), scale and shift from the embedding e [B, E]
    (Dhariwal and Nichol 2021, arXiv:2105.05233, section 3, "adaptive group normalisation")."""

    features: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, e: Array) -> Array:
        h = nn.silu(GroupNorm(dtype=self.dtype)(x))
        h = Conv(self.features, dtype=self.dtype)(h)
        scale, shift = jnp.split(Dense(2 * self.features, dtype=self.dtype)(e)[:, None, None, :], 2, axis=-1)
        h = GroupNorm(affine=False, dtype=self.dtype)(h) * (1.0 + scale) + shift
        h = Conv(self.features, kernel_init=NEARLY_ZERO, dtype=self.dtype)(nn.silu(h))
        skip = x if x.shape[-1] == self.features else Conv(self.features, 1, dtype=self.dtype)(x)
        return skip.astype(h.dtype) + h


class SelfAttention(nn.Module):
    """x + W softmax(q k^T / sqrt(d)) v over the positions of an image."""

    heads: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        b, height, width, c = x.shape
        check(c % self.heads == 0, f"{c} channels cannot be split into {self.heads} attention heads")
        qkv = Dense(3 * c, dtype=self.dtype)(GroupNorm(dtype=self.dtype)(x).reshape(b, height * width, c))
        q, k, v = jnp.moveaxis(qkv.reshape(b, height * width, 3, self.heads, c // self.heads), 2, 0)
        h = attention(q, k, v).reshape(b, height, width, c)
        return x + Dense(c, kernel_init=NEARLY_ZERO, dtype=self.dtype)(h)


class UNet(nn.Module):
    """(x_t [B, H, W, C], t [B], condition) -> [B, H, W, C] (Ho et al. 2020, arXiv:2006.11239, appendix B).

    Labels and attributes are added to the embedding of the time (classes: of the labels, see `layers.Condition`);
    images to condition on join x_t as channels (Saharia et al. 2021, arXiv:2104.07636).
    width: channels at full size; multipliers: of the width, one a resolution; blocks: residual blocks a resolution;
    attention_at: image heights that attend; heads: of the attention.
    fourier: exponents n of sin(2^n pi x) and cos(2^n pi x), which join x as channels: a likelihood needs the least
    significant bits of pixels (Kingma et al. 2021, arXiv:2107.00630, appendix C: 7 and 8).
    outputs: channels of the output, those of x by default; twice as many where it learns variances too.
    """

    width: int = 64
    multipliers: Sequence[int] = (1, 2, 2)
    blocks: int = 2
    attention_at: Sequence[int] = (16,)
    heads: int = 4
    classes: Classes = None
    fourier: Sequence[int] = ()
    outputs: int | None = None
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, t: Array, condition: Tree = None, train: bool = False) -> Array:
        times = 2 ** (len(self.multipliers) - 1)
        check(
            x.shape[1] % times == 0 and x.shape[2] % times == 0,
            f"a UNet of {len(self.multipliers)} resolutions needs image sides divisible by {times}, not {x.shape[1:3]}",
        )
        rest, image = separated(condition, x.shape[0], x.shape[1:3])
        e = self._embed(t, rest)
        h = Conv(self.width, dtype=self.dtype)(joined(joined(x, fourier_features(x, self.fourier)), image))
        skips = [h]
        for level, m in enumerate(self.multipliers):
            for _ in range(self.blocks):
                h = self._block(h, e, m)
                skips.append(h)
            if level < len(self.multipliers) - 1:
                h = Conv(h.shape[-1], 3, 2, dtype=self.dtype)(h)
                skips.append(h)
        h = ResBlock(h.shape[-1], self.dtype)(h, e)
        h = ResBlock(h.shape[-1], self.dtype)(self._attend(h), e)
        for level, m in reversed(list(enumerate(self.multipliers))):
            for _ in range(self.blocks + 1):
                h = self._block(jnp.concatenate([h, skips.pop()], axis=-1), e, m)
            if level > 0:
                h = Conv(h.shape[-1], dtype=self.dtype)(jnp.repeat(jnp.repeat(h, 2, axis=1), 2, axis=2))
        h = nn.silu(GroupNorm(dtype=self.dtype)(h))
        return Conv(self.outputs or x.shape[-1], kernel_init=NEARLY_ZERO, dtype=self.dtype)(h).astype(jnp.float32)

    def _embed(self, t: Array, condition: Tree) -> Array:
        features = 4 * self.width
        e = Dense(features, dtype=self.dtype)(time_features(t, self.width, self.dtype))
        e = Dense(features, dtype=self.dtype)(nn.silu(e))
        c = Condition(self.classes, features, project=True, dtype=self.dtype)(condition, t.shape[0])
        return nn.silu(e if c is None else e + c)

    def _block(self, h: Array, e: Array, multiplier: int) -> Array:
        h = ResBlock(self.width * multiplier, self.dtype)(h, e)
        return self._attend(h) if h.shape[1] in self.attention_at else h

    def _attend(self, h: Array) -> Array:
        return SelfAttention(self.heads, self.dtype)(h)


class Classifier(nn.Module):
    """(x_t [B, H, W, C], t [B]) -> logits [B, classes]: the downward half of a `UNet`, then the mean over positions
    (Dhariwal and Nichol 2021, arXiv:2105.05233, section 4 and appendix I, with their attention pool left out)."""

    classes: int
    width: int = 32
    multipliers: Sequence[int] = (1, 2)
    blocks: int = 1
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, t: Array, train: bool = False) -> Array:
        e = Dense(4 * self.width, dtype=self.dtype)(time_features(t, self.width, self.dtype))
        h = Conv(self.width, dtype=self.dtype)(x)
        for level, m in enumerate(self.multipliers):
            for _ in range(self.blocks):
                h = ResBlock(self.width * m, self.dtype)(h, nn.silu(e))
            if level < len(self.multipliers) - 1:
                h = Conv(h.shape[-1], 3, 2, dtype=self.dtype)(h)
        h = jnp.mean(nn.silu(GroupNorm(dtype=self.dtype)(h)), axis=(1, 2))
        return Dense(self.classes, kernel_init=NEARLY_ZERO, dtype=self.dtype)(h).astype(jnp.float32)
