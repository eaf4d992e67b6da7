"""Checkpoints that are complete, checked and never lost. orbax's `CheckpointManager` writes them; they are read here.

A step is one folder, `<folder>/<step>`, that orbax commits by a rename: a killed save leaves only a folder
`<step>.orbax-checkpoint-tmp`, which nothing reads. It holds

  state    every array of the training state, under its path ("params/vae/dense/kernel"): Zarr arrays in one OCDBT
           database, formats of TensorStore
  meta     JSON: the paths, shapes, dtypes and checksums of those arrays, a note of the caller's, and a CRC of all that

Orbax restores a flipped bit or a missing chunk as if nothing had happened, casts dtypes silently, and when one read
fails it abandons the others, which then print tracebacks from threads of their own. So a restore reads the arrays
itself, recomputes their checksums as they lie on the devices, and goes on to the next older step when they differ. A
damaged step is renamed to `<step>.damaged`, never deleted.

All functions but `steps`, `latest` and `notes` are collective: in a run of several processes every process calls them,
on one shared folder.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import logging
import os
import re
import shutil
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxgen.checksums import checksums
from jaxgen.inputs import check_name, is_folder
from jaxgen.types import InputError, Tree, check

CACHE_BYTES = 100_000_000  # of a database's index, while one step is read
# What a step takes on the disk beside its arrays: files of its own, and an entry of each array.
STEP_BYTES, STEP_FILES, LEAF_BYTES = 128 << 10, 32, 2 << 10
BLOCK = 4096
_OPENED = itertools.count()  # stores of this process
OS_REASONS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENOTDIR, errno.ENOENT, errno.EIO)


class Store(NamedTuple):
    """An open folder of checkpoints. `manager` is orbax's `CheckpointManager`, None where the store is read only."""

    folder: Path
    manager: Any
    quiet: _Quiet | None = None

    @property
    def read_only(self) -> bool:
        """Whether nothing can be saved."""
        return self.manager is None


class SaveError(RuntimeError):
    """A save that did not reach the disk. The steps saved before it are untouched."""


class Leaf(NamedTuple):
    """What is recorded of one array: its path, shape, dtype, PRNG implementation (keys only) and two checksums."""

    path: str
    shape: tuple[int, ...]
    dtype: str
    impl: str | None = None
    sums: tuple[int, int] | None = None

    def kind(self) -> str:
        return f"{self.dtype}{list(self.shape)}"


class _Damaged(Exception):
    """This step cannot be used, for the reason given."""


# Opening and closing


def open_store(folder: str | os.PathLike, keep: int = 3, read_only: bool = False) -> Store:
    """Open `folder` for saving (made if needed, remains of killed saves removed) or, `read_only`, for restoring alone.

    The newest `keep` steps are kept. A read-only store never makes, renames or deletes anything.
    """
    check(keep >= 2, f"keep is {keep}: keep at least 2 steps, or damage to the newest one loses everything")
    folder = Path(folder).absolute()
    check_name("the folder of checkpoints", str(folder))
    check(not folder.exists() or folder.is_dir(), f"{folder} is a file: a folder is needed for checkpoints")
    if read_only:
        return Store(folder, None)
    import orbax.checkpoint as ocp

    quiet = _Quiet(folder)
    # Two stores of a run save at the same time, and processes wait for each other by name: one of its own for each.
    # All processes open the same stores in the same order.
    names = ocp.options.MultiprocessingOptions(barrier_sync_key_prefix=f"store{next(_OPENED)}")
    options = ocp.CheckpointManagerOptions(
        max_to_keep=keep, cleanup_tmp_directories=True, multiprocessing_options=names
    )
    try:
        return Store(folder, ocp.CheckpointManager(folder, options=options), quiet)
    except OSError as error:
        quiet.end()
        raise InputError(f"cannot keep checkpoints in {folder} ({_line(error)}): give another folder") from None


