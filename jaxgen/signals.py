"""SIGINT and SIGTERM, of a command and of `fit`.

Python runs a signal's handler between two instructions of the main thread. That is too late while the main thread waits
for a compilation, and what a handler raises can be lost: JAX has a callback in the garbage collector, whose exceptions
are dropped. So in a command (`install`) a thread decides, woken by the operating system's handler. Where nothing is to
be saved, the process ends there and then, with one line; a run that has trained saves first (`stopping`).
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

from jaxgen import files

STOPPING = (signal.SIGINT, signal.SIGTERM)
PATIENCE = 2.0  # seconds before a run that cannot stop at once says what it waits for


@dataclass
class Stop:
    """What a run knows of the signals that it received.

    number   of the signal that wants the run to stop, 0 for none
    trained  whether the run has trained a step: if so it wants to be saved
    shared   whether processes stop together: a SIGINT is passed on as the SIGTERM for which JAX's runtime watches
    """

    number: int = 0
    trained: bool = False
    shared: bool = False


_installed = False
_run: Stop | None = None  # the one that trains, in a command


def install() -> None:
    """From now on signals end this process, a command, with one line. Called first, before the slow imports."""
    global _installed
    if os.name != "posix" or threading.current_thread() is not threading.main_thread():
        return
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    for number in STOPPING:
        if signal.getsignal(number) is not signal.SIG_IGN:  # that is how a script's background processes begin
            signal.signal(number, _nothing)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reading,), daemon=True).start()
    _installed = True


def _nothing(number: int, frame: Any) -> None:
    """Without a handler of Python's the descriptor is not written to."""


def _watch(reading: int) -> None:
    while True:
        for number in os.read(reading, 64):
            if number in STOPPING:
                _received(number)


def _received(number: int) -> None:
    run = _run
    if run is None or not run.trained:
        what = "interrupted" if number == signal.SIGINT else f"stopped by {signal.Signals(number).name}"
        leave(f"{what}{'' if run is None else ': no step was trained, there is nothing to save'}", 128 + number)
    if run.number and number == signal.SIGINT:
        leave("interrupted again: the steps since the last checkpoint are lost", 130)
    _note(run, number)
    threading.Timer(PATIENCE, _still_running, (run,)).start()


def _note(run: Stop, number: int) -> None:
    run.number = number
    if run.shared and number == signal.SIGINT:
        os.kill(os.getpid(), signal.SIGTERM)


def _still_running(run: Stop) -> None:
    if run is _run:
        _say("stopping: what is being computed has to end before it can be saved; Ctrl-C again loses it")


def leave(message: str, code: int) -> NoReturn:
    """End the process at once, whatever its threads are doing. What they were writing is taken away."""
    _say(message)
    files.abandon()
    os._exit(code)


def _say(message: str) -> None:
    """Not by `print`: the main thread may hold its lock."""
    with contextlib.suppress(OSError):
        os.write(2, f"{'' if _run is None else chr(10)}jaxgen: {message}\n".encode())  # below the progress bar


@contextlib.contextmanager
def stopping(shared: bool = False) -> Iterator[Stop]:
    """Inside, a signal is noted in the `Stop`, whose owner saves and stops.

    In a command, one that comes before anything is trained ends the process, as does a second SIGINT. Elsewhere, as in
    a notebook, a second SIGINT raises KeyboardInterrupt; outside the main thread nothing is noted.
    """
    global _run
    stop = Stop(shared=shared)
    if _installed:
        _run = stop
        try:
            yield stop
        finally:
            _run = None
    elif threading.current_thread() is not threading.main_thread():
        yield stop
    else:
        with _noting(stop):
            yield stop


@contextlib.contextmanager
def _noting(stop: Stop) -> Iterator[None]:
    def note(number: int, frame: Any) -> None:
        if stop.number and number == signal.SIGINT:
            raise KeyboardInterrupt
        _note(stop, number)

    # JAX's runtime of several processes has its own handler of SIGTERM, which must stay
    numbers = (signal.SIGINT,) if stop.shared else STOPPING
    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
