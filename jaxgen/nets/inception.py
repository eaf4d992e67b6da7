"""Inception-v3 as the Frechet distance knows it: plain functions of folded weights.

The network of Szegedy et al. (2015, arXiv:1512.00567, table 1), in the edition of 2015-12-05 whose weights Heusel et
al. (2017, arXiv:1706.08500) took, and every published FID since. It departs from the paper, and from the edition that
torchvision carries, in what its numbers were trained with:

  - means over 3x3 pixels leave out the zeros around the image: at a corner four pixels are averaged, not nine;
  - the last block takes maxima over 3x3 pixels where all others take means;
  - 1,008 classes, of which 1,000 are ImageNet's; batch normalisation has no scale (gamma = 1), epsilon 1e-3.

Batch normalisation is folded into the kernels at load (`fold`). The 1x1 convolutions that a block begins with are one
product (`join`); so is the one after the mean, because a mean over pixels and a product over channels commute, and the
mean is then taken of 32 to 192 channels in place of 192 to 2,048.

All products are float32 on every device: the 8 or 11 bits that an accelerator keeps by default are too few for codes
that agree with other programs' to 1e-4.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.nets.primitives import conv, dense, max_pool, windows
from jaxgen.types import Array, check

SIZE, CODES, CLASSES, EPSILON = 299, 2048, 1008, 1e-3

Shape = tuple[int, int, int, int]
Params = Mapping[str, Mapping[str, Array]]


class Block(NamedTuple):
    """kind: which of the paper's blocks; convs {name: kernel shape [height, width, I, O]}, in the order of the paper;
    heads: those of them that are one product with the block's input."""

    kind: str
    convs: Mapping[str, Shape]
    heads: tuple[str, ...]


def _a(inputs: int, pooled: int) -> Block:
    convs = {
        "branch1x1": (1, 1, inputs, 64),
        "branch5x5_1": (1, 1, inputs, 48),
        "branch5x5_2": (5, 5, 48, 64),
        "branch3x3dbl_1": (1, 1, inputs, 64),
        "branch3x3dbl_2": (3, 3, 64, 96),
        "branch3x3dbl_3": (3, 3, 96, 96),
        "branch_pool": (1, 1, inputs, pooled),
    }
    return Block("A", convs, ("branch1x1", "branch5x5_1", "branch3x3dbl_1", "branch_pool"))


def _b() -> Block:
    convs = {
        "branch3x3": (3, 3, 288, 384),
        "branch3x3dbl_1": (1, 1, 288, 64),
        "branch3x3dbl_2": (3, 3, 64, 96),
        "branch3x3dbl_3": (3, 3, 96, 96),
    }
    return Block("B", convs, ("branch3x3dbl_1",))


def _c(c: int) -> Block:
    convs = {
        "branch1x1": (1, 1, 768, 192),
        "branch7x7_1": (1, 1, 768, c),
        "branch7x7_2": (1, 7, c, c),
        "branch7x7_3": (7, 1, c, 192),
        "branch7x7dbl_1": (1, 1, 768, c),
        "branch7x7dbl_2": (7, 1, c, c),
        "branch7x7dbl_3": (1, 7, c, c),
        "branch7x7dbl_4": (7, 1, c, c),
        "branch7x7dbl_5": (1, 7, c, 192),
        "branch_pool": (1, 1, 768, 192),
    }
    return Block("C", convs, ("branch1x1", "branch7x7_1", "branch7x7dbl_1", "branch_pool"))


def _d() -> Block:
    convs = {
        "branch3x3_1": (1, 1, 768, 192),
        "branch3x3_2": (3, 3, 192, 320),
        "branch7x7x3_1": (1, 1, 768, 192),
        "branch7x7x3_2": (1, 7, 192, 192),
        "branch7x7x3_3": (7, 1, 192, 192),
        "branch7x7x3_4": (3, 3, 192, 192),
    }
    return Block("D", convs, ("branch3x3_1", "branch7x7x3_1"))


def _e(inputs: int, last: bool) -> Block:
    convs = {
        "branch1x1": (1, 1, inputs, 320),
        "branch3x3_1": (1, 1, inputs, 384),
        "branch3x3_2a": (1, 3, 384, 384),
        "branch3x3_2b": (3, 1, 384, 384),
        "branch3x3dbl_1": (1, 1, inputs, 448),
        "branch3x3dbl_2": (3, 3, 448, 384),
        "branch3x3dbl_3a": (1, 3, 384, 384),
        "branch3x3dbl_3b": (3, 1, 384, 384),
        "branch_pool": (1, 1, inputs, 192),
    }
    heads = ("branch1x1", "branch3x3_1", "branch3x3dbl_1")
    return Block("F" if last else "E", convs, heads if last else (*heads, "branch_pool"))