class _Quiet(logging.Filter):
    """While a store is open, its errors are raised in one line by `save`, `wait` and `close`, and said nowhere else.

    Dropped are what orbax logs of this folder (of others', for other users of it in this process, it passes), and what
    is left when of the many writes of a save the first has failed: asyncio tells of each of the others, and of the
    closed loop into which TensorStore reports them.
    """

    def __init__(self, folder: Path):
        super().__init__()
        self.folder = str(folder)
        self._loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
        for logger in self._loggers:
            logger.addFilter(self)
        self._hook, sys.unraisablehook = sys.unraisablehook, self._unraisable

    def end(self) -> None:
        """Everything is said again."""
        for logger in self._loggers:
            logger.removeFilter(self)
        if sys.unraisablehook == self._unraisable:  # another's that was set since stays
            sys.unraisablehook = self._hook

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else ""
        text = f"{record.getMessage()} {error}"
        if "coordination service" in text:  # that another process has gone comes to light in every call that needs it
            return False
        if record.name == "asyncio":
            return not (isinstance(error, OSError) or f"{os.sep}orbax{os.sep}" in text or self.folder in text)
        nameless = isinstance(error, OSError) and error.errno in OS_REASONS and os.sep not in text
        return f"{os.sep}orbax{os.sep}" not in record.pathname or not (self.folder in text or nameless)

    def _unraisable(self, found: Any) -> None:
        closed = isinstance(found.exc_value, RuntimeError) and str(found.exc_value) == "Event loop is closed"
        if not (closed or "async_serialize" in getattr(found.object, "__qualname__", "")):
            self._hook(found)


def wait(store: Store) -> None:
    """Block until the save in the background is on the disk. Raises `SaveError` if it failed."""
    if store.manager is not None:
        with _save_errors(store):
            store.manager.wait_until_finished()


def poll(store: Store) -> None:
    """Raises `SaveError` if the save in the background has failed by now; does not wait for it."""
    if store.manager is not None:
        with _save_errors(store):
            store.manager.check_for_errors()


def require(store: Store, step: int) -> None:
    """Block until the save in the background is on the disk. Raises `SaveError` unless `step` is there."""
    wait(store)
    if step not in steps(store.folder):
        raise SaveError(f"step {step} is not saved in {store.folder}: {_kept(store)}")


def close(store: Store) -> None:
    """Finish the save in the background and release the store. Raises `SaveError` if it failed."""
    try:
        wait(store)
    finally:
        # A failed save has been reported by `wait`: closing must not hide that report behind a second one.
        with contextlib.suppress(Exception):
            if store.manager is not None:
                store.manager.close()
        if store.quiet is not None:
            store.quiet.end()


@contextlib.contextmanager
def _save_errors(store: Store) -> Iterator[None]:
    """Turn whatever orbax raises while saving into one line, and forget the step that was not saved."""
    try:
        yield
    except Exception as error:
        if jax.process_count() == 1:  # others, which may have gone, are not waited for
            with contextlib.suppress(Exception):
                store.manager.reload()
            # the remains of one that failed for want of space take more of it
            for remains in store.folder.glob("*.orbax-checkpoint-tmp"):
                shutil.rmtree(remains, ignore_errors=True)
        reason = str(error) if isinstance(error, SaveError) else _line(error)
        raise SaveError(f"saving a checkpoint in {store.folder} failed ({reason}): {_kept(store)}") from error


def _kept(store: Store) -> str:
    left = latest(store.folder)
    return "no step is saved" if left is None else f"step {left} is the newest that is saved"


# Saving


def save(store: Store, state: Tree, step: int, note: Mapping[str, Any] | None = None) -> bool:
    """Save `state` (any tree of jax arrays) as `step`; the writing goes on in the background.

    note: plain values for JSON that are kept with it, read back by `notes`.
    On return the state's values have been taken, so its buffers may be donated. A step that exists is left as it is:
    returns False. Raises `SaveError` if this or the previous save failed, and `InputError` for a step older than the
    newest one saved, or a leaf that is not a jax array.
    """
    import orbax.checkpoint as ocp

    check(not store.read_only, f"{store.folder} was opened for reading only: open it with read_only=False to save")
    wait(store)
    step = int(step)
    if step in store.manager.all_steps():
        return False
    newest = store.manager.latest_step()
    check(
        newest is None or step > newest,
        f"{store.folder} already holds step {newest}, step {step} would push it out: restore it, or use another folder",
    )
    arrays = _arrays(state)
    leaves = [leaf._replace(sums=sums) for leaf, sums in zip(_describe(state), checksums(arrays), strict=True)]
    body = {"step": step, "leaves": [leaf._asdict() for leaf in leaves], "note": dict(note or {})}
    check(len({leaf.path for leaf in leaves}) == len(leaves), 'two leaves have one path: avoid "/" in names')
    stored = {leaf.path: x for leaf, x in zip(leaves, arrays, strict=True) if x.size}
    # Orbax refuses an empty tree; the shapes in `meta` are all that an empty state needs.
    stored = stored or {"": np.zeros(1, np.uint8)}
    meta = {"body": body, "crc": _crc(body)}
    with _save_errors(store):
        _check_room(store.folder, list(stored.values()))
        items = ocp.args.Composite(state=ocp.args.StandardSave(stored), meta=ocp.args.JsonSave(meta))
        return store.manager.save(step, args=items, force=True)


