"""Functions of many examples, a few at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.data.pipeline import normalize
from jaxgen.types import Batch, Tree


def in_pieces(f: Callable[[Batch], Any], x: Any, condition: Tree = None, *, batch: int = 1024) -> np.ndarray:
    """`f(Batch(x, condition))` of x [N, ...], `batch` examples at a time: [N, ...].

    x: as a data set gives it, uint8 or in [-1, 1]; f sees it in [-1, 1]. The last example is repeated where a piece is
    not full: one shape, so that what f compiles is compiled once.
    """
    n = len(x)
    size, parts = min(n, batch), []
    for start in range(0, n, size):
        index = np.minimum(np.arange(start, start + size), n - 1)
        given = jax.tree.map(lambda a, index=index: jnp.asarray(a[index]), Batch(x, condition))
        parts.append(np.asarray(f(normalize(given)))[: n - start])
    return np.concatenate(parts)
