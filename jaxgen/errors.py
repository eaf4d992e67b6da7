"""How a user's mistake is said. Free of JAX, so that the command line answers at once."""

from __future__ import annotations


class InputError(ValueError):
    """A mistake in what the user gave: one line with what was wrong, what was expected and what to do."""


def check(ok: bool, message: str) -> None:
    """Raise `InputError(message)` unless `ok`: the one way bad input is refused."""
    if not ok:
        raise InputError(message)
