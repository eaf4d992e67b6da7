"""Codes that follow the prior: the discrepancy's known values, and whose parameters each of the players moves."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from _functions import drawn, losses_of

from jaxgen.families import adversarial_autoencoder, wae_mmd
from jaxgen.losses.adversarial import Adversarial
from jaxgen.losses.divergence import mmd
from jaxgen.losses.likelihood import gaussian, learned_gaussian
from jaxgen.nets import Network, network
from jaxgen.nets.mlp import MLP
from jaxgen.training import init_state, make_step
from jaxgen.types import Batch, InputError

DIMS, LATENT, N, SCALE = 3, 2, 40, 4.0
RNG = np.random.default_rng(0)
KEYS = jax.random.split(jax.random.key(0), N)
X = jnp.asarray(RNG.normal(size=(N, DIMS)), jnp.float32)


def kernel(squared, dims):
    """The sum of the seven inverse multiquadratic kernels at a squared distance."""
    return sum(s * 2 * dims / (s * 2 * dims + squared) for s in (0.1, 0.2, 0.5, 1, 2, 5, 10))


def counted(shape):
    """x W, counting its passes in training mode."""

    def apply(params, stats, x, condition=None, train=False):
        return x @ params, {"n": stats["n"] + train}

    return Network(lambda key, *inputs: (jax.random.normal(key, shape), {"n": jnp.zeros((), jnp.int32)}), apply)


ENCODER, DECODER, CRITIC = counted((DIMS, LATENT)), counted((LATENT, DIMS)), counted((LATENT,))
WAE = wae_mmd(ENCODER, DECODER, LATENT, scale=SCALE)
AAE = adversarial_autoencoder(ENCODER, DECODER, CRITIC, LATENT, scale=SCALE)
PARAMS, EXTRA = AAE.game.init(jax.random.key(1), Batch(X))
LOSSES = {player: jax.jit(loss) for player, loss in losses_of(AAE).items()}


def reconstructed():
    own = PARAMS["autoencoder"]
    z = X @ own["encoder"]
    return z, np.sum((np.float64(X) - z @ own["decoder"]) ** 2, axis=1)


def test_the_discrepancy_of_two_points_is_known():
    a, b = np.float32([[0.0, 0.0]]), np.float32([[1.0, 2.0]])
    both, k = np.concatenate([a, b]), kernel(5.0, 2)
    np.testing.assert_allclose(mmd(both, both), k - 7, rtol=1e-5)  # unbiased: below zero for the same two points
    a, b = np.repeat(a, 4, axis=0), np.repeat(b, 3, axis=0)
    np.testing.assert_allclose(mmd(a, b), 14 - 2 * k, rtol=1e-5)


def test_the_discrepancy_of_samples_of_one_distribution_is_zero_on_average():
    draws = jax.random.normal(jax.random.key(0), (2, 2000, 12, 3))
    values = jax.jit(jax.vmap(mmd))(*draws)
    assert abs(values.mean()) < 5 * values.std() / np.sqrt(2000)
    shifted = jax.jit(jax.vmap(mmd))(draws[0] + 0.5, draws[1])
    assert shifted.mean() > 10 * shifted.std() / np.sqrt(2000)


def test_the_discrepancy_of_the_loss_vanishes_for_codes_that_follow_the_prior():
    identity = {"autoencoder": {"encoder": jnp.eye(LATENT), "decoder": jnp.eye(LATENT)}}
    stats = {"encoder": {"n": 0}, "decoder": {"n": 0}}

    @jax.jit
    @jax.vmap
    def discrepancy(key, x):
        return losses_of(WAE)["autoencoder"](identity, stats, jax.random.split(key, N), Batch(x))[1][0]["mmd"][0]

    keys, x = jax.random.split(jax.random.key(1), 1000), jax.random.normal(jax.random.key(2), (1000, N, LATENT))
    same, wider, shifted = (discrepancy(keys, codes) for codes in (x, 2 * x, x + 0.5))
    assert abs(same.mean()) < 5 * same.std() / np.sqrt(1000)
    for other in (wider, shifted):
        assert other.mean() > 10 * other.std() / np.sqrt(1000)


@pytest.mark.parametrize("likelihood", [None, gaussian(0.5)])
def test_the_loss_is_reconstruction_and_the_weighted_discrepancy(likelihood):
    model = wae_mmd(ENCODER, DECODER, LATENT, scale=SCALE, likelihood=likelihood)
    loss, (metrics, after) = jax.jit(losses_of(model)["autoencoder"])(PARAMS, EXTRA, KEYS, Batch(X))
    z, error = reconstructed()
    np.testing.assert_allclose(metrics["squared_error"], error, rtol=1e-5)
    expected = error if likelihood is None else -likelihood.log_prob(X, z @ PARAMS["autoencoder"]["decoder"])
    np.testing.assert_allclose(loss, expected + SCALE * mmd(z, model.prior({}, {}, KEYS, None)), rtol=1e-5)
    assert (int(after["encoder"]["n"]), int(after["decoder"]["n"])) == (1, 1)


def test_the_discrepancy_is_the_whole_batch_s_where_its_parts_lie_apart():
    def value_and_gradient(keys, x, mean=lambda a: a, axis=None):
        def loss(params):
            return jnp.mean(losses_of(WAE, axis=axis)["autoencoder"](params, EXTRA, keys, Batch(x))[0])

        return mean(jax.value_and_grad(loss)(PARAMS))

    parts = (4, N // 4)
    mapped = jax.vmap(
        partial(value_and_gradient, mean=lambda a: jax.lax.pmean(a, "data"), axis="data"), axis_name="data"
    )
    apart = jax.jit(mapped)(KEYS.reshape(parts), X.reshape(*parts, DIMS))
    full = jax.jit(value_and_gradient)(KEYS, X)
    for a, b in zip(jax.tree.leaves(apart), jax.tree.leaves(full), strict=True):
        np.testing.assert_allclose(a[0], b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model", [WAE, AAE])
def test_the_prior_is_standard_normal_and_the_code_has_no_noise(model):
    z = np.float64(model.prior({}, {}, jax.random.split(jax.random.key(3), 20_000), None))
    assert np.all(np.abs(z.mean(0)) < 5 / np.sqrt(len(z)))
    assert np.all(np.abs(np.cov(z.T) - np.eye(LATENT)) < 5 * np.sqrt(2 / len(z)))
    code = model.encode(PARAMS, EXTRA, X, None)
    np.testing.assert_allclose(code, reconstructed()[0], rtol=1e-6)
    image = drawn(model, PARAMS, EXTRA, None)(code, jnp.ones(()))
    np.testing.assert_allclose(image, code @ PARAMS["autoencoder"]["decoder"], rtol=1e-6)


# --- the adversarial autoencoder -----------------------------------------------------------------------------------


def softplus(x):
    return np.logaddexp(0.0, np.float64(x))


def test_draws_are_real_and_codes_are_fake():
    z, error = reconstructed()
    real, fake = AAE.prior({}, {}, KEYS, None) @ PARAMS["critic"], z @ PARAMS["critic"]
    loss, (metrics, _) = LOSSES["critic"](PARAMS, EXTRA, KEYS, Batch(X))
    np.testing.assert_allclose(loss, softplus(-real) + softplus(fake), rtol=1e-4)
    np.testing.assert_allclose(metrics["score_real"], real, rtol=1e-5, atol=1e-6)
    loss = LOSSES["autoencoder"](PARAMS, EXTRA, KEYS, Batch(X))[0]
    np.testing.assert_allclose(loss, error + SCALE * softplus(-fake), rtol=1e-4)


def test_another_objective_sees_both_scores():
    relative = Adversarial(
        critic=lambda real, fake, turn: fake.score - real.score,
        generator=lambda real, fake, turn: real.score - fake.score,
    )
    model = adversarial_autoencoder(ENCODER, DECODER, CRITIC, LATENT, objective=relative, scale=SCALE)
    z, error = reconstructed()
    gap = (model.prior({}, {}, KEYS, None) - z) @ PARAMS["critic"]
    np.testing.assert_allclose(losses_of(model)["critic"](PARAMS, EXTRA, KEYS, Batch(X))[0], -gap, rtol=1e-4, atol=1e-5)
    loss = losses_of(model)["autoencoder"](PARAMS, EXTRA, KEYS, Batch(X))[0]
    np.testing.assert_allclose(loss, error + SCALE * gap, rtol=1e-4, atol=1e-4)


def test_a_turn_updates_its_own_player_s_statistics_only():
    def counts(player):
        after = LOSSES[player](PARAMS, EXTRA, KEYS, Batch(X))[1][1]
        return [int(after[name]["n"]) for name in ("critic", "encoder", "decoder")]

    assert counts("critic") == [2, 0, 0]  # draws and codes pass in batches of their own
    assert counts("autoencoder") == [0, 1, 1]


@pytest.mark.parametrize("player, other", [("critic", "autoencoder"), ("autoencoder", "critic")])
def test_a_loss_never_moves_the_other_player(player, other):
    # the loss does depend on the other's parameters: the gradient that is not applied is not zero
    full = jax.grad(lambda params: jnp.mean(LOSSES[player](params, EXTRA, KEYS, Batch(X))[0]))(PARAMS)
    assert all(float(optax.global_norm(full[name])) > 1e-3 for name in (player, other))
    optimizers = {player: optax.sgd(0.1), other: optax.sgd(0.0)}
    state = init_state(AAE.game, optimizers, jax.random.key(2), Batch(X))
    step = jax.jit(make_step(AAE.game, optimizers))
    after, _ = step(state, Batch(X[None, None]))
    same = jax.tree.map(lambda a, b: bool(jnp.all(a == b)), after.params, state.params)
    assert all(jax.tree.leaves(same[other])) and not any(jax.tree.leaves(same[player]))


def test_at_scale_zero_only_the_reconstruction_counts():
    error = reconstructed()[1]
    for model in (
        wae_mmd(ENCODER, DECODER, LATENT, scale=0.0),
        adversarial_autoencoder(ENCODER, DECODER, CRITIC, LATENT, scale=0.0),
    ):
        np.testing.assert_allclose(losses_of(model)["autoencoder"](PARAMS, EXTRA, KEYS, Batch(X))[0], error, rtol=1e-5)


def test_what_does_not_fit_is_refused():
    for make in (wae_mmd, lambda f, g, latent, **options: adversarial_autoencoder(f, g, CRITIC, latent, **options)):
        with pytest.raises(InputError, match="at least one dimension"):
            make(ENCODER, DECODER, 0)
        with pytest.raises(InputError, match="must not be negative"):
            make(ENCODER, DECODER, LATENT, scale=-1.0)
        with pytest.raises(InputError, match=r"the encoder gives \(2,\), the code has 5 numbers"):
            make(ENCODER, DECODER, 5).game.init(jax.random.key(0), Batch(X))
        with pytest.raises(InputError, match=r"the likelihood needs \(6,\)"):
            make(ENCODER, DECODER, LATENT, likelihood=learned_gaussian()).game.init(jax.random.key(0), Batch(X))
    with pytest.raises(InputError, match="at least 2 examples"):
        WAE.game.init(jax.random.key(0), Batch(X[:1]))
    column = network(MLP((1,), ()))
    with pytest.raises(InputError, match=r"the critic gives \(1,\) an example"):
        adversarial_autoencoder(ENCODER, DECODER, column, LATENT).game.init(jax.random.key(0), Batch(X))
