"""The embedded sets, the cache of decoded pictures, TFDS sets, and names."""

import time

import numpy as np
import pytest

from jaxgen import data
from jaxgen.data import tfds_images
from jaxgen.data.cache import cached
from jaxgen.data.dataset import from_reader
from jaxgen.types import Batch, InputError


def everything(dataset):
    return dataset.take(np.arange(dataset.size))


# Digits


def test_digits_splits_are_disjoint_stratified_and_fixed():
    every, train, test = (data.load("digits", split) for split in ("all", "train", "test"))
    assert (every.size, train.size, test.size) == (1797, 1500, 297)
    assert train.shape == (8, 8, 1) and train.classes == tuple("0123456789") and not train.streaming

    def rows(dataset):
        batch = everything(dataset)
        return sorted((int(label), x.tobytes()) for x, label in zip(batch.x, batch.condition, strict=True))

    assert sorted(rows(train) + rows(test)) == rows(every)
    counts = [np.bincount(everything(d).condition, minlength=10) for d in (every, test)]
    assert np.abs(counts[1] - counts[0] * 297 / 1797).max() <= 0.5
    assert rows(test) == rows(data.load("digits", "test"))


def test_digits_are_ink_scaled_to_255():
    from sklearn.datasets import load_digits

    raw = load_digits()
    batch = everything(data.load("digits", "all"))
    assert batch.x.dtype == np.uint8 and np.array_equal(batch.condition, raw.target)
    assert np.array_equal(np.round(batch.x[..., 0] * (16 / 255)), raw.images)
    assert batch.x.min() == 0 and batch.x.max() == 255


# Points


@pytest.mark.parametrize("name", ["rings", "moons", "gaussians8", "gaussians25"])
def test_points_are_fixed_and_test_differs_from_train(name):
    train, again, test = data.load(name), data.load(name), data.load(name, "test")
    a, b, c = everything(train), everything(again), everything(test)
    assert a.x.shape == (50_000, 2) and a.x.dtype == np.float32 and a.condition.dtype == np.int32
    assert np.array_equal(a.x, b.x) and not np.isin(a.x[:, 0], c.x[:, 0]).all()
    assert np.abs(a.x).max() < 2.5
    counts = np.bincount(a.condition)
    assert len(counts) == len(train.classes) and np.ptp(counts) <= 1
    assert np.abs(a.x.mean(0)).max() < 0.03  # all are centred; the standard error is at most 0.006


def test_gaussians25_has_the_documented_modes_and_moments():
    x, mode = everything(data.load("gaussians25", n=250_000))
    grid = [(a, b) for a in range(-2, 3) for b in range(-2, 3)]
    means = np.stack([x[mode == i].mean(0) for i in range(25)])
    deviations = np.stack([x[mode == i].std(0) for i in range(25)])
    assert np.abs(means - grid).max() < 5 * 0.05 / 100
    assert np.abs(deviations - 0.05).max() < 5 * 0.05 / np.sqrt(2 * 10_000)
    assert np.array_equal(np.rint(x), np.array(grid)[mode])
    assert np.abs(x.var(0) - 2.0025).max() < 0.002


def test_gaussians8_rings_and_moons_have_the_documented_shape():
    x, mode = everything(data.load("gaussians8"))
    angle = np.arange(8) * np.pi / 4
    centres = 2 * np.stack([np.cos(angle), np.sin(angle)], -1)
    assert np.abs((x - centres[mode]).std(0) - 0.05).max() < 0.001 and np.abs(x.var(0) - 2.0025).max() < 0.01
    x, ring = everything(data.load("rings"))
    radius = np.hypot(*x.T)
    assert np.abs(radius - 0.5 * (ring + 1)).max() < 6 * 0.05
    assert np.abs(x.var(0) - (0.25 + 1 + 2.25 + 4) / 8 - 0.0025).max() < 0.02
    x, moon = everything(data.load("moons"))
    centre = np.where(moon == 0, 1, -1)[:, None] * [-0.5, -0.25]
    assert np.abs(np.hypot(*(x - centre).T) - 1).max() < 6 * 0.05
    assert ((x - centre)[moon == 0, 1] > -0.3).all() and ((x - centre)[moon == 1, 1] < 0.3).all()


# The cache


def pictures(calls, labels=True, size=700, fingerprint="a", streaming=None):
    def read(indices):
        calls.append(len(indices))
        x = np.broadcast_to((indices % 256).astype(np.uint8)[:, None, None, None], (len(indices), 2, 3, 1))
        return x, indices.astype(np.int32) if labels else None

    about = {"size": size, "shape": (2, 3, 1), "fingerprint": fingerprint, "streaming": streaming}
    return from_reader("some/pictures", "train", read, **about)


