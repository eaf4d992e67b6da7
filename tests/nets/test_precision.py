"""Products whose numbers matter are float32 on every device: what is stated while tracing reaches the compiled program.

On the CPU every precision computes the same, so the programs themselves are read.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.nets import inception, lpips
from jaxgen.nets.primitives import attention, conv, conv_transpose, dense

RNG = np.random.default_rng(0)


def normal(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


X, W, V, TOKENS = normal(2, 6, 6, 4), normal(3, 3, 4, 4), normal(4, 4, 4, 2), normal(2, 3, 2, 4)
CALLS = {
    "conv": (lambda x, w: conv(x, w, stride=2), (X, W)),
    "conv_transpose": (conv_transpose, (X, V)),
    "grouped": (lambda x, w: conv(x, w, groups=2), (X, W[:, :, :2])),
    "one pixel": (lambda x, w: conv(x, w[:1, :1]), (X, W)),
    "as large as the image": (lambda x, w: conv(x, w, padding="VALID"), (X[:, :3, :3], W)),
    "from one pixel": (lambda x, w: conv_transpose(x, w, stride=1, padding="VALID"), (X[:, :1, :1], V)),
    "mapped images": (lambda x, w: jax.vmap(conv, (0, None))(jnp.stack([x, x]), w), (X, W)),
    "mapped kernels": (lambda x, w: jax.vmap(conv, (None, 0))(x, jnp.stack([w, w])), (X, W)),
    "mapped both": (lambda x, w: jax.vmap(conv)(jnp.stack([x, x]), jnp.stack([w, w])), (X, W)),
    "dense": (lambda x, w: dense(x, w[0, 0]), (X, W)),
    "attention": (lambda q, k: attention(q, k, q + k), (TOKENS, TOKENS)),
}


def orders(call):
    """A value, its gradient, and the gradient of a gradient penalty."""

    def loss(x, w):
        return jnp.sum(jnp.sin(call(x, w)))

    gradient = jax.grad(loss, (0, 1))
    return {
        "value": loss,
        "gradient": gradient,
        "of a gradient": jax.grad(lambda x, w: sum(jnp.sum(g**2) for g in gradient(x, w)), (0, 1)),
        "tangent": lambda x, w: jax.jvp(gradient, (x, w), (x, w))[1],
    }


def products(lowered):
    """How each product of a program is computed: [True where it is of the highest precision]."""
    found = re.findall(r"stablehlo\.(?:convolution|dot_general)[^\n]*", lowered.as_text())
    return ["HIGHEST, HIGHEST" in line or "HIGHEST>, #stablehlo<precision HIGHEST" in line for line in found]


@pytest.mark.parametrize("order", ["value", "gradient", "of a gradient", "tangent"])
@pytest.mark.parametrize("name", CALLS)
def test_the_precision_while_tracing_is_that_of_every_derivative(name, order):
    call, inputs = CALLS[name]
    f = orders(call)[order]
    with jax.default_matmul_precision("highest"):
        traced = jax.jit(f).trace(*inputs)
    exact = products(traced.lower())  # outside: lowering knows nothing of the setting
    assert exact and all(exact)
    on_gpu = products(traced.lower(lowering_platforms=("cuda",)))  # attention has another form there
    assert on_gpu and all(on_gpu)
    traced = jax.jit(f).trace(*inputs)
    with jax.default_matmul_precision("highest"):
        rounded = products(traced.lower())
    assert len(rounded) == len(exact) and not any(rounded)


@pytest.mark.parametrize("name", CALLS)
def test_a_derivative_keeps_the_precision_of_its_function(name):
    """The setting may end with the function: a loss asks for the gradient of a distance from outside."""
    call, inputs = CALLS[name]

    def stated(x, w):
        with jax.default_matmul_precision("highest"):
            return call(x, w)

    for order in ("gradient", "of a gradient"):
        found = products(jax.jit(orders(stated)[order]).lower(*inputs))
        assert found and all(found), order


@pytest.mark.parametrize("axes", [(0, None), (None, 0), (0, 0)])
@pytest.mark.parametrize("groups", [1, 2])
def test_a_mapped_derivative_keeps_the_precision_of_its_function(axes, groups):
    def loss(x, w):
        with jax.default_matmul_precision("highest"):
            return jnp.sum(jnp.sin(conv(x, w, groups=groups)))

    inputs = [
        a if axis is None else jnp.stack([a, a]) for a, axis in zip((X, W[:, :, : 4 // groups]), axes, strict=True)
    ]
    found = products(jax.jit(jax.vmap(jax.grad(loss, (0, 1)), axes)).lower(*inputs))
    assert len(found) >= 3 and all(found)  # on the CPU one for each group


def test_other_settings_are_obeyed_too():
    for setting, name in (("high", "HIGH"), ("tensorfloat32", "HIGH"), ("default", "DEFAULT"), ("bfloat16", "DEFAULT")):
        with jax.default_matmul_precision(setting):
            traced = jax.jit(conv).trace(X, W)
        (found,) = re.findall(r"precision_config = \[#stablehlo<precision (\w+)>", traced.lower().as_text())
        assert found == name


def test_the_features_that_have_to_agree_with_others_are_float32():
    shapes = {name: {"kernel": np.zeros(shape), "bias": np.zeros(shape[3])} for name, shape in inception.CONVS.items()}
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, jnp.float32), inception.join(shapes))
    x = jax.ShapeDtypeStruct((1, inception.SIZE, inception.SIZE, 3), jnp.float32)
    found = products(jax.jit(inception.codes).lower(shapes, x))
    assert len(found) > 50 and all(found)
    head = {"kernel": jax.ShapeDtypeStruct((inception.CODES, inception.CLASSES), jnp.float32)}
    code = jax.ShapeDtypeStruct((1, inception.CODES), jnp.float32)
    assert products(jax.jit(inception.log_probs).lower(head, code)) == [True]


@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_a_perceptual_distance_and_its_gradient_are_float32(net):
    trunk, inputs = {}, 3
    for stage in lpips.TRUNKS[net]:
        for c in stage.convolutions:
            trunk[f"features.{c.place}.weight"] = np.zeros((c.outputs, inputs, c.size, c.size), np.float32)
            trunk[f"features.{c.place}.bias"] = np.zeros(c.outputs, np.float32)
            inputs = c.outputs
    last = [stage.convolutions[-1].outputs for stage in lpips.TRUNKS[net]]
    linear = {f"lin{i}.model.1.weight": np.zeros((1, n, 1, 1), np.float32) for i, n in enumerate(last)}
    params = lpips.parameters(net, trunk, linear)
    x = jnp.zeros((1, 32, 32, 3))
    f = jax.grad(lambda y: jnp.sum(lpips.distance(net, params, x, y)))
    found = products(jax.jit(f).lower(x))
    assert len(found) >= 2 * sum(len(stage.convolutions) for stage in lpips.TRUNKS[net]) - 1 and all(found)
