"""What JAX's runtime of several processes writes to stderr from C++, kept from the user.

When the first process of a run ends, the runtime of the others aborts them, with stacks of C++ and no word of what to
do; no handler in Python can be given for it (a callback ends in `std::bad_cast`). So a child process reads what this
one writes to stderr: it drops the runtime's lines and says what such an abort means in one of its own.
"""

from __future__ import annotations

import os
import re
import select
import signal

RUNTIME = re.compile(
    rb"[IWE]\d{4} \d\d:\d\d:\d\d|\[Gloo\]|RPC: /|Additional GRPC|:UNKNOWN:|terminate called|  what\(\)"
)
FATAL = re.compile(rb"F\d{4} \d\d:\d\d:\d\d|\*\*\* Check failure")
LOST = b"another process of "


def filter_stderr(what: str) -> None:
    """From now on stderr passes through a child; what: the line for an abort, which begins with `LOST`."""
    if os.name != "posix":
        return
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.close(writing)
        for number in (signal.SIGINT, signal.SIGTERM):  # it ends with what it reads from
            signal.signal(number, signal.SIG_IGN)
        try:
            _pass(reading, f"jaxgen: error: {what}\n".encode())
        finally:
            os._exit(0)
    os.close(reading)
    os.dup2(writing, 2)
    os.close(writing)


def _pass(reading: int, lost: bytes) -> None:
    """Lines from `reading` to stderr until its end; what is no complete line, as of a progress bar, after a moment."""
    held, kept = b"", []
    while True:
        if not select.select([reading], [], [], 0.2)[0]:
            if held and not RUNTIME.match(held):
                os.write(2, held)
                held = b""
            continue
        piece = os.read(reading, 1 << 16)
        *lines, held = (held + piece).split(b"\n")
        for line in lines if piece else [held]:
            kept = _shown(line, kept)
        if not piece:
            break
    if FATAL in kept and LOST not in kept:
        os.write(2, b"\n" + lost)


def _shown(line: bytes, kept: list) -> list:
    """Write a line unless it is the runtime's, and return what has been seen: FATAL, after which nothing is the user's
    but a line of jaxgen's own, and LOST, which is such a line."""
    if FATAL.match(line) or (FATAL in kept and not line.startswith(b"jaxgen: ")):
        return [*kept, FATAL]
    if line and not RUNTIME.match(line):
        os.write(2, line + b"\n")
    return [*kept, LOST] if LOST in line else kept
