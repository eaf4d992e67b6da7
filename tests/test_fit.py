"""Runs: killed, stopped, damaged and continued, they end where an uninterrupted run ends, bit for bit."""

from __future__ import annotations

import json
import random
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from _tiny import FAMILIES, Home, Process, assert_same_runs, contents, home, last_line, leaves, tiny, virtual_devices

import jaxgen
from jaxgen import checkpoint, cli, conditions, families, records
from jaxgen.data import in_memory
from jaxgen.loop import Diverged
from jaxgen.nets import Network
from jaxgen.runs import load_run
from jaxgen.scoring import Best, Scoring, read_best
from jaxgen.types import InputError

__all__ = ["home"]
STEPS = 120  # of a tiny run, which saves and logs every 10


def saved(workdir: Path, step: int) -> bool:
    return (checkpoint.latest(workdir / "checkpoints") or 0) >= step


def saving(workdir: Path, step: int) -> bool:
    """Whether a checkpoint is being written that is not complete yet."""
    names = [p.name for p in (workdir / "checkpoints").glob("*tmp*")]
    return any(int(name.split(".")[0]) >= step for name in names)


def train(capsys: pytest.CaptureFixture, *arguments: object) -> list[str]:
    """The lines that a training run prints, here in this process."""
    cli.main(["train", *map(str, arguments)])
    return capsys.readouterr().err.splitlines()


def refused(capsys: pytest.CaptureFixture, code: int, *arguments: object) -> str:
    """The last line of a run that ends with `code`."""
    with pytest.raises(SystemExit) as error:
        cli.main(["train", *map(str, arguments)])
    assert error.value.code == code
    return capsys.readouterr().err.splitlines()[-1]


def logged(workdir: Path) -> list[int]:
    return [record["step"] for record in records.read(workdir)]


@pytest.mark.parametrize("family", [*FAMILIES, "vq"])
def test_killed_at_any_moment_a_run_ends_as_if_it_never_was(home: Home, tmp_path, family):
    workdir, chance = tmp_path / "run", random.Random(family)
    moments = [
        (lambda: saving(workdir, 30), 0.0),  # inside a save
        (lambda: saved(workdir, 50), chance.uniform(0.0, 0.05)),
    ]
    if family == "vae":  # before there is anything to go on from
        moments.insert(0, (lambda: (workdir / "settings.json").exists(), chance.uniform(0.0, 0.5)))
    for i, (moment, delay) in enumerate(moments):
        Process(tmp_path / f"{i}.log", "train", tiny(family), "--workdir", workdir).kill_when(moment, delay)
    last = Process(tmp_path / "last.log", "train", tiny(family), "--workdir", workdir)
    assert last.end() == 0, last.err.read_text()
    assert_same_runs(workdir, home.run(family))
    assert logged(workdir) == list(range(10, STEPS + 1, 10))


def test_a_checkpoint_has_everything_that_a_run_goes_on_from(home: Home):
    """Otherwise equal checkpoints would not mean equal runs."""
    step, arrays = leaves(home.run("gan"))
    assert step == STEPS and arrays[".step"] == STEPS
    parts = {path.split("[")[0].split(".", 2)[1] for path in arrays}
    assert parts == {"step", "key", "params", "opt", "extra", "ema"}
    counts = {path: int(x) for path, x in arrays.items() if path.endswith(".count")}
    turns = {path.split("'")[1]: n for path, n in counts.items()}
    assert turns == {"critic": 2 * STEPS, "generator": STEPS}


def test_sigterm_saves_with_one_line_and_the_run_goes_on(home: Home, tmp_path):
    workdir, reference = tmp_path / "run", home.run("vae")
    command = [Path(sys.executable).with_name("jaxgen"), "train", tiny("vae"), "--workdir", workdir]
    with subprocess.Popen([*map(str, command)], stderr=subprocess.PIPE, text=True) as process:
        while not saved(workdir, 20):
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    step = checkpoint.latest(workdir / "checkpoints")
    assert step is not None and 20 <= step < STEPS
    lines = [line for line in err.splitlines() if line and "/120 [" not in line]  # beside the progress bar
    assert lines == [f"jaxgen: stopped by SIGTERM: saved step {step} in {workdir}; the same command goes on"]
    assert Process(tmp_path / "again.log", "train", tiny("vae"), "--workdir", workdir).end() == 0
    assert_same_runs(workdir, reference)


