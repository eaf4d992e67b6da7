"""How mistakes of a user, and what else is worth a line, are said. Free of JAX: the command line answers at once."""

from __future__ import annotations

import sys


class InputError(ValueError):
    """A mistake in what the user gave: one line with what was wrong, what was expected and what to do."""


def check(ok: bool, message: str) -> None:
    """Raise `InputError(message)` unless `ok`: the one way bad input is refused."""
    if not ok:
        raise InputError(message)


def notice(line: str) -> None:
    """A line for whoever watches."""
    print(line, file=sys.stderr, flush=True)
