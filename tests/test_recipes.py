"""Experiments that come with jaxgen, on pictures of one's own: found by name, any channels, with classes or without."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _tiny import refusal
from PIL import Image, ImageDraw

import jaxgen
from jaxgen import cli, data, families, hooks, trust, viz
from jaxgen.losses import augmentation
from jaxgen.runs import load_run, recipes
from jaxgen.types import Batch, InputError, turn

SMALL = {
    "folder_gan": ["--width", "2", "--latent", "4"],
    "folder_vae": ["--width", "2", "--latent", "4"],
    "folder_diffusion": ["--width", "8", "--sampler-steps", "2"],
    "folder_latent": ["--width", "8", "--sampler-steps", "2"],
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Transparent discs and squares, a file that is no picture, and one that is damaged."""
    folder = tmp_path_factory.mktemp("pictures")
    for i in range(24):
        picture = Image.new("RGBA", (20, 20), (0, 0, 0, 0))
        draw, kind = ImageDraw.Draw(picture), ("discs", "squares")[i % 2]
        box, colour = (4, 4, 15, 15), (200, 10 * i, 40, 255)
        draw.ellipse(box, colour) if kind == "discs" else draw.rectangle(box, colour)
        (folder / kind).mkdir(exist_ok=True)
        picture.save(folder / kind / f"{i}.{('png', 'webp', 'tga', 'tiff')[i % 4]}")
    (folder / "discs" / "notes.txt").write_text("discs")
    whole = (folder / "discs" / "0.png").read_bytes()
    (folder / "squares" / "broken.png").write_bytes(whole[: len(whole) // 2])
    return folder


@pytest.mark.parametrize(
    ("name", "flags", "classes", "channels"),
    [
        ("folder_gan", [], 2, 3),
        ("folder_vae", ["--channels", "4"], 2, 4),
        ("folder_diffusion", ["--no-conditional"], 0, 3),
        ("folder_diffusion", ["--net", "dit"], 2, 3),
        ("folder_latent", ["--stage", "autoencoder", "--critic"], 0, 3),
        ("folder_latent", ["--channels", "4"], 2, 4),
    ],
)
def test_an_experiment_by_name_trains_on_a_folder(
    pictures, tmp_path, monkeypatch, capsys, name, flags, classes, channels
):
    monkeypatch.chdir(tmp_path)
    command = ["train", name, "--folder", str(pictures), "--size", "8", "--steps", "2", "--batch", "4"]
    cli.main([*command, *SMALL[name], *flags, "--quiet"])
    assert "step 2 after" in capsys.readouterr().err
    run = load_run(f"runs/{name}")
    assert run.experiment.data.shape == (8, 8, channels)
    condition = run.experiment.model.condition
    assert (0 if condition is None else condition.values) == classes
    with Image.open(f"runs/{name}/samples.png") as picture:
        assert picture.mode == "RGB"


def test_what_cannot_be_read_is_left_out_and_said_once(pictures, capsys):
    data.folder._say_skipped.cache_clear()
    found = data.images("photos", str(pictures), size=8)
    data.other_split(found, "all")
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and "2 files" in line and "discs/notes.txt" in line and "squares/broken.png" in line
    assert data.other_split(found, "all").size == 24
    with pytest.raises(InputError, match=r"broken\.png"):
        data.load(f"folder:{pictures}", "all", size=8)


def test_transparency_is_laid_on_a_colour_or_kept(pictures):
    blue = data.images("photos", str(pictures), size=20, background="#0000ff").take(np.arange(3)).x
    assert (blue[:, 0, 0] == [0, 0, 255]).all() and (blue[:, 10, 10, 0] == 200).all()
    kept = data.images("photos", str(pictures), size=20, channels=4).take(np.arange(3)).x
    assert (kept[:, 0, 0] == 0).all() and (kept[:, 10, 10, [0, 3]] == [200, 255]).all()


def test_opacity_is_shown_on_squares():
    x = np.zeros((1, 16, 16, 4), np.uint8)
    x[0, :, :8] = [10, 20, 30, 255]
    x[0, 0, 0] = [100, 100, 100, 51]  # a fifth
    picture = viz.grid(x)
    assert (picture[1:, :8] == [10, 20, 30]).all() and set(picture[:, 8:].ravel()) == {160, 208}
    assert picture[0, 0].tolist() == [round(0.2 * 100 + 0.8 * 208)] * 3
    grey = np.zeros((1, 16, 16, 1), np.uint8)
    assert viz.beside([grey], x).shape == (2, 16, 16, 3)


def test_a_mirrored_crop_is_a_part_of_the_image():
    """A plane through the pixels stays a plane, whose slope is the share that is kept, of either sign."""
    columns = jnp.broadcast_to(jnp.linspace(-1.0, 1.0, 9)[None, :, None], (9, 9, 1))
    change = augmentation.crop(0.5)
    keys = jax.random.split(jax.random.key(0), 200)
    x = jax.vmap(lambda key: augmentation.mirror(key, jnp.ones(()), change(key, jnp.ones(()), columns)))(keys)
    slopes = np.diff(np.asarray(x)[:, 0, :, 0], axis=1) / 0.25
    np.testing.assert_allclose(slopes, np.broadcast_to(slopes[:, :1], slopes.shape), atol=1e-5)
    assert ((np.abs(slopes[:, 0]) >= 0.5 - 1e-5) & (np.abs(slopes[:, 0]) <= 1 + 1e-5)).all()
    assert 0.4 < (slopes[:, 0] < 0).mean() < 0.6 and np.abs(x).max() <= 1 + 1e-6
    same = jax.vmap(lambda key: augmentation.mirror(key, jnp.zeros(()), change(key, jnp.zeros(()), columns)))(keys)
    np.testing.assert_allclose(same, np.broadcast_to(columns, same.shape), atol=1e-6)


def test_augmented_losses_are_those_of_changed_images():
    exp = jaxgen.load_experiment("folder_vae", data="digits", width=2, latent=3, flips=True, crop=0.0, batch=8)
    plain = jaxgen.load_experiment("folder_vae", data="digits", width=2, latent=3, flips=False, crop=0.0, batch=8)
    digits = data.normalize(exp.data.take(np.arange(8)))
    symmetric = Batch(jnp.asarray(digits.x + digits.x[:, :, ::-1]) / 2.0, digits.condition)
    params, extra = jax.jit(plain.game.init)(jax.random.key(0), symmetric)
    loss, augmented = (
        jax.jit(lambda params, extra, keys, batch, e=e: e.game.losses["vae"](params, extra, turn(keys), batch)[0])
        for e in (plain, exp)
    )
    now = jax.random.split(jax.random.key(1), 8)
    inner = turn(now).split()[1].keys  # the first of the two draws the changes
    expected = loss(params, extra, inner, symmetric)
    np.testing.assert_allclose(augmented(params, extra, now, symmetric), expected, rtol=1e-5)
    plain_x = Batch(jnp.asarray(digits.x), digits.condition)
    assert not np.allclose(augmented(params, extra, now, plain_x), loss(params, extra, inner, plain_x))
    with pytest.raises(InputError, match="at least one transform"):
        families.augmented(exp.model)


def test_the_same_network_goes_on_at_another_size():
    """`--start` of a run at 32x32 fits one at 64x64."""
    exps = [jaxgen.load_experiment("folder_diffusion", data="photos", size=size, width=8) for size in (32, 64)]
    assert [exp.data.shape for exp in exps] == [(32, 32, 3), (64, 64, 3)]
    batches = [data.normalize(exp.data.take(np.arange(2))) for exp in exps]
    made = [jax.eval_shape(exp.game.init, jax.random.key(0), batch) for exp, batch in zip(exps, batches, strict=True)]
    shapes = [jax.tree.map(lambda a: (a.shape, a.dtype), tree) for tree in made]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["folder_gna"], ["no experiment folder_gna (did you mean folder_gan?)", "folder_vae"]),
        (["folder_vae", "--folder", "{tmp}/none"], ["there is no folder {tmp}/none"]),
        (["folder_vae", "--folder", "{tmp}"], ["no pictures in {tmp}"]),
        (["folder_vae", "--data", "rings"], ["rings has no images"]),
        (["folder_gan", "--data", "digits", "--size", "9"], ["digits has images of 8x8 and no others, not of 9x9"]),
        (["folder_vae", "--folder", "{pictures}", "--background", "rainbow"], ["background='rainbow' is no colour"]),
        (["folder_vae", "--folder", "{pictures}", "--channels", "2"], ["channels=2: expected 3", "4 (colour and"]),
        (["folder_diffusion", "--data", "digits", "--crop", "1.5"], ["a crop leaves out a share"]),
    ],
)
def test_mistakes_with_pictures_of_ones_own(pictures, tmp_path, monkeypatch, capsys, arguments, parts):
    monkeypatch.chdir(tmp_path)
    names = {"tmp": tmp_path, "pictures": pictures}
    line = refusal(capsys, "train", *(word.format(**names) for word in arguments)).replace("jaxgen: note", "")
    assert all(part.format(**names) in line for part in parts)


