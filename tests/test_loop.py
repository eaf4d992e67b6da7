"""The loop of `fit`: its hooks, the length of its compiled calls, what it traces and what it keeps of compiled code."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from _tiny import tiny

import jaxgen
from jaxgen import data, loop, parallel, records
from jaxgen.families import Classifier
from jaxgen.hooks import Hook, Moment, due, steps_until
from jaxgen.loop import Calls, call_length, evenly
from jaxgen.training import Report
from jaxgen.types import Batch, Game, InputError

# --- hooks ---------------------------------------------------------------------------------------------------------


def game(counter: list) -> Classifier:
    """|w - mean of x|^2, which notes every time that it is traced."""

    def init(key, batch):
        counter.append("init")
        return {"player": jnp.zeros(())}, {}

    def loss(params, extra, turn, batch):
        counter.append("loss")
        return jnp.square(params["player"] - batch.x.reshape(len(batch.x), -1).mean(1)), ({}, extra)

    return Classifier(Game(init, {"player": loss}), None)  # type: ignore[arg-type]


def experiment(counter: list, **fields) -> jaxgen.Experiment:
    own = {"batch": 4, "steps": 12, "log_every": 4, "save_every": 6, "sample_every": 100, "name": "mean"}
    return jaxgen.Experiment(game(counter), {"player": optax.sgd(0.1)}, data.load("digits"), **(own | fields))


def test_which_hooks_are_due():
    log, save, draw = (Hook(n, lambda moment: None, also) for n, also in ((4, "any"), (6, "stop"), (5, "")))
    hooks = [draw, log, save]
    assert due(hooks, 3, 12, False) == [] and due(hooks, 4, 12, False) == [log]
    assert due(hooks, 5, 12, False) == [draw, log]  # a record of what is measured at every step
    assert due(hooks, 6, 12, False) == [log, save]
    assert due(hooks, 12, 12, False) == hooks == due(hooks, 13, 13, False)
    assert due(hooks, 7, 12, True) == [log, save]
    assert [steps_until(hooks, step, 12) for step in (0, 4, 5, 6, 11)] == [4, 1, 1, 2, 1]


def test_a_hook_of_ones_own_is_called_on_its_steps_and_its_numbers_are_recorded(tmp_path):
    called = []

    def hook(moment: Moment) -> dict:
        assert moment.folder == tmp_path and moment.chief and moment.exp.name == "mean"
        assert int(moment.state.step) == moment.step
        called.append((moment.step, sorted(moment.metrics)))
        return {"own/w": float(moment.state.params["player"])}

    last = Hook(100, lambda moment: {"own/twice": 2 * moment.metrics["own/w"]})
    jaxgen.fit(experiment([]), tmp_path, hooks=[Hook(5, hook), last], progress=False)
    assert called == [(step, ["player/grad_norm", "player/loss"]) for step in (5, 10, 12)]
    lines = {record["step"]: record for record in records.read(tmp_path)}
    assert list(lines) == [4, 5, 6, 8, 10, 12]  # means since the one before, whatever is due
    assert [step for step in lines if "own/w" in lines[step]] == [5, 10, 12]
    assert lines[12]["own/twice"] == 2 * lines[12]["own/w"]
    with pytest.raises(InputError, match="a hook is called every 0 steps: give at least 1"):
        jaxgen.fit(experiment([]), tmp_path, hooks=[Hook(0, hook)], progress=False)


def test_a_hooks_time_is_not_training_time(tmp_path):
    hooks = [Hook(2, lambda moment: time.sleep(0.3))]
    jaxgen.fit(experiment([], log_every=1), tmp_path, hooks=hooks, progress=False)
    lines = records.read(tmp_path)
    assert lines[-1]["seconds"] - lines[2]["seconds"] < 5 * 0.3
    assert lines[-1]["images_per_second"] > 0
    assert (np.diff([line["seconds"] for line in lines]) >= 0).all()  # in milliseconds


# --- compiled calls ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "steps"),
    [(None, 1), (0.0, 100), (0.001, 100), (0.02, 25), (0.2, 3), (1.0, 3), (9.9, 3), (12.0, 2), (20.0, 1), (1e4, 1)],
)
def test_a_call_takes_half_a_second_and_of_a_slow_model_three_steps_in_half_a_minute(seconds, steps):
    assert call_length(seconds, 100) == steps
    assert call_length(seconds, 2) == min(steps, 2)


def test_calls_up_to_a_hook_are_about_as_long():
    for steps in range(1, 60):
        for n in range(1, 40):
            left, lengths = steps, []
            while left:
                lengths.append(evenly(left, n))
                left -= lengths[-1]
            assert len(lengths) == -(-steps // n) and max(lengths) <= n and max(lengths) - min(lengths) <= 1


@pytest.mark.parametrize(
    ("seconds", "lengths"), [(0.0, [1, 3, 48, 48]), (0.06, [1, 3, 8, 8, 7, 7]), (2.0, [1, 3, 3, 3])]
)
def test_the_length_of_calls_follows_from_what_a_step_takes(monkeypatch, seconds, lengths):
    """Against a device that works through its calls one after the other, beside Python."""
    clock = SimpleNamespace(now=0.0, free=0.0)
    made = []

    def run(state, batches, n):
        made.append(int(n))
        clock.now += 0.0 if len(made) > 1 else 5.0  # compilation
        clock.free = max(clock.free, clock.now) + seconds * n
        return state + n, (clock.free, Report({}, {}))

    def read(step, n, report):
        clock.now = max(clock.now, report[0])

    monkeypatch.setattr(loop.time, "perf_counter", lambda: clock.now)
    monkeypatch.setattr(loop.parallel, "place_batch", lambda place, batch: batch)
    reader = SimpleNamespace(take=lambda n: Batch(np.zeros((n, 1))))
    calls = Calls(run, reader, None, 50, SimpleNamespace(read=read))  # type: ignore[arg-type]
    state, step, last = 0, 0, sum(lengths)
    while step < last:
        state, step = calls.forward(state, step, last - step)  # type: ignore[assignment, arg-type]
    calls.settle()
    assert state == step == last and made == lengths


def test_slow_models_and_large_images_take_more_than_a_step_a_call():
    big = data.in_memory("big", "train", np.zeros((4, 512, 512, 3), np.uint8))
    assert loop._capacity(big, 64) == loop.SLOW_STEPS
    assert loop._capacity(data.load("digits"), 16) == loop.CALL_STEPS


def test_a_start_traces_the_initialisation_and_the_step_once(tmp_path):
    for layout in ("one", "pmap"):
        counter: list = []
        jaxgen.fit(experiment(counter), tmp_path / layout, layout=layout, progress=False)
        assert sorted(counter) == ["init", "loss"]
    counter = []
    jaxgen.fit(experiment(counter, steps=14), tmp_path / "one", progress=False)
    assert sorted(counter) == ["init", "loss"]  # going on needs the shapes of the one, the code of the other


def test_a_step_that_is_traced_once_is_the_same_step(tmp_path):
    """Its trace is inlined: the loop's code has no call in it that XLA would compile by itself."""
    exp = experiment([])
    make = lambda **axis: loop.training.make_step(exp.game, exp.optimizers, ema=exp.ema, **axis)  # noqa: E731
    place, batch = parallel.layout("one"), loop.runs.first_batch(exp)
    state = loop.runs.init(exp, batch)
    batches = jax.tree.map(lambda a: jnp.asarray(a)[None, None, None], batch)
    operations, after = [], []
    for step in (make(), parallel._traced_once(make())):
        run = jax.jit(loop.training.repeat(step))
        text = run.lower(state, batches, np.int32(1)).as_text()
        operations.append(Counter(re.findall(r"stablehlo\.\w+|call @", text)))  # whose order newer JAX changes
        after.append(run(state, batches, np.int32(1))[0])
    assert operations[0] == operations[1] and len(operations[0]) > 5
    chex.assert_trees_all_equal(*after)
    assert parallel.compile_step(place, make, state)(state, batches, np.int32(1))[0].step == 1


