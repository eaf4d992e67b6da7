"""Networks of discrete latents: sizes, and a prior that depends on what comes before a position, on nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.nets import network
from jaxgen.nets.codes import CodeTransformer, ConvGridDecoder, ConvGridEncoder, PixelCNN
from jaxgen.types import InputError

KEY = jax.random.key(0)
CODES, HEIGHT, WIDTH = 5, 4, 6


def described(net, *inputs):
    return jax.eval_shape(lambda *a: net.apply(*net.init(KEY, *a), *a)[0], *inputs)


@pytest.mark.parametrize(
    "shape, halvings", [((8, 8, 1), 1), ((8, 8, 3), 3), ((28, 28, 1), 2), ((4, 12, 2), 2)], ids=str
)
def test_the_decoder_brings_the_encoder_s_grid_back_to_the_image(shape, halvings):
    x = jnp.zeros((2, *shape))
    z = described(network(ConvGridEncoder(5, 4, halvings, blocks=1)), x)
    assert z.shape == (2, shape[0] >> halvings, shape[1] >> halvings, 5) and z.dtype == jnp.float32
    back = described(network(ConvGridDecoder(shape, 4, blocks=1)), jnp.zeros(z.shape))
    assert back.shape == x.shape and back.dtype == jnp.float32


def test_sizes_that_do_not_go_together_are_refused():
    with pytest.raises(InputError, match="images of 28x28 cannot be halved 3 times"):
        described(network(ConvGridEncoder(5, 4, 3)), jnp.zeros((2, 28, 28, 1)))
    for grid in ((3, 3), (2, 4), (8, 8), (9, 9)):
        with pytest.raises(InputError, match="cannot be doubled to images of"):
            described(network(ConvGridDecoder((8, 8, 1), 4)), jnp.zeros((2, *grid, 5)))


@pytest.mark.parametrize("layers", [1, 4])
def test_a_position_s_logits_depend_on_the_codes_before_it_and_on_no_other(layers):
    net, n = network(PixelCNN(CODES, 8, layers)), HEIGHT * WIDTH
    base = np.random.default_rng(0).integers(0, CODES, n)
    changed = np.where(np.eye(n, dtype=bool), (base + 1) % CODES, base)  # row j: another code at position j
    grids = jnp.asarray(np.concatenate([base[None], changed]).reshape(-1, HEIGHT, WIDTH), jnp.int32)
    params, stats = net.init(KEY, grids)
    logits = np.asarray(jax.jit(net.apply)(params, stats, grids)[0]).reshape(n + 1, n, CODES)
    moved = np.abs(logits[1:] - logits[0]).max(axis=-1) / logits.std()  # [position changed, position predicted]
    before = np.triu(np.ones((n, n), bool), k=1)
    assert moved[~before].max() < 1e-5
    if layers == 4:  # no blind spot: every code before matters
        assert moved[before].min() > 1e-4


@pytest.mark.parametrize("local", [False, True])
def test_a_transformer_s_logits_depend_on_every_code_and_on_where_it_lies(local):
    net, n = network(CodeTransformer(CODES, 8, 1, 2, local, classes=3)), HEIGHT * WIDTH
    base = np.random.default_rng(0).integers(0, CODES + 1, n)  # some of them masks
    changed = np.where(np.eye(n, dtype=bool), (base + 1) % (CODES + 1), base)
    turned = np.roll(base.reshape(HEIGHT, WIDTH), 1, axis=1)  # the same codes at other places
    grids = jnp.asarray([*np.concatenate([base[None], changed]).reshape(-1, HEIGHT, WIDTH), turned], jnp.int32)
    labels = jnp.zeros(n + 2, jnp.int32)
    params, stats = net.init(KEY, grids, labels)
    apply = jax.jit(net.apply)
    logits = np.asarray(apply(params, stats, grids, labels)[0])
    assert logits.shape == (n + 2, HEIGHT, WIDTH, CODES)
    moved = np.abs(logits - logits[0]).max(axis=-1).reshape(n + 2, n) / logits.std()
    assert moved[1:].min() > 1e-5
    assert np.abs(apply(params, stats, grids, labels + 1)[0] - logits).max(axis=-1).min() > 1e-5
    with pytest.raises(InputError, match="8 channels cannot be split into 3"):
        net = network(CodeTransformer(CODES, 8, 1, 3))
        net.init(KEY, grids)
