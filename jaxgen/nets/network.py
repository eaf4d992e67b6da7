"""A network as two pure functions, and the one way from a Flax module to it."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import flax.linen as nn
import jax
from flax import errors

from jaxgen.nets.primitives import randomise
from jaxgen.types import Array, InputError, Keys, Tree, check


def _as_given(params: Tree, stats: Tree, condition: Tree) -> Tree:
    return condition


class Network(NamedTuple):
    """init    (key, *inputs) -> (params, stats)
    apply   (params, stats, *inputs, train=False) -> (output, stats); stats: batch statistics and the like, or {};
            with `random` also keys=[B], one an example, from which it draws in training
    random  whether it does, as with dropout
    encode  (params, stats, condition) -> what `apply` takes in place of the condition, to be computed once and not at
            every call: a text that has been encoded; the condition itself where there is no encoder
    """

    init: Callable[..., tuple[Tree, Tree]]
    apply: Callable[..., tuple[Any, Tree]]
    random: bool = False
    encode: Callable[[Tree, Tree, Tree], Tree] = _as_given

    def train(self, keys: Keys, params: Tree, stats: Tree, *inputs: Any) -> tuple[Any, Tree]:
        """`apply` in training, with keys [B] if it draws."""
        return self.apply(params, stats, *inputs, train=True, **({"keys": keys} if self.random else {}))

    def call(self, keys: Keys | None, params: Tree, stats: Tree, *inputs: Any) -> tuple[Any, Tree]:
        """`train` where there are keys, else `apply`."""
        return self.apply(params, stats, *inputs) if keys is None else self.train(keys, params, stats, *inputs)


def network(module: Any) -> Network:
    """The network of any Linen module `__call__(*inputs, train, keys)`; or of an NNX one, or a function rngs -> one,
    see `nets.nnx.of_nnx`.

    `train` is passed where the module takes a flag of that name, or another of `FLAGS`, as its last argument, and after
    it `keys`, [B] in training and None otherwise, where it takes those: for `layers.Dropout`. A condition of None is
    left out where the module has no place for it. Parameters begin as the module's own initialisers give them; those of
    `jaxgen.nets.layers` give standard deviations, from which `primitives.randomise` draws.

    InputError in training without keys, for what is no module of Flax, for inputs that its `__call__` does not take or
    that do not fit the parameters, and for a module that changes its statistics outside training or draws random
    numbers by itself, as `flax.linen.Dropout` does: one mask for a batch depends on how the batch lies on the devices.
    """
    if _is_nnx(module):
        from jaxgen.nets.nnx import of_nnx

        return Network(*of_nnx(module, signature))
    kinds = "a module of flax.linen or flax.nnx, or a function rngs -> one"
    check(isinstance(module, nn.Module), f"network() takes {kinds}, not a {type(module).__name__}")
    call = signature(module)

    def init(key: Array, *inputs: Any) -> tuple[Tree, Tree]:
        with _in_one_line(module):
            variables = dict(module.init(key, *call.fitting(inputs), **call.training(False)))
        params = randomise(key, variables.pop("params", {}))
        return nn.meta.unbox(params), nn.meta.unbox(variables)

    def apply(
        params: Tree, stats: Tree, *inputs: Any, train: bool = False, keys: Keys | None = None
    ) -> tuple[Any, Tree]:
        check(not train or not call.keys or keys is not None, "this network takes keys [B] in training: give keys=...")
        variables, inputs = {"params": params, **stats}, call.fitting(inputs)
        options: dict[str, Any] = call.training(train) | ({"keys": keys} if train and call.keys else {})
        with _in_one_line(module):
            if train and stats:
                output, updated = module.apply(variables, *inputs, **options, mutable=list(stats))
                return output, dict(updated)
            return module.apply(variables, *inputs, **options), stats

    return Network(init, apply, call.keys)


def _is_nnx(module: Any) -> bool:
    """Whether it is an NNX module, or makes one: a function, or a class of NNX. Only who has one has imported NNX."""
    nnx = sys.modules.get("flax.nnx")
    if inspect.isfunction(module) or isinstance(module, functools.partial):
        return True
    return nnx is not None and (
        isinstance(module, nnx.Module) or (inspect.isclass(module) and issubclass(module, nnx.Module))
    )


def unconditioned(net: Network) -> Network:
    """The same network, which is not given the condition, its last input: ACGAN's critic, which is to tell it."""
    return Network(
        lambda key, *inputs: net.init(key, *inputs[:-1], None),
        lambda params, stats, *inputs, **options: net.apply(params, stats, *inputs[:-1], None, **options),
        net.random,
    )


class Encoded(NamedTuple):
    """A condition that has been through the encoder of a network."""

    value: Tree


