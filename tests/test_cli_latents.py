"""The commands of latent spaces: what each draws and prints, on a GAN and a StyleGAN that have hardly trained."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from _tiny import Home, home, refusal
from PIL import Image

from jaxgen import cli, data

__all__ = ["home"]
ZOOM = 8
CELL = ZOOM * (8 + 1)


@pytest.fixture
def draw(home: Home, tmp_path: Path, capsys):
    """`draw(command, family, *flags)`: (the picture [rows, columns, 8, 8], the lines that were printed)."""

    def call(command: str, family: str, *flags: object) -> tuple[np.ndarray, list[str]]:
        file = tmp_path / f"{command}.png"
        cli.main([command, str(home.run(family)), "--out", str(file), *map(str, flags)])
        out, err = capsys.readouterr()
        assert err == "" and str(file) in out
        return cells(file), [line for line in out.splitlines() if not line.endswith(".png")]

    return call


def cells(file: Path) -> np.ndarray:
    with Image.open(file) as picture:
        x = np.asarray(picture)[::ZOOM, ::ZOOM, 0]
    rows, columns = (side // 9 + 1 for side in x.shape)
    wide = np.zeros((rows * 9, columns * 9), np.uint8)
    wide[: x.shape[0], : x.shape[1]] = x
    return wide.reshape(rows, 9, columns, 9).swapaxes(1, 2)[:, :, :8, :8]


def test_inverted_images_stand_below_those_wanted(draw):
    x, lines = draw("invert", "gan", "--n", 3, "--steps", 1)
    assert x.shape[:2] == (2, 3)
    np.testing.assert_array_equal(x[0], data.load("digits", "test").take(np.arange(3)).x[..., 0])
    first = float(re.search(r"difference ([\d.]+)", lines[0])[1])
    longer = float(re.search(r"difference ([\d.]+)", draw("invert", "gan", "--n", 3, "--steps", 200)[1][0])[1])
    assert longer < first and "3 images in z" in lines[0]


def test_a_picture_of_the_user_s_own_is_inverted(draw, tmp_path):
    own = np.linspace(0, 255, 32 * 48).reshape(32, 48).astype(np.uint8)
    Image.fromarray(own).save(tmp_path / "own.jpg")
    x, lines = draw("invert", "style", "--image", tmp_path / "own.jpg", "--space", "w", "--steps", 30)
    assert x.shape[:2] == (2, 1) and "1 images in w" in lines[0]
    assert x[0, 0, 0, 0] < 60 < 200 < x[0, 0, 7, 7]  # its middle square, made as small as the model's images


def test_mixed_styles_stand_between_those_that_they_come_from(draw):
    x, _ = draw("mix", "style", "--rows", 2, "--columns", 3, "--layers", 0, 1)
    assert x.shape[:2] == (3, 4) and np.all(x[0, 0] == 255)
    np.testing.assert_array_equal(draw("mix", "style", "--rows", 2, "--columns", 3)[0][1:, 0], x[1:, 0])
    everything, _ = draw("mix", "style", "--rows", 1, "--columns", 3, "--layers", *range(4))
    assert np.abs(everything[1, 1:].astype(int) - everything[0, 1:]).mean() < 8  # but for the row's noise inputs


@pytest.mark.parametrize(
    ("family", "flags"), [("style", ()), ("style", ("--method", "weights")), ("gan", ("--space", "z"))]
)
def test_directions_are_a_row_each_and_all_pass_through_one_image(draw, family, flags):
    x, lines = draw("directions", family, "--k", 3, "--steps", 5, "--examples", 50, *flags)
    assert x.shape[:2] == (3, 5)
    assert np.ptp(x[:, 2].astype(int), axis=0).max() <= 1
    strengths = [float(word) for word in lines[0].removeprefix("strengths: ").split(", ")]
    assert len(strengths) == 3 and strengths == sorted(strengths, reverse=True)


def test_turned_samples_are_in_the_middle_as_they_were(draw):
    x, lines = draw("turn", "gan", "--to", "3", "--n", 4, "--steps", 3, "--limit", 2, "--examples", 300)
    assert x.shape[:2] == (4, 3) and re.search(r"samples are 3; the plane in z is right on [01]\.\d+ of 60", lines[0])
    still = draw("turn", "gan", "--to", "3", "--n", 4, "--steps", 3, "--limit", 0, "--examples", 300)[0]
    np.testing.assert_array_equal(still[:, 0], x[:, 1])


def test_an_analogy_of_one_kind_is_that_kind(draw, capsys):
    flags = ("--n", 2, "--each", 2, "--examples", 300)
    seen = draw("turn", "gan", "--to", "1", "--n", 1, "--examples", 300)[1][0]
    kind = "1" if float(seen.split()[0]) > 0.1 else "8"
    x, _ = draw("analogy", "gan", "--having", kind, "--lacking", kind, "--plain", kind, *flags)
    assert x.shape[:2] == (2, 4)
    np.testing.assert_allclose(x[:, 3].astype(int), x[:, 2], atol=1)


@pytest.mark.parametrize(("family", "values"), [("gan", (0.1, 1.0)), ("style", (0.0, 1.0))])
def test_truncation_is_a_table_and_the_same_samples_ever_more_alike(home: Home, tmp_path, capsys, family, values):
    flags = ["--out", tmp_path / "x.png", "--values", *values, "--n", 64, "--columns", 4, "--extractor", "pixels"]
    cli.main(["truncation", str(home.run(family)), *map(str, flags)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["truncation", "precision", "recall", "fid"] and len(lines) == 5
    x = cells(tmp_path / "x-samples.png")
    assert x.shape[:2] == (2, 4) and (tmp_path / "x.png").exists()
    spread = x.astype(float).std(axis=1).mean(axis=(1, 2))
    assert spread[0] < 0.5 * spread[1]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["invert", "{gan}", "--space", "w"], "no codes in between"),
        (["invert", "{gan}", "--image", "nowhere.png"], "no picture nowhere.png"),
        (["invert", "{gan}", "--truncation", "0.5"], "--truncation"),  # what it would ignore it does not take
        (["invert", "{gan}", "--guidance", "2"], "--guidance"),
        (["invert", "{gan}", "--sampler", "ddim"], "--sampler"),
        (["invert", "{gan}", "--batch", "0"], "--batch must be at least 1, it is 0"),
        (["mix", "{gan}"], "no codes in between"),
        (["mix", "{style}", "--layers", "9"], "styles 0 to 3"),
        (["directions", "{gan}", "--space", "z", "--method", "weights"], "only a StyleGAN"),
        (["directions", "{gan}", "--space", "z", "--k", "99"], "components, not 99"),
        (["turn", "{gan}", "--to", "eleven"], "no class 'eleven'"),
        (["turn", "{style}", "--to", "1"], "no class '1': it has none"),
        (["analogy", "{gan}", "--having", "1", "--lacking", "2", "--plain", "99"], "no class '99'"),
        (["truncation", "{gan}", "--values", "-1"], "by a positive number"),
        (["truncation", "{diffusion}"], "this one iterates"),
        (["sample", "{diffusion}", "--truncation", "0.5"], "this one iterates"),
    ],
)
def test_mistakes_are_one_line(home: Home, capsys, arguments, line):
    words = [home.run(word[1:-1]) if word.startswith("{") else word for word in arguments]
    assert line in refusal(capsys, *words)
