"""The flags of sampling and the default conditions, which all commands that draw samples share."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxgen import cli, data, sampling
from jaxgen.cli import common, draw
from jaxgen.cli.train import execute
from jaxgen.conditions import attributes, image, labels, optional, several, text
from jaxgen.data import in_memory
from jaxgen.processes import cosine
from jaxgen.types import Game, InputError, Model, Prediction, TrainState, normal

SHAPE = (8, 8, 1)
STATE = TrainState(jnp.zeros((), jnp.int32), jax.random.key(0), {}, {}, {}, None)


def run_of(dataset, condition):
    """A run that paints the sum of its condition's numbers over every image or point."""

    def predict(params, extra, given):
        total = sum(jnp.sum(leaf.reshape(leaf.shape[0], -1), axis=1) for leaf in jax.tree.leaves(given))
        shape = (-1, *(1,) * len(dataset.shape))
        return lambda x, t: Prediction(jnp.broadcast_to(0.01 * jnp.reshape(total, shape), x.shape))

    model = Model(
        Game(lambda key, batch: ({}, {}), {}),
        lambda params, extra, keys, c: normal(keys, dataset.shape),
        predict,
        sampling.iterate(sampling.ddim(cosine()), sampling.uniform(2)),
        condition=condition,
        process=cosine(),
    )
    experiment = SimpleNamespace(model=model, data=dataset, name="painter", draws=True)
    return SimpleNamespace(experiment=experiment, state=STATE, step=3)


@pytest.fixture
def sample(monkeypatch, tmp_path, capsys):
    """`sample(run, *flags)`: the arrays that the command writes; with a .png, the picture."""

    def call(run, *flags: object, name: str = "x.npz"):
        monkeypatch.setattr(draw, "open_model", lambda workdir: (run, SimpleNamespace(rows=None)))
        execute(draw.sample, [str(tmp_path), "--out", str(tmp_path / name), *map(str, flags)], "jaxgen sample")
        assert capsys.readouterr().out == f"{tmp_path / name}\n"
        if name.endswith(".png"):
            with Image.open(tmp_path / name) as picture:
                return np.asarray(picture.convert("RGB"))
        with np.load(tmp_path / name) as arrays:
            return dict(arrays)

    return call


# --- conditions ------------------------------------------------------------------------------------------------------


def nameless(shape, condition=None, name="nameless"):
    """40 examples of a data set without names of its classes, found by its name."""
    x = np.zeros((40, *shape), np.uint8 if len(shape) == 3 else np.float32)
    return in_memory(name, "train", x, condition)


@pytest.mark.parametrize("shape", [SHAPE, (2,)], ids=["images", "points"])
@pytest.mark.parametrize("kind", [labels, lambda n: optional(labels(n))], ids=["labels", "optional"])
def test_labels_are_taken_in_turn_whether_or_not_the_data_set_names_them(sample, shape, kind):
    arrays = sample(run_of(nameless(shape, np.arange(40) % 5), kind(5)), "--n", 12)
    assert sorted(arrays) == ["labels", "x"]
    np.testing.assert_array_equal(arrays["labels"], np.arange(12) % 5)
    assert len(np.unique(arrays["x"].reshape(12, -1)[:, 0])) == 5  # and the model was given them


def test_attributes_of_points_without_a_test_split_are_those_of_the_data(sample):
    values = np.stack([np.arange(40) % 2, np.arange(40) % 3], axis=1)
    run = run_of(nameless((2,), values), attributes(2))
    np.testing.assert_array_equal(sample(run, "--n", 50)["labels"], values[np.arange(50) % 40])
    assert sample(run, "--n", 50, name="x.png").shape == (500, 500, 3)  # points, not images with their conditions


def test_a_tree_of_conditions_is_read_and_written_by_its_parts(sample):
    tree = several(digit=labels(5), style=optional(attributes(2)))
    values = {"digit": np.arange(40) % 5, "style": np.eye(2)[np.arange(40) % 2].astype(np.float32)}
    run = run_of(nameless(SHAPE, values), tree)
    arrays = sample(run, "--n", 6)
    assert sorted(arrays) == ["labels.digit", "labels.style.known", "labels.style.value", "x"]
    np.testing.assert_array_equal(arrays["labels.digit"], np.arange(6) % 5)
    named = sample(run, "--n", 2, "--condition", "digit=3; style=1")
    np.testing.assert_array_equal(named["labels.digit"], [3, 3])
    np.testing.assert_array_equal(named["labels.style.value"], [[0, 1], [0, 1]])
    absent = sample(run, "--n", 2, "--condition", "digit=3")
    assert not absent["labels.style.known"].any()


