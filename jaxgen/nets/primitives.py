"""Convolutions, products, attention and initialisation: the operations under every network.

They exist for speed that plain JAX leaves on the table, and compute exactly what plain JAX computes.

Convolutions. XLA's CPU compiler has a fast form for a convolution laid out as NHWC/HWIO/NHWC, and the gradients that
automatic differentiation derives are laid out otherwise: they are several times slower, and slower again inside
`lax.scan`. `custom_vjp` would mend that and forbid forward mode (exact divergences, MeanFlow); `linear_call` would
forbid second derivatives (gradient penalties). A convolution is bilinear and both of its transposes are convolutions,
so one *bilinear primitive*, closed under transposition, gives every order and every mode in the fast layout.

Precision. On an accelerator products of float32 numbers are rounded by default, to 8 or 11 bits. Everything here obeys
`jax.default_matmul_precision`, as JAX's own operations do: what is traced inside `with
jax.default_matmul_precision("highest"):` is computed in float32, its derivatives of every order included.

Notation of the comments, along one axis of space: x is dilated by d and padded by (lo, hi), the kernel w of K taps is
dilated by r, and the result is read with stride s:

    y[i] = sum_k  x_d[i s + k r - lo]  w[k],        x_d[p d] = x[p], zero elsewhere
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from flax.core import meta
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from jaxgen.types import Array, Tree, check

Pair = tuple[int, int]
Padding = str | int | tuple[Pair, Pair]

_LAYOUT = ("NHWC", "HWIO", "NHWC")
_MOST_GROUPS = 64  # more are taken for a depthwise convolution: as many operations would only be compiled longer
_CACHED_SCORES = 2**18  # a megabyte: below it a loop over images costs more than it saves


class Window(NamedTuple):
    """How the kernel slides: per axis of space, s, (lo, hi), d and r above; then the groups, of which one is 1.

    feature_groups  x: [N, H, W, G c], kernel [K, K, c, G o] -> [N, H', W', G o], group by group
    batch_groups    x: [G n, H, W, C], kernel [K, K, C, G o] -> [n, H', W', G o], group by group
    """

    stride: Pair
    pads: tuple[Pair, Pair]
    lhs_dilation: Pair
    rhs_dilation: Pair
    feature_groups: int = 1
    batch_groups: int = 1


# --- the bilinear primitive ------------------------------------------------------------------------------------------


def _dilated(size: int, dilation: int) -> int:
    return (size - 1) * dilation + 1


def _spatial(x_shape: tuple, w_shape: tuple, window: Window) -> Pair:
    """Height and width of the result, which may be zero or negative if the kernel does not fit."""
    height, width = (
        (_dilated(size, d) + lo + hi - _dilated(taps, r)) // s + 1
        for size, taps, s, (lo, hi), d, r in zip(x_shape[1:3], w_shape[:2], *window[:4], strict=True)
    )
    return height, width


def _plain(x: Array, w: Array, *, window: Window, precision: str | None) -> Array:
    """What the primitive means, in JAX's own operation."""
    pads, lhs_dilation = window.pads, window.lhs_dilation
    if min(*pads[0], *pads[1]) < 0:
        # XLA's CPU compiler has read beyond the image where one pad is negative and the other positive (jax 0.10).
        crops = [(min(lo, 0), min(hi, 0), d - 1) for (lo, hi), d in zip(pads, lhs_dilation, strict=True)]
        x = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *crops, (0, 0, 0)))
        pads, lhs_dilation = [(max(lo, 0), max(hi, 0)) for lo, hi in pads], (1, 1)
    return lax.conv_general_dilated(
        x,
        w,
        window.stride,
        pads,
        lhs_dilation=lhs_dilation,
        rhs_dilation=window.rhs_dilation,
        dimension_numbers=_LAYOUT,
        feature_group_count=window.feature_groups,
        batch_group_count=window.batch_groups,
        precision=precision or lax.Precision.DEFAULT,  # None would be the setting at the time of lowering
    )


