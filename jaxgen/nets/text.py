"""A small transformer that encodes text, trained with the model that is conditioned on it."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxgen.conditions import Tokens
from jaxgen.nets.attention import EVENLY, Attention, normed, sincos
from jaxgen.nets.layers import Dense, Dropout, Dtype, Embed
from jaxgen.types import Array, Keys, Tree, check


class TextBlock(nn.Module):
    """h + attention(norm(h)), then h + W gelu(V norm(h)), four times as wide inside."""

    heads: int
    dropout: float = 0.0
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, h: Array, mask: Array, keys: Keys | None = None) -> Array:
        width, x = h.shape[-1], self._normed(h, "scale_0")
        r = Attention(self.heads, dtype=self.dtype)(x, Tokens(x, mask))
        h = h + Dropout(self.dropout)(r, keys)
        r = nn.gelu(Dense(4 * width, kernel_init=EVENLY, dtype=self.dtype)(self._normed(h, "scale_1")))
        return h + Dropout(self.dropout)(Dense(width, kernel_init=EVENLY, dtype=self.dtype)(r), keys)

    def _normed(self, h: Array, name: str) -> Array:
        return normed(h) * self.param(name, nn.initializers.ones, h.shape[-1:], jnp.float32).astype(h.dtype)


class TextEncoder(nn.Module):
    """A condition whose words, `Tokens` of integers [B, L], have become vectors [B, L, features]; its other parts are
    as they were. Learned vectors of words, positions by sines, and `layers` blocks of a transformer that attends to all
    words but padding (Vaswani et al. 2017, arXiv:1706.03762, section 3, normalised before each part).

    words: how many there are, without the padding. `nets.with_encoder(net, network(TextEncoder(...)))` is a network
    that takes words, and is encoded once for all steps of a sampler. InputError for a condition without words.
    """

    words: int
    features: int = 64
    layers: int = 2
    heads: int = 4
    dropout: float = 0.0
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, condition: Tree, train: bool = False, keys: Keys | None = None) -> Tree:
        blocks = [TextBlock(self.heads, self.dropout, self.dtype) for _ in range(self.layers)]
        table = Embed(self.words + 1, self.features, dtype=self.dtype)

        def encoded(part: Tree) -> Tree:
            if not _worded(part):
                return part
            h = table(part.values) + jnp.asarray(sincos(part.values.shape[1], self.features), self.dtype)
            for block in blocks:
                h = block(h, part.mask, keys)
            return part._replace(values=normed(h))

        some = any(map(_worded, jax.tree.leaves(condition, is_leaf=_worded)))
        check(some, "a text encoder needs words, this condition has none: condition on conditions.text(...)")
        return jax.tree.map(encoded, condition, is_leaf=_worded)


def _worded(part: Tree) -> bool:
    return isinstance(part, Tokens) and jnp.issubdtype(part.values.dtype, jnp.integer)