def test_a_damaged_newest_checkpoint_costs_one_line_and_nothing_else(home: Home, tmp_path, capsys):
    workdir = home.copy("vae", tmp_path / "run")
    newest = workdir / "checkpoints" / str(STEPS)
    for file in (newest / "state").rglob("d/*"):
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    first, *others = train(capsys, tiny("vae"), "--workdir", workdir)
    assert f"checkpoint step {STEPS} in {newest.parent} is damaged" in first and first.endswith("using step 110")
    assert not any("is damaged" in line for line in others)
    assert_same_runs(workdir, home.run("vae"))
    assert logged(workdir) == list(range(10, STEPS + 1, 10))


@pytest.mark.parametrize(("broken_at", "step"), [(34, "3[56]"), (39, "40")], ids=["between", "at a save"])
def test_what_is_not_finite_stops_the_run_and_is_never_saved(tmp_path, capsys, home: Home, broken_at, step):
    # step 40 has a finite loss and gradient: only its update is not, and the state after it would be saved
    workdir = tmp_path / "run"
    line = refused(capsys, 1, tiny("vae"), "--workdir", workdir, "--broken-at", broken_at)
    assert re.search(f"player 'vae' is not finite at step {step}: .* checkpoint is step 30 in {workdir};", line)
    found, arrays = leaves(workdir)
    assert found == 30 and checkpoint.steps(workdir / "checkpoints") == [10, 20, 30]
    assert all(np.isfinite(x).all() for x in arrays.values() if np.issubdtype(x.dtype, np.floating))
    exp = jaxgen.load_experiment(tiny("vae"), broken_at=broken_at)
    with pytest.raises(Diverged, match=f"at step {step}"):  # a run that goes on meets it again
        jaxgen.fit(exp, workdir, progress=False)


def test_other_settings_are_refused_by_name_and_value(home: Home, tmp_path, capsys):
    workdir = home.copy("vae", tmp_path / "run")
    times = lambda: {p: p.stat().st_mtime_ns for p in workdir.rglob("*") if p.name != ".lock"}  # noqa: E731
    before = times()
    line = refused(capsys, 2, tiny("vae"), "--workdir", workdir, "--batch", 8, "--seed", 3)
    assert "batch=16 (now 8)" in line and "seed=0 (now 3)" in line and "--workdir" in line
    line = refused(capsys, 2, tiny("gan"), "--workdir", workdir)
    assert "holds a run of vae, not of gan" in line and "--workdir" in line
    assert before == times()


def test_a_finished_run_is_left_as_it_is(home: Home, tmp_path, capsys):
    workdir = home.copy("vae", tmp_path / "run")
    before = contents(workdir)
    for steps in (STEPS, 50):  # fewer than it has is no reason to forget what it has
        lines = train(capsys, tiny("vae"), "--workdir", workdir, "--steps", steps)
        assert lines == [f"{workdir} is trained to step {STEPS} already; samples in {workdir / 'samples.png'}"]
        assert contents(workdir) == before


def test_more_steps_go_on_in_the_same_layout_and_in_another(home: Home, tmp_path, capsys):
    one, eight = home.copy("vae", tmp_path / "one"), home.copy("vae", tmp_path / "eight")
    process = Process(
        tmp_path / "eight.log",
        *("train", tiny("vae"), "--workdir", eight, "--steps", 130, "--layout", "data"),
        **virtual_devices(8),
    )
    assert train(capsys, tiny("vae"), "--workdir", one, "--steps", 130)[-1].startswith("step 130 ")
    assert process.end() == 0, process.err.read_text()
    assert last_line(process.err).startswith("step 130 ")
    (step, ours), (other, theirs) = leaves(one), leaves(eight)
    assert step == other == 130 and not np.array_equal(ours[".step"], STEPS)
    for path in ours:
        np.testing.assert_allclose(ours[path], theirs[path], rtol=1e-4, atol=1e-6, err_msg=path)


