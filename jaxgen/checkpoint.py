"""Checkpoints that are whole, checked and never lost: a small file around orbax's `CheckpointManager`.

A step is one folder, `<folder>/<step>`, that orbax commits by a rename: a killed save leaves only a folder
`<step>.orbax-checkpoint-tmp`, which nothing reads. It holds

  state    every array of the training state, under its path ("params/vae/dense/kernel")
  meta     JSON: the paths, shapes, dtypes and checksums of those arrays, and a CRC of all that

Orbax restores a flipped bit or a missing chunk as if nothing had happened, and casts dtypes silently. So every
restore recomputes the checksums of the arrays as they lie on the devices, and goes on to the next older step when
they differ. A damaged step is renamed to `<step>.damaged`, never deleted.

All functions but `steps` and `latest` are collective: in a run of several processes every process calls them, on
one shared folder.
"""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import os
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxgen.types import InputError, Tree, check


class Store(NamedTuple):
    """An open folder of checkpoints. `manager` is orbax's `CheckpointManager`."""

    folder: Path
    manager: Any
    read_only: bool


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
    import orbax.checkpoint as ocp

    check(keep >= 2, f"keep is {keep}: keep at least 2 steps, or damage to the newest one loses everything")
    logging.getLogger("absl").addFilter(_orbax_is_quiet)
    folder = Path(folder).absolute()
    check(not folder.exists() or folder.is_dir(), f"{folder} is a file: a folder is needed for checkpoints")
    if read_only:
        options = ocp.CheckpointManagerOptions(read_only=True, create=False, save_interval_steps=0)
    else:
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, cleanup_tmp_directories=True)
    registry = ocp.handlers.DefaultCheckpointHandlerRegistry()
    registry.add("state", ocp.args.StandardSave, ocp.StandardCheckpointHandler())
    registry.add("state", ocp.args.StandardRestore, ocp.StandardCheckpointHandler())
    registry.add("meta", ocp.args.JsonSave, ocp.JsonCheckpointHandler())
    registry.add("meta", ocp.args.JsonRestore, ocp.JsonCheckpointHandler())
    return Store(folder, ocp.CheckpointManager(folder, options=options), read_only)


def _orbax_is_quiet(record: logging.LogRecord) -> bool:
    """Drop orbax's own log lines: what matters in them is raised as an exception or reported in one line here."""
    return f"{os.sep}orbax{os.sep}" not in record.pathname


def wait(store: Store) -> None:
    """Block until the save in the background is on the disk. Raises `SaveError` if it failed."""
    with _save_errors(store):
        store.manager.wait_until_finished()


def close(store: Store) -> None:
    """Finish the save in the background and release the store. Raises `SaveError` if it failed."""
    try:
        wait(store)
    finally:
        # A failed save has been reported by `wait`: closing must not hide that report behind a second one.
        with contextlib.suppress(Exception):
            store.manager.close()


@contextlib.contextmanager
def _save_errors(store: Store) -> Iterator[None]:
    """Turn whatever orbax raises while saving into one line, and forget the step that was not saved."""
    try:
        yield
    except Exception as error:
        with contextlib.suppress(Exception):
            store.manager.reload()
        left = latest(store.folder)
        kept = "no step is saved" if left is None else f"step {left} is the newest that is saved"
        raise SaveError(f"saving a checkpoint in {store.folder} failed ({_line(error)}): {kept}") from error


# Saving


