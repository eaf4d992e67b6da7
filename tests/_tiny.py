"""Tiny experiments, and `jaxgen` commands in processes of their own that can be killed."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxgen import cli
from jaxgen.runs import load_run

TINY = Path(__file__).parent / "tiny"
FAMILIES = ("vae", "gan", "diffusion")

# Processes are forked from a server that has the imports done and no device opened: real ones, ready at once.
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    ["jaxgen.cli", "jaxgen.loop", "jaxgen.scalars", "jaxgen.families", "orbax.checkpoint", "PIL.Image", "tyro"]
)


def tiny(family: str) -> Path:
    """The experiment of a family."""
    return TINY / f"{family}.py"


def training(family: str) -> list[object]:
    """The arguments that train a family, of which there is a file, or one in the zoo."""
    return ["train", tiny(family)] if tiny(family).exists() else ["train", TINY / "zoo.py", "--family", family]


class Home:
    """The cache of data of a test session, and one finished run of each family, trained at its first use."""

    def __init__(self, folder: Path):
        self.folder = folder
        os.environ["JAXGEN_CACHE"] = str(folder / "cache")

    def run(self, family: str) -> Path:
        """The run of a family, uninterrupted: not to be changed."""
        workdir = self.folder / family
        if not workdir.exists():
            process = Process(self.folder / f"{family}.log", *training(family), "--workdir", workdir)
            assert process.end() == 0, process.err.read_text()
        return workdir

    def copy(self, family: str, to: Path) -> Path:
        """A run of one's own."""
        return shutil.copytree(self.run(family), to)


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    folder = tmp_path_factory.getbasetemp() / "jaxgen_tiny"  # one for every module that imports this fixture
    folder.mkdir(exist_ok=True)
    return Home(folder)


class Process:
    """`jaxgen ARGUMENTS` with its output in files beside `log`; env: set before a device is opened."""

    def __init__(self, log: Path, *arguments: object, **env: str):
        self.out, self.err = log.with_suffix(".out"), log.with_suffix(".err")
        env = {name: os.environ[name] for name in os.environ if "JAX" in name} | env
        self.process = _CONTEXT.Process(
            target=_main, args=([*map(str, arguments)], str(self.out), str(self.err), env), daemon=True
        )
        self.process.start()

    def end(self) -> int:
        """The exit code."""
        self.process.join(120)
        assert self.process.exitcode is not None, f"still running: {self.err.read_text()}"
        return self.process.exitcode

    def kill_when(self, ready: Callable[[], bool], delay: float = 0.0) -> None:
        """SIGKILL, `delay` seconds after `ready()`."""
        self.wait_for(ready)
        time.sleep(delay)
        self.process.kill()
        assert self.end() == -9, "the run was over before it could be killed"

    def wait_for(self, ready: Callable[[], bool], alive: bool = True) -> None:
        """alive: as long as it runs."""
        limit = time.monotonic() + 120
        while not ready():
            assert (self.process.is_alive() or not alive) and time.monotonic() < limit, self.err.read_text()
            time.sleep(0.0005)


def _main(arguments: list[str], out: str, err: str, env: dict[str, str]) -> None:
    _begin(out, err, env)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which the background of a script ignores
    from jaxgen.__main__ import main

    main(arguments)


def _begin(out: str, err: str, env: dict[str, str]) -> None:
    os.environ.update(env)
    for path, number in ((out, 1), (err, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), number)


def apart(
    function: Callable[[str], None], argument: str, log: Path, timeout: float, **env: str
) -> tuple[int, str, str]:
    """(exit code, what it printed, what it complained of) of `function(argument)` in a process of its own; TimeoutError
    after so many seconds. env: set before a device is opened."""
    out, err = log.with_suffix(".out"), log.with_suffix(".err")
    process = _CONTEXT.Process(target=_apart, args=(function, argument, str(out), str(err), env), daemon=True)
    process.start()
    process.join(timeout)
    if process.exitcode is None:
        process.kill()
        process.join()
        raise TimeoutError
    return process.exitcode, out.read_text(), err.read_text()


def _apart(function: Callable[[str], None], argument: str, out: str, err: str, env: dict[str, str]) -> None:
    _begin(out, err, env)
    function(argument)
    sys.stdout.flush()


def virtual_devices(n: int) -> dict[str, str]:
    """The environment of a process that has n devices on one CPU; with fewer threads than devices they could wait for
    each other for ever."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={n}"
    return {"XLA_FLAGS": flags, "NPROC": "64", "JAX_PLATFORMS": "cpu"}


def refusal(capsys: pytest.CaptureFixture, *arguments: object) -> str:
    """The one line with which a command refuses, in this process: "jaxgen: error: ..."."""
    with pytest.raises(SystemExit) as error:
        cli.main([*map(str, arguments)])
    out, err = capsys.readouterr()
    assert (error.value.code, out) == (2, ""), err
    assert err.endswith("\n") and err.count("\n") == 1 and "\r" not in err and "Traceback" not in err
    assert err.startswith("jaxgen: error: ")
    return err


def contents(workdir: Path) -> dict[Path, bytes]:
    """The files of a run but for its scalars and its lock, which are written by whoever opens it for training."""
    files = [p for p in workdir.rglob("*") if p.is_file() and "tensorboard" not in p.parts and p.name != ".lock"]
    return {p: p.read_bytes() for p in files}


def last_line(path: Path) -> str:
    """The last line of a file, without what a progress bar wrote before it."""
    return "".join(path.read_text().splitlines()[-1:]).split("\r")[-1]


def leaves(workdir: Path) -> tuple[int, dict[str, np.ndarray]]:
    """(step, every array of the newest checkpoint by its path), keys as their integers."""
    run = load_run(workdir)
    named = jax.tree.leaves_with_path(run.state)
    data = {jax.tree_util.keystr(path): x for path, x in named}
    keys = {p: x for p, x in data.items() if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)}
    data |= {p: jax.random.key_data(x) for p, x in keys.items()}
    return run.step, {p: np.asarray(x) for p, x in data.items()}


def assert_same_runs(a: Path, b: Path) -> None:
    """Bit for bit the same newest checkpoint."""
    (step, ours), (other, theirs) = leaves(a), leaves(b)
    assert step == other and list(ours) == list(theirs)
    assert [p for p in ours if ours[p].tobytes() != theirs[p].tobytes()] == []
