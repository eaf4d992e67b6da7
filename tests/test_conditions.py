"""Conditions: what every kind of them promises, and what each refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import conditions
from jaxgen.conditions import Maybe, Tokens, attributes, image, labels, optional, sequence, several, text
from jaxgen.types import Batch, InputError

X = np.random.default_rng(0).uniform(-1, 1, (4, 2, 2, 1)).astype(np.float32)
LABEL = np.array([2, 0, 1, 2], np.int32)
TRAITS = np.array([[1, 0], [0, 1], [1, 1], [0, 0]], np.int32)


def top(x):
    return x[:, :1]


BOTH = several(label=optional(labels(3)), traits=attributes(2))
WORDS = ("a", "one", "seven", "seventy")
CAPTION = np.array([[1, 2, 0], [1, 3, 4], [2, 0, 0], [1, 4, 0]], np.int32)
VECTORS = {"values": X.reshape(4, 2, 2), "mask": np.array([[1, 1], [1, 0], [1, 1], [0, 0]], np.int32)}
CASES = {
    "label": (labels(3), Batch(X, LABEL), 1),
    "attributes": (attributes(2), Batch(X, TRAITS), [1, 0]),
    "image": (image(top, (1, 2, 1)), Batch(X), top(X)[0]),
    "maybe a label": (optional(labels(3)), Batch(X, LABEL), 1),
    "maybe an image": (optional(image(top, (1, 2, 1))), Batch(X), top(X)[0]),
    "text": (text(WORDS, 3), Batch(X, CAPTION), "a seven"),
    "maybe texts": (optional(text(WORDS, 3)), Batch(X, CAPTION), ["a one", "a seven seventy", "one", "A Seventy"]),
    "sequence": (sequence(2, 2), Batch(X, VECTORS), np.zeros((2, 2))),
    "sequences": (optional(sequence(2, 2)), Batch(X, VECTORS["values"]), VECTORS),
    "several": (BOTH, Batch(X, {"label": LABEL, "traits": TRAITS}), {"label": 1, "traits": [1, 0]}),
}


def shapes(tree):
    return jax.tree.map(lambda a: (a.shape, jnp.asarray(a).dtype), tree)


@pytest.mark.parametrize("case", list(CASES))
def test_a_condition_has_one_form_wherever_it_comes_from(case):
    c, batch, value = CASES[case]
    c.check(batch)
    given, of, blank = c.given(4, value), c.of(batch), c.blank(4)
    assert shapes(given) == shapes(of) == shapes(blank)
    again = c.given(4, given)  # given is idempotent
    jax.tree.map(np.testing.assert_array_equal, again, given)
    assert conditions.count(given) == 4
    if c.empty is not None:
        assert shapes(c.empty(4)) == shapes(given)


def test_no_condition_is_one_thing_and_no_legal_value():
    c = optional(attributes(2))
    nothing, zeros = c.empty(3), c.given(3, [0, 0])
    assert not np.any(nothing.known) and np.all(zeros.known)  # zeros are attributes like any others
    assert optional(c) is c and attributes(2).empty is None


def test_several_may_miss_their_optional_parts_only():
    given = BOTH.given(2, {"traits": [1, 1]})
    assert not np.any(given["label"].known) and BOTH.empty is None
    with pytest.raises(InputError, match="the condition traits is missing"):
        BOTH.given(2, {"label": 1})
    with pytest.raises(InputError, match="unknown condition colour"):
        BOTH.given(2, {"traits": [1, 1], "colour": 3})
    read = BOTH.read("label=2;traits=1", 2, ())
    np.testing.assert_array_equal(read["label"], [2, 2])
    np.testing.assert_array_equal(read["traits"], [[0, 1], [0, 1]])
    with pytest.raises(InputError, match="NAME=VALUE"):
        BOTH.read("2", 2, ())


def test_conditions_are_read_by_number_and_by_name():
    np.testing.assert_array_equal(labels(3).read(" Two ", 2, ("zero", "one", "two")), [2, 2])
    np.testing.assert_array_equal(labels(3).read("2", 2, ()), [2, 2])  # a set without names of its classes
    np.testing.assert_array_equal(attributes(2).read("thick", 1, ("thin", "thick")), [[0, 1]])
    for c, written, line in (
        (labels(3), "3", "unknown label '3': this run knows 0 to 2"),
        (attributes(2), "tall", "unknown attribute 'tall'"),
        (image(top, (1, 2, 1)), "0", "conditioned on images"),
    ):
        with pytest.raises(InputError, match=line):
            c.read(written, 1, ())


def test_a_text_is_its_words_by_number_then_padding():
    c, written = text(WORDS, 3), optional(text(WORDS, 3))
    found = c.given(4, ["a one", "a seven seventy", "one", "A Seventy"])
    np.testing.assert_array_equal(found.values, CAPTION)
    np.testing.assert_array_equal(found.mask, CAPTION > 0)
    for given in (c.given(2, "a one"), c.given(2, CAPTION[0]), c.given(2, c.read(" A one", 2, ()))):
        np.testing.assert_array_equal(given.values, CAPTION[[0, 0]])
    assert isinstance(written.empty(2).value, Tokens) and not np.any(written.empty(2).known)
    with_mask = sequence(2, 2).of(Batch(X, VECTORS))
    np.testing.assert_array_equal(with_mask.mask, VECTORS["mask"] == 1)
    assert np.all(sequence(2, 2).given(3, np.zeros((2, 2))).mask)


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda: text(WORDS, 3).given(2, "a sevn"), "unknown word 'sevn' in 'a sevn': did you mean 'seven'"),
        (lambda: text(WORDS, 3).read("xyz", 2, ()), "unknown word 'xyz'.* knows a, one, seven, seventy"),
        (lambda: text(WORDS, 3).given(2, ["a one", "a tree"]), "unknown word 'tree' in 'a tree'"),
        (lambda: text(WORDS, 3).given(2, "a one a one"), "1 to 3 words, 'a one a one' has 4"),
        (lambda: text(WORDS, 3).given(2, ""), "1 to 3 words, '' has 0"),
        (lambda: text(WORDS, 3).given(3, ["a one", "one"]), "one text .*or 3 .*not an array of shape .2, 3."),
        (lambda: text(WORDS, 3).check(Batch(X, CAPTION + 1)), "integers from 0 to 4, it holds int32 up to 5"),
        (lambda: text(WORDS, 3).check(Batch(X, LABEL)), "give one text .3."),
        (lambda: text(("a b", "c"), 3), "different words in lower case, without spaces"),
        (lambda: text(("a", "a"), 3), "different words"),
        (lambda: text(WORDS, 0), "room for at least one word"),
        (lambda: sequence(2, 2).given(2, np.zeros((2, 3))), "one sequence .2, 2."),
        (lambda: sequence(2, 2).given(2, np.full((2, 2), np.nan)), "finite numbers"),
        (
            lambda: sequence(2, 2).given(4, {**VECTORS, "mask": 2 * VECTORS["mask"]}),
            "a mask is of integers from 0 to 1",
        ),
        (lambda: sequence(2, 2).given(4, {"values": X}), "values and a mask, not values"),
        (lambda: sequence(2, 2).read("one", 4, ()), "conditioned on embedded sequences"),
        (lambda: sequence(0, 2), "a sequence has vectors"),
    ],
)
def test_a_text_that_a_model_does_not_take_is_one_line(call, line):
    with pytest.raises(InputError, match=line) as error:
        call()
    assert "\n" not in str(error.value)


def test_trees_of_conditions_are_taken_row_by_row():
    c = BOTH.of(Batch(X, {"label": LABEL, "traits": TRAITS}))
    np.testing.assert_array_equal(conditions.rows(c, np.array([3, 0]))["label"].value, [2, 2])
    np.testing.assert_array_equal(conditions.repeat(c, 2)["traits"][:, 0], [1, 1, 0, 0, 1, 1, 0, 0])
    chosen = np.array([True, False, True, False])
    mixed = conditions.where(chosen, optional(labels(3)).empty(4), optional(labels(3)).given(4, LABEL))
    np.testing.assert_array_equal(mixed.known, ~chosen)
    assert conditions.repeat(None, 3) is None and conditions.rows(None, [0]) is None


def test_only_what_is_derived_from_the_image_says_nothing_new():
    assert image(top, (1, 2, 1)).derived and optional(image(top, (1, 2, 1))).derived
    assert not labels(2).derived and not BOTH.derived
    np.testing.assert_array_equal(image(top, (1, 2, 1)).show(top(X)), top(X))
    assert labels(3).show(LABEL) is None
    assert isinstance(optional(labels(3)).of(Batch(X, LABEL)), Maybe)


def test_data_without_what_the_model_needs_are_refused():
    for c, batch, line in (
        (labels(2), Batch(X), "needs labels or attributes"),
        (labels(2), Batch(X, LABEL), "label 2 is outside 0 to 1"),
        (optional(labels(2)), Batch(X, LABEL), "label 2 is outside 0 to 1"),
        (attributes(3), Batch(X, TRAITS), "3 attributes"),
        (BOTH, Batch(X, LABEL), "needs labels or attributes"),
    ):
        with pytest.raises(InputError, match=line):
            c.check(batch)