def save(store: Store, state: Tree, step: int) -> bool:
    """Save `state` (any tree of jax arrays) as `step`; the writing goes on in the background.

    On return the state's values have been taken, so its buffers may be donated.
    A step that exists is left as it is: returns False. Raises `SaveError` if this or the previous save failed, and
    `InputError` for a step older than the newest one saved, or a leaf that is not a jax array.
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
    leaves = [leaf._replace(sums=sums) for leaf, sums in zip(_describe(state), _sums(arrays), strict=True)]
    body = {"step": step, "leaves": [leaf._asdict() for leaf in leaves]}
    check(len({leaf.path for leaf in leaves}) == len(leaves), 'two leaves have one path: avoid "/" in names')
    stored = {leaf.path: x for leaf, x in zip(leaves, arrays, strict=True) if x.size}
    # Orbax refuses an empty tree; the shapes in `meta` are all that an empty state needs.
    stored = stored or {"": np.zeros(1, np.uint8)}
    meta = {"body": body, "crc": _crc(body)}
    with _save_errors(store):
        items = ocp.args.Composite(state=ocp.args.StandardSave(stored), meta=ocp.args.JsonSave(meta))
        return store.manager.save(step, args=items, force=True)


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
    """The first line of an exception, short enough for one line of output."""
    text = next(iter(str(error).strip().splitlines()), "")
    return (text or type(error).__name__)[:200]


# Checksums


def fingerprint(state: Tree) -> np.ndarray:
    """An exact checksum of every leaf, uint32 [leaves, 2], the same for every sharding and number of devices.

    For the words x_i of a leaf, i its index in the whole array: s1 = sum x_i and s2 = sum mix(x_i + c i) mod 2^32,
    `mix` a bijection. One changed word always changes both; moved words change s2. Modular sums do not depend on the
    order, so each process sums the shards it holds, where they lie, and only the sums travel. On the host rather
    than in a jitted function: that has to be compiled for every new shape, this takes no longer than reading.
    """
    return np.array(_sums(_arrays(state)), np.uint32).reshape(-1, 2)


def _sums(arrays: list) -> list[tuple[int, int]]:
    """(s1, s2) of every array: of jax arrays over all processes, of numpy arrays as they are."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        sums = np.array(list(pool.map(_sum_array, arrays)), np.uint32).reshape(-1, 2)
    if jax.process_count() > 1 and any(isinstance(x, jax.Array) for x in arrays):
        sums = multihost_utils.process_allgather(sums).sum(axis=0, dtype=np.uint32)
    return [(int(s1), int(s2)) for s1, s2 in sums]


def _sum_array(x: Any) -> tuple[int, int]:
    """(s1, s2) of the part of `x` that this process holds, each piece counted on one device of all only."""
    if not isinstance(x, jax.Array):
        return _sum_words(_words(x), None)
    s1 = s2 = 0
    for shard in x.addressable_shards:
        if shard.replica_id == 0:
            block = np.asarray(shard.data)
            t1, t2 = _sum_words(_words(block), _positions(block, x.shape, shard.index))
            s1, s2 = s1 + t1, s2 + t2
    return s1 % 2**32, s2 % 2**32


def _words(block: np.ndarray) -> np.ndarray:
    """The bits of an array as unsigned integers [words]: one an element, more where it has over 32 bits."""
    if str(block.dtype) in ("int4", "uint4", "int2", "uint2"):
        block = block.astype(np.int8)  # the unused bits of a small integer in numpy are not defined
    word = {1: np.uint8, 2: np.uint16}.get(block.dtype.itemsize, np.uint32)
    return np.ascontiguousarray(block).reshape(-1).view(word)


