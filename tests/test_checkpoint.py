"""Checkpoints: exact, never wrong in silence, never lost."""

from __future__ import annotations

import errno
import json
import logging
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import _checkpoint_worker as worker
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from _checkpoint_worker import same, tree
from _tiny import virtual_devices

from jaxgen import checkpoint
from jaxgen.types import Average, InputError, TrainState


def train_state(seed: int) -> TrainState:
    rng = np.random.default_rng(seed)
    params = {"vae": {"dense": {"kernel": jnp.asarray(rng.normal(size=(5, 3)), jnp.float32), "bias": jnp.ones(3)}}}
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3))
    opt = {"vae": jax.tree.map(lambda x: x + seed, optimizer.init(params["vae"]))}
    extra = {
        "bf16": jnp.asarray(rng.normal(size=(4, 4)), jnp.bfloat16),
        "f16": jnp.asarray([np.nan, -0.0, np.inf], jnp.float16),
        "i8": jnp.asarray([-3, 4], jnp.int8),
        "i4": jnp.asarray([-3, 4], jnp.int4),
        "mask": jnp.asarray([True, False]),
        "complex": jnp.asarray([1 + 2j]),
        "empty": jnp.zeros((0, 3)),
        "none": None,
        "keys": jax.random.split(jax.random.key(seed, impl="rbg"), 3),
    }
    average = Average(jax.tree.map(jnp.copy, params), {})
    return TrainState(jnp.asarray(seed), jax.random.key(seed), params, opt, extra, average)


def saved(folder: Path, *steps: int, make=tree) -> checkpoint.Store:
    store = checkpoint.open_store(folder)
    for step in steps:
        assert checkpoint.save(store, make(step), step)
    checkpoint.wait(store)
    return store


def run_worker(*args: object, **env: str) -> subprocess.Popen:
    root = Path(__file__).parents[1]
    env = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(root)} | env
    command = [sys.executable, str(Path(worker.__file__)), *map(str, args)]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen) -> str:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out


def test_round_trip_is_exact_for_every_dtype(tmp_path):
    state = train_state(4)
    store = saved(tmp_path, 4, make=train_state)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)
    for template in (state, shapes, jax.eval_shape(train_state_of_four)):
        restored, step = checkpoint.restore(store, template)
        assert step == 4 and same(restored, state)
    jax.random.normal(restored.extra["keys"][0])
    checkpoint.close(store)
    assert checkpoint.steps(tmp_path) == [4] and checkpoint.latest(tmp_path) == 4


def train_state_of_four() -> TrainState:
    return train_state(4)


def test_nothing_saved_is_none(tmp_path):
    assert checkpoint.restore(checkpoint.open_store(tmp_path / "new"), tree(0)) is None
    assert checkpoint.restore(checkpoint.open_store(tmp_path / "absent", read_only=True), tree(0)) is None
    assert not (tmp_path / "absent").exists()
    assert checkpoint.latest(tmp_path / "absent") is None and checkpoint.steps(tmp_path / "absent") == []


def test_a_saved_step_is_never_overwritten_and_the_newest_are_kept(tmp_path):
    store = saved(tmp_path, 1, 2, 3, 4)
    assert not checkpoint.save(store, tree(9), 4)
    with pytest.raises(InputError, match="already holds step 4"):
        checkpoint.save(store, tree(1), 1)
    assert same(checkpoint.restore(store, tree(0))[0], tree(4))
    checkpoint.close(store)
    assert checkpoint.steps(tmp_path) == [2, 3, 4]


def test_a_state_of_no_arrays_round_trips(tmp_path):
    store = saved(tmp_path, 1, make=lambda step: {"a": None, "b": jnp.zeros((0,))})
    assert checkpoint.restore(store, {"a": None, "b": jnp.zeros((0,))})[1] == 1


def test_what_is_not_an_array_is_refused_by_name(tmp_path):
    with pytest.raises(InputError, match="leaf a/0 is a float"):
        checkpoint.save(checkpoint.open_store(tmp_path), {"a": [1.0]}, 1)
    with pytest.raises(InputError, match="leaf a/0 is a float"):
        checkpoint.restore(saved(tmp_path, 1), {"a": [1.0]})
    with pytest.raises(InputError, match="two leaves have one path"):
        checkpoint.save(checkpoint.open_store(tmp_path / "b"), {"a/b": jnp.ones(1), "a": {"b": jnp.ones(1)}}, 1)


