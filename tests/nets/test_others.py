"""Networks of other libraries train as ours do: NNX by `network`, Equinox and Haiku as docs/networks.md shows."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxgen import Experiment, data, families, fit, load_weights, reconstruct, save_weights
from jaxgen.nets import network
from jaxgen.nets.mlp import MLP
from jaxgen.types import InputError

TEXT = (Path(__file__).parents[2] / "docs" / "networks.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.S)


def documented(name: str, needs: str = "") -> object:
    """What a block of the document defines."""
    if needs:
        pytest.importorskip(needs)
    names: dict = {}
    exec(next(block for block in BLOCKS if re.search(rf"^(def|class) {name}\b", block, re.M)), names)
    return names[name]


def equinox_encoder():
    import equinox as eqx

    def make(key):
        return eqx.nn.Sequential([eqx.nn.Lambda(jnp.ravel), eqx.nn.MLP(64, 8, 32, 1, key=key)])

    return documented("of_equinox", "equinox")(make)


def haiku_encoder():
    of_haiku = documented("of_haiku", "haiku")
    import haiku as hk

    return of_haiku(lambda x: hk.nets.MLP([32, 8])(hk.Flatten()(x)))


ENCODERS = {
    "nnx": lambda: network(documented("Encoder")),
    "equinox": equinox_encoder,
    "haiku": haiku_encoder,
}


@pytest.mark.parametrize("kind", ENCODERS)
def test_a_vae_trains_with_an_encoder_of_another_library(tmp_path, kind):
    digits = data.load("digits")
    model = families.vae(ENCODERS[kind](), network(MLP(digits.shape, (32,))), 4)
    exp = Experiment(model, {"vae": optax.adam(3e-3)}, digits, batch=64, steps=60, log_every=20, name=kind)
    state = fit(exp, tmp_path / "run", progress=False)
    again = fit(exp._replace(steps=61), tmp_path / "run", progress=False)  # its checkpoint is read back
    assert int(again.step) == 61
    x = data.normalize(digits.take(np.arange(64))).x
    before = fit(exp._replace(steps=1), tmp_path / "other", progress=False)
    errors = [float(jnp.mean(jnp.square(reconstruct(model, s, x) - x))) for s in (before, state)]
    assert errors[1] < 0.75 * errors[0]
    save_weights(state, tmp_path / "x.safetensors")
    for a, b in zip(
        *map(jax.tree.leaves, (load_weights(before, tmp_path / "x.safetensors").params, state.ema.params)), strict=True
    ):
        np.testing.assert_array_equal(a, b)


def test_an_nnx_network_is_the_module_itself_and_its_statistics_follow_training():
    net, x = network(documented("Encoder")), jax.random.normal(jax.random.key(1), (16, 8, 8, 1)) + 3.0
    params, stats = net.init(jax.random.key(0), x)
    module = documented("Encoder")(nnx.Rngs(jax.random.key(0)))
    module.eval()
    np.testing.assert_allclose(net.apply(params, stats, x, None)[0], module(x), rtol=1e-5, atol=1e-6)
    module.train()
    output, after = net.apply(params, stats, x, train=True)
    np.testing.assert_allclose(output, module(x), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(after["norm"]["mean"], module.norm.mean[...], rtol=1e-5)
    assert not np.allclose(after["norm"]["mean"], stats["norm"]["mean"])
    assert net.apply(params, stats, x)[1] is stats
    other = net.init(jax.random.key(5), x)[0]
    assert not np.allclose(other["hidden"]["kernel"], params["hidden"]["kernel"])


def test_a_module_that_is_given_begins_with_its_own_parameters():
    module = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    net = network(module)
    for seed in (0, 1):
        params, stats = net.init(jax.random.key(seed), jnp.ones((1, 3)))
        np.testing.assert_array_equal(params["kernel"], module.kernel[...])
    assert stats == {}
    grad = jax.jit(jax.grad(lambda p: net.apply(p, {}, jnp.ones((4, 3)))[0].sum()))(params)
    np.testing.assert_allclose(grad["kernel"], np.full((3, 2), 4.0))


class Ordinary(nn.Module):
    """As tutorials of Linen write them."""

    flag: str

    @nn.compact
    def __call__(self, x, training=None, deterministic=None):
        frozen = deterministic if self.flag == "deterministic" else not training
        return nn.BatchNorm(use_running_average=frozen)(x)


class Training(Ordinary):
    def __call__(self, x, training: bool):  # type: ignore[override]
        return Ordinary.__call__(self, x, training=training)


class Deterministic(Ordinary):
    def __call__(self, x, deterministic: bool):  # type: ignore[override]
        return Ordinary.__call__(self, x, deterministic=deterministic)


@pytest.mark.parametrize("module", [Training("training"), Deterministic("deterministic")], ids=lambda m: m.flag)
def test_an_ordinary_linen_module_has_its_own_name_for_training(module):
    net, x = network(module), 3.0 + jax.random.normal(jax.random.key(0), (64, 2))
    params, stats = net.init(jax.random.key(1), x)
    trained, after = net.apply(params, stats, x, None, train=True)
    np.testing.assert_allclose(trained.mean(0), 0.0, atol=1e-5)
    assert jax.tree.leaves(after)[0].shape == (2,) and net.apply(params, stats, x)[1] is stats
    np.testing.assert_allclose(net.apply(params, stats, x)[0], x, rtol=1e-4)  # statistics as they begin


class Dropped(nnx.Module):
    def __init__(self, rngs):
        self.drop = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.drop(x)


@pytest.mark.parametrize(
    ("module", "part"),
    [
        (lambda: Dropped, "Dropped draws random numbers"),
        (lambda: 3, "takes a module of flax.linen or flax.nnx"),
        (lambda: lambda rngs: 7, "makes a .*, not a module of flax.nnx"),
    ],
)
def test_what_is_no_network_is_refused(module, part):
    with pytest.raises(InputError, match=part):
        network(module()).init(jax.random.key(0), jnp.ones((1, 3)))


def test_the_documented_hook_sends_every_record(tmp_path, monkeypatch):
    sent = []
    run = SimpleNamespace(log=lambda numbers, step: sent.append((step, numbers)))
    monkeypatch.setitem(__import__("sys").modules, "wandb", SimpleNamespace(init=lambda **settings: run))
    digits = data.load("digits")
    model = families.vae(network(MLP((8,), (4,))), network(MLP(digits.shape, (4,))), 4)
    exp = Experiment(model, {"vae": optax.adam(1e-3)}, digits, batch=8, steps=4, name="small")
    fit(exp, tmp_path / "run", hooks=[documented("to_wandb")(2, project="mine")], progress=False)
    assert [step for step, _ in sent] == [2, 4] and np.isfinite(sent[1][1]["vae/loss"])