@pytest.mark.parametrize("labels", [True, False])
def test_a_second_start_decodes_nothing(cache, labels):
    calls = []
    first = everything(pictures(calls, labels))
    assert sum(calls) == 700
    second = everything(pictures(calls, labels))
    assert sum(calls) == 700
    assert np.array_equal(first.x, second.x) and np.array_equal(first.condition, second.condition)
    assert np.array_equal(first.x[:, 0, 0, 0], np.arange(700) % 256)
    assert [path.suffix for path in cache.iterdir()] == [".npy"]  # and no temporary file


def test_another_fingerprint_or_size_is_another_entry(cache):
    calls = []
    pictures(calls)
    pictures(calls, fingerprint="b")
    pictures(calls, size=699)
    assert sum(calls) == 700 + 700 + 699 and len(list(cache.iterdir())) == 3


@pytest.mark.parametrize("damage", ["bit", "truncated", "header", "empty", "pickle"])
def test_a_damaged_entry_is_rebuilt(cache, caplog, damage):
    calls = []
    first = everything(pictures(calls))
    (path,) = cache.iterdir()
    raw = bytearray(path.read_bytes())
    if damage == "bit":
        raw[len(raw) // 2] ^= 1
    elif damage == "header":
        raw[140:150] = b"0123456789"
    elif damage == "pickle":
        import pickle

        raw = bytearray(pickle.dumps({"x": 1}))
    path.write_bytes(raw[: {"truncated": 3000, "empty": 0}.get(damage, len(raw))])
    again = everything(pictures(calls))
    assert sum(calls) == 1400 and "damaged" in caplog.text
    assert np.array_equal(first.x, again.x) and np.array_equal(first.condition, again.condition)
    pictures(calls)
    assert sum(calls) == 1400  # and the rebuilt entry is good


def test_a_cache_that_cannot_be_written_does_not_stop_the_run(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("JAXGEN_CACHE", str(tmp_path / "file" / "cache"))
    x, labels = cached("x", "f", (1, 2), lambda: (np.zeros((1, 2), np.uint8), None))
    assert x.shape == (1, 2) and labels is None and "could not keep" in caplog.text


def test_large_sets_stream(cache, monkeypatch):
    monkeypatch.setattr("jaxgen.data.dataset.IN_MEMORY_BYTES", 700 * 6 - 1)
    calls = []
    dataset = pictures(calls)
    assert dataset.streaming and not calls and not cache.exists()
    assert dataset.take(np.array([5, 3])).condition.tolist() == [5, 3]
    assert not pictures(calls, streaming=False).streaming


# Arrays of one's own


X = np.zeros((4, 2), np.float32)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64, np.uint64, bool])
def test_labels_of_any_integer_type_become_int32(dtype):
    batch = everything(data.in_memory("mine", "train", X, np.array([1, 0, 1, 1], dtype)))
    assert batch.condition.dtype == np.int32 and batch.condition.tolist() == [1, 0, 1, 1]
    assert everything(data.in_memory("mine", "train", X, [3, -1, 2**31 - 1, -(2**31)])).condition[2] == 2**31 - 1


def test_attributes_keep_their_kind():
    for given, kept in ((np.float64, np.float32), (np.float16, np.float32), (np.int64, np.int32), (bool, np.int32)):
        value = np.array([[0, 1, 1], [1, 0, 0], [1, 1, 0], [0, 0, 0]], given)
        condition = everything(data.in_memory("mine", "train", X, value)).condition
        assert condition.dtype == kept and np.array_equal(condition, value)
    halves = everything(data.in_memory("mine", "train", X, 0.5 * np.arange(8.0).reshape(4, 2))).condition
    assert halves.tolist() == [[0.0, 0.5], [1.0, 1.5], [2.0, 2.5], [3.0, 3.5]]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.array([0.7, 1.9, 0.0, 1.0]), "the labels are float64 .4.; expected integers"),
        (np.array([0.0, 1.0, 0.0, 1.0]), "expected integers"),
        (np.array([0, 1, 2, 2**31]), r"2147483648. is no label: expected integers of 32 bits"),
        (np.array([0, 1, 2, 2**63], np.uint64), r"9223372036854775808. is no label"),
        (np.array([0, 1, 2, -(2**31) - 1]), r"-2147483649. is no label"),
        (np.array(list("abcd")), "expected integers"),
        (np.array([[0.0], [1.0], [np.nan], [2.0]]), "not finite in float32"),
        (np.array([[0.0], [1.0], [1e300], [2.0]]), "not finite in float32"),
        (np.zeros((4, 2), complex), "expected integers or real numbers"),
        ([0, 1, 2], r"labels of shape .3,. for 4 examples"),
        (np.int32(3), r"labels of shape .. for 4 examples"),
        ({"label": [0, 1, 2, 3], "traits": np.zeros((3, 2))}, r"labels of shape .3, 2. for 4 examples"),
        ({"label": np.array([0.5, 1, 2, 3])}, "expected integers"),
    ],
)
def test_labels_that_are_none_are_refused(labels, message):
    with pytest.raises(InputError, match=message) as error:
        data.in_memory("mine", "train", X, labels)
    assert "\n" not in str(error.value) and str(error.value).startswith("mine: ")


