"""NNX modules as networks: `network` sends them here. Flax's other modules hold their own arrays; here they are split
into those and what is static, and merged again at each call."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
from flax import nnx

from jaxgen.types import Array, Tree, check


def of_nnx(
    make: Callable[[nnx.Rngs], nnx.Module] | nnx.Module, signature: Callable[[Any], Any]
) -> tuple[Callable[..., tuple[Tree, Tree]], Callable[..., tuple[Any, Tree]]]:
    """(init, apply) of the network of `make(rngs)`, a module whose parameters begin as the key gives them; or of a
    module, which begins with its own parameters, whatever the key. signature: see `network.signature`.

    Its `nnx.Param`s are trained; all its other variables, such as batch statistics, are its statistics. `train` sets it
    to `module.train()` or `module.eval()`, and is passed where `__call__` takes it, as its last argument. InputError
    for a module that draws random numbers.
    """
    build = (lambda rngs: make) if isinstance(make, nnx.Module) else make

    @lru_cache(maxsize=1)
    def outline() -> tuple[Any, Any, Any]:
        module = nnx.eval_shape(lambda: build(nnx.Rngs(0)))
        good = isinstance(module, nnx.Module)
        check(good, f"{_name(make)} makes a {type(module).__name__}, not a module of flax.nnx")
        parts = _split(module)
        draws = any(isinstance(variable, nnx.RngState) for _, variable in nnx.to_flat_state(parts[2]))
        remedy = "a network is a function of its inputs: leave dropout out"
        check(not draws, f"{_name(make)} draws random numbers, and {remedy}")
        return parts

    outline()  # what is no module is refused at once

    def init(key: Array, *inputs: Any) -> tuple[Tree, Tree]:
        _, params, rest = _split(build(nnx.Rngs(key)))
        return nnx.to_pure_dict(params), nnx.to_pure_dict(rest)

    def apply(params: Tree, stats: Tree, *inputs: Any, train: bool = False) -> tuple[Any, Tree]:
        graph, param_state, rest_state = (jax.tree.map(lambda x: x, part) for part in outline())
        nnx.replace_by_pure_dict(param_state, params)
        nnx.replace_by_pure_dict(rest_state, stats)
        module = nnx.merge(graph, param_state, rest_state)
        module.train() if train else module.eval()
        call = signature(module)
        output = module(*call.fitting(inputs), **call.training(train))
        if not (train and stats):
            return output, stats
        return output, nnx.to_pure_dict(_split(module)[2])

    return init, apply


def _split(module: nnx.Module) -> tuple[Any, Any, Any]:
    """(what is static, parameters, all other variables)."""
    return nnx.split(module, nnx.Param, ...)  # type: ignore[return-value]


def _name(make: Any) -> str:
    return type(make).__name__ if isinstance(make, nnx.Module) else getattr(make, "__name__", "the module")
