"""What a run survives: kills, damage, full disks, signals, a folder taken away, a second trainer, partners that leave.

A few seeds of each attack; `benchmarks/faults.py` takes thousands.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import _attacks
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from _tiny import Home, Process, home, last_line, tiny

import jaxgen
from jaxgen import checkpoint, cli, data, families, files, loop, records, signals
from jaxgen.nets import network
from jaxgen.nets.mlp import MLP
from jaxgen.scoring import Scoring

__all__ = ["home"]  # a fixture


@pytest.mark.slow
@pytest.mark.parametrize(
    ("attack", "family"),
    [
        *((attack, family) for attack in ("flip", "damage") for family in ("vae", "ladder")),
        *(("kill", family) for family in ("latent", "ladder")),  # of others see test_fit.py
        ("full_disk", "vae"),
        ("interrupt", "gan"),
    ],
)
def test_an_attack_loses_nothing_and_is_told_in_a_line(home: Home, tmp_path, attack, family):
    if attack == "full_disk" and not _attacks.can_mount():
        pytest.skip("no small disk can be mounted here")
    for seed in range(3 if attack in ("flip", "damage") else 1):
        folder = tmp_path / str(seed)
        folder.mkdir()
        found = getattr(_attacks, attack)(home, family, seed, folder)
        assert not found.bad, found


@pytest.mark.parametrize("content", [None, b"", b"import os\n"])
def test_a_damaged_copy_of_the_source_is_written_again(home: Home, tmp_path, capsys, content):
    workdir = home.copy("vae", tmp_path / "run")
    path = workdir / "experiment.py"
    path.unlink() if content is None else path.write_bytes(content)
    cli.main(["train", str(tiny("vae")), "--workdir", str(workdir)])
    assert "was not the run's source any more: it is written again" in capsys.readouterr().err
    assert path.read_bytes() == tiny("vae").read_bytes()
    jaxgen.load(workdir)


# --- what is said ----------------------------------------------------------------------------------------------------


def test_a_command_says_that_a_damaged_step_is_not_used(home: Home, tmp_path, capsys):
    workdir = home.copy("vae", tmp_path / "run")
    for file in (workdir / "checkpoints" / "120" / "state").rglob("d/*"):
        file.write_bytes(bytes(file.stat().st_size))
    cli.main(["sample", str(workdir), "--n", "4"])
    told = capsys.readouterr().err.splitlines()
    assert any("checkpoint step 120" in line and line.endswith("using step 110") for line in told)


def test_what_an_experiment_says_as_it_exits_is_not_swallowed(tmp_path, capsys):
    path = tmp_path / "gone.py"
    path.write_text("import sys\nprint('about the data', file=sys.stderr)\nsys.exit('the data are not mounted')\n")
    with pytest.raises(SystemExit) as stopped:
        cli.main(["train", str(path)])
    told = capsys.readouterr().err
    assert stopped.value.code == 2 and "about the data" in told and "the data are not mounted" in told


@pytest.mark.parametrize("order", [("critic", "generator"), ("generator", "critic"), ("critic", "critic", "generator")])
def test_the_player_that_broke_first_is_named(tmp_path, order):
    """The generator's sixth update is infinite: the critic sees it in its next turn, of the same step or the next."""
    digits = data.load("digits")
    broken = optax.chain(optax.sgd(1e-3), optax.scale_by_schedule(lambda n: jnp.where(n < 5, 1.0, jnp.inf)))
    model = families.gan(network(MLP(digits.shape, (8,))), network(MLP((), (8,))), 2)
    exp = jaxgen.Experiment(
        model, {"critic": optax.sgd(1e-3), "generator": broken}, digits, 8, 20, order=order, name="broken"
    )
    with pytest.raises(loop.Diverged, match="player 'generator' is not finite at step 6:"):
        jaxgen.fit(exp, tmp_path / "run", progress=False)


# --- disks -----------------------------------------------------------------------------------------------------------


def experiment(steps=40, **changes):
    digits = data.load("digits")
    model = families.vae(network(MLP((4,), (8,))), network(MLP(digits.shape, (8,))), 2)
    given = {"log_every": 5, "save_every": 10, "sample_every": 20, "name": "disk"} | changes
    return jaxgen.Experiment(model, {"vae": optax.adam(1e-3)}, digits, 16, steps, **given)