def several(n=30, streaming=False):
    """Numbered points whose condition is a dictionary, with another inside."""
    index = np.arange(n)
    traits = {"half": index[:, None] / 2, "both": {"pair": np.stack([index, -index], 1)}}
    dataset = data.in_memory("several", "train", index[:, None].astype(np.float32), {"label": index, "traits": traits})
    return dataset._replace(streaming=streaming)


def assert_conditions_of_their_examples(batch):
    index = batch.x[..., 0]
    np.testing.assert_array_equal(batch.condition["label"], index)
    np.testing.assert_array_equal(batch.condition["traits"]["half"][..., 0], index / 2)
    np.testing.assert_array_equal(batch.condition["traits"]["both"]["pair"], np.stack([index, -index], -1))


def test_several_conditions_follow_their_examples_through_parts_of_a_set():
    some = data.subset(several(), [7, 3, 29])
    assert everything(some).x[:, 0].tolist() == [7, 3, 29]
    assert_conditions_of_their_examples(everything(some))
    batch = everything(some)
    assert batch.condition["label"].dtype == np.int32 and batch.condition["traits"]["half"].dtype == np.float32


@pytest.mark.parametrize("streaming", [False, True])
def test_several_conditions_follow_their_examples_through_the_stream(streaming):
    with data.reader(several(streaming=streaming), seed=1, shape=(2, 3, 4), step=3, process=(1, 2)) as r:
        batch = r.take(2)
    assert batch.x.shape == (2, 2, 3, 2, 1) and batch.condition["label"].shape == (2, 2, 3, 2)
    assert_conditions_of_their_examples(batch)
    plain = data.reader(several()._replace(take=lambda i: Batch(several().take(i).x)), seed=1, shape=(2, 3, 4), step=3)
    assert np.array_equal(plain.take(2).x[..., 2:, :], batch.x)  # the same examples as without conditions


def test_conditions_pass_normalising():
    batch = Batch(np.zeros((2, 4, 4, 1), np.uint8), {"label": np.array([200, 3]), "sketch": None})
    assert data.normalize(batch).condition is batch.condition


# TFDS


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "celeb_a", "tfds:svhn_cropped", "lsun/bedroom"])
def test_an_unprepared_set_answers_at_once_with_the_command(tmp_path, monkeypatch, name, caplog):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    started = time.monotonic()
    with pytest.raises(
        InputError, match=f"not prepared.*TFDS_DATA_DIR.*jaxgen data prepare {name.split(':')[-1]}$"
    ) as e:
        data.load(name)
    assert time.monotonic() - started < 5
    assert str(tmp_path) in str(e.value) and "\n" not in str(e.value) and not caplog.text


