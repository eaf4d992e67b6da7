"""Networks of discrete latents: an encoder to a grid of vectors, a decoder from it, two models of grids of codes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxgen.nets.conv import pyramid
from jaxgen.nets.layers import (
    Classes,
    Condition,
    Conv,
    ConvTranspose,
    Dense,
    Dtype,
    Embed,
    check_unconditional,
    joined,
    separated,
)
from jaxgen.nets.network import Network
from jaxgen.nets.norms import BatchNorm
from jaxgen.nets.primitives import attention, constant_std, conv, std_init
from jaxgen.types import Array, Tree, check


class ConvGridEncoder(nn.Module):
    """Image [B, H, W, C] -> vectors [B, H / 2^halvings, W / 2^halvings, features]: 4x4 convolutions of stride 2, then
    residual blocks (van den Oord et al. 2017, arXiv:1711.00937, section 4.1).

    width: channels after the first halving; twice as many after the others. norm: batch normalisation of the vectors.
    Without it the first steps may carry them far away, to where the bound of a finite scalar quantisation is flat: most
    codes then stay unused.
    """

    features: int
    width: int = 32
    halvings: int = 2
    blocks: int = 2
    norm: bool = True
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        check(self.halvings >= 1, f"the encoder halves the image at least once, not {self.halvings} times")
        times = 2**self.halvings
        check(
            x.shape[1] % times == 0 and x.shape[2] % times == 0,
            f"images of {x.shape[1]}x{x.shape[2]} cannot be halved {self.halvings} times: choose fewer halvings",
        )
        h = x.astype(self.dtype)
        for i in range(self.halvings):
            h = nn.relu(Conv(self.width * min(2**i, 2), 4, 2, kernel_init=std_init(2.0), dtype=self.dtype)(h))
        h = Conv(2 * self.width, dtype=self.dtype)(h)
        for _ in range(self.blocks):
            h = Residual(self.dtype)(h)
        # a normalisation would remove the bias
        z = Conv(self.features, 1, bias=not self.norm, dtype=self.dtype)(nn.relu(h)).astype(jnp.float32)
        return BatchNorm()(z, train) if self.norm else z


class ConvGridDecoder(nn.Module):
    """Vectors [B, h, w, features] -> [B, *shape]: the mirror of `ConvGridEncoder`, with a linear output. The size
    comes from `shape`, whose sides are h and w times the same power of 2."""

    shape: Sequence[int]
    width: int = 32
    blocks: int = 2
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, z: Array, train: bool = False) -> Array:
        halvings = (self.shape[0] // z.shape[1]).bit_length() - 1
        doubled = tuple(side * 2**halvings for side in z.shape[1:3])
        check(
            doubled == tuple(self.shape[:2]) and halvings >= 1,
            f"a grid of {z.shape[1:3]} cannot be doubled to images of {tuple(self.shape[:2])}: change one",
        )
        h = Conv(2 * self.width, dtype=self.dtype)(z.astype(self.dtype))
        for _ in range(self.blocks):
            h = Residual(self.dtype)(h)
        h = nn.relu(h)
        for i in range(halvings, 0, -1):
            h = nn.relu(ConvTranspose(self.width * min(i, 2), kernel_init=std_init(2.0), dtype=self.dtype)(h))
        return Conv(self.shape[2], dtype=self.dtype)(h).astype(jnp.float32)


def flat_posterior(encoder: Network) -> Network:
    """An encoder's [B, h, w, 2 d] as mu and log sigma^2 of h w d numbers in a row, [B, 2 h w d]: what `families.vae`
    takes of a grid of latents."""

    def apply(params: Tree, stats: Tree, *inputs: Any, **options: Any) -> tuple[Array, Tree]:
        h, stats = encoder.apply(params, stats, *inputs, **options)
        parts = jnp.split(h, 2, axis=-1)
        return jnp.concatenate([part.reshape(h.shape[0], -1) for part in parts], axis=-1), stats

    return encoder._replace(apply=apply)


def of_flat(decoder: Network, shape: Sequence[int]) -> Network:
    """A decoder of [B, *shape] as one of its numbers in a row."""

    def grid(z: Array) -> Array:
        return z.reshape(z.shape[0], *shape)

    return decoder._replace(
        init=lambda key, z, *rest: decoder.init(key, grid(z), *rest),
        apply=lambda params, stats, z, *rest, **options: decoder.apply(params, stats, grid(z), *rest, **options),
    )


class Residual(nn.Module):
    """h + conv_1x1(relu(conv_3x3(relu(h))))."""

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, h: Array) -> Array:
        r = nn.relu(Conv(h.shape[-1], kernel_init=std_init(2.0), dtype=self.dtype)(nn.relu(h)))
        return h + Conv(h.shape[-1], 1, dtype=self.dtype)(r)


class CausalConv(nn.Module):
    """A convolution of a pixel and of those before it: a [rows, columns] kernel whose last row is the
    pixel's own, and whose last column is too where it is `right`; else the columns lie to both sides."""

    features: int
    size: Sequence[int]
    right: bool = False
    kernel_init: Any = std_init()
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        rows, columns = self.size
        kernel = self.param("kernel", self.kernel_init, (rows, columns, x.shape[-1], self.features), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        sides = (columns - 1, 0) if self.right else (columns // 2, (columns - 1) // 2)
        y = conv(x.astype(self.dtype), kernel.astype(self.dtype), padding=((rows - 1, 0), sides))
        return y + bias.astype(self.dtype)


class PixelCNN(nn.Module):
    """Grid of codes [B, h, w] -> logits [B, h, w, codes], those of a position from the codes before it, row by row
    from the upper left: the gated PixelCNN (van den Oord et al. 2016, arXiv:1606.05328, section 2 and figure 2).

    A vertical stack takes the rows above, a horizontal one what is to the left besides, so that no position is blind.
    Shifted inputs and one-sided padding do what the paper's masks do (Salimans et al. 2017, arXiv:1701.05517, 2.3).
    A condition c is a bias of every unit, tanh(W_f * x + V_f^T c) sigmoid(W_g * x + V_g^T c) (eq. 4); an image to
    condition on, as large as the grid or 2, 4, 8, ... times as large, is convolved to the grid's size and gives each
    position a bias of its own (eq. 5).
    width: channels; layers: each reaches two rows further up and two columns further to each side; classes: of the
    labels, see `layers.Condition`.
    """

    codes: int
    width: int = 32
    layers: int = 4
    classes: Classes = None
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, index: Array, condition: Tree = None, train: bool = False) -> Array:
        e = Embed(self.codes, self.width, dtype=self.dtype)(index)
        v = jnp.pad(e, ((0, 0), (1, 0), (0, 0), (0, 0)))[:, :-1]  # the row above: from here on all is causal
        h = jnp.pad(e, ((0, 0), (0, 0), (1, 0), (0, 0)))[:, :, :-1]
        c = self._grid(condition, index.shape)
        for i in range(self.layers):
            up = CausalConv(2 * self.width, (3, 5), dtype=self.dtype)(v)
            left = CausalConv(2 * self.width, (1, 3), right=True, dtype=self.dtype)(h)
            if c is not None:
                up = up + Dense(2 * self.width, bias=False, dtype=self.dtype, name=f"up_condition_{i}")(c)
                left = left + Dense(2 * self.width, bias=False, dtype=self.dtype, name=f"left_condition_{i}")(c)
            left = left + Dense(2 * self.width, bias=False, dtype=self.dtype)(up)
            v, h = v + gated(up), h + Dense(self.width, dtype=self.dtype)(gated(left))
        h = nn.relu(Dense(2 * self.width, kernel_init=std_init(2.0), dtype=self.dtype)(nn.relu(h)))
        return Dense(self.codes, kernel_init=constant_std(1e-2), dtype=self.dtype)(h).astype(jnp.float32)

    def _grid(self, condition: Tree, shape: Sequence[int]) -> Array | None:
        """The condition as [B, 1, 1, F], as [B, h, w, F] where there are images in it, or None."""
        batch, height, width = shape
        sides = _sides(condition) or (height, width)
        times = sides[0] // height
        check(
            sides == (height * times, width * times) and times.bit_count() == 1,
            f"an image to condition on is as large as the grid {height}x{width} or 2, 4, 8, ... times as large, "
            f"not {sides[0]}x{sides[1]}: resize it",
        )
        rest, image = separated(condition, batch, sides)
        c = Condition(self.classes, self.width, dtype=self.dtype)(rest, batch)
        c = None if c is None else c[:, None, None, :]
        image = pyramid(image, times.bit_length() - 1, self.width, self.dtype)[-1]
        if c is None and image is None:
            check_unconditional(self.classes, self.variables.get("params", {}).get("up_condition_0"))
        if c is None or image is None:
            return image if c is None else c
        return joined(image, jnp.broadcast_to(c, (*image.shape[:3], c.shape[-1])))


class CodeTransformer(nn.Module):
    """Grid of codes [B, h, w], `codes` for a mask -> logits [B, h, w, codes], those of a position from all that are not
    masked: a transformer that sees both ways (Vaswani et al. 2017, arXiv:1706.03762; layers begin with their
    normalisation) with a learned vector for every position, of grids of one size.

    A condition is a vector added to every position's (classes: of the labels, see `layers.Condition`).
    local: every layer begins with a 3x3 convolution of what has been normalised, by which it knows its neighbours from
    the start (Chu et al. 2021, arXiv:2102.10882, section 3, for positions).
    """

    codes: int
    width: int = 64
    layers: int = 4
    heads: int = 4
    local: bool = False
    classes: Classes = None
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, index: Array, condition: Tree = None, train: bool = False) -> Array:
        b, height, width = index.shape
        check(self.width % self.heads == 0, f"{self.width} channels cannot be split into {self.heads} attention heads")
        places = self.param("places", constant_std(0.1), (height * width, self.width), jnp.float32)
        h = Embed(self.codes + 1, self.width, dtype=self.dtype)(index.reshape(b, -1)) + places.astype(self.dtype)
        c = Condition(self.classes, self.width, project=True, dtype=self.dtype)(condition, b)
        h = h if c is None else h + c[:, None]
        for _ in range(self.layers):
            if self.local:
                grid = nn.LayerNorm(dtype=self.dtype)(h).reshape(b, height, width, self.width)
                h = h + Conv(self.width, dtype=self.dtype)(nn.gelu(grid)).reshape(h.shape)
            qkv = Dense(3 * self.width, dtype=self.dtype)(nn.LayerNorm(dtype=self.dtype)(h))
            q, k, v = jnp.moveaxis(qkv.reshape(b, -1, 3, self.heads, self.width // self.heads), 2, 0)
            h = h + Dense(self.width, dtype=self.dtype)(attention(q, k, v).reshape(h.shape))
            m = Dense(4 * self.width, kernel_init=std_init(2.0), dtype=self.dtype)(nn.LayerNorm(dtype=self.dtype)(h))
            h = h + Dense(self.width, dtype=self.dtype)(nn.gelu(m))
        h = Dense(self.codes, kernel_init=constant_std(1e-2), dtype=self.dtype)(nn.LayerNorm(dtype=self.dtype)(h))
        return h.reshape(b, height, width, self.codes).astype(jnp.float32)


def _sides(condition: Tree) -> tuple[int, int] | None:
    """Height and width of the first image in a condition, or None."""
    images = [leaf for leaf in jax.tree.leaves(condition) if leaf.ndim == 4]
    return images[0].shape[1:3] if images else None


def gated(h: Array) -> Array:
    """tanh(a) sigmoid(b), a and b the halves of the channels (van den Oord et al. 2016, arXiv:1606.05328, eq. 2)."""
    a, b = jnp.split(h, 2, axis=-1)
    return jnp.tanh(a) * nn.sigmoid(b)
