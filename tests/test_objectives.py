"""Objectives of more than a score, smoothed labels, and what a player's optimizer adds, by their equations."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

from jaxgen import optimizers
from jaxgen.losses import adversarial, heads, information
from jaxgen.types import InputError, Seen, turn

RNG = np.random.default_rng(0)
N, K, F = 8, 5, 6
TURN = turn(jax.random.split(jax.random.key(0), N))
LABELS = jnp.asarray(RNG.integers(0, K, N))
NS = adversarial.non_saturating()


def numbers(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def critic_s(**fields) -> Seen:
    return Seen(numbers(N), numbers(N, F), numbers(N, K), **fields)


REAL, FAKE = critic_s(condition=LABELS), critic_s(condition=LABELS[::-1], noise=None)


def softplus(x):
    return np.logaddexp(0.0, np.float64(x))


def log_softmax(x):
    x = np.float64(x)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


# --- label smoothing -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("real", "fake"), [(0.9, 0.0), (0.8, 0.1), (1.0, 0.0)])
def test_smoothed_labels_are_the_cross_entropy_with_those_labels(real, fake):
    loss = adversarial.smoothed(NS, real, fake).critic(REAL, FAKE, TURN)
    r, f = np.float64(REAL.score), np.float64(FAKE.score)
    want = real * softplus(-r) + (1 - real) * softplus(r) + fake * softplus(-f) + (1 - fake) * softplus(f)
    np.testing.assert_allclose(loss, want, rtol=1e-5)
    unchanged = adversarial.smoothed(NS, real, fake).generator(REAL, FAKE, TURN)
    np.testing.assert_allclose(unchanged, NS.generator(REAL, FAKE, TURN))


def test_the_best_critic_of_smoothed_labels_is_bounded_by_the_label():
    """D* = (a p + b q) / (p + q) (Salimans et al. 2016, section 3.4); where q = 0 it is a."""
    p, q, a, b = jnp.array([0.1, 0.5, 3.0]), jnp.array([0.4, 0.5, 0.0]), 0.9, 0.05
    objective = adversarial.smoothed(NS, a, b)

    def expected(score):
        none = Seen(jnp.zeros(3))
        at_zero = objective.critic(none, none, TURN)
        on_real = objective.critic(Seen(score), none, TURN) - at_zero
        on_fake = objective.critic(none, Seen(score), TURN) - at_zero
        return jnp.sum(p * on_real + q * on_fake)

    best = (a * p + b * q) / (p + q)
    np.testing.assert_allclose(jax.grad(expected)(jnp.log(best / (1 - best))), np.zeros(3), atol=1e-6)


def test_labels_are_smoothed_at_every_state_and_never_of_pairs():
    began = adversarial.smoothed(heads.began(), 0.9)
    k = jnp.asarray(0.5)
    want = 0.9 * -REAL.score + 0.1 * k * REAL.score + k * FAKE.score
    np.testing.assert_allclose(began.at(k).critic(REAL, FAKE, TURN), want, rtol=1e-5)
    for wrong in (adversarial.relativistic(), adversarial.smoothed(NS)):
        with pytest.raises(InputError, match="no labels to smooth"):
            adversarial.smoothed(wrong)
    with pytest.raises(InputError, match="0 <= fake < real <= 1"):
        adversarial.smoothed(NS, 0.1, 0.2)


# --- classes ---------------------------------------------------------------------------------------------------------


def test_an_auxiliary_classifier_adds_both_cross_entropies():
    objective = heads.auxiliary_classifier(NS, 0.7)
    of_real, of_fake = (-log_softmax(s.logits)[np.arange(N), s.condition] for s in (REAL, FAKE))
    critic, generator = (getattr(objective, side)(REAL, FAKE, TURN) for side in ("critic", "generator"))
    np.testing.assert_allclose(critic - NS.critic(REAL, FAKE, TURN), 0.7 * (of_real + of_fake), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(generator - NS.generator(REAL, FAKE, TURN), 0.7 * of_fake, rtol=1e-4, atol=1e-5)
    right = np.argmax(FAKE.logits, -1) == FAKE.condition
    np.testing.assert_array_equal(objective.report(REAL, FAKE, TURN)["accuracy_fake"], right)


def test_semi_supervision_is_the_mean_over_the_labelled_alone():
    some = REAL._replace(condition=jnp.where(jnp.arange(N) < 3, LABELS, -1))
    objective = heads.semi_supervised(NS)
    extra = np.mean(objective.critic(some, FAKE, TURN) - NS.critic(some, FAKE, TURN))
    want = -log_softmax(some.logits)[np.arange(3), LABELS[:3]].mean()
    np.testing.assert_allclose(extra, want, rtol=1e-4)
    accuracy = np.mean(objective.report(some, FAKE, TURN)["accuracy"])
    np.testing.assert_allclose(accuracy, np.mean(np.argmax(some.logits, -1)[:3] == LABELS[:3]), rtol=1e-5)
    none = some._replace(condition=jnp.full(N, -1))
    np.testing.assert_allclose(objective.critic(none, FAKE, TURN), NS.critic(none, FAKE, TURN))


def test_one_more_class_of_logit_zero_is_the_score_of_the_joint_critic():
    """log D = log softmax over C + 1 classes of "not generated" (Salimans et al. 2016, section 5)."""
    logits = np.float64(REAL.logits)
    score = np.log(np.exp(logits).sum(-1))
    all_classes = log_softmax(np.concatenate([logits, np.zeros((N, 1))], axis=-1))
    np.testing.assert_allclose(-softplus(-score), np.log(np.exp(all_classes[:, :-1]).sum(-1)), rtol=1e-6)


# --- features, energies ----------------------------------------------------------------------------------------------


def test_matched_features_are_the_distance_of_their_means():
    objective = heads.feature_matching(NS)
    want = np.sum((np.float64(REAL.features).mean(0) - np.float64(FAKE.features).mean(0)) ** 2)
    np.testing.assert_allclose(objective.generator(REAL, FAKE, TURN), np.full(N, want), rtol=1e-5)
    np.testing.assert_allclose(objective.critic(REAL, FAKE, TURN), NS.critic(REAL, FAKE, TURN))
    assert objective.generator(REAL, REAL, TURN).max() == 0


def test_an_energy_has_a_margin_and_pulls_codes_apart():
    energies = REAL._replace(score=-jnp.abs(REAL.score)), FAKE._replace(score=-jnp.abs(FAKE.score))
    of_real, of_fake = (np.abs(np.float64(s.score)) for s in energies)
    objective = heads.energy(0.5, pull_away=0.1)
    np.testing.assert_allclose(objective.critic(*energies, TURN), of_real + np.maximum(0, 0.5 - of_fake), rtol=1e-5)
    s = np.float64(FAKE.features)
    pairs = [(i, j) for i, j in itertools.product(range(N), range(N)) if i != j]
    cosines = [s[i] @ s[j] / np.linalg.norm(s[i]) / np.linalg.norm(s[j]) for i, j in pairs]
    want = of_fake.mean() + 0.1 * np.mean(np.square(cosines))
    np.testing.assert_allclose(np.mean(objective.generator(*energies, TURN)), want, rtol=1e-4)


def test_codes_that_agree_or_are_orthogonal_are_the_ends_of_the_pulling_away_term():
    np.testing.assert_allclose(heads.pulling_away(jnp.ones((4, 3)), TURN), np.ones(4), rtol=1e-5)
    np.testing.assert_allclose(heads.pulling_away(jnp.eye(4), TURN), np.zeros(4), atol=1e-5)


def test_began_s_k_follows_the_balance_and_stays_a_share():
    objective, k = heads.began(0.5, rate=0.1), jnp.asarray(0.3)
    real, fake = Seen(-jnp.full(N, 0.8)), Seen(-jnp.full(N, 0.1))
    np.testing.assert_allclose(objective.update(k, real, fake, TURN), 0.3 + 0.1 * (0.5 * 0.8 - 0.1), rtol=1e-6)
    np.testing.assert_allclose(objective.at(k).critic(real, fake, TURN), np.full(N, 0.8 - 0.3 * 0.1), rtol=1e-6)
    np.testing.assert_allclose(objective.at(k).generator(real, fake, TURN), np.full(N, 0.1), rtol=1e-6)
    found = objective.at(k).report(real, fake, TURN)
    np.testing.assert_allclose(found["convergence"], 0.8 + abs(0.5 * 0.8 - 0.1), rtol=1e-6)
    np.testing.assert_allclose(found["k"], 0.3)
    assert objective.update(jnp.asarray(0.999), real, fake, TURN) == 1.0
    assert objective.update(jnp.asarray(0.0), fake, real, TURN) == 0.0
    assert objective.init() == 0.0


# --- codes -----------------------------------------------------------------------------------------------------------

CODES = information.Codes(3, categorical=(4, 2), continuous=2)


def test_codes_have_the_distribution_that_they_say():
    z = np.asarray(CODES.draw(jax.random.split(jax.random.key(1), 4000)))
    assert z.shape == (4000, CODES.size) == (4000, 3 + 4 + 2 + 2)
    assert abs(z[:, :3].mean()) < 0.05 and abs(z[:, :3].std() - 1) < 0.05
    np.testing.assert_array_equal(np.sort(z[:, 3:7], -1)[:, ::-1], np.eye(4)[np.zeros(4000, int)])
    np.testing.assert_allclose(z[:, 3:7].mean(0), np.full(4, 0.25), atol=0.03)
    np.testing.assert_allclose(z[:, 7:9].mean(0), np.full(2, 0.5), atol=0.03)
    assert stats.kstest(z[:, 9], stats.uniform(-1, 2).cdf).pvalue > 1e-3
    assert np.abs(np.corrcoef(z[:, [0, 3, 7, 9, 10]].T) - np.eye(5)).max() < 0.06  # independent of each other
    plain = information.Codes(3).draw(jax.random.split(jax.random.key(1), 2))
    np.testing.assert_array_equal(plain, z[:2, :3])  # the noise is that of a model without codes


def test_the_bound_is_the_entropy_where_codes_are_told_and_nothing_where_they_are_guessed():
    noise = CODES.draw(TURN.keys)
    (first, second), u = CODES.split(noise)
    told = jnp.concatenate([50 * first, 50 * second, u, jnp.full((N, 2), -2.0)], axis=-1)
    of_classes, of_numbers = information.bound(CODES, Seen(jnp.zeros(N), codes=told, noise=noise))
    np.testing.assert_allclose(of_classes, np.full(N, np.log(4) + np.log(2)), rtol=1e-5)
    log_var = 8 * np.tanh(-2 / 8)
    density = 2 * (-0.5 * (log_var + np.log(2 * np.pi)) + np.log(2))
    np.testing.assert_allclose(of_numbers, np.full(N, density), rtol=1e-5)
    guessed = information.bound(CODES, Seen(jnp.zeros(N), codes=jnp.zeros((N, CODES.outputs)), noise=noise))
    np.testing.assert_allclose(guessed[0], np.zeros(N), atol=1e-6)


def test_the_bound_is_below_the_mutual_information():
    """E log Q + H(c) <= I(c; x), with equality at the posterior: of a binary code seen through a channel that errs."""
    error = 0.2
    codes = information.Codes(0, categorical=(2,))
    c = np.eye(2)
    joint = 0.5 * np.array([[1 - error, error], [error, 1 - error]])  # code, then what is seen
    exact = np.sum(joint * np.log(joint / 0.25))
    for logit in (0.0, 0.5, np.log((1 - error) / error), 3.0):
        value = 0.0
        for i, j in itertools.product(range(2), range(2)):
            q = jnp.asarray(c[[j]] * logit, jnp.float32)
            noise = jnp.asarray(c[[i]], jnp.float32)
            value += joint[i, j] * float(information.bound(codes, Seen(jnp.zeros(1), codes=q, noise=noise))[0][0])
        assert value <= exact + 1e-6
        assert (abs(value - exact) < 1e-5) == (logit == np.log((1 - error) / error))


def test_both_players_gain_by_telling_codes():
    objective = information.information(NS, CODES, 2.0, 0.5)
    fake = FAKE._replace(codes=numbers(N, CODES.outputs), noise=CODES.draw(TURN.keys))
    of_classes, of_numbers = information.bound(CODES, fake)
    for side in ("critic", "generator"):
        less = getattr(NS, side)(REAL, fake, TURN) - getattr(objective, side)(REAL, fake, TURN)
        np.testing.assert_allclose(less, 2 * of_classes + 0.5 * of_numbers, rtol=1e-3, atol=1e-4)
    short = fake._replace(codes=fake.codes[:, 1:])
    with pytest.raises(InputError, match=f"gives {CODES.outputs - 1} numbers for codes, these need {CODES.outputs}"):
        objective.critic(REAL, short, TURN)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: heads.energy(0.0), "margin"),
        (lambda: heads.energy(1.0, -1.0), "pulling-away"),
        (lambda: heads.began(0.0), "gamma"),
        (lambda: heads.began(0.5, -1.0), "rate"),
        (lambda: heads.auxiliary_classifier(NS, -1.0), "classes"),
        (lambda: heads.semi_supervised(NS, -1.0), "classes"),
        (lambda: information.information(NS, information.Codes(8)), "no code to tell"),
        (lambda: information.information(NS, CODES, -1.0), "negative"),
        (lambda: heads.pulling_away(jnp.ones((1, 2)), TURN), "at least 2"),
        (lambda: optimizers.clip_weights(0.0), "positive range"),
        (lambda: optimizers.orthogonal(-1.0), "negative"),
        (lambda: optimizers.historical_average(-1.0), "negative"),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


# --- optimizers ------------------------------------------------------------------------------------------------------


def test_clipped_weights_stay_in_their_range_and_move_freely_inside():
    clip = optax.chain(optax.sgd(1.0), optimizers.clip_weights(0.5))
    params = {"w": jnp.array([0.0, 0.4, -0.4])}
    grads = {"w": jnp.array([0.1, -0.3, 5.0])}
    updates, _ = clip.update(grads, clip.init(params), params)
    np.testing.assert_allclose(optax.apply_updates(params, updates)["w"], [-0.1, 0.5, -0.5], rtol=1e-6)


def test_orthogonal_filters_of_any_length_cost_nothing():
    q, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(12, 4)))
    kernel = jnp.asarray(q * [1.0, 2.0, 3.0, 4.0], jnp.float32).reshape(2, 2, 3, 4)
    penalty = optimizers.orthogonal(0.3)
    assert penalty({"a": kernel, "bias": jnp.ones(4)}) < 1e-9
    w = numbers(5, 3)
    gram = np.float64(w).T @ np.float64(w)
    want = 0.3 * np.sum((gram - np.diag(np.diag(gram))) ** 2)
    np.testing.assert_allclose(penalty([w]), want, rtol=1e-5)
    step = optax.chain(optimizers.regularise(penalty), optax.sgd(1.0))
    updates, _ = step.update([jnp.ones_like(w)], step.init([w]), [w])
    np.testing.assert_allclose(updates[0], -(1.0 + jax.grad(penalty)([w])[0]), rtol=1e-5)


def test_the_historical_average_pulls_to_the_mean_of_all_past_parameters():
    step = optax.chain(optimizers.historical_average(0.1), optax.sgd(1.0))
    theta = jnp.asarray([1.0, -2.0])
    state, past = step.init(theta), []
    for gradient in np.random.default_rng(2).normal(size=(5, 2)).astype(np.float32):
        past.append(np.asarray(theta))
        updates, state = step.update(jnp.asarray(gradient), state, theta)
        want = -(gradient + 2 * 0.1 * (past[-1] - np.mean(past, axis=0)))
        np.testing.assert_allclose(updates, want, rtol=1e-4, atol=1e-6)
        theta = optax.apply_updates(theta, updates)
