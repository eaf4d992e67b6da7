"""A denoiser of images whose pixels have few values."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxgen.nets.network import Network
from jaxgen.processes import like
from jaxgen.types import Array, Process, Tree, check


def over_levels(net: Network, process: Process, levels: int = 256) -> Network:
    """(x_t [B, ..., C], t [B], condition) -> E[x_0 | x_t] [B, ..., C] of pixels on K levels v_k, even from -1 to 1:

        p(v_k | x_t) = softmax_k(l_k + log N(x_t; alpha v_k, sigma^2)),

    Bayes' rule with l [B, ..., C K], what `net` knows of each pixel from the others and the time, in place of a prior.
    Where the noise is below the distance of levels the estimate is the pixel's level by itself, which a network of
    numbers has to learn, to a thousandth of its range, for a likelihood. With l = 0 and at t = 0 alone it is the
    decoder of Kingma et al. 2021 (arXiv:2107.00630, section 3.3). To be trained with prediction "x0".
    InputError where `net` does not give K numbers for each of x_t's.
    """
    check(levels >= 2, f"pixels have at least 2 levels, not {levels}")
    values = jnp.linspace(-1.0, 1.0, levels)

    def apply(params: Tree, stats: Tree, x: Array, t: Array, *rest: Any, **options: Any) -> tuple[Array, Tree]:
        found, stats = net.apply(params, stats, x, t, *rest, **options)
        wanted = (*x.shape[:-1], x.shape[-1] * levels)
        check(
            found.shape == wanted,
            f"a denoiser over {levels} levels gives {levels} numbers for each of {x.shape[1:]}, in all {wanted[1:]}, "
            f"this one {found.shape[1:]}: change outputs",
        )
        a, s = (like(scale(t), x)[..., None] for scale in (process.alpha, process.sigma))
        logits = found.astype(jnp.float32).reshape(*x.shape, levels)
        p = jax.nn.softmax(logits - 0.5 * jnp.square((x[..., None] - a * values) / s))
        return jnp.matmul(p, values, precision=jax.lax.Precision.HIGHEST), stats  # TF32 would lose the last levels

    return Network(net.init, apply, net.random, net.encode)
