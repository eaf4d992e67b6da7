"""Data sets in a few plain values, and what stands in for them: a trained run is loaded without the data it was
trained on.

While `recording`, `jaxgen.data.load` notes a description of every set that it loads; under `standing_in`, it answers
with data sets made of such descriptions, whose examples are read from the real set at the first `take`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import Any

import jax
import numpy as np

from jaxgen.conditions import Maybe
from jaxgen.data.dataset import Dataset
from jaxgen.inputs import Form, count, misfit, table
from jaxgen.types import Batch, InputError, Tree, check

Description = Mapping[str, Any]
"""The name that `load` was given, and a `Dataset`'s fields but `take`, as JSON holds them."""

DESCRIPTION: Form = {
    **dict.fromkeys(("given", "name", "split"), str),
    "options": dict,
    "size": count,
    "shape": [count],
    "classes": [str],
    "streaming": bool,
}

_notes: ContextVar[list[Description] | None] = ContextVar("notes", default=None)
_known: ContextVar[Mapping[str, Description] | None] = ContextVar("known", default=None)


@contextmanager
def recording() -> Iterator[list[Description]]:
    """The descriptions, in a list that grows, of the data sets that are loaded inside."""
    notes: list[Description] = []
    token = _notes.set(notes)
    try:
        yield notes
    finally:
        _notes.reset(token)


@contextmanager
def standing_in(descriptions: Sequence[Description]) -> Iterator[None]:
    """Inside, the sets of these descriptions are loaded as `stand_in`s."""
    token = _known.set({_key(d["given"], d["split"], d["options"]): d for d in descriptions})
    try:
        yield
    finally:
        _known.reset(token)


def find(name: str, split: str, options: Mapping[str, Any]) -> Description | None:
    """The description of that set under `standing_in`, or None."""
    return (_known.get() or {}).get(_key(name, split, options))


def note(name: str, dataset: Dataset) -> Dataset:
    """`dataset`, loaded by that name, of which a description is noted while `recording`."""
    notes = _notes.get()
    if notes is not None:
        notes.append(describe(name, dataset))
    return dataset


def describe(name: str, dataset: Dataset) -> Description:
    """A data set that was loaded by that name, in plain values."""
    return {
        "given": name,
        "name": dataset.name,
        "split": dataset.split,
        "options": json.loads(json.dumps(dict(dataset.options), default=str)),
        "size": dataset.size,
        "shape": list(dataset.shape),
        "classes": list(dataset.classes),
        "streaming": dataset.streaming,
    }


def stand_in(description: Description, load: Callable[[], Dataset]) -> Dataset:
    """The data set of a description; `load()` is the real one, wanted only by those who take examples. They get an
    InputError where it is not there, or is another one."""
    name, shape = description["name"], tuple(description["shape"])

    @lru_cache(maxsize=1)
    def real() -> Dataset:
        try:
            found = load()
        except InputError as error:
            raise InputError(f"this needs the examples of {name}, which the run was trained on: {error}") from error
        same = (found.size, found.shape) == (description["size"], shape)
        check(
            same,
            f"{name} has {found.size:,} examples of shape {found.shape}, the run was trained on "
            f"{description['size']:,} of {shape}: put back the data set that it was",
        )
        return found

    return Dataset(
        name,
        description["split"],
        description["size"],
        shape,
        lambda indices: real().take(indices),
        tuple(description["classes"]),
        description["streaming"],
        dict(description["options"]),
    )


def outline(dataset: Dataset) -> Any:
    """Shape and dtype of every array of one example of `take`, without the axis of examples, as plain values."""
    one = dataset.take(np.zeros(1, np.int64))
    return {"x": _outline(one.x), "condition": _outline(one.condition)}


def _part(what: str, value: Any) -> str:
    """The form of a tree in an outline."""
    there = value if isinstance(value, dict) else {}
    forms: dict[str, Form] = {
        "dict": {"dict": table((None, _part))},
        "maybe": {"maybe": _pair},
        "tuple": {"tuple": [(None, _part)]},
    }
    kind = next((name for name in forms if name in there), "")
    return misfit(value, forms.get(kind, {"shape": [count], "dtype": _dtype}), what)


def _pair(what: str, value: Any) -> str:
    wrong = misfit(value, [(None, _part)], what)
    return wrong or ("" if len(value) == 2 else f"{what} has {len(value)} parts, not 2")


def _dtype(what: str, value: Any) -> str:
    try:
        known = isinstance(value, str) and np.dtype(value).kind in "biuf"
    except TypeError:
        known = False
    return "" if known else f"{what} is no type of numbers"


OUTLINE: Form = {"x": _part, "condition": (None, _part)}
"""What `outline` gives."""


def batch_of(outline: Mapping[str, Any], n: int) -> Batch:
    """The shapes of n examples of an `outline`, as a Batch of `jax.ShapeDtypeStruct`."""
    return Batch(_shapes(outline["x"], n), _shapes(outline["condition"], n))


def _outline(tree: Tree) -> Any:
    if tree is None:
        return None
    if isinstance(tree, Mapping):
        return {"dict": {name: _outline(part) for name, part in tree.items()}}
    if isinstance(tree, list | tuple):
        kind = "maybe" if isinstance(tree, Maybe) else "tuple"
        return {kind: [_outline(part) for part in tree]}
    return {"shape": list(np.shape(tree)[1:]), "dtype": str(tree.dtype)}


def _shapes(plain: Any, n: int) -> Tree:
    if plain is None:
        return None
    if "shape" in plain:
        return jax.ShapeDtypeStruct((n, *plain["shape"]), np.dtype(plain["dtype"]))
    if "dict" in plain:
        return {name: _shapes(part, n) for name, part in plain["dict"].items()}
    parts = tuple(_shapes(part, n) for part in plain.get("maybe", plain.get("tuple")))
    return Maybe(*parts) if "maybe" in plain else parts


def _key(name: str, split: str, options: Mapping[str, Any]) -> str:
    return json.dumps([name, split, dict(options)], sort_keys=True, default=str)
