"""The UNet of diffusion models: residual blocks, attention at chosen sizes, the time as scale and shift."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from jaxgen.conditions import Tokens
from jaxgen.nets.attention import Attention, Start
from jaxgen.nets.layers import (
    Classes,
    Condition,
    Conv,
    Dense,
    Dropout,
    Dtype,
    fourier_features,
    joined,
    rematerialised,
    separated,
    time_features,
    tokens_in,
)
from jaxgen.nets.norms import GroupNorm
from jaxgen.nets.primitives import attention, constant_std, windows
from jaxgen.types import Array, Keys, Tree, check

NEARLY_ZERO = constant_std(1e-5)  # a block starts as the identity, its gradient does not start at nothing


def doubled(x: Array) -> Array:
    """Every pixel four times: [B, H, W, C] -> [B, 2 H, 2 W, C]."""
    return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)


def filtered(x: Array, taps: Sequence[int], up: bool) -> Array:
    """Twice as large (up), or half as large, by a separable filter of an even number of taps, of the sum 1: with zeros
    between the pixels and four times the filter, or every second pixel after it. (1, 1) repeats pixels and takes means
    of four, as DDPM++ does, (1, 3, 3, 1) blurs, as NCSN++ does (Karras et al. 2022, arXiv:2206.00364, appendix F)."""
    check(len(taps) >= 2 and len(taps) % 2 == 0, f"a filter has an even number of taps, not {len(taps)}")
    for axis in (1, 2):
        x = _filtered(x, axis, [tap / sum(taps) for tap in taps], up)
    return x


def _filtered(x: Array, axis: int, taps: Sequence[float], up: bool) -> Array:
    """Along one axis, as a sum of slices: a convolution channel by channel is slower on the CPU."""
    reach, pads = len(taps) // 2, [(0, 0)] * 4
    if up:
        pairs = jnp.stack([x, jnp.zeros_like(x)], axis=axis + 1)
        x = pairs.reshape(*x.shape[:axis], 2 * x.shape[axis], *x.shape[axis + 1 :])
    pads[axis] = (reach, reach - 1) if up else (reach - 1, reach - 1)
    parts = windows(jnp.pad(x, pads), axis, len(taps), 1 if up else 2)
    return sum((1 + up) * tap * part for tap, part in zip(taps, parts, strict=True))  # type: ignore[return-value]


class ResBlock(nn.Module):
    """h + conv(silu((1 + scale) norm(conv(silu(norm(h)))) + shift)), scale and shift from the embedding e [B, E]
    (Dhariwal and Nichol 2021, arXiv:2105.05233, section 3, "adaptive group normalisation").

    dropout: before the second convolution; scaled: the sum is divided by sqrt 2; resampled: "up" or "down" by the
    filter `taps`, of both parts of the sum (Song et al. 2020, arXiv:2011.13456, appendix H).
    """

    features: int
    dtype: Dtype = jnp.float32
    dropout: float = 0.0
    scaled: bool = False
    resampled: str = ""
    taps: Sequence[int] = (1, 1)

    @nn.compact
    def __call__(self, x: Array, e: Array, keys: Keys | None = None) -> Array:
        h = nn.silu(GroupNorm(dtype=self.dtype)(x))
        if self.resampled:
            h, x = (filtered(a.astype(self.dtype), self.taps, self.resampled == "up") for a in (h, x))
        h = Conv(self.features, dtype=self.dtype)(h)
        scale, shift = jnp.split(Dense(2 * self.features, dtype=self.dtype)(e)[:, None, None, :], 2, axis=-1)
        h = GroupNorm(affine=False, dtype=self.dtype)(h) * (1.0 + scale) + shift
        h = Dropout(self.dropout)(nn.silu(h), keys)
        h = Conv(self.features, kernel_init=NEARLY_ZERO, dtype=self.dtype)(h)
        skip = x if x.shape[-1] == self.features else Conv(self.features, 1, dtype=self.dtype)(x)
        return added(skip.astype(h.dtype), h, self.scaled)


def added(skip: Array, h: Array, scaled: bool) -> Array:
    """skip + h; divided by sqrt 2, which keeps the variance of two parts that are not correlated, where `scaled`."""
    return (skip + h) * math.sqrt(0.5) if scaled else skip + h


class SelfAttention(nn.Module):
    """x + W softmax(q k^T / sqrt(d)) v over the positions of an image. fused: see `primitives.attention`."""

    heads: int
    dtype: Dtype = jnp.float32
    scaled: bool = False
    fused: bool = True

    @nn.compact
    def __call__(self, x: Array) -> Array:
        b, height, width, c = x.shape
        check(c % self.heads == 0, f"{c} channels cannot be split into {self.heads} attention heads")
        qkv = Dense(3 * c, dtype=self.dtype)(GroupNorm(dtype=self.dtype)(x).reshape(b, height * width, c))
        q, k, v = jnp.moveaxis(qkv.reshape(b, height * width, 3, self.heads, c // self.heads), 2, 0)
        h = attention(q, k, v, fused=self.fused).reshape(b, height, width, c)
        return added(x, Dense(c, kernel_init=NEARLY_ZERO, dtype=self.dtype)(h), self.scaled)


class CrossAttention(nn.Module):
    """x + attention(norm(x), text): every position of an image attends to the tokens of a text (Rombach et al. 2022,
    arXiv:2112.10752, section 3.3)."""

    heads: int
    dtype: Dtype = jnp.float32
    scaled: bool = False
    fused: bool = True

    @nn.compact
    def __call__(self, x: Array, text: Tokens) -> Array:
        h = GroupNorm(dtype=self.dtype)(x).reshape(x.shape[0], -1, x.shape[-1])
        h = Attention(self.heads, fused=self.fused, last=NEARLY_ZERO, dtype=self.dtype)(h, text)
        return added(x, h.reshape(x.shape), self.scaled)


class UNet(nn.Module):
    """(x_t [B, H, W, C], t [B], condition) -> [B, H, W, C] (Ho et al. 2020, arXiv:2006.11239, appendix B).

    Labels, attributes and the mean of a text's vectors are added to the embedding of the time (classes: of the labels,
    see `layers.Condition`); images to condition on join x_t as channels (Saharia et al. 2021, arXiv:2104.07636); the
    levels that attend also attend to the tokens of a text.
    width: channels at full size; multipliers: of the width, one a resolution; blocks: residual blocks a resolution;
    attention_at: image heights that attend; heads: of the attention; dropout: in the residual blocks; remat: their
    activations are computed again in the backward pass; fused: False where the network is differentiated forward, see
    `primitives.attention`.

    EDM's variant (Karras et al. 2022, arXiv:2206.00364, appendix F, after Song et al. 2020, arXiv:2011.13456,
    "DDPM++"): scaled=True divides every sum by sqrt 2, filter=(1, 1) halves and doubles the image inside residual
    blocks by that filter instead of by a convolution each.

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
    dropout: float = 0.0
    scaled: bool = False
    filter: Sequence[int] | None = None
    remat: bool = False
    fused: bool = True

    @nn.compact
    def __call__(
        self, x: Array, t: Array, condition: Tree = None, train: bool = False, keys: Keys | None = None
    ) -> Array:
        times = 2 ** (len(self.multipliers) - 1)
        check(
            x.shape[1] % times == 0 and x.shape[2] % times == 0,
            f"a UNet of {len(self.multipliers)} resolutions needs image sides divisible by {times}, not {x.shape[1:3]}",
        )
        rest, image = separated(condition, x.shape[0], x.shape[1:3])
        text = tokens_in(rest)
        text = None if text is None else Start(self.dtype)(text)
        levels = Levels(self, self._embed(t, rest), text, keys)
        h = Conv(self.width, dtype=self.dtype)(joined(joined(x, fourier_features(x, self.fourier)), image))
        skips = [h]
        for level, m in enumerate(self.multipliers):
            for _ in range(self.blocks):
                h = levels.block(h, m)
                skips.append(h)
            if level < len(self.multipliers) - 1:
                h = levels.halve(h)
                skips.append(h)
        h = levels.residual(h, h.shape[-1])
        h = levels.residual(levels.attend(h), h.shape[-1])
        for level, m in reversed(list(enumerate(self.multipliers))):
            for _ in range(self.blocks + 1):
                h = levels.block(jnp.concatenate([h, skips.pop()], axis=-1), m)
            if level > 0:
                h = levels.double(h)
        h = nn.silu(GroupNorm(dtype=self.dtype)(h))
        return Conv(self.outputs or x.shape[-1], kernel_init=NEARLY_ZERO, dtype=self.dtype)(h).astype(jnp.float32)

    def _embed(self, t: Array, condition: Tree) -> Array:
        features = 4 * self.width
        e = Dense(features, dtype=self.dtype)(time_features(t, self.width, self.dtype))
        e = Dense(features, dtype=self.dtype)(nn.silu(e))
        c = Condition(self.classes, features, project=True, dtype=self.dtype)(condition, t.shape[0])
        return nn.silu(e if c is None else e + c)