def test_a_save_without_room_is_said_and_the_run_goes_on(tmp_path, capsys, monkeypatch):
    room, asked = checkpoint._room, []

    def little(folder):
        asked.append(folder)
        return (0, 2, 10**6) if len(asked) in (2, 3) else room(folder)

    monkeypatch.setattr(checkpoint, "_room", little)
    jaxgen.fit(experiment(), tmp_path / "run", progress=False)
    told = [line for line in capsys.readouterr().err.splitlines() if "saving a checkpoint" in line]
    assert len(told) == 2 and all("No space left on device: it needs" in line for line in told)
    assert all("step 10 is the newest that is saved; training goes on" in line for line in told)
    assert checkpoint.steps(tmp_path / "run" / "checkpoints") == [10, 40]
    assert [record["step"] for record in records.read(tmp_path / "run")] == list(range(5, 41, 5))


def test_a_best_state_without_room_is_said_and_the_run_goes_on(tmp_path, capsys, monkeypatch):
    room = checkpoint._room
    monkeypatch.setattr(
        checkpoint, "_room", lambda folder: (0, 2, 10**6) if folder.parent.name == "best" else room(folder)
    )
    scoring = Scoring("fid", every=20, n=100, extractor="pixels")
    jaxgen.fit(experiment(), tmp_path / "run", progress=False, scoring=scoring)
    told = [line for line in capsys.readouterr().err.splitlines() if "saving a checkpoint" in line]
    assert len(told) == 2 and all("best/checkpoints failed (No space left on device" in line for line in told)
    assert checkpoint.latest(tmp_path / "run" / "checkpoints") == 40
    assert sum("score/fid" in record for record in records.read(tmp_path / "run")) == 2  # the numbers are there


@pytest.mark.parametrize("room", [(0, 0, 10**6), (0, 10**6, 3), (30, 0, 0)], ids=["bytes", "files", "read only"])
def test_a_run_whose_last_save_fails_ends_with_that(tmp_path, monkeypatch, capsys, room):
    monkeypatch.setattr(checkpoint, "_room", lambda folder: room)
    with pytest.raises(checkpoint.SaveError, match=r"step 20 is not saved .* no step is saved"):
        jaxgen.fit(experiment(20), tmp_path / "run", progress=False)
    reason = os.strerror(room[0] or 28)
    assert f"failed ({reason}" in capsys.readouterr().err


def test_a_save_that_fails_in_the_middle_leaves_no_remains_and_is_said_once(tmp_path, capfd, monkeypatch):
    """Somebody takes the room between the look and the writing: orbax itself fails."""
    store = checkpoint.open_store(tmp_path / "checkpoints")
    state = {"x": jaxgen.fit(experiment(10), tmp_path / "run", progress=False).params}
    capfd.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", _full)
        patch.setattr(os, "rename", _full)
        patch.setattr(Path, "rename", _full)
        with pytest.raises(checkpoint.SaveError, match="No space left on device"):
            checkpoint.save(store, state, 1)
            checkpoint.wait(store)
    assert list((tmp_path / "checkpoints").iterdir()) == []
    assert checkpoint.save(store, state, 2)
    checkpoint.close(store)
    assert checkpoint.steps(tmp_path / "checkpoints") == [2]
    assert capfd.readouterr().err == ""


def _full(*_, **__):
    raise OSError(28, "No space left on device")


def test_a_growing_file_keeps_what_the_disk_does_not_take(tmp_path, monkeypatch):
    file, write, most = files.Growing(tmp_path / "x"), os.write, 6

    def small(descriptor, piece):
        room = most - (tmp_path / "x").stat().st_size
        if room <= 0:
            raise OSError(28, "No space left on device")
        return write(descriptor, piece[:room])

    monkeypatch.setattr(os, "write", small)
    assert file.add(b"one\n") is None
    assert file.add(b"two\n").errno == 28 and file.add(b"three\n").errno == 28
    assert (tmp_path / "x").read_bytes() == b"one\n"  # no half of a piece
    most = 100
    assert file.add(b"four\n") is None
    file.close()
    assert (tmp_path / "x").read_bytes() == b"one\ntwo\nthree\nfour\n"