def test_preparing_without_tensorflow_names_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(tfds_images, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'jaxgen\[prepare\]'"):
        data.prepare("celeb_a", str(tmp_path))
    with pytest.raises(InputError, match="needs no preparing"):
        data.prepare("digits")
    with pytest.raises(InputError, match="no pictures"):
        data.prepare("imdb_reviews", str(tmp_path))


@pytest.mark.parametrize("streaming", [False, True])
def test_celeb_a_is_resized_and_its_attributes_are_optional(faces_dir, streaming):
    options = {"data_dir": faces_dir, "streaming": streaming}
    plain = data.load("celeb_a", **options)
    assert plain.shape == (64, 64, 3) and plain.classes == () and plain.streaming == streaming
    assert everything(plain).condition is None
    assert everything(plain).x[:, 30, 30].tolist() == [[20 * i] * 3 for i in range(5)]
    named = data.load("celeb_a", size=32, attributes=True, **options)
    assert named.shape == (32, 32, 3) and len(named.classes) == 40 and "Smiling" in named.classes
    condition = everything(named).condition
    assert condition.dtype == np.int32
    assert np.array_equal(condition, (np.arange(5)[:, None] + np.arange(40)) % 2)


def test_a_set_that_is_already_prepared_is_not_prepared_again(faces_dir):
    assert data.prepare("celeb_a", faces_dir).startswith(faces_dir)


def test_a_damaged_record_file_is_one_line(faces_dir, tmp_path):
    import shutil

    shutil.copytree(faces_dir, tmp_path / "copy")
    (records,) = (tmp_path / "copy").rglob("*array_record*")
    records.write_bytes(records.read_bytes()[:-70_000])
    with pytest.raises(InputError, match=r"cannot read celeb_a in .*jaxgen data prepare celeb_a"):
        data.load("celeb_a", data_dir=str(tmp_path / "copy"), size=16)


def test_a_set_in_another_format_is_explained(faces_dir, tmp_path):
    import shutil

    shutil.copytree(faces_dir, tmp_path / "copy")
    (info,) = (tmp_path / "copy").rglob("dataset_info.json")
    info.write_text(info.read_text().replace('"array_record"', '"tfrecord"'))
    with pytest.raises(InputError, match="not as ArrayRecord"):
        data.load("celeb_a", data_dir=str(tmp_path / "copy"))


def test_mnist_in_memory_and_streaming_give_the_same(mnist_dir):
    memory, streaming = (data.load("mnist", "test", streaming=choice) for choice in (None, True))
    assert memory.size == 10_000 and memory.shape == (28, 28, 1) and memory.classes == tuple("0123456789")
    assert not memory.streaming and streaming.streaming
    options = {"seed": 0, "shape": (1, 2, 64), "step": 76}  # into the second epoch
    a = data.reader(memory, **options).take(4)
    with data.reader(streaming, **options) as r:
        b = r.take(4)
    assert np.array_equal(a.x, b.x) and np.array_equal(a.condition, b.condition)
    assert np.bincount(everything(memory).condition).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def test_mnist_starts_quickly_from_the_cache(mnist_dir):
    data.load("mnist", "test")
    started = time.monotonic()
    data.load("mnist", "test")
    assert time.monotonic() - started < 0.5


def test_part_of_a_split_and_resizing(mnist_dir):
    part = data.load("mnist", "train[:100]", size=14, labels=None)
    assert part.size == 100 and part.shape == (14, 14, 1) and everything(part).condition is None


def test_three_digits_are_the_colours_of_one_picture(mnist_dir):
    stacked, grey = data.load("stacked_mnist", "test", n=3000), everything(data.load("mnist", "test"))
    batch = everything(stacked)
    assert stacked.shape == (28, 28, 3) and stacked.classes[407] == "407" and batch.condition.dtype == np.int32
    known = {x.tobytes(): label for x, label in zip(grey.x, grey.condition, strict=True)}
    digits = [[known[np.ascontiguousarray(x[..., c]).tobytes()] for c in range(3)] for x in batch.x]
    np.testing.assert_array_equal(np.array(digits) @ [100, 10, 1], batch.condition)  # every channel is one of MNIST's
    again = data.load("stacked_mnist", "test", n=50)
    np.testing.assert_array_equal(everything(again).x, batch.x[:50])
    assert np.abs(np.corrcoef(np.array(digits).T) - np.eye(3)).max() < 5 / np.sqrt(3000)  # drawn independently


# Names


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mnst", {}, "did you mean 'mnist'.*give one of digits"),
        ("tfds:cifar1000", {}, "did you mean 'cifar10"),
        ("imdb_reviews", {}, "no pictures, only text, label"),
        ("digits", {"split": "validation"}, "give one of train, test, all"),
        ("rings", {"split": "all"}, "give one of train, test"),
        ("rings", {"n": 0}, "n=0"),
        ("stacked_mnist", {"n": 0}, "n=0"),
        ("digits", {"size": 32}, "no option 'size'"),
        ("celeb_a", {"labels": "x"}, "it has size, attributes"),
        ("cifar10", {"sise": 32}, "it has size, labels"),
        ("cifar10", {"size": -1}, "size=-1"),
    ],
)
def test_mistakes_get_one_clear_line(name, options, message):
    with pytest.raises(InputError, match=message) as error:
        data.load(name, **options)
    assert "\n" not in str(error.value)


def test_mnist_refuses_what_it_does_not_have(mnist_dir):
    with pytest.raises(InputError, match="no split 'val'; give one of train, test"):
        data.load("mnist", "val")
    with pytest.raises(InputError, match="features are image, label"):
        data.load("mnist", labels="colour")