def _check_room(folder: Path, arrays: list) -> None:
    """SaveError unless the disk has room for a step: found out before orbax begins, which takes minutes to give up when
    it cannot make a folder. Between this and the writing others may take the room, so that saves can fail all the same.
    """
    if not hasattr(os, "statvfs"):  # not a POSIX system
        return
    failure, blocks, files = _room(folder) if jax.process_index() == 0 else (0, 0, 0)
    if jax.process_count() > 1:
        found = multihost_utils.broadcast_one_to_all(np.array([failure, blocks, files], np.int32))
        failure, blocks, files = (int(x) for x in found)
    if failure:
        raise SaveError(os.strerror(failure))
    free, needed = blocks * BLOCK, sum(x.nbytes for x in arrays) + LEAF_BYTES * len(arrays) + STEP_BYTES
    if free < needed:
        raise SaveError(f"{os.strerror(errno.ENOSPC)}: it needs {needed:,} bytes, {free:,} are free")
    if files < STEP_FILES:
        raise SaveError(f"{os.strerror(errno.ENOSPC)}: it needs {STEP_FILES} files, {files} can be made")


def _room(folder: Path) -> tuple[int, int, int]:
    """(error number or 0, free blocks, files that can be made), 31 bits each."""
    most = 2**31 - 1
    try:
        found = os.statvfs(folder)
    except OSError as error:
        return error.errno or errno.EIO, 0, 0
    files = found.f_favail if found.f_files else most  # some file systems have no number of files
    return 0, min(found.f_bavail * found.f_frsize // BLOCK, most), min(files, most)


def _arrays(state: Tree) -> list[jax.Array]:
    """The arrays of a tree in order, PRNG keys as the integers they are made of."""
    for path, x in jax.tree.leaves_with_path(state):
        check(
            isinstance(x, jax.Array),
            f"leaf {_name(path)} is a {type(x).__name__}: a checkpoint holds jax arrays, use jnp.asarray",
        )
    return [jax.random.key_data(x) if _is_key(x) else x for x in jax.tree.leaves(state)]


def _describe(state: Tree) -> list[Leaf]:
    """Path, shape and dtype of every leaf of a tree of arrays or of `jax.ShapeDtypeStruct`."""
    for path, x in jax.tree.leaves_with_path(state):
        check(
            hasattr(x, "shape") and hasattr(x, "dtype"),
            f"leaf {_name(path)} is a {type(x).__name__}: expected an array or a jax.ShapeDtypeStruct",
        )
    return [Leaf(_name(path), tuple(x.shape), str(x.dtype), _impl(x)) for path, x in jax.tree.leaves_with_path(state)]


def _name(path: tuple) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/") or "state"


def _is_key(x: Any) -> bool:
    return jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)


def _impl(x: Any) -> str | None:
    """The PRNG implementation of an array of keys, by which its integers become keys again."""
    return str(jax.random.key_impl(x)) if isinstance(x, jax.Array) and _is_key(x) else None


def _crc(body: Any) -> int:
    return zlib.crc32(json.dumps(body, sort_keys=True).encode())


def _line(error: BaseException) -> str:
    """The first line of an exception, short enough for one line of output; of what the operating system refused its
    reason alone, which in TensorStore's message stands behind several paths."""
    text = str(error).strip()
    reasons = [os.strerror(code) for code in OS_REASONS]
    return next((reason for reason in reasons if reason in text), text.partition("\n")[0] or type(error).__name__)[:200]


def fingerprint(state: Tree) -> np.ndarray:
    """The checksums of every leaf, uint32 [leaves, 2], by which a restored state is known."""
    return np.array(checksums(_arrays(state)), np.uint32).reshape(-1, 2)


# Restoring


def steps(folder: str | os.PathLike) -> list[int]:
    """The steps saved in `folder`, oldest first, found by their names alone."""
    folder = Path(folder)
    if not is_folder(folder):
        return []
    return sorted(int(p.name) for p in folder.iterdir() if re.fullmatch("0|[1-9][0-9]*", p.name) and p.is_dir())


def latest(folder: str | os.PathLike) -> int | None:
    """The newest step saved in `folder`, or None."""
    return max(steps(folder), default=None)


