"""Patches of photographs, and attributes that are measured from pictures drawn for the purpose."""

import numpy as np
import pytest

from jaxgen import data
from jaxgen.data import attributes, captions
from jaxgen.data.dataset import in_memory
from jaxgen.types import InputError


def patches(split, **options):
    dataset = data.load("photos", split, **options)
    return dataset, dataset.take(np.arange(dataset.size))


@pytest.mark.parametrize("size", [8, 33])
def test_patches_are_cut_from_their_photograph_and_their_side_of_it(size):
    from sklearn.datasets import load_sample_images

    photographs = load_sample_images()["images"]
    for split, sides in (("train", (0, 480)), ("test", (480, 640))):
        dataset, batch = patches(split, size=size, n=2)
        assert dataset.shape == (size, size, 3) and dataset.classes == ("china", "flower")
        assert batch.x.shape == (2, size, size, 3) and batch.x.dtype == np.uint8
        for x, label in zip(batch.x, batch.condition, strict=True):
            part = photographs[label][:, slice(*sides)]
            # matched by their top row first: a corner alone is found in many places
            rows = np.lib.stride_tricks.sliding_window_view(part, size, axis=1)[: 428 - size]
            places = np.argwhere(np.all(rows == x[0].T, axis=(2, 3)))
            assert any(np.array_equal(part[r : r + size, c : c + size], x) for r, c in places)


def test_places_are_fixed_and_more_patches_begin_with_those_of_fewer():
    dataset, batch = patches("train", size=16, n=50)
    _, more = patches("train", size=16, n=80)
    assert np.array_equal(batch.x, more.x[:50]) and np.array_equal(np.bincount(batch.condition), [25, 25])
    assert len({x.tobytes() for x in more.x}) == 80
    some = dataset.take(np.array([7, 3]))
    assert np.array_equal(some.x, batch.x[[7, 3]]) and np.array_equal(some.condition, [1, 1])
    assert data.other_split(dataset, "test").shape == (16, 16, 3)
    for wrong, text in (({"size": 7}, "from 8 to 128"), ({"size": 129}, "from 8 to 128"), ({"n": 0}, "at least 1")):
        with pytest.raises(InputError, match=text):
            data.load("photos", **wrong)
    with pytest.raises(InputError, match="no split 'all'"):
        data.load("photos", "all")


def line(slope, thickness=1):
    """A line that moves `slope` columns to the right for each row upwards, uint8 [1, 28, 28, 1]."""
    x = np.zeros((1, 28, 28, 1), np.uint8)
    for row in range(4, 24):
        start = round(14 - slope * (row - 14))
        x[0, row, start : start + thickness] = 255
    return x


def ring(gap=0):
    x = np.zeros((1, 28, 28, 1), np.uint8)
    x[0, 5:20, 8:18] = 255
    x[0, 8:16, 11:15] = 0
    x[0, 12 : 12 + gap, 15:18] = 0
    return x


def test_measurements_are_those_of_lines_and_rings():
    thick, slanted, wide, top_heavy, looped = range(5)
    value = {name: attributes.measurements(x)[0] for name, x in {"straight": line(0), "slanted": line(0.5)}.items()}
    assert value["straight"][slanted] == 0.0 and abs(value["slanted"][slanted] - 0.5) < 0.02
    assert attributes.measurements(line(-0.5))[0, slanted] == pytest.approx(-value["slanted"][slanted], abs=0.05)
    assert attributes.measurements(line(0, 4))[0, thick] > 2 * value["straight"][thick]
    assert value["straight"][wide] == 1 / 20 and attributes.measurements(ring())[0, wide] == 10 / 15
    assert value["straight"][top_heavy] == 0.5
    halved = line(0)
    halved[0, 14:] //= 2  # still drawn
    assert attributes.measurements(halved)[0, top_heavy] == pytest.approx(255 / (255 + 127))
    assert attributes.measurements(ring())[0, looped] == 8 * 4 and attributes.measurements(ring(1))[0, looped] == 0
    assert np.all(np.isfinite(attributes.measurements(np.zeros((1, 28, 28, 1), np.uint8))))


def test_a_loop_of_one_picture_is_none_of_the_next():
    both = np.concatenate([ring(), line(0), ring(1), ring()])
    assert np.array_equal(attributes.measurements(both)[:, 4], [32, 0, 0, 32])


