"""Uses of an encoder: known numbers for models whose codes are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from jaxgen.conditions import attributes, image, labels
from jaxgen.data import in_memory
from jaxgen.metrics.classifier import pretrained_classifier
from jaxgen.metrics.clusters import agreement, clusters, codes, k_means, principal
from jaxgen.metrics.outliers import auroc, outlier_scores
from jaxgen.metrics.quality import psnr, reconstruction_error
from jaxgen.types import Average, Game, InputError, Model, Prediction, TrainState, normal, one_shot

SIDE, LATENT, CLASSES = 4, 3, 3
RNG = np.random.default_rng(0)
ACROSS, *AXES = np.linalg.qr(RNG.normal(size=(SIDE * SIDE, 1 + LATENT)))[0].T.astype(np.float32)
AXES = np.stack(AXES)  # [D, 16], orthonormal rows


def flat(x):
    return x.reshape(x.shape[0], -1)


def encode(params, extra, x, condition):
    return flat(x) @ params["f"].T


def predict(params, extra, condition):
    return lambda z, t: Prediction((z @ params["f"]).reshape(-1, SIDE, SIDE, 1))


def init(key, batch):
    return {"f": 0.3 * jax.random.normal(key, AXES.shape)}, {}


def prior(params, extra, keys, condition):
    return normal(keys, (LATENT,))


# the projection on three orthonormal axes: what is left out of an image is known
MODEL = Model(Game(init, {"f": lambda *_: None}), prior, predict, one_shot, encode=encode)
STATE = TrainState(jnp.zeros((), jnp.int32), jax.random.key(0), {"f": jnp.asarray(AXES)}, {}, {}, None)


def classes(n, seed, noise=0.02):
    """(x uint8 [n, 4, 4, 1], labels): class c lies along the axis c of the codes, and what varies most lies across."""
    rng = np.random.default_rng(seed)
    label = np.arange(n) % CLASSES
    x = 0.6 * AXES[label] + noise * rng.normal(size=(n, LATENT)) @ AXES + rng.choice([-1, 1], (n, 1)) * ACROSS
    return np.round(np.clip(127.5 * (x + 1), 0, 255)).astype(np.uint8).reshape(n, SIDE, SIDE, 1), label


# Quality


def test_psnr_of_a_known_error_in_decibels():
    x = jnp.zeros((3, 2, 2, 1))
    y = jnp.stack([jnp.full((2, 2, 1), 2.0), jnp.full((2, 2, 1), 0.2), jnp.asarray([0.4, 0, 0, 0]).reshape(2, 2, 1)])
    np.testing.assert_allclose(psnr(x, y), [0.0, 20.0, 20.0], atol=1e-4)
    assert np.all(np.isinf(psnr(x, x))) and np.array_equal(psnr(x, y), psnr(y, x))
    with pytest.raises(InputError, match="one shape"):
        psnr(x, y[:2])


def test_gaussian_noise_of_deviation_sigma_has_20_log10_2_over_sigma_decibels():
    noise = RNG.normal(size=(20, 50, 50, 1))
    for sigma in (0.1, 0.5):
        got = psnr(jnp.zeros(noise.shape), sigma * noise)
        assert abs(float(got.mean()) - 20 * np.log10(2 / sigma)) < 5 * 10 / np.log(10) * np.sqrt(2 / noise.size)


@pytest.mark.parametrize("batch", [7, 128])
def test_the_reconstruction_error_is_the_square_of_what_the_code_leaves_out(batch):
    x, _ = classes(30, 0)
    centred = flat(2.0 * x / 255 - 1)
    left = np.sum((centred - centred @ AXES.T @ AXES) ** 2, axis=1)
    np.testing.assert_allclose(reconstruction_error(MODEL, STATE, x, batch=batch), left, rtol=1e-4)
    np.testing.assert_allclose(
        outlier_scores(MODEL, STATE, centred.reshape(x.shape).astype(np.float32)), left, rtol=1e-4
    )


def test_the_averaged_parameters_are_used_by_default():
    x, _ = classes(5, 0)
    state = STATE._replace(ema=Average({"f": jnp.zeros(AXES.shape)}, {}))
    np.testing.assert_allclose(
        reconstruction_error(MODEL, state, x), np.sum(flat(2.0 * x / 255 - 1) ** 2, 1), rtol=1e-4
    )
    plain = reconstruction_error(MODEL, STATE, x)
    np.testing.assert_array_equal(reconstruction_error(MODEL, state, x, ema=False), plain)


# Outliers


def test_auroc_counts_pairs_and_halves_ties():
    scores, truth = np.array([3.0, 1.0, 2.0, 2.0, 0.0]), np.array([1, 1, 0, 1, 0], bool)
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[truth] for b in scores[~truth]]
    got = auroc(scores, truth)
    assert got.value == np.mean(pairs) == roc_auc_score(truth, scores) and got.how.startswith(
        "3 outliers and 2 inliers"
    )
    assert auroc(-scores, truth).value == pytest.approx(1 - got.value)
    assert auroc(np.ones(5), truth).value == 0.5 and auroc(truth, truth)[:2] == (1.0, 0.0)


def test_its_error_is_the_deviation_over_draws_of_exponential_scores():
    truth = np.arange(60) < 20
    found = [auroc(RNG.exponential(np.where(truth, 3.0, 1.0)), truth) for _ in range(600)]
    values = np.array([one.value for one in found])
    assert abs(values.mean() - 0.75) < 5 * values.std() / np.sqrt(600)  # P(3 E > E') = 3 / 4
    assert np.mean([one.error for one in found]) == pytest.approx(values.std(), rel=0.1)


def test_what_lies_across_the_code_is_found_to_be_an_outlier():
    x, _ = classes(60, 1)
    strange = np.clip(127.5 + 100 * RNG.normal(size=x.shape), 0, 255).astype(np.uint8)
    scores = outlier_scores(MODEL, STATE, np.concatenate([x, strange]))
    assert auroc(scores, np.arange(120) >= 60).value > 0.99


def test_a_relative_score_does_not_depend_on_the_contrast_above_black():
    ink = RNG.uniform(0.2, 2.0, size=(5, SIDE, SIDE, 1)).astype(np.float32)
    model = MODEL._replace(  # linear in the ink
        encode=lambda params, extra, x, condition: encode(params, extra, x + 1.0, condition),
        predict=lambda params, extra, condition: (
            lambda z, t: Prediction(predict(params, extra, condition)(z, t).x0 - 1.0)
        ),
    )
    full, faint = (outlier_scores(model, STATE, share * ink - 1, relative=True) for share in (1.0, 0.5))
    np.testing.assert_allclose(full, faint, rtol=1e-4)
    np.testing.assert_allclose(full, outlier_scores(model, STATE, ink - 1) / np.sum(flat(ink) ** 2, 1), rtol=1e-5)


@pytest.mark.parametrize(
    ("scores", "truth", "message"),
    [
        (np.ones(3), np.ones(3), "3 outliers among 3 examples: both kinds"),
        (np.ones(3), np.zeros(2), "one score and one truth"),
        (np.array([1, np.nan]), [0, 1], "not finite"),
    ],
)
def test_scores_without_a_meaning_are_refused(scores, truth, message):
    with pytest.raises(InputError, match=message):
        auroc(scores, truth)


# Clusters


def test_agreement_does_not_know_the_clusters_numbers():
    label = np.array([0, 0, 0, 1, 1, 2])
    accuracy, *indices = agreement([5, 5, 5, 3, 3, 9], label)
    assert accuracy[:2] == (1.0, 0.0) and indices == pytest.approx([1.0, 1.0])
    got = agreement([1, 1, 0, 0, 0, 2], label)  # one of class 0 is in the cluster of class 1
    assert got.accuracy[:2] == pytest.approx((5 / 6, np.sqrt(5 / 6 / 6 / 6)))
    # more clusters than classes: one each counts; one cluster for all: the largest class
    one = agreement(np.zeros(6), label)
    assert agreement(np.arange(6), label).accuracy.value == one.accuracy.value == 0.5 and one.nmi == 0.0


def test_random_clusters_agree_by_chance_only():
    label = np.arange(6000) % 3
    got = agreement(RNG.integers(0, 3, 6000), label)
    assert abs(got.accuracy.value - 1 / 3) < 0.03 and abs(got.ari) < 0.002 and got.nmi < 0.002


def test_codes_cluster_where_pixels_do_not():
    x, label = classes(150, 2)
    got = clusters(MODEL, STATE, x, label)
    assert got.codes.accuracy.value > 0.99 and got.codes.ari > 0.97
    assert got.pixels.accuracy.value < 0.95 and (got.k, got.images) == (3, 150)
    assert len(set(k_means(codes(MODEL, STATE, x), 5))) == 5
    with pytest.raises(InputError, match="151 clusters of 150 images"):
        clusters(MODEL, STATE, x, label, k=151)
    with pytest.raises(InputError, match="no encoder"):
        clusters(MODEL._replace(encode=None), STATE, x, label)


def test_principal_components_keep_the_most_of_the_variance():
    z = RNG.normal(size=(500, 4)) * [1.0, 5.0, 0.1, 2.0] @ np.linalg.qr(RNG.normal(size=(4, 4)))[0] + 7.0
    points, shares = principal(z)
    values = np.linalg.svd(z - z.mean(0), compute_uv=False)[:2] ** 2
    np.testing.assert_allclose(points.var(0) * 500, values, rtol=1e-8)
    np.testing.assert_allclose(shares, values / np.sum((z - z.mean(0)) ** 2), rtol=1e-8)
    assert abs(np.corrcoef(points.T)[0, 1]) < 1e-8
    np.testing.assert_array_equal(principal(z[:, :2])[0], z[:, :2])  # a plane is drawn as it is
    with pytest.raises(InputError, match="one dimension"):
        principal(z[:, :1])


# Classifiers


def sets(n=300, noise=0.02):
    names = tuple("abc")
    return [in_memory("classes", s, *classes(n, i, noise), names) for i, s in enumerate(("train", "test"))]


def test_a_good_encoder_needs_few_labels():
    train, test = sets()
    (row, more) = pretrained_classifier(MODEL, STATE, train, test, labels=(3, 150), seeds=2, steps=60)
    assert row.labels == 3 and more.labels == 150
    assert row.frozen.value > 0.99 and row.tuned.value > 0.99  # three labels do, one a class
    assert row.scratch.value < row.tuned.value - 0.1 and row.scratch.error > 0
    assert more.scratch.value > row.scratch.value + 0.1


def test_nothing_is_learnt_where_nothing_can_be_and_the_seeds_decide():
    train, test = sets()
    shuffled = np.random.default_rng(0).integers(0, CLASSES, test.size)
    test = in_memory("shuffled", "test", test.take(np.arange(test.size)).x, shuffled, train.classes)
    rows = [list(pretrained_classifier(MODEL, STATE, train, test, labels=(30,), seeds=2, steps=30)) for _ in range(2)]
    assert rows[0] == rows[1]
    assert all(abs(share.value - 1 / 3) < 5 * np.sqrt(2 / 9 / 300) for share in rows[0][0][1:])


def test_training_on_changes_the_network_and_an_encoder_without_a_slope_is_only_its_head():
    train, test = sets(noise=0.3)

    def steps(params, extra, x, condition):
        return jnp.sign(encode(params, extra, x, condition) - 0.3)

    (row,) = pretrained_classifier(MODEL._replace(encode=steps), STATE, train, test, labels=(30,), seeds=1, steps=40)
    (slopes,) = pretrained_classifier(MODEL, STATE, train, test, labels=(30,), seeds=1, steps=40)
    assert np.isnan(row.frozen.error) and abs(row.tuned.value - row.frozen.value) < 0.05
    assert slopes.tuned.value != slopes.frozen.value


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (MODEL._replace(encode=None), {}, "no encoder"),
        (MODEL._replace(condition=labels(3)), {}, "given the label"),
        (MODEL._replace(condition=attributes(3)), {}, "given the label"),
        (MODEL, {"labels": (2,)}, "2 labels for the 3 classes"),
        (MODEL, {"labels": (3000,)}, "give fewer"),
        (MODEL, {"labels": ()}, "labels must be at least 1"),
        (MODEL, {"seeds": 0}, "seeds must be at least 1"),
        (MODEL, {"images": 301}, "301 images: classes has 1 to 300"),
    ],
)
def test_a_comparison_that_cannot_be_is_refused_before_anything_is_trained(model, options, message):
    with pytest.raises(InputError, match=message):
        pretrained_classifier(model, STATE, *sets(), **{"labels": (3,), **options})


def test_a_condition_that_is_derived_from_the_image_gives_no_label_away():
    model = MODEL._replace(
        condition=image(lambda x: x[:, :2], (2, SIDE, 1)),
        encode=lambda params, extra, x, condition: flat(x) @ params["f"].T + 0.0 * jnp.sum(flat(condition), 1)[:, None],
    )
    (row,) = pretrained_classifier(model, STATE, *sets(), labels=(3,), seeds=1, steps=30)
    assert row.frozen.value > 0.99


def test_a_fresh_start_is_initialised_on_real_normalised_labelled_images():
    batches = []

    def recording(key, batch):
        batches.append(batch)
        return init(key, batch)

    train, test = sets()
    model = MODEL._replace(game=MODEL.game._replace(init=recording))
    list(pretrained_classifier(model, STATE, train, test, labels=(30,), seeds=2, steps=1, batch=20))
    assert [batch.x.shape for batch in batches] == [(20, SIDE, SIDE, 1)] * 2
    known = {x.tobytes(): label for x, label in zip(*train.take(np.arange(train.size)), strict=True)}
    for batch in batches:
        x = np.round((np.asarray(batch.x) + 1) * 127.5).astype(np.uint8)
        assert [known[one.tobytes()] for one in x] == list(batch.condition)
    assert not np.array_equal(batches[0].x, batches[1].x)  # each seed draws its own
