"""From images to scores: features, floors, the registry of metrics, and evaluation.json."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _tiny import home
from jax.tree_util import Partial

import jaxgen
from jaxgen import data, sampling
from jaxgen.conditions import labels, optional, several
from jaxgen.data import Dataset, in_memory, to_uint8
from jaxgen.metrics import evaluation, referee, report, trained
from jaxgen.metrics.estimate import Estimate
from jaxgen.metrics.evaluation import METRICS, NEEDS, Sets, drawn, evaluate, extractor_for, halves, samples, scored
from jaxgen.metrics.features import Extractor, Features, extract, pixels
from jaxgen.metrics.frechet import frechet_distance, gaussian
from jaxgen.metrics.pieces import conditions_at
from jaxgen.metrics.report import Evaluation, Score
from jaxgen.processes import cosine
from jaxgen.types import Batch, Density, Game, InputError, Model, Prediction, TrainState, normal

__all__ = ["home"]
RNG = np.random.default_rng(0)
SIDE = 4


def predict(params, extra, condition):
    shift = 0.0 if condition is None else 0.05 * condition.reshape(-1, 1, 1, 1)
    return lambda z, t: Prediction(0.3 * z + shift)


# an image is its own latent: what is drawn is known
MODEL = Model(
    Game(lambda key, batch: ({}, {}), {}),
    lambda params, extra, keys, condition: normal(keys, (SIDE, SIDE, 1)),
    predict,
    sampling.iterate(sampling.ddim(cosine()), sampling.uniform(1)),
    process=cosine(),
)
STATE = TrainState(jnp.zeros((), jnp.int32), jax.random.key(0), {}, {}, {}, None)


def counting(x: np.ndarray, calls: list) -> Dataset:
    def take(index):
        calls.append(len(index))
        return Batch(x[index])

    return Dataset("counted", "all", len(x), x.shape[1:], take, streaming=True)


# Features


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_features_do_not_depend_on_how_images_are_read(batch):
    x, calls = RNG.integers(0, 256, (30, SIDE, SIDE, 3), np.uint8), []
    vectors = extract(pixels(), counting(x, calls), batch=batch).vectors
    np.testing.assert_allclose(vectors, x.reshape(30, -1) / 127.5 - 1.0, atol=1e-6)
    assert set(calls) == {min(batch, 30)}  # never more at once, and one shape
    index = np.array([4, 4, 29])
    some = extract(pixels(), in_memory("x", "all", x), index, batch=batch).vectors
    np.testing.assert_array_equal(some, vectors[index])


def test_floats_have_the_features_of_the_file_that_they_would_be():
    x = RNG.uniform(-1.2, 1.2, (5, SIDE, SIDE, 1)).astype(np.float32)
    rounded = extract(pixels(), in_memory("x", "all", np.asarray(to_uint8(jnp.asarray(x)))))
    np.testing.assert_array_equal(extract(pixels(), in_memory("x", "all", x)).vectors, rounded.vectors)


def test_features_are_cached_by_the_content_of_the_images(monkeypatch, tmp_path):
    monkeypatch.setenv("JAXGEN_CACHE", str(tmp_path))
    calls = []

    def apply(gain, x):
        jax.debug.callback(lambda: calls.append(1))
        h = gain * x.reshape(x.shape[0], -1).astype(jnp.float32)
        return h, jax.nn.log_softmax(h)

    extractor = Extractor("net", "a", Partial(apply, jnp.ones(())))
    x = RNG.integers(0, 256, (9, SIDE, SIDE, 1), np.uint8)

    def count(extractor, x):
        calls.clear()
        found = extract(extractor, in_memory("x", "all", x), keep=True)
        jax.effects_barrier()
        return found, len(calls)

    first, once = count(extractor, x)
    again, never = count(extractor, x.copy())
    assert (once, never) == (1, 0)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    changed = x.copy()
    changed[3, 0, 0, 0] ^= 1  # one bit of one pixel, under the same name
    for other in ((extractor, changed), (extractor._replace(digest="b"), x), (extractor, x[:8])):
        found, n = count(*other)
        assert n == 1 and len(found.vectors) == len(other[1])
    file = max(tmp_path.glob("features-net-x-*"), key=lambda p: p.stat().st_size)
    file.write_bytes(file.read_bytes()[:-3] + b"abc")
    repaired, _ = count(extractor, x)
    assert np.array_equal(repaired.vectors, first.vectors)


def test_points_and_nothing_are_no_images():
    with pytest.raises(InputError, match=r"extractors take images \[H, W, 1 or 3\]"):
        extract(pixels(), in_memory("rings", "all", np.zeros((3, 2), np.float32)))
    with pytest.raises(InputError, match="no images to take features of"):
        extract(pixels(), in_memory("x", "all", np.zeros((3, 2, 2, 1), np.uint8)), np.zeros(0, int))


# Samples as a data set


def test_any_samples_can_be_drawn_by_their_place():
    set_ = samples(MODEL, STATE, data.load("digits"), 50, seed=3)
    everything = np.asarray(sampling.sample(MODEL, STATE, jax.random.key(3), 50))
    index = np.array([49, 0, 7])
    np.testing.assert_array_equal(set_.take(index).x, everything[index])
    assert set_.streaming and set_.size == 50


def test_conditions_are_those_of_the_data_unless_one_is_given():
    x = np.zeros((20, SIDE, SIDE, 1), np.uint8)
    few = in_memory("few", "train", x, np.repeat([2, 5], 10), tuple("0123456789"))
    given, plain = (samples(m, STATE, few, 20) for m in (MODEL._replace(condition=labels(10)), MODEL))
    shift = np.asarray(given.take(np.arange(20)).x) - np.asarray(plain.take(np.arange(20)).x)
    found = np.round(shift.mean((1, 2, 3)) / 0.05)
    assert sorted(found) == [2.0] * 10 + [5.0] * 10  # every example's condition once
    some = few._replace(take=lambda i: Batch(x[i], np.where(np.asarray(i) < 2, 5, -1)))  # learning from few labels
    given = samples(MODEL._replace(condition=labels(10)), STATE, some, 20)
    shift = np.asarray(given.take(np.arange(20)).x) - np.asarray(plain.take(np.arange(20)).x)
    np.testing.assert_allclose(shift, 0.25, atol=1e-6)
    one = samples(MODEL._replace(condition=labels(10)), STATE, few, 20, condition=9)
    np.testing.assert_allclose(one.take(np.arange(3)).x - plain.take(np.arange(3)).x, 0.45, atol=1e-6)


@pytest.mark.parametrize("steps", [1, 7])
def test_network_evaluations_are_counted(steps):
    def count(model=MODEL, **options):
        return sampling.evaluations(model, STATE, **options)

    solver = sampling.named(MODEL, "ddim", steps)
    assert count(sampler=solver) == steps
    assert count(MODEL._replace(condition=labels(10)), sampler=solver, guidance=2.0) == 2 * steps
    assert count() == 1


# Scores


def gaussians(n, seed, shift=0.0):
    return Features((np.random.default_rng(seed).normal(size=(n, 3)) + shift).astype(np.float32))


def test_a_score_has_that_of_held_out_images_at_its_number_as_a_floor():
    reals, held_out, fakes = gaussians(600, 0), gaussians(200, 1), gaussians(500, 2, shift=1.0)
    found = scored(Sets(reals, fakes, held_out), ["fid"])["fid"]

    def fid(a, b):
        return frechet_distance(gaussian(a.vectors), gaussian(b.vectors))

    np.testing.assert_allclose(found.value, fid(reals, fakes))
    np.testing.assert_allclose(found.floor.value, fid(reals, held_out))
    np.testing.assert_allclose(found.at_floor.value, fid(reals, fakes.rows(slice(200))))
    assert (found.images, found.floor_images, found.better) == (500, 200, "lower")
    assert all(isinstance(each, Estimate) and each.error > 0 for each in (found.estimate, found.floor, found.at_floor))
    assert found.floor.value < 0.2 < 2.0 < found.value
    few = scored(Sets(reals, fakes.rows(slice(150)), held_out), ["fid"])["fid"]
    assert few.floor_images == 150 and few.at_floor == few.estimate
    alone = scored(Sets(reals, fakes), ["fid"])["fid"]
    a, b = halves(reals)
    np.testing.assert_allclose([alone.floor.value, alone.at_floor.value], [fid(a, b), fid(a, fakes.rows(slice(300)))])
    assert alone.floor_images == 300 and alone.value == found.value


def test_two_sets_of_images_are_scored_by_their_features(monkeypatch, tmp_path):
    monkeypatch.setenv("JAXGEN_CACHE", str(tmp_path))
    x = [in_memory("x", "all", RNG.integers(0, 256, (n, 2, 2, 1), np.uint8)) for n in (120, 60, 50)]
    extractor, features = pixels(), [extract(pixels(), each, data.order(each.size, 0, 0, each.size)) for each in x]
    found = evaluate(x[0], x[1], extractor, held_out=x[2])
    names = ["fid", "kid", "prdc", "copying"]  # those that need no classes
    assert found.scores == scored(Sets(*features), names)
    assert found.protocol["reals"] == "120 images of x all" and found.protocol["samples"] == 60
    assert found.protocol["held_out"] == "50 images of x all"
    few = evaluate(x[0], x[1], extractor, ["fid"], references=70, seed=5)
    some, fakes = (extract(extractor, each, data.order(each.size, 5, 0, n)) for each, n in ((x[0], 70), (x[1], 60)))
    assert few.scores["fid"].value == scored(Sets(some, fakes, seed=5), ["fid"])["fid"].value


def test_without_held_out_images_the_protocol_states_the_halves_and_copying_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("JAXGEN_CACHE", str(tmp_path))
    x = [in_memory("x", "all", RNG.integers(0, 256, (n, 2, 2, 1), np.uint8)) for n in (120, 60)]
    found = evaluate(*x, pixels())
    assert found.protocol["held_out"] == "none: the floor is that of two halves of the reference set"
    assert set(found.scores) == {"fid", "kid", "precision", "recall", "density", "coverage"}  # by default no copying
    assert found.scores["fid"].floor_images == 60
    for call in (
        lambda: evaluate(*x, pixels(), ["fid", "copying"]),
        lambda: scored(Sets(gaussians(20, 0), gaussians(20, 1)), ["copying"]),
        lambda: METRICS["copying"].score(Sets(gaussians(20, 0), gaussians(20, 1))),
    ):
        with pytest.raises(InputError, match="copying needs real images that are not in the reference set"):
            call()


def test_images_that_lie_class_by_class_are_drawn_from_all_classes():
    x = np.repeat(np.arange(100, dtype=np.uint8), 30)[:, None, None, None] * np.ones((1, 1, 1, 1), np.uint8)
    first = drawn(pixels(), in_memory("sorted", "all", x), 600, 0).vectors[:300].ravel()  # as a score takes them
    assert len(np.unique(first)) > 80 and abs(first.mean() - (2 * 49.5 / 255 - 1)) < 0.06


def test_classes_without_names_are_classes(monkeypatch, tmp_path):
    monkeypatch.setenv("JAXGEN_CACHE", str(tmp_path))

    def apply(x):
        h = x.reshape(x.shape[0], -1).astype(jnp.float32)
        return h, jax.nn.log_softmax(h / 64)

    x = [in_memory("x", "all", RNG.integers(0, 256, (60, 2, 2, 1), np.uint8)) for _ in range(2)]
    found = evaluate(*x, Extractor("nameless", "a", Partial(apply)), ["is"]).scores["is"]
    assert 1.0 < found.value < 4.0


def test_halves_are_disjoint_and_everything():
    reals = Features(np.arange(11, dtype=np.float32)[:, None])
    a, b = halves(reals, seed=4)
    assert sorted([*a.vectors.ravel(), *b.vectors.ravel()]) == list(range(11))
    assert abs(len(a.vectors) - len(b.vectors)) <= 1
    with pytest.raises(InputError, match="cannot be divided"):
        halves(reals.rows(slice(3)))


def test_copies_are_detected_by_copying_and_by_nothing_else():
    reals, held_out = gaussians(800, 0), gaussians(800, 1)
    for fakes, low, high in ((gaussians(800, 2), 0.4, 0.6), (reals, 0.999, 1.0)):
        scores = scored(Sets(reals, fakes, held_out), ["fid", "prdc", "copying"])
        assert low <= scores["copying"].value <= high and scores["copying"].floor is None
        assert scores["fid"].value < 0.1 and scores["precision"].value > 0.8 and scores["recall"].value > 0.8


def test_every_metric_names_its_scores_and_which_way_is_better():
    rng = np.random.default_rng(0)
    sets = [
        Features(rng.normal(size=(200, 3)).astype(np.float32), np.log(rng.dirichlet(np.ones(4), 200))) for _ in range(3)
    ]
    names = [name for metric in METRICS.values() for name in metric.better]
    assert len(names) == len(set(names))  # a score's name identifies its metric
    for name, metric in METRICS.items():
        assert metric.needs <= set(NEEDS) and set(metric.better.values()) <= {"lower", "higher", ""}
        if "model" not in metric.needs:
            found = metric.score(Sets(*sets))
            assert set(found) == set(metric.better), name
            assert all(isinstance(each, Estimate) for each in found.values())
    with pytest.raises(InputError, match="unknown metric 'fud': choose of fid"):
        scored(Sets(*sets), ["fud"])
    with pytest.raises(InputError, match="is needs an extractor that predicts classes"):
        scored(Sets(sets[0], Features(sets[1].vectors)), ["is"])
    with pytest.raises(InputError, match="probe needs a model: two sets of images have no such score"):
        scored(Sets(*sets), ["probe"])


def test_by_default_all_metrics_are_computed_whose_needs_are_met():
    assert evaluation.choose(None, []) == ["fid", "kid", "prdc"]
    assert evaluation.choose(None, ["classes"]) == ["fid", "kid", "is", "prdc", "classes"]
    assert evaluation.choose(None, NEEDS) == ["fid", "kid", "is", "prdc", "classes", "copying"]


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


def test_a_referee_classifies_its_data_and_states_its_accuracy(short):
    train, test = data.load("digits"), data.load("digits", "test")
    extractor = referee.referee(train, test)
    found = extract(extractor, test)
    right = np.mean(np.argmax(found.log_probs, 1) == data.labels_of(test))
    assert right > 0.85 and extractor.protocol["accuracy"].startswith(f"{right:.4f} on 297 images")
    assert extractor.name == "classifier:digits" and extractor.classes == train.classes
    np.testing.assert_allclose(np.exp(found.log_probs).sum(1), 1.0, atol=1e-5)
    spread = extract(extractor, train, batch=256).vectors.var(0).mean()
    np.testing.assert_allclose(spread, 1.0, rtol=1e-3)  # the unit of its distances
    assert found.vectors.min() == 0.0  # after a ReLU


def test_a_referee_takes_images_of_its_own_shape_only(short):
    extractor = referee.referee(data.load("digits"), data.load("digits", "test"))
    with pytest.raises(InputError, match=r"takes images of shape \(8, 8, 1\), those of mine are \(9, 9, 1\)"):
        extract(extractor, in_memory("mine", "all", np.zeros((3, 9, 9, 1), np.uint8)))


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
    for name, message in (("resnet", "unknown extractor 'resnet'"), ("classifier:photos", r"\(8, 8, 1\)")):
        with pytest.raises(InputError, match=message):
            extractor_for(name, digits)
    with pytest.raises(InputError, match="weights and resize are Inception's"):
        extractor_for("pixels", digits, "x.pt")
    bare = in_memory("digits", "train", digits.take(np.arange(9)).x)
    with pytest.raises(InputError, match="one label"):
        referee.referee(bare, bare)
    same = in_memory("x", "train", np.zeros((9, 8, 8, 1), np.uint8), np.zeros(9, int))
    with pytest.raises(InputError, match="at least two classes"):
        referee.referee(same, same)


# Scores of a model


def test_a_model_s_own_scores_are_those_of_their_functions(home):
    model, state = jaxgen.load(home.run("vae"))
    train, test = data.load("digits"), data.load("digits", "test")
    own = trained.Trained(model, state, train, test, 100)
    found = evaluation.scored_model(own, ["reconstruction", "probe", "ppl"])
    assert set(found) == {"psnr", "ssim", "probe", "ppl"} and found["psnr"].images == 100
    assert "window of 7 pixels" in found["ssim"].estimate.how and found["probe"].value > 0.2
    index = np.sort(data.order(test.size, 0, 0, 100))
    x = test.take(index).x / 127.5 - 1.0
    again = np.asarray(sampling.reconstruct(model, state, jnp.asarray(x, jnp.float32)))
    psnr = 10 * np.log10(4.0 / np.mean((x - again) ** 2, axis=(1, 2, 3)))
    np.testing.assert_allclose(found["psnr"].value, psnr.mean(), rtol=1e-4)
    with pytest.raises(InputError, match="grey pixels is no probability"):
        evaluation.scored_model(own, ["likelihood"])
    with pytest.raises(InputError, match="unknown metric 'nll'"):
        evaluation.scored_model(own, ["nll"])


def test_the_conditions_of_a_data_set_are_any_tree_read_a_few_at_a_time(monkeypatch):
    monkeypatch.setattr("jaxgen.metrics.pieces.CHUNK", 7)
    x = RNG.integers(0, 256, (20, SIDE, SIDE, 1), np.uint8)
    few = in_memory("few", "train", x, np.arange(20) % 10)
    tree = several(a=optional(labels(10)), b=labels(10))
    set_ = few._replace(take=lambda i: Batch(x[i], {"a": np.asarray(i) % 10, "b": np.asarray(i) % 3}))
    index = np.arange(3, 20)
    found = conditions_at(tree, set_, index)
    np.testing.assert_array_equal(found["a"].value, index % 10)
    np.testing.assert_array_equal(found["b"], index % 3)
    assert found["a"].known.all() and conditions_at(None, few, index) is None

    def of_tree(params, extra, condition):
        shift = 0.05 * (condition["a"].value + condition["b"]).reshape(-1, 1, 1, 1)
        return lambda z, t: Prediction(0.3 * z + shift)

    given = samples(MODEL._replace(condition=tree, predict=of_tree), STATE, set_, 20)
    plain = samples(MODEL, STATE, set_, 20)
    shift = np.asarray(given.take(np.arange(20)).x) - np.asarray(plain.take(np.arange(20)).x)
    wanted = sorted(i % 10 + i % 3 for i in range(20))
    np.testing.assert_allclose(sorted(shift.mean((1, 2, 3)) / 0.05), wanted, atol=1e-3)
    paths = trained.Trained(MODEL._replace(condition=tree, predict=of_tree), STATE, set_, None, 30)
    assert evaluation.scored_model(paths, ["ppl"])["ppl"].images == 30  # more paths than examples


def test_features_are_computed_at_full_precision():
    precisions = []

    def apply(x):
        precisions.append(jax.config.jax_default_matmul_precision)
        return jnp.zeros((x.shape[0], 2)), None

    extract(Extractor("net", "a", Partial(apply)), in_memory("x", "all", np.zeros((3, 2, 2, 1), np.uint8)))
    assert precisions[-1] == "highest"


def test_a_model_without_held_out_data_or_density_has_no_such_scores(home):
    model, state = jaxgen.load(home.run("vae"))
    digits = data.load("digits")
    alone = trained.Trained(model, state, digits, None, 40)
    for name in ("likelihood", "reconstruction", "probe"):
        with pytest.raises(InputError, match=f"{name} needs held-out data of the model's own data set"):
            evaluation.scored_model(alone, [name])
    found = evaluate(digits, digits, None, ["ppl"], trained=alone)
    assert set(found.scores) == {"ppl"} and found.protocol["held_out"] == "none"
    both = evaluate(digits, data.subset(digits, np.arange(200)), pixels(), ["fid", "ppl"], trained=alone)
    assert set(both.scores) == {"fid", "ppl"} and both.scores["ppl"].floor is None
    with pytest.raises(InputError, match="need an extractor"):
        evaluate(digits, digits, None, ["fid"], trained=alone)
    exact = model._replace(density=Density(lambda p, e, keys, batch, k: jnp.ones((len(keys), k)), "exact", "a density"))
    test = data.load("digits", "test")
    found = evaluation.scored_model(alone._replace(model=exact, test=test), ["likelihood"])
    assert set(found) == {"nll", "bits"} and found["nll"].value == -1.0 and found["nll"].images == 40


# evaluation.json


def score(value):
    return Score(Estimate(value, 0.1, "how"), "lower", 100, Estimate(0.5, 0.2, "floor"), 90)


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
    unknown = score(1.0)._replace(estimate=Estimate(1.0, float("nan"), "how"), floor=None, floor_images=None)
    report.add(file, Evaluation({"fid": unknown}, {}))
    assert "NaN" not in file.read_text()
    (found,) = report.read(file)
    assert np.isnan(found.scores["fid"].estimate.error) and report.table(found.scores)[1].split() == ["fid", "1"]


@pytest.mark.parametrize("text", ["{", "[]", '{"evaluations": [{"scores": {"fid": 1}}]}', '{"x": 1}'])
def test_another_file_is_left_as_it_is(tmp_path, text):
    file = tmp_path / "evaluation.json"
    file.write_text(text)
    with pytest.raises(InputError, match="is no file of evaluations"):
        report.add(file, Evaluation({"fid": score(1.0)}, {}))
    assert file.read_text() == text


def test_numbers_are_written_to_the_place_that_their_error_allows():
    for value, error, text in [
        (12.3456, 0.234, "12.35 ± 0.23"),
        (1234.4, 37.0, "1234 ± 37"),
        (0.00123, 0.00045, "0.00123 ± 0.00045"),
        (12.0, 120.0, "12 ± 120"),
        (2.0, float("nan"), "2"),
        (2.0, 0.0, "2 ± 0"),
        (float("inf"), float("nan"), "inf"),
    ]:
        assert report.number(Estimate(value, error, "")) == text
    lines = report.columns([("a", "bb"), ("ccc", "d")])
    assert lines == ["a    bb", "ccc   d"]
    assert json.loads(json.dumps(score(1.0).estimate._asdict()))["how"] == "how"
