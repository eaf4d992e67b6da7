"""What is done to a layer's kernel before it is used, `Dense(64, weight=spectral)`: functions (layer, W) -> W.

Spectral normalisation and the equalised learning rate.
"""

from __future__ import annotations

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxgen.nets.layers import Weight
from jaxgen.types import Array

SETTLED = 8  # power iterations outside training, where weights may be averages that the vector has not followed


def spectral(layer: nn.Module, kernel: Array) -> Array:
    """W / sigma(W), sigma = u^T W v the largest singular value of W [outputs, inputs], by one power iteration at each
    use in training, v <- W^T u, u <- W v, made unit vectors, without a gradient of their own (Miyato et al. 2018,
    arXiv:1802.05957, algorithm 1).

    u is the layer's state in the collection "power_iteration"; an average takes it as it is, and outside training it is
    iterated further, so that it belongs to the averaged weights.
    """
    w = kernel.reshape(-1, kernel.shape[-1]).T
    state = layer.variable("power_iteration", "u", lambda: _unit(jnp.cos(jnp.arange(w.shape[0]) + 1.0)))
    training = layer.is_mutable_collection("power_iteration")
    fixed, u, v = jax.lax.stop_gradient(w), state.value, jnp.zeros(w.shape[1])
    for _ in range(1 if training else SETTLED):
        v = _unit(fixed.T @ u)
        u = _unit(fixed @ v)
    if training and not layer.is_initializing():
        state.value = u
    return kernel / (u @ w @ v)


def _unit(v: Array) -> Array:
    return v * jax.lax.rsqrt(jnp.sum(jnp.square(v)) + 1e-12)


def equalised(gain: float = math.sqrt(2.0), rate: float = 1.0) -> Weight:
    """rate gain / sqrt(fan_in) W, W ~ N(0, 1 / rate^2) at first: every layer then learns at one rate, whatever its size
    (Karras et al. 2017, arXiv:1710.10196, section 4.1). Parameters begin with `kernel_init=constant_std(1 / rate)`.
    rate: of this layer in comparison to the others (StyleGAN's mapping network has 0.01)."""

    def weight(layer: nn.Module, kernel: Array) -> Array:
        return kernel * (rate * gain / math.sqrt(math.prod(kernel.shape[:-1])))

    return weight
