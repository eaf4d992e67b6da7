"""Attacks on a run, each the same for a seed: `kill`, `flip`, `damage`, `full_disk`, `interrupt`. Each says whether
something was lost, went wrong without a word, or was told in a traceback. The tests take a few seeds, and
`benchmarks/faults.py` as many as one likes.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from _tiny import FAMILIES, Home, Process, assert_same_runs, contents, training

import jaxgen
from jaxgen import checkpoint, cli, runs

# Of the others only the losses differ, not what is saved.
KINDS = (*FAMILIES, "vq", "latent", "low_rank", "ladder", "m2", "vae_gan", "factor_vae", "adversarial", "wae_mmd")
KINDS = (*KINDS, "began", "ada", "big")  # a state of the objective, of the augmentation and of power iterations
KINDS = (*KINDS, "cached", "absorbing", "sharpened")
KINDS = (*KINDS, "text", "style", "flow")  # two networks in one group, and dropout; two means; a coupling
NOISE = re.compile(r"^Traceback|^  File \"|^Exception|^\s+@ +0x", re.MULTILINE)
# `jaxgen`, in a process that does not ignore SIGINT as those do that a script has started in the background.
HEARING = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from jaxgen.__main__ import main; main()"
)
ROOT = Path(__file__).resolve().parents[2]


class Outcome(NamedTuple):
    """What an attack did that none may do: good work lost, a failure that nobody is told of, a traceback; what
    happened, in words."""

    lost: bool = False
    silent: bool = False
    traceback: bool = False
    what: str = ""

    @property
    def bad(self) -> bool:
        """Whether any of it."""
        return self.lost or self.silent or self.traceback


def _same(a: Path, b: Path) -> bool:
    try:
        assert_same_runs(a, b)
    except (AssertionError, jaxgen.runs.InputError):
        return False
    return True


def _noisy(text: str) -> bool:
    return NOISE.search(text) is not None


def _tail(text: str) -> str:
    return " ".join(text.replace("\r", "\n").strip().splitlines()[-1:])[-200:]


# --- kills -----------------------------------------------------------------------------------------------------------


def kill(home: Home, family: str, seed: int, folder: Path) -> Outcome:
    """SIGKILL at any moment of a training, also inside a save; then the same command again has to end in the state of a
    run that was not killed, bit for bit."""
    chance, workdir = random.Random(f"{family}{seed}"), folder / "run"
    reference, step = home.run(family), 10 * chance.randrange(12)
    mark = workdir / "settings.json" if step == 0 else workdir / "checkpoints"
    process = Process(folder / "killed.log", *training(family), "--workdir", workdir)
    while process.process.is_alive() and not (mark.exists() if step == 0 else any(mark.glob(f"{step}*"))):
        time.sleep(0.0005)
    time.sleep(chance.uniform(0, 0.5 if step == 0 else 0.15))
    process.process.kill()
    process.end()
    again = Process(folder / "again.log", *training(family), "--workdir", workdir)
    code, told = again.end(), again.err.read_text()
    what = f"killed about step {step}: exit code {code}, {_tail(told)}"
    return Outcome(lost=code != 0 or not _same(workdir, reference), traceback=_noisy(told), what=what)


# --- damage ----------------------------------------------------------------------------------------------------------


def flip(home: Home, family: str, seed: int, folder: Path) -> Outcome:
    """One bit of the newest checkpoint: the newest state is restored, or the one before it and a line says so."""
    chance, workdir = random.Random(f"{family}{seed}"), home.copy(family, folder / "run")
    newest, before = sorted(checkpoint.steps(workdir / "checkpoints"))[:-3:-1]
    good = {step: _fingerprint(home, family, step) for step in (newest, before)}
    files = sorted(p for p in (workdir / "checkpoints" / str(newest)).rglob("*") if p.is_file() and p.stat().st_size)
    file = chance.choice(files)
    content = bytearray(file.read_bytes())
    bit = chance.randrange(8 * len(content))
    content[bit // 8] ^= 1 << bit % 8
    file.write_bytes(content)
    told: list[str] = []
    state, step = checkpoint.restore(
        checkpoint.open_store(workdir / "checkpoints", read_only=True), _template(home, family), told.append
    )  # type: ignore[misc]
    right = np.array_equal(checkpoint.fingerprint(state), good[step])
    said = step == newest or any("is damaged" in line for line in told)
    what = f"bit {bit} of {file.relative_to(workdir)}: step {step}"
    return Outcome(lost=step not in (newest, before), silent=not (right and said), what=what)


_known: dict = {}


def _template(home: Home, family: str):
    if (home.folder, family) not in _known:
        _known[home.folder, family] = runs.load_run(home.run(family)).state
    return _known[home.folder, family]


def _fingerprint(home: Home, family: str, step: int) -> np.ndarray:
    """Of a step of the run that is not attacked."""
    if (home.folder, family, step) not in _known:
        folder = home.folder / f"until-{family}-{step}"
        if not folder.exists():
            shutil.copytree(home.run(family) / "checkpoints" / str(step), folder / str(step))
        store = checkpoint.open_store(folder, read_only=True)
        state, _ = checkpoint.restore(store, _template(home, family))  # type: ignore[misc]
        _known[home.folder, family, step] = checkpoint.fingerprint(state)
    return _known[home.folder, family, step]


def damage(home: Home, family: str, seed: int, folder: Path) -> Outcome:
    """Any file of a run cut short, overwritten, removed, or made a folder: each command does its work or refuses in a
    line; training goes on to the state of a run that was not damaged, or refuses and changes nothing."""
    chance, workdir = random.Random(f"{family}{seed}"), home.copy(family, folder / "run")
    file = chance.choice(sorted(p for p in workdir.rglob("*") if p.is_file() and p.name != ".lock"))
    how = chance.choice(["cut", "overwritten", "removed", "folder"])
    content = file.read_bytes()
    if how == "cut":
        file.write_bytes(content[: chance.randrange(len(content) + 1)])
    elif how == "overwritten":
        file.write_bytes(chance.randbytes(chance.randrange(1, 2000)))
    else:
        file.unlink()
        if how == "folder":
            file.mkdir()
    told = []
    sample = ["sample", str(workdir), "--n", "4", "--out", str(folder / "x.npz")]
    for arguments in (["show", str(workdir)], sample, [*map(str, training(family)), "--workdir", str(workdir)]):
        before = contents(workdir)
        code, text = _in_process(arguments)
        told.append(f"{arguments[0]} {code} {_tail(text)}")
        if _noisy(text) or code not in (0, 2):
            return Outcome(traceback=True, what=f"{file.relative_to(workdir)} {how}: {told}")
    what = f"{file.relative_to(workdir)} {how}: {told}"
    if code == 2:
        return Outcome(lost=contents(workdir) != before, what=what)
    return Outcome(lost=not _same(workdir, home.run(family)), what=what)


def _in_process(arguments: list[str]) -> tuple[int, str]:
    """(exit code, stderr) of a command."""
    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told), contextlib.redirect_stdout(io.StringIO()):
            cli.main(arguments)
    except SystemExit as error:
        return int(error.code or 0), told.getvalue()
    except Exception as error:
        return 1, f"Traceback: {error!r}"
    return 0, told.getvalue()


# --- disks -----------------------------------------------------------------------------------------------------------


def can_mount() -> bool:
    """Whether this user may mount a small disk in a name space of its own."""
    try:
        command = ["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"]
        return subprocess.run(command, capture_output=True, timeout=20).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def full_disk(home: Home, family: str, seed: int, folder: Path) -> Outcome:
    """A training on a disk that is too small, has too few files, or is filled by somebody else while it trains; then
    there is room, and the same command has to end in the state of a run that had it all along."""
    reference = home.run(family)
    command = ["unshare", "-rm", sys.executable, str(Path(__file__)), family, str(seed), str(folder), str(reference)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=_environment())
    if done.returncode:
        return Outcome(traceback=True, what=done.stderr[-2000:])
    return Outcome(**json.loads(done.stdout.splitlines()[-1]))


def _environment() -> dict[str, str]:
    paths = [str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def _on_a_full_disk(family: str, seed: int, folder: Path, reference: Path) -> Outcome:
    chance, disk = random.Random(f"{family}{seed}"), folder / "disk"
    disk.mkdir()
    how = chance.choice(["small", "few files", "filled"])
    size = chance.randrange(40, 1200) if how == "small" else 65536
    inodes = chance.randrange(8, 150) if how == "few files" else 0
    _mount(disk, f"size={size}k,nr_inodes={inodes}")
    command = [sys.executable, "-m", "jaxgen", *map(str, training(family)), "--workdir", str(disk / "run")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=_environment()) as process:
        if how == "filled":
            _fill(disk, process, chance)
        _, told = process.communicate(timeout=240)
    code = process.returncode
    what = f"{how}, {size} KiB, {inodes} files: exit code {code}, {_tail(told)}"
    finished = code == 0 and _same(disk / "run", reference)
    lines = [
        line for line in told.replace("\r", "\n").splitlines() if "No space left" in line or "jaxgen: error" in line
    ]
    bad = Outcome(lost=code == 0 and not finished, silent=code != 0 and not lines, traceback=_noisy(told), what=what)
    if bad.bad or code == 0:
        return bad
    (disk / "filler").unlink(missing_ok=True)
    _mount(disk, "remount,size=64m,nr_inodes=0")
    again = subprocess.run(command, capture_output=True, text=True, timeout=240, env=_environment())
    lost = again.returncode != 0 or not _same(disk / "run", reference)
    return Outcome(lost=lost, traceback=_noisy(again.stderr), what=f"{what}; with room {_tail(again.stderr)}")


def _mount(disk: Path, options: str) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(disk)], check=True)


def _fill(disk: Path, process: subprocess.Popen, chance: random.Random) -> None:
    """Take all the room at some moment of the training."""
    step = 10 * chance.randrange(1, 12)
    while process.poll() is None and not any((disk / "run" / "checkpoints").glob(f"{step}*")):
        time.sleep(0.001)
    time.sleep(chance.uniform(0, 0.05))
    with contextlib.suppress(OSError), open(disk / "filler", "wb") as file:
        while True:
            file.write(bytes(1 << 16))
            file.flush()


# --- signals ---------------------------------------------------------------------------------------------------------


def interrupt(home: Home, family: str, seed: int, folder: Path) -> Outcome:
    """SIGINT or SIGTERM, at times twice, at any moment from the first import on, of a training or another command: it
    ends soon, in a line, and a training goes on from there."""
    chance, workdir, reference = random.Random(f"{family}{seed}"), folder / "run", home.run(family)
    trains = chance.random() < 0.6
    train = [*map(str, training(family)), "--workdir", str(workdir)]
    other = ["sample", str(reference), "--n", "64000", "--out", str(folder / "x.npz")]
    number, twice = chance.choice([signal.SIGINT, signal.SIGTERM]), chance.random() < 0.3
    command = [sys.executable, "-c", HEARING, *(train if trains else other)]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=_environment(), **pipes) as process:
        _wait_for_handler(process)
        time.sleep(chance.uniform(0, 12.0 if trains else 5.0))
        process.send_signal(number)
        if twice:
            time.sleep(chance.uniform(0, 0.3))
            process.send_signal(signal.SIGINT)
        began = time.monotonic()
        _, told = process.communicate(timeout=120)
    # as the interpreter ends, signals have their own effect again, and nobody is there to say a line
    code, took = process.returncode if process.returncode >= 0 else 128 - process.returncode, time.monotonic() - began
    done = "samples in" in told if trains else (folder / "x.npz").exists()
    said = done or any(line.split("\r")[-1].startswith("jaxgen: ") for line in told.split("\n"))
    name = "train" if trains else "sample"
    what = f"{name}, {signal.Signals(number).name}: exit code {process.returncode} after {took:.1f} s, {_tail(told)}"
    late = took > 20 or code not in (0, 130, 143)
    found = Outcome(silent=late or (code != 0 and not said), traceback=_noisy(told), what=what)
    if found.bad or not trains:
        return found
    again = subprocess.run([*command[:3], *train], capture_output=True, text=True, timeout=240, env=_environment())
    lost = again.returncode != 0 or not _same(workdir, reference)
    return Outcome(lost=lost, traceback=_noisy(again.stderr), what=what)


def _wait_for_handler(process: subprocess.Popen) -> None:
    """Until the interpreter has started, and something of jaxgen's runs: Linux says which signals are caught."""
    status = Path(f"/proc/{process.pid}/status")
    while process.poll() is None:
        caught = re.search(r"^SigCgt:\s*(\w+)", status.read_text(), re.MULTILINE) if status.exists() else None
        if caught is None or int(caught[1], 16) >> (signal.SIGTERM - 1) & 1:
            break
        time.sleep(0.001)


if __name__ == "__main__":
    print(json.dumps(_on_a_full_disk(sys.argv[1], int(sys.argv[2]), *map(Path, sys.argv[3:5]))._asdict()))
