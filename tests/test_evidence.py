"""Objectives of variational autoencoders against their formulas, their limits and each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxgen.losses.divergence import kl_gaussians_parts, kl_standard_normal_parts, log_normal, total_correlation
from jaxgen.losses.evidence import Terms, elbo, info, iwae, log_mean_exp, tc
from jaxgen.types import InputError, turn

B, K, D = 6, 3, 4
RNG = np.random.default_rng(0)


TURN = turn(jax.random.split(jax.random.key(0), B))


def terms(seed=0):
    rng = np.random.default_rng(seed)

    def numbers(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    mu, log_var, z = numbers(B, D), numbers(B, D), numbers(B, K, D)
    kl = kl_standard_normal_parts(mu, log_var)
    return Terms(-jnp.abs(numbers(B, K)), numbers(B, K), numbers(B, K), kl, z, mu, log_var, numbers(B, D))


def test_elbo_is_distortion_and_beta_times_the_parts_of_the_kl():
    t = terms()
    loss, metrics = elbo(beta=3.0, distortion=0.5)(t, TURN)
    np.testing.assert_allclose(loss, -0.5 * t.log_px.mean(1) + 3 * t.kl.sum(1), rtol=1e-5)
    np.testing.assert_allclose(metrics["distortion"], -t.log_px.mean(1), rtol=1e-6)
    np.testing.assert_allclose(metrics["kl"], t.kl.sum(1), rtol=1e-6)


def test_the_three_settings_of_one_model():
    """The autoencoder alone, the KL alone, and their sum, the VAE."""
    t = terms()
    ae, kl, vae = (elbo(distortion=a, beta=b)(t, TURN)[0] for a, b in ((1, 0), (0, 1), (1, 1)))
    np.testing.assert_allclose(ae + kl, vae, rtol=1e-6)
    np.testing.assert_allclose(kl, t.kl.sum(1), rtol=1e-6)


def test_the_warm_up_is_a_straight_line_to_beta():
    rate = elbo(beta=2.0, distortion=0.0, warmup=10)
    full = elbo(beta=2.0, distortion=0.0)(terms(), TURN)[0]
    for step, share in ((0, 0.1), (4, 0.5), (9, 1.0), (1000, 1.0)):
        np.testing.assert_allclose(rate(terms(), TURN._replace(step=jnp.int32(step)))[0], share * full, rtol=1e-5)


def test_free_bits_cost_their_threshold_and_have_no_gradient_below_it():
    t = terms()
    small = t._replace(kl=t.kl.at[:, 0].set(0.1))  # its mean lies below half a nat; the other parts lie above it
    assert np.all(np.asarray(small.kl[:, 1:].mean(0)) > 0.5)

    def mean(kl):
        return jnp.mean(elbo(distortion=0.0, free_bits=0.5)(small._replace(kl=kl), TURN)[0])

    np.testing.assert_allclose(mean(small.kl), 0.5 + small.kl[:, 1:].sum() / B, rtol=1e-5)
    gradient = jax.grad(mean)(small.kl)
    np.testing.assert_allclose(gradient, np.concatenate([np.zeros((B, 1)), np.full((B, D - 1), 1 / B)], 1), rtol=1e-5)


def test_iwae_is_the_log_of_the_mean_weight_and_at_one_sample_the_elbo():
    t = terms()
    log_w = np.float64(t.log_px + t.log_pz - t.log_qz)
    np.testing.assert_allclose(iwae()(t, TURN)[0], -np.log(np.exp(log_w).mean(1)), rtol=1e-5)
    one = Terms(*(a[:, :1] for a in t[:3]), *t[3:])
    np.testing.assert_allclose(iwae()(one, TURN)[0], -log_w[:, 0], rtol=1e-5)
    assert np.all(iwae()(t, TURN)[0] <= -log_w.mean(1))  # Jensen
    assert log_mean_exp(jnp.array([-1e4, -1e4])) == -1e4  # without underflow


def test_info_and_tc_have_the_elbo_as_a_special_case():
    t = terms()
    plain = elbo()(t, TURN)[0]
    np.testing.assert_allclose(info(alpha=0.0, scale=1.0)(t, TURN)[0], plain, rtol=1e-5)
    np.testing.assert_allclose(tc(1000, beta=1.0)(t, TURN)[0], plain, rtol=1e-5)
    same = t._replace(z=t.z[:1].repeat(B, 0), mu=t.mu)  # all latents at one point: far from the prior
    assert float(info(alpha=1.0, scale=10.0)(same, TURN)[1]["mmd"][0]) > 0.1


def test_info_without_its_kl_is_the_distortion_and_the_discrepancy():
    t = terms()
    loss, metrics = info(alpha=1.0, scale=10.0)(t, TURN)
    np.testing.assert_allclose(loss, -t.log_px.mean(1) + 10.0 * metrics["mmd"], rtol=1e-5)


def test_total_correlation_over_a_whole_data_set_is_exact():
    t = terms()
    z, std = np.float64(t.z[:, 0]), np.exp(0.5 * np.float64(t.log_var))
    each = stats.norm(np.float64(t.mu)[None], std[None]).logpdf(z[:, None])  # [b, i, j]
    joint = np.log(np.exp(each.sum(-1)).mean(1))
    alone = np.log(np.exp(each).mean(1)).sum(1)
    np.testing.assert_allclose(total_correlation(t.z[:, 0], t.mu, t.log_var, B), joint - alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rho", [0.0, 0.8])
def test_total_correlation_of_correlated_gaussians(rho):
    """TC = -1/2 log(1 - rho^2), q(z|x) = N(mu, s^2 I) with codes spread so that q(z) has unit variances."""
    n, s = 1500, 0.4
    rng = np.random.default_rng(1)
    cov = np.array([[1.0, rho], [rho, 1.0]]) - s**2 * np.eye(2)
    mu = rng.multivariate_normal([0, 0], cov, n)
    z = mu + s * rng.normal(size=(n, 2))
    got = np.float64(total_correlation(*map(jnp.float32, (z, mu, np.full((n, 2), 2 * np.log(s)))), n))
    assert abs(got.mean() + 0.5 * np.log(1 - rho**2)) < 5 * got.std() / np.sqrt(n) + 0.01


def test_gaussian_divergences_agree_with_monte_carlo_and_with_each_other():
    mean, log_var, to_mean, to_log_var = jnp.float32(RNG.normal(size=(4, D)))
    zero = jnp.zeros(D)
    np.testing.assert_allclose(
        kl_gaussians_parts(mean, log_var, zero, zero), kl_standard_normal_parts(mean, log_var), rtol=1e-4, atol=1e-6
    )
    z = mean + jnp.exp(0.5 * log_var) * jnp.float32(RNG.normal(size=(40_000, D)))
    ratio = np.float64(log_normal(z, mean, log_var) - log_normal(z, to_mean, to_log_var))
    want = float(kl_gaussians_parts(mean, log_var, to_mean, to_log_var).sum())
    assert abs(ratio.mean() - want) < 5 * ratio.std() / 200


def test_info_weighs_its_kl_and_its_discrepancy():
    t = terms()
    loss, metrics = info(alpha=0.3, scale=7.0)(t, TURN)
    want = -t.log_px.mean(1) + (1 - 0.3) * t.kl.sum(1) + (0.3 + 7.0 - 1) * metrics["mmd"]
    np.testing.assert_allclose(loss, want, rtol=1e-5)
    assert abs(float(metrics["mmd"][0])) > 0.01  # enough to be seen


def test_tc_weighs_its_correlation():
    t = terms()
    loss, metrics = tc(50, beta=4.0)(t, TURN)
    np.testing.assert_allclose(loss, elbo()(t, TURN)[0] + 3.0 * metrics["tc"], rtol=1e-5)
    assert np.max(np.abs(metrics["tc"])) > 0.1


def test_total_correlation_of_a_minibatch_has_the_stratified_weights():
    # q(z_b) is estimated as 1/N q(z_b|x_b) + (N - 1)/N times the mean over the others, here by hand
    t, n = terms(), 50
    z, mu, std = (np.float64(a) for a in (t.z[:, 0], t.mu, np.exp(0.5 * np.float64(t.log_var))))
    each = stats.norm(mu[None], std[None]).pdf(z[:, None])  # [b, i, j]

    def mixed(p):  # [b, i, ...] -> [b, ...]
        own = np.stack([p[b, b] for b in range(B)])
        others = np.stack([np.delete(p[b], b, axis=0).mean(0) for b in range(B)])
        return own / n + (n - 1) / n * others

    want = np.log(mixed(each.prod(-1))) - np.log(mixed(each)).sum(-1)
    got = total_correlation(t.z[:, 0], t.mu, t.log_var, n)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
    part = total_correlation(t.z[2:5, 0], t.mu, t.log_var, n, jnp.arange(2, 5))
    np.testing.assert_allclose(part, want[2:5], rtol=1e-4, atol=1e-4)


def test_objectives_of_what_is_not_there_are_refused():
    with pytest.raises(InputError, match="needs a Gaussian"):
        tc(50)(terms()._replace(mu=None, log_var=None), TURN)  # after a flow
    one = jax.tree.map(lambda a: a[:1], terms())
    with pytest.raises(InputError, match="at least 2 examples"):
        info()(one, turn(jax.random.split(jax.random.key(0), 1)))


@pytest.mark.parametrize(
    "make",
    [
        lambda: elbo(beta=-1.0),
        lambda: elbo(warmup=-1),
        lambda: elbo(free_bits=-0.1),
        lambda: info(alpha=0.0, scale=0.5),
        lambda: tc(0),
        lambda: tc(4)(terms(), TURN),  # a minibatch larger than its data set
    ],
)
def test_impossible_settings_are_refused(make):
    with pytest.raises(InputError):
        make()
