"""Joining the processes of a run, each of them a `jaxgen train` with --coordinator."""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path

from jaxgen import files, signals
from jaxgen.cli.runtime import filter_stderr
from jaxgen.errors import InputError, check, notice

HEARTBEAT_SECONDS = 30  # after which a process that is silent counts as gone; of JAX's own, 100


def join_seconds() -> int:
    """How long the processes of a run wait for each other."""
    text = os.environ.get("JAXGEN_JOIN_SECONDS", "300")
    check(text.isascii() and text.isdigit() and int(text) >= 1, f"JAXGEN_JOIN_SECONDS is {text!r}: give whole seconds")
    return int(text)


def check_processes(coordinator: str | None, processes: int | None, process: int | None) -> None:
    """InputError for numbers of processes that do not belong together, before one waits for others for ever."""
    numbers = processes is not None or process is not None
    check(coordinator is not None or not numbers, "--processes and --process need --coordinator HOST:PORT as well")
    check(coordinator != "auto" or not numbers, "--coordinator auto finds --processes and --process: leave them out")
    if coordinator in (None, "auto"):
        return
    check(processes is not None and process is not None, "--coordinator needs --processes and --process as well")
    assert processes is not None and process is not None
    check(re.fullmatch(r".+:\d{1,5}", coordinator) is not None, f"--coordinator {coordinator}: give HOST:PORT, or auto")
    check(processes >= 1, f"--processes must be at least 1, it is {processes}")
    last = f"0 to {processes - 1} are the {processes} processes"
    check(0 <= process < processes, f"--process is {process}: {last}, give each its own")


@contextlib.contextmanager
def joined(folder: Path, coordinator: str | None, processes: int | None, process: int | None) -> Iterator[None]:
    """Inside, this process is one of the run's, joined to the others before anything else opens a device."""
    check_processes(coordinator, processes, process)
    if coordinator is None:
        yield
        return
    import jax

    seconds = join_seconds()
    # JAX ends the others when an index comes twice
    lock = files.Lock(folder, f".lock-{process}")
    holder = lock.take() if process is not None else ""
    check(not holder, f"{holder} is process {process} of the run in {folder}: give each process an index of its own")
    filter_stderr(
        f"another process of the run in {folder} has ended, or its index came twice, so that JAX has ended this one: "
        "start all processes again to go on"
    )
    timers = (
        threading.Timer(5.0, _wait, (coordinator, seconds)),
        threading.Timer(seconds, _give_up, (coordinator, seconds)),
    )
    for timer in timers:
        timer.daemon = True
        timer.start()
    try:
        names = {} if coordinator == "auto" else {"coordinator_address": coordinator, "num_processes": processes}
        names |= {} if process is None else {"process_id": process}
        # JAX's own end of waiting aborts the process with a stack of C++
        jax.distributed.initialize(
            **names, initialization_timeout=seconds + 60, heartbeat_timeout_seconds=HEARTBEAT_SECONDS
        )  # type: ignore[arg-type]
    except (RuntimeError, ValueError) as error:
        raise InputError(f"{_missing(coordinator, seconds)} ({' '.join(str(error).split())[:200]})") from error
    finally:
        for timer in timers:
            timer.cancel()
    try:
        yield
    finally:
        lock.release()


def leave_together() -> None:
    """Wait until every process of the run has come here: the first serves the others as long as it lives."""
    import jax

    if jax.distributed.is_initialized():
        with contextlib.suppress(RuntimeError):
            jax.distributed.shutdown()


def _missing(coordinator: str, seconds: int) -> str:
    return (
        f"the processes of this run did not find each other at {coordinator}: start all of them, each with an index of "
        f"its own, within {seconds} s"
    )


def _wait(coordinator: str, seconds: int) -> None:
    notice(f"jaxgen: waiting for the other processes of this run at {coordinator}, for {seconds} s at most")


def _give_up(coordinator: str, seconds: int) -> None:
    signals.leave(f"error: {_missing(coordinator, seconds)}", 2)