def test_a_first_picture_is_drawn_before_its_time_and_one_at_an_interruption(tmp_path, monkeypatch):
    drawn, last = [], 100
    monkeypatch.setattr(hooks, "picture", lambda moment, *paths: drawn.append(moment.step))
    monkeypatch.setattr(hooks, "notice", lambda line: None)
    exp = jaxgen.Experiment(None, {}, None, steps=last)  # type: ignore[arg-type]
    moments = {step: hooks.Moment(exp, tmp_path, None, None, step) for step in (3, 4, 50)}  # type: ignore[arg-type]
    hook = hooks.draw(50)
    assert hooks.due([hook], 3, last, False) == [] and hooks.due([hook], 3, last, True) == [hook]
    hook.call(moments[3])  # stopped before the sampler is compiled
    assert drawn == []
    monkeypatch.setattr(hooks, "FIRST_PICTURE", -1.0)
    assert hooks.due([hook], 4, last, False) == [hook]
    hook.call(moments[4])
    assert hooks.due([hook], 5, last, False) == [] and drawn == [4]
    hook.call(moments[3])  # a signal, now that it is quick
    hook.call(moments[50])
    assert drawn == [4, 3, 50]
    monkeypatch.setattr(hooks, "QUICK", 0.0)
    hook.call(moments[3])  # a signal, and the last picture took longer
    assert drawn == [4, 3, 50]


