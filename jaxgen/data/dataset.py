"""What a data set is: examples by index, in memory or read at each use."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxgen.data.cache import cached
from jaxgen.inputs import check_memory
from jaxgen.types import Batch, Tree, check

IN_MEMORY_BYTES = 2 * 2**30  # a set of pictures up to this size, as uint8, is held in memory

Read = Callable[[np.ndarray], tuple[Any, Any]]
"""`read(indices [n]) -> (x uint8 [n, H, W, C], labels int32 [n, ...] or None)`, safe to call from several threads."""


class Dataset(NamedTuple):
    """Examples by index; a value, not a stream (`jaxgen.data.pipeline` makes the stream).

    name       what `load` was given
    split      the part: "train", "test", ...
    size       number of examples
    shape      of one example: (H, W, C) pictures, (D,) points
    take       (indices [n]) -> Batch of numpy arrays: x uint8 [n, H, W, C] or float32 [n, ...] in [-1, 1] or in
               the points' own units; condition: labels int32 [n], attributes int32 or float32 [n, K], any tree of
               arrays [n, ...] such as a dictionary of those, or None
    classes    names of the labels (of the attributes), () where there are none
    streaming  examples are read from storage at each `take`, not held in memory
    options    what else `load` was given, with which `jaxgen.data.other_split` loads the other parts
    """

    name: str
    split: str
    size: int
    shape: tuple[int, ...]
    take: Callable[[np.ndarray], Batch]
    classes: tuple[str, ...] = ()
    streaming: bool = False
    options: Mapping[str, Any] = {}


def in_memory(name: str, split: str, x: Any, labels: Any = None, classes=()) -> Dataset:
    """A data set from numpy arrays `x: [N, ...]` and what is known of each example, or None.

    labels: integers [N] of any type, or booleans; attributes [N, K], integers or finite real numbers; or a tree of such
    arrays, for example a dictionary of them. They are kept as int32 and float32. `classes`: names of the labels, of the
    attributes, or none. InputError for a data set without examples, for another number of labels than of examples, and
    for labels that are no integers of 32 bits.
    """
    check(len(x) > 0, f"{name}: the {split!r} split holds no examples; give a split with examples")
    condition = condition_arrays(name, labels, len(x))

    def take(indices):
        return Batch(x[indices], jax.tree.map(lambda leaf: leaf[indices], condition))

    return Dataset(name, split, len(x), tuple(x.shape[1:]), take, tuple(classes))


def condition_arrays(name: str, tree: Tree, n: int) -> Tree:
    """The conditions of n examples as numpy arrays, int32 and float32; InputError as in `in_memory`. A list is an
    array, no tree."""
    return jax.tree.map(lambda leaf: _condition(name, np.asarray(leaf), n), tree, is_leaf=_is_list)


def _is_list(value: Any) -> bool:
    return isinstance(value, list) or type(value) is tuple


def _condition(name: str, value: np.ndarray, n: int) -> np.ndarray:
    what, kind = f"{value.dtype} {list(value.shape)}", value.dtype.kind
    check(value.ndim >= 1 and len(value) == n, f"{name}: labels of shape {value.shape} for {n} examples; give one each")
    if value.ndim == 1:
        check(kind in "iub", f"{name}: the labels are {what}; expected integers (real numbers: [{n}, 1])")
    check(kind in "iubf", f"{name}: the attributes are {what}; expected integers or real numbers")
    if kind == "f":
        with np.errstate(over="ignore"):  # too large numbers become infinite, and are refused
            value = value.astype(np.float32)
        check(bool(np.isfinite(value).all()), f"{name}: an attribute is not finite in float32; remove such examples")
        return value
    low, high = np.iinfo(np.int32).min, np.iinfo(np.int32).max
    wrong = value[(value < low) | (value > high)] if value.dtype.itemsize >= 4 else value[:0]
    check(wrong.size == 0, f"{name}: {wrong.ravel()[:1]} is no label: expected integers of 32 bits, counted from 0")
    return value.astype(np.int32)


def from_reader(
    name: str,
    split: str,
    read: Read,
    *,
    size: int,
    shape: tuple[int, ...],
    classes=(),
    fingerprint: str,
    streaming: bool | None = None,
) -> Dataset:
    """A data set of `size` pictures of `shape` given by `read`: decoded once, cached and held in memory where it fits.

    `fingerprint` holds everything that the decoded pictures depend on: another fingerprint, another cache file.
    `streaming`: True reads at each `take`, False forces the set into memory, None decides by `IN_MEMORY_BYTES`.
    """
    check(size > 0, f"{name}: the {split!r} split holds no examples; give a split with examples")
    one = math.prod(shape)
    check_memory(one, f"one picture of {name}, {shape},", "give a smaller size")
    if streaming is None:
        streaming = size * one > IN_MEMORY_BYTES
    if streaming:
        return Dataset(name, split, size, shape, lambda indices: Batch(*read(indices)), tuple(classes), True)

    check_memory(size * one, f"the {size:,} pictures of {name}", "give a smaller size, or leave streaming=False out")

    def build():
        return _read_all(f"decoding {name}", read, size, shape)

    x, labels = cached(f"{name}-{split}", f"{fingerprint} {size} {shape}", (size, *shape), build)
    return in_memory(name, split, x, labels, classes)


def _read_all(what: str, read: Read, size: int, shape: tuple[int, ...], chunk: int = 256):
    """Every example, read by a few threads (decoders release the interpreter's lock), into one array."""
    import os
    from concurrent.futures import ThreadPoolExecutor

    from tqdm import tqdm

    x = np.empty((size, *shape), np.uint8)
    labels: dict[int, Any] = {}

    def work(start):
        stop = min(start + chunk, size)
        x[start:stop], labels[start] = read(np.arange(start, stop))
        return stop - start

    workers = min(8, os.cpu_count() or 1)
    # A bar only on a terminal, and only where the wait is noticeable.
    with ThreadPoolExecutor(workers) as pool, tqdm(total=size, desc=what, delay=2, disable=None, leave=False) as bar:
        try:
            for done in pool.map(work, range(0, size, chunk)):
                bar.update(done)
        except BaseException:
            pool.shutdown(cancel_futures=True)  # one unreadable picture: do not decode the rest first
            raise
    parts = [labels[start] for start in sorted(labels)]
    return x, None if parts[0] is None else np.concatenate(parts)