def _positions(block: np.ndarray, shape: tuple[int, ...], index: tuple[slice, ...]) -> np.ndarray | None:
    """The indices, uint32 [words], of a block's words in the whole array; None where they are 0, 1, 2, ..."""
    if block.shape == shape:
        return None
    flat, stride = np.zeros((), np.uint32), 1
    for axis in reversed(range(len(shape))):
        start = index[axis].start or 0
        along = np.arange(start, start + block.shape[axis], dtype=np.uint64) * np.uint64(stride)
        flat = flat + along.astype(np.uint32).reshape((-1,) + (1,) * (len(shape) - 1 - axis))
        stride *= shape[axis]
    many = max(1, block.dtype.itemsize // 4)
    return (flat.reshape(-1, 1) * np.uint32(many) + np.arange(many, dtype=np.uint32)).reshape(-1)


def _sum_words(words: np.ndarray, positions: np.ndarray | None) -> tuple[int, int]:
    """s1 = sum x_i, s2 = sum mix(x_i + c i) modulo 2^32, in blocks that stay in the cache."""
    s1 = s2 = 0
    size = 1 << 15
    for start in range(0, words.size, size):
        x = words[start : start + size]
        if positions is None:
            i = np.arange(start, start + x.size, dtype=np.uint64).astype(np.uint32)
        else:
            i = positions[start : start + size].copy()
        # x enters by addition: were it multiplied by a weight, exchanging v and -v could pass unseen.
        i *= np.uint32(0x9E3779B9)
        i += x
        i ^= i >> np.uint32(16)
        i *= np.uint32(0x85EBCA6B)
        i ^= i >> np.uint32(13)
        i *= np.uint32(0xC2B2AE35)
        i ^= i >> np.uint32(16)
        s1 += int(x.sum(dtype=np.uint32))
        s2 += int(i.sum(dtype=np.uint32))
    return s1 % 2**32, s2 % 2**32


# Restoring


def steps(folder: str | os.PathLike) -> list[int]:
    """The steps saved in `folder`, oldest first; looks at names only."""
    folder = Path(folder)
    if not folder.is_dir():
        return []
    return sorted(int(p.name) for p in folder.iterdir() if p.name.isascii() and p.name.isdigit() and p.is_dir())


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


def _load(store: Store, step: int, template: Tree) -> Tree:
    """The state of one step. Raises `_Damaged`, or `InputError` where the template or the machine is the reason."""
    if jax.process_count() > 1:
        # A process that fails alone would leave the others waiting in orbax for ever: the first process reads all
        # of the step by itself beforehand, and all act on what it found.
        _agree(lambda: _guarded(_rehearse, store, step, template))
    return _guarded(_load_step, store, step, template)


def _guarded(load: Callable[[Store, int, Tree], Tree], store: Store, step: int, template: Tree) -> Tree:
    """`load(...)`, with every exception sorted into `_Damaged` and `InputError`."""
    with _hushed():
        try:
            return load(store, step, template)
        except (_Damaged, InputError):
            raise
        except Exception as error:
            failure = _sort(error, f"checkpoint step {step} in {store.folder}")
        # The reads that orbax abandoned end within milliseconds; then they are collected, while it is quiet.
        time.sleep(0.1)
        gc.collect()
    raise failure


def _sort(error: Exception, where: str) -> _Damaged | InputError:
    """Damage, unless the machine may be the reason: then falling back would throw away good work."""
    signs = ("RESOURCE_EXHAUSTED", "Out of memory", "PERMISSION_DENIED", "Too many open files")
    if isinstance(error, (MemoryError, PermissionError)) or any(sign in str(error) for sign in signs):
        return InputError(f"{where} could not be read ({_line(error)}): give it memory or permission")
    return _Damaged(_line(error))


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """Keep orbax's abandoned reads silent: after the first failing read it closes the event loop under the others.

    Those then print tracebacks, from other threads and when they are collected, beside the exception itself.
    """
    hooks = sys.excepthook, sys.unraisablehook

    def ours(error: BaseException | None) -> bool:
        return str(error) == "Event loop is closed" or "TensorStore" in str(error)

    def excepthook(kind: Any, error: Any, trace: Any) -> None:
        if not ours(error):
            hooks[0](kind, error, trace)

    def unraisablehook(event: Any) -> None:
        if not ours(event.exc_value):
            hooks[1](event)

    sys.excepthook, sys.unraisablehook = excepthook, unraisablehook
    try:
        yield
    finally:
        sys.excepthook, sys.unraisablehook = hooks


def _load_step(store: Store, step: int, template: Tree) -> Tree:
    """Read, place and check one step."""
    import orbax.checkpoint as ocp

    leaves = _read_leaves(store, step, _read_meta(store, step), template)
    targets = {leaf.path: _target(x) for leaf, x in zip(leaves, jax.tree.leaves(template), strict=True)}
    stored = {path: target for path, target in targets.items() if target.size} or {"": np.zeros(1, np.uint8)}
    arrays = store.manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(stored)))["state"]
    arrays = [arrays[path] if target.size else _empty(target) for path, target in targets.items()]
    _check_sums(leaves, arrays)
    arrays = [
        x if leaf.impl is None else jax.random.wrap_key_data(x, impl=leaf.impl)
        for leaf, x in zip(leaves, arrays, strict=True)
    ]
    return jax.tree.unflatten(jax.tree.structure(template), arrays)


