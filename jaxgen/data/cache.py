"""What takes long to make and comes out the same each time, on disk: decoded data sets, features, trained referees.

One file an entry, in the folder named by the environment variable JAXGEN_CACHE (default ~/.cache/jaxgen): three arrays
in .npy form, one after the other: a CRC-32, the examples, and what goes with them. Nothing is ever unpickled. A file is
written under a temporary name and then renamed, so that another process finds all of it or nothing; one that is damaged
is rebuilt. The folder may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from jaxgen.inputs import is_file

Arrays = tuple[np.ndarray, np.ndarray | None]

_log = logging.getLogger("jaxgen")


def folder() -> Path:
    """Where entries are kept."""
    return Path(os.environ.get("JAXGEN_CACHE") or Path.home() / ".cache" / "jaxgen")


def cached(
    name: str, fingerprint: str, shape: tuple[int, ...], build: Callable[[], Arrays], dtype: type = np.uint8
) -> Arrays:
    """`build()`, or what it gave before: (x of `shape` and `dtype`, a second array such as labels, or None).

    `fingerprint` holds all that the result depends on. A cache that cannot be written costs time, never the run.
    """
    slug = re.sub(r"[^A-Za-z0-9_.]+", "-", name).strip("-.")[-80:]
    digest = hashlib.blake2b(f"1 {fingerprint}".encode(), digest_size=8).hexdigest()  # 1: the format of the file
    path = folder() / f"{slug}-{digest}.npy"
    found = _read(path, shape, dtype)
    if found is None:
        found = build()
        _write(path, *found)
    return found


def _checksum(x: np.ndarray, labels: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(labels).data, zlib.crc32(np.ascontiguousarray(x).data))


def _read(path: Path, shape: tuple[int, ...], dtype: type) -> Arrays | None:
    if not is_file(path):
        return None
    try:
        with open(path, "rb") as file:
            checksum, x, labels = (np.load(file, allow_pickle=False) for _ in range(3))
        intact = x.shape == shape and x.dtype == dtype and int(checksum) == _checksum(x, labels)
    except Exception:  # a damaged header can fail in any way, and each means the same: not what was written
        intact = False
    if not intact:
        _log.warning("%s is damaged and is built again", path)
        return None
    return x, labels if len(labels) else None


def _write(path: Path, x: np.ndarray, labels: np.ndarray | None) -> None:
    labels = np.zeros(0, np.int32) if labels is None else labels
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as file:
            temporary = file.name
            for array in (np.uint32(_checksum(x, labels)), x, labels):
                np.save(file, array, allow_pickle=False)
        os.replace(temporary, path)
    except OSError as error:
        _log.warning("could not keep %s in %s (%s); the next start makes it again", path.stem, path.parent, error)
        if temporary:
            Path(temporary).unlink(missing_ok=True)
