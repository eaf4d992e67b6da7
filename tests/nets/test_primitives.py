"""The primitives compute what JAX's own operations compute, in every order and mode, and fast inside a scan."""

import os
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxgen.nets.primitives import attention, constant_std, conv, conv_transpose, dense, randomise, std_init
from jaxgen.types import InputError

LAYOUT = ("NHWC", "HWIO", "NHWC")


def normal(seed, *shapes):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.normal(size=shape).astype(np.float32)) for shape in shapes]


def assert_close(got, want, tolerance=1e-5):
    """Equal up to `tolerance` of the largest number in each array."""
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert g.shape == w.shape and g.dtype == w.dtype
        assert np.max(np.abs(g - w), initial=0) <= tolerance * max(1, np.max(np.abs(w), initial=0))


def everything(op, x, w, dx, dw):
    """The value and the derivatives of `op`, of first and second order, in both modes, and mapped in every way."""

    def loss(x, w):
        return jnp.sum(jnp.sin(op(x, w)))

    def penalty(x, w):
        return sum(jnp.sum(g**2) for g in jax.grad(loss, (0, 1))(x, w))

    gradient = jax.grad(loss, (0, 1))
    xs, ws = jnp.stack([x, dx], axis=1), jnp.stack([w, dw], axis=2)
    maps = [((1, None), (xs, w)), ((None, 2), (x, ws)), ((1, 2), (xs, ws))]
    return {
        "value": op(x, w),
        "gradient": gradient(x, w),
        "jvp": jax.jvp(op, (x, w), (dx, dw))[1],
        "gradient of gradient": jax.grad(penalty, (0, 1))(x, w),
        "jvp of gradient": jax.jvp(gradient, (x, w), (dx, dw))[1],
        "remat": jax.grad(jax.checkpoint(loss), 1)(x, w),
        "mapped": [jax.vmap(op, axes)(*args) for axes, args in maps],
        "mapped gradient": [jax.vmap(gradient, axes)(*args) for axes, args in maps],
    }


def assert_same_operation(op, plain, x_shape, w_shape):
    args = normal(0, x_shape, w_shape, x_shape, w_shape)
    run = jax.jit(everything, static_argnums=0, compiler_options={"xla_backend_optimization_level": 0})
    got, want = (run(f, *args) for f in (op, plain))
    for name in want:
        try:
            assert_close(got[name], want[name])
        except AssertionError as error:
            raise AssertionError(f"{name} differs") from error


# Image, kernel, channels in and out, stride, padding, dilation, groups.
CONVS = [
    (8, 3, 4, 4, 1, "SAME", 1, 1),
    (7, 3, 2, 3, 2, "SAME", 1, 1),
    (8, 4, 2, 3, 2, 1, 1, 1),
    (9, 4, 2, 3, 2, "SAME", 2, 1),
    (8, 2, 2, 3, 1, "VALID", 2, 1),
    (7, 1, 3, 2, 1, "SAME", 1, 1),
    (8, 1, 3, 2, 2, "VALID", 1, 1),
    (9, 3, 2, 3, (1, 2), ((2, 0), (1, 3)), (2, 1), 1),
    (7, 3, 2, 3, 2, ((-1, 2), (0, -1)), 1, 1),
    (8, (3, 2), 2, 3, (2, 1), "SAME", 1, 1),
    (4, 4, 3, 2, 1, "VALID", 1, 1),
    (4, 4, 3, 2, 1, 1, 1, 1),
    (8, 3, 4, 6, 1, "SAME", 1, 2),
    (9, 4, 4, 2, 2, 1, 1, 2),
    (7, 2, 4, 4, 2, "VALID", 2, 2),
    (8, 3, 4, 4, 1, "SAME", 1, 4),
    (9, 3, 4, 8, 2, "SAME", 2, 4),
]


@pytest.mark.parametrize("case", CONVS, ids=str)
def test_conv_is_lax(case):
    size, taps, inputs, outputs, stride, padding, dilation, groups = case

    def pair(value):
        return (value, value) if isinstance(value, int) else value

    def plain(x, w):
        pads = [pair(padding)] * 2 if isinstance(padding, int) else padding
        if stride == 2 and not isinstance(pads, str) and pads[0][0] < 0:
            # jax 0.10 computes this one wrong on the CPU (it reads beyond the image), so the reference crops first.
            x, pads = lax.pad(x, 0.0, ((0, 0, 0), (*pads[0], 0), (*pads[1], 0), (0, 0, 0))), "VALID"
        return lax.conv_general_dilated(
            x, w, pair(stride), pads, None, pair(dilation), LAYOUT, feature_group_count=groups
        )

    def op(x, w):
        return conv(x, w, stride=stride, padding=padding, dilation=dilation, groups=groups)

    assert_same_operation(op, plain, (2, size, size, inputs), (*pair(taps), inputs // groups, outputs))


# Image, kernel, stride, padding.
TRANSPOSED = [
    *((7, k, s, p) for p in ("SAME", "VALID") for k, s in ((1, 2), (2, 1), (3, 2), (4, 2), (2, 3))),
    (8, (3, 4), (1, 2), "SAME"),
    (1, 4, 1, "VALID"),
    (1, 4, 2, "VALID"),
    (1, 2, 3, "VALID"),
]


@pytest.mark.parametrize("case", TRANSPOSED, ids=str)
def test_conv_transpose_is_lax(case):
    size, taps, stride, padding = case
    taps, strides = (v if isinstance(v, tuple) else (v, v) for v in (taps, stride))

    def plain(x, w):
        return lax.conv_transpose(x, w, strides, padding, dimension_numbers=LAYOUT)

    def op(x, w):
        return conv_transpose(x, w, stride=stride, padding=padding)

    assert_same_operation(op, plain, (2, size, size, 3), (*taps, 3, 2))