def restore(store: Store, template: Tree, report: Callable[[str], Any] = print) -> tuple[Tree, int] | None:
    """The newest good state and its step, or None where nothing is saved.

    template: a tree of arrays or of `jax.ShapeDtypeStruct`; the state comes back with its structure and shardings
    (on the first device where it names none). A damaged step is named in one line to `report`, renamed to
    `<step>.damaged` (unless read-only) and the next older one is used. Raises `InputError` where the template is
    not what was saved, where every step is damaged, and where there is no memory or permission to read; nothing is
    renamed then.
    """
    wait(store)
    damaged: list[tuple[int, str]] = []
    for step in reversed(steps(store.folder)):
        try:
            state = _load(store, step, template)
        except _Damaged as error:
            damaged.append((step, str(error)))
            continue
        _set_aside(store, damaged, step, report)
        return state, step
    if not damaged:
        return None
    reasons = "; ".join(f"step {step}: {reason}" for step, reason in damaged)
    raise InputError(
        f"every checkpoint in {store.folder} is damaged ({reasons}): nothing was changed there; "
        "bring back a copy, or start again in another folder"
    )


def notes(folder: str | os.PathLike) -> dict[int, dict[str, Any]]:
    """{step: its note} of the steps whose description is not damaged, oldest first."""
    found = {}
    for step in steps(folder):
        with contextlib.suppress(_Damaged):
            found[step] = _read_body(Path(folder), step).get("note", {})
    return found


def _load(store: Store, step: int, template: Tree) -> Tree:
    """The state of one step. Raises `_Damaged`, or `InputError` where the template or the machine is the reason."""
    arrays, failure = None, None
    try:
        leaves, arrays = _read_step(store.folder, step, template)
    except (_Damaged, InputError) as error:
        failure = error
    except Exception as error:
        failure = _sort(error, f"checkpoint step {step} in {store.folder}")
    failure = _agreed(failure)
    if failure is not None:
        raise failure
    assert arrays is not None
    _check_sums(leaves, arrays)
    arrays = [
        x if leaf.impl is None else jax.random.wrap_key_data(x, impl=leaf.impl)
        for leaf, x in zip(leaves, arrays, strict=True)
    ]
    return jax.tree.unflatten(jax.tree.structure(template), arrays)


def _sort(error: Exception, where: str) -> _Damaged | InputError:
    """Damage, unless the machine may be the reason: then falling back would throw away good work."""
    signs = ("RESOURCE_EXHAUSTED", "Out of memory", "PERMISSION_DENIED", "Too many open files")
    if isinstance(error, (MemoryError, PermissionError)) or any(sign in str(error) for sign in signs):
        return InputError(f"{where} could not be read ({_line(error)}): give it memory or permission")
    return _Damaged(_line(error))


def _agreed(failure: _Damaged | InputError | None) -> _Damaged | InputError | None:
    """The failure of the first process that has one, on every process: they read for themselves and act as one."""
    if jax.process_count() == 1:
        return failure
    kind = "" if failure is None else "damaged:" if isinstance(failure, _Damaged) else "refused:"
    text = np.frombuffer(f"{kind}{failure or ''}".encode()[:4096], np.uint8)
    rows = multihost_utils.process_allgather(np.pad(text, (0, 4096 - text.size)))
    words = [bytes(row).rstrip(b"\0").decode(errors="replace").partition(":") for row in np.asarray(rows)]
    for wanted, make in (("refused", InputError), ("damaged", _Damaged)):  # what falls back loses more than what stops
        for kind, _, message in words:
            if kind == wanted:
                return make(message)
    return None


def _read_step(folder: Path, step: int, template: Tree) -> tuple[list[Leaf], list[jax.Array]]:
    """The records and the arrays of one step, placed as in the template. It waits for no other process."""
    import tensorstore as ts

    leaves = _read_leaves(folder, step, template)
    context = ts.Context({"cache_pool": {"total_bytes_limit": CACHE_BYTES}})

    def read(leaf: Leaf, target: jax.ShapeDtypeStruct) -> jax.Array:
        return _read_array(folder / str(step) / "state", leaf, target, context) if target.size else _empty(target)

    targets = [_target(x) for x in jax.tree.leaves(template)]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return leaves, list(pool.map(read, leaves, targets))