def test_a_caption_is_read_word_by_word(sample):
    words = ("a", "thick", "seven", "leaning", "left")
    run = run_of(nameless(SHAPE, np.ones((40, 5), np.int32)), optional(text(words, 5)))
    arrays = sample(run, "--n", 2, "--condition", "a thick Seven", "--guidance", 2)
    np.testing.assert_array_equal(arrays["labels.values"], [[1, 2, 3, 0, 0]] * 2)
    np.testing.assert_array_equal(arrays["labels.mask"].sum(1), [3, 3])
    for caption, line in (
        ("a thick sevn", "unknown word 'sevn' in 'a thick sevn': did you mean 'seven'"),
        ("a seven leaning left leaning left", "a text has 1 to 5 words, .* has 6"),
    ):
        with pytest.raises(InputError, match=line):
            sample(run, "--condition", caption)


def test_images_to_condition_on_stand_beside_their_samples(sample):
    halves = image(lambda x: x[:, :4], (4, 8, 1))
    picture = sample(run_of(data.load("digits"), halves), "--n", 16, name="x.png")
    assert picture.shape[:2] == (8 * (2 * 9 - 1), 8 * (9 * 9 - 1))  # two rows of one given image and eight samples
    upper = picture[: 8 * 4 : 8, : 8 * 8 : 8, 0]
    np.testing.assert_array_equal(upper, data.load("digits", "test").take(np.arange(1)).x[0, :4, :, 0])


def test_a_condition_of_an_unconditional_run_is_refused(sample):
    with pytest.raises(InputError, match="this run is unconditional"):
        sample(run_of(nameless(SHAPE), None), "--condition", "3")


def test_a_run_that_draws_no_samples_is_refused_in_one_line(monkeypatch, tmp_path):
    run = SimpleNamespace(experiment=SimpleNamespace(draws=False))
    monkeypatch.setattr(common, "open_run", lambda workdir: (run, None))
    for command in (["sample"], ["evaluate"], ["study"], ["nearest"], ["likelihood"], ["reconstruct"]):
        with pytest.raises(InputError, match=r"is no generative model: it draws no samples") as refused:
            execute(cli.COMMANDS[command[0]], [str(tmp_path)], f"jaxgen {command[0]}")
        assert "\n" not in str(refused.value)


# --- flags -----------------------------------------------------------------------------------------------------------

SAMPLING_COMMANDS = ("sample", "interpolate", "traverse", "manifold", "evaluate", "nearest", "study")
SAMPLING_COMMANDS += ("analogy", "turn", "directions", "mix", "truncation")


def help_of(command: str, capsys) -> str:
    with pytest.raises(SystemExit):
        cli.main([command, "--help"])
    return " ".join(re.sub(r"[│\s]+", " ", capsys.readouterr().out).split())


@pytest.mark.parametrize("command", SAMPLING_COMMANDS)
def test_every_command_that_samples_has_the_same_flags(command, capsys, monkeypatch):
    monkeypatch.setitem(sampling.SOLVERS, "mine", sampling.ddim)
    text = help_of(command, capsys)
    for flag in ("--condition", "--guidance", "--truncation", "--sampler-steps", "--batch INT", "--ema", "--no-ema"):
        assert re.search(rf"(?<![\w-]){flag}\b", text), flag
    choices = re.search(r"--sampler \{(.*?)\}", text)
    names = [*sampling.SOLVERS, *sampling.JUMPING, "adaptive", *sampling.UNMASKING]
    assert choices and re.sub(r"\s", "", choices[1]).split(",") == names  # a new solver is a choice
    assert "--sampling" not in text and "classifier-free guidance scale" in text


def test_flags_of_sampling_become_options_of_sampling():
    run = run_of(data.load("digits"), labels(10))
    flags = common.Sampling(guidance=2.0, sampler="ddpm", batch=7, ema=False)
    options = flags.options(run, SimpleNamespace(rows="sharding"))
    assert {name: options[name] for name in ("guidance", "batch", "ema", "sharding")} == {
        "guidance": 2.0,
        "batch": 7,
        "ema": False,
        "sharding": "sharding",
    }
    assert set(options) <= set(sampling.Options.__annotations__)
    assert sampling.evaluations(run.experiment.model, STATE, sampler=options["sampler"]) == 1000
    few = common.Sampling(sampler_steps=3).options(run)
    assert sampling.evaluations(run.experiment.model, STATE, sampler=few["sampler"]) == 3
    assert common.SAMPLING.options(run)["sampler"] is None and common.SAMPLING.chosen() == {}
    assert flags.chosen() == {"guidance": 2.0, "sampler": "ddpm"}