def test_donation_right_after_save_does_not_reach_the_checkpoint(tmp_path):
    store = checkpoint.open_store(tmp_path)
    update = jax.jit(lambda x: jax.tree.map(lambda a: a * 0 - 1, x), donate_argnums=0)
    update({"x": jnp.ones((500_000,)), "y": jnp.ones((3, 5))})
    for step in (1, 2, 3):
        state = {"x": jnp.full((500_000,), float(step)), "y": jnp.full((3, 5), float(step))}
        checkpoint.save(store, state, step)
        for _ in range(3):
            state = update(state)
        jax.block_until_ready(state)
        restored, found = checkpoint.restore(store, state)
        assert found == step and all(bool((x == step).all()) for x in jax.tree.leaves(restored))


# Damage


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 16
    file.write_bytes(data)


def truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


@pytest.mark.parametrize("damage", [flip, truncate, Path.unlink], ids=["flip", "truncate", "remove"])
def test_damage_to_any_file_costs_at_most_the_newest_step(tmp_path, capfd, damage):
    checkpoint.close(saved(tmp_path / "good", 1, 2))
    files = sorted(p.relative_to(tmp_path / "good") for p in (tmp_path / "good" / "2").rglob("*") if p.is_file())
    assert len(files) >= 5
    fell_back = 0
    for n, file in enumerate(files):
        folder = tmp_path / str(n)
        shutil.copytree(tmp_path / "good", folder)
        damage(folder / file)
        store, lines = checkpoint.open_store(folder), []
        restored, step = checkpoint.restore(store, tree(0), lines.append)
        assert same(restored, tree(step)), file
        if step == 2:
            assert lines == []
            continue
        fell_back += 1
        assert step == 1 and len(lines) == 1 and "\n" not in lines[0]
        assert lines[0].startswith(f"checkpoint step 2 in {folder} is damaged (") and lines[0].endswith("using step 1")
        assert (folder / "2.damaged").is_dir() and checkpoint.steps(folder) == [1]
        assert checkpoint.save(store, tree(2), 2)
        assert same(checkpoint.restore(store, tree(0), lines.append)[0], tree(2)) and len(lines) == 1
    assert fell_back >= 4  # the others are copies, markers and descriptions that a restore does without
    assert capfd.readouterr() == ("", "")


def test_damage_anywhere_is_silent_but_for_its_line(tmp_path, capfd):
    checkpoint.close(saved(tmp_path / "good", 1, 2))
    files = sorted(p.relative_to(tmp_path / "good") for p in (tmp_path / "good" / "2" / "state").rglob("*/*"))
    rng, fell_back = random.Random(1), 0
    for n in range(25):
        folder = tmp_path / str(n)
        shutil.copytree(tmp_path / "good", folder)
        file = folder / rng.choice([f for f in files if (folder / f).is_file()])
        data = bytearray(file.read_bytes())
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        file.write_bytes(data)
        store, lines = checkpoint.open_store(folder, read_only=True), []
        restored, step = checkpoint.restore(store, tree(0), lines.append)
        assert same(restored, tree(step)) and len(lines) == 2 - step
        fell_back += len(lines)
    assert fell_back >= 2 and capfd.readouterr() == ("", "")


def test_a_damaged_step_leaves_the_hooks_of_the_process_alone(tmp_path, monkeypatch):
    """Nothing is to be hushed: no read goes on after a restore has failed."""
    checkpoint.close(saved(tmp_path, 1, 2))
    for file in (tmp_path / "2" / "state").rglob("d/*"):
        truncate(file)
    heard, before, read = [], (sys.excepthook, sys.unraisablehook, threading.excepthook), checkpoint._read_array

    def during(*args):
        heard.append((sys.excepthook, sys.unraisablehook, threading.excepthook))
        return read(*args)

    monkeypatch.setattr(checkpoint, "_read_array", during)
    threads = set(threading.enumerate())
    _, step = checkpoint.restore(checkpoint.open_store(tmp_path, read_only=True), tree(0), lambda line: None)
    assert step == 1 and heard and set(heard) == {before} and not set(threading.enumerate()) - threads


def test_what_orbax_logs_for_others_is_not_silenced(tmp_path, caplog):
    ours, logger = saved(tmp_path / "ours", 1), logging.getLogger("absl")
    pathname = os.path.join("site-packages", "orbax", "checkpoint", "x.py")

    def log(message: str, error: Exception | None = None) -> bool:
        record = logger.makeRecord("absl", logging.ERROR, pathname, 1, message, (), (type(error), error, None))
        return bool(logger.filter(record))

    assert not log(f"failed in {tmp_path / 'ours' / '3'}") and not log("failed", OSError(f"{tmp_path / 'ours'}: full"))
    assert not log("failed", OSError(errno.ENOSPC, "No space left on device"))  # it names no folder
    assert log(f"failed in {tmp_path / 'theirs'}") and log("failed", OSError("full"))
    checkpoint.close(ours)
    assert log(f"failed in {tmp_path / 'ours' / '3'}")


