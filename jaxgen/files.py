"""Files that are replaced as a whole or not at all, that grow by whole pieces, and folders that one process writes."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import time
from collections.abc import Callable
from pathlib import Path

from jaxgen.errors import InputError, check
from jaxgen.inputs import is_folder

LOCK = ".lock"

_unfinished: set[Path] = set()


def atomically(path: Path, write: Callable[[Path], object]) -> Path:
    """`write` a temporary file beside `path`, then rename it: what was there stays until the new file is complete."""
    tmp = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    check(not is_folder(path), f"{path} is a folder, where a file is to be written: move it away")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        tmp.touch()
    except (OSError, ValueError) as error:
        raise cannot_write(path, error) from None
    _unfinished.add(tmp)
    try:
        write(tmp)
        os.replace(tmp, path)
    except OSError as error:
        if error.errno is None:  # not the disk's: of an image's format, say
            raise
        raise cannot_write(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            tmp.unlink(missing_ok=True)
        _unfinished.discard(tmp)
    return path


def cannot_write(path: Path, error: Exception) -> InputError:
    """The one line of what the system does not let one write."""
    reason = getattr(error, "strerror", None) or str(error)
    return InputError(f"cannot write {path.name} into {path.parent} ({reason}): make room, or give another folder")


def abandon() -> None:
    """Take away what is being written; for a process that ends at once."""
    for tmp in list(_unfinished):
        with contextlib.suppress(OSError):
            tmp.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Take away what killed processes of this host were writing into `folder`."""
    for tmp in folder.glob(".*.tmp"):
        found = re.fullmatch(r"\..+\.(\d+)\.tmp", tmp.name)
        if found and not _alive(int(found[1])):
            with contextlib.suppress(OSError):
                tmp.unlink()


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


class Growing:
    """A file that grows by whole pieces. What the disk does not take now is kept, and written with the next piece."""

    def __init__(self, path: Path):
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise cannot_write(path, error) from None
        self._pending = b""

    def add(self, piece: bytes) -> OSError | None:
        """The error for which it could not be written."""
        self._pending += piece
        size = os.fstat(self._file).st_size
        left = memoryview(self._pending)
        try:
            while left:
                left = left[os.write(self._file, left) :]
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, size)
            return error
        self._pending = b""
        return None

    def close(self) -> None:
        """Once more tries to write what is kept."""
        self.add(b"")
        os.close(self._file)


class Lock:
    """A folder that this process alone writes, as long as it lives: the system forgets the lock of a killed one."""

    def __init__(self, folder: Path, name: str = LOCK):
        self.path, self._file = folder / name, -1

    def take(self) -> str:
        """ "" and the folder is this process's; or who has it."""
        try:
            import fcntl
        except ImportError:  # not a POSIX system
            return ""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        except (OSError, ValueError) as error:
            raise cannot_write(self.path, error) from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return self._holder()
        except OSError:  # a file system without locks
            return ""
        with contextlib.suppress(OSError):  # a full disk is no reason: the name is only for the message
            os.ftruncate(self._file, 0)
            os.write(self._file, json.dumps({"process": os.getpid(), "host": socket.gethostname()}).encode())
        return ""

    def _holder(self) -> str:
        for _ in range(20):  # who took it a moment ago has not written its name yet
            try:
                note = json.loads(os.pread(self._file, 4096, 0))
                return f"process {int(note['process'])} on {str(note['host'])[:100]}"
            except (OSError, ValueError, KeyError, TypeError):
                time.sleep(0.05)
        return "another process"

    def held(self) -> bool:
        """Whether the folder is still where it was."""
        if self._file < 0:
            return True
        try:
            here, there = os.fstat(self._file), os.stat(self.path)
        except OSError:
            return False
        return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)

    def release(self) -> None:
        """Others may have the folder."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