def _group_by_group(x: Array, w: Array, *, window: Window, precision: str | None) -> Array:
    """The same on the CPU, where XLA's fast form is of convolutions without groups alone: with some, a training step
    takes tens of times as long. Of many groups (a depthwise convolution) the compiler makes one operation all the same.
    """
    groups = window.feature_groups * window.batch_groups
    if not 1 < groups <= _MOST_GROUPS:
        return _plain(x, w, window=window, precision=precision)
    alone = window._replace(feature_groups=1, batch_groups=1)
    parts = zip(jnp.split(x, groups, 3 if window.feature_groups > 1 else 0), jnp.split(w, groups, 3), strict=True)
    return jnp.concatenate([_plain(*part, window=alone, precision=precision) for part in parts], axis=3)


def _abstract(x, w, *, window: Window, precision: str | None):
    # `update` keeps the dtype and, inside shard_map, the mesh axes over which the value varies.
    return x.update(shape=(x.shape[0] // window.batch_groups, *_spatial(x.shape, w.shape, window), w.shape[3]))


def _varying(x: Array) -> frozenset:
    """Mesh axes over which x differs from device to device, inside shard_map; empty outside."""
    aval = jax.typeof(x)
    kind = getattr(aval, "manual_axis_type", None)  # its name since jax 0.10; `vma` before
    return getattr(kind, "varying", None) or getattr(aval, "vma", None) or frozenset()


def _marked(x: Array, axes: tuple) -> Array:
    """x, as varying over those mesh axes."""
    if hasattr(lax, "pcast"):
        return lax.pcast(x, axes, to="varying")
    return lax.pvary(x, axes)  # type: ignore[attr-defined]  # its name before jax 0.8


def _bind(x: Array, w: Array, window: Window, precision: str | None = None) -> Array:
    """The convolution, in the precision given or in the one that is set while this is traced: the lowering comes later.

    Inside shard_map a replicated operand is first marked as varying like the other, as JAX's own operations do: the
    transpose of that mark is the sum of the gradient over the devices.
    """
    axes_x, axes_w = _varying(x), _varying(w)
    if axes_w - axes_x:
        x = _marked(x, tuple(sorted(axes_w - axes_x)))
    if axes_x - axes_w:
        w = _marked(w, tuple(sorted(axes_x - axes_w)))
    precision = precision or jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
    return conv_p.bind(x, w, window=window, precision=precision)


def _fit(sizes: Sequence, kernel: Sequence, out: Sequence, lows: list, stride: Pair, lhs: Pair, rhs: Pair) -> tuple:
    """Pads (lo, hi) that make the result `out` large: hi follows from lo, and may be negative."""
    return tuple(
        (lo, (o - 1) * s + _dilated(k, r) - lo - _dilated(n, d))
        for n, k, o, lo, s, d, r in zip(sizes, kernel, out, lows, stride, lhs, rhs, strict=True)
    )


def _reversed_lows(w_shape: tuple, window: Window) -> list:
    return [(k - 1) * r - lo for k, r, (lo, _) in zip(w_shape[:2], window.rhs_dilation, window.pads, strict=True)]


def _input_gradient(g: Array, x, w: Array, *, window: Window, precision: str | None) -> Array:
    """Transpose in x:  x_d[m] = sum over i s + k r - lo = m of g[i] w[k].

    So g meets the reversed kernel, and s and d change places.
    With groups of either kind it is grouped by feature: the groups of g's channels meet their own part of the kernel.
    """
    n, *sizes, channels = x.aval.shape
    groups = window.feature_groups * window.batch_groups
    kh, kw, c, o = w.shape
    turned = lax.rev(w, (0, 1)).reshape(kh, kw, c, groups, o // groups)
    turned = turned.transpose(0, 1, 4, 3, 2).reshape(kh, kw, o // groups, groups * c)
    swapped = (window.lhs_dilation, window.stride, window.rhs_dilation)  # its stride, lhs and rhs dilation
    pads = _fit(g.shape[1:3], (kh, kw), sizes, _reversed_lows(w.shape, window), *swapped)
    out = _bind(g, turned, Window(swapped[0], pads, *swapped[1:], feature_groups=groups), precision)
    if window.batch_groups > 1:  # the groups came out side by side in the channels and belong in the batch
        out = out.reshape(n // groups, *sizes, groups, channels).transpose(3, 0, 1, 2, 4).reshape(x.aval.shape)
    return out


def _kernel_gradient(g: Array, x: Array, w, *, window: Window, precision: str | None) -> Array:
    """Transpose in w:  w[k] = sum_i x_d[i s + k r - lo] g[i]: x against g, batch and channels swapped, s and r swapped.

    Groups of one kind become groups of the other kind. A dilated x (a transposed convolution) is treated below.
    """
    if math.prod(window.lhs_dilation) > math.prod(window.stride) and window.batch_groups == 1:
        return _kernel_gradient_of_transposed(g, x, w, window, precision)
    swapped = (window.rhs_dilation, window.lhs_dilation, window.stride)
    lows = [lo for lo, _ in window.pads]
    pads = _fit(x.shape[1:3], g.shape[1:3], w.aval.shape[:2], lows, *swapped)
    role = Window(swapped[0], pads, *swapped[1:], window.batch_groups, window.feature_groups)
    return _bind(x.transpose(3, 1, 2, 0), g.transpose(1, 2, 0, 3), role, precision).transpose(1, 2, 0, 3)


def _kernel_gradient_of_transposed(g: Array, x: Array, w, window: Window, precision: str | None) -> Array:
    """The same sum over the taps of x:  w[K-1-k'] = sum_p g_s[p d + k' r - ((K-1) r - lo)] x[p].

    g is the image and x the kernel, dilated by d: XLA never convolves the zeros in x_d, which it does badly.
    """
    groups, (kh, kw, c, o) = window.feature_groups, w.aval.shape
    swapped = (window.rhs_dilation, window.stride, window.lhs_dilation)
    pads = _fit(g.shape[1:3], x.shape[1:3], (kh, kw), _reversed_lows(w.aval.shape, window), *swapped)
    role = Window(swapped[0], pads, *swapped[1:], batch_groups=groups)
    out = _bind(g.transpose(3, 1, 2, 0), x.transpose(1, 2, 0, 3), role, precision)  # [o / groups, K, K, groups c]
    out = lax.rev(out, (1, 2)).reshape(o // groups, kh, kw, groups, c)
    return out.transpose(1, 2, 4, 3, 0).reshape(kh, kw, c, o)


def _map_images(x: Array, w: Array, v: int, window: Window, precision: str | None) -> Array:
    """x: [V, N, H, W, C], one kernel: V times as many images."""
    groups = window.batch_groups  # the outer factor of the batch: [groups, V, n]
    x = x.reshape(v, groups, -1, *x.shape[2:]).swapaxes(0, 1)
    out = _bind(x.reshape(-1, *x.shape[3:]), w, window, precision)
    return out.reshape(v, -1, *out.shape[1:])


def _map_kernels(x: Array, w: Array, v: int, window: Window, precision: str | None) -> Array:
    """w: [V, K, K, c, O], one batch: V kernels side by side."""
    groups = window.feature_groups * window.batch_groups  # the outer factor of the outputs: [groups, V, o]
    w = w.reshape(*w.shape[:4], groups, -1).transpose(1, 2, 3, 4, 0, 5)
    out = _bind(x, w.reshape(*w.shape[:3], -1), window, precision)
    out = out.reshape(*out.shape[:3], groups, v, -1)
    return jnp.moveaxis(out, 4, 0).reshape(v, *out.shape[:3], -1)


def _map_both(x: Array, w: Array, v: int, window: Window, precision: str | None) -> Array:
    """x: [V, N, H, W, C], w: [V, K, K, c, O]: V times as many groups."""
    w = jnp.moveaxis(w, 0, 3)
    w = w.reshape(*w.shape[:3], -1)
    if window.batch_groups > 1:
        groups = v * window.batch_groups
        out = _bind(x.reshape(-1, *x.shape[2:]), w, window._replace(batch_groups=groups), precision)
    else:
        x = jnp.moveaxis(x, 0, 3)
        groups = v * window.feature_groups
        out = _bind(x.reshape(*x.shape[:3], -1), w, window._replace(feature_groups=groups), precision)
    return jnp.moveaxis(out.reshape(*out.shape[:3], v, -1), 3, 0)


def _batch(args: tuple, dims: tuple, *, window: Window, precision: str | None) -> tuple[Array, int]:
    """vmap as one larger convolution of the same primitive, so that mapped code keeps the fast form."""
    (x, w), (dim_x, dim_w) = args, dims
    if dim_x is not None:
        x = jnp.moveaxis(x, dim_x, 0)
    if dim_w is not None:
        w = jnp.moveaxis(w, dim_w, 0)
    if dim_w is None:
        return _map_images(x, w, x.shape[0], window, precision), 0
    if dim_x is None:
        return _map_kernels(x, w, w.shape[0], window, precision), 0
    return _map_both(x, w, w.shape[0], window, precision), 0


conv_p = Primitive("jaxgen_conv")
conv_p.def_impl(_plain)
conv_p.def_abstract_eval(_abstract)
ad.defbilinear(conv_p, _input_gradient, _kernel_gradient)
batching.primitive_batchers[conv_p] = _batch
mlir.register_lowering(conv_p, mlir.lower_fun(_plain, multiple_results=False))
mlir.register_lowering(conv_p, mlir.lower_fun(_group_by_group, multiple_results=False), platform="cpu")


# --- convolutions ----------------------------------------------------------------------------------------------------


def _pair(value: int | Pair, name: str) -> Pair:
    pair = tuple(value) if isinstance(value, Sequence) else (value, value)
    ok = len(pair) == 2 and all(isinstance(v, int) and v >= 1 for v in pair)
    check(ok, f"{name} is {value!r}, but must be a positive integer or a pair of them")
    return pair[0], pair[1]


def _explicit_pads(padding: Padding) -> tuple[Pair, Pair]:
    if isinstance(padding, int):
        return (padding, padding), (padding, padding)
    ok = isinstance(padding, Sequence) and len(padding) == 2
    ok = ok and all(isinstance(pair, Sequence) and len(pair) == 2 for pair in padding)
    check(ok, f'padding is {padding!r}, but must be "SAME", "VALID", an integer or ((top, bottom), (left, right))')
    (top, bottom), (left, right) = padding
    return (int(top), int(bottom)), (int(left), int(right))


def _same_pads(size: int, taps: int, stride: int) -> Pair:
    """Pads that give ceil(size / stride) results, the odd one after the image."""
    total = max((-(-size // stride) - 1) * stride + taps - size, 0)
    return total // 2, total - total // 2


def _operands(x: Array, kernel: Array, groups: int) -> tuple[Array, Array]:
    x, kernel = jnp.asarray(x), jnp.asarray(kernel)
    check(x.ndim == 4, f"x has shape {x.shape}, but a convolution takes images [N, H, W, C]")
    check(kernel.ndim == 4, f"the kernel has shape {kernel.shape}, but must be [height, width, C / groups, O]")
    _same_dtype(x, kernel)
    channels, outputs = x.shape[3], kernel.shape[3]
    ok = isinstance(groups, int) and groups >= 1 and channels % groups == 0 and outputs % groups == 0
    check(ok, f"groups is {groups}, but must divide the {channels} channels of x and the {outputs} of the result")
    inputs = channels // groups
    check(kernel.shape[2] == inputs, f"the kernel takes {kernel.shape[2]} channels, but x gives {inputs} to each group")
    return x, kernel


def _same_dtype(x: Array, kernel: Array) -> None:
    check(
        x.dtype == kernel.dtype and jnp.issubdtype(x.dtype, jnp.floating),
        f"x is {x.dtype} and the kernel {kernel.dtype}, but both must have one floating type: cast one of them",
    )


def _product(x: Array, w: Array) -> Array:
    """x: [..., I] times w: [I, O]. Two matrices, since with more axes the gradients take longer."""
    return (x.reshape(-1, x.shape[-1]) @ w).reshape(*x.shape[:-1], w.shape[1])


def _slide(x: Array, kernel: Array, window: Window) -> Array:
    sizes = _spatial(x.shape, kernel.shape, window)
    check(
        min(sizes) >= 1,
        f"a kernel of {kernel.shape[:2]} does not fit images of {x.shape[1:3]}: use a smaller kernel or more padding",
    )
    return _bind(x, kernel, window)


def conv(
    x: Array,
    kernel: Array,
    *,
    stride: int | Pair = 1,
    padding: Padding = "SAME",
    dilation: int | Pair = 1,
    groups: int = 1,
) -> Array:
    """Convolution (cross-correlation, as in all of deep learning): y[i] = sum_k x[i stride + k dilation - lo] w[k].

    x: [N, H, W, C], kernel: [height, width, C / groups, O] -> [N, H', W', O], same dtype; `groups=C` is depthwise.
    padding   "SAME": H' = ceil(H / stride); "VALID": none; an integer: on all sides; ((top, bottom), (left, right))
    Raises InputError if the shapes, the types or the groups do not go together.
    """
    x, kernel = _operands(x, kernel, groups)
    stride, dilation = _pair(stride, "stride"), _pair(dilation, "dilation")
    if padding == "SAME":
        taps = [_dilated(k, r) for k, r in zip(kernel.shape[:2], dilation, strict=True)]
        pads = _same_pads(x.shape[1], taps[0], stride[0]), _same_pads(x.shape[2], taps[1], stride[1])
    else:
        pads = _explicit_pads(0 if padding == "VALID" else padding)
    if groups == 1 and pads == ((0, 0), (0, 0)):
        if kernel.shape[:2] == stride == (1, 1):
            return _product(x, kernel[0, 0])
        if kernel.shape[:2] == x.shape[1:3] and dilation == (1, 1):  # the kernel covers the image: one product
            out = x.reshape(x.shape[0], -1) @ kernel.reshape(-1, kernel.shape[3])
            return out[:, None, None, :]
    sizes = _spatial(x.shape, kernel.shape, Window(stride, pads, (1, 1), dilation))
    if max(o - n for o, n in zip(sizes, x.shape[1:3], strict=True)) > 0 and min(min(pads)) >= 0:
        # A result larger than the image makes the kernel's gradient a window larger than its image, which XLA's CPU
        # compiler leaves in its slow form: zeros that stand in the image itself are cheaper.
        x, pads = jnp.pad(x, ((0, 0), *pads, (0, 0))), ((0, 0), (0, 0))
    return _slide(x, kernel, Window(stride, pads, (1, 1), dilation, feature_groups=groups))


def _transposed_pads(kernel: int, stride: int, padding: str) -> Pair:
    """Pads of the dilated image that `jax.lax.conv_transpose` means by the two words."""
    if padding == "VALID":
        return kernel - 1, max(stride, kernel) - 1
    total = kernel + stride - 2
    lo = kernel - 1 if stride > kernel - 1 else -(-total // 2)
    return lo, total - lo


def conv_transpose(x: Array, kernel: Array, *, stride: int | Pair = 2, padding: Padding = "SAME") -> Array:
    """Transposed convolution: x with stride - 1 zeros between its pixels, convolved, y[i] = sum_k x_d[i + k - lo] w[k].

    x: [N, H, W, Cin], kernel: [height, width, Cin, Cout] -> [N, H', W', Cout] in the same dtype.
    padding   "SAME": H' = H stride; "VALID": H' = H stride + max(height - stride, 0), both as `jax.lax.conv_transpose`;
              an integer p, or ((top, bottom), (left, right)): what the convolution that this transposes would have
              padded, so H' = (H - 1) stride + height - top - bottom. DCGAN: kernel 4, stride 2, padding 1.
    The kernel is not reversed in space (torch reverses it): to transpose `conv` with a kernel w, give
    `w[::-1, ::-1].swapaxes(2, 3)`.
    Raises InputError if the shapes or the types do not go together.
    """
    x, kernel = _operands(x, kernel, 1)
    stride = _pair(stride, "stride")
    kh, kw, _, outputs = kernel.shape
    if padding in ("SAME", "VALID"):
        pads = _transposed_pads(kh, stride[0], padding), _transposed_pads(kw, stride[1], padding)
    else:
        (top, bottom), (left, right) = _explicit_pads(padding)
        pads = (kh - 1 - top, kh - 1 - bottom), (kw - 1 - left, kw - 1 - right)
    if x.shape[1:3] == (1, 1) and pads == ((kh - 1, kh - 1), (kw - 1, kw - 1)):
        # One pixel meets each tap once, last tap first: the projection of a latent to 4x4 is one product.
        flat = lax.rev(kernel, (0, 1)).transpose(2, 0, 1, 3).reshape(x.shape[3], -1)
        return (x.reshape(x.shape[0], -1) @ flat).reshape(x.shape[0], kh, kw, outputs)
    return _slide(x, kernel, Window((1, 1), pads, stride, (1, 1)))


def windows(x: Array, axis: int, size: int, stride: int) -> list[Array]:
    """The first, second, ... element of every window of `size` along an axis that lies inside it."""
    reach = (x.shape[axis] - size) // stride * stride + 1
    return [lax.slice_in_dim(x, i, i + reach, stride, axis) for i in range(size)]


def max_pool(x: Array, size: int, stride: int) -> Array:
    """Maxima over windows of size x size pixels that lie inside the image: [B, H, W, C] -> [B, H', W', C],
    H' = (H - size) // stride + 1. Equal pixels share the gradient.

    One axis after the other and as maxima of slices, all channels of a row at a time: XLA's own windowed maximum is
    slower on the CPU, its gradient some thirty times.
    """
    for axis in (1, 2):
        x = functools.reduce(jnp.maximum, windows(x, axis, size, stride))
    return x


# --- products and attention ------------------------------------------------------------------------------------------


def dense(x: Array, kernel: Array, bias: Array | None = None) -> Array:
    """y = x W + b.  x: [..., I], kernel: [I, O], bias: [O] -> [..., O] in the same dtype."""
    x, kernel = jnp.asarray(x), jnp.asarray(kernel)
    ok = kernel.ndim == 2 and x.ndim >= 1 and x.shape[-1] == kernel.shape[0]
    check(ok, f"x has shape {x.shape} and the kernel {kernel.shape}, but they must be [..., I] and [I, O]")
    _same_dtype(x, kernel)
    y = _product(x, kernel)
    return y if bias is None else y + bias


_MASKED = -1e30  # a finite score: where everything is masked the result is a mean, not NaN


def _attend(q: Array, k: Array, v: Array, mask: Array | None = None) -> Array:
    """softmax(q k^T / sqrt(D)) v, normalised after the product with v: [T, D] numbers to divide, not [T, S]."""
    q, k, v = (a.swapaxes(1, 2) for a in (q, k, v))  # [B, heads, T, D]: turned once, not inside each of six products
    scores = jnp.einsum("bhtd,bhsd->bhts", q / math.sqrt(q.shape[-1]), k, preferred_element_type=jnp.float32)
    if mask is not None:
        scores = jnp.where(mask[:, None, None, :], scores, _MASKED)
    # Softmax does not depend on the shift, so nor do its derivatives: stopping them here changes none of them.
    weights = jnp.exp(scores - lax.stop_gradient(scores.max(axis=-1, keepdims=True)))
    out = jnp.einsum("bhts,bhsd->bhtd", weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
    return (out / weights.sum(axis=-1, keepdims=True)).astype(v.dtype).swapaxes(1, 2)


def _attend_in_turn(q: Array, k: Array, v: Array, *mask: Array) -> Array:
    """`_attend` over a few images at a time, whose [heads, T, S] scores stay in the cache and are not kept.

    A loop over a sharded axis would gather it on every device. So the batch is split as [devices, turns] and the loop
    goes over the turns: at each, every device works on an image of its own part, whatever axes the batch is laid over.
    """
    batch, queries, heads, _ = q.shape
    if batch * heads * queries * k.shape[1] <= _CACHED_SCORES:
        return _attend(q, k, v, *mask)
    devices = math.gcd(batch, jax.device_count())
    turns = [a.reshape(devices, -1, *a.shape[1:]).swapaxes(0, 1) for a in (q, k, v, *mask)]
    out = lax.map(lambda a: jax.checkpoint(_attend)(*a), tuple(turns))
    return out.swapaxes(0, 1).reshape(batch, queries, heads, -1)


def _attend_on_accelerator(q: Array, k: Array, v: Array, *mask: Array, fused: bool) -> Array:
    """JAX's attention; the fused kernel where it exists: half precision, heads of 8 n <= 128 numbers, CUDA."""
    head = q.shape[-1]
    fits = q.dtype in (jnp.float16, jnp.bfloat16) and head % 8 == 0 and head <= 128
    cuda = "cuda" in jax.devices()[0].client.platform_version.lower()
    chosen = mask[0][:, None, None, :] if mask else None
    implementation = "cudnn" if fused and fits and cuda else None
    return jax.nn.dot_product_attention(q, k, v, mask=chosen, implementation=implementation)


def attention(q: Array, k: Array, v: Array, *, mask: Array | None = None, fused: bool = True) -> Array:
    """Scaled dot-product attention, softmax(q k^T / sqrt(D)) v, with the softmax in float32.

    q: [B, T, heads, D], k and v: [B, S, heads, D] -> [B, T, heads, D] in the same dtype.
    mask    bool [B, S]: the keys that are attended to, by default all; an example needs at least one
    fused   on a GPU in half precision, the fused kernel may be taken. It has a gradient, but neither forward mode nor
            second derivatives: networks that are differentiated so (MeanFlow, exact divergences) pass False.
    Raises InputError if the shapes do not go together. Vaswani et al. (2017), arXiv 1706.03762, equation 1.
    """
    q, k, v = jnp.asarray(q), jnp.asarray(k), jnp.asarray(v)
    ok = q.ndim == k.ndim == 4 and k.shape == v.shape and q.shape[::2] == k.shape[::2] and q.shape[3] == k.shape[3]
    shapes = f"{q.shape}, {k.shape}, {v.shape}"
    check(ok, f"q, k, v have shapes {shapes}, but must be [B, T, heads, D] and twice [B, S, heads, D]")
    masks = [] if mask is None else [jnp.asarray(mask, bool)]
    for given in masks:
        check(given.shape == k.shape[:2], f"the mask has shape {given.shape}, but must be [B, S], {k.shape[:2]}")
    accelerated = partial(_attend_on_accelerator, fused=fused)
    return lax.platform_dependent(q, k, v, *masks, cpu=_attend_in_turn, default=accelerated)


# --- initialisation --------------------------------------------------------------------------------------------------


@struct.dataclass
class Drawn(meta.AxisMetadata):
    """The mark of a parameter that `randomise` draws: std, its standard deviation, of the parameter's own shape.

    A Flax box: inside a module the parameter is the bare array. Parameters of other initialisers have none.
    """

    std: Any

    def unbox(self) -> Any:
        return self.std

    def replace_boxed(self, val: Any) -> Drawn:
        return Drawn(val)

    def add_axis(self, index: int, params: dict) -> Drawn:
        return self

    def remove_axis(self, index: int, params: dict) -> Drawn:
        return self


def std_init(scale: float = 1.0, mode: str = "fan_in") -> Callable:
    """Initialiser (key, shape, dtype) -> `Drawn` with the standard deviation sqrt(scale / fan) everywhere.

    `randomise` makes the draw. Fans of a kernel [..., I, O] of a taps: a I in, a O out, and their mean ("fan_avg").
    scale = 1 is LeCun's, 2 He's (2015, arXiv 1502.01852, equation 10), 1 with "fan_avg" Glorot's.
    """
    check(mode in ("fan_in", "fan_out", "fan_avg"), f"mode is {mode!r}, but must be fan_in, fan_out or fan_avg")
    check(scale >= 0, f"scale is {scale}, but a variance cannot be negative")

    def init(key, shape, dtype=jnp.float32):
        del key
        check(len(shape) >= 2, f"a kernel of shape {tuple(shape)} has no fan: use constant_std")
        taps = math.prod(shape[:-2])
        fan_in, fan_out = taps * shape[-2], taps * shape[-1]
        fan = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[mode]
        return Drawn(jnp.full(shape, math.sqrt(scale / fan), dtype))

    return init


def constant_std(std: float) -> Callable:
    """Initialiser (key, shape, dtype) -> `Drawn` with the standard deviation `std` everywhere; see `randomise`."""
    check(std >= 0, f"std is {std}, but a standard deviation cannot be negative")
    return lambda key, shape, dtype=jnp.float32: Drawn(jnp.full(shape, std, dtype))


def randomise(key: Array, params: Tree) -> Tree:
    """Draw every `Drawn` leaf from N(0, std^2), by its slice of one flat normal draw, and leave all others as they are.

    One draw, because XLA compiles the generator anew for every shape: a dozen of `random.normal` made `init` compile
    for over ten seconds. Slices are dealt in the order of the sorted paths, so one key and one tree always give the
    same parameters.
    """
    leaves, structure = jax.tree.flatten(params, is_leaf=lambda leaf: isinstance(leaf, Drawn))
    normal = jax.random.normal(key, (sum(leaf.std.size for leaf in leaves if isinstance(leaf, Drawn)),), jnp.float32)
    out, at = [], 0
    for leaf in leaves:
        if isinstance(leaf, Drawn):
            noise = normal[at : at + leaf.std.size].reshape(leaf.std.shape)
            at += leaf.std.size
            leaf = (leaf.std.astype(jnp.float32) * noise).astype(leaf.std.dtype)
        out.append(leaf)
    return jax.tree.unflatten(structure, out)