def with_encoder(net: Network, encoder: Network) -> Network:
    """f(..., e(c)): `net`, whose last input is the condition, after an `encoder` (c) -> e(c) of it that is trained with
    it, as `nets.text.TextEncoder`. params and stats are {"net": ..., "encoder": ...}."""
    both = (net, encoder)

    def init(key: Array, *inputs: Any) -> tuple[Tree, Tree]:
        for_net, for_encoder = jax.random.split(key)
        e, e_stats = encoder.init(for_encoder, inputs[-1])
        encoded, _ = encoder.apply(e, e_stats, inputs[-1])
        params, stats = net.init(for_net, *inputs[:-1], encoded)
        return {"net": params, "encoder": e}, {"net": stats, "encoder": e_stats}

    def apply(params: Tree, stats: Tree, *inputs: Any, train: bool = False, keys: Keys | None = None) -> Any:
        drawn = [{"keys": keys} if part.random else {} for part in both]
        *others, c = inputs
        e_stats = stats["encoder"]
        if isinstance(c, Encoded):
            c = c.value
        else:
            c, e_stats = encoder.apply(params["encoder"], e_stats, c, train=train, **drawn[1])
        output, n_stats = net.apply(params["net"], stats["net"], *others, c, train=train, **drawn[0])
        return output, {"net": n_stats, "encoder": e_stats}

    def encode(params: Tree, stats: Tree, condition: Tree) -> Encoded:
        return Encoded(encoder.apply(params["encoder"], stats["encoder"], condition)[0])

    return Network(init, apply, any(part.random for part in both), encode)


# what modules call their flag of training, and its value in training
FLAGS = {"train": True, "training": True, "is_training": True, "deterministic": False, "use_running_average": False}


class _Signature(NamedTuple):
    """What a module's `__call__` takes: the names of its inputs, how many of them have no default, any number of
    further ones, its flag of training, one of `FLAGS`, and `keys` after it."""

    name: str
    inputs: tuple[str, ...]
    needed: int
    any_number: bool
    train: str
    keys: bool

    def fitting(self, inputs: tuple) -> tuple:
        """The inputs, without a condition of None where there is no place for it."""
        while inputs and inputs[-1] is None and (self.any_number or len(inputs) > len(self.inputs)):
            inputs = inputs[:-1]
        there = ", ".join((*self.inputs, *["..."] * self.any_number, *[self.train] * bool(self.train))) or "nothing"
        fits = self.needed <= len(inputs) and (self.any_number or len(inputs) <= len(self.inputs))
        check(
            fits,
            f"{self.name} takes {there}, it is given {len(inputs)} inputs besides train: change the arguments of its "
            "__call__ (a condition needs one, a flag of training is called train)",
        )
        return inputs

    def training(self, train: bool) -> dict[str, Any]:
        return {self.train: train == FLAGS[self.train]} if self.train else {}


def signature(module: Any) -> _Signature:
    """What the `__call__` of a module takes."""
    parameters = list(inspect.signature(module.__call__).parameters.values())
    by_position = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    keys = [p.name for p in parameters][-2:] == ["train", "keys"]
    by_position = [p for p in by_position if not (keys and p.name == "keys")]
    names, name = [p.name for p in by_position], type(module).__name__
    train = next((flag for flag in FLAGS if any(p.name == flag for p in parameters)), "")
    check(
        train not in names[:-1],
        f"{name}: {train} has to be the last argument of __call__, or the last but keys, not before {names[-1:]}",
    )
    inputs = [p for p in by_position if p.name != train]
    return _Signature(
        name,
        tuple(p.name for p in inputs),
        sum(p.default is p.empty for p in inputs),
        any(p.kind is p.VAR_POSITIONAL for p in parameters),
        train,
        keys,
    )


_MISFITS = (
    errors.ScopeParamShapeError,
    errors.ScopeParamNotFoundError,
    errors.ScopeCollectionNotFound,
    errors.ScopeVariableNotFoundError,
)


@contextmanager
def _in_one_line(module: nn.Module) -> Iterator[None]:
    """Flax's errors as InputErrors that name the remedy."""
    name = type(module).__name__
    try:
        yield
    except _MISFITS as error:
        raise InputError(
            f"the parameters of {name} do not fit its inputs ({_reason(error)}): give inputs and a condition of the "
            "kinds and sizes that it was initialised with; one that was trained with a condition needs one"
        ) from error
    except errors.ModifyScopeVariableError as error:
        raise InputError(
            f"{name} changes its statistics outside training ({_reason(error)}): give its __call__ an argument train, "
            "and its normalisation use_running_average=not train"
        ) from error
    except errors.InvalidRngError as error:
        raise InputError(
            f"{name} draws random numbers by itself ({_reason(error)}), a network draws from its keys, one an example: "
            "use jaxgen.nets.layers.Dropout(rate)(x, keys) with arguments train and keys, or give noise as an input"
        ) from error


def _reason(error: Exception) -> str:
    return str(error).split(" (https://")[0].rstrip(".")


def parameter_count(params: Tree) -> int:
    """The number of scalars in a tree of parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