def _rehearse(store: Store, step: int, template: Tree) -> None:
    """Read and check one step in process 0 alone, as numpy arrays in host memory."""
    import orbax.checkpoint as ocp

    alone = ocp.options.MultiprocessingOptions(
        primary_host=0, active_processes={0}, barrier_sync_key_prefix="jaxgen_rehearsal"
    )
    handler = ocp.CompositeCheckpointHandler(
        state=ocp.StandardCheckpointHandler(multiprocessing_options=alone),
        meta=ocp.JsonCheckpointHandler(multiprocessing_options=alone),
        composite_options=ocp.CompositeOptions(multiprocessing_options=alone),
    )
    reader = ocp.Checkpointer(handler, multiprocessing_options=alone)
    path = store.folder / str(step)
    meta = reader.restore(path, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]
    leaves = _read_leaves(store, step, meta, template)
    targets = [_target(x) for x in jax.tree.leaves(template)]
    stored = {a.path: np.empty(x.shape, x.dtype) for a, x in zip(leaves, targets, strict=True) if x.size}
    items = ocp.args.Composite(state=ocp.args.StandardRestore(stored or {"": np.zeros(1, np.uint8)}))
    arrays = reader.restore(path, args=items)["state"]
    _check_sums(leaves, [arrays.get(a.path, np.zeros(0, np.uint8)) for a in leaves])


def _agree(attempt: Callable[[], Any]) -> None:
    """Make `attempt` on process 0 and raise what it raised, `_Damaged` or `InputError`, on every process."""
    verdict = ""
    if jax.process_index() == 0:
        try:
            attempt()
        except (_Damaged, InputError) as error:
            verdict = ("damaged:" if isinstance(error, _Damaged) else "refused:") + str(error)
    buffer = np.zeros(4096, np.uint8)
    text = np.frombuffer(verdict.encode()[:4096], np.uint8)
    buffer[: text.size] = text
    buffer = np.asarray(multihost_utils.broadcast_one_to_all(buffer))
    verdict = bytes(buffer).rstrip(b"\0").decode(errors="replace")
    kind, _, message = verdict.partition(":")
    if kind:
        raise _Damaged(message) if kind == "damaged" else InputError(message)


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


def _read_meta(store: Store, step: int) -> Any:
    import orbax.checkpoint as ocp

    return store.manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]


def _read_body(step: int, meta: Any) -> dict:
    """The contents of a step's description, found whole by its CRC, or `_Damaged`."""
    if not isinstance(meta, dict) or "body" not in meta or meta.get("crc") != _crc(meta["body"]):
        raise _Damaged("its description (meta) differs from its checksum")
    if meta["body"]["step"] != step:
        raise _Damaged(f"it holds step {meta['body']['step']}")
    return meta["body"]


def _read_leaves(store: Store, step: int, meta: Any, template: Tree) -> list[Leaf]:
    """The record of every leaf. Raises `_Damaged`, or `InputError` where the template is something else."""
    records = _read_body(step, meta)["leaves"]
    leaves = [Leaf(a["path"], tuple(a["shape"]), a["dtype"], a["impl"], tuple(a["sums"])) for a in records]
    problem = _difference(leaves, _describe(template))
    check(
        problem is None,
        f"checkpoint step {step} in {store.folder} is of other settings: {problem}; "
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
    for leaf, sums in zip(leaves, _sums(arrays), strict=True):
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
