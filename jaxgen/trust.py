"""Whose code the folder of a run holds. A run keeps the source of its experiment, and to load the run is to execute it.

`sign` marks a source as written by this user: HMAC-SHA256 of its SHA-256 under a random key, which lies in the user's
configuration folder and nowhere else. A source whose signature is missing, or of another key, or which has changed
since, is not executed unless the user, who has read it, allows it: `trust=True`, or `--trust` on the command line.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
import stat
from collections.abc import Iterator
from contextvars import ContextVar
from functools import lru_cache
from pathlib import Path

from jaxgen.errors import notice

_trusting: ContextVar[bool] = ContextVar("trusting", default=False)


@contextlib.contextmanager
def trusting(trust: bool = True) -> Iterator[None]:
    """Inside, the code of every run's folder is executed, whoever wrote it."""
    token = _trusting.set(trust)
    try:
        yield
    finally:
        _trusting.reset(token)


def is_trusting() -> bool:
    """Whether this happens inside `trusting`."""
    return _trusting.get()


def sha256(source: str) -> str:
    """The digest of a source, in hexadecimal; of none, nothing."""
    return hashlib.sha256(source.encode()).hexdigest() if source else ""


def sign(source: str) -> str:
    """The signature of a source that this user executes, "" where no key can be kept."""
    key = _key(make=True) if source else None
    return "" if key is None else hmac.new(key, sha256(source).encode(), hashlib.sha256).hexdigest()


def is_own(source: str, signature: str) -> bool:
    """Whether the signature is this user's, of this source."""
    key = _key(make=False)
    if key is None:
        return False
    own = hmac.new(key, sha256(source).encode(), hashlib.sha256).hexdigest()
    return hmac.compare_digest(signature.encode(), own.encode())  # of strings it takes those of ASCII only


def key_file() -> Path:
    """Where the key lies."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "jaxgen" / "key"


def _key(make: bool) -> bytes | None:
    """The user's key, made on first use; None where there is none. Others must not be able to read it."""
    try:
        path = key_file()
        if make and not path.exists():
            _make(path)
        found = path.stat()
        private = stat.S_ISREG(found.st_mode) and (os.name != "posix" or not found.st_mode & 0o077)
        if not private or found.st_size < 32:
            _warn(f"{path} is not a key that only its owner can read: remove it, a new one is made")
            return None
        return path.read_bytes()
    except (OSError, RuntimeError) as error:  # no such folder, no home, no permission
        if make:
            _warn(f"no key for signing runs can be kept ({error}): loading them will need --trust")
        return None


def _make(path: Path) -> None:
    """A key under a temporary name, then linked: of two processes that make one, both use the first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tmp = path.with_name(f".key.{os.getpid()}.tmp")
    descriptor = os.open(tmp, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(32))
        with contextlib.suppress(FileExistsError):
            os.link(tmp, path)
    finally:
        tmp.unlink(missing_ok=True)


@lru_cache(maxsize=8)
def _warn(line: str) -> None:
    notice(f"jaxgen: note: {line}")