@pytest.mark.parametrize("command", ["interpolate", "traverse", "manifold"])
def test_walks_take_the_sampler_of_the_flags(command, monkeypatch, tmp_path):
    run = run_of(nameless(SHAPE, np.arange(40) % 5), labels(5))
    monkeypatch.setattr(draw, "open_model", lambda workdir: (run, SimpleNamespace(rows=None)))
    used = []

    def generate(model, state, keys, noise, condition=None, **options):
        used.append(options)
        return jnp.zeros((len(keys), *SHAPE))

    monkeypatch.setattr("jaxgen.sampling.walks.generate", generate)
    flags = ["--sampler", "ddpm", "--sampler-steps", "3", "--batch", "5", "--no-ema", "--guidance", "1.5"]
    execute(cli.COMMANDS[command], [str(tmp_path), *flags], f"jaxgen {command}")
    for options in used:
        assert (options["batch"], options["ema"], options["guidance"]) == (5, False, 1.5)
        assert sampling.evaluations(run.experiment.model, STATE, sampler=options["sampler"]) == 3
    assert used


# --- scores ----------------------------------------------------------------------------------------------------------


def test_without_a_test_split_the_floor_is_that_of_halves_and_scores_of_the_model_are_refused(
    monkeypatch, tmp_path, capsys
):
    from jaxgen.cli import evaluate

    x = np.random.default_rng(0).integers(0, 256, (80, *SHAPE), np.uint8)
    run = run_of(in_memory("mine", "train", x), None)
    place = SimpleNamespace(rows=None, devices=1)
    monkeypatch.setattr(evaluate, "open_model", lambda workdir: (run, place))

    def call(*flags: str) -> list[str]:
        command = [str(tmp_path), "--n", "40", "--extractor", "pixels", *flags]
        execute(evaluate.evaluate, command, "jaxgen evaluate")
        return capsys.readouterr().out.splitlines()

    lines = call()
    assert lines[1] == "held out: none: the floor is that of two halves of the reference set"
    assert [line.split()[0] for line in lines[3:-1]] == ["fid", "kid", "precision", "recall", "density", "coverage"]
    for metric, message in (("copying", "not in the reference set"), ("reconstruction", "held-out data")):
        with pytest.raises(InputError, match=message):
            call("--metrics", metric)
    np.savez(tmp_path / "others.npz", x=x[::-1])
    lines = call("--held-out", str(tmp_path / "others.npz"))
    assert "copying" in [line.split()[0] for line in lines[3:-1]]


def test_batches_of_images_keep_their_conditions(sample):
    run = run_of(nameless(SHAPE, np.arange(40) % 5), labels(5))
    few, many = (sample(run, "--n", 12, "--batch", batch) for batch in (5, 64))
    np.testing.assert_array_equal(few["x"], many["x"])
    assert few["x"].shape == (12, *SHAPE)


@pytest.mark.parametrize("kind", ["exact", "bound"])
def test_a_density_that_needs_no_weights_has_no_elbo_beside_it(kind, monkeypatch, tmp_path, capsys):
    from jaxgen.cli import measure
    from jaxgen.types import Density

    run = run_of(nameless(SHAPE, name="digits"), None)
    density = Density(lambda p, e, keys, batch, k: jnp.full((len(keys), k), -7.0), kind, "a probability of pixels")
    run.experiment.model = run.experiment.model._replace(density=density)
    monkeypatch.setattr(measure, "open_model", lambda workdir: (run, None))
    execute(measure.likelihood, [str(tmp_path), "--n", "20"], "jaxgen likelihood")
    first, last = capsys.readouterr().out.splitlines()
    relation = "<= " if kind == "bound" else ""
    assert first == f"-log p(x)  {relation}7 ± 0 nats, {7 / (64 * np.log(2)):.4f} bits per dimension"
    assert last == "p is a probability of pixels; 20 images of digits test, 1 sample each"
    note = json.loads((tmp_path / "likelihood.json").read_text())
    assert note["kind"] == kind and note["elbo"] is None and note["nll"]["value"] == 7.0
    assert "error over 20 images, which models share" in note["nll"]["how"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--sampler", "adaptive", "--sampler-steps", 5), "chooses its own steps: leave --sampler-steps out"),
        (("--sampler", "unmask"), "for this model's process: choose one of ddim"),
    ],
)
def test_a_solver_of_other_models_is_refused(flags, message, sample):
    run = run_of(nameless(SHAPE, np.arange(40) % 5), labels(5))
    with pytest.raises(InputError, match=message):
        sample(run, *flags)
    assert sample(run, "--sampler", "adaptive", "--n", 2)["x"].shape == (2, *SHAPE)
