"""Functions of many examples, a few at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.conditions import rows
from jaxgen.data.dataset import Dataset
from jaxgen.data.pipeline import normalize
from jaxgen.types import Batch, Conditioner, Tree

CHUNK = 1024  # examples whose conditions are read at once


def in_pieces(f: Callable[[Batch], Any], x: Any, condition: Tree = None, *, batch: int = 1024) -> np.ndarray:
    """`f(Batch(x, condition))` of x [N, ...], `batch` examples at a time: [N, ...].

    x: as a data set gives it, uint8 or in [-1, 1]; f takes it in [-1, 1]. The last example is repeated to fill a piece:
    one shape, so that f compiles once.
    """
    n = len(x)
    size, parts = min(n, batch), []
    for start in range(0, n, size):
        index = np.minimum(np.arange(start, start + size), n - 1)
        given = jax.tree.map(jnp.asarray, rows(Batch(x, condition), index))
        parts.append(np.asarray(f(normalize(given)))[: n - start])
    return np.concatenate(parts)


def conditions_at(conditioner: Conditioner | None, data: Dataset, index: np.ndarray) -> Tree:
    """The conditions of the examples of `data` at index [N]: a tree of numpy arrays [N, ...], or None of an
    unconditional model. Images are read and normalised a few at a time, and only where the condition is made of them.
    """
    if conditioner is None:
        return None
    read = jax.jit(lambda batch: conditioner.of(normalize(batch)))
    chunks = (data.take(index[i : i + CHUNK]) for i in range(0, len(index), CHUNK))
    parts = [jax.device_get(read(jax.tree.map(jnp.asarray, chunk))) for chunk in chunks]
    return jax.tree.map(lambda *each: np.concatenate(each), *parts)
