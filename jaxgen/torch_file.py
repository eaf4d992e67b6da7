"""The tensors of a file that torch wrote, without torch and without running any of its code.

Three forms, distinguished by their beginning:

  zip         torch.save since 1.6: data.pkl describes the tensors, data/0, data/1, ... hold the storages
  TorchScript torch.jit.save: the same, where data.pkl describes modules; names are the attributes' paths, a.b.weight
  legacy      torch.save before 1.6: five pickles in a row (a magic number, a version, the machine, the tensors'
              description, the storages' keys), then each storage: its length as an int64, and its numbers

A pickle may name any function of any module and call it. Here it may name a handful that are listed below, each of
which stands for something inert; any other is refused. Sizes, strides and offsets are checked against the storages.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxgen.inputs import is_file
from jaxgen.types import InputError, check

SUFFIXES = (".pt", ".pth")
MAGIC = 0x1950A86A20F9469CFC6C
MOST = 1_000_000  # things that one file may nest

_DTYPES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "BFloat16Storage": jnp.bfloat16,
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "<i1",
    "ByteStorage": "<u1",
    "BoolStorage": "?",
}
_LISTS = ("build_intlist", "build_doublelist", "build_boollist", "build_tensorlist")  # TorchScript's typed lists


def read(path: str | Path, *, member: str | None = None) -> dict[str, np.ndarray]:
    """{name: tensor}, read-only, of a .pth or .pt file, or of a .whl or .zip that holds one.

    Nested dictionaries, lists and modules give dotted names; what is no tensor is left out. bfloat16 is `jnp.bfloat16`.
    member: which file of an archive that holds several. InputError for a file that torch did not write, that is
    damaged, or that asks for anything but tensors.
    """
    return parse(content(path, member=member), str(path))


def content(path: str | Path, *, member: str | None = None) -> bytes:
    """The bytes of the torch file at `path`, or of the one inside it where it is an archive; see `read`."""
    path = Path(path)
    check(is_file(path), f"{path} is no file; give a .pth or .pt file that torch wrote, or a .whl that holds one")
    try:
        if not zipfile.is_zipfile(path):
            return path.read_bytes()
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if _root(names) is not None and member is None:
                return path.read_bytes()
            held = [name for name in names if (name == member if member else name.endswith(SUFFIXES))]
            there = ", ".join(n for n in names if n.endswith(SUFFIXES)) or "none"
            check(
                len(held) == 1, f"{path}: expected one torch file{f' {member}' if member else ''} in it; it has {there}"
            )
            return archive.read(held[0])
    except InputError:
        raise
    except Exception as error:  # a damaged archive can fail in any way, and each means the same
        raise _damaged(str(path), error) from error


def parse(data: bytes, where: str = "the file") -> dict[str, np.ndarray]:
    """{name: tensor} of the bytes of a torch file; `where` is what an InputError calls it. See `read`."""
    try:
        found = _of_zip(data) if data[:2] == b"PK" else _of_legacy(data)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    except (Exception, MemoryError) as error:
        raise _damaged(where, error) from error
    check(bool(found), f"{where} holds no tensors; give a state dict or a TorchScript network")
    return found


def _damaged(where: str, error: BaseException) -> InputError:
    why = str(error).splitlines()[0] if str(error) else type(error).__name__
    return InputError(f"{where} is damaged, or torch did not write it ({why}); get the file again")


class _Storage(NamedTuple):
    """Numbers in a row: those of the file's storage `key` from `start` on."""

    key: str
    dtype: np.dtype
    size: int
    start: int = 0


