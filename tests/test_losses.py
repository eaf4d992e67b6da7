"""Likelihoods, divergences and adversarial objectives against their closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxgen.losses import adversarial, penalties
from jaxgen.losses.adversarial import non_saturating
from jaxgen.losses.divergence import kl_standard_normal
from jaxgen.losses.likelihood import (
    bernoulli,
    categorical,
    discretised_logistic,
    gaussian,
    learned_gaussian,
    optimal_gaussian,
    total,
)
from jaxgen.types import InputError, Seen, turn


def numbers(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def kl_in_words(mean, log_var):
    """The same divergence from E_q log q - E_q log p, in float64."""
    mean, log_var = np.float64(mean), np.float64(log_var)
    entropy = 0.5 * np.sum(np.log(2 * np.pi * np.e) + log_var, axis=-1)
    cross = 0.5 * np.sum(np.log(2 * np.pi) + mean**2 + np.exp(log_var), axis=-1)
    return cross - entropy


def test_kl_of_fixed_numbers():
    # KL(N(1, 1) || N(0, 1)) = 1/2; KL(N(0, 4) || N(0, 1)) = (4 - 1 - log 4) / 2; both coordinates add
    log4 = np.log(4.0)
    got = kl_standard_normal(
        jnp.array([[1.0, 0.0], [0.0, 0.0], [1.0, 0.0]]), jnp.array([[0.0, 0], [0, log4], [0, log4]])
    )
    want = [0.5, (3 - log4) / 2, 0.5 + (3 - log4) / 2]
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_kl_is_cross_entropy_less_entropy():
    mean, log_var = numbers(0, 7, 5), numbers(1, 7, 5)
    np.testing.assert_allclose(kl_standard_normal(mean, log_var), kl_in_words(mean, log_var), rtol=1e-5)


def test_kl_agrees_with_monte_carlo():
    mean, log_var = numbers(2, 1, 4), numbers(3, 1, 4)
    std = np.exp(0.5 * np.float64(log_var))
    z = mean + std * np.random.default_rng(4).normal(size=(200_000, 4))
    ratio = np.sum(stats.norm.logpdf(z, mean, std) - stats.norm.logpdf(z), axis=1)
    error = np.std(ratio) / np.sqrt(len(ratio))
    assert abs(float(kl_standard_normal(mean, log_var)[0]) - ratio.mean()) < 5 * error


def test_kl_is_zero_only_at_the_standard_normal():
    at = float(kl_standard_normal(jnp.zeros((1, 3)), jnp.zeros((1, 3)))[0])
    assert at == 0.0
    for seed in range(5):
        assert np.all(kl_standard_normal(numbers(seed, 9, 3), numbers(seed + 5, 9, 3)) > 1e-3)


def test_kl_gradient_is_mean_and_half_of_variance_less_one():
    mean, log_var = numbers(5, 4, 3), numbers(6, 4, 3)
    g_mean, g_log_var = jax.grad(lambda m, l: jnp.sum(kl_standard_normal(m, l)), (0, 1))(mean, log_var)
    np.testing.assert_allclose(g_mean, mean, rtol=1e-6)
    np.testing.assert_allclose(g_log_var, 0.5 * (np.exp(log_var) - 1.0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sigma", [0.05, 0.5, 1.0, 3.0])
def test_gaussian_is_scipys_log_density_summed(sigma):
    x, mu = numbers(7, 6, 4, 4, 3), numbers(8, 6, 4, 4, 3)
    want = stats.norm.logpdf(np.float64(x), np.float64(mu), sigma).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(gaussian(sigma).log_prob(x, mu), want, rtol=1e-5)


def test_gaussian_density_integrates_to_one():
    grid = np.linspace(-6.0, 6.0, 4001, dtype=np.float32)[:, None]
    density = np.exp(np.float64(gaussian(0.4).log_prob(grid, np.full_like(grid, 0.3))))
    assert abs(np.trapezoid(density, grid[:, 0]) - 1.0) < 1e-4


def test_gaussian_of_sigma_one_has_the_gradient_of_half_the_squared_error():
    x, mu = numbers(9, 3, 5), numbers(10, 3, 5)
    got = jax.grad(lambda m: -jnp.sum(gaussian(1.0).log_prob(x, m)))(mu)
    want = jax.grad(lambda m: 0.5 * jnp.sum((x - m) ** 2))(mu)
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_gaussian_gradient_scales_with_the_inverse_variance():
    x, mu = numbers(9, 3, 5), numbers(10, 3, 5)
    got = jax.grad(lambda m: jnp.sum(gaussian(0.1).log_prob(x, m)))(mu)
    np.testing.assert_allclose(got, (x - mu) / 0.01, rtol=1e-5)


@pytest.mark.parametrize("sigma", [0.0, -1.0, float("nan")])
def test_gaussian_refuses_a_deviation_that_is_not_positive(sigma):
    with pytest.raises(InputError, match="sigma must be positive"):
        gaussian(sigma)


def test_bernoulli_of_fixed_numbers():
    # logit log 3 is p = 3/4; x = 1 is y = 1, x = -1 is y = 0, x = 0 is y = 1/2
    logits = jnp.full((3, 2), np.log(3.0), jnp.float32)
    x = jnp.array([[1.0, 1.0], [-1.0, -1.0], [0.0, 1.0]])
    want = [2 * np.log(0.75), 2 * np.log(0.25), 0.5 * np.log(0.75 * 0.25) + np.log(0.75)]
    np.testing.assert_allclose(bernoulli().log_prob(x, logits), want, rtol=1e-6)


def test_bernoulli_is_scipys_for_black_and_white_images():
    logits, bits = numbers(11, 5, 6), np.random.default_rng(12).integers(0, 2, (5, 6))
    want = stats.bernoulli.logpmf(bits, 1 / (1 + np.exp(-np.float64(logits)))).sum(axis=1)
    np.testing.assert_allclose(bernoulli().log_prob(2.0 * bits - 1.0, logits), want, rtol=1e-5)


def test_bernoulli_gradient_is_y_less_p():
    logits, y = numbers(13, 4, 5), np.random.default_rng(14).uniform(size=(4, 5)).astype(np.float32)
    got = jax.grad(lambda l: jnp.sum(bernoulli().log_prob(2 * y - 1, l)))(logits)
    np.testing.assert_allclose(got, y - 1 / (1 + np.exp(-logits)), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("logit", [-1e6, -200.0, 200.0, 1e6])
@pytest.mark.parametrize("x", [-1.0, 0.3, 1.0])
def test_bernoulli_stays_finite_where_the_decoder_is_sure(logit, x):
    value, gradient = jax.value_and_grad(lambda l: bernoulli().log_prob(jnp.full((1, 1), x), l)[0])(
        jnp.array([[logit]])
    )
    y = (x + 1) / 2
    np.testing.assert_allclose(value, y * min(logit, 0) + (1 - y) * min(-logit, 0), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(gradient, [[y - (logit > 0)]], atol=1e-6)


def test_a_learned_gaussian_of_one_deviation_is_the_fixed_one():
    x, mu = jax.random.normal(jax.random.key(0), (2, 3, 4, 4, 2))
    output = jnp.concatenate([mu, jnp.full_like(mu, 7.0 * np.arctanh(np.log(0.3 - 1 / 16) / 7.0))], axis=-1)
    np.testing.assert_allclose(learned_gaussian().log_prob(x, output), gaussian(0.3).log_prob(x, mu), rtol=1e-5)
    np.testing.assert_array_equal(learned_gaussian().mean(output), mu)


def test_the_optimal_gaussian_is_the_best_of_all_fixed_ones():
    x, mu = jax.random.normal(jax.random.key(0), (2, 5, 4, 4, 1))
    fixed = jnp.stack([gaussian(s).log_prob(x, mu) for s in np.geomspace(0.3, 5.0, 400)])
    best = optimal_gaussian().log_prob(x, mu)
    assert (best >= fixed.max(0) - 1e-3).all()
    np.testing.assert_allclose(best, fixed.max(0), atol=2e-2)


def test_the_optimal_gaussian_s_gradient_is_that_of_its_own_formula():
    x, mu = jax.random.normal(jax.random.key(0), (2, 1, 6, 6, 1))

    def formula(mu):
        return -18.0 * (jnp.log(2.0 * jnp.pi * jnp.mean(jnp.square(x - mu))) + 1.0)

    value, gradient = jax.value_and_grad(lambda mu: optimal_gaussian().log_prob(x, mu)[0])(mu)
    np.testing.assert_allclose(value, formula(mu), rtol=1e-5)
    np.testing.assert_allclose(gradient, jax.grad(formula)(mu), rtol=1e-4)
    assert jnp.isfinite(jax.grad(lambda mu: optimal_gaussian().log_prob(x, mu)[0])(x)).all()  # at a perfect fit


@pytest.mark.parametrize(("likelihood", "levels"), [(categorical(5), 5), (discretised_logistic(5), 5)])
def test_probabilities_of_all_levels_add_to_one(likelihood, levels):
    output = 2.0 * jax.random.normal(jax.random.key(0), (1, 3, 3, likelihood.outputs))
    every = jnp.linspace(-1.0, 1.0, levels)
    pixel = [jnp.exp(likelihood.log_prob(jnp.full((1, 1, 1, 1), v), output[:, :1, :1])) for v in every]
    np.testing.assert_allclose(sum(pixel), 1.0, rtol=1e-5)


def test_a_categorical_is_the_softmax_at_the_pixel_s_level():
    output = jax.random.normal(jax.random.key(0), (2, 1, 1, 2 * 3))  # two channels of three levels
    x = jnp.array([[-1.0, 0.0], [1.0, 1.0]])[:, None, None]
    log_p = np.log(np.exp(output) / np.exp(output).reshape(2, 2, 3).sum(-1).repeat(3, -1).reshape(2, 1, 1, 6))
    expected = [log_p[0, 0, 0, 0] + log_p[0, 0, 0, 4], log_p[1, 0, 0, 2] + log_p[1, 0, 0, 5]]
    np.testing.assert_allclose(categorical(3).log_prob(x, output), expected, rtol=1e-5)


def test_a_discretised_logistic_is_a_difference_of_scipy_s_distribution_function():
    mu, log_s, x = 0.2, np.log(0.15), np.linspace(-1, 1, 256)[[1, 60, 128, 200, 254]]
    output = jnp.array([mu, 7.0 * np.arctanh(log_s / 7.0)])[None, None, None].repeat(5, 0)
    cdf = stats.logistic(mu, 0.15).cdf
    expected = np.log(cdf(x + 1 / 255) - cdf(x - 1 / 255))
    got = discretised_logistic().log_prob(jnp.asarray(x, jnp.float32)[:, None, None, None], output)
    np.testing.assert_allclose(got, expected, rtol=1e-4)


@pytest.mark.parametrize("likelihood", [learned_gaussian(), categorical(256), discretised_logistic(256)])
@pytest.mark.parametrize("size", [-1e6, 0.0, 1e6])
def test_no_output_makes_a_likelihood_or_its_gradient_infinite(likelihood, size):
    x = jnp.linspace(-1.0, 1.0, 4)[None, :, None, None]
    output = jnp.full((1, 4, 1, likelihood.outputs), size)
    value, gradient = jax.value_and_grad(lambda output: likelihood.log_prob(x, output)[0])(output)
    assert jnp.isfinite(value) and jnp.isfinite(gradient).all()


def test_the_mean_of_a_likelihood_is_in_the_data_s_own_range():
    output = jnp.array([[-50.0, -1.0, 0.0, 1.0, 50.0]])
    np.testing.assert_allclose(bernoulli().mean(output), 2 / (1 + np.exp(-np.float64(output))) - 1, atol=1e-6)
    np.testing.assert_allclose(gaussian().mean(output), output)  # points may lie anywhere


def test_sums_run_in_float32_whatever_the_input():
    # 4,096 ones added one by one in bfloat16 stop at 256
    assert total(jnp.ones((2, 64, 64), jnp.bfloat16)).tolist() == [4096.0, 4096.0]


def test_sums_and_means_are_products_of_float32_on_every_device():
    """An accelerator would round them by default; the programs are read, since the CPU does not."""
    for f, x in ((total, jnp.ones((2, 8))), (categorical(4).mean, jnp.ones((2, 3, 3, 8)))):
        products = [line for line in jax.jit(f).lower(x).as_text().splitlines() if "dot_general" in line]
        assert products and all("HIGHEST, HIGHEST" in line for line in products)


def test_likelihoods_of_bfloat16_outputs_are_summed_in_float32():
    x, mu = jnp.ones((1, 4096)), jnp.zeros((1, 4096), jnp.bfloat16)
    np.testing.assert_allclose(gaussian().log_prob(x, mu), [4096 * stats.norm.logpdf(1.0)], rtol=1e-5)
    np.testing.assert_allclose(bernoulli().log_prob(x, mu), [4096 * np.log(0.5)], rtol=1e-5)


def sigmoid(x):
    return 1 / (1 + np.exp(-np.float64(x)))


class OfScores:
    """An objective as functions of plain scores."""

    def __init__(self, objective):
        nobody = turn(jax.random.split(jax.random.key(0), 1))  # these objectives are of the scores alone
        self.critic = lambda real, fake: objective.critic(Seen(real), Seen(fake), nobody)
        self.generator = lambda real, fake: objective.generator(Seen(real), Seen(fake), nobody)


NON_SATURATING = OfScores(non_saturating())


def test_non_saturating_is_its_formula():
    real, fake = numbers(15, 8) * 3, numbers(16, 8) * 3
    want = -np.log(sigmoid(real)) - np.log(1 - sigmoid(fake))
    np.testing.assert_allclose(NON_SATURATING.critic(real, fake), want, rtol=1e-5)
    np.testing.assert_allclose(NON_SATURATING.generator(real, fake), -np.log(sigmoid(fake)), rtol=1e-5)


def test_non_saturating_gradients_are_their_formulas():
    real, fake = numbers(17, 8) * 3, numbers(18, 8) * 3
    by_real, by_fake = jax.grad(lambda r, f: jnp.sum(NON_SATURATING.critic(r, f)), (0, 1))(real, fake)
    np.testing.assert_allclose(by_real, sigmoid(real) - 1, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(by_fake, sigmoid(fake), rtol=1e-4, atol=1e-6)
    of_generator = jax.grad(lambda f: jnp.sum(NON_SATURATING.generator(real, f)))(fake)
    np.testing.assert_allclose(of_generator, sigmoid(fake) - 1, rtol=1e-4, atol=1e-6)


def test_the_generator_keeps_its_gradient_where_the_critic_is_sure():
    # log(1 - D) would give -sigmoid(-40) = -4e-18 here
    score = jnp.array([-40.0, -1e4])
    np.testing.assert_allclose(jax.grad(lambda f: jnp.sum(NON_SATURATING.generator(f, f)))(score), [-1.0, -1.0])


def test_the_best_critic_scores_the_log_density_ratio():
    # D* = p / (p + q) (Goodfellow et al. 2014, proposition 1): the critic's derivative vanishes at score log(p / q)
    p, q = jnp.array([0.1, 0.5, 3.0]), jnp.array([0.4, 0.5, 0.2])

    def expected(score):
        on_real, on_fake = NON_SATURATING.critic(score, -jnp.inf), NON_SATURATING.critic(jnp.inf, score)
        return jnp.sum(p * on_real + q * on_fake)

    np.testing.assert_allclose(jax.grad(expected)(jnp.log(p / q)), np.zeros(3), atol=1e-6)


# {name: (objective, its critic's loss, its generator's), written out with D = sigmoid(score) or D = score
SIGMOID_LOG = lambda s: np.log(sigmoid(s))  # noqa: E731
FORMULAS = {
    "minimax": (
        adversarial.minimax(),
        lambda r, f: -SIGMOID_LOG(r) - np.log(1 - sigmoid(f)),
        lambda r, f: np.log(1 - sigmoid(f)),
    ),
    "least_squares": (
        adversarial.least_squares(),
        lambda r, f: ((r - 1) ** 2 + f**2) / 2,
        lambda r, f: (f - 1) ** 2 / 2,
    ),
    "pearson": (
        adversarial.least_squares(-1.0, 1.0, 0.0),
        lambda r, f: ((r - 1) ** 2 + (f + 1) ** 2) / 2,
        lambda r, f: f**2 / 2,
    ),
    "wasserstein": (adversarial.wasserstein(), lambda r, f: f - r, lambda r, f: -f),
    "hinge": (
        adversarial.hinge(),
        lambda r, f: np.maximum(0, 1 - r) + np.maximum(0, 1 + f),
        lambda r, f: -f,
    ),
    "relativistic": (
        adversarial.relativistic(),
        lambda r, f: -SIGMOID_LOG(r - f),
        lambda r, f: -SIGMOID_LOG(f - r),
    ),
}


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("side", ["critic", "generator"])
def test_objectives_and_their_gradients_are_their_formulas(name, side):
    objective, *formulas = FORMULAS[name]
    loss, formula = getattr(OfScores(objective), side), formulas[side == "generator"]
    real, fake = np.float64(numbers(19, 8)) * 3, np.float64(numbers(20, 8)) * 3
    np.testing.assert_allclose(loss(real, fake), formula(real, fake), rtol=1e-5, atol=1e-6)
    gradients = jax.grad(lambda r, f: jnp.sum(loss(r, f)), (0, 1))(jnp.asarray(real), jnp.asarray(fake))
    h = 1e-6
    by_real = (formula(real + h, fake) - formula(real - h, fake)) / (2 * h)
    by_fake = (formula(real, fake + h) - formula(real, fake - h)) / (2 * h)
    np.testing.assert_allclose(gradients[0], by_real, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(gradients[1], by_fake, rtol=1e-4, atol=1e-5)


def test_the_minimax_generator_loses_its_gradient_where_the_critic_is_sure():
    score = jnp.array([-40.0, -20.0])
    gradient = jax.grad(lambda f: jnp.sum(OfScores(adversarial.minimax()).generator(f, f)))(score)
    np.testing.assert_allclose(gradient, -sigmoid(score), rtol=1e-4)


def test_relativistic_losses_are_of_the_difference_alone():
    one = OfScores(adversarial.relativistic())
    real, fake = numbers(21, 8), numbers(22, 8)
    np.testing.assert_allclose(one.critic(real + 7.0, fake + 7.0), one.critic(real, fake), rtol=1e-4)
    np.testing.assert_allclose(one.generator(real, fake), one.critic(fake, real), rtol=1e-6)


# --- penalties -------------------------------------------------------------------------------------------------------

W = jnp.asarray([3.0, 4.0])
TURN = turn(jax.random.split(jax.random.key(4), 64))
REAL, FAKE = numbers(23, 64, 2), numbers(24, 64, 2) + 5.0


def slope(x):
    """|grad 1/2 |x|^2| = |x|."""
    return np.linalg.norm(x, axis=1)


def quadratic(x):
    return 0.5 * jnp.sum(jnp.square(x), axis=1)


@pytest.mark.parametrize(
    ("penalty", "want"),
    [
        (penalties.r1(3.0), 1.5 * 25.0),
        (penalties.r2(3.0), 1.5 * 25.0),
        (penalties.gradient_penalty(3.0), 3.0 * (5.0 - 1.0) ** 2),
        (penalties.gradient_penalty(3.0, center=0.0), 3.0 * 25.0),
        (penalties.dragan(3.0), 3.0 * (5.0 - 1.0) ** 2),
        (penalties.dragan(3.0, noise="gaussian"), 3.0 * (5.0 - 1.0) ** 2),
    ],
)
def test_penalties_of_a_linear_critic_are_of_its_weight(penalty, want):
    np.testing.assert_allclose(penalty(lambda x: x @ W, REAL, FAKE, TURN), np.full(64, want), rtol=1e-5)


def test_where_each_penalty_looks_at_the_critic():
    """Of |x|^2 / 2 the slope is |x|: it tells the point."""
    np.testing.assert_allclose(penalties.r1(2.0)(quadratic, REAL, FAKE, TURN), slope(REAL) ** 2, rtol=1e-5)
    np.testing.assert_allclose(penalties.r2(2.0)(quadratic, REAL, FAKE, TURN), slope(FAKE) ** 2, rtol=1e-5)
    between = np.sqrt(penalties.gradient_penalty(1.0, center=0.0)(quadratic, REAL, FAKE, TURN))
    a = np.linspace(0, 1, 2001)[:, None, None]
    on_the_line = slope((a * np.asarray(REAL) + (1 - a) * np.asarray(FAKE)).reshape(-1, 2)).reshape(2001, 64)
    assert (between >= on_the_line.min(0) - 1e-4).all() and (between <= on_the_line.max(0) + 1e-4).all()
    far = np.abs(between - slope(REAL)) / np.abs(slope(FAKE) - slope(REAL))
    assert 0.3 < np.median(far) < 0.7 and far.std() > 0.2  # a is uniform, another for each example


@pytest.mark.parametrize("noise", ["uniform", "gaussian"])
def test_dragan_s_noise_is_as_large_as_it_says(noise):
    """The score is the coordinate itself, weighted so that its slope is the point: |x + delta|."""
    x = jnp.full((64, 1000), 2.0).at[:, ::2].set(0.0)  # deviation 1
    c = 0.5 if noise == "uniform" else 0.04

    def cubic(x):  # slope of one coordinate: x^2 / 2
        return jnp.sum(x**3, axis=1) / 6

    found = penalties.dragan(1.0, c=c, noise=noise)(cubic, x, x, TURN)
    value = np.mean(np.sqrt(found) + 1.0)
    rng = np.random.default_rng(0)
    if noise == "uniform":
        delta = c * rng.uniform(size=(4000, 1)) * rng.uniform(size=(4000, 1000))
    else:
        delta = np.sqrt(c) * rng.normal(size=(4000, 1000))
    want = np.mean(np.linalg.norm((np.asarray(x[:1]) + delta) ** 2 / 2, axis=1))
    np.testing.assert_allclose(value, want, rtol=0.05 if noise == "uniform" else 0.01)


@pytest.mark.parametrize(
    "make",
    [
        lambda: penalties.r1(-1.0),
        lambda: penalties.r2(-1.0),
        lambda: penalties.gradient_penalty(-1.0),
        lambda: penalties.gradient_penalty(1.0, center=-1.0),
        lambda: penalties.dragan(c=-1.0),
        lambda: penalties.dragan(noise="salt"),
    ],
)
def test_penalties_that_cannot_be_are_refused(make):
    with pytest.raises(InputError):
        make()
