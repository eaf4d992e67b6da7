"""What models are conditioned on, each with its behaviour: labels, attributes, images, text, several at once, and none.

A conditioner reads, checks, shows and leaves out a condition; nothing else in the package depends on its kind.
A new one is one function returning a `Conditioner`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.types import Array, Batch, Conditioner, Tree, check


class Maybe(NamedTuple):
    """A condition that may be absent: `value` [n, ...] counts where known, bool [n], is true."""

    value: Tree
    known: Array


class Tokens(NamedTuple):
    """Sequences of different lengths: `values`, integers [n, L] or vectors [n, L, E], count where `mask`, bool [n, L],
    is true."""

    values: Array
    mask: Array


def labels(classes: int) -> Conditioner:
    """One of `classes` labels: int32 [n]."""
    check(classes >= 1, f"a conditional model needs at least one class, it has {classes}")

    def given(n: int, value: Any) -> Array:
        value = np.asarray(value)
        check(np.issubdtype(value.dtype, np.integer), f"a label must be an integer, 0 to {classes - 1}")
        check(value.shape in ((), (n,)), f"give one label, or {n} (one an image), not an array of shape {value.shape}")
        wrong = value[(value < 0) | (value >= classes)]
        check(wrong.size == 0, f"label {wrong.ravel()[0] if wrong.size else None} is outside 0 to {classes - 1}")
        return jnp.broadcast_to(jnp.asarray(value, jnp.int32), (n,))

    def read(text: str, n: int, names: Sequence[str]) -> np.ndarray:
        # numbers serve a set without names of its classes; a word that is both is a name
        known = {str(i): i for i in range(classes)} | {name.lower(): i for i, name in enumerate(names)}
        word = text.strip().lower()
        there = ", ".join(names) or f"0 to {classes - 1}"
        check(word in known, f"unknown label {text!r}: this run knows {there}")
        return np.full(n, known[word])

    return Conditioner(
        given,
        of=_of_data,
        check=lambda batch: _check_data(given, batch),
        blank=lambda n: jnp.zeros(n, jnp.int32),
        empty=None,
        read=read,
        values=classes,
    )


def attributes(count: int) -> Conditioner:
    """A vector of `count` attributes, 0 and 1 or any numbers: float32 [n, count]."""
    check(count >= 1, f"a model conditioned on attributes needs at least one, it has {count}")

    def given(n: int, value: Any) -> Array:
        value = np.asarray(value)
        check(np.issubdtype(value.dtype, np.number), f"attributes are {count} numbers, not {value.dtype}")
        check(
            value.shape in ((count,), (n, count)),
            f"give {count} attributes, or {n} rows of {count} (one an image), not an array of shape {value.shape}",
        )
        check(bool(np.all(np.isfinite(value))), "attributes must be finite numbers")
        return jnp.broadcast_to(jnp.asarray(value, jnp.float32), (n, count))

    def read(text: str, n: int, names: Sequence[str]) -> np.ndarray:
        known = {str(i): i for i in range(count)} | {name.lower(): i for i, name in enumerate(names)}
        words = [word.strip().lower() for word in text.split(",")]
        unknown = [word for word in words if word not in known]
        there = ", ".join(names) or f"0 to {count - 1}"
        check(not unknown, f"unknown attribute {', '.join(unknown)!r}: this run knows {there}")
        return np.tile(np.isin(np.arange(count), [known[word] for word in words]).astype(np.float32), (n, 1))

    return Conditioner(
        given,
        of=lambda batch: _of_data(batch).astype(jnp.float32),
        check=lambda batch: _check_data(given, batch),
        blank=lambda n: jnp.zeros((n, count)),
        empty=None,
        read=read,
    )


def image(derive: Callable[[Array], Array], shape: Sequence[int]) -> Conditioner:
    """An image of `shape` in [-1, 1], `derive(x)` of each training image: float32 [n, *shape], such as its grey
    version (colourisation) or its upper half (in-painting)."""
    shape = tuple(shape)

    def given(n: int, value: Any) -> Array:
        value = np.asarray(value)
        check(
            value.shape in (shape, (n, *shape)),
            f"give an image of shape {shape} to condition on, or {n} of them, not an array of {value.shape}",
        )
        check(bool(np.all(np.abs(value) <= 1.0)), "an image to condition on has values from -1 to 1")
        return jnp.broadcast_to(jnp.asarray(value, jnp.float32), (n, *shape))

    def read(text: str, n: int, names: Sequence[str]) -> Any:
        check(False, "this run is conditioned on images: leave --condition out, held-out ones serve")

    return Conditioner(
        given,
        of=lambda batch: derive(batch.x),
        check=lambda batch: None,
        blank=lambda n: jnp.zeros((n, *shape)),
        empty=None,
        read=read,
        show=lambda condition: condition,
        derived=True,
    )


PADDING = 0  # the token of no word


def tokenised(words: Sequence[str], length: int, text: str) -> np.ndarray:
    """int32 [length], the numbers of a text's words, from 1 on, then `PADDING`. InputError for a word that is none of
    `words`, for no word and for more than `length`."""
    numbers = {word: i for i, word in enumerate(words, 1)}
    found = text.lower().split()
    for word in found:
        near = " or ".join(repr(other) for other in difflib.get_close_matches(word, words, 2))
        there = f"did you mean {near}?" if near else f"this model knows {_listed(words)}"
        check(word in numbers, f"unknown word {word!r} in {text!r}: {there}")
    check(1 <= len(found) <= length, f"a text has 1 to {length} words, {text!r} has {len(found)}")
    return np.array([numbers[word] for word in found] + [PADDING] * (length - len(found)), np.int32)


def _listed(words: Sequence[str], most: int = 30) -> str:
    return ", ".join(words[:most]) + (f" and {len(words) - most} more" if len(words) > most else "")


def text(words: Sequence[str], length: int) -> Conditioner:
    """A text of at most `length` words, all of `words`: `Tokens` of integers [n, length], those of a word its place in
    `words` counted from 1, then zeros. Networks take vectors: `nets.text.TextEncoder` makes them.

    The data's condition is int [B, length]; the user's value a text, a list of n texts, or such integers.
    """
    words = tuple(words)
    plain = len(words) > 0 and all(word == word.lower() and word.split() == [word] for word in words)
    check(plain and len(set(words)) == len(words), "a vocabulary is of different words in lower case, without spaces")
    check(length >= 1, f"a text has room for at least one word, not for {length}")

    def given(n: int, value: Any) -> Tokens:
        value = value.values if isinstance(value, Tokens) else value
        if isinstance(value, str):
            value = tokenised(words, length, value)
        elif isinstance(value, list | tuple) and value and all(isinstance(one, str) for one in value):
            value = np.stack([tokenised(words, length, one) for one in value])
        return _worded(jnp.asarray(_broadcast(np.asarray(value), n, "text", (length,), integers=len(words))))

    def read(line: str, n: int, names: Sequence[str]) -> np.ndarray:
        return tokenised(words, length, line)

    return Conditioner(
        given,
        of=lambda batch: _worded(_of_data(batch).astype(jnp.int32)),
        check=lambda batch: _check_data(given, batch),
        blank=lambda n: _worded(jnp.zeros((n, length), jnp.int32)),
        empty=None,
        read=read,
    )


def _worded(values: Array) -> Tokens:
    return Tokens(values, values != PADDING)


def sequence(length: int, features: int) -> Conditioner:
    """Up to `length` vectors of `features` numbers, such as the embeddings that any frozen encoder gives for a text:
    `Tokens` of vectors [n, length, features].

    The data's condition, and the user's value, are float [B, length, features], or a dictionary of those as "values"
    and of "mask" [B, length], 1 for those that count and 0 for padding.
    """
    check(length >= 1 and features >= 1, f"a sequence has vectors and they have numbers, not {length} of {features}")

    def tokens(value: Any) -> Tokens:
        if isinstance(value, Mapping):
            check(set(value) == {"values", "mask"}, f"a sequence has values and a mask, not {', '.join(sorted(value))}")
            return Tokens(value["values"], value["mask"])
        return value if isinstance(value, Tokens) else Tokens(value, jnp.ones(np.shape(value)[:-1], bool))

    def given(n: int, value: Any) -> Tokens:
        values, mask = (np.asarray(part) for part in tokens(value))
        values = _broadcast(values, n, "sequence", (length, features))
        mask = _broadcast(mask.astype(np.int32), n, "mask", (length,), integers=1)
        return Tokens(jnp.asarray(values, jnp.float32), jnp.asarray(mask, bool))

    def of(batch: Batch) -> Tokens:
        _check_there(batch)
        values, mask = tokens(batch.condition)
        return Tokens(jnp.asarray(values, jnp.float32), jnp.asarray(mask, bool))

    def read(line: str, n: int, names: Sequence[str]) -> Any:
        check(False, "this run is conditioned on embedded sequences: leave --condition out, held-out ones serve")

    return Conditioner(
        given,
        of,
        check=lambda batch: _check_data(given, batch),
        blank=lambda n: Tokens(jnp.zeros((n, length, features)), jnp.zeros((n, length), bool)),
        empty=None,
        read=read,
    )


def _broadcast(value: np.ndarray, n: int, what: str, shape: tuple[int, ...], integers: int | None = None) -> np.ndarray:
    """One value of `shape` for all, or n of them, as [n, *shape]; integers: from 0 to that."""
    check(
        value.shape in (shape, (n, *shape)),
        f"give one {what} {list(shape)}, or {n} (one an image), not an array of shape {value.shape}",
    )
    if integers is None:
        fine = np.issubdtype(value.dtype, np.number) and bool(np.all(np.isfinite(value)))
        check(fine, f"a {what} is of finite numbers, not {value.dtype}")
    else:
        fine = np.issubdtype(value.dtype, np.integer) and bool(np.all((value >= 0) & (value <= integers)))
        check(fine, f"a {what} is of integers from 0 to {integers}, it holds {value.dtype} up to {value.max()}")
    return np.broadcast_to(value, (n, *shape))


def optional(base: Conditioner) -> Conditioner:
    """`base`, or nothing: a `Maybe`. Networks see a learned vector, or zeros and a flag, where the condition is absent:
    this is what classifier-free guidance trains and samples with (Ho and Salimans 2022, arXiv:2207.12598)."""
    if base.empty is not None:
        return base

    def given(n: int, value: Any) -> Maybe:
        if isinstance(value, Maybe):
            check(np.shape(value.known) == (n,), f"give {n} conditions, one an image, not {np.shape(value.known)}")
            return Maybe(jax.tree.map(jnp.asarray, value.value), jnp.asarray(value.known))
        return Maybe(base.given(n, value), jnp.ones(n, bool))

    def of(batch: Batch) -> Maybe:
        return Maybe(base.of(batch), jnp.ones(batch.x.shape[0], bool))

    def blank(n: int) -> Maybe:
        return Maybe(base.blank(n), jnp.zeros(n, bool))

    def show(condition: Maybe) -> Array | None:
        return base.show(condition.value)

    return base._replace(given=given, of=of, blank=blank, empty=blank, show=show)


def several(**parts: Conditioner) -> Conditioner:
    """Several conditions at once: a dictionary of the parts' own. The user's value is a dictionary too, and parts of it
    may be missing where they are `optional`. The data set's condition is a dictionary of the same names."""
    check(len(parts) >= 1, "several conditions are at least one: several(label=labels(10), ...)")

    def of_part(name: str, batch: Batch) -> Batch:
        own = batch.condition
        return batch._replace(condition=own[name] if isinstance(own, dict) and name in own else None)

    def given(n: int, value: Any) -> dict:
        check(isinstance(value, dict), f"give a dictionary of {', '.join(parts)}, not {type(value).__name__}")
        unknown = sorted(set(value) - set(parts))
        check(not unknown, f"unknown condition {', '.join(unknown)}: this model has {', '.join(parts)}")
        missing = [name for name, part in parts.items() if name not in value and part.empty is None]
        check(not missing, f"the condition {', '.join(missing)} is missing: give it for every image")
        return {
            name: part.given(n, value[name]) if name in value else part.empty(n)  # type: ignore[misc]
            for name, part in parts.items()
        }

    def read(text: str, n: int, names: Sequence[str]) -> dict:
        pairs = [word.partition("=") for word in text.split(";")]
        check(
            all(mark and name.strip() in parts for name, mark, _ in pairs),
            f"--condition {text!r}: give NAME=VALUE of {', '.join(parts)}, separated by semicolons",
        )
        return {name.strip(): parts[name.strip()].read(value, n, names) for name, _, value in pairs}

    def checked(batch: Batch) -> None:
        for name, part in parts.items():
            part.check(of_part(name, batch))

    def show(condition: dict) -> Array | None:
        shown = [image for name, part in parts.items() if (image := part.show(condition[name])) is not None]
        return shown[0] if shown else None

    optional_all = all(part.empty is not None for part in parts.values())
    return Conditioner(
        given,
        of=lambda batch: {name: part.of(of_part(name, batch)) for name, part in parts.items()},
        check=checked,
        blank=lambda n: {name: part.blank(n) for name, part in parts.items()},
        empty=(lambda n: {name: part.empty(n) for name, part in parts.items()}) if optional_all else None,  # type: ignore[misc]
        read=read,
        show=show,
        derived=all(part.derived for part in parts.values()),
    )