def test_available_is_quick_and_names_the_command(tmp_path, monkeypatch, faces_dir):
    data.available()  # imports
    monkeypatch.setenv("TFDS_DATA_DIR", faces_dir)
    started = time.monotonic()
    rows = {name: (text, state) for name, text, state in data.available()}
    assert time.monotonic() - started < 1
    assert rows["digits"][1] == rows["gaussians25"][1] == "embedded"
    assert rows["celeb_a"] == ("218x178x3, 5 train", "prepared")
    assert rows["cifar10"] == ("32x32x3", "not prepared: jaxgen data prepare cifar10")
    assert rows["stacked_mnist"][1] == "not prepared: jaxgen data prepare mnist, made of mnist"


# Parts of a set


def test_classes_in_and_out_divide_a_set():
    digits = data.load("digits")
    some, others = data.only_classes(digits, ["3", 7]), data.without_classes(digits, [3, "7"])
    labels = data.labels_of(digits)
    assert set(data.labels_of(some)) == {3, 7} and set(data.labels_of(others)) == set(range(10)) - {3, 7}
    assert some.size + others.size == digits.size and some.classes == digits.classes
    for part, rows in ((some, np.isin(labels, [3, 7])), (others, ~np.isin(labels, [3, 7]))):
        assert np.array_equal(everything(part).x, everything(digits).x[rows])
        assert np.array_equal(part.take(np.array([5, 0])).x, everything(part).x[[5, 0]])


def test_the_other_split_of_a_part_is_complete_and_loaded_with_the_same_options():
    part = data.without_classes(data.subset(data.load("gaussians8", n=80), np.arange(40)), [0])
    assert part.size == 35
    assert data.other_split(part, "test").size == 80
    assert set(data.labels_of(data.other_split(part, "test"))) == set(range(8))


def test_a_few_labels_are_balanced_drawn_by_the_seed_and_grow_with_their_number():
    digits = data.load("digits")
    drawn = {n: data.balanced(digits, n, 1) for n in (10, 57, 300)}
    labels = data.labels_of(digits)
    for n, rows in drawn.items():
        assert len(set(rows)) == n and np.ptp(np.bincount(labels[rows])) == (0 if n % 10 == 0 else 1)
    assert set(drawn[10]) < set(drawn[57]) < set(drawn[300])
    assert np.array_equal(drawn[57], data.balanced(digits, 57, 1))
    assert len(set(drawn[300]) & set(data.balanced(digits, 300, 2))) < 100  # 60 by chance, with a deviation of 7
    few = data.labelled(digits, 57, 1)
    given = data.labels_of(few)
    assert np.array_equal(np.flatnonzero(given != -1), np.sort(drawn[57]))
    assert np.array_equal(given[drawn[57]], labels[drawn[57]]) and np.array_equal(
        everything(few).x, everything(digits).x
    )
    assert np.array_equal(np.sort(data.balanced(few, 57, 1)), np.sort(drawn[57]))  # -1 is no class


def test_balanced_draws_every_member_of_a_class_equally_often():
    points = data.load("gaussians8", n=40)  # five a class
    counts = np.bincount(np.concatenate([data.balanced(points, 9, seed) for seed in range(800)]), minlength=40)
    expected = 800 * 9 / 40
    assert np.abs(counts - expected).max() < 5 * np.sqrt(expected)


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (lambda d: data.only_classes(d, ["ten"]), "unknown class 'ten': digits has 0, 1, 2"),
        (lambda d: data.without_classes(d, [10]), "unknown class '10'"),
        (lambda d: data.only_classes(d, []), "no class is given"),
        (lambda d: data.without_classes(d, range(10)), "needs at least one example"),
        (lambda d: data.subset(d, [0, 1500]), "examples 0 to 1499, not 0 to 1500"),
        (lambda d: data.subset(d, [0.5]), "by integers"),
        (lambda d: data.labelled(d, 9), "9 labels for the 10 classes of digits: give at least one a class"),
        (lambda d: data.labelled(d, 1495), "of class .*, which has 1[0-9][0-9]: give fewer"),
        (lambda d: data.labelled(d._replace(streaming=True), 10), "streaming=False"),
        (lambda d: data.labels_of(data.in_memory("plain", "train", np.zeros((3, 2)))), "plain has no labels"),
        (
            lambda d: data.labels_of(data.in_memory("faces", "train", np.zeros((3, 2)), np.zeros((3, 40)))),
            r"\(40,\) attributes",
        ),
        (
            lambda d: data.balanced(data.in_memory("two", "train", np.zeros((3, 2)), {"a": [0, 1, 2]}), 3),
            "two has several conditions an example",
        ),
    ],
)
def test_a_part_that_there_is_not_is_refused(mistake, message):
    with pytest.raises(InputError, match=message) as error:
        mistake(data.load("digits"))
    assert "\n" not in str(error.value)
