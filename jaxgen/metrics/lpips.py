"""LPIPS, a perceptual distance of images: as a metric, and as a part of a loss (`losses.perceptual.perceptual`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
from jax.tree_util import Partial

from jaxgen import torch_file
from jaxgen.losses.perceptual import Distance
from jaxgen.nets import lpips as networks
from jaxgen.types import Array, Tree, check


def lpips(
    trunk: str | Path | Mapping[str, Any],
    linear: str | Path | Mapping[str, Any],
    net: str = "alex",
    *,
    size: int | None = None,
) -> Distance:
    """d(x, y) = sum_l mean_hw sum_c w_lc (f_lhwc(x) - f_lhwc(y))^2, f_l the layers' activations scaled to length 1 at
    every position (Zhang et al. 2018, arXiv:1801.03924, eq. 1): [B, H, W, 1 or 3] in [-1, 1] each -> [B].

    trunk: torchvision's file of AlexNet ("alex") or VGG16 ("vgg") trained on ImageNet; linear: the weights w >= 0 of
    the authors' release 0.1; files, or their tensors by name, such as `metrics.weights.load("alexnet").tensors` and
    `load("lpips-alex").tensors`. Grey images are repeated in three channels.
    size: images become size x size first, bilinear and antialiased where that is smaller. AlexNet needs 31 pixels a
    side and VGG16 16; the weights were fitted at 64.

    A `jax.tree_util.Partial`: passed to compiled code, its weights are arguments and no constants. float32 throughout;
    on an accelerator that rounds products by default, `quality.distances` computes them at full precision.
    InputError for files that do not hold these weights, and for images that are too small.
    """
    tensors = [a if isinstance(a, Mapping) else torch_file.read(Path(a)) for a in (trunk, linear)]
    params = networks.parameters(net, *tensors)
    least = networks.least_size(net)
    check(size is None or size >= least, f"{net} needs images of {least} pixels a side or more: size={size} is less")
    return Partial(_of(net, size), params)


@cache
def _of(net: str, size: int | None) -> Callable[[Tree, Array, Array], Array]:
    """One function for each kind, so that two Partials of it share what is compiled."""
    return partial(_distance, net, size)


def _distance(net: str, size: int | None, params: Tree, x: Array, y: Array) -> Array:
    if size is not None and x.ndim == y.ndim == 4:
        x, y = (jax.image.resize(a, (a.shape[0], size, size, a.shape[-1]), "bilinear") for a in (x, y))
    return networks.distance(net, params, x, y)