STEM: dict[str, Shape] = {
    "Conv2d_1a_3x3": (3, 3, 3, 32),
    "Conv2d_2a_3x3": (3, 3, 32, 32),
    "Conv2d_2b_3x3": (3, 3, 32, 64),
    "Conv2d_3b_1x1": (1, 1, 64, 80),
    "Conv2d_4a_3x3": (3, 3, 80, 192),
}
BLOCKS: dict[str, Block] = {
    "Mixed_5b": _a(192, 32),
    "Mixed_5c": _a(256, 64),
    "Mixed_5d": _a(288, 64),
    "Mixed_6a": _b(),
    "Mixed_6b": _c(128),
    "Mixed_6c": _c(160),
    "Mixed_6d": _c(160),
    "Mixed_6e": _c(192),
    "Mixed_7a": _d(),
    "Mixed_7b": _e(1280, last=False),
    "Mixed_7c": _e(2048, last=True),
}
NARROW = ("Mixed_7a", "Mixed_7b", "Mixed_7c")  # 8x8 pixels: too few for products of one image at a time
CONVS: dict[str, Shape] = STEM | {f"{b}.{name}": s for b, block in BLOCKS.items() for name, s in block.convs.items()}
"""{name: kernel shape [height, width, I, O]} of all 94 convolutions, in the names that torchvision gave them."""


def fold(kernel: np.ndarray, mean: np.ndarray, variance: np.ndarray, scale: np.ndarray, shift: np.ndarray) -> dict:
    """A convolution and its batch normalisation as one: w' = w g, b = shift - mean g, g = scale / sqrt(variance + 1e-3)
    (Ioffe and Szegedy 2015, arXiv:1502.03167, algorithm 2). kernel: [height, width, I, O], the others [O]."""
    g = scale.astype(np.float64) / np.sqrt(variance.astype(np.float64) + EPSILON)
    return {"kernel": (kernel * g).astype(np.float32), "bias": (shift - mean * g).astype(np.float32)}


def join(convs: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, dict[str, np.ndarray]]:
    """What `codes` takes, of {name: kernel, bias} of all of `CONVS`: the heads of each block side by side."""
    joined = {name: dict(convs[name]) for name in CONVS}
    for b, block in BLOCKS.items():
        heads = [joined.pop(f"{b}.{name}") for name in block.heads]
        joined[b] = {part: np.concatenate([head[part] for head in heads], -1) for part in ("kernel", "bias")}
    return joined


def codes(params: Params, x: Array) -> Array:
    """The means over the last 8x8 pixels, [B, 2048], of images x: [B, 299, 299, 3] in the range that the resizing of
    `jaxgen.metrics.inception` gives, with `params` of `join`. InputError for images of another size."""
    check(x.shape[1:] == (SIZE, SIZE, 3), f"Inception takes images [B, {SIZE}, {SIZE}, 3], not {x.shape}; resize them")
    with jax.default_matmul_precision("highest"):
        x = jax.lax.platform_dependent(params, x, cpu=_wide_in_turn, default=_wide)
        return jnp.mean(_blocks(params, NARROW, x), (1, 2))


def _wide(params: Params, x: Array) -> Array:
    """Down to 17x17 pixels."""
    x = _conv(params["Conv2d_1a_3x3"], x, 2, "VALID")
    x = _conv(params["Conv2d_2a_3x3"], x, 1, "VALID")
    x = max_pool(_conv(params["Conv2d_2b_3x3"], x), 3, 2)
    x = _conv(params["Conv2d_3b_1x1"], x)
    x = max_pool(_conv(params["Conv2d_4a_3x3"], x, 1, "VALID"), 3, 2)
    return _blocks(params, [name for name in BLOCKS if name not in NARROW], x)


def _wide_in_turn(params: Params, x: Array) -> Array:
    """`_wide`, one image a device at a time: its megabytes stay in the cache, which makes the network about twice as
    fast on the CPU. The loop goes over turns, not over a batch that may be laid over devices; see
    `primitives.attention`."""
    devices = math.gcd(x.shape[0], jax.device_count())
    turns = x.reshape(devices, -1, *x.shape[1:]).swapaxes(0, 1)
    y = jax.lax.map(lambda images: _wide(params, images), turns)
    return y.swapaxes(0, 1).reshape(x.shape[0], *y.shape[2:])