def test_a_note_comes_back_with_its_step(tmp_path):
    store = saved(tmp_path, 1)
    checkpoint.save(store, tree(2), 2, {"value": 0.1, "metric": "fid"})
    checkpoint.save(store, tree(3), 3, {"value": 0.3})
    checkpoint.close(store)
    assert checkpoint.notes(tmp_path) == {1: {}, 2: {"value": 0.1, "metric": "fid"}, 3: {"value": 0.3}}
    flip(tmp_path / "3" / "meta" / "metadata")
    assert list(checkpoint.notes(tmp_path)) == [1, 2] and checkpoint.notes(tmp_path / "none") == {}


def test_damage_twice_to_one_step_keeps_both(tmp_path):
    store = saved(tmp_path, 1, 2)
    for _ in range(2):
        (tmp_path / "2" / "meta" / "metadata").unlink()
        assert checkpoint.restore(store, tree(0), lambda line: None)[1] == 1
        checkpoint.save(store, tree(2), 2)
        checkpoint.wait(store)
    assert sorted(os.listdir(tmp_path)) == ["1", "2", "2.damaged", "2.damaged-1"]


def test_when_all_are_damaged_nothing_is_changed_and_the_user_decides(tmp_path):
    store = saved(tmp_path, 1, 2)
    for step in "12":
        truncate(tmp_path / step / "meta" / "metadata")
    before = sorted(os.listdir(tmp_path))
    lines: list[str] = []
    with pytest.raises(InputError, match=r"every checkpoint in .* is damaged .*step 2.*step 1"):
        checkpoint.restore(store, tree(0), lines.append)
    assert lines == [] and sorted(os.listdir(tmp_path)) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bias": jnp.ones(8)}, r"leaf bias is float32\[7\] in the checkpoint, expected float32\[8\]"),
        ({"bias": jnp.ones(7, jnp.bfloat16)}, r"leaf bias is float32\[7\] .* expected bfloat16\[7\]"),
        ({"key": jax.random.key(0, impl="rbg")}, r"leaf key is key<fry>\[\] .* expected key<rbg>"),
        ({"more": {"x": jnp.ones(1)}}, r"leaf more/x, float32\[1\], is expected and not in the checkpoint"),
        ({"bias": None}, r"leaf bias, float32\[7\], is in the checkpoint and not expected"),
    ],
)
def test_other_settings_are_a_mistake_and_not_damage(tmp_path, change, message):
    store = saved(tmp_path, 1, 2)
    with pytest.raises(InputError, match=message):
        checkpoint.restore(store, tree(0) | change)
    assert sorted(os.listdir(tmp_path)) == ["1", "2"]
    assert checkpoint.restore(store, tree(0))[1] == 2


def test_a_lack_of_memory_or_permission_is_not_damage(tmp_path, monkeypatch):
    store = saved(tmp_path, 1, 2)
    for error in (MemoryError(), PermissionError("no"), ValueError("RESOURCE_EXHAUSTED: Out of memory")):

        def refuse(*args, error=error, **kwargs):
            raise error

        monkeypatch.setattr(checkpoint, "_read_array", refuse)
        with pytest.raises(InputError, match=r"step 2 .* could not be read"):
            checkpoint.restore(store, tree(0))
    assert checkpoint.steps(tmp_path) == [1, 2]


def test_reading_only_writes_nothing(tmp_path):
    checkpoint.close(saved(tmp_path, 1, 2))
    flip(tmp_path / "2" / "meta" / "metadata")
    (tmp_path / "9.orbax-checkpoint-tmp").mkdir()
    listing = {p: p.stat().st_mtime_ns for p in [tmp_path, *tmp_path.rglob("*")]}
    store, lines = checkpoint.open_store(tmp_path, read_only=True), []
    for n in (1, 2):
        assert checkpoint.restore(store, tree(0), lines.append)[1] == 1 and len(lines) == n
    with pytest.raises(InputError, match="reading only"):
        checkpoint.save(store, tree(3), 3)
    checkpoint.close(store)
    assert {p: p.stat().st_mtime_ns for p in [tmp_path, *tmp_path.rglob("*")]} == listing


def test_the_remains_of_a_killed_save_are_ignored_then_removed(tmp_path):
    checkpoint.close(saved(tmp_path, 1))
    shutil.copytree(tmp_path / "1", tmp_path / "2.orbax-checkpoint-tmp")
    (tmp_path / "1.damaged").mkdir()
    assert checkpoint.latest(tmp_path) == 1
    store = checkpoint.open_store(tmp_path)
    assert checkpoint.restore(store, tree(0))[1] == 1
    checkpoint.save(store, tree(2), 2)
    checkpoint.close(store)
    assert sorted(os.listdir(tmp_path)) == ["1", "1.damaged", "2"]


