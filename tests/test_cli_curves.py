"""Curves of runs, the way to noise and back, the flags that every training has, and what is said where nobody looks."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest
from _tiny import Home, Process, home, refusal, tiny
from PIL import Image

import jaxgen
from jaxgen import cli, data, records
from jaxgen.processes import cosine
from jaxgen.runs import load_run
from jaxgen.sampling import ddim, iterate, stopped, uniform
from jaxgen.types import InputError, Prediction, one_shot

__all__ = ["home"]


def test_curves_of_runs_are_drawn(home: Home, tmp_path, capsys):
    runs = [home.run(family) for family in ("vae", "gan")]
    cli.main(["plot", *map(str, runs), "--out", str(tmp_path / "x.png")])
    assert capsys.readouterr().out == f"{tmp_path / 'x.png'}\n"
    with Image.open(tmp_path / "x.png") as picture:
        assert picture.width > 800
    cli.main(["plot", str(runs[0]), "--metrics", "vae/loss", "--seconds", "--out", str(tmp_path / "y.png")])
    with Image.open(tmp_path / "y.png") as picture:  # one panel
        assert picture.width < 600
    capsys.readouterr()
    line = refusal(capsys, "plot", runs[0], "--metrics", "fud")
    assert "--metrics fud: recorded were" in line and "vae/loss" in line


def test_a_stopped_sampler_is_the_sampler_at_that_step():
    """A walk of 6 steps in one piece, and as its first 4 steps followed by the last 2: DDIM keeps nothing but x_t."""
    process, target = cosine(), 0.25

    def predict(x, t):
        return Prediction(target + 0.5 * x)

    keys, noise = jax.random.split(jax.random.key(0), 3), jax.random.normal(jax.random.key(1), (3, 4))
    whole = iterate(ddim(process), uniform(6))
    times = uniform(6)
    rest = iterate(ddim(process), uniform(6)._replace(grid=times.grid[4:], count=times.count - 4))
    part = stopped(whole, 4)(keys, predict, noise)
    np.testing.assert_allclose(rest(keys, predict, part), whole(keys, predict, noise), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(stopped(whole, 0)(keys, predict, noise), noise)
    for sampler, steps in ((whole, 7), (one_shot, 0)):
        with pytest.raises(InputError):
            stopped(sampler, steps)


def test_the_way_to_noise_and_back_is_a_strip_and_a_film(home: Home, tmp_path, capsys):
    run = home.run("diffusion")
    file = tmp_path / "x.png"
    cli.main(["trajectory", str(run), "--n", "2", "--frames", "3", "--out", str(file)])
    assert capsys.readouterr().out.splitlines() == [str(file), str(tmp_path / "x.gif")]
    cells = np.asarray(Image.open(file))[4::8, 4::8, 0].astype(float)
    assert cells.shape == (35, 26)  # 4 rows of 3 digits of 8 pixels and a border
    x = [[cells[9 * r : 9 * r + 8, 9 * c : 9 * c + 8] for c in range(3)] for r in range(4)]
    digits = data.load("digits", "test").take(np.arange(2)).x[..., 0]
    for i in range(2):
        np.testing.assert_array_equal(x[2 * i][0], digits[i])  # no noise yet
        np.testing.assert_array_equal(x[2 * i][2], x[2 * i + 1][0])  # where the one way ends, the other begins
    with Image.open(tmp_path / "x.gif") as film:
        assert film.n_frames == 5  # the one in the middle is of both ways
    assert "draws its samples in one step" in refusal(capsys, "trajectory", home.run("vae"))
    assert "--frames must be at least 2, it is 1" in refusal(capsys, "trajectory", run, "--frames", 1)


def test_every_training_has_the_general_flags(tmp_path, capsys):
    run = tmp_path / "run"
    general = ["--batch", "8", "--accumulate", "2", "--ema", "0.5", "--log-every", "3", "--sample-every", "4"]
    cli.main(["train", str(tiny("gan")), "--workdir", str(run), "--steps", "6", *general, "--quiet"])
    err = capsys.readouterr().err
    assert "\r" not in err and err.splitlines()[-1].startswith("step 6 after")
    exp = load_run(run).experiment
    assert (exp.batch, exp.accumulate, exp.ema, exp.log_every, exp.sample_every) == (8, 2, 0.5, 3, 4)
    assert [record["step"] for record in records.read(run)] == [3, 4, 6]  # with each picture, too
    assert json.loads((run / "settings.json").read_text())["keywords"]["ema"] == 0.5
    # the rhythm of what is written may change when a run goes on, what is trained may not
    cli.main(["train", str(tiny("gan")), "--workdir", str(run), "--steps", "8", *general[:6], "--log-every", "1"])
    assert load_run(run).step == 8
    again = ["train", str(tiny("gan")), "--workdir", str(run), "--steps", "9", "--batch", "8", "--accumulate", "2"]
    capsys.readouterr()
    assert "holds a run with ema=0.5" in refusal(capsys, *again)


def test_where_there_is_no_terminal_there_is_no_bar_and_a_line_now_and_then(tmp_path, monkeypatch, capsys):
    process = Process(tmp_path / "log", "train", tiny("vae"), "--workdir", tmp_path / "apart", "--steps", 20)
    assert process.end() == 0
    assert "\r" not in process.err.read_text() and process.err.read_text().count("\n") == 1
    monkeypatch.setattr(records, "LINE_SECONDS", 0.0)
    jaxgen.fit(jaxgen.load_experiment(tiny("vae"), steps=20, log_every=10), tmp_path / "run")
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines[:2]] == ["step 10 of 20", "step 20 of 20"]
    assert all("images/s; vae " in line for line in lines[:2])


def test_the_bar_says_what_takes_long(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(records, "_watched", lambda: True)
    jaxgen.fit(jaxgen.load_experiment(tiny("vae"), steps=20), tmp_path / "run")
    err = capsys.readouterr().err
    assert "drawing samples" in err and "20/20" in err


def test_arithmetic_without_an_attribute_takes_the_first_class(home: Home, tmp_path, capsys):
    for name, flags in (("a", []), ("b", ["--attribute", "0"])):
        cli.main(["arithmetic", str(home.run("vae")), "--n", "2", "--out", str(tmp_path / f"{name}.png"), *flags])
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["smaple"], ["unknown command 'smaple' (did you mean sample?)"]),
        (["trajektory", "x"], ["did you mean trajectory?"]),
        (["train", "digits_vae.py", "--workdir", "gs://bucket/run"], ["--workdir, gs://bucket/run, is no folder"]),
        (["sample", "s3://bucket/run"], ["is no folder or file of this machine: mount it"]),
        (["evaluate", "x", "--references", "emoji"], ["'emoji' is no INT", "how many reference images"]),
        (["plot"], ["plot which runs?"]),
        (["plot", "nothing"], ["no folder nothing"]),
        (["train", "folder_gan", "--ema", "1.5"], ["ema must be in [0, 1)"]),
        (["train", "folder_gan", "--log-every", "0"], ["log_every must be at least 1"]),
        (["train", "folder_gan", "--accumulate", "x"], ["--accumulate", "--help"]),
    ],
)
def test_mistakes_get_one_line(tmp_path, monkeypatch, capsys, arguments, parts):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits_vae.py").write_text(tiny("vae").read_text())
    line = refusal(capsys, *arguments)
    assert all(part in line for part in parts)
    assert not (tmp_path / "gs:").exists()
