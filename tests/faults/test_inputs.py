"""What a user gives and jaxgen cannot use is refused in one line: numbers, names, data and the files of a run."""

from __future__ import annotations

import functools
import inspect
import io
import json
import os
import re
import shutil
import signal
import zipfile
from dataclasses import fields
from pathlib import Path

import _fuzz
import numpy as np
import pytest
from _tiny import Home, home, refusal, tiny
from PIL import Image

import jaxgen
from jaxgen import cli, data, inputs, records, runs
from jaxgen.types import InputError

__all__ = ["home"]
EXPERIMENTS = Path(__file__).parents[2] / "experiments"
LONG, HUGE = "x" * 300, 10**20


@pytest.fixture(autouse=True)
def hurry():
    """A test that waits for a file that never ends has failed."""
    before = signal.signal(signal.SIGALRM, lambda *_: pytest.fail("it hangs"))
    signal.alarm(120)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def mistake(capsys, recwarn):
    """`mistake(*arguments)`: the one line that a command refuses with."""

    return functools.partial(refusal, capsys)


@pytest.fixture
def run(home: Home, tmp_path) -> Path:
    """A run of one's own, to be damaged."""
    return home.copy("vae", tmp_path / "run")


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder but the lock, which belongs to no run."""
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if inputs.is_file(p) and p.name != ".lock"}


# --- memory ----------------------------------------------------------------------------------------------------------

TOO_LARGE = [
    (["train", EXPERIMENTS / "digits_vae.py", "--latent", 10**9], "parameters and optimizers of digits_vae would take"),
    (["train", EXPERIMENTS / "digits_gan.py", "--width", 10**5], "parameters and optimizers of digits_gan would take"),
    (["train", "{vae.py}", "--batch", 2**31 - 1], "a minibatch of 2,147,483,647 examples of digits would take"),
    (["train", "{vae.py}", "--batch", 10**12], "batch must be at most 2147483647"),
    (["train", "{vae.py}", "--steps", HUGE], "steps must be at most 2147483647"),
    (["train", "{vae.py}", "--score", "fid", "--score-n", 10**15], "samples a score would take"),
    (["sample", "{run}", "--n", 10**9], "too large to look at: 15,432 of them are 80,000,000 pixels"),
    (
        ["sample", "{run}", "--n", 10**9, "--out", "x.npz"],
        "1,000,000,000 examples of shape (8, 8, 1) would take 238.4 GiB",
    ),
    (["interpolate", "{run}", "--steps", 10**9], "too large to look at"),
    (["interpolate", "{run}", "--rows", 10**9], "too large to look at"),
    (["traverse", "{run}", "--dimensions", 0, "--steps", 10**9], "too large to look at"),
    (["manifold", "{run}", "--side", 10**9], "too large to look at"),
    (["arithmetic", "{run}", "--attribute", 3, "--steps", 10**9], "too large to look at"),
    (["arithmetic", "{run}", "--attribute", 3, "--n", 10**9], "too large to look at"),
    (["nearest", "{run}", "--neighbours", 10**9, "--extractor", "pixels"], "too large to look at"),
    (["evaluate", "{run}", "--n", 10**12, "--extractor", "pixels"], "places and the conditions of 1,000,000,000,000"),
    (["evaluate", "{run}", "--n", 8 * 10**8, "--extractor", "pixels"], "pixels's features of 800,000,000 images would"),
    (["study", "{run}", "--pages", 10**12], "examples of shape (8, 8, 1) would take"),
    (["pretrain", "{run}", "--labels", 10, "--steps", 10**12], "steps are counted in 32 bits"),
    (["pretrain", "{run}", "--labels", 10, "--seeds", 10**14], "the labels of 100,000,000,000,000 seeds would take"),
]


@pytest.mark.parametrize(("arguments", "part"), TOO_LARGE, ids=lambda v: " ".join(map(str, v))[-40:] if v else "")
def test_what_no_memory_holds_and_nobody_can_look_at_is_refused_at_once(
    home, tmp_path, mistake, monkeypatch, arguments, part
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(inputs, "memory", lambda: 24 * 2**30)
    names = {"{vae.py}": tiny("vae"), "{run}": home.run("vae") if "{run}" in arguments else ""}
    assert part in mistake(*(names.get(word, word) for word in arguments))
    assert contents(tmp_path) == {}


def test_a_state_that_its_device_does_not_hold_is_refused_before_it_is_compiled(tmp_path, mistake, monkeypatch):
    monkeypatch.setattr(runs, "memory", lambda: 20_000)
    line = mistake("train", tiny("vae"), "--workdir", tmp_path / "run")
    assert "the parameters and optimizers of vae would take" in line and "fsdp" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("rings", {"n": 10**12}),
        ("photos", {"n": 10**12}),
        ("photos", {"size": 10**6}),
        ("folder", {"size": 10**6}),
        ("folder", {"size": 10**6, "streaming": True}),
        ("folder", {"size": 30_000, "streaming": False}),
    ],
)
def test_data_that_no_memory_holds_is_refused(tmp_path, monkeypatch, name, options):
    monkeypatch.setattr(inputs, "memory", lambda: 2**31)
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"would take|from 8 to 128"):
        data.load(f"folder:{tmp_path}" if name == "folder" else name, "all" if name == "folder" else "train", **options)


# --- arguments -------------------------------------------------------------------------------------------------------


def flags() -> list[tuple[str, str, str, str]]:
    """(command, flag, a value that no flag can have, why) of every flag that takes a number or a name."""
    wrong = {"float": [("nan", "finite"), ("-inf", "finite"), ("1e300", "float32")], "int": [(str(HUGE), "64 bits")]}
    wrong["str"] = [("a\0b", "NUL"), ("", "is empty"), (LONG, "longer than file systems take"), ("\udcff", "not UTF-8")]
    cases = []
    for command, function in cli.COMMANDS.items():
        given = [
            (p.name, p.annotation)
            for p in inspect.signature(function).parameters.values()
            if p.kind is not p.POSITIONAL_ONLY
        ]
        own = inspect.signature(function).parameters.get("sampling")
        if own is not None:  # those of `Sampling`, or the fewer of a command that chooses its times itself
            given += [(f.name, f.type) for f in fields(own.default) if f.name != "sampler"]
        for name, kind in given:
            kinds = [each for each in wrong if re.search(rf"\b{each}\b", str(kind))]
            cases += [
                (command, f"--{name.replace('_', '-')}", value, why) for each in kinds for value, why in wrong[each]
            ]
            cases += [(command, "--seed", "-1", "from 0 to 4294967295")] if name == "seed" else []
    return cases


@pytest.mark.parametrize(("command", "flag", "value", "why"), flags(), ids=lambda v: repr(v)[:12])
def test_no_flag_takes_what_cannot_be_a_number_or_a_name(mistake, command, flag, value, why):
    first = ["list"] if command == "data" else ["run"] * (command != "list")
    words = [value, value] if (command, flag) == ("manifold", "--dimensions") else [value]
    line = mistake(command, *first, flag, *words)
    assert flag in line and why in line


def test_every_command_has_its_arguments_checked():
    assert {command for command, *_ in flags()} >= set(cli.COMMANDS) - {"show"}
    assert all(hasattr(function, "__wrapped__") for function in cli.COMMANDS.values())


@pytest.mark.parametrize("command", [name for name in cli.COMMANDS if name not in ("list", "data")])
@pytest.mark.parametrize("folder", ["a\0b", LONG, "/".join(["y" * 200] * 30)])
def test_no_command_takes_a_folder_that_cannot_be(mistake, command, folder):
    assert "jaxgen: error: " in mistake(command, folder)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--seed", HUGE], ["seed", "from 0 to 4294967295"]),
        (["--seed", 2**32], ["seed", "from 0 to 4294967295"]),
        (["--steps", 0], ["steps must be at least 1, it is 0"]),
        (["--steps", -5], ["steps must be at least 1, it is -5"]),
        (["--lr", "nan"], ["the keyword lr of vae.py is nan", "finite"]),
        (["--lr", "inf"], ["the keyword lr of vae.py is inf", "finite"]),
        (["--lr", "1e300"], ["the keyword lr of vae.py is 1e+300", "float32"]),
        (["--ema", "nan"], ["ema must be in [0, 1), it is nan"]),
        (["--workdir", ""], ["--workdir is empty"]),
        (["--workdir", "a\0b"], ["--workdir has a NUL character"]),
        (["--workdir", LONG], ["--workdir, xxx", "longer than file systems take"]),
        (["--start", "a\0b"], ["--start has a NUL character"]),
        (["--start", f"vae={LONG}"], ["--start, vae=xxx", "longer than file systems take"]),
        (["--processes", 2, "--process", 5], ["--processes and --process need --coordinator HOST:PORT"]),
        (["--processes", 2], ["--processes and --process need --coordinator HOST:PORT"]),
        (["--coordinator", "auto", "--process", 1], ["--coordinator auto", "leave them out"]),
        (["--coordinator", "a:1"], ["--coordinator needs --processes and --process"]),
        (["--coordinator", "nohost", "--processes", 2, "--process", 1], ["--coordinator nohost: give HOST:PORT"]),
        (["--coordinator", "a:1", "--processes", 2, "--process", 5], ["--process is 5: 0 to 1 are the 2 processes"]),
        (["--coordinator", "a:1", "--processes", 2, "--process", -1], ["--process is -1"]),
        (["--coordinator", "a:1", "--processes", 0, "--process", 0], ["--processes must be at least 1, it is 0"]),
    ],
    ids=lambda v: " ".join(map(str, v))[:30],
)
def test_training_is_refused_before_anything_is_written(tmp_path, monkeypatch, mistake, arguments, parts):
    monkeypatch.chdir(tmp_path)
    line = mistake("train", tiny("vae"), *arguments)
    assert all(part in line for part in parts) and contents(tmp_path) == {}


@pytest.mark.parametrize("path", ["a\0b.py", f"{LONG}.py", f"{LONG}/x.py", ""])
def test_no_experiment_file_of_that_name(mistake, path):
    assert "experiment file" in mistake("train", path)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["evaluate", "--condition", 3, "--extractor", "pixels"], "this run is unconditional"),
        (["nearest", "--condition", 3, "--extractor", "pixels"], "this run is unconditional"),
        (["study", "--condition", 3], "this run is unconditional"),
        (["traverse", "--dimensions"], "--dimensions: vary which? Give at least one"),
        (["manifold", "--side", -3], "--side must be at least 1, it is -3"),
        (["manifold", "--side", 0], "--side must be at least 1, it is 0"),
        (["pretrain", "--labels", "²"], "--labels ²: give numbers"),
        (["sample", "--out", "{folder}"], "is a folder, where a file is to be written"),
        (["encode", "--out", "{folder}"], "is a folder, where a file is to be written"),
    ],
)
def test_arguments_that_do_not_fit_the_run(home, tmp_path, mistake, arguments, part):
    (tmp_path / "x.png").mkdir()
    command, *rest = (word if word != "{folder}" else tmp_path / "x.png" for word in arguments)
    assert part in mistake(command, home.run("vae"), *rest)


def test_folders_among_the_experiments_are_not_read(tmp_path, capsys):
    (tmp_path / "folder.py").mkdir()
    os.mkfifo(tmp_path / "pipe.py")
    shutil.copy(tiny("vae"), tmp_path)
    cli.main(["list", "--experiments", str(tmp_path), "--runs", str(tmp_path)])
    assert capsys.readouterr().out.startswith(str(tmp_path / "vae.py"))


# --- experiments -----------------------------------------------------------------------------------------------------

OWN = "from jaxgen import Experiment\ndef experiment(*, {}):\n    return Experiment(None, {{}}, None, {})\n"


def test_an_experiment_may_have_a_keyword_named_path(tmp_path):
    (tmp_path / "own.py").write_text(OWN.format("path: str = 'a'", ""))
    assert jaxgen.load_experiment(tmp_path / "own.py", path="b").settings["path"] == "b"


@pytest.mark.parametrize(
    ("code", "part"),
    [
        ("x = 1\0", "null bytes|cannot be compiled"),
        (f"x = {'-' * 100_000}1", "cannot be compiled|too many nested|too complex"),
        ("import sys; sys.exit(3)", "own.py raised SystemExit: 3"),
        ("def experiment(*, x: int = 1):\n    exit()", "own.py raised SystemExit"),
    ],
    ids=lambda v: v[:20],
)
def test_a_file_that_is_no_experiment(tmp_path, mistake, code, part):
    (tmp_path / "own.py").write_text(code)
    assert re.search(part, mistake("train", tmp_path / "own.py"))


@pytest.mark.parametrize("name", ["workdir", "layout", "start", "score", "process"])
def test_a_keyword_that_is_an_option_of_every_run_is_refused(tmp_path, mistake, name):
    (tmp_path / "own.py").write_text(OWN.format(f"{name}: int = 1", ""))
    assert f"the keyword {name} is an option of every run" in mistake("train", tmp_path / "own.py")


@pytest.mark.parametrize(
    ("keywords", "numbers", "part"),
    [
        ("rate: float = float('nan')", "", "the keyword rate of own.py is nan"),
        ("rates: tuple = (1.0, float('inf'))", "", "the keyword rates of own.py is inf"),
        ("n: int = 2**70", "", "the keyword n of own.py is 1.181e\\+21"),
        ("rate: float = 1.0", "batch=1.5", "batch must be an integer, it is 1.5"),
        ("rate: float = 1.0", "steps='many'", "steps must be an integer, it is 'many'"),
        ("rate: float = 1.0", "seed=None", "seed must be an integer, it is None"),
        ("rate: float = 1.0", "seed=-1", "seed is -1"),
        ("rate: float = 1.0", "ema='x'", "ema must be a number"),
        ("rate: float = 1.0", "save_every=2**40", "save_every must be at most"),
    ],
)
def test_numbers_of_an_experiment_that_cannot_be(tmp_path, keywords, numbers, part):
    (tmp_path / "own.py").write_text(OWN.format(keywords, numbers))
    with pytest.raises(InputError, match=part):
        jaxgen.load_experiment(tmp_path / "own.py")


# --- data ------------------------------------------------------------------------------------------------------------

X = np.zeros((4, 2, 2, 1), np.uint8)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": X, "labels": np.arange(5)}, r"labels are int64 \[5\]; expected integers \[4\]"),
        ({"x": X, "labels": np.array([0, 1, 2, 2**63], np.uint64)}, "a label is 9223372036854775808"),
        ({"x": np.full((4, 2), 1e300)}, "values that float32 cannot hold"),
        ({"x": np.array([[1.0, np.inf]])}, "not finite"),
        ({"x": X, "labels": b"no array"}, "labels is no array"),
        ({"x": b"no array"}, "x is no array"),
        ({"x": np.zeros((300, 100, 100, 1), np.uint8)}, "unpacked, would take"),
    ],
)
def test_arrays_that_are_no_data_set(tmp_path, monkeypatch, arrays, message):
    monkeypatch.setattr(inputs, "memory", lambda: 2**21)
    path = tmp_path / "set.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            file = io.BytesIO()
            if isinstance(array, np.ndarray):
                np.save(file, array)
            archive.writestr(f"{name}.npy" if file.getvalue() else name, file.getvalue() or array)
    with pytest.raises(InputError, match=message) as error:
        data.load(str(path), "all")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
@pytest.mark.parametrize("options", [{}, {"size": None, "channels": None}])
def test_a_picture_that_never_ends_is_refused(tmp_path, make, options):
    Image.new("L", (4, 4)).save(tmp_path / "b.png")
    make(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"a\.png \(it is no ordinary file\)"):
        data.load(f"folder:{tmp_path}", "all", **options)


@pytest.mark.parametrize(
    "name", [LONG, f"folder:{LONG}", f"{LONG}.npz", f"tfds:{LONG}", "folder:~nobody", "a\0b", "folder:a\0b", "a\0b.npz"]
)
def test_names_of_data_that_no_file_system_takes(name):
    with pytest.raises(InputError):
        data.load(name)


def test_a_cache_whose_name_is_too_long_costs_time_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXGEN_CACHE", str(tmp_path / LONG))
    assert data.load("digits").size == 1500


# --- the files of a run ----------------------------------------------------------------------------------------------


def replaced(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"[]", "it is a list, not an object"),
        (b"3", "it is an integer, not an object"),
        (b"null", "it is null, not an object"),
        (b"\xff\xfe", "is damaged"),
        (b"[" * 100_000, "is damaged"),
        ({"keywords": ["steps"]}, "it.keywords is a list, not an object"),
        ({"keywords": {"accumulate": [1]}}, "accumulate must be an integer"),
        ({"keywords": {"steps": "many"}}, "steps must be an integer"),
        ({"keywords": {"lr": float("nan")}}, "the keyword lr of experiment.py is nan"),
        ({"keywords": {"more": 1}}, "no keyword more"),
        ({"name": 3}, "it.name is an integer"),
        ({"name": "\ud800"}, "surrogates not allowed"),
        ({"source": None}, "it.source is null"),
        ({"source": "a\0b"}, ""),
        ({"source": LONG}, ""),
        ({"signature": 1}, "it.signature is an integer"),
        ({"start": 7}, "it.start is an integer"),
        ({"data": {}}, "it.data is an object, not a list"),
        ({"data": [3]}, r"it.data\[0\] is an integer"),
        ({"data": [{"given": "digits"}]}, r"it.data\[0\] has no 'name'"),
        ({"example": 1}, "it.example is an integer"),
        (
            {"example": {"x": {"shape": ["a"], "dtype": "uint8"}, "condition": None}},
            r"it.example.x.shape\[0\] is a string",
        ),
        ({"example": {"x": {"shape": [8], "dtype": "uint7"}, "condition": None}}, "no type of numbers"),
        ({"example": {"x": {"shape": [-8], "dtype": "uint8"}, "condition": None}}, "below 0"),
        ({"example": {"x": {"maybe": []}, "condition": None}}, "0 parts, not 2"),
    ],
    ids=lambda v: repr(v)[:40],
)
def test_settings_of_another_kind(run, mistake, capsys, content, part):
    path = run / "settings.json"
    path.write_bytes(content) if isinstance(content, bytes) else replaced(path, **content)
    before = contents(run)
    for command in (["show", run], ["train", tiny("vae"), "--workdir", run]):
        if part == "":  # where the source was does not matter
            cli.main([*map(str, command)]) if command[0] == "show" else None
            continue
        if command[0] == "train" and isinstance(content, dict) and {"keywords", "name"} & set(content):
            part = part + "|holds a run"  # another one than this
        assert re.search(part, mistake(*command))
    assert contents(run) == before


def test_a_signature_of_other_characters_is_nobodys(run, mistake):
    replaced(run / "settings.json", signature="\u00e9")
    assert "is not signed by you" in mistake("show", run)


@pytest.mark.parametrize(
    "line",
    [
        "[]",
        "3",
        '"x"',
        "{}",
        '{"step": "x", "seconds": 1.0}',
        '{"step": 5}',
        '{"step": 5, "seconds": null}',
        '{"step": 5, "seconds": 1.0, "vae/loss": [1]}',
        '{"step": 5, "seconds": 1.0, "vae/loss": 1' + "0" * 400 + "}",
        '{"step": 5, "seconds": true}',
        "[" * 100_000,
        "\x0b\x0c",
        '{"step": 5, "sec',
    ],
    ids=lambda v: v[:30],
)
def test_a_line_of_the_records_that_is_none_is_left_out(run, capsys, line):
    path = run / "metrics.jsonl"
    known = records.read(run)
    path.write_text(f"{line}\n{path.read_text()}{line}\n")
    assert records.read(run) == known
    cli.main(["show", str(run)])
    cli.main(["train", str(tiny("vae")), "--workdir", str(run)])
    assert "last        step 120" in capsys.readouterr().out


ESTIMATE = {"value": 1.0, "error": None, "how": "x"}
SCORE = {"estimate": ESTIMATE, "better": "lower", "images": 9, "floor": None, "floor_images": None, "at_floor": None}
ENTRY = {"scores": {"fid": SCORE}, "protocol": {"step": 1, "samples": 9}, "cost": {}}


@pytest.mark.parametrize(
    "content",
    [
        "3",
        "[]",
        '{"evaluations": 3}',
        '{"evaluations": [3]}',
        "[" * 100_000,
        {**ENTRY, "scores": []},
        {**ENTRY, "scores": {"fid": 3}},
        {**ENTRY, "scores": {"fid": {**SCORE, "estimate": 3}}},
        {**ENTRY, "scores": {"fid": {**SCORE, "estimate": {**ESTIMATE, "value": "x"}}}},
        {**ENTRY, "scores": {"fid": {**SCORE, "images": "x"}}},
        {**ENTRY, "protocol": [1]},
        {**ENTRY, "cost": 3},
        ENTRY,
        {**ENTRY, "cost": {"parameters": 3, "network_evaluations": 1, "seconds_a_sample": 0.1}},
    ],
    ids=lambda v: str(v)[:50],
)
def test_evaluations_of_another_kind(run, mistake, content):
    path = run / "evaluation.json"
    path.write_text(content if isinstance(content, str) else json.dumps({"evaluations": [content]}))
    before = contents(run)
    line = mistake("compare", run)
    assert "is no file of evaluations" in line or "evaluation is damaged" in line
    assert contents(run) == before


@pytest.mark.parametrize("name", ["metrics.jsonl", "evaluation.json", "settings.json", "experiment.py"])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_file_of_a_run_that_is_a_folder_or_never_ends(run, mistake, name, make):
    (run / name).unlink(missing_ok=True)
    make(run / name)
    assert name in mistake("compare" if name == "evaluation.json" else "show", run)


@pytest.mark.parametrize("name", ["samples.png", "metrics.jsonl", "experiment.py", "settings.json"])
def test_a_folder_in_the_place_of_a_file_is_seen_before_training(tmp_path, mistake, name):
    (tmp_path / "run" / name).mkdir(parents=True)
    assert f"{name} is a folder" in mistake("train", tiny("vae"), "--workdir", tmp_path / "run")
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("name", ["best", "samples", "checkpoints", "tensorboard"])
def test_a_file_in_the_place_of_a_folder_is_seen_before_training(tmp_path, mistake, name):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).write_text("mine")
    assert f"{name} is a file" in mistake("train", tiny("vae"), "--workdir", tmp_path / "run")
    assert contents(tmp_path) == {str(tmp_path / "run" / name): b"mine"}


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.write_bytes(b"[" * 10**5)])
def test_results_of_a_study_that_are_none(tmp_path, mistake, make):
    make(tmp_path / "result.json")
    assert "result.json" in mistake("study", "--results", tmp_path / "result.json")


# --- damaged at random -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", _fuzz.KINDS)
@pytest.mark.parametrize("seed", range(12))
def test_what_is_damaged_loads_or_is_refused_in_one_line(tmp_path, kind, seed):
    _fuzz.opens(kind, _fuzz.damaged(kind, seed, tmp_path))


@pytest.mark.parametrize("kind", _fuzz.KINDS)
def test_damage_is_neither_always_nor_never_seen(tmp_path, kind):
    """Or else nothing is tested."""
    found = set()
    for seed in range(100, 400):
        folder = tmp_path / str(seed)
        folder.mkdir()
        found.add(_fuzz.opens(kind, _fuzz.damaged(kind, seed, folder)))
        if found == {True, False}:
            return
    assert found == {True} and kind == "metrics"  # of which damaged lines are left out
