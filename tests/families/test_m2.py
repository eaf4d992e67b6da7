"""M2 against the mixture of linear Gaussian models, whose likelihood and both posteriors are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _functions import drawn, losses_of
from scipy import stats
from scipy.special import log_softmax, logsumexp

from jaxgen.conditions import labels
from jaxgen.families import m2, vae
from jaxgen.families.m2 import log_q as log_q_of
from jaxgen.losses.likelihood import gaussian
from jaxgen.nets import Network
from jaxgen.types import Batch, InputError

SIGMA, LATENT, DIMS, CLASSES = 0.6, 2, 4, 3
RNG = np.random.default_rng(0)
# orthogonal columns: the posterior's covariance is diagonal, as the encoder's is
W = np.linalg.qr(RNG.normal(size=(DIMS, LATENT)))[0] * [1.5, 0.7]
B = RNG.normal(size=(CLASSES, DIMS))
VAR = 1 / (1 + np.sum(W**2, axis=0) / SIGMA**2)
GAIN, RAW = W * VAR / SIGMA**2, 15 * np.arctanh(np.log(VAR) / 15)  # the family reads 15 tanh(. / 15)
PRECISION = np.linalg.inv(W @ W.T + SIGMA**2 * np.eye(DIMS))
X = np.float32(RNG.normal(size=DIMS))
MANY = 20_000
KEYS = jax.random.split(jax.random.key(0), MANY)
# log p(x | y) is linear in x but for a term that no y changes: the exact q(y|x) is a linear classifier
EXACT = {"w": PRECISION @ B.T, "b": -0.5 * np.einsum("yi,ij,yj->y", B, PRECISION, B)}
WRONG = {"w": 0.3 * EXACT["w"], "b": EXACT["b"] + [0.5, -1.0, 0.0]}
EVIDENCE = stats.multivariate_normal.logpdf(X - B, cov=np.linalg.inv(PRECISION)) - np.log(CLASSES)  # log p(x, y), [y]


def nothing(key, *inputs):
    return {}, {}


def encoded(params, extra, x, y, train=False):
    mean = (x - jnp.float32(B)[y]) @ GAIN
    return jnp.concatenate([mean, jnp.broadcast_to(RAW, mean.shape)], axis=1), extra


def decoded(params, extra, z, y, train=False):
    return z @ W.T + jnp.float32(B)[y], extra


def scored(params, extra, x, train=False):
    return x @ params["w"] + params["b"], extra


ENCODER, DECODER, CLASSIFIER = (Network(nothing, apply) for apply in (encoded, decoded, scored))
EXTRA = {"encoder": {}, "decoder": {}, "classifier": {}}
ALPHA = 3.0
MODEL = m2(ENCODER, DECODER, CLASSIFIER, LATENT, CLASSES, alpha=ALPHA, likelihood=gaussian(SIGMA))
LOSS = jax.jit(losses_of(MODEL)["m2"])


def parameters(classifier):
    tree = {"m2": {"encoder": {}, "decoder": {}, "classifier": classifier}}
    return jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), tree)


def losses(classifier, label, n=MANY):
    batch = Batch(jnp.broadcast_to(X, (n, DIMS)), jnp.full(n, label))
    return np.float64(LOSS(parameters(classifier), EXTRA, KEYS[:n], batch)[0])


def log_q(classifier):
    return log_softmax(X @ classifier["w"] + classifier["b"])


def assert_mean(draws, want):
    error = draws.std() / np.sqrt(len(draws))
    assert error < 0.05 and abs(draws.mean() - want) < 5 * error


@pytest.mark.parametrize("label", range(CLASSES))
def test_with_its_label_an_example_costs_its_evidence_and_its_classification(label):
    for classifier in (EXACT, WRONG):
        assert_mean(losses(classifier, label), -EVIDENCE[label] - ALPHA * log_q(classifier)[label])


def test_with_labels_it_is_the_conditional_vae_and_a_classifier():
    y = np.arange(6) % CLASSES
    batch = Batch(jnp.asarray(RNG.normal(size=(6, DIMS)), jnp.float32), jnp.asarray(y))
    plain = vae(ENCODER, DECODER, LATENT, likelihood=gaussian(SIGMA), condition=labels(CLASSES))
    params = {"vae": {"encoder": {}, "decoder": {}, "prior": {}}}
    theirs = jax.jit(losses_of(plain)["vae"])(params, {"encoder": {}, "decoder": {}}, KEYS[:6], batch)[0]
    ours, (metrics, _) = LOSS(parameters(WRONG), EXTRA, KEYS[:6], batch)
    cross_entropy = -log_softmax(batch.x @ WRONG["w"] + WRONG["b"], axis=1)[np.arange(6), y]
    np.testing.assert_allclose(ours, theirs + np.log(CLASSES) + ALPHA * cross_entropy, rtol=1e-4)
    np.testing.assert_allclose(metrics["classification"], cross_entropy, rtol=1e-4)


def test_without_a_label_it_marginalises_by_force():
    q = np.exp(log_q(WRONG))
    want = np.sum(q * (-EVIDENCE + log_q(WRONG)))
    assert_mean(losses(WRONG, -1), want)
    # which lies above -log p(x) by KL(q(y|x) || p(y|x))
    divergence = np.sum(q * (log_q(WRONG) - log_q(EXACT)))
    np.testing.assert_allclose(want, -logsumexp(EVIDENCE) + divergence, rtol=1e-6)
    assert divergence > 0.05  # enough to be seen


def test_at_both_exact_posteriors_the_bound_without_a_label_is_the_evidence():
    np.testing.assert_allclose(log_q(EXACT), log_softmax(EVIDENCE), rtol=1e-6)
    assert_mean(losses(EXACT, -1), -logsumexp(EVIDENCE))
    batch = Batch(jnp.broadcast_to(X, (5, DIMS)), jnp.array([-1, 0, 1, 2, -1]))
    # no draw of z and no classifier changes a weight: the label is summed over
    for classifier in (EXACT, WRONG):
        weights = MODEL.density.log_p(parameters(classifier), EXTRA, KEYS[:5], batch, 3)
        np.testing.assert_allclose(weights, np.full((5, 3), logsumexp(EVIDENCE)), rtol=1e-5)


def test_only_labelled_examples_are_classified():
    free = m2(ENCODER, DECODER, CLASSIFIER, LATENT, CLASSES, alpha=0.0, likelihood=gaussian(SIGMA))
    batch = Batch(jnp.broadcast_to(X, (4, DIMS)), jnp.array([-1, 0, 2, -1]))
    params = parameters(WRONG)
    difference = (
        LOSS(params, EXTRA, KEYS[:4], batch)[0] - jax.jit(losses_of(free)["m2"])(params, EXTRA, KEYS[:4], batch)[0]
    )
    np.testing.assert_allclose(difference, -ALPHA * log_q(WRONG)[[0, 0, 2, 0]] * [0, 1, 1, 0], rtol=1e-4, atol=1e-5)


def test_the_classifier_is_q_and_the_encoder_guesses_by_it():
    x = jnp.asarray(3 * RNG.normal(size=(20, DIMS)), jnp.float32)
    log_q = log_q_of(CLASSIFIER, parameters(EXACT), EXTRA, x)
    np.testing.assert_allclose(log_q, log_softmax(x @ EXACT["w"] + EXACT["b"], axis=1), rtol=1e-3, atol=1e-4)
    best = np.asarray(jnp.argmax(log_q, axis=1))
    assert len(set(best)) == CLASSES
    guessed = MODEL.encode(parameters(EXACT), EXTRA, x, None)
    np.testing.assert_allclose(guessed, (x - B[best]) @ GAIN, rtol=1e-3, atol=1e-4)
    other = MODEL.encode(parameters(EXACT), EXTRA, x, jnp.asarray((best + 1) % CLASSES))
    np.testing.assert_allclose(other, (x - B[(best + 1) % CLASSES]) @ GAIN, rtol=1e-3, atol=1e-4)
    image = drawn(MODEL, parameters(EXACT), EXTRA, jnp.asarray(best))(guessed, jnp.ones(()))
    np.testing.assert_allclose(image, guessed @ W.T + B[best], rtol=1e-3, atol=1e-4)


def test_data_and_networks_that_do_not_fit_are_refused():
    x = np.zeros((2, DIMS), np.float32)
    MODEL.game.check(Batch(x, np.array([-1, 2])))
    for wrong, text in ((np.array([0, 3]), "label 3 is outside"), (np.array([-2, 0]), "label -2"), (None, "needs")):
        with pytest.raises(InputError, match=text):
            MODEL.game.check(Batch(x, wrong))
    with pytest.raises(InputError, match="must not be negative"):
        m2(ENCODER, DECODER, CLASSIFIER, LATENT, CLASSES, alpha=-1.0)
    many = Network(nothing, lambda params, extra, x, train=False: (jnp.zeros((x.shape[0], 5)), extra))
    with pytest.raises(InputError, match=r"the classifier gives \(5,\), it needs 3 logits"):
        m2(ENCODER, DECODER, many, LATENT, CLASSES, alpha=1.0).game.init(KEYS[0], Batch(jnp.asarray(x)))
