"""From a data set to the minibatches of a step: an endless shuffled stream that is a pure function of (seed, step).

The stream lists every example once in each epoch, in an order drawn for that epoch. A step takes the next M x A x B of
it: M minibatches (one a player's turn), each in A slices (gradient accumulation) of B examples. Nothing but (seed,
step) is needed to find one's place again, so a resumed run reads what the interrupted one would have read, and on any
number of processes the global batch is the same.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.data.dataset import Dataset
from jaxgen.inputs import check_memory
from jaxgen.types import Array, Batch, check

PREFETCH_BYTES = 256 * 2**20  # at most so much is read ahead from storage


def normalize(batch: Batch) -> Batch:
    """x/127.5 - 1 in float32 where x is uint8; floats and the condition pass as they are. For use inside jit."""
    if batch.x.dtype != jnp.uint8:
        return batch
    # Under jit x / 127.5 - 1 becomes a product whose largest value is 1.0000001, where log(1 - x) is not a number.
    return batch._replace(x=(2.0 * batch.x.astype(jnp.float32) - 255.0) / 255.0)


def to_uint8(x: Any) -> Array:
    """The inverse of `normalize`: [-1, 1] to 0..255, rounded and clipped; exact for all 256 values."""
    return jnp.clip(jnp.round((x + 1.0) * 127.5), 0, 255).astype(jnp.uint8)


_lock = threading.Lock()  # prefetching threads reach a new epoch together: one of them draws its order


@lru_cache(maxsize=4)  # two readers, each on the border of two epochs
def _epoch_order(size: int, seed: int, epoch: int) -> np.ndarray:
    # Sorting raw Philox words: NumPy promises their stream for all versions, and makes no such promise for
    # Generator.permutation. A run resumed under another NumPy keeps its order.
    words = np.random.Philox(key=np.array([seed, epoch], np.uint64)).random_raw(size)
    return np.argsort(words, kind="stable")


def order(size: int, seed: int, position: int, count: int) -> np.ndarray:
    """Indices [count] of the examples at `position`, ..., `position + count - 1` of the endless shuffled stream.

    Position p lies in epoch p // size, whose order is a permutation drawn from (seed, epoch) by Philox counters
    (Salmon et al., 2011). Every epoch has every example once, and a range may cross any number of epochs.
    """
    check(size >= 1, f"a data set of {size} examples cannot be shuffled; give one with at least one example")
    check(0 <= seed < 2**64, f"seed={seed}: expected an integer from 0 to 2**64 - 1; give such a seed")
    check(position >= 0 and count >= 0, f"position={position}, count={count}: expected neither below 0")
    check_memory(24 * count, f"the places of {count:,} examples", "give a smaller number")
    parts, end = [], position + count
    while position < end:
        epoch, start = divmod(position, size)
        stop = min(size, start + end - position)
        with _lock:
            parts.append(_epoch_order(size, seed, epoch)[start:stop])
        position += stop - start
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def part(size: int, split: str) -> np.ndarray:
    """Rows of one's own files, ascending: "test" is a fixed 10 percent of them, "train" the rest."""
    rows, held_out = order(size, 0, 0, size), max(1, size // 10)
    return np.sort(rows[:held_out] if split == "test" else rows[held_out:])


class Reader:
    """Minibatches of consecutive steps. `take(n)` gives those of the next n steps and moves on; `close()` when done."""

    def __init__(self, take: Callable[[int, int], Batch], step: int, close: Callable[[], None] = lambda: None):
        self._take, self._close, self.step = take, close, step

    def take(self, n: int) -> Batch:
        """A Batch of numpy arrays with leading dimensions [n, M, A, B of this process]."""
        check(n >= 1, f"take({n}): expected at least one step; give n of 1 or more")
        batch = self._take(self.step, n)
        self.step += n
        return batch

    def close(self) -> None:
        """Stop the threads that read ahead, if there are any."""
        self._close()

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def reader(
    dataset: Dataset,
    *,
    seed: int,
    shape: tuple[int, int, int],
    step: int = 0,
    process: tuple[int, int] = (0, 1),
) -> Reader:
    """A Reader of `dataset` from `step` on.

    `shape = (M, A, B)` of one step over all processes: M minibatches of A slices of B examples. Example (m, a, b) of
    step s stands at position s*M*A*B + (m*A + a)*B + b of the stream `order(dataset.size, seed, ...)`. Process
    `process = (i, count)` reads b from i*B/count to (i + 1)*B/count, and nothing else. Raises InputError where B cannot
    be divided so, or where a number is out of range.
    """
    m, a, b = shape
    index, count = process
    check(min(shape) >= 1, f"{tuple(shape)} examples a step: expected (minibatches, slices, examples), each at least 1")
    check(0 <= index < count, f"process {index} of {count}: expected 0 <= index < count; give the process's own index")
    check(b % count == 0, f"{b} examples a slice cannot be shared by {count} processes; give a multiple of {count}")
    check(step >= 0, f"step={step}: expected 0 or more; give the step to continue from")
    order(dataset.size, seed, 0, 0)  # an empty data set or a bad seed is refused here, not in a thread
    low, high = index * b // count, (index + 1) * b // count
    if dataset.streaming:
        return _streaming_reader(dataset, seed, shape, step, low, high)

    def take(s, n):
        indices = order(dataset.size, seed, s * m * a * b, n * m * a * b).reshape(n, m, a, b)[..., low:high]
        return _reshape(dataset.take(indices.reshape(-1)), indices.shape)

    return Reader(take, step)


def _streaming_reader(dataset: Dataset, seed: int, shape: tuple[int, int, int], step: int, low: int, high: int):
    """As the route in memory, one slice of B examples after the other, read ahead by grain's threads."""
    import sys

    import grain

    m, a, b = shape

    def read(k):  # slice k of the stream: the examples of this process
        return dataset.take(order(dataset.size, seed, k * b + low, high - low))

    slices = grain.MapDataset.range(step * m * a, sys.maxsize).map(read)
    ahead = PREFETCH_BYTES // ((high - low) * int(np.prod(dataset.shape)))
    ahead = min(max(ahead, 2), 32)
    options = grain.ReadOptions(num_threads=min(ahead, 16), prefetch_buffer_size=ahead)
    iterator = iter(slices.to_iter_dataset(options))

    def take(_, n):  # the steps are consecutive by construction: the iterator stands where the Reader does
        parts = [next(iterator) for _ in range(n * m * a)]
        return _reshape(jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts), (n, m, a, high - low))

    return Reader(take, step, iterator.close)


def _reshape(batch: Batch, leading: tuple[int, ...]) -> Batch:
    return jax.tree.map(lambda leaf: leaf.reshape(leading + leaf.shape[1:]), batch)
