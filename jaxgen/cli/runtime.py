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
    rb"[IWE]\d{4} \d\d:\d\d:\d\d|\[Gloo\]|RPC: /|Additional GRPC|:UNKNOWN:|The tasks have crashed"
    rb"|terminate called|  what\(\)"
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
    held, passed = b"", _Passed()
    while True:
        if not select.select([reading], [], [], 0.2)[0]:
            if held and not RUNTIME.match(held):
                os.write(2, held)
                held = b""
            continue
        piece = os.read(reading, 1 << 16)
        *lines, held = (held + piece).split(b"\n")
        for line in lines if piece else [held]:
            passed.line(line)
        if not piece:
            break
    if passed.fatal and not passed.lost:
        os.write(2, b"\n" + lost)


class _Passed:
    """What has come by: `fatal`, a line after which nothing is the user's but jaxgen's own, and `lost`, such a line."""

    fatal = lost = False

    def line(self, line: bytes) -> None:
        """Write it, unless it is the runtime's."""
        self.fatal = self.fatal or FATAL.match(line) is not None
        if self.fatal and not line.startswith(b"jaxgen: "):
            return
        if line and not RUNTIME.match(line):
            os.write(2, line + b"\n")
        self.lost = self.lost or LOST in line
