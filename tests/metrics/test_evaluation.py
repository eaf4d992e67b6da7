"""From images to scores: what an extractor sees, what stands beside a score, and what is written down."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _tiny import home
from jax.tree_util import Partial

import jaxgen
from jaxgen import data, sampling
from jaxgen.data import Dataset, in_memory, to_uint8
from jaxgen.metrics import evaluation, referee, report, trained
from jaxgen.metrics.evaluation import METRICS, Evaluation, drawn, evaluate, extractor_for, halves, samples, scored
from jaxgen.metrics.features import Extractor, Features, extract, pixels
from jaxgen.metrics.frechet import frechet_distance, gaussian
from jaxgen.schedules import cosine
from jaxgen.types import Batch, InputError, Model, TrainState, labels, normal

__all__ = ["home"]
RNG = np.random.default_rng(0)
SIDE = 4


def predict(params, extra, condition):
    shift = 0.0 if condition is None else 0.05 * condition.reshape(-1, 1, 1, 1)
    return lambda z, t: 0.3 * z + shift


# an image is its own latent: what is drawn is known
MODEL = Model(
    lambda key, batch: ({}, {}),
    {},
    lambda params, extra, keys: normal(keys, (SIDE, SIDE, 1)),
    predict,
    sampling.iterate(sampling.ddim(cosine()), sampling.uniform(1)),
    schedule=cosine(),
)
STATE = TrainState(jnp.zeros((), jnp.int32), jax.random.key(0), {}, {}, {}, None)


def counting(x: np.ndarray, seen: list) -> Dataset:
    def take(index):
        seen.append(len(index))
        return Batch(x[index])

    return Dataset("counted", "all", len(x), x.shape[1:], take, streaming=True)


# Features


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_features_do_not_depend_on_how_images_are_read(batch):
    x, seen = RNG.integers(0, 256, (30, SIDE, SIDE, 3), np.uint8), []
    codes = extract(pixels(), counting(x, seen), batch=batch).codes
    np.testing.assert_allclose(codes, x.reshape(30, -1) / 127.5 - 1.0, atol=1e-6)
    assert set(seen) == {min(batch, 30)}  # never more at once, and one shape
    index = np.array([4, 4, 29])
    np.testing.assert_array_equal(extract(pixels(), in_memory("x", "all", x), index, batch=batch).codes, codes[index])


def test_floats_are_seen_as_the_file_that_they_would_be():
    x = RNG.uniform(-1.2, 1.2, (5, SIDE, SIDE, 1)).astype(np.float32)
    whole = extract(pixels(), in_memory("x", "all", np.asarray(to_uint8(jnp.asarray(x)))))
    np.testing.assert_array_equal(extract(pixels(), in_memory("x", "all", x)).codes, whole.codes)


def test_features_are_kept_by_what_the_images_are(monkeypatch, tmp_path):
    monkeypatch.setenv("JAXGEN_CACHE", str(tmp_path))
    calls = []

    def see(gain, x):
        jax.debug.callback(lambda: calls.append(1))
        codes = gain * x.reshape(x.shape[0], -1).astype(jnp.float32)
        return codes, jax.nn.log_softmax(codes)

    eyes = Extractor("eyes", "a", Partial(see, jnp.ones(())))
    x = RNG.integers(0, 256, (9, SIDE, SIDE, 1), np.uint8)

    def look(eyes, x):
        calls.clear()
        found = extract(eyes, in_memory("x", "all", x), keep=True)
        jax.effects_barrier()
        return found, len(calls)

    first, once = look(eyes, x)
    again, never = look(eyes, x.copy())
    assert (once, never) == (1, 0)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    changed = x.copy()
    changed[3, 0, 0, 0] ^= 1  # one bit of one pixel, under the same name
    for other in ((eyes, changed), (eyes._replace(digest="b"), x), (eyes, x[:8])):
        found, n = look(*other)
        assert n == 1 and len(found.codes) == len(other[1])
    file = max(tmp_path.glob("features-eyes-x-*"), key=lambda p: p.stat().st_size)
    file.write_bytes(file.read_bytes()[:-3] + b"abc")
    repaired, n = look(eyes, x)
    assert np.array_equal(repaired.codes, first.codes)


def test_points_and_nothing_are_no_images():
    with pytest.raises(InputError, match=r"extractors see images \[H, W, 1 or 3\]"):
        extract(pixels(), in_memory("rings", "all", np.zeros((3, 2), np.float32)))
    with pytest.raises(InputError, match="no images to look at"):
        extract(pixels(), in_memory("x", "all", np.zeros((3, 2, 2, 1), np.uint8)), np.zeros(0, int))


# Samples as a data set


def test_any_samples_can_be_asked_for_by_their_place():
    set_ = samples(MODEL, STATE, data.load("digits"), 50, seed=3)
    whole = np.asarray(sampling.sample(MODEL, STATE, jax.random.key(3), 50))
    index = np.array([49, 0, 7])
    np.testing.assert_array_equal(set_.take(index).x, whole[index])
    assert set_.streaming and set_.size == 50


def test_conditions_are_those_of_the_data_unless_one_is_given():
    x = np.zeros((20, SIDE, SIDE, 1), np.uint8)
    few = in_memory("few", "train", x, np.repeat([2, 5], 10), tuple("0123456789"))
    told, plain = (samples(m, STATE, few, 20) for m in (MODEL._replace(condition=labels(10)), MODEL))
    shift = np.asarray(told.take(np.arange(20)).x) - np.asarray(plain.take(np.arange(20)).x)
    found = np.round(shift.mean((1, 2, 3)) / 0.05)
    assert sorted(found) == [2.0] * 10 + [5.0] * 10  # every example's condition once
    some = few._replace(take=lambda i: Batch(x[i], np.where(np.asarray(i) < 2, 5, -1)))  # learning from few labels
    told = samples(MODEL._replace(condition=labels(10)), STATE, some, 20)
    shift = np.asarray(told.take(np.arange(20)).x) - np.asarray(plain.take(np.arange(20)).x)
    np.testing.assert_allclose(shift, 0.25, atol=1e-6)
    one = samples(MODEL._replace(condition=labels(10)), STATE, few, 20, condition=9)
    np.testing.assert_allclose(one.take(np.arange(3)).x - plain.take(np.arange(3)).x, 0.45, atol=1e-6)


@pytest.mark.parametrize("steps", [1, 7])
def test_network_evaluations_are_counted(steps):
    def count(**options):
        return sampling.evaluations(MODEL, STATE, **options)

    solver = sampling.named(MODEL, "ddim", steps)
    assert count(sampler=solver) == steps
    assert count(sampler=solver, guidance=2.0) == 2 * steps
    assert count() == 1


# Scores


def gaussians(n, seed, shift=0.0):
    return Features((np.random.default_rng(seed).normal(size=(n, 3)) + shift).astype(np.float32))


def test_a_score_stands_beside_that_of_real_images_at_its_number():
    reals, held_out, fakes = gaussians(600, 0), gaussians(200, 1), gaussians(500, 2, shift=1.0)
    found = scored(reals, fakes, ["fid"], apart=(reals, held_out))["fid"]

    def fid(a, b):
        return frechet_distance(gaussian(a.codes), gaussian(b.codes))

    np.testing.assert_allclose(found.value, fid(reals, fakes))
    np.testing.assert_allclose(found.floor, fid(reals, held_out))
    np.testing.assert_allclose(found.at_floor, fid(reals, fakes.rows(slice(200))))
    assert (found.images, found.floor_images, found.better) == (500, 200, "lower")
    assert found.error > 0 and found.floor_error > 0 and found.floor < 0.2 < 2.0 < found.value
    few = scored(reals, fakes.rows(slice(150)), ["fid"], apart=(reals, held_out))["fid"]
    assert few.floor_images == 150 and few.at_floor == few.value
    alone = scored(reals, fakes, ["fid"])["fid"]
    assert alone.floor is None and alone.value == found.value


def test_two_sets_of_images_are_scored_by_what_is_seen_in_them(monkeypatch, tmp_path):
    monkeypatch.setenv("JAXGEN_CACHE", str(tmp_path))
    x = [in_memory("x", "all", RNG.integers(0, 256, (n, 2, 2, 1), np.uint8)) for n in (120, 60, 50)]
    eyes, codes = pixels(), [extract(pixels(), each, data.order(each.size, 0, 0, each.size)) for each in x]
    found = evaluate(x[0], x[1], eyes, held_out=x[2])
    names = ["fid", "kid", "prdc", "copying"]  # those that need no classes
    assert found.scores == scored(codes[0], codes[1], names, apart=(codes[0], codes[2]))
    assert found.protocol["reals"] == "120 images of x all" and found.protocol["samples"] == 60
    alone = evaluate(x[0], x[1], eyes, ["fid"]).scores["fid"]
    assert alone == scored(codes[0], codes[1], ["fid"], apart=halves(codes[0]))["fid"] and alone.floor_images == 60
    few = evaluate(x[0], x[1], eyes, ["fid"], references=70, seed=5)
    some, all_ = (extract(eyes, each, data.order(each.size, 5, 0, n)) for each, n in ((x[0], 70), (x[1], 60)))
    assert few.scores["fid"].value == scored(some, all_, ["fid"], seed=5)["fid"].value


def test_images_that_lie_class_by_class_are_drawn_from_all_classes():
    x = np.repeat(np.arange(100, dtype=np.uint8), 30)[:, None, None, None] * np.ones((1, 1, 1, 1), np.uint8)
    seen = drawn(pixels(), in_memory("sorted", "all", x), 600, 0).codes[:300].ravel()  # as a score takes the first ones
    assert len(np.unique(seen)) > 80 and abs(seen.mean() - (2 * 49.5 / 255 - 1)) < 0.06


def test_classes_without_names_are_classes(monkeypatch, tmp_path):
    monkeypatch.setenv("JAXGEN_CACHE", str(tmp_path))

    def see(x):
        codes = x.reshape(x.shape[0], -1).astype(jnp.float32)
        return codes, jax.nn.log_softmax(codes / 64)

    x = [in_memory("x", "all", RNG.integers(0, 256, (60, 2, 2, 1), np.uint8)) for _ in range(2)]
    found = evaluate(*x, Extractor("nameless", "a", Partial(see)), ["is"]).scores["is"]
    assert 1.0 < found.value < 4.0


def test_halves_are_disjoint_and_everything():
    reals = Features(np.arange(11, dtype=np.float32)[:, None])
    a, b = halves(reals, seed=4)
    assert sorted([*a.codes.ravel(), *b.codes.ravel()]) == list(range(11)) and abs(len(a.codes) - len(b.codes)) <= 1
    with pytest.raises(InputError, match="cannot be divided"):
        halves(reals.rows(slice(3)))


def test_copies_are_noticed_by_copying_and_by_nothing_else():
    reals, held_out = gaussians(800, 0), gaussians(800, 1)
    for fakes, low, high in ((gaussians(800, 2), 0.4, 0.6), (reals, 0.999, 1.0)):
        scores = scored(reals, fakes, ["fid", "prdc", "copying"], apart=(reals, held_out))
        assert low <= scores["copying"].value <= high
        assert scores["fid"].value < 0.1 and scores["precision"].value > 0.8 and scores["recall"].value > 0.8
    assert "copying" not in scored(reals, reals, ["copying"])  # nobody knows what reals are apart from these


def test_every_metric_names_its_scores_and_which_way_is_better():
    rng = np.random.default_rng(0)
    sets = [
        Features(rng.normal(size=(200, 3)).astype(np.float32), np.log(rng.dirichlet(np.ones(4), 200))) for _ in range(3)
    ]
    for name, metric in METRICS.items():
        found = metric.score(evaluation.Sets(sets[0], sets[1], (sets[0], sets[2])))
        assert set(found) == set(metric.better), name
        assert set(metric.better.values()) <= {"lower", "higher", ""}
    with pytest.raises(InputError, match="unknown metric 'fud': choose of fid"):
        scored(sets[0], sets[1], ["fud"])
    with pytest.raises(InputError, match="is needs an extractor that names classes"):
        scored(sets[0], Features(sets[1].codes), ["is"])


# The referee


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """A referee of digits that trains for a second."""
    patch = pytest.MonkeyPatch()
    patch.setenv("JAXGEN_CACHE", str(tmp_path_factory.mktemp("cache")))
    patch.setattr(referee, "STEPS", 150)
    patch.setattr(referee, "RECIPE", "short")
    yield
    patch.undo()


def test_a_referee_knows_its_data_and_says_how_well(short):
    train, test = data.load("digits"), data.load("digits", "test")
    eyes = referee.referee(train, test)
    seen = extract(eyes, test)
    right = np.mean(np.argmax(seen.log_probs, 1) == data.labels_of(test))
    assert right > 0.85 and eyes.protocol["accuracy"].startswith(f"{right:.4f} on 297 images")
    assert eyes.name == "classifier:digits" and eyes.classes == train.classes
    np.testing.assert_allclose(np.exp(seen.log_probs).sum(1), 1.0, atol=1e-5)
    spread = extract(eyes, train, batch=256).codes.var(0).mean()
    np.testing.assert_allclose(spread, 1.0, rtol=1e-3)  # the unit of its distances
    assert seen.codes.min() == 0.0  # after a ReLU


def test_a_referee_sees_images_like_its_own_only(short):
    eyes = referee.referee(data.load("digits"), data.load("digits", "test"))
    with pytest.raises(InputError, match=r"sees images of shape \(8, 8, 1\), those of mine are \(9, 9, 1\)"):
        extract(eyes, in_memory("mine", "all", np.zeros((3, 9, 9, 1), np.uint8)))


def test_a_referee_is_a_function_of_its_data(short, monkeypatch):
    train, test = data.load("digits"), data.load("digits", "test")
    first = referee.referee(train, test)
    monkeypatch.setattr(referee, "_trained", None)  # from the cache: nothing is trained
    again = referee.referee(train, test)
    assert first.digest == again.digest and first.protocol == again.protocol
    with pytest.raises(TypeError):  # other data, another referee
        referee.referee(data.subset(train, np.arange(1000)), test)


def test_extractors_are_chosen_by_name():
    digits = data.load("digits")
    assert extractor_for("pixels", digits).name == "pixels"
    for name, said in (("eyes", "unknown extractor 'eyes'"), ("classifier:photos", r"\(8, 8, 1\)")):
        with pytest.raises(InputError, match=said):
            extractor_for(name, digits)
    with pytest.raises(InputError, match="weights and resize are Inception's"):
        extractor_for("pixels", digits, "x.pt")
    bare = in_memory("digits", "train", digits.take(np.arange(9)).x)
    with pytest.raises(InputError, match="one label"):
        referee.referee(bare, bare)
    same = in_memory("x", "train", np.zeros((9, 8, 8, 1), np.uint8), np.zeros(9))
    with pytest.raises(InputError, match="at least two classes"):
        referee.referee(same, same)


# What else a model is worth


def test_a_model_s_own_scores_are_those_of_their_functions(home):
    model, state = jaxgen.load(home.run("vae"))
    train, test = data.load("digits"), data.load("digits", "test")
    told = trained.Trained(model, state, train, test, 100)
    found = trained.look(told, ["reconstruction", "probe", "ppl"])
    assert set(found) == {"psnr", "ssim", "probe", "ppl"} and found["psnr"].images == 100
    assert "window of 7 pixels" in found["ssim"].how and found["probe"].value > 0.2
    index = np.sort(data.order(test.size, 0, 0, 100))
    x = test.take(index).x / 127.5 - 1.0
    again = np.asarray(sampling.reconstruct(model, state, jnp.asarray(x, jnp.float32)))
    psnr = 10 * np.log10(4.0 / np.mean((x - again) ** 2, axis=(1, 2, 3)))
    np.testing.assert_allclose(found["psnr"].value, psnr.mean(), rtol=1e-4)
    with pytest.raises(InputError, match="grey pixels is no probability"):
        trained.look(told, ["likelihood"])
    with pytest.raises(InputError, match="unknown metric 'nll'"):
        trained.look(told, ["nll"])


# evaluation.json


def score(value):
    return evaluation.Score(value, 0.1, "how", "lower", 100)


def test_an_evaluation_of_the_same_protocol_takes_the_place_of_the_old(tmp_path):
    file = tmp_path / "evaluation.json"
    assert report.read(file) == []
    report.add(file, Evaluation({"fid": score(1.0), "kid": score(2.0)}, {"seed": 0}))
    report.add(file, Evaluation({"fid": score(3.0)}, {"seed": 1}, {"batch": 64}))
    report.add(file, Evaluation({"fid": score(4.0)}, {"seed": 0}))
    one, zero = report.read(file)
    assert one == Evaluation({"fid": score(3.0)}, {"seed": 1}, {"batch": 64})
    assert zero.scores == {"fid": score(4.0), "kid": score(2.0)}  # what was not scored again is kept
    with pytest.raises(InputError, match="different reals"):
        report.comparable([one._replace(protocol={"reals": "a"}), zero._replace(protocol={"reals": "b"})])


def test_an_error_that_is_not_known_is_null(tmp_path):
    file = tmp_path / "evaluation.json"
    report.add(file, Evaluation({"fid": score(1.0)._replace(error=float("nan"))}, {}))
    assert "NaN" not in file.read_text()
    (found,) = report.read(file)
    assert found.scores["fid"].error is None and report.table(found.scores)[1].split() == ["fid", "1"]


@pytest.mark.parametrize("text", ["{", "[]", '{"evaluations": [{"scores": {"fid": 1}}]}', '{"x": 1}'])
def test_a_file_that_is_none_of_ours_is_left_as_it_is(tmp_path, text):
    file = tmp_path / "evaluation.json"
    file.write_text(text)
    with pytest.raises(InputError, match="is no file of evaluations"):
        report.add(file, Evaluation({"fid": score(1.0)}, {}))
    assert file.read_text() == text


def test_numbers_are_written_to_the_place_that_their_error_allows():
    assert report.number(12.3456, 0.234) == "12.35 ± 0.23"
    assert report.number(1234.5, 37.0) == "1234 ± 37" or report.number(1234.5, 37.0) == "1235 ± 37"
    assert report.number(0.00123, 0.00045) == "0.00123 ± 0.00045"
    assert report.number(2.0) == "2" and report.number(2.0, float("nan")) == "2"
    lines = report.columns([("a", "bb"), ("ccc", "d")])
    assert lines == ["a    bb", "ccc   d"]
    assert json.loads(json.dumps(score(1.0)._asdict()))["how"] == "how"