def _read_array(database: Path, leaf: Leaf, target: jax.ShapeDtypeStruct, context: Any) -> jax.Array:
    """One array, of which this process reads what its devices hold, each piece once."""
    import tensorstore as ts

    base = {"driver": "file", "path": f"{database}{os.sep}"}
    spec = {"driver": "zarr", "kvstore": {"driver": "ocdbt", "base": base, "path": f"{leaf.path}/"}}
    found = ts.open(spec, open=True, read=True, context=context).result()
    kind = f"{found.dtype.name}{list(found.shape)}"
    if kind != f"{target.dtype}{list(target.shape)}":
        raise _Damaged(f"leaf {leaf.path} lies there as {kind}")
    indices = target.sharding.addressable_devices_indices_map(target.shape)
    pieces = {str(index): found[index] for index in indices.values()}
    reads = {name: piece.read() for name, piece in pieces.items()}
    parts = [jax.device_put(reads[str(index)].result(), device) for device, index in indices.items()]
    return jax.make_array_from_single_device_arrays(target.shape, target.sharding, parts)


def _target(x: Any) -> jax.ShapeDtypeStruct:
    """What orbax is to restore for a leaf of the template: of keys, the integers they are made of."""
    sharding = getattr(x, "sharding", None) or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    data = jax.eval_shape(jax.random.key_data, x) if _is_key(x) else x
    return jax.ShapeDtypeStruct(data.shape, data.dtype, sharding=sharding)


def _empty(target: jax.ShapeDtypeStruct) -> jax.Array:
    """An array without elements, which orbax does not store."""
    return jax.make_array_from_callback(
        target.shape, target.sharding, lambda index: np.zeros(target.shape, target.dtype)[index]
    )


def _read_body(folder: Path, step: int) -> dict:
    """What is written of a step, found complete by its CRC, or `_Damaged`."""
    try:
        meta = json.loads((folder / str(step) / "meta" / "metadata").read_text())
    except (OSError, ValueError) as error:
        if isinstance(error, PermissionError):
            raise
        raise _Damaged(f"its description (meta): {_line(error)}") from None
    if not isinstance(meta, dict) or "body" not in meta or meta.get("crc") != _crc(meta["body"]):
        raise _Damaged("its description (meta) differs from its checksum")
    if meta["body"]["step"] != step:
        raise _Damaged(f"it holds step {meta['body']['step']}")
    return meta["body"]


def _read_leaves(folder: Path, step: int, template: Tree) -> list[Leaf]:
    """The record of every leaf. Raises `_Damaged`, or `InputError` where the template is something else."""
    records = _read_body(folder, step)["leaves"]
    leaves = [Leaf(a["path"], tuple(a["shape"]), a["dtype"], a["impl"], tuple(a["sums"])) for a in records]
    problem = _difference(leaves, _describe(template))
    check(
        problem is None,
        f"checkpoint step {step} in {folder} is of other settings: {problem}; "
        "use the settings it was saved with, or another folder",
    )
    return leaves


def _difference(saved: list[Leaf], expected: list[Leaf]) -> str | None:
    """The first leaf in which what was saved differs from what is expected, in words; None where all agree."""
    ours, theirs = {a.path: a for a in expected}, {a.path: a for a in saved}
    for leaf in saved:
        if leaf.path not in ours:
            return f"leaf {leaf.path}, {leaf.kind()}, is in the checkpoint and not expected"
        if leaf.kind() != ours[leaf.path].kind():
            return f"leaf {leaf.path} is {leaf.kind()} in the checkpoint, expected {ours[leaf.path].kind()}"
    for leaf in expected:
        if leaf.path not in theirs:
            return f"leaf {leaf.path}, {leaf.kind()}, is expected and not in the checkpoint"
    return None if list(ours) == list(theirs) else "the leaves are in another order"


def _check_sums(leaves: list[Leaf], arrays: list) -> None:
    for leaf, sums in zip(leaves, checksums(arrays), strict=True):
        if sums != leaf.sums:
            raise _Damaged(f"leaf {leaf.path} differs from its checksum")


def _set_aside(store: Store, damaged: list[tuple[int, str]], good: int, report: Callable[[str], Any]) -> None:
    """Report the damaged steps, a line each, and rename their folders so that these steps can be saved again."""
    for step, reason in damaged:
        report(f"checkpoint step {step} in {store.folder} is damaged ({reason}): using step {good}")
    if not damaged or store.read_only:
        return
    if jax.process_index() == 0:
        for step, _ in damaged:
            aside, n = store.folder / f"{step}.damaged", 1
            while aside.exists():
                aside, n = store.folder / f"{step}.damaged-{n}", n + 1
            (store.folder / str(step)).rename(aside)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("jaxgen.checkpoint: damaged steps renamed")
    store.manager.reload()