class _Tensor(NamedTuple):
    """x[i, j, ...] = storage[offset + i stride_0 + j stride_1 + ...]."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Reader(pickle.Unpickler):
    """Of descriptions alone. What it hands to a pickle belongs to this reading: nothing lasting can be altered."""

    def __init__(self, file: Any):
        super().__init__(file, encoding="latin1")  # Python 2 wrote some of the old files
        self._module = type("Module", (), {})
        self.items: dict[str, int] = {}  # bytes of a number of each storage

    def find_class(self, module: str, name: str) -> Any:
        allowed = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor"): self._tensor,
            ("torch._utils", "_rebuild_tensor_v2"): self._tensor,
            ("torch._utils", "_rebuild_parameter"): self._first,
            ("torch.jit._pickle", "restore_type_tag"): self._first,
            **{("torch.jit._pickle", kind): self._first for kind in _LISTS},
        }
        if (module, name) in allowed:
            return allowed[module, name]
        if module == "torch" and name in _DTYPES:
            return name
        if module.split(".")[0] == "__torch__":
            return self._module
        raise InputError(f"it asks for {module}.{name}, which is no tensor; nothing of it was run. Do not trust it")

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _, size, *view = pid
        check(kind == "storage" and dtype in _DTYPES and size >= 0, f"it asks for {pid!r:.80}, which is no storage")
        key, start = str(key), 0
        if view and view[0] is not None:
            _, start, size = view[0]
        self.items[key] = np.dtype(_DTYPES[dtype]).itemsize
        return _Storage(key, np.dtype(_DTYPES[dtype]), int(size), int(start))

    def _tensor(self, storage: _Storage, offset: int, shape: Any, strides: Any, *_: Any) -> _Tensor:
        tensor = _Tensor(storage, int(offset), tuple(map(int, shape)), tuple(map(int, strides)))
        check(
            isinstance(storage, _Storage) and len(shape) == len(strides) and min(shape, default=0) >= 0,
            f"a tensor of shape {tensor.shape} and strides {tensor.strides} cannot be",
        )
        return tensor

    def _first(self, value: Any, *_: Any) -> Any:
        return value


def _array(tensor: _Tensor, raw: bytes) -> np.ndarray:
    """The tensor as a view of its storage's bytes."""
    storage, offset, shape, strides = tensor
    item, first = storage.dtype.itemsize, storage.start + offset
    check(
        storage.start >= 0 and (storage.start + storage.size) * item <= len(raw),
        f"storage {storage.key} should hold {storage.size} numbers of {item} bytes, it has {len(raw)} bytes",
    )
    if 0 in shape:
        return np.zeros(shape, storage.dtype)
    steps = [(n - 1) * s for n, s in zip(shape, strides, strict=True)]
    low, high = offset + sum(s for s in steps if s < 0), offset + sum(s for s in steps if s > 0)
    check(
        low >= 0 and high < storage.size,
        f"a tensor of shape {shape}, strides {strides}, offset {offset} leaves its storage of {storage.size} numbers",
    )
    numbers = np.frombuffer(raw, storage.dtype, storage.start + storage.size)[first:]
    return np.lib.stride_tricks.as_strided(numbers, shape, [s * item for s in strides], writeable=False)


def _named(value: Any) -> list[tuple[str, _Tensor]]:
    """The tensors inside dictionaries, lists and modules, with their paths, in order."""
    found, left, visits = [], [("", value)], 0
    while left:
        name, value = left.pop()
        visits += 1
        check(len(name) < 1000 and visits < MOST, "its lists hold one another without end")
        if isinstance(value, _Tensor):
            found.append((name, value))
            continue
        if isinstance(value, dict):
            items = list(value.items())
        elif isinstance(value, list | tuple) and not isinstance(value, _Storage):
            items = list(enumerate(value))
        else:
            items = list(getattr(value, "__dict__", {}).items())
        left += [(f"{name}.{key}" if name else str(key), inner) for key, inner in reversed(items)]
    return found


def _root(names: list[str]) -> str | None:
    """The folder inside a torch zip in which data.pkl lies, "" or ending in a slash; None: it is another zip."""
    found = [name[: -len("data.pkl")] for name in names if name.split("/")[-1] == "data.pkl" and name.count("/") <= 1]
    return found[0] if len(found) == 1 else None


def _of_zip(data: bytes) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = archive.namelist()
        root = _root(names)
        check(root is not None, "this zip is no torch file: it has no data.pkl")
        if f"{root}byteorder" in names:
            order = archive.read(f"{root}byteorder")
            check(order == b"little", f"its numbers are in the byte order {order[:10]!r}; only little-endian is read")
        described = _named(_Reader(io.BytesIO(archive.read(f"{root}data.pkl"))).load())
        keys = {tensor.storage.key for _, tensor in described}
        raw = {key: archive.read(f"{root}data/{key}") for key in keys}
    return {name: _array(tensor, raw[tensor.storage.key]) for name, tensor in described}


def _of_legacy(data: bytes) -> dict[str, np.ndarray]:
    file = io.BytesIO(data)
    check(_Reader(file).load() == MAGIC, "torch did not write it: it does not begin as its files do")
    version, machine = _Reader(file).load(), _Reader(file).load()
    check(
        version == 1001 and machine.get("little_endian", True), f"version {version}, {machine}: this form is not read"
    )
    reader = _Reader(file)
    described = _named(reader.load())
    raw = {}
    for key in _Reader(file).load():
        size = int(np.frombuffer(file.read(8), "<i8")[0])
        check(str(key) in reader.items and size >= 0, f"storage {key} of {size} numbers belongs to no tensor")
        raw[str(key)] = file.read(size * reader.items[str(key)])
    return {name: _array(tensor, raw[tensor.storage.key]) for name, tensor in described}