def condition_of(conditioner: Conditioner | None, batch: Batch) -> Tree:
    """The condition of a batch of data, or None for an unconditional model."""
    return None if conditioner is None else conditioner.of(batch)


def check_condition(conditioner: Conditioner | None, batch: Batch) -> None:
    """InputError where the data's own conditions are none that the model takes."""
    if conditioner is not None:
        conditioner.check(batch)


def where(chosen: Array, a: Tree, b: Tree) -> Tree:
    """Example by example a where chosen [B], else b: trees of arrays [B, ...]."""
    return jax.tree.map(lambda x, y: jnp.where(chosen.reshape((-1,) + (1,) * (x.ndim - 1)), x, y), a, b)


def rows(condition: Tree, index: Any) -> Tree:
    """The conditions at index [m], of a tree [n, ...] or None."""
    return jax.tree.map(lambda a: a[index], condition)


def repeat(condition: Tree, times: int) -> Tree:
    """Every condition `times` times in a row: [n, ...] -> [n times, ...]; None stays None."""
    return jax.tree.map(lambda a: jnp.repeat(a, times, axis=0), condition)


def count(condition: Tree) -> int:
    """n of a tree [n, ...] that is not None."""
    return jax.tree.leaves(condition)[0].shape[0]


def _check_there(batch: Batch) -> None:
    check(batch.condition is not None, "this model is conditional: its data needs labels or attributes, it has none")


def _of_data(batch: Batch) -> Array:
    _check_there(batch)
    return jnp.asarray(batch.condition)


def _check_data(given: Callable[[int, Any], Tree], batch: Batch) -> None:
    _check_there(batch)
    given(len(batch.x), batch.condition)
