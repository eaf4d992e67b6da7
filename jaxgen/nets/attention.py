"""Attention between the tokens of a sequence, and from them to those of another one; positions of tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.conditions import Tokens
from jaxgen.nets.layers import Dense, Dtype
from jaxgen.nets.primitives import attention, constant_std, std_init
from jaxgen.types import Array, check

EVENLY = std_init(1.0, "fan_avg")  # Glorot's


class Attention(nn.Module):
    """W_o softmax(q k^T / sqrt d) v, of tokens x [B, T, C] to each other or, where there are some, to `context`.

    heads: into which C is divided; qk_norm: queries and keys are divided by their root mean square, head by head, and
    have a learned scale each (Henry et al. 2020, arXiv:2010.04245; as in Esser et al. 2024, arXiv:2403.03206, section
    5.3.2); fused: see `primitives.attention`; last: initialiser of W_o.
    """

    heads: int
    qk_norm: bool = False
    fused: bool = True
    last: Any = EVENLY
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, context: Tokens | None = None) -> Array:
        c = x.shape[-1]
        check(c % self.heads == 0, f"{c} channels cannot be split into {self.heads} attention heads")
        if context is None:
            q, k, v = self._split("qkv", x, 3)
        else:
            (q,), (k, v) = self._split("q", x, 1), self._split("kv", context.values, 2, c)
        if self.qk_norm:
            q, k = self._normalise("q_scale", q), self._normalise("k_scale", k)
        h = attention(q, k, v, mask=None if context is None else context.mask, fused=self.fused)
        return Dense(c, kernel_init=self.last, dtype=self.dtype, name="out")(h.reshape(*x.shape))

    def _split(self, name: str, x: Array, parts: int, features: int | None = None) -> Array:
        """[parts, B, T, heads, D] of tokens, by one product."""
        width = x.shape[-1] if features is None else features
        h = Dense(parts * width, kernel_init=EVENLY, dtype=self.dtype, name=name)(x)
        return jnp.moveaxis(h.reshape(*x.shape[:2], parts, self.heads, width // self.heads), 2, 0)

    def _normalise(self, name: str, x: Array) -> Array:
        scale = self.param(name, nn.initializers.ones, x.shape[-1:], jnp.float32)
        wide = x.astype(jnp.float32)
        return (wide * jax.lax.rsqrt(jnp.mean(jnp.square(wide), -1, keepdims=True) + 1e-6) * scale).astype(x.dtype)


def normed(x: Array, eps: float = 1e-6) -> Array:
    """(x - mean) / sqrt(var + eps) over the channels of each token, [..., C], in float32."""
    wide = x.astype(jnp.float32)
    away = wide - jnp.mean(wide, axis=-1, keepdims=True)
    return (away * jax.lax.rsqrt(jnp.mean(jnp.square(away), axis=-1, keepdims=True) + eps)).astype(x.dtype)


class Start(nn.Module):
    """A sequence with a learned vector before it, which every example may attend to: a text that is not known is this
    vector alone."""

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, tokens: Tokens) -> Tokens:
        batch, _, features = tokens.values.shape
        start = self.param("start", constant_std(1.0), (features,), jnp.float32).astype(self.dtype)
        before = jnp.broadcast_to(start, (batch, 1, features))
        values = jnp.concatenate([before, tokens.values.astype(self.dtype)], axis=1)
        return Tokens(values, jnp.concatenate([jnp.ones((batch, 1), bool), tokens.mask], axis=1))


def sincos(length: int, features: int) -> np.ndarray:
    """[sin(p w_i), cos(p w_i)], w_i = 10000^(-i / half), of the positions p = 0, 1, ...: [length, features]
    (Vaswani et al. 2017, arXiv:1706.03762, section 3.5)."""
    check(features % 2 == 0, f"a sine and a cosine a frequency are an even number of features, not {features}")
    half = features // 2
    angle = np.arange(length)[:, None] * np.exp(-math.log(10_000.0) * np.arange(half) / half)
    return np.concatenate([np.sin(angle), np.cos(angle)], axis=1).astype(np.float32)


def sincos_grid(sides: Sequence[int], features: int) -> np.ndarray:
    """Of the positions of a grid, row by row: half of the features of the row, half of the column,
    [height width, features]."""
    check(features % 4 == 0, f"positions on a grid are a multiple of four features, not {features}")
    height, width = sides
    of_row, of_column = sincos(height, features // 2), sincos(width, features // 2)
    pairs = [np.repeat(of_row, width, axis=0), np.tile(of_column, (height, 1))]
    return np.concatenate(pairs, axis=1)
