"""Several stochastic layers against a linear Gaussian model of two, whose likelihood and posterior are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _functions import drawn, losses_of
from scipy import stats

from jaxgen.conditions import labels
from jaxgen.families import hierarchical_vae, vae
from jaxgen.families.common import Gaussian
from jaxgen.families.ladder import product
from jaxgen.losses.evidence import elbo
from jaxgen.losses.likelihood import gaussian
from jaxgen.nets import Network, network
from jaxgen.nets.mlp import MLP
from jaxgen.types import Batch, InputError

SIGMA, D1, D2, DIMS, MANY = 0.6, 3, 2, 6, 20_000
RNG = np.random.default_rng(0)
# z_2 ~ N(0, I), z_1 ~ N(A z_2, S), x ~ N(W1 z_1 + W2 z_2 + B, SIGMA^2): orthogonal columns of W and an A that make the
# posterior's covariances diagonal, as the family's are
Q = np.linalg.qr(RNG.normal(size=(DIMS, D1 + D2)))[0]
W1, W2, B = Q[:, :D1] * [1.5, 0.7, 1.0], Q[:, D1:] * [0.5, 0.9], RNG.normal(size=DIMS)
S, HAT = np.array([0.5, 1.0, 0.3]), SIGMA**2 / np.sum(W1**2, axis=0)  # the evidence of x for z_1 has the variance HAT
A = np.sqrt(S + HAT)[:, None] * np.linalg.qr(RNG.normal(size=(D1, D2)))[0] * [1.2, 0.8]
TOP = 1 / (1 + np.diag(A.T / (S + HAT) @ A) + np.sum(W2**2, axis=0) / SIGMA**2)
PRECISION = np.block([[A.T / S @ A + np.eye(D2), -A.T / S], [-(A.T / S).T, np.diag(1 / S)]])  # of [z_2, z_1]
W = np.hstack([W2, W1])
KEYS = jax.random.split(jax.random.key(0), MANY)


def squashed(log_var):
    """What a network has to say for the family to read `log_var`: the inverse of 15 tanh(. / 15)."""
    return 15 * np.arctanh(np.asarray(log_var) / 15)


def affine(params, stats, x, condition=None, train=False):
    return x @ params["w"] + params["b"], stats


LINEAR = Network(lambda key, *inputs: ({}, {}), affine)
EXTRA = {name: {} for name in ("up1", "up2", "down1", "merge1", "decoder")}
NETS = ([LINEAR, LINEAR], [LINEAR], LINEAR, (D1, D2))


def model(merged=False, **options):
    return hierarchical_vae(*NETS, merge=[LINEAR] if merged else None, likelihood=gaussian(SIGMA), **options)


MODELS = {merged: model(merged) for merged in (False, True)}
LOG_WEIGHTS = {m: jax.jit(model.density.log_p, static_argnums=4) for m, model in MODELS.items()}


def parameters(merged=False, gain=1.0, top_shift=0.0, shift=0.0):
    """The exact posterior; beside it, with another gain or variance of q(z_2 | x), or variance of z_1."""
    back = W1 / np.sum(W1**2, axis=0)  # (x - B) @ back: what x says of z_1
    up2 = gain * TOP * (back @ (A / (S + HAT)[:, None]) + W2 / SIGMA**2)  # d_1 is x - B
    below = 1 / (1 / S + 1 / HAT)
    merge = np.vstack([back * below / HAT, A.T * below / S])  # of [x - B, z_2]
    zeros, passed, of_x = np.zeros((DIMS, D1)), np.eye(DIMS), np.hstack([back, np.zeros((DIMS, D1))])
    up1 = {"w": np.hstack([of_x, passed]), "b": np.concatenate([-B @ back, squashed(np.log(HAT) + shift), -B])}
    tree = {
        "up1": {"w": passed, "b": -B} if merged else up1,
        "up2": {"w": np.hstack([up2, 0 * up2]), "b": np.concatenate([np.zeros(D2), squashed(np.log(TOP) + top_shift)])},
        "down1": {"w": np.hstack([A.T, 0 * A.T]), "b": np.concatenate([np.zeros(D1), squashed(np.log(S))])},
        "decoder": {"w": W.T, "b": B},
    }
    if merged:
        bias = np.concatenate([np.zeros(D1), squashed(np.log(below) + shift)])
        tree["merge1"] = {"w": np.hstack([merge, np.vstack([zeros, np.zeros((D2, D1))])]), "b": bias}
    return jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), {"vae": tree})


def log_p(x):
    return stats.multivariate_normal.logpdf(x, B, W @ np.linalg.inv(PRECISION) @ W.T + SIGMA**2 * np.eye(DIMS))


def repeated(x):
    return Batch(jnp.broadcast_to(jnp.float32(x), (MANY, DIMS)))


def draws(x, merged, **beside):
    return np.float64(LOG_WEIGHTS[merged](parameters(merged, **beside), EXTRA, KEYS, repeated(x), 1)[:, 0])


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("x", [B, RNG.normal(size=DIMS), 3 * RNG.normal(size=DIMS)])
def test_the_product_of_what_is_said_above_and_below_is_the_exact_posterior(merged, x):
    # p(x, z) / q(z | x) = p(x) whatever z: every single weight
    np.testing.assert_allclose(draws(x, merged), log_p(x), rtol=1e-5)


@pytest.mark.parametrize("merged, gain, shift", [(False, 0.5, 0.0), (True, 1.0, 1.0), (False, 1.3, -2.0)])
def test_beside_it_the_bound_is_looser_by_the_divergence_at_the_top(merged, gain, shift):
    x = 1.5 * RNG.normal(size=DIMS)
    got = draws(x, merged, gain=gain, top_shift=shift)
    mean = (np.linalg.solve(PRECISION + W.T @ W / SIGMA**2, W.T @ (x - B)) / SIGMA**2)[:D2]
    gap = 0.5 * np.sum(((gain - 1) * mean) ** 2 / TOP + np.exp(shift) - 1 - shift)
    error = got.std() / np.sqrt(MANY)
    assert gap > 10 * error  # enough to be seen
    assert abs(log_p(x) - got.mean() - gap) < 5 * error


@pytest.mark.parametrize("merged", [False, True])
def test_a_wrong_lower_layer_loosens_the_bound_and_leaves_the_weights_mean(merged):
    x = RNG.normal(size=DIMS)
    log_w = draws(x, merged, shift=0.7)
    w = np.exp(log_w - log_p(x))
    assert log_p(x) - log_w.mean() > 10 * log_w.std() / np.sqrt(MANY)
    assert abs(w.mean() - 1) < 5 * w.std() / np.sqrt(MANY)


def test_the_loss_has_the_weights_mean_with_the_kl_in_closed_form():
    x, params = RNG.normal(size=DIMS), parameters(gain=0.7, shift=1.0)
    loss, (metrics, _) = jax.jit(losses_of(MODELS[False])["vae"])(params, EXTRA, KEYS, repeated(x))
    log_w = draws(x, False, gain=0.7, shift=1.0)
    assert abs(loss.mean() + log_w.mean()) < 5 * (loss.std() + log_w.std()) / np.sqrt(MANY)
    np.testing.assert_allclose(metrics["kl"], metrics["kl_1"] + metrics["kl_2"], rtol=1e-4)
    np.testing.assert_allclose(loss, metrics["distortion"] + metrics["kl"], rtol=1e-5)
    assert np.ptp(metrics["kl_2"]) < 1e-5 < np.ptp(metrics["kl_1"])  # z_1's prior moves with z_2


def test_the_kl_is_warmed_up_and_its_parts_are_the_dimensions():
    def bound(terms, turn):
        loss, metrics = elbo(warmup=4)(terms, turn)
        return loss, {**metrics, "parts": terms.kl}

    x = Batch(jnp.asarray(RNG.normal(size=(8, DIMS)), jnp.float32))
    for step, weight in ((0, 0.25), (2, 0.75), (9, 1.0)):
        loss = losses_of(model(objective=bound), step)["vae"]
        got, (metrics, _) = loss(parameters(gain=0.7), EXTRA, KEYS[:8], x)
        np.testing.assert_allclose(got, metrics["distortion"] + weight * metrics["kl"], rtol=1e-5)
    assert metrics["parts"].shape == (8, D2 + D1) and np.all(metrics["parts"] >= 0)
    np.testing.assert_allclose(np.sum(metrics["parts"][:, :D2], axis=1), metrics["kl_2"], rtol=1e-5)


@pytest.mark.parametrize("merged", [False, True])
def test_encoded_means_are_drawn_again_from_white_noise(merged):
    # in a linear model the means, taken from the top down, are the mean of the full posterior
    x = jnp.asarray(RNG.normal(size=(5, DIMS)), jnp.float32)
    mean = (np.float64(x) - B) @ W @ np.linalg.inv(PRECISION + W.T @ W / SIGMA**2) / SIGMA**2

    @jax.jit
    def there_and_back(params):
        eps = MODELS[merged].encode(params, EXTRA, x, None)
        return eps, drawn(MODELS[merged], params, EXTRA, None)(eps, jnp.ones(()))

    eps, again = there_and_back(parameters(merged))
    np.testing.assert_allclose(eps[:, :D2], mean[:, :D2], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(eps[:, D2:], (mean[:, D2:] - mean[:, :D2] @ A.T) / np.sqrt(S), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(again, mean @ W.T + B, rtol=1e-3, atol=1e-4)


def test_white_noise_is_drawn_as_the_prior_is():
    eps = MODELS[False].prior(parameters(), EXTRA, KEYS, None)
    x = np.float64(drawn(MODELS[False], parameters(), EXTRA, None)(eps, jnp.ones(())))
    covariance = W @ np.linalg.inv(PRECISION) @ W.T
    assert eps.shape == (MANY, D1 + D2)
    np.testing.assert_allclose(np.cov(x.T), covariance, atol=6 * np.max(covariance) / np.sqrt(MANY))


def test_one_layer_is_the_vae():
    # all that an objective is given, and with it every loss
    def everything(terms, turn):
        return terms.log_px[:, 0], terms._asdict()

    x = Batch(jnp.asarray(RNG.normal(size=(6, DIMS)), jnp.float32))
    encoder, decoder = ({"w": RNG.normal(size=size), "b": RNG.normal(size=size[1])} for size in ((DIMS, 6), (3, DIMS)))
    options = {"likelihood": gaussian(), "objective": everything, "samples": 4}
    one, other = hierarchical_vae([LINEAR], [], LINEAR, (3,), **options), vae(LINEAR, LINEAR, 3, **options)
    inside = {"vae": {"up1": encoder, "decoder": decoder}}, {"up1": {}, "decoder": {}}
    outside = {"vae": {"encoder": encoder, "decoder": decoder, "prior": {}}}, {"encoder": {}, "decoder": {}}

    def seen(model, params, extra):
        _, (terms, _) = jax.jit(losses_of(model)["vae"])(params, extra, KEYS[:6], x)
        for name in {"prior", "kl_1"} & set(terms):  # other draws of N(0, I); of layers only
            del terms[name]
        return terms, model.encode(params, extra, x.x, None)

    def close(got, expected):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)

    jax.tree.map(close, seen(one, *inside), seen(other, *outside))


def deep(merged):
    def net(out):
        return network(MLP((out,), (8,), classes=3))

    up = [net(5 if merged else 2 * 2 + 5), net(4 if merged else 2 * 3 + 4), net(2 * 2)]
    merge = [net(2 * 2), net(2 * 3)] if merged else None
    return hierarchical_vae(
        up,
        [net(2 * 2), net(2 * 3)],
        net(DIMS),
        (2, 3, 2),
        merge=merge,
        likelihood=gaussian(),
        samples=2,
        condition=labels(3),
    )


@pytest.mark.parametrize("merged", [False, True])
def test_three_layers_with_labels_train_and_their_noise_belongs_to_the_example(merged):
    ladder = deep(merged)
    x = Batch(jnp.asarray(RNG.normal(size=(6, DIMS)), jnp.float32), jnp.arange(6) % 3)
    params, extra = jax.jit(ladder.game.init)(jax.random.key(2), x)
    gradient = jax.jit(jax.grad(lambda p: jnp.mean(losses_of(ladder)["vae"](p, extra, KEYS[:6], x)[0])))(params)
    # every network is used; the labels that no example carries have no gradient
    assert all(jnp.any(leaf != 0) for leaf in jax.tree.leaves(gradient))
    log_weights = jax.jit(ladder.density.log_p, static_argnums=4)
    full = log_weights(params, extra, KEYS[:6], x, 4)
    part = log_weights(params, extra, KEYS[4:6], Batch(x.x[4:], x.condition[4:]), 4)
    np.testing.assert_allclose(part, full[4:], rtol=1e-4)
    assert full.shape == (6, 4) and np.all(log_weights(params, extra, KEYS[6:12], x, 4) != full)


def test_the_product_is_the_normalised_product_and_extremes_are_finite():
    mu_hat, log_var_hat, mu_p, log_var_p = RNG.normal(size=(4, 7)).astype(np.float32)
    mu, log_var = product(Gaussian(mu_hat, log_var_hat), Gaussian(mu_p, log_var_p))
    variance = 1 / (np.exp(-log_var_hat) + np.exp(-log_var_p))
    mean = variance * (mu_hat * np.exp(-log_var_hat) + mu_p * np.exp(-log_var_p))
    np.testing.assert_allclose(log_var + log_var_p, np.log(variance), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(mu_p + mu * np.exp(0.5 * log_var_p), mean, rtol=1e-4, atol=1e-5)
    x = Batch(jnp.full((3, DIMS), 0.5))
    loss = jax.jit(jax.value_and_grad(lambda p: jnp.mean(losses_of(MODELS[False])["vae"](p, EXTRA, KEYS[:3], x)[0])))
    for up, down in ((-1e6, 1e6), (1e6, -1e6), (1e6, 1e6), (-1e6, -1e6)):
        params = parameters()
        params["vae"]["up1"]["b"] = jnp.full(2 * D1 + DIMS, up)
        params["vae"]["down1"]["b"] = jnp.full(2 * D1, down)
        assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(loss(params))), (up, down)


def test_networks_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="2 layers need 2 networks up, 1 down"):
        hierarchical_vae([LINEAR], [LINEAR], LINEAR, (2, 2))
    with pytest.raises(InputError, match="at least one dimension"):
        hierarchical_vae([LINEAR], [], LINEAR, (0,))

    def build(up1, up2, down1):
        nets = [network(MLP((out,), ())) for out in (up1, up2, down1, DIMS)]
        hierarchical_vae(nets[:2], [nets[2]], nets[3], (2, 3)).game.init(jax.random.key(0), Batch(jnp.zeros((1, DIMS))))

    for sizes, words in (
        ((4, 6, 4), "'up1' gives 0 features .* some, which the layer above sees"),
        ((9, 8, 4), "'up2' gives 2 features .* none, nothing is above it"),
        ((9, 6, 5), "'down1' gives 5 numbers, mu and log sigma\\^2 of its layer are 4"),
    ):
        with pytest.raises(InputError, match=words):
            build(*sizes)
