"""What losses need of every example and frozen groups give, computed once for a data set (`Game.ahead`)."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from jaxgen import parallel
from jaxgen.data import Dataset, normalize
from jaxgen.data.cache import cached
from jaxgen.inputs import check_memory
from jaxgen.runs import Experiment
from jaxgen.types import Ahead, Batch, TrainState, Tree

PIECE = 256  # examples at a time


def computed(exp: Experiment, state: TrainState, place: parallel.Layout) -> Experiment:
    """The experiment whose data are what `exp.game.ahead` gives for each of `exp.data`, and whose losses take that.

    Computed on one device and kept in the cache under a digest of the data, of the frozen groups and of the program,
    none of which changes while a run trains: one that goes on finds the same. Its conditions are the data's own.
    InputError for more than memory holds.
    """
    ahead: Ahead = exp.game.ahead  # type: ignore[assignment]
    groups = set(state.params) - set(exp.game.losses)
    frozen = [{name: tree[name] for name in tree if name in groups} for tree in (state.params, state.extra)]
    table, data = _table(exp.data, ahead, *jax.tree.map(parallel.to_host, frozen)), exp.data

    def take(indices: np.ndarray) -> Batch:
        return Batch(table[indices], data.take(indices).condition)

    own = data._replace(shape=table.shape[1:], take=take)
    return exp._replace(model=exp.model._replace(game=exp.game._replace(losses=ahead.losses)), data=own)


def _table(data: Dataset, ahead: Ahead, params: Tree, extra: Tree) -> Any:
    """What `ahead` gives for every example, [data.size, ...]."""
    run = jax.jit(lambda params, extra, x: ahead.of(params, extra, normalize(Batch(x)).x))
    one = jax.eval_shape(run, params, extra, data.take(np.zeros(1, np.int64)).x)
    shape, dtype = (data.size, *one.shape[1:]), np.dtype(one.dtype)
    check_memory(math.prod(shape) * dtype.itemsize, f"what is cached of {data.name}", "leave the cache out")
    pieces = [np.arange(start, min(start + PIECE, data.size)) for start in range(0, data.size, PIECE)]

    def build() -> tuple[np.ndarray, None]:
        table = np.empty(shape, dtype)
        for index in tqdm(pieces, f"encoding {data.name}", delay=2, disable=None, leave=False):
            filled = np.minimum(index[0] + np.arange(PIECE), data.size - 1)  # one shape for every call
            table[index] = np.asarray(run(params, extra, data.take(filled).x))[: len(index)]
        return table, None

    program = run.lower(params, extra, data.take(np.minimum(np.arange(PIECE), data.size - 1)).x).as_text()
    digest = hashlib.blake2b(f"1 {jax.__version__} {jax.default_backend()} {program}".encode(), digest_size=16)
    for path, leaf in jax.tree.leaves_with_path((params, extra)):
        _add(digest, jax.tree_util.keystr(path), leaf)
    for index in pieces:
        _add(digest, "x", data.take(index).x)
    return cached(f"ahead-{data.name}-{data.split}", digest.hexdigest(), shape, build, dtype.type)[0]


def _add(digest: Any, name: str, a: Any) -> None:
    digest.update(f"{name} {a.dtype} {a.shape}".encode())
    digest.update(np.ascontiguousarray(a).data)
