"""The commands that use a diffusion model as a prior, on one that has hardly trained: what is known stays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from _tiny import Home, home, refusal
from PIL import Image

from jaxgen import cli, data

__all__ = ["home"]
STEPS = ("--sampler-steps", 6)


@pytest.fixture
def draw(home: Home, tmp_path: Path, capsys):
    """`draw(command, *flags)`: the picture [rows, columns, 8, 8]."""

    def call(command: str, *flags: object) -> np.ndarray:
        file = tmp_path / f"{command}.png"
        cli.main([command, str(home.run("diffusion")), "--out", str(file), *map(str, (*STEPS, *flags))])
        assert capsys.readouterr() == (f"{file}\n", "")
        with Image.open(file) as picture:
            x = np.asarray(picture)[::8, ::8, 0]
        rows, columns = (side // 9 + 1 for side in x.shape)
        wide = np.zeros((rows * 9, columns * 9), np.uint8)
        wide[: x.shape[0], : x.shape[1]] = x
        return wide.reshape(rows, 9, columns, 9).swapaxes(1, 2)[:, :, :8, :8]

    return call


def originals(n):
    return data.load("digits", "test").take(np.arange(n)).x[..., 0].astype(int)


@pytest.mark.parametrize("flags", [(), ("--repeats", 2, "--jump", 3), ("--guidance", 2.0)])
def test_the_upper_half_stays_and_the_lower_one_is_drawn(draw, flags):
    x = draw("restore", "--n", 3, "--versions", 2, *flags).astype(int)
    assert x.shape[:2] == (3, 4)
    np.testing.assert_array_equal(x[:, 0], originals(3))
    for column in (2, 3):
        np.testing.assert_allclose(x[:, column, :4], originals(3)[:, :4], atol=1)
    assert np.abs(x[:, 2, 4:] - x[:, 3, 4:]).mean() > 2  # two versions
    np.testing.assert_array_equal(x[:, 1, 4:], np.full((3, 4, 8), 128))  # hidden


def test_a_mask_from_disk_says_what_is_drawn(draw, tmp_path):
    mask = np.zeros((8, 8), np.uint8)
    mask[:, 5:] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    x = draw("restore", "--n", 2, "--versions", 1, "--mask", tmp_path / "mask.png").astype(int)
    np.testing.assert_allclose(x[:, 2, :, :5], originals(2)[:, :, :5], atol=1)


def test_enlarged_images_have_the_means_that_are_known(draw):
    x = draw("restore", "--task", "enlarge", "--n", 2, "--versions", 1).astype(float)
    means = x.reshape(2, 3, 4, 2, 4, 2).mean((3, 5))
    off = np.abs(means[:, 2] - means[:, 0])  # of a hardly trained model: some is cut off at black and white
    assert np.median(off) < 10 < np.abs(x[:, 2] - x[:, 0]).mean()
    assert draw("restore", "--task", "deblur", "--how", "posterior", "--n", 1, "--versions", 1).shape[:2] == (1, 3)


def test_variations_move_away_with_their_strength(draw):
    x = draw("vary", "--n", 4, "--strengths", 0.05, 0.5, 1.0).astype(float)
    assert x.shape[:2] == (4, 4)
    np.testing.assert_array_equal(x[:, 0], originals(4))
    away = np.abs(x - x[:, :1]).mean((0, 2, 3))
    assert away[1] < 25 and away[1] < away[2]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["restore", "{gan}"], "draws in one step"),
        (["vary", "{vae}"], "draws in one step"),
        (["restore", "{diffusion}", "--task", "colour"], "this one's are grey"),
        (["restore", "{diffusion}", "--mask", "none.png"], "no mask none.png"),
        (["restore", "{diffusion}", "--task", "deblur", "--mask", "none.png"], "--mask is for inpaint"),
        (["restore", "{diffusion}", "--task", "enlarge", "--factor", "3"], "cannot be made 3 times smaller"),
        (["vary", "{diffusion}", "--strengths", "0"], "above 0 and at most 1"),
        (["restore", "{diffusion}", "--repeats", "90"], "more than 1000"),
        (["restore", "{diffusion}", "--truncation", "0.5"], "--truncation"),  # what they would ignore they do not take
        (["vary", "{diffusion}", "--truncation", "0.5"], "--truncation"),
        (["vary", "{diffusion}", "--sampler-steps", "0"], "--sampler-steps must be at least 1, it is 0"),
    ],
)
def test_mistakes_are_one_line(home: Home, capsys, arguments, line):
    words = [home.run(word[1:-1]) if word.startswith("{") else word for word in arguments]
    assert line in refusal(capsys, *words)


def test_a_mask_of_another_size_is_refused(home: Home, tmp_path, capsys):
    Image.fromarray(np.zeros((5, 8), np.uint8)).save(tmp_path / "mask.png")
    said = refusal(capsys, "restore", home.run("diffusion"), "--mask", tmp_path / "mask.png")
    assert "is of (5, 8) pixels, the images are of (8, 8)" in said