# --- compiled code -------------------------------------------------------------------------------------------------

FIT = """
import sys, jax
{before}
sys.path.insert(0, {here!r})
import jaxgen
jaxgen.fit(jaxgen.load_experiment({tiny!r}, steps=2), {run!r}, progress=False)
print(jax.config.jax_compilation_cache_dir, jax.config.jax_persistent_cache_min_compile_time_secs)
"""


def kept(tmp_path: Path, before: str = "", **env: str) -> tuple[str, int]:
    """(where `fit` keeps compiled code, how many programs it has kept there) in a fresh process."""
    names = [name for name in os.environ if "COMPILATION_CACHE" not in name and "PERSISTENT_CACHE" not in name]
    text = FIT.format(before=before, here=str(Path(__file__).parent), tiny=str(tiny("vae")), run=str(tmp_path / "run"))
    done = subprocess.run(
        [sys.executable, "-c", text],
        env={name: os.environ[name] for name in names} | {"JAXGEN_CACHE": str(tmp_path / "cache")} | env,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    folder = done.stdout.split()[0]
    return done.stdout.strip(), len(list(Path(folder).glob("*-cache"))) if folder != "None" else 0


@pytest.mark.slow
def test_the_librarys_own_fit_keeps_compiled_code_and_respects_the_users_settings(tmp_path):
    found, programs = kept(tmp_path)
    assert found == f"{tmp_path / 'cache' / 'compiled'} 0.0" and programs > 3
    mine = f"jax.config.update('jax_compilation_cache_dir', {str(tmp_path / 'mine')!r})"
    found, programs = kept(tmp_path, mine)
    assert found == f"{tmp_path / 'mine'} 1.0"
    found, _ = kept(tmp_path, JAX_COMPILATION_CACHE_DIR=str(tmp_path / "env"))
    assert found == f"{tmp_path / 'env'} 1.0"


@pytest.mark.parametrize("text", ["{enable}; import jax", "import jax; {enable}"])
def test_the_settings_of_the_cache_reach_jax_before_and_after_it_is_imported(tmp_path, text):
    text = text.format(enable="from jaxgen import compile_cache; compile_cache.enable()")
    env = {name: os.environ[name] for name in os.environ if "CACHE" not in name} | {"JAXGEN_CACHE": str(tmp_path)}
    command = [sys.executable, "-c", f"{text}; print(jax.config.jax_compilation_cache_dir)"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == str(tmp_path / "compiled"), done.stderr
