"""A network as two pure functions, and the one way from a Flax module to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax

from jaxgen.nets.primitives import randomise
from jaxgen.types import Array, Tree


class Network(NamedTuple):
    """init   (key, *inputs) -> (params, stats)
    apply  (params, stats, *inputs, train=False) -> (output, stats); stats: batch statistics and the like, or {}
    """

    init: Callable[..., tuple[Tree, Tree]]
    apply: Callable[..., tuple[Any, Tree]]


def network(module: nn.Module) -> Network:
    """The network of a Linen module whose `__call__(*inputs, train)` uses the layers of `jaxgen.nets.layers`.

    Those layers initialise a kernel with its standard deviation; one flat normal draw then makes it random
    (`primitives.randomise` says why).
    """

    def init(key: Array, *inputs: Any) -> tuple[Tree, Tree]:
        variables = dict(module.init(key, *inputs, train=False))
        params = randomise(key, variables.pop("params"))
        return params, variables

    def apply(params: Tree, stats: Tree, *inputs: Any, train: bool = False) -> tuple[Any, Tree]:
        variables = {"params": params, **stats}
        if train and stats:
            output, updated = module.apply(variables, *inputs, train=True, mutable=list(stats))
            return output, dict(updated)
        return module.apply(variables, *inputs, train=train), stats

    return Network(init, apply)


def parameter_count(params: Tree) -> int:
    """The number of scalars in a tree of parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