def test_an_attribute_is_above_the_median_by_default():
    x = np.concatenate([line(slope) for slope in np.linspace(-0.6, 0.6, 11)])
    lines = in_memory("lines", "train", x)
    own = attributes.measured(lines)
    assert own.classes == attributes.NAMES and own.shape == (28, 28, 1)
    assert np.array_equal(own.take(np.arange(11)).condition[:, 1], [0] * 6 + [1] * 5)
    bar = np.array([0, 0.3, 0, 0, 0])
    assert np.array_equal(attributes.measured(lines, bar).take(np.arange(11)).condition[:, 1], [0] * 8 + [1] * 3)
    with pytest.raises(InputError, match="grey pictures"):
        attributes.measured(data.load("photos", n=2))


def test_mnist_s_attributes_halve_it(mnist_dir):
    part = data.load("mnist_attributes", "train[:2000]", data_dir=mnist_dir)
    batch = part.take(np.arange(2000))
    assert (part.name, part.size, part.classes[0], batch.condition.shape) == (
        "mnist_attributes",
        2000,
        "thick",
        (2000, 5),
    )
    # five standard errors of a share of 2,000, and ties of integers in `wide`
    assert np.all(np.abs(batch.condition.mean(0)[:4] - 0.5) < 0.056 + 0.02)
    digit = data.load("mnist", "train[:2000]", data_dir=mnist_dir).take(np.arange(2000)).condition
    loops = [batch.condition[digit == d, 4].mean() for d in (0, 1, 7)]
    assert loops[0] > 0.8 and max(loops[1:]) < 0.05


def test_every_picture_has_a_caption_and_some_combinations_are_never_seen(mnist_dir):
    train, test = (data.load("mnist_captions", f"{s}[:3000]", data_dir=mnist_dir) for s in ("train", "test"))
    tokens = train.take(np.arange(3000)).condition
    assert tokens.shape == (3000, captions.LENGTH) and tokens.min() >= 1 and tokens.max() == len(train.classes)
    found = captions.described(train.take(np.arange(3000)).x, data.load("mnist").take(np.arange(3000)).condition)
    for row, own in zip(found[:50], tokens, strict=False):
        assert captions.caption(row) == " ".join(train.classes[i - 1] for i in own)
    for column in (0, 2):  # terciles of all training pictures
        assert np.abs(np.bincount(found[:, column]) / 3000 - 1 / 3).max() < 0.04
    parts = [data.load("mnist_captions", "test[:3000]", part=part, data_dir=mnist_dir) for part in ("seen", "unseen")]
    assert sum(part.size for part in parts) == test.size and parts[1].size > 150
    written = [" ".join(parts[0].classes[i - 1] for i in own) for own in parts[0].take(np.arange(parts[0].size))[1]]
    assert not [one for one in written if "thick two" in one or "seven leaning left" in one]
    assert any("thin two" in one for one in written) and any("six leaning left" in one for one in written)
    small = data.load("mnist_captions", "test[:600]", size=14, data_dir=mnist_dir)
    agree = small.take(np.arange(600)).condition == test.take(np.arange(600)).condition
    assert small.shape == (14, 14, 1) and agree[:, 1].mean() > 0.8 and agree[:, 2:].mean() > 0.95  # half the pixels
    for wrong, message in (({"part": "some"}, "parts all, seen and unseen"), ({"size": 20}, "28x28 and of 14x14")):
        with pytest.raises(InputError, match=message):
            data.load("mnist_captions", **wrong, data_dir=mnist_dir)


def test_a_caption_says_what_is_drawn():
    drawn = np.concatenate([line(0.5), line(-0.5, 4), line(0.1)])
    found = [captions.caption(row) for row in captions.described(drawn, np.array([1, 7, 0]))]
    assert found == ["a thin one leaning right", "a thick seven leaning left", "a thin zero standing upright"]
    assert list(captions.unseen(np.array([[0, 7, 0], [0, 6, 2], [1, 2, 2], [0, 2, 1]]))) == [True, False, True, False]
    assert (
        len({captions.caption(row) for row in captions.every()}) == 90 and captions.unseen(captions.every()).sum() == 6
    )
