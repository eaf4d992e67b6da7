"""The diffusion transformer: patches of an image as tokens, the time and the condition as scales, shifts and gates."""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from jaxgen.conditions import Tokens
from jaxgen.nets.attention import EVENLY, Attention, Start, normed, sincos_grid
from jaxgen.nets.layers import (
    Classes,
    Condition,
    Dense,
    Dropout,
    Dtype,
    joined,
    layer_keys,
    rematerialised,
    separated,
    time_features,
    tokens_in,
)
from jaxgen.types import Array, Keys, Tree, check

ZERO = nn.initializers.zeros
FREQUENCIES = 256  # features of the time


def patches(x: Array, size: int) -> Array:
    """[B, H, W, C] -> [B, (H / size) (W / size), size size C], row by row. InputError for sides that do not divide."""
    b, height, width, c = x.shape
    fits = size >= 1 and height % size == 0 and width % size == 0
    check(fits, f"images of {height}x{width} do not fall into patches of {size}x{size}: choose a divisor")
    grid = x.reshape(b, height // size, size, width // size, size, c).swapaxes(2, 3)
    return grid.reshape(b, -1, size * size * c)


def unpatched(tokens: Array, size: int, shape: tuple[int, ...]) -> Array:
    """The images [B, *shape] of which those are the patches."""
    height, width, c = shape
    grid = tokens.reshape(-1, height // size, width // size, size, size, c).swapaxes(2, 3)
    return grid.reshape(-1, height, width, c)


class Context(NamedTuple):
    """What every block is given besides its tokens: the embedding e [B, E] of time and condition, the tokens of a text
    or None, the keys of dropout or None."""

    e: Array
    text: Tokens | None
    keys: Keys | None


class Block(nn.Module):
    """h + g_1 attention((1 + s_1) norm(h) + b_1), then + attention(norm(h), text) where there is a text, then
    + g_2 mlp((1 + s_2) norm(h) + b_2), the six of the embedding e by one linear map that begins at zero, and the
    block with it as the identity: adaLN-Zero (Peebles and Xie 2022, arXiv:2212.09748, section 3.2). The attention to
    the text stands between the two, and its last map begins at zero too (PixArt-alpha, Chen et al. 2023,
    arXiv:2310.00426, section 2.3)."""

    heads: int
    qk_norm: bool = False
    dropout: float = 0.0
    fused: bool = True
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, h: Array, given: Context) -> Array:
        width = h.shape[-1]
        six = Dense(6 * width, kernel_init=ZERO, dtype=self.dtype, name="modulation")(nn.silu(given.e))
        b1, s1, g1, b2, s2, g2 = jnp.split(six[:, None, :], 6, axis=-1)
        options: dict[str, Any] = {"qk_norm": self.qk_norm, "fused": self.fused, "dtype": self.dtype}
        r = Attention(self.heads, **options, name="attention")(normed(h) * (1.0 + s1) + b1)
        h = h + g1 * Dropout(self.dropout, name="drop_attention")(r, given.keys)
        if given.text is not None:
            h = h + Attention(self.heads, **options, last=ZERO, name="cross_attention")(normed(h), given.text)
        r = normed(h) * (1.0 + s2) + b2
        r = nn.gelu(Dense(4 * width, kernel_init=EVENLY, dtype=self.dtype, name="up")(r))
        r = Dense(width, kernel_init=EVENLY, dtype=self.dtype, name="down")(r)
        return h + g2 * Dropout(self.dropout, name="drop_mlp")(r, given.keys)


class DiT(nn.Module):
    """(x_t [B, H, W, C], t [B], condition) -> [B, H, W, C], zero at the beginning (Peebles and Xie 2022,
    arXiv:2212.09748).

    Patches become tokens with fixed positions (`attention.sincos_grid`). Labels, attributes and the mean of a text's
    vectors are added to the embedding of the time (classes: of the labels, see `layers.Condition`), the tokens of a
    text are attended to, and images to condition on join x_t as channels.
    patch: its side; width: of a token; depth: blocks; heads: of the attention; qk_norm: of queries and keys, see
    `attention.Attention`; dropout: of what a block adds, in training; fused: False where the network is differentiated
    forward, see `primitives.attention`.
    remat: the blocks' activations are computed again in the backward pass; scan: the blocks are one, compiled once, in
    a loop over their parameters, which are then [depth, ...] under "blocks" instead of one by one under "block_0", ...
    Neither changes the function, but for the masks of dropout.
    """

    patch: int = 2
    width: int = 128
    depth: int = 6
    heads: int = 4
    classes: Classes = None
    qk_norm: bool = False
    dropout: float = 0.0
    remat: bool = False
    scan: bool = False
    fused: bool = True
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Array, t: Array, condition: Tree = None, train: bool = False, keys: Keys | None = None
    ) -> Array:
        rest, image = separated(condition, x.shape[0], x.shape[1:3])
        text = tokens_in(rest)
        text = None if text is None else Start(self.dtype, name="text")(text)
        given = Context(self._embed(t, rest), text, keys)
        sides = x.shape[1] // self.patch, x.shape[2] // self.patch
        tokens = patches(joined(x, image), self.patch).astype(self.dtype)
        h = Dense(self.width, kernel_init=EVENLY, dtype=self.dtype, name="patches")(tokens)
        h = self._blocks(h + jnp.asarray(sincos_grid(sides, self.width), self.dtype), given)
        two = Dense(2 * self.width, kernel_init=ZERO, dtype=self.dtype, name="last_modulation")(nn.silu(given.e))
        shift, scale = jnp.split(two[:, None, :], 2, axis=-1)
        h = normed(h) * (1.0 + scale) + shift
        h = Dense(self.patch**2 * x.shape[-1], kernel_init=ZERO, dtype=self.dtype, name="pixels")(h)
        return unpatched(h, self.patch, x.shape[1:]).astype(jnp.float32)

    def _embed(self, t: Array, condition: Tree) -> Array:
        e = Dense(self.width, dtype=self.dtype, name="time_0")(time_features(t, FREQUENCIES, self.dtype))
        e = Dense(self.width, dtype=self.dtype, name="time_1")(nn.silu(e))
        c = Condition(self.classes, self.width, project=True, dtype=self.dtype)(condition, t.shape[0])
        return e if c is None else e + c

    def _blocks(self, h: Array, given: Context) -> Array:
        kind = rematerialised(Block) if self.remat else Block
        options = (self.heads, self.qk_norm, self.dropout, self.fused, self.dtype)
        if not self.scan:
            for i in range(self.depth):
                h = kind(*options, name=f"block_{i}")(h, given)
            return h

        def body(block: nn.Module, h: Array, i: Array) -> tuple[Array, None]:
            return block(h, given._replace(keys=layer_keys(given.keys, i))), None

        over = nn.scan(body, variable_axes={"params": 0}, split_rngs={"params": True}, length=self.depth)
        return over(kind(*options, name="blocks"), h, jnp.arange(self.depth))[0]