def test_scalars_are_on_the_disk_with_their_record(tmp_path):
    """At every record, not every two minutes: read back by the format's own checksums."""
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import masked_crc32c

    seen = []

    def read(moment):
        (path,) = (moment.folder / "tensorboard").glob("events*")
        content, steps = path.read_bytes(), []
        while content:
            size = int.from_bytes(content[:8], "little")
            assert masked_crc32c(content[:8]) == int.from_bytes(content[8:12], "little")
            event = Event.FromString(content[12 : 12 + size])
            assert masked_crc32c(content[12 : 12 + size]) == int.from_bytes(content[12 + size : 16 + size], "little")
            steps += [(event.step, v.simple_value) for v in event.summary.value if v.tag == "vae/loss"]
            content = content[16 + size :]
        seen.append(steps)

    jaxgen.fit(experiment(20), tmp_path / "run", progress=False, hooks=[loop.Hook(5, read)])
    losses = [(record["step"], record["vae/loss"]) for record in records.read(tmp_path / "run")]
    assert [step for step, _ in seen[-1]] == [5, 10, 15]  # a hook comes before the record of its own step
    np.testing.assert_allclose(seen[-1], losses[:3], rtol=1e-6)


# --- folders ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["removed", "renamed"])
def test_a_folder_that_goes_away_stops_the_run(tmp_path, how):
    folder = tmp_path / "run"

    def take(moment):
        if moment.step == 15:
            while checkpoint.latest(folder / "checkpoints") is None:  # the first save is done
                time.sleep(0.01)
            os.rename(folder, tmp_path / "elsewhere")
            if how == "removed":
                shutil.rmtree(tmp_path / "elsewhere")

    hook = loop.Hook(15, take)
    with pytest.raises(loop.Gone, match="was removed or renamed while"):
        jaxgen.fit(experiment(), folder, progress=False, hooks=[hook])
    if (tmp_path / "elsewhere").exists():
        jaxgen.fit(experiment(), tmp_path / "elsewhere", progress=False)
        assert checkpoint.latest(tmp_path / "elsewhere" / "checkpoints") == 40


def test_one_process_at_a_time_trains_in_a_folder(home: Home, tmp_path):
    workdir = tmp_path / "run"
    first = Process(tmp_path / "first.log", "train", tiny("vae"), "--workdir", workdir, "--steps", 100000)
    first.wait_for(lambda: checkpoint.latest(workdir / "checkpoints") is not None)
    second = Process(tmp_path / "second.log", "train", tiny("vae"), "--workdir", workdir, "--steps", 100000)
    assert second.end() == 2
    assert last_line(second.err) == (
        f"jaxgen: error: process {first.process.pid} on {socket.gethostname()} is training in {workdir}: wait for it, "
        "stop it, or choose another --workdir"
    )
    first.process.kill()
    first.end()
    left = workdir / f".settings.json.{first.process.pid}.tmp"
    left.write_text("half a fi")  # as if it had been killed while it wrote
    third = Process(tmp_path / "third.log", "train", tiny("vae"), "--workdir", workdir, "--steps", 100000)
    third.wait_for(lambda: not left.exists())  # a killed process has no lock, and what it left is taken away
    third.process.kill()


