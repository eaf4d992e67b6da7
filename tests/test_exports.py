"""A model for other programs: its weights in torch's layouts, its sampler for any number of images, both read back."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from _tiny import FAMILIES, Home, home, refusal
from jax import export

import jaxgen
from jaxgen import cli, data, exports, families
from jaxgen.conditions import attributes
from jaxgen.nets import network
from jaxgen.nets.layers import Conv, ConvTranspose, Dense
from jaxgen.nets.mlp import MLP
from jaxgen.runs import Experiment, first_batch, init, load_run
from jaxgen.types import InputError, weights

__all__ = ["home"]


@pytest.mark.parametrize("family", FAMILIES)
def test_an_exported_sampler_draws_what_the_run_draws(home: Home, tmp_path, capsys, family):
    run = home.copy(family, tmp_path / "run")
    cli.main(["export", str(run), "--to", str(tmp_path / "out")])
    assert capsys.readouterr().out == f"{tmp_path / 'out'}\n"
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["about.json", "model.safetensors", "sampler.jax"]
    own, key = load_run(run), jax.random.key(3)
    model, state, images = exports.load_exported(tmp_path / "out")
    for given in [None, np.arange(5)] if family == "diffusion" else [None]:
        expected = jaxgen.sample(own.experiment.model, own.state, key, 5, given)
        np.testing.assert_allclose(jaxgen.sample(model, state, key, 5, given), expected, atol=2e-4)
    assert (images.name, images.size, images.shape) == ("digits", 1500, (8, 8, 1))
    assert len(images.take(np.arange(2)).x) == 2 and int(state.step) == 120


def test_it_is_called_with_arrays_alone_for_any_number_of_images(home: Home, tmp_path):
    from safetensors.numpy import load_file

    own = load_run(home.run("diffusion"))
    exports.export_model(own.experiment.model, own.state, tmp_path / "out", own.experiment.data)
    sampler = export.deserialize(bytearray((tmp_path / "out" / "sampler.jax").read_bytes()))
    named = load_file(tmp_path / "out" / "model.safetensors")
    bits = np.random.default_rng(0).integers(2**32, size=(7, 4), dtype=np.uint32)
    labels = np.array([3, -1, 0, 9, 9, 1, 2], np.int32)
    many, one = sampler.call(named, bits, labels), sampler.call(named, bits[4:5], labels[4:5])
    assert many.shape == (7, 8, 8, 1)
    np.testing.assert_allclose(many[4:5], one, atol=1e-5)
    assert not np.allclose(sampler.call(named, bits, np.full(7, -1, np.int32))[0], many[0])
    assert set(sampler.platforms) >= {"cpu", "cuda", "tpu"}


def test_the_document_reads_an_export_as_it_says(home: Home, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = load_run(home.run("vae"))
    exports.export_model(own.experiment.model, own.state, "vae", own.experiment.data)
    text = (Path(__file__).parents[1] / "docs" / "exports.md").read_text()
    (block,) = re.findall(r"```python\n(.*?)```", text, re.S)
    names: dict = {}
    exec(block, names)
    assert names["images"].shape == (16, 8, 8, 1) and float(jnp.abs(names["images"]).max()) <= 1.0


# --- names and layouts of torch ------------------------------------------------------------------------------------


def test_layers_compute_what_torchs_compute_with_the_exported_weights():
    """torch's definitions, written out: Linear y = x W^T; Conv2d y_oij = sum W_ocuv x_c,i+u,j+v; ConvTranspose2d adds
    W_couv x_cij to y_o,2i+u-1,2j+v-1 (stride 2, padding 1)."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, 5, 5, 3)).astype(np.float32)

    def exported(layer, x):
        params = jax.tree.map(
            lambda a: jnp.asarray(rng.normal(size=a.shape), jnp.float32), network(layer).init(jax.random.key(0), x)[0]
        )
        named = exports._named(({"net": {f"{type(layer).__name__}_0": params}}, {}))
        return np.asarray(network(layer).apply(params, {}, x)[0]), named

    y, named = exported(Dense(4), x.reshape(1, -1))
    assert sorted(named) == ["net.Dense_0.bias", "net.Dense_0.weight"] and named["net.Dense_0.weight"].shape == (4, 75)
    np.testing.assert_allclose(
        y, x.reshape(1, -1) @ named["net.Dense_0.weight"].T + named["net.Dense_0.bias"], rtol=1e-4
    )

    y, named = exported(Conv(4), x)
    w, padded, expected = named["net.Conv_0.weight"], np.pad(x[0], ((1, 1), (1, 1), (0, 0))), np.zeros((5, 5, 4))
    for u in range(3):
        for v in range(3):
            expected += padded[u : u + 5, v : v + 5] @ w[:, :, u, v].T
    np.testing.assert_allclose(y[0], expected + named["net.Conv_0.bias"], rtol=1e-3, atol=1e-4)

    y, named = exported(ConvTranspose(2), x)
    w, expected = named["net.ConvTranspose_0.weight"], np.zeros((12, 12, 2))
    assert w.shape == (3, 2, 4, 4)
    for i in range(5):
        for j in range(5):
            expected[2 * i : 2 * i + 4, 2 * j : 2 * j + 4] += np.einsum("c,couv->uvo", x[0, i, j], w)
    np.testing.assert_allclose(y[0], expected[1:-1, 1:-1] + named["net.ConvTranspose_0.bias"], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_are_read_back_into_another_state(home: Home, tmp_path, family):
    own, file = load_run(home.run(family)), tmp_path / "x.safetensors"
    jaxgen.save_weights(own.state, file)
    named = exports.read_weights(file)
    assert all(name.split(".")[0] in own.state.params for name in named)
    if family == "gan":
        assert {f"generator.BatchNorm_0.norm.{part}" for part in ("weight", "bias", "running_mean")} <= set(named)
    other = init(own.experiment._replace(seed=9), first_batch(own.experiment))
    state = jaxgen.load_weights(other, file)
    for a, b in zip(*map(jax.tree.leaves, (weights(state), weights(own.state))), strict=True):
        np.testing.assert_array_equal(a, b)
    assert jax.tree.structure(state) == jax.tree.structure(other)
    taken = [a.unsafe_buffer_pointer() for a in jax.tree.leaves((state.params, state.ema.params))]
    assert len(set(taken)) == len(taken)  # a step donates them all


# --- a run that was made in Python ---------------------------------------------------------------------------------


def made_in_python(folder: Path, **changes: object) -> jaxgen.Experiment:
    x = 255 * np.random.default_rng(0).integers(0, 2, (40, 4, 4, 1), dtype=np.uint8)
    traits = np.stack([np.arange(40) % 2, np.arange(40) % 3], axis=1).astype(np.float32)
    images = data.in_memory("mine", "train", x, traits, ("odd", "third"))
    model = families.vae(network(MLP((4,), (8,))), network(MLP((4, 4, 1), (8,))), 2, condition=attributes(2))
    exp = Experiment(model, {"vae": optax.adam(1e-3)}, images, batch=4, steps=3, name="mine")
    return exp._replace(**changes)


def test_a_run_made_in_python_is_loaded_wherever_its_folder_is(tmp_path, capsys):
    exp = made_in_python(tmp_path)
    state = jaxgen.fit(exp, tmp_path / "run", progress=False)
    given = np.array([1.0, 0.0], np.float32)
    expected = jaxgen.sample(exp.model, state, jax.random.key(0), 3, given)
    moved = shutil.move(tmp_path / "run", tmp_path / "moved")
    model, state = jaxgen.load(moved)
    found = jaxgen.sample(model, state, jax.random.key(0), 3, {"value": given})
    np.testing.assert_allclose(found, expected, atol=1e-5)
    run = load_run(moved)
    assert (run.step, run.experiment.data.name, run.experiment.data.classes) == (3, "mine", ("odd", "third"))
    with pytest.raises(InputError, match="this needs the examples of mine"):
        run.experiment.data.take(np.arange(1))
    capsys.readouterr()
    cli.main(["show", str(moved)])
    assert "step        3" in capsys.readouterr().out
    with pytest.raises(InputError, match="it has no latents"):
        jaxgen.generate(model, state, jax.random.split(jax.random.key(0), 2), jnp.zeros((2, 2)), {"value": given})


def test_what_cannot_be_lowered_is_said_and_ends_no_run(tmp_path, capsys):
    exp = made_in_python(tmp_path)

    def decode(params, extra, keys, x0, condition):
        x = exp.model.decode(params, extra, keys, x0, condition)
        return jax.pure_callback(np.sin, jax.ShapeDtypeStruct(x.shape, x.dtype), x)

    jaxgen.fit(exp._replace(model=exp.model._replace(decode=decode)), tmp_path / "run", progress=False)
    assert "cannot be loaded without its code" in capsys.readouterr().err
    with pytest.raises(InputError, match="its sampler could not be kept"):
        jaxgen.load(tmp_path / "run")


# --- a run whose pictures are gone ---------------------------------------------------------------------------------


def test_a_conditional_run_is_evaluated_without_its_pictures(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    digits = data.load("digits").take(np.arange(200))
    np.savez("mine.npz", x=digits.x, labels=digits.condition)
    np.savez("others.npz", x=digits.x[:100])
    cli.main(["train", "folder_vae", "--data", "mine.npz", "--width", "2", "--latent", "2", "--steps", "2", "--quiet"])
    Path("mine.npz").unlink()
    shutil.move("runs/folder_vae", "moved")
    capsys.readouterr()
    cli.main(["evaluate", "moved", "--reals", "others.npz", "--extractor", "pixels", "--metrics", "fid", "--n", "50"])
    out, err = capsys.readouterr()
    assert "50 samples of folder_vae, step 2, against 100 images of others.npz all" in out
    assert "samples take every condition in turn" in err


# --- mistakes ------------------------------------------------------------------------------------------------------


def test_mistakes_get_one_line(home: Home, tmp_path, capsys):
    run = home.run("vae")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("mine")
    assert "holds other files (thesis.tex)" in refusal(capsys, "export", run, "--to", tmp_path / "full")
    assert "no folder" in refusal(capsys, "export", tmp_path / "none")
    assert "--too" in refusal(capsys, "export", run, "--too", "x")
    cli.main(["export", str(run), "--to", str(tmp_path / "out")])
    state = load_run(run).state
    file = tmp_path / "out" / "model.safetensors"
    with pytest.raises(InputError, match=r"which this model has not|has no |in this model"):
        jaxgen.load_weights(load_run(home.run("gan")).state, file)
    raw = file.read_bytes()
    jaxgen.save_weights(load_run(home.run("gan")).state, file)
    capsys.readouterr()
    assert "do not fit" in refusal(capsys, "sample", tmp_path / "out", "--n", 2)
    file.write_bytes(raw[:100])
    with pytest.raises(InputError, match="is damaged or no safetensors file"):
        jaxgen.load_weights(state, file)
    (tmp_path / "out" / "sampler.jax").write_bytes(b"nothing")
    capsys.readouterr()
    assert "sampler.jax is damaged" in refusal(capsys, "sample", tmp_path / "out")
    about = json.loads((tmp_path / "out" / "about.json").read_text())
    (tmp_path / "out" / "about.json").write_text(json.dumps({**about, "values": -1}))
    assert "about.json is damaged" in refusal(capsys, "sample", tmp_path / "out")
    (tmp_path / "out" / "about.json").write_text(
        json.dumps({**about, "condition": {"a": {"shape": [2], "dtype": "x"}}})
    )
    assert "it.condition.a.dtype is no type of numbers" in refusal(capsys, "sample", tmp_path / "out")
