"""Optimizers for games: what a player does to its own parameters besides following its gradient.

Each is an optax transformation of a player's optimizer, `optax.chain(..., ...)`: no loss and no game knows of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxgen.types import Array, Tree, check


def clip_weights(c: float = 0.01) -> optax.GradientTransformation:
    """Parameters are kept in [-c, c] after each update: the last of a chain (Arjovsky, Chintala and Bottou 2017,
    arXiv:1701.07875, algorithm 1: c = 0.01, RMSProp with a rate of 5e-5, 5 turns of the critic for one)."""
    check(c > 0, f"weights are clipped to a positive range, not {c}")

    def update(updates: Tree, state: Tree, params: Tree | None = None) -> tuple[Tree, Tree]:
        clipped = jax.tree.map(lambda p, u: jnp.clip(p + u, -c, c) - p, params, updates)
        return clipped, state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def regularise(penalty: Callable[[Tree], Array]) -> optax.GradientTransformation:
    """The gradient of `penalty(params) -> []` is added to the loss's: the first of a chain."""

    def update(updates: Tree, state: Tree, params: Tree | None = None) -> tuple[Tree, Tree]:
        return jax.tree.map(jnp.add, updates, jax.grad(penalty)(params)), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def orthogonal(beta: float = 1e-4) -> Callable[[Tree], Array]:
    """beta sum_W |W^T W o (1 - I)|^2 over kernels W, [inputs, outputs] with all axes but the last as one: filters that
    are orthogonal to each other, of whatever length (Brock, Donahue and Simonyan 2018, arXiv:1809.11096, eq. 3)."""
    check(beta >= 0, f"the weight of orthogonality must not be negative, it is {beta}")

    def penalty(params: Tree) -> Array:
        apart = jnp.zeros(())
        for kernel in (leaf for leaf in jax.tree.leaves(params) if leaf.ndim >= 2):
            w = kernel.reshape(-1, kernel.shape[-1])
            gram = w.T @ w
            apart += jnp.sum(jnp.square(gram * (1.0 - jnp.eye(gram.shape[0]))))
        return beta * apart

    return penalty


class History(NamedTuple):
    """The mean of the parameters so far, and of how many."""

    count: Array
    mean: Tree


def historical_average(weight: float) -> optax.GradientTransformation:
    """The gradient of weight |theta - 1/t sum_i theta_i|^2, the distance to the mean of all past parameters, is added
    to the loss's: the first of a chain (Salimans et al. 2016, arXiv:1606.03498, section 3.3). The mean is part of the
    optimizer's state, and held constant in the gradient."""
    check(weight >= 0, f"the weight of the historical average must not be negative, it is {weight}")

    def init(params: Tree) -> History:
        return History(jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, params))

    def update(updates: Tree, state: Any, params: Tree | None = None) -> tuple[Tree, History]:
        n = state.count + 1
        mean = jax.tree.map(lambda m, p: m + (p - m) / n, state.mean, params)
        pulled = jax.tree.map(lambda u, p, m: u + 2.0 * weight * (p - m), updates, params, mean)
        return pulled, History(n, mean)

    return optax.GradientTransformation(init, update)
