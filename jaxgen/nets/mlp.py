"""Multilayer perceptrons: encoder, decoder, generator, critic and a denoiser for points."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxgen.nets.layers import Classes, Condition, Dense, Dtype, joined, time_features
from jaxgen.nets.primitives import std_init
from jaxgen.types import Array, Tree


class MLP(nn.Module):
    """[B, ...] -> [B, *out]: flattened, hidden layers of `features` with an activation, a linear output.

    out: the output's shape; () gives one number an example. A condition is concatenated, images flattened (classes: of
    its labels, see `layers.Condition`).
    last: applied to the output, such as `jnp.tanh` for a generator. gated: a hidden layer is (W x + b) sigmoid(V x + c)
    (Dauphin et al. 2016, arXiv:1612.08083, eq. 1), without the activation.
    """

    out: Sequence[int]
    features: Sequence[int] = (400,)
    activation: Any = nn.relu
    last: Any = None
    classes: Classes = None
    gated: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, condition: Tree = None, train: bool = False) -> Array:
        h = x.reshape(x.shape[0], -1).astype(self.dtype)
        h = joined(h, Condition(self.classes, 16, dtype=self.dtype)(condition, x.shape[0]))
        for width in self.features:
            h = Dense(width * (1 + self.gated), kernel_init=std_init(1.0 if self.gated else 2.0), dtype=self.dtype)(h)
            h = nn.glu(h) if self.gated else self.activation(h)
        h = Dense(math.prod(self.out), dtype=self.dtype)(h).astype(jnp.float32)
        h = h.reshape(x.shape[0], *self.out)
        return h if self.last is None else self.last(h)


class MLPDenoiser(nn.Module):
    """A denoiser of points: (x_t [B, D], t [B], condition) -> [B, D], with residual layers modulated by the time and
    the condition (classes: of its labels, see `layers.Condition`). outputs: as many as x has by default."""

    features: int = 128
    depth: int = 3
    classes: Classes = None
    outputs: int | None = None
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, t: Array, condition: Tree = None, train: bool = False) -> Array:
        e = Dense(self.features, dtype=self.dtype)(time_features(t, self.features, self.dtype))
        c = Condition(self.classes, self.features, project=True, dtype=self.dtype)(condition, x.shape[0])
        e = nn.silu(e if c is None else e + c)
        h = Dense(self.features, dtype=self.dtype)(x)
        for _ in range(self.depth):
            r = nn.silu(
                Dense(self.features, kernel_init=std_init(2.0), dtype=self.dtype)(nn.silu(h))
                + Dense(self.features, dtype=self.dtype)(e)
            )
            h = h + Dense(self.features, dtype=self.dtype)(r)
        outputs = self.outputs or x.shape[-1]
        return Dense(outputs, kernel_init=std_init(1e-4), dtype=self.dtype)(nn.silu(h)).astype(jnp.float32)
