"""The scores of two sets of features: closed forms, brute force, known cases, and calibrated errors."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import sqrtm
from scipy.spatial.distance import cdist
from sklearn.linear_model import LogisticRegression

from jaxgen.metrics import kernel, neighbours
from jaxgen.metrics.classes import class_coverage
from jaxgen.metrics.estimate import Estimate, as_features, deal, jackknife, mean_of, scaled, share_of
from jaxgen.metrics.frechet import Gaussian, fid, fid_infinity, frechet_distance, gaussian, merge, without
from jaxgen.metrics.inception_score import inception_score
from jaxgen.metrics.kernel import kid
from jaxgen.metrics.neighbours import copying, nearest, prdc
from jaxgen.metrics.probe import linear_probe
from jaxgen.types import InputError

RNG = np.random.default_rng(0)


def draw(n, d, scale=1.0, shift=0.0):
    return (scale * RNG.normal(size=(n, d)) + shift).astype(np.float32)


def rotation(d):
    return np.linalg.qr(RNG.normal(size=(d, d)))[0]


def of(mean, cov, n=10**9):
    return Gaussian(n, np.asarray(mean, np.float64), np.asarray(cov, np.float64))


def stated_over_actual(score, draws):
    """The error that estimates state, by their deviation over draws."""
    found = [score() for _ in range(draws)]
    assert all(isinstance(one, Estimate) for one in found)
    stated = np.sqrt(np.mean([one.error**2 for one in found]))
    return stated / np.std([one.value for one in found], ddof=1)


# Errors


def test_the_jackknife_of_a_mean_is_its_standard_error():
    x = RNG.normal(size=50)
    left_out = (x.sum() - x) / 49
    assert jackknife(left_out) == pytest.approx(x.std(ddof=1) / np.sqrt(50)) == pytest.approx(mean_of(x, "").error)
    assert jackknife(left_out, left_out) == pytest.approx(np.sqrt(2) * jackknife(left_out))
    assert np.isnan(jackknife()) and np.isnan(mean_of([1.0], "").error)
    with np.errstate(all="raise"):
        unknown = mean_of([1.0, np.inf], "")
    assert unknown.value == np.inf and np.isnan(unknown.error)
    assert scaled(Estimate(2.0, 0.5, ""), -3.0) == Estimate(-6.0, 1.5, "")
    hits = RNG.random(400) < 0.3
    assert share_of(hits, "x").error == pytest.approx(hits.std() / np.sqrt(400))


def test_folds_are_dealt_evenly_by_the_seed():
    fold = deal(23, 5, (1, 0))
    assert sorted(np.bincount(fold)) == [4, 4, 5, 5, 5] and np.array_equal(fold, deal(23, 5, (1, 0)))
    assert not np.array_equal(fold, deal(23, 5, (2, 0)))


# Frechet distance


def test_frechet_distance_of_gaussians_that_commute():
    a, b = RNG.uniform(0.1, 3.0, (2, 6))
    mean, q = RNG.normal(size=6), rotation(6)
    truth = mean @ mean + np.sum((np.sqrt(a) - np.sqrt(b)) ** 2)
    assert frechet_distance(of(np.zeros(6), np.diag(a)), of(mean, np.diag(b))) == pytest.approx(truth, rel=1e-12)
    turned = of(np.zeros(6), q * a @ q.T), of(q @ mean, q * b @ q.T)
    assert frechet_distance(*turned) == pytest.approx(truth, rel=1e-10)


def test_frechet_distance_of_singular_gaussians():
    # along two lines at an angle: tr A + tr B - 2 |u . v|
    u, v = RNG.normal(size=(2, 5))
    lines = of(np.zeros(5), np.outer(u, u)), of(np.zeros(5), np.outer(v, v))
    assert frechet_distance(*lines) == pytest.approx(u @ u + v @ v - 2 * abs(u @ v), rel=1e-7)
    point, ball = of(np.ones(5), np.zeros((5, 5))), of(np.zeros(5), 2 * np.eye(5))
    assert frechet_distance(point, ball) == frechet_distance(ball, point) == pytest.approx(15.0)
    assert frechet_distance(point, point) == 0.0


@pytest.mark.parametrize(("n", "m"), [(400, 300), (15, 300), (300, 15), (12, 17), (2, 3)])
def test_frechet_distance_is_a_distance_and_the_nuclear_norm_of_samples(n, m):
    d = 24
    x, y = draw(n, d), draw(m, d, 1.5, 0.3) @ rotation(d).astype(np.float32)
    a, b = gaussian(x), gaussian(y)
    got = frechet_distance(a, b)
    # with centred samples for factors of the covariances the trace is that of their product's singular values
    factors = [(z.astype(np.float64) - z.mean(0, dtype=np.float64)) / np.sqrt(len(z) - 1) for z in (x, y)]
    norm = np.linalg.svd(factors[0] @ factors[1].T, compute_uv=False).sum()
    truth = np.sum((a.mean - b.mean) ** 2) + np.trace(a.cov) + np.trace(b.cov) - 2 * norm
    assert got == pytest.approx(truth, rel=1e-9)
    assert got == pytest.approx(frechet_distance(b, a), rel=1e-9)
    assert frechet_distance(a, a) < 1e-10 * np.trace(a.cov)
    q = rotation(d)
    turned = [of(g.mean @ q, q.T @ g.cov @ q, g.n) for g in (a, b)]
    assert frechet_distance(*turned) == pytest.approx(got, rel=1e-9)
    moved = [g._replace(mean=g.mean + 3.0, cov=4.0 * g.cov) for g in (a, b)]
    gap = np.sum((a.mean - b.mean) ** 2)
    assert frechet_distance(*moved) == pytest.approx(4 * (got - gap) + gap, rel=1e-9)


def test_frechet_distance_equals_scipys_square_root():
    x, y = draw(3000, 40) @ draw(40, 40), draw(2000, 40, 1.1) @ draw(40, 40)
    a, b = gaussian(x), gaussian(y)
    root = np.trace(np.real(sqrtm(a.cov @ b.cov)))
    truth = np.sum((a.mean - b.mean) ** 2) + np.trace(a.cov + b.cov) - 2 * root
    assert frechet_distance(a, b) == pytest.approx(truth, rel=1e-6)


def test_moments_add_and_take_away():
    x = (1e3 + RNG.normal(size=(500, 7))).astype(np.float32)  # far from zero: a sum of squares would lose digits
    exact = x.astype(np.float64)
    parts = [gaussian(x[i]) for i in (slice(0, 200), slice(200, 201), slice(201, 500)) if len(x[i]) > 1]
    full = merge(parts[0], gaussian(x[200:]))
    for got in (gaussian(x), gaussian(x, batch=37), gaussian(jnp.asarray(x), batch=1), full):
        np.testing.assert_allclose(got.mean, exact.mean(0), rtol=1e-13)
        np.testing.assert_allclose(got.cov, np.cov(exact.T), rtol=1e-9, atol=1e-9)
    rest = without(full, parts[0])
    np.testing.assert_allclose(rest.cov, np.cov(exact[200:].T), rtol=1e-8, atol=1e-9)
    assert rest.n == 300 and merge(*parts).n == 499
    with pytest.raises(InputError, match="leave 0"):
        without(parts[0], parts[0])


def test_fid_is_the_distance_and_its_error_covers_both_sets():
    reals, fakes = draw(300, 8), draw(200, 8, 1.3, 0.2)
    got = fid(reals, fakes, seed=3)
    assert got.value == pytest.approx(frechet_distance(gaussian(reals), gaussian(fakes)))
    assert got == fid(reals, fakes, seed=3) and got.error != fid(reals, fakes, seed=4).error
    left_out = [
        [
            frechet_distance(gaussian(reals[keep_r]), gaussian(fakes[keep_f]))
            for f in range(10)
            for keep_r, keep_f in [((folds[0] != f) | (i == 1), (folds[1] != f) | (i == 0))]
        ]
        for folds in [[deal(300, 10, (3, 0)), deal(200, 10, (3, 1))]]
        for i in (0, 1)
    ]
    assert got.error == pytest.approx(jackknife(*left_out), rel=1e-6)
    known = fid(gaussian(reals), fakes, seed=3)
    assert known.value == pytest.approx(got.value) and known.error == pytest.approx(jackknife(left_out[1]), rel=1e-6)
    assert np.isnan(fid(gaussian(reals), gaussian(fakes)).error) and "reals" not in known.how


@pytest.mark.parametrize(("score", "known"), [(fid, False), (fid, True), (fid_infinity, False), (fid_infinity, True)])
def test_errors_of_fid_are_calibrated(score, known):
    reals = of(np.zeros(12), np.eye(12))
    ratio = stated_over_actual(lambda: score(reals if known else draw(300, 12), draw(250, 12, 1.2, 0.1)), 100)
    assert 1 / 1.4 < ratio < 1.5


def test_fid_of_infinitely_many_is_nearer_to_the_closed_form():
    d, m = 40, 400
    truth = d * 0.1**2
    reals = of(np.zeros(d), np.eye(d))
    plain, endless = [], []
    for _ in range(20):
        fakes = draw(m, d, 1.1)
        plain.append(fid(reals, fakes).value)
        endless.append(fid_infinity(reals, fakes).value)
    assert np.mean(plain) - truth > 0.5 and abs(np.mean(endless) - truth) < 0.15 * (np.mean(plain) - truth)
    reals = draw(500, d)
    assert fid_infinity(reals, fakes, seed=1) == fid_infinity(reals, fakes, seed=1)


# Kernel distance


def naive(x, y):
    def k(a, b):
        return (float(a @ b) / len(a) + 1) ** 3

    xx = [k(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j]
    yy = [k(a, b) for i, a in enumerate(y) for j, b in enumerate(y) if i != j]
    return np.mean(xx) + np.mean(yy) - 2 * np.mean([k(a, b) for a in x for b in y])


def test_kid_is_the_double_sum_and_its_error_leaves_tenths_out():
    x, y = (z.astype(np.float64) for z in (draw(30, 6), draw(30, 6, 1.5, 0.5)))
    got = kid(x, y)
    assert got.value == pytest.approx(naive(x, y), rel=1e-4) and got.how.startswith("1 subset of 30;")
    folds = [deal(30, 10, (0, i)) for i in (0, 1)]
    no_x, no_y = ([naive(x[folds[0] != f], y) for f in range(10)], [naive(x, y[folds[1] != f]) for f in range(10)])
    assert got.error == pytest.approx(jackknife(no_x, no_y), rel=1e-3)


def test_kid_keeps_its_digits_where_the_kernel_is_large():
    x, y = (np.abs(draw(400, 256, 0.4, 0.5)) for _ in range(2))  # like pooled features: positive, far from zero
    gram = [(a.astype(np.float64) @ b.T.astype(np.float64) / 256 + 1) ** 3 for a, b in ((x, x), (y, y), (x, y))]
    within = [(g.sum() - np.trace(g)) / (400 * 399) for g in gram[:2]]
    assert abs(kid(x, y).value - (sum(within) - 2 * gram[2].mean())) < 1e-7


def test_kid_has_no_bias_and_its_error_covers_it():
    found = [kid(draw(120, 5), draw(80, 5), size=40, subsets=10, seed=s) for s in range(100)]
    values = np.array([one.value for one in found])
    assert abs(values.mean()) < 4 * values.std() / np.sqrt(100)
    assert (
        1 / 1.4 < stated_over_actual(lambda: kid(draw(120, 5), draw(80, 5, 1.2, 0.3), size=40, subsets=20), 120) < 1.5
    )
    x, y = draw(120, 5), draw(80, 5)
    assert kid(x, y, size=40, seed=5) == kid(x, y, size=40, seed=5) != kid(x, y, size=40, seed=6)


# Inception Score


def log_softmax(z):
    return z - np.log(np.exp(z).sum(1, keepdims=True))


def test_inception_score_of_known_predictions():
    with np.errstate(divide="ignore"):
        sure = np.log(np.eye(7)[np.arange(140) % 7])
    assert inception_score(sure, splits=2).value == pytest.approx(7) == inception_score(sure, splits=1).value
    assert inception_score(np.full((100, 7), -np.log(7))).value == pytest.approx(1)
    two = np.log(np.where(np.arange(100)[:, None] % 2 == [[0, 1]], 0.9, 0.1))
    assert inception_score(two, splits=5).value == pytest.approx(2 * np.exp(0.9 * np.log(0.9) + 0.1 * np.log(0.1)))


def test_inception_score_is_the_published_loop_over_splits():
    log_p = log_softmax(3 * RNG.normal(size=(200, 5)))
    p = np.exp(log_p)
    scores = []
    for part in np.split(p, 10):
        scores.append(np.exp(np.mean([np.sum(row * np.log(row / part.mean(0))) for row in part])))
    got = inception_score(log_p)
    assert got.value == pytest.approx(np.mean(scores)) and got.error == pytest.approx(np.std(scores, ddof=1) / 10**0.5)
    assert f"{np.std(scores):.3g}" in got.how
    assert inception_score(log_p, seed=1) == inception_score(log_p, seed=1) != got
    assert inception_score(log_p, splits=2).value > got.value  # fewer samples, a lower score
    tiny = log_softmax(np.array([[0.0, -1e4], [-1e4, 0.0]] * 10))
    assert inception_score(tiny, splits=1).value == pytest.approx(2)


@pytest.mark.parametrize("splits", [1, 10])
def test_errors_of_the_inception_score_are_calibrated(splits):
    ratio = stated_over_actual(lambda: inception_score(log_softmax(3 * RNG.normal(size=(300, 5))), splits=splits), 200)
    assert 1 / 1.4 < ratio < 1.4


# Neighbours


def brute(reals, fakes, k_precision, k_coverage):
    rr, ff, rf = (cdist(a, b) for a, b in ((reals, reals), (fakes, fakes), (reals, fakes)))
    wide, deep, of_fakes = np.sort(rr)[:, k_precision], np.sort(rr)[:, k_coverage], np.sort(ff)[:, k_precision]
    return (
        np.mean((rf <= wide[:, None]).any(0)),
        np.mean((rf <= of_fakes).any(1)),
        np.mean((rf <= deep[:, None]).sum(0)) / k_coverage,
        np.mean(rf.min(1) <= deep),
    )


@pytest.mark.parametrize(("n", "m", "d"), [(60, 45, 3), (1100, 700, 8), (500, 1500, 40)])
def test_precision_recall_density_coverage_are_those_of_all_pairs(n, m, d):
    reals, fakes = draw(n, d, 1.0, 20.0), draw(m, d, 1.1, 20.1)  # off the centre; one block and several
    got = prdc(reals, fakes, k_precision=3, k_coverage=5)
    np.testing.assert_allclose([one.value for one in got], brute(reals, fakes, 3, 5), atol=2.0 / min(n, m))
    assert got == prdc(reals, fakes)
    other = prdc(reals, fakes, k_precision=7, k_coverage=1)
    np.testing.assert_allclose([one.value for one in other], brute(reals, fakes, 7, 1), atol=2.0 / min(n, m))


def test_precision_recall_density_coverage_of_known_cases():
    x = draw(400, 6)
    same, far = prdc(x, x), prdc(x, x + 100.0)
    assert [one.value for one in same] == pytest.approx([1.0, 1.0, 1.2, 1.0])  # itself and its five nearest, over five
    assert [one.value for one in far] == [0.0] * 4 and [one.error for one in far] == [0.0] * 4
    modes = np.concatenate([draw(200, 6), draw(200, 6, 1.0, 30.0)])
    dropped, spread = prdc(modes, draw(400, 6, 0.5)), prdc(modes, draw(400, 6, 4.0))
    assert dropped.precision.value > 0.95 and dropped.recall.value < 0.5 and dropped.coverage.value < 0.51
    assert spread.precision.value < 0.2 and spread.density.value < 0.2
    fresh = prdc(draw(1000, 6), draw(1000, 6))
    assert abs(fresh.density.value - 1) < 4 * fresh.density.error
    assert fresh.coverage.value == pytest.approx(1 - 2.0**-5, abs=0.02)  # Naeem et al. 2020, appendix: any distribution


def test_errors_of_neighbours_leave_folds_and_their_neighbourhoods_out():
    reals, fakes = draw(90, 3), draw(70, 3, 1.3)
    real_fold, fake_fold = (deal(n, 10, (0, i)) for i, n in enumerate((90, 70)))

    def within(keep_reals, keep_fakes, k):
        """Is a fake inside the ball of a real, [reals, fakes] of those kept."""
        x, y = reals[keep_reals], fakes[keep_fakes]
        return cdist(x, y) <= np.sort(cdist(x, x))[:, [k]]

    def crossed(per, fold):
        effect = np.stack([per[fold == h].mean(0) for h in range(10)])
        effect = effect - effect.mean(1, keepdims=True)
        pairs = [np.sum(effect[g] * effect[h]) for g in range(10) for h in range(10) if g != h]
        return np.sqrt(max(0.9 * np.mean(pairs), 0.0))

    every = slice(None)
    inside = np.stack([within(real_fold != f, every, 3).any(0) for f in range(10)], axis=1)
    alone = [within(every, fake_fold != f, 3).any(0).mean() for f in range(10)]
    covered = np.stack([within(every, fake_fold != f, 5).any(1) for f in range(10)], axis=1)
    fewer = [within(real_fold != f, every, 5).any(1).mean() for f in range(10)]
    got = prdc(reals, fakes)
    assert got.precision.error == pytest.approx(np.hypot(jackknife(alone), crossed(inside, fake_fold)), rel=1e-6)
    assert got.coverage.error == pytest.approx(np.hypot(jackknife(fewer), crossed(covered, real_fold)), rel=1e-6)


@pytest.mark.parametrize("name", ["precision", "recall", "density", "coverage"])
def test_errors_of_neighbours_are_calibrated(name, over_draws):
    found = iter(over_draws)
    assert 1 / 1.4 < stated_over_actual(lambda: getattr(next(found), name), 60) < 1.5


@pytest.fixture(scope="module")
def over_draws():
    rng = np.random.default_rng(1)
    sets = [(rng.normal(size=(200, 6)), 1.3 * rng.normal(size=(150, 6)) + 0.3) for _ in range(60)]
    return [prdc(*both) for both in sets]


def test_nearest_finds_what_differences_find():
    train, queries = draw(1500, 10, 1.0, 50.0), draw(40, 10, 1.0, 50.0)
    queries[:2] = train[[7, 1400]]
    index, distances = nearest(train, queries, 3)
    exact = cdist(queries.astype(np.float64), train.astype(np.float64))
    np.testing.assert_array_equal(index, np.argsort(exact, 1)[:, :3])
    np.testing.assert_allclose(distances, np.sort(exact, 1)[:, :3], rtol=1e-5, atol=1e-6)
    assert list(index[:2, 0]) == [7, 1400] and list(distances[:2, 0]) == [0, 0]


def test_copies_are_found_and_fresh_draws_are_not():
    train, held_out = draw(600, 16), draw(200, 16)
    copies = train[:250] + draw(250, 16, 0.01)
    found, fresh, far = (copying(train, held_out, f) for f in (copies, draw(250, 16), draw(250, 16, 1.0, 3.0)))
    assert found.nearer.value == 1.0 and found.copies.value == 1.0 and found.by_chance.value < 0.02
    assert abs(fresh.nearer.value - 0.5) < 4 * fresh.nearer.error and fresh.copies.value < 0.02
    assert far.nearer.value < 0.01
    mixed = copying(train, held_out, np.concatenate([copies[:50], draw(200, 16)]))
    assert mixed.copies.value == pytest.approx(0.2, abs=0.02) and mixed.copies.error == pytest.approx(0.0253, abs=2e-3)
    line = copying(draw(600, 1), draw(200, 1), draw(250, 1))  # on a line some neighbour is always near
    assert line.by_chance.value > 0.5 and abs(line.copies.value - line.by_chance.value) < 0.2


def test_the_error_of_copying_is_calibrated():
    train = draw(300, 6)
    ratio = stated_over_actual(lambda: copying(train, draw(100, 6), draw(120, 6, 1.1)).nearer, 60)
    assert 1 / 1.4 < ratio < 1.4


# Classes


def predictions(label, k, confidence=0.95):
    p = np.full((len(label), k), (1 - confidence) / (k - 1))
    p[np.arange(len(label)), label] = confidence
    return np.log(p)


def test_classes_that_are_dropped_are_missed():
    reals, fakes = np.arange(1000) % 10, np.arange(600) % 6
    got = class_coverage(predictions(reals, 12), predictions(fakes, 12, 0.8))
    assert got.reached.value == 6.0 and "of 10 classes" in got.reached.how  # two classes have no image
    assert got.kl.value == pytest.approx(np.log(10 / 6), abs=0.01) and got.confident.value == 0.0
    same = class_coverage(predictions(reals, 12), predictions(reals, 12))
    assert (same.reached.value, same.confident.value) == (10.0, 1.0) and abs(same.kl.value) < 0.01
    rare = class_coverage(predictions(reals, 12), predictions(np.where(np.arange(1000) < 5, 1, 0), 12))
    assert rare.reached.value == 1.0  # half a hundredth is less than a tenth of a tenth
    assert got == class_coverage(predictions(reals, 12), predictions(fakes, 12, 0.8))


def test_errors_of_classes_are_calibrated():
    shares = np.array([0.4, 0.3, 0.2, 0.1])

    def score():
        sets = [RNG.choice(4, 300), RNG.choice(4, 200, p=shares)]
        return class_coverage(*(predictions(label, 4) for label in sets)).kl

    assert 1 / 1.4 < stated_over_actual(score, 200) < 1.4


# Linear probe


def test_the_probe_reads_what_is_linear_and_nothing_else():
    x, y = draw(600, 5), draw(400, 5)
    line, ring = [(z[:, 0] + z[:, 1] > 0) + 0 for z in (x, y)], [(z[:, 1] ** 2 > 0.45) + 0 for z in (x, y)]
    x, y = (z * [5, 1, 1, 1, 1] + 9.0 for z in (x, y))
    got = linear_probe(x, line[0], y, line[1])
    assert got.value > 0.97 and got.error == pytest.approx(np.sqrt(got.value * (1 - got.value) / 400))
    assert abs(linear_probe(x, ring[0], y, ring[1]).value - 0.5) < 0.1
    x, y = (z * [30, 1, 1, 1, 1] for z in (x, y))  # now the others hardly vary beside the first
    mean, std = x.mean(0), x.std(0)
    peer = LogisticRegression(C=0.5, max_iter=1000).fit((x - mean) / np.maximum(std, 0.1 * std.max()), line[0])
    share = peer.score((y - mean) / np.maximum(std, 0.1 * std.max()), line[1])
    assert linear_probe(x, line[0], y, line[1], penalty=2.0).value == pytest.approx(share, abs=0.006)
    assert "stopped after 1 iterations" in linear_probe(x, line[0], y, line[1], iterations=1).how


# What is refused

BAD = np.where(np.arange(200).reshape(50, 4) == 77, np.inf, 1.0)
X, P = np.ones((50, 4)), np.full((50, 4), -np.log(4.0))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fid(X, BAD), "row 19 of the features of the fakes is not finite"),
        (lambda: kid(X, X[:, :3]), "reals have 4 dimensions and the fakes 3"),
        (lambda: fid(X, X[:, :3]), "reals have 4 dimensions and the fakes 3"),
        (lambda: prdc(X, X[:11]), "11 features of the fakes are too few: give at least 12"),
        (lambda: prdc(X, X, k_precision=0), "k must be at least 1"),
        (lambda: kid(X, X[:9]), "9 features of the fakes are too few"),
        (lambda: kid(X, X, size=3), "subsets of 3"),
        (lambda: fid(X, X[:3]), "3 features of the fakes are too few: give at least 4"),
        (lambda: fid(X, X, folds=1), "at least 2 folds"),
        (lambda: fid_infinity(X, gaussian(X)), "the fakes are a Gaussian"),
        (lambda: fid_infinity(X, X[:39]), "give at least 40, or fewer sizes"),
        (lambda: gaussian(np.ones((5, 4), int)), "type int64: give floating"),
        (lambda: gaussian(np.ones(5)), "shape \\(5,\\)"),
        (lambda: frechet_distance(gaussian(X), gaussian(X[:, :3])), "4 dimensions"),
        (lambda: frechet_distance(gaussian(X), of(np.full(4, np.nan), np.eye(4))), "not finite"),
        (lambda: inception_score(P[:9]), "10 splits of 9 samples: give 1 to 4"),
        (lambda: inception_score(np.zeros((50, 4))), "row 0 of the samples sums to probability 4, not 1"),
        (lambda: inception_score(np.where(P == P, np.nan, P)), "sums to probability nan"),
        (lambda: class_coverage(P, np.full((50, 5), -np.log(5.0))), "4 classes and the fakes 5"),
        (lambda: copying(X, X[:, :3], X), "dimensions"),
        (lambda: nearest(X, X, 51), "51 neighbours of 50 training examples"),
        (lambda: linear_probe(X, np.zeros(50, int), X, np.zeros(50, int)), "all training labels are the same"),
        (lambda: linear_probe(X, np.arange(49), X, np.zeros(50, int)), "one integer for each of 50"),
        (lambda: linear_probe(X, np.arange(50), X, np.zeros(50)), "test labels are float64"),
    ],
)
def test_what_cannot_be_scored_is_refused_in_one_line(call, message):
    with pytest.raises(InputError, match=message) as refused:
        call()
    assert "\n" not in str(refused.value)


def test_features_of_any_floating_type_are_taken():
    x, y = draw(60, 4), draw(60, 4, 1.2)
    for kind in (np.float16, jnp.bfloat16, np.float64):
        got = fid(jnp.asarray(x, kind) if kind is jnp.bfloat16 else x.astype(kind), y)
        assert got.value == pytest.approx(fid(x, y).value, rel=0.05)
    assert as_features(jnp.asarray(x, jnp.bfloat16), "set").dtype == np.float32


def test_no_metric_imports_scikit_learn_before_it_needs_it():
    code = (
        "import importlib, pkgutil, sys\n"
        "import jaxgen.metrics\n"
        "for found in pkgutil.iter_modules(jaxgen.metrics.__path__):\n"
        "    importlib.import_module(f'jaxgen.metrics.{found.name}')\n"
        "assert 'jaxgen.metrics.frechet' in sys.modules\n"
        "print(*(name for name in ('sklearn', 'torch', 'matplotlib') if name in sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def test_kernels_and_distances_are_products_at_full_precision():
    """On an accelerator the default would be TF32 or bfloat16; the traced operations do not depend on the device."""
    x = jnp.ones((4, 3))
    for function in (kernel._kernel, neighbours._squares):
        with jax.default_matmul_precision("bfloat16"):
            text = str(jax.make_jaxpr(function)(x, x))
        assert text.count("dot_general") == text.count("precision=(Precision.HIGHEST, Precision.HIGHEST)") > 0, text