def test_the_recipes_come_with_the_package():
    assert {path.stem for path in recipes()} >= {"folder_gan", "folder_vae", "folder_diffusion"}


SCRIPTS = sorted(
    p.stem for p in Path(cli.__file__).parents[2].glob("experiments/*.py") if "script(main)" in p.read_text()
)


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_refuses_what_its_function_does_not_take_in_one_line(monkeypatch, capsys, name):
    main = importlib.import_module(name).main
    for given, expected in (["a", "b", "c", "d", "--nosuch"], "nosuch"), ([], "required"):
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *given])
        with pytest.raises(SystemExit) as error:
            cli.script(main)
        out, err = capsys.readouterr()
        assert (error.value.code, out, err.count("\n")) == (2, "", 1) and err.startswith("jaxgen: error: "), err
        assert expected in err and f"see {name}.py --help" in err


def test_a_script_s_function_gets_what_its_arguments_and_flags_say(monkeypatch):
    found = []

    def main(out: Path, names: tuple[str, ...] = ("c",), /, *, rates: tuple[float, ...] = (1.0, 2.0)) -> None:
        found.append((out, names, rates, trust.is_trusting()))

    for argv in ["x.py", "o", "a", "b"], ["x.py", "--trust", "o", "--rates", "0.5"]:
        monkeypatch.setattr(sys, "argv", argv)
        cli.script(main)
    assert found == [(Path("o"), ("a", "b"), (1.0, 2.0), False), (Path("o"), ("c",), (0.5,), True)]


def test_the_stylegan2_of_the_recipe_is_conditional_and_can_be_traced():
    exp = jaxgen.load_experiment("folder_gan", kind="stylegan2", data="digits", width=2, latent=4, batch=4)
    batch = data.normalize(exp.data.take(np.arange(4)))

    def losses(key):
        params, extra = exp.game.init(key, batch)
        now = turn(jax.random.split(key, 4))
        return {name: loss(params, extra, now, batch)[0] for name, loss in exp.game.losses.items()}

    found = jax.eval_shape(losses, jax.random.key(0))
    assert {name: a.shape for name, a in found.items()} == {"critic": (4,), "generator": (4,)}
    assert exp.model.condition.values == 10