def test_what_others_are_writing_is_left_to_them(tmp_path):
    for name in (f".a.{os.getpid()}.tmp", ".b.999999999999.tmp", ".c.tmp", "d.1.tmp"):
        (tmp_path / name).write_text("")
    files.sweep(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [f".a.{os.getpid()}.tmp", ".c.tmp", "d.1.tmp"]


# --- signals ---------------------------------------------------------------------------------------------------------


def test_in_a_notebook_the_first_interrupt_saves_and_the_second_interrupts(tmp_path):
    def press(moment):
        if moment.step == 5:
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(loop.Stopped, match="stopped by SIGINT: saved step"):
        jaxgen.fit(experiment(), tmp_path / "run", progress=False, hooks=[loop.Hook(5, press)])
    assert signal.getsignal(signal.SIGINT) is before
    with signals.stopping() as stop, contextlib.suppress(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.number == signal.SIGINT
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("the second did nothing")


@pytest.mark.slow
def test_while_it_compiles_there_is_nothing_to_wait_for(tmp_path):
    """A compilation of minutes holds the main thread, and no handler of Python's runs."""
    path = tmp_path / "slow.py"
    path.write_text(
        "import time, jax\n"
        "def experiment(*, steps: int = 1):\n"
        "    print('begun', flush=True)\n"
        "    wait = lambda x: time.sleep(100) or x\n"
        "    jax.block_until_ready(jax.jit(lambda x: jax.pure_callback(wait, x, x))(1.0))\n"
    )
    command = [sys.executable, "-m", "jaxgen", "train", str(path), "--workdir", str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        time.sleep(1.0)
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=60)
    assert time.monotonic() - began < 5.0
    assert (process.returncode, told) == (143, "jaxgen: stopped by SIGTERM\n")


# --- several processes -----------------------------------------------------------------------------------------------


def pair(tmp_path, *extra, names=("0", "1"), **env):
    """Processes of one run, whose indices are `names`."""
    with contextlib.closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = ["train", tiny("vae"), "--workdir", tmp_path / "run", "--layout", "data", "--steps", 100000, *extra]
    arguments += ["--coordinator", f"127.0.0.1:{port}", "--processes", 2, "--process"]
    env = {"JAX_NUM_CPU_DEVICES": "1"} | env
    return [Process(tmp_path / f"{i}.log", *arguments, name, **env) for i, name in enumerate(names)]


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_when_a_process_is_killed_the_other_says_so_and_the_checkpoint_is_there(tmp_path, killed):
    both, folder = pair(tmp_path), tmp_path / "run" / "checkpoints"
    both[killed].kill_when(lambda: (checkpoint.latest(folder) or 0) >= 20)
    began, other = time.monotonic(), both[1 - killed]
    assert other.end() in (1, -signal.SIGABRT)  # JAX ends it where it has not noticed yet that the first has gone
    assert time.monotonic() - began < 60
    other.wait_for(lambda: "another process of the run in" in last_line(other.err), alive=False)
    assert not _attacks.NOISE.search(other.err.read_text())
    jaxgen.load(tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize(("number", "codes"), [(signal.SIGINT, {0: 0, 1: 130}), (signal.SIGTERM, {0: 0, 1: 0})])
def test_several_processes_save_one_step_and_stop_together(tmp_path, number, codes):
    both, folder = pair(tmp_path), tmp_path / "run" / "checkpoints"
    both[1].wait_for(lambda: (checkpoint.latest(folder) or 0) >= 20)
    os.kill(both[1].process.pid, number)
    assert {i: process.end() for i, process in enumerate(both)} == codes
    step = checkpoint.latest(folder)
    assert all(f"saved step {step} in {tmp_path / 'run'}" in last_line(process.err) for process in both)


def test_a_process_that_is_alone_waits_for_a_stated_time(tmp_path):
    (one,) = pair(tmp_path, names="1", JAXGEN_JOIN_SECONDS="7")
    assert one.end() == 2
    waiting, given_up = one.err.read_text().splitlines()
    assert "waiting for the other processes of this run at 127.0.0.1" in waiting and "for 7 s at most" in waiting
    assert "error: the processes of this run did not find each other" in given_up


def test_an_index_that_comes_twice_is_refused(tmp_path):
    first, second = pair(tmp_path, names="11", JAXGEN_JOIN_SECONDS="20")
    first.wait_for(lambda: not (first.process.is_alive() and second.process.is_alive()))
    refused, waits = (second, first) if first.process.is_alive() else (first, second)
    assert refused.end() == 2 and waits.process.is_alive()
    assert last_line(refused.err) == (
        f"jaxgen: error: process {waits.process.pid} on {socket.gethostname()} is process 1 of the run in "
        f"{tmp_path / 'run'}: give each process an index of its own"
    )
    waits.process.kill()
