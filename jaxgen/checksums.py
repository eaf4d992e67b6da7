"""Exact checksums of arrays, the same for every sharding and number of devices.

For the words x_i of an array, i the index of the word in the array: s1 = sum x_i and s2 = sum mix(x_i + c i) mod 2^32,
`mix` a bijection. One changed word always changes both; moved words change s2. Modular sums do not depend on the order,
so each process sums the shards it holds, where they lie, and only the sums travel. On the host rather than in a jitted
function: that has to be compiled for every new shape, this takes no longer than reading.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils


def checksums(arrays: list) -> list[tuple[int, int]]:
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
    """The indices, uint32 [words], of a block's words in the entire array; None where they are 0, 1, 2, ..."""
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
