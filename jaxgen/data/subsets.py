"""Parts of a data set: some of its examples, some of its classes, labels for a few. Each is a data set again, whose
`other_split` is the complete other split: a model that was trained without a class is tested with it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxgen.data.dataset import Dataset
from jaxgen.data.pipeline import order
from jaxgen.types import Batch, check

UNLABELLED = -1
CHUNK = 8192  # examples at a time, where only their labels are wanted


def subset(dataset: Dataset, indices: Sequence[int] | np.ndarray) -> Dataset:
    """The examples of those indices, in their order. InputError for none, and for indices outside the data set."""
    indices = np.asarray(indices)
    check(indices.ndim == 1 and indices.size > 0, f"a part of {dataset.name} needs at least one example, it has none")
    check(np.issubdtype(indices.dtype, np.integer), f"examples are chosen by integers, not by {indices.dtype}")
    low, high = indices.min(), indices.max()
    inside = low >= 0 and high < dataset.size
    check(inside, f"{dataset.name} has the examples 0 to {dataset.size - 1}, not {low} to {high}")
    return dataset._replace(size=len(indices), take=lambda chosen: dataset.take(indices[chosen]))


def only_classes(dataset: Dataset, classes: Sequence[int | str]) -> Dataset:
    """The examples whose label is among `classes`, given by number or by name. Labels keep their numbers, and
    `Dataset.classes` all its names. InputError as for `class_numbers` and `labels_of`."""
    return subset(dataset, np.flatnonzero(np.isin(labels_of(dataset), class_numbers(dataset, classes))))


def without_classes(dataset: Dataset, classes: Sequence[int | str]) -> Dataset:
    """The examples whose label is not among `classes`: `only_classes` of all the others."""
    return subset(dataset, np.flatnonzero(~np.isin(labels_of(dataset), class_numbers(dataset, classes))))


def labelled(dataset: Dataset, n: int, seed: int = 0) -> Dataset:
    """All examples, of which only `balanced(dataset, n, seed)` keep their label and the others have -1: for learning
    from few labels (Kingma et al. 2014, arXiv:1406.5298, section 4)."""
    labels = np.full(dataset.size, UNLABELLED, np.int32)
    kept = balanced(dataset, n, seed)
    labels[kept] = labels_of(dataset)[kept]
    return dataset._replace(take=lambda indices: Batch(dataset.take(indices).x, labels[indices]))


def shrunk(dataset: Dataset, times: int) -> Dataset:
    """Images 2^times times smaller, each pixel the mean of those in its place, rounded: the data of an earlier stage of
    a progressive GAN. InputError for what is no image or has sides that do not halve so often."""
    check(times >= 0, f"images are halved 0, 1, ... times, not {times}")
    check(
        len(dataset.shape) == 3, f"{dataset.name} has no images [H, W, C] to shrink, its examples are {dataset.shape}"
    )
    height, width, channels = dataset.shape
    by = 2**times
    check(height % by == width % by == 0, f"images of {height}x{width} cannot be halved {times} times: choose fewer")
    shape = (height // by, width // by, channels)

    def take(indices: np.ndarray) -> Batch:
        batch = dataset.take(indices)
        x = np.asarray(batch.x).reshape(-1, shape[0], by, shape[1], by, channels).astype(np.float32).mean((2, 4))
        whole = np.issubdtype(batch.x.dtype, np.integer)
        return batch._replace(x=np.rint(x).astype(batch.x.dtype) if whole else x)

    return dataset._replace(shape=shape, take=take) if times else dataset


def balanced(dataset: Dataset, n: int, seed: int = 0) -> np.ndarray:
    """Indices [n] of examples drawn from (seed, class) by Philox, as many of each class as of any other, to within one.

    Another n of the same seed draws the same examples first. InputError for fewer than one a class, and for more than
    there are.
    """
    labels = labels_of(dataset)
    classes = np.unique(labels[labels != UNLABELLED])
    count = len(classes)
    check(n >= count, f"{n} labels for the {count} classes of {dataset.name}: give at least one a class")
    each = np.full(count, n // count)
    each[order(count, seed, 0, n % count)] += 1
    parts = []
    for c, wanted in zip(classes, each, strict=True):
        members = np.flatnonzero(labels == c)
        check(
            wanted <= len(members),
            f"{n} labels of {dataset.name} are {wanted} of class {_name(dataset, int(c))}, which has {len(members)}: "
            "give fewer",
        )
        # epoch 1 + c of the class's own endless stream: epoch 0 chooses the classes that have one more
        parts.append(members[order(len(members), seed, (1 + int(c)) * len(members), int(wanted))])
    return np.concatenate(parts)


def labels_of(dataset: Dataset) -> np.ndarray:
    """int32 [size], the label of every example. InputError for a set without labels, with other conditions instead, or
    read from storage at each use."""
    check(
        not dataset.streaming,
        f"{dataset.name} is read from storage, its labels with its pictures: load it with streaming=False",
    )
    first = dataset.take(np.zeros(1, np.int64)).condition
    check(first is not None, f"{dataset.name} has no labels: this needs a data set with one label an example")
    check(
        not isinstance(first, dict | tuple),
        f"{dataset.name} has several conditions an example: this needs one label an example",
    )
    check(np.ndim(first) == 1, f"{dataset.name} has {np.shape(first)[1:]} attributes: this needs one label an example")
    chunks = [np.arange(start, min(start + CHUNK, dataset.size)) for start in range(0, dataset.size, CHUNK)]
    return np.concatenate([np.asarray(dataset.take(chunk).condition) for chunk in chunks])


def class_numbers(dataset: Dataset, classes: Sequence[int | str] | int | str) -> np.ndarray:
    """int [n] of classes given by number or by name, in upper or lower case. A word that is a name and also a
    number is the name. InputError for unknown ones, and for none."""
    known: dict[int | str, int] = {**numbers_by_word(dataset), **{i: i for i in range(len(dataset.classes))}}
    given = [classes] if isinstance(classes, int | str) else classes
    chosen = [c.strip().lower() if isinstance(c, str) else int(c) for c in given]
    unknown = [str(c) for c in chosen if c not in known]
    there = ", ".join(dataset.classes) or "no classes"
    check(not unknown, f"unknown class {', '.join(unknown)!r}: {dataset.name} has {there}")
    check(bool(chosen), f"no class is given: {dataset.name} has {there}")
    return np.array([known[c] for c in chosen])


def numbers_by_word(dataset: Dataset) -> dict[str, int]:
    """{word: number} of classes or attributes: their numbers, and their names in lower case, which go first."""
    numbers = {str(i): i for i in range(len(dataset.classes))}
    return numbers | {name.lower(): i for i, name in enumerate(dataset.classes)}


def _name(dataset: Dataset, label: int) -> str:
    return dataset.classes[label] if label < len(dataset.classes) else str(label)
