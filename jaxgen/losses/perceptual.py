"""LPIPS, a distance of images that agrees with people: as a metric, and as a part of an autoencoder's loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from jaxgen.data import torch_file
from jaxgen.losses.likelihood import Likelihood, total
from jaxgen.nets import lpips as networks
from jaxgen.types import Array, Tree, check

Distance = Callable[[Array, Array], Array]
"""(x, y) -> [B]: of images [B, H, W, C] in [-1, 1], one by one; differentiable."""


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

    A `jax.tree_util.Partial`: passed to compiled code, its weights are arguments and no constants. float32 throughout.
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


def perceptual(distance: Distance, weight: float = 1.0) -> Likelihood:
    """-sum_i (x_i - mu_i)^2 - weight D d(x, mu), mu the output, D the numbers of an image and d a `Distance` such as
    `lpips`: the mean squared error and weight times d an image, in the units of the sum (after Johnson, Alahi and
    Fei-Fei 2016, arXiv:1603.08155, section 3; Rombach et al. 2022, arXiv:2112.10752, section 3.1, with LPIPS).

    An objective, no density. The squares keep the colours, which d alone leaves loose. Inside a family the distance's
    weights are constants of the compiled step: 10 MB of AlexNet, 59 MB of VGG16.
    """
    check(weight >= 0, f"the weight of a distance must not be negative, it is {weight}")

    def log_prob(x: Array, mu: Array) -> Array:
        mu = mu.astype(jnp.float32)
        return -total(jnp.square(x - mu)) - weight * x[0].size * distance(x, mu)

    return Likelihood(log_prob, mean=lambda mu: mu.astype(jnp.float32), measure="")