def test_accumulation_no_average_and_bfloat16_train(home: Home, tmp_path):
    exp = jaxgen.load_experiment(tiny("vae"), steps=30, accumulate=2, ema=0.0, bf16=True)
    state = jaxgen.fit(exp, tmp_path / "run", progress=False)
    assert state.ema is None
    assert {x.dtype for x in jax.tree.leaves(state.params)} == {np.dtype(np.float32)}
    losses = [record["vae/loss"] for record in records.read(tmp_path / "run")]
    assert len(losses) == 3 and losses[2] < losses[0]
    assert load_run(tmp_path / "run").state.ema is None


def test_from_an_experiment_to_samples_in_a_few_lines(home: Home, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exp = jaxgen.load_experiment(tiny("diffusion"), steps=20)
    state = jaxgen.fit(exp, progress=False)
    assert int(state.step) == 20 and (tmp_path / "runs" / "diffusion" / "samples.png").is_file()
    monkeypatch.chdir(tmp_path.parent)  # a run knows its experiment from anywhere
    model, again = jaxgen.load(tmp_path / "runs" / "diffusion")
    x = np.asarray(jaxgen.sample(model, again, jax.random.key(0), 64))
    assert x.shape == (64, 8, 8, 1) and -1 <= x.min() < x.max() <= 1
    np.testing.assert_array_equal(x, jaxgen.sample(model, state, jax.random.key(0), 64))


def test_the_best_state_by_a_score_is_a_run_of_its_own(home: Home, tmp_path, capsys):
    score = ("--score", "fid", "--score-every", 30, "--score-n", 150, "--score-extractor", "pixels")
    run, plain = tmp_path / "run", home.run("vae")
    train(capsys, tiny("vae"), "--workdir", run, "--steps", 60, *score)
    train(capsys, tiny("vae"), "--workdir", run, *score)
    assert_same_runs(run, plain)  # scoring changes nothing, nor do the calls that it cuts
    found = {r["step"]: r["score/fid"] for r in records.read(run) if "score/fid" in r}
    assert list(found) == [30, 60, 90, 120]
    best = json.loads((run / "best" / "best.json").read_text())
    assert best["value"] == min(found.values()) == found[best["step"]]
    again = load_run(run / "best")
    assert again.step == best["step"] and int(again.state.step) == best["step"]
    line = refused(capsys, 2, tiny("vae"), "--workdir", run, "--steps", 130, "--score", "kid")
    assert "was chosen by" in line and "remove that folder" in line
    for wrong, line in (("fud", "unknown score 'fud'"), ("copying", "unknown score 'copying'")):
        assert line in refused(capsys, 2, tiny("vae"), "--workdir", tmp_path / "other", "--score", wrong)
    few = refused(capsys, 2, tiny("vae"), "--workdir", tmp_path / "other", "--score", "fid", "--score-n", 5)
    assert "5 samples a score are too few" in few and not (tmp_path / "other").exists()


def scored(run: Path, values: dict[int, float]) -> dict | None:
    """What is known of the best state after states with these scores, by their steps; lower is better."""
    store = checkpoint.open_store(run / "best" / "checkpoints", 2)
    for step, value in values.items():
        best = Best(Scoring("kid", n=100), lambda state, value=value: value, "lower", run / "best", store, True)
        assert best.update({"step": jax.numpy.asarray(step)}, step) == {"score/kid": value}  # type: ignore[arg-type]
    checkpoint.close(store)
    return read_best(run / "best")


def test_the_best_state_is_known_though_its_note_is_damaged(tmp_path, capsys):
    assert read_best(tmp_path / "best") is None
    known = scored(tmp_path, {10: 3.0, 20: 2.0, 30: float("nan"), 40: 2.5})
    assert known is not None and (known["step"], known["value"]) == (20, 2.0)
    note = tmp_path / "best" / "best.json"
    assert json.loads(note.read_text()) == known
    for damage in (lambda: note.write_text("{"), lambda: note.write_text('{"value": 9}'), note.unlink):
        damage()
        assert read_best(tmp_path / "best") == known
    assert scored(tmp_path, {50: 2.2}) == known  # worse than the best, which it once replaced
    assert checkpoint.steps(tmp_path / "best" / "checkpoints") == [10, 20]
    assert scored(tmp_path, {60: 1.0})["step"] == 60 and json.loads(note.read_text())["value"] == 1.0


def test_a_best_state_of_which_nothing_is_known_is_refused(home: Home, tmp_path, capsys):
    run = home.copy("vae", tmp_path / "run")
    scored(run, {10: 3.0})
    (run / "best" / "checkpoints" / "10" / "meta" / "metadata").write_text("{}")
    (run / "best" / "best.json").write_text("{}")
    score = ("--score", "kid", "--score-n", 100, "--score-extractor", "pixels")
    line = refused(capsys, 2, tiny("vae"), "--workdir", run, "--steps", 130, *score)
    assert "best holds a state whose score is damaged: remove that folder, or put best.json back" in line
    assert checkpoint.latest(run / "checkpoints") == STEPS


def test_fit_refuses_what_cannot_work(home: Home, tmp_path):
    with pytest.raises(InputError, match="has no keyword widht: it takes"):
        jaxgen.load_experiment(tiny("vae"), widht=8)
    for wrong, message in [
        ({"batch": 0}, "batch must be at least 1, it is 0"),
        ({"steps": 0}, "steps must be at least 1, it is 0"),
        ({"ema": 1.0}, r"ema must be in \[0, 1\), it is 1.0"),
    ]:
        with pytest.raises(InputError, match=message):
            jaxgen.load_experiment(tiny("vae"), **wrong)
    with pytest.raises(InputError, match="batch 15 is no multiple of accumulate 2 times 1 devices"):
        jaxgen.fit(jaxgen.load_experiment(tiny("vae"), batch=15, accumulate=2), tmp_path / "run")
    with pytest.raises(InputError, match="unknown layout 'two': choose one of one, data, fsdp, pmap"):
        jaxgen.fit(jaxgen.load_experiment(tiny("vae")), tmp_path / "run", layout="two")
    assert not (tmp_path / "run").exists()


def test_a_run_begins_with_another_s_averaged_parameters(home: Home, tmp_path):
    donor, still = home.run("vae"), jaxgen.load_experiment(tiny("vae"), steps=1, lr=0.0)  # Adam that moves nothing
    theirs = jax.tree.leaves(load_run(donor).state.ema.params)
    for start in (donor, None):  # and so it does, should it be killed before its first checkpoint
        state = jaxgen.fit(still, tmp_path / "new", start=start, progress=False)
        assert int(state.step) == 1
        for ours in (state.params, state.ema.params):
            assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(ours), theirs, strict=True))
        shutil.rmtree(tmp_path / "new" / "checkpoints")
    with pytest.raises(InputError, match="do not fit: start from a run of the same networks"):
        jaxgen.fit(still, tmp_path / "other", start=home.run("gan"), progress=False)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    "x, label, line",
    [
        (np.full((4, 2), 1.5), 1, "a pixel is 1.5, this likelihood takes -1 to 1"),
        (np.zeros((4, 2)), 3, "label 3 is outside 0 to 2"),
        (np.zeros((4, 2)), None, "its data needs labels or attributes, it has none"),
    ],
)
def test_data_that_the_model_does_not_take_are_refused_before_anything_is_compiled(tmp_path, x, label, line):
    labels = None if label is None else np.array([0, 1, 2, label])
    points = in_memory("points", "train", x.astype(np.float32), labels)
    nothing = Network(lambda *inputs: 1 / 0, lambda *inputs: 1 / 0)  # never initialised
    model = families.vae(nothing, nothing, 2, condition=conditions.labels(3))
    exp = jaxgen.Experiment(model, {"vae": optax.sgd(1.0)}, points, batch=2, steps=1)
    with pytest.raises(InputError, match=line):
        jaxgen.fit(exp, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_an_experiment_made_in_python_goes_on_and_draws_where_its_code_is_not(home: Home, tmp_path):
    exp = jaxgen.load_experiment(tiny("vae"), steps=6)._replace(source="", settings={}, name="mine")
    jaxgen.fit(exp, tmp_path, progress=False)
    state = jaxgen.fit(exp._replace(steps=9), tmp_path, progress=False)
    assert int(state.step) == 9
    drawn, own = (jaxgen.sample(*pair, jax.random.key(0), 2) for pair in (jaxgen.load(tmp_path), (exp.model, state)))
    np.testing.assert_allclose(drawn, own, atol=1e-5)
    with pytest.raises(InputError, match="batch must be at least 1, it is 0"):
        jaxgen.fit(exp._replace(batch=0), tmp_path)