# Checksums


def test_every_flipped_bit_changes_the_fingerprint():
    data = np.random.default_rng(0).integers(0, 256, 24, dtype=np.uint8)
    found = set()
    for dtype in (jnp.float32, jnp.bfloat16, jnp.int8, jnp.uint32):
        before = checkpoint.fingerprint([jnp.asarray(data.view(dtype))])[0]
        for bit in range(data.size * 8):
            other = data.copy()
            other[bit // 8] ^= 1 << bit % 8
            sums = checkpoint.fingerprint([jnp.asarray(other.view(dtype))])[0]
            assert (sums != before).all()
            found.add((str(dtype), *sums.tolist()))
    assert len(found) == 4 * data.size * 8


def test_every_exchange_of_two_values_changes_the_fingerprint():
    # v and -v differ by 2^31 as integers: the case that sums weighted by odd numbers cannot see
    x = np.asarray([1.5, -1.5, 0.0, -0.0, 3.0, 1.5], np.float32)
    before = checkpoint.fingerprint([jnp.asarray(x)])[0]
    for i in range(x.size):
        for j in range(i):
            if x[i].tobytes() != x[j].tobytes():
                y = x.copy()
                y[[i, j]] = x[[j, i]]
                sums = checkpoint.fingerprint([jnp.asarray(y)])[0]
                assert sums[0] == before[0] and sums[1] != before[1]


def test_fingerprint_is_the_formula():
    x = np.random.default_rng(1).integers(0, 2**32, 70_000, dtype=np.uint64)
    i = (x + np.arange(x.size, dtype=np.uint64) * 0x9E3779B9) % 2**32
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        i = (i ^ (i >> np.uint64(shift))) * np.uint64(factor) % 2**32
    sums = checkpoint.fingerprint([jnp.asarray(x.astype(np.uint32)), jnp.zeros((0, 2))])
    assert sums.tolist() == [[int(x.sum()) % 2**32, int(i.sum()) % 2**32], [0, 0]]


# Other devices, other processes


def test_eight_devices_and_one_agree_and_restore_each_other(tmp_path):
    checkpoint.close(saved(tmp_path / "one", 3))
    started = run_worker("devices", tmp_path / "one", tmp_path / "eight", **virtual_devices(8))
    answer = json.loads(finish(started))
    assert answer.pop("devices") == 8
    expected = checkpoint.fingerprint(tree(3)).tolist()
    for layout in ("replicated", "cut"):
        assert answer[layout] == expected
        assert answer[layout + " restored"] and answer[layout + " placed"]
        restored, step = checkpoint.restore(checkpoint.open_store(tmp_path / "eight" / layout), tree(0))
        assert step == 3 and same(restored, tree(3))


def test_two_processes_fall_back_together(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    both = [run_worker("pair", rank, port, tmp_path) for rank in (0, 1)]
    for answer in [json.loads(finish(process).splitlines()[-1]) for process in both]:
        assert (answer["first"], answer["second"], answer["again"]) == (3, 2, True)
        assert answer["sums"] == checkpoint.fingerprint(tree(3)).tolist()
        assert answer["exact"] == checkpoint.fingerprint(tree(2)).tolist()
        assert len(answer["lines"]) == 1 and "leaf bias is float32[7]" in answer["refused"]
    assert sorted(os.listdir(tmp_path)) == ["1", "2", "3", "3.damaged"]
    restored, step = checkpoint.restore(checkpoint.open_store(tmp_path), tree(0))
    assert step == 3 and same(restored, tree(3))


def test_a_failure_in_the_background_comes_to_light(tmp_path):
    waited, saved_next, restored, steps = finish(run_worker("limit", tmp_path)).splitlines()
    for line in (waited, saved_next):
        assert line.startswith(f"saving a checkpoint in {tmp_path} failed (")
        assert line.endswith("step 1 is the newest that is saved")
    assert restored == "1 True" and steps == "[1, 2]"


def test_kills_at_any_moment_leave_an_exact_state(tmp_path):
    rng, confirmed = random.Random(0), 0
    for _ in range(3):
        process = run_worker("loop", tmp_path)
        assert process.stdout.readline()
        time.sleep(rng.uniform(0.0, 0.6))
        process.send_signal(signal.SIGKILL)
        confirmed = max([confirmed, *map(int, process.communicate()[0].split())])
        store, lines = checkpoint.open_store(tmp_path, read_only=True), []
        found = checkpoint.restore(store, tree(0, 20_000), lines.append)
        assert lines == []
        if found is None:
            assert confirmed == 0
            continue
        restored, step = found
        assert step >= confirmed and same(restored, tree(step, 20_000))
    assert confirmed > 0