def _blocks(params: Params, names: Sequence[str], x: Array) -> Array:
    for name in names:
        block = BLOCKS[name]
        own = {conv: params[f"{name}.{conv}"] for conv in block.convs if conv not in block.heads}
        x = jnp.concatenate(_KINDS[block.kind](own, _heads(block, params[name], x), x), -1)
    return x


def log_probs(head: Mapping[str, Array], h: Array) -> Array:
    """log p(y | x) = log softmax(h W), [B, 1008] of codes h [B, 2048]. The classifier's bias is left out, as by the
    program that computed the published Inception Scores (Salimans et al. 2016, arXiv:1606.03498)."""
    with jax.default_matmul_precision("highest"):
        return jax.nn.log_softmax(dense(h, head["kernel"]))


def mean_pool(x: Array) -> Array:
    """Means over 3x3 pixels, stride 1, [B, H, W, C] -> the same: at the border of those pixels that exist."""
    for axis in (1, 2):
        n, last = np.arange(x.shape[axis]), x.shape[axis] - 1
        there = np.float32(3) - (n == 0) - (n == last)
        a, b, c = windows(_edged(x, axis, 0.0), axis, 3, 1)
        x = (a + b + c) * (1 / there).reshape([-1 if k == axis else 1 for k in range(4)])
    return x


def _edged(x: Array, axis: int, value: float) -> Array:
    return jnp.pad(x, [(int(i == axis),) * 2 for i in range(4)], constant_values=value)


def _conv(params: Mapping[str, Array], x: Array, stride: int = 1, padding: str = "SAME") -> Array:
    return jax.nn.relu(conv(x, params["kernel"], stride=stride, padding=padding) + params["bias"])


def _heads(block: Block, params: Mapping[str, Array], x: Array) -> list[Array]:
    """The block's 1x1 convolutions of its input; that of its mean is the mean of its convolution."""
    y = conv(x, params["kernel"]) + params["bias"]
    parts = jnp.split(y, np.cumsum([block.convs[name][3] for name in block.heads])[:-1], -1)
    if block.heads[-1] == "branch_pool":
        parts[-1] = mean_pool(parts[-1])
    return [jax.nn.relu(part) for part in parts]


def _in_turn(params: Params, names: str, x: Array) -> Array:
    for name in names.split():
        x = _conv(params[name], x)
    return x


def _block_a(params: Params, heads: list[Array], x: Array) -> list[Array]:
    one, five, three, pooled = heads
    return [
        one,
        _in_turn(params, "branch5x5_2", five),
        _in_turn(params, "branch3x3dbl_2 branch3x3dbl_3", three),
        pooled,
    ]


def _block_b(params: Params, heads: list[Array], x: Array) -> list[Array]:
    double = _conv(params["branch3x3dbl_3"], _conv(params["branch3x3dbl_2"], heads[0]), 2, "VALID")
    return [_conv(params["branch3x3"], x, 2, "VALID"), double, max_pool(x, 3, 2)]


def _block_c(params: Params, heads: list[Array], x: Array) -> list[Array]:
    one, seven, double, pooled = heads
    seven = _in_turn(params, "branch7x7_2 branch7x7_3", seven)
    return [one, seven, _in_turn(params, " ".join(f"branch7x7dbl_{i}" for i in range(2, 6)), double), pooled]


def _block_d(params: Params, heads: list[Array], x: Array) -> list[Array]:
    three, seven = heads
    seven = _in_turn(params, "branch7x7x3_2 branch7x7x3_3", seven)
    return [
        _conv(params["branch3x3_2"], three, 2, "VALID"),
        _conv(params["branch7x7x3_4"], seven, 2, "VALID"),
        max_pool(x, 3, 2),
    ]


def _block_e(params: Params, heads: list[Array], x: Array) -> list[Array]:
    one, three, double, *pooled = heads
    if not pooled:  # the last block: a maximum does not commute with the product
        edged = _edged(_edged(x, 1, -jnp.inf), 2, -jnp.inf)
        pooled = [_conv(params["branch_pool"], max_pool(edged, 3, 1))]
    double = _conv(params["branch3x3dbl_2"], double)
    three, double = (
        [_conv(params[f"{branch}{half}"], h) for half in "ab"]
        for branch, h in (("branch3x3_2", three), ("branch3x3dbl_3", double))
    )
    return [one, *three, *double, *pooled]


_KINDS = {"A": _block_a, "B": _block_b, "C": _block_c, "D": _block_d, "E": _block_e, "F": _block_e}
