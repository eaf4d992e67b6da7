"""The stream is a pure function of (seed, position): what every epoch, process and resumed run reads."""

import threading
import time
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.data import in_memory, load, normalize, order, reader, to_uint8
from jaxgen.data.dataset import Dataset
from jaxgen.types import Batch, InputError


def numbered(size, streaming=False, labelled=True):
    """Pictures [2, 1, 1] that encode their own index, with the index as the label."""
    index = np.arange(size)
    x = np.stack([index // 256, index % 256], -1).astype(np.uint8).reshape(size, 2, 1, 1)
    dataset = in_memory("numbered", "train", x, index if labelled else None)
    return dataset._replace(streaming=streaming)


def same(a: Batch, b: Batch):
    assert a.x.dtype == b.x.dtype and a.x.shape == b.x.shape and np.array_equal(a.x, b.x)
    assert np.array_equal(a.condition, b.condition)


@pytest.mark.parametrize("size", [1, 2, 7, 300])
def test_every_epoch_is_a_permutation(size):
    stream = order(size, 3, 0, 4 * size).reshape(4, size)
    assert np.array_equal(np.sort(stream), np.tile(np.arange(size), (4, 1)))


def test_epochs_and_seeds_differ():
    a, b, c = order(300, 0, 0, 300), order(300, 0, 300, 300), order(300, 1, 0, 300)
    assert not np.array_equal(a, b) and not np.array_equal(a, c)


@pytest.mark.parametrize(("position", "count"), [(0, 0), (0, 7), (5, 4), (6, 30), (13, 1), (10**15 + 3, 20)])
def test_a_range_is_the_concatenation_of_its_examples(position, count):
    one_by_one = [order(7, 5, p, 1)[0] for p in range(position, position + count)]
    assert order(7, 5, position, count).tolist() == one_by_one


def test_the_order_is_the_same_for_ever():
    """These numbers are what saved runs were trained with: a change here breaks their resumption."""
    assert order(10, 0, 0, 20).tolist() == [0, 2, 9, 1, 8, 5, 4, 3, 6, 7, 5, 3, 7, 8, 2, 4, 1, 0, 6, 9]
    assert order(10, 2**64 - 1, 10**18, 3).tolist() == [3, 1, 0]


def test_permutations_are_uniform():
    """chi^2 over the 24 orders of 4 examples, 23 degrees of freedom: mean 23, standard deviation 6.8."""
    epochs = 4800
    stream = order(4, 11, 0, 4 * epochs).reshape(epochs, 4)
    counts = np.unique(stream @ np.array([64, 16, 4, 1]), return_counts=True)[1]
    assert len(counts) == 24
    assert ((counts - 200) ** 2 / 200).sum() < 23 + 4 * 6.8


@pytest.mark.parametrize("streaming", [False, True])
def test_positions_follow_the_documented_formula(streaming):
    m, a, b = 2, 3, 4
    with reader(numbered(50, streaming), seed=9, shape=(m, a, b), step=5) as r:
        batch = r.take(2)
    assert batch.x.shape == (2, m, a, b, 2, 1, 1) and batch.condition.shape == (2, m, a, b)
    for s, i, j, k in np.ndindex(2, m, a, b):
        position = (5 + s) * m * a * b + (i * a + j) * b + k
        assert batch.condition[s, i, j, k] == order(50, 9, position, 1)[0]
    x = batch.x.astype(int)
    assert np.array_equal(x[..., 0, 0, 0] * 256 + x[..., 1, 0, 0], batch.condition)


@pytest.mark.parametrize("streaming", [False, True])
def test_resuming_at_a_step_equals_going_on(streaming):
    dataset = numbered(37, streaming)
    with reader(dataset, seed=1, shape=(2, 1, 8)) as first, reader(dataset, seed=1, shape=(2, 1, 8), step=3) as resumed:
        first.take(3)
        assert first.step == resumed.step == 3
        same(first.take(4), resumed.take(4))


@pytest.mark.parametrize("streaming", [False, True])
def test_steps_together_equal_steps_apart(streaming):
    dataset = numbered(37, streaming)
    with reader(dataset, seed=1, shape=(1, 2, 8)) as a, reader(dataset, seed=1, shape=(1, 2, 8)) as b:
        apart = [b.take(1) for _ in range(6)]
        same(a.take(6), Batch(*(np.concatenate(parts) for parts in zip(*apart, strict=True))))


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("count", [2, 4])
def test_processes_together_read_the_batch_of_one(count, streaming):
    dataset = numbered(37, streaming)
    readers = [reader(dataset, seed=2, shape=(2, 2, 8), process=(i, count)) for i in range(count)]
    parts = [r.take(3) for r in readers]
    assert parts[0].x.shape == (3, 2, 2, 8 // count, 2, 1, 1)
    together = Batch(*(np.concatenate(part, axis=3) for part in zip(*parts, strict=True)))
    same(together, reader(numbered(37), seed=2, shape=(2, 2, 8)).take(3))
    for r in readers:
        r.close()


@pytest.mark.parametrize("labelled", [True, False])
def test_streaming_reads_exactly_what_memory_does(labelled):
    memory = reader(numbered(1000, labelled=labelled), seed=4, shape=(1, 2, 64), step=2)
    with reader(numbered(1000, True, labelled), seed=4, shape=(1, 2, 64), step=2) as streaming:
        for n in (1, 7, 30):
            same(memory.take(n), streaming.take(n))


def test_a_process_streams_its_own_examples_only():
    """What is read ahead lies further on in the stream, but at this process's places."""
    read = []

    def take(indices):
        read.append(indices)
        return Batch(np.zeros((len(indices), 2), np.float32))

    dataset = Dataset("spy", "train", 1_000_000, (2,), take, (), True)
    with reader(dataset, seed=0, shape=(1, 1, 4), process=(1, 2)) as r:
        assert r.take(5).condition is None
    ours = {int(i) for k in range(200) for i in order(1_000_000, 0, 4 * k + 2, 2)}
    assert {int(i) for indices in list(read) for i in indices} <= ours


def test_a_batch_larger_than_the_set_crosses_epochs():
    batch = reader(numbered(3), seed=0, shape=(1, 1, 12)).take(1)
    assert np.bincount(batch.condition.ravel()).tolist() == [4, 4, 4]


def test_closing_stops_the_threads():
    def threads():
        return [t for t in threading.enumerate() if "grain" in t.name]

    r = reader(numbered(50, True), seed=0, shape=(1, 1, 8))
    r.take(2)
    assert threads()
    r.close()
    r.close()
    deadline = time.monotonic() + 5
    while threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not threads()


@pytest.mark.parametrize("streaming", [False, True])
def test_memory_does_not_grow(streaming):
    with reader(numbered(5000, streaming), seed=0, shape=(1, 1, 32)) as r:
        for _ in range(200):
            r.take(1)
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            for _ in range(2000):  # 13 epochs
                r.take(1)
            grown = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
    assert grown < 1_000_000  # a leak of the batches alone would be 4 MB with their headers; of the orders 0.5 MB


def test_an_unreadable_example_reaches_the_caller():
    def take(indices):
        raise InputError("cannot read the picture a.png")

    with (
        reader(Dataset("bad", "train", 10, (2,), take, (), True), seed=0, shape=(1, 1, 2)) as r,
        pytest.raises(InputError, match=r"a\.png"),
    ):
        r.take(1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shape": (1, 1, 8), "process": (0, 3)}, "multiple of 3"),
        ({"shape": (1, 1, 8), "process": (2, 2)}, "process 2 of 2"),
        ({"shape": (1, 0, 8)}, "at least 1"),
        ({"shape": (1, 1, 8), "step": -1}, "step=-1"),
        ({"shape": (1, 1, 8), "seed": -1}, "seed=-1"),
    ],
)
def test_bad_numbers_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        reader(numbered(10), **{"seed": 0, **options})


def test_an_empty_set_is_refused():
    with pytest.raises(InputError, match="no examples"):
        in_memory("none", "train", np.zeros((0, 8, 8, 1), np.uint8))
    with pytest.raises(InputError, match="at least one example"):
        reader(Dataset("none", "train", 0, (2,), lambda i: Batch(i), (), True), seed=0, shape=(1, 1, 1))
    with pytest.raises(InputError, match="take"):
        reader(numbered(10), seed=0, shape=(1, 1, 1)).take(0)


def test_normalising_round_trips_all_values_of_a_pixel():
    x = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    for transform in (lambda f: f, jax.jit):
        y = transform(lambda x: normalize(Batch(x)).x)(x)
        assert y.dtype == jnp.float32 and float(y.min()) == -1 and float(y.max()) == 1  # not 1.0000001
        assert np.abs(y - (x / 127.5 - 1)).max() < 1e-7
        assert np.array_equal(transform(to_uint8)(y), x)
    assert to_uint8(jnp.array([-3.0, 3.0, 0.0])).tolist() == [0, 255, 128]


def test_floats_and_conditions_pass_normalising():
    batch = Batch(jnp.array([[0.3, 7.0]]), jnp.array([200], jnp.int32))
    assert normalize(batch) is batch
    condition = normalize(Batch(jnp.zeros((1, 2, 2, 1), jnp.uint8), batch.condition)).condition
    assert condition is batch.condition


def test_a_real_set_gives_real_batches():
    digits = load("digits")
    batch = reader(digits, seed=0, shape=(2, 1, 16)).take(3)
    assert batch.x.shape == (3, 2, 1, 16, 8, 8, 1) and batch.x.dtype == np.uint8 and batch.condition.dtype == np.int32
