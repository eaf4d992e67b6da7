"""The networks under LPIPS: AlexNet and VGG16 up to their last rectified convolution, and five weightings of channels.

Parameters come from files, named as torchvision (trunks) and the reference implementation (weightings) name them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.nets import primitives
from jaxgen.types import Array, Tree, check


class Convolution(NamedTuple):
    """One of torchvision's `features`: its place in that list, its channels, how its kernel slides."""

    place: int
    outputs: int
    size: int = 3
    stride: int = 1
    padding: int = 1


class Stage(NamedTuple):
    """Max pooling with stride 2 over so many pixels (0: none), then rectified convolutions; the last is compared."""

    pool: int
    convolutions: tuple[Convolution, ...]


TRUNKS = {
    # Krizhevsky 2014, arXiv:1404.5997
    "alex": (
        Stage(0, (Convolution(0, 64, size=11, stride=4, padding=2),)),
        Stage(3, (Convolution(3, 192, size=5, padding=2),)),
        Stage(3, (Convolution(6, 384),)),
        Stage(0, (Convolution(8, 256),)),
        Stage(0, (Convolution(10, 256),)),
    ),
    # Simonyan and Zisserman 2014, arXiv:1409.1556, table 1, D
    "vgg": (
        Stage(0, (Convolution(0, 64), Convolution(2, 64))),
        Stage(2, (Convolution(5, 128), Convolution(7, 128))),
        Stage(2, (Convolution(10, 256), Convolution(12, 256), Convolution(14, 256))),
        Stage(2, (Convolution(17, 512), Convolution(19, 512), Convolution(21, 512))),
        Stage(2, (Convolution(24, 512), Convolution(26, 512), Convolution(28, 512))),
    ),
}

# what ImageNet's mean (.485, .456, .406) and deviation (.229, .224, .225) of [0, 1] are in [-1, 1]
SHIFT = np.array([-0.030, -0.088, -0.188], np.float32)
SCALE = np.array([0.458, 0.448, 0.450], np.float32)


def parameters(net: str, trunk: Mapping[str, Any], linear: Mapping[str, Any]) -> Tree:
    """{"trunk": [{"kernel": [K, K, I, O], "bias": [O]}, ...], "linear": [[C], ...]} of the tensors of two files.

    net: "alex" or "vgg"; trunk: `features.0.weight` [O, I, K, K] and so on; linear: `lin0.model.1.weight` [1, C, 1, 1]
    and so on. Others, such as those of a classifier, are left alone. InputError for a tensor that is missing or has
    another shape, for a negative weighting, under which a difference would bring images nearer, and for what is not
    finite.
    """
    check(net in TRUNKS, f"LPIPS has the networks {' and '.join(TRUNKS)}, not {net!r}")
    inputs, layers, weightings = 3, [], []
    for at, stage in enumerate(TRUNKS[net]):
        for conv in stage.convolutions:
            name = f"features.{conv.place}"
            kernel = _tensor(trunk, f"{name}.weight", (conv.outputs, inputs, conv.size, conv.size), f"{net} trunk")
            bias = _tensor(trunk, f"{name}.bias", (conv.outputs,), f"{net} trunk")
            layers.append({"kernel": kernel.transpose(2, 3, 1, 0), "bias": bias})
            inputs = conv.outputs
        weighting = _tensor(linear, f"lin{at}.model.1.weight", (1, inputs, 1, 1), f"{net} weightings")
        check(weighting.min() >= 0, f"lin{at} has a negative weight: these are no weightings of LPIPS, take its file")
        weightings.append(weighting.ravel())
    return jax.tree.map(jnp.asarray, {"trunk": layers, "linear": weightings})


def _tensor(tensors: Mapping[str, Any], name: str, shape: tuple[int, ...], what: str) -> np.ndarray:
    held = ", ".join(list(tensors)[:3]) or "nothing"
    check(name in tensors, f"the file of the {what} has no {name}, it has {held}: give torchvision's or LPIPS's own")
    found = np.asarray(tensors[name], np.float32)
    check(found.shape == shape, f"{name} of the {what} must have the shape {shape}, in this file it has {found.shape}")
    check(bool(np.isfinite(found).all()), f"{name} of the {what} is not finite: the file is damaged, get it again")
    return found


def least_size(net: str) -> int:
    """The smallest height and width for which every layer has at least one position: 31 pixels of AlexNet, 16 of VGG16
    (from the last layer backwards, n = (n - 1) stride + window - 2 padding)."""
    n = 1
    for stage in reversed(TRUNKS[net]):
        for conv in reversed(stage.convolutions):
            n = max((n - 1) * conv.stride + conv.size - 2 * conv.padding, 1)
        n = (n - 1) * 2 + stage.pool if stage.pool else n
    return n


def distance(net: str, params: Tree, x: Array, y: Array) -> Array:
    """sum_l mean_hw sum_c w_lc (f_lhwc(x) - f_lhwc(y))^2, f_l the activations of layer l scaled to length 1 at every
    position: [B, H, W, 1 or 3] in [-1, 1] each -> [B] (Zhang et al. 2018, arXiv:1801.03924, eq. 1).

    All products are float32 on every device, those of the gradient too: they are not rounded as an accelerator does by
    default. InputError for images that are too small for `net`.
    """
    check(
        x.shape == y.shape and x.ndim == 4 and x.shape[-1] in (1, 3),
        f"LPIPS compares images [B, H, W, 1 or 3] one by one, not {x.shape} with {y.shape}",
    )
    least, (height, width) = least_size(net), x.shape[1:3]
    check(
        min(height, width) >= least,
        f"LPIPS with {net} needs images of {least} x {least} pixels or more, these have {height} x {width}: "
        "enlarge them, with size=64",
    )
    both = jnp.concatenate([x, y]).astype(jnp.float32)
    with jax.default_matmul_precision("highest"):
        activations = _activations(net, params["trunk"], both)
    total = jnp.zeros(x.shape[0])
    for f, w in zip(activations, params["linear"], strict=True):
        a, b = jnp.split(_unit(f), 2)
        total = total + jnp.mean(jnp.sum(w * jnp.square(a - b), axis=-1), axis=(1, 2))
    return total


def _activations(net: str, layers: list, x: Array) -> list[Array]:
    x = (jnp.broadcast_to(x, (*x.shape[:3], 3)) - SHIFT) / SCALE
    at, found = iter(layers), []
    for stage in TRUNKS[net]:
        if stage.pool:
            x = primitives.max_pool(x, stage.pool, 2)
        for conv, layer in zip(stage.convolutions, at, strict=False):
            x = primitives.conv(x, layer["kernel"], stride=conv.stride, padding=conv.padding)
            x = jax.nn.relu(x + layer["bias"])
        found.append(x)
    return found


def _unit(f: Array) -> Array:
    """f over its length at each position; 0, with the gradient 0, where nothing is active."""
    squared = jnp.sum(jnp.square(f), axis=-1, keepdims=True)
    active = squared > 0
    return jnp.where(active, f / (jnp.sqrt(jnp.where(active, squared, 1.0)) + 1e-10), 0.0)