class Levels(NamedTuple):
    """The parts of a UNet at work, with what they share: the embedding e [B, E], the text, the keys of dropout."""

    net: UNet
    e: Array
    text: Tokens | None
    keys: Keys | None

    def residual(self, h: Array, features: int, resampled: str = "") -> Array:
        net, layer = self.net, rematerialised(ResBlock) if self.net.remat else ResBlock
        taps = net.filter or (1, 1)
        return layer(features, net.dtype, net.dropout, net.scaled, resampled, taps)(h, self.e, self.keys)

    def attend(self, h: Array) -> Array:
        options = (self.net.heads, self.net.dtype, self.net.scaled, self.net.fused)
        h = SelfAttention(*options)(h)
        return h if self.text is None else CrossAttention(*options)(h, self.text)

    def block(self, h: Array, multiplier: int) -> Array:
        h = self.residual(h, self.net.width * multiplier)
        return self.attend(h) if h.shape[1] in self.net.attention_at else h

    def halve(self, h: Array) -> Array:
        c = h.shape[-1]
        return self.residual(h, c, "down") if self.net.filter else Conv(c, 3, 2, dtype=self.net.dtype)(h)

    def double(self, h: Array) -> Array:
        c = h.shape[-1]
        return self.residual(h, c, "up") if self.net.filter else Conv(c, dtype=self.net.dtype)(doubled(h))


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
