"""Normalizing flows for posteriors: (z [B, D], context [B, F]) -> (z' [B, D], log |det dz'/dz| [B])."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.nets.layers import Dense, Dtype
from jaxgen.nets.primitives import constant_std, dense, std_init
from jaxgen.types import Array, check


class Planar(nn.Module):
    """z' = z + u tanh(w z + b), `layers` times, log |det| = log |1 + u psi|, psi = (1 - tanh^2(w z + b)) w
    (Rezende and Mohamed 2015, arXiv:1505.05770, eq. 10 to 12); u is moved so that w u > -1, which makes each layer
    invertible (their appendix A.1). u, w and b come from the context, or are parameters where there is none.
    """

    layers: int = 10

    @nn.compact
    def __call__(self, z: Array, context: Array, train: bool = False) -> tuple[Array, Array]:
        d, log_det = z.shape[1], jnp.zeros(z.shape[0])
        # a constant context without features: the bias alone, one set of parameters for all examples
        given = context if context.shape[1] else jnp.ones((z.shape[0], 1))
        numbers = Dense(self.layers * (2 * d + 1), kernel_init=constant_std(0.05), name="numbers")(given)
        for layer in jnp.split(numbers, self.layers, axis=1):
            u, w, b = jnp.split(layer, [d, 2 * d], axis=1)
            wu = jnp.sum(w * u, axis=1, keepdims=True)
            u = u + (jax.nn.softplus(wu) - 1.0 - wu) * w / (jnp.sum(jnp.square(w), axis=1, keepdims=True) + 1e-8)
            h = jnp.tanh(jnp.sum(w * z, axis=1, keepdims=True) + b)
            log_det = log_det + jnp.log(jnp.abs(1.0 + jnp.sum(u * (1.0 - jnp.square(h)) * w, axis=1)))
            z = z + u * h
        return z, log_det


class InverseAutoregressive(nn.Module):
    """z' = s z + (1 - s) m with (m, logit s) = MADE(z, context), `layers` times, the dimensions reversed in between:
    log |det| = sum_j log s_j (Kingma et al. 2016, arXiv:1606.04934, algorithm 1 and eq. 13 to 15).

    features: of the two hidden layers of each MADE. The logit of s begins near 2, where a layer hardly changes z.
    """

    layers: int = 2
    features: int = 320
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, z: Array, context: Array, train: bool = False) -> tuple[Array, Array]:
        log_det = jnp.zeros(z.shape[0])
        for i in range(self.layers):
            m, logit = MADE(self.features, self.dtype, name=f"made_{i}")(z, context)
            s = jax.nn.sigmoid(logit + 2.0)
            z, log_det = s * z + (1.0 - s) * m, log_det + jnp.sum(jax.nn.log_sigmoid(logit + 2.0), axis=1)
            z = z[:, ::-1]
        return z, log_det


class MADE(nn.Module):
    """(m, l) [B, D] each, m_j and l_j functions of z_1, ..., z_{j-1} and the context: two hidden layers whose kernels
    are masked (Germain et al. 2015, arXiv:1502.03509, eq. 8 and 9)."""

    features: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, z: Array, context: Array) -> tuple[Array, Array]:
        d = z.shape[1]
        check(d >= 2, f"an autoregressive flow needs a latent of at least 2 dimensions, it has {d}")
        inputs, hidden = np.arange(1, d + 1), 1 + np.arange(self.features) % (d - 1)
        h = MaskedDense(dtype=self.dtype)(z, inputs[:, None] <= hidden)
        if context.shape[1]:
            h = h + Dense(self.features, bias=False, dtype=self.dtype)(context)
        h = nn.elu(h)
        h = nn.elu(MaskedDense(dtype=self.dtype)(h, hidden[:, None] <= hidden))
        outputs = np.concatenate([inputs, inputs])
        m, l = jnp.split(MaskedDense(0.1, self.dtype)(h, hidden[:, None] < outputs), 2, axis=1)
        return m.astype(jnp.float32), l.astype(jnp.float32)


class MaskedDense(nn.Module):
    """y = x (W * mask) + b, mask [inputs, outputs] of booleans; gain: of the kernel's scale."""

    gain: float = 1.0
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, mask: np.ndarray) -> Array:
        share = max(float(np.mean(mask)), 1e-3)  # of the kernel's inputs that are there
        kernel = self.param("kernel", std_init(self.gain**2 / share), mask.shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (mask.shape[1],), jnp.float32)
        return dense(x.astype(self.dtype), (kernel * mask).astype(self.dtype)) + bias.astype(self.dtype)
