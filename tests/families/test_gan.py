"""Generative adversarial networks: two players, each with its own loss, parameters and statistics."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgen.families import gan
from jaxgen.losses.adversarial import Adversarial
from jaxgen.nets import Network
from jaxgen.training import init_state, make_step
from jaxgen.types import Batch, InputError, labels

LATENT, DIMS = 2, 3
RNG = np.random.default_rng(0)
KEYS = jax.random.split(jax.random.key(0), 6)
X = jnp.asarray(RNG.normal(size=(6, DIMS)), jnp.float32)


def generate(params, stats, z, condition=None, train=False):
    return z @ params, {"n": stats["n"] + train}


def score(params, stats, x, condition=None, train=False):
    return x @ params, {"n": stats["n"] + train}


def counted(shape, apply):
    return Network(lambda key, *inputs: (jax.random.normal(key, shape), {"n": jnp.zeros((), jnp.int32)}), apply)


MODEL = gan(counted((LATENT, DIMS), generate), counted((DIMS,), score), LATENT)
PARAMS, EXTRA = MODEL.init(jax.random.key(1), Batch(X))
LOSSES = {player: jax.jit(loss) for player, loss in MODEL.losses.items()}


def softplus(x):
    return np.logaddexp(0.0, np.float64(x))


def test_the_losses_are_the_objective_of_the_scores():
    fake = MODEL.prior({}, {}, KEYS) @ PARAMS["generator"] @ PARAMS["critic"]
    loss, (metrics, _) = LOSSES["critic"](PARAMS, EXTRA, KEYS, Batch(X))
    np.testing.assert_allclose(loss, softplus(-(X @ PARAMS["critic"])) + softplus(fake), rtol=1e-5)
    np.testing.assert_allclose(metrics["score_real"], X @ PARAMS["critic"], rtol=1e-5)
    np.testing.assert_allclose(metrics["score_fake"], fake, rtol=1e-5)
    np.testing.assert_allclose(
        LOSSES["generator"](PARAMS, EXTRA, KEYS, Batch(X))[0], softplus(-np.float64(fake)), rtol=1e-5
    )


def test_another_objective_is_two_functions():
    wasserstein = Adversarial(critic=lambda real, fake: fake - real, generator=lambda real, fake: -fake)
    model = gan(counted((LATENT, DIMS), generate), counted((DIMS,), score), LATENT, objective=wasserstein)
    fake = model.prior({}, {}, KEYS) @ PARAMS["generator"] @ PARAMS["critic"]
    np.testing.assert_allclose(model.losses["generator"](PARAMS, EXTRA, KEYS, Batch(X))[0], -fake, rtol=1e-6)
    loss = model.losses["critic"](PARAMS, EXTRA, KEYS, Batch(X))[0]
    np.testing.assert_allclose(loss, fake - X @ PARAMS["critic"], rtol=1e-5, atol=1e-6)


def test_a_turn_updates_its_own_player_s_statistics_only():
    # the critic sees real and generated images in batches of their own: two updates
    _, (_, after) = LOSSES["critic"](PARAMS, EXTRA, KEYS, Batch(X))
    assert (int(after["critic"]["n"]), int(after["generator"]["n"])) == (2, 0)
    _, (_, after) = LOSSES["generator"](PARAMS, EXTRA, KEYS, Batch(X))
    assert (int(after["critic"]["n"]), int(after["generator"]["n"])) == (0, 1)


@pytest.mark.parametrize("player, other", [("critic", "generator"), ("generator", "critic")])
def test_a_loss_never_moves_the_other_player(player, other):
    # the loss does depend on the other's parameters: the gradient that is not applied is not zero
    whole = jax.grad(lambda params: jnp.mean(LOSSES[player](params, EXTRA, KEYS, Batch(X))[0]))(PARAMS)
    assert all(float(jnp.max(jnp.abs(whole[name]))) > 1e-3 for name in (player, other))
    optimizers = {player: optax.sgd(0.1), other: optax.sgd(0.0)}
    state = init_state(MODEL, optimizers, jax.random.key(2), Batch(X))
    after, _ = jax.jit(make_step(MODEL, optimizers))(state, Batch(X[None, None]))
    assert jnp.all(after.params[other] == state.params[other])
    assert jnp.all(after.params[player] != state.params[player])


def test_the_order_of_turns_is_the_order_of_updates():
    # after the critic's turn the generator plays against the new critic: by hand, with the step's own noise
    optimizers = {"critic": optax.sgd(0.5), "generator": optax.sgd(0.5)}
    state = init_state(MODEL, optimizers, jax.random.key(3), Batch(X))
    after, _ = jax.jit(make_step(MODEL, optimizers, order=("critic", "generator")))(state, Batch(X[None, None]))
    params = dict(state.params)
    for turn, player in enumerate(("critic", "generator")):
        key = jax.random.fold_in(jax.random.fold_in(state.key, 0), turn)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(6))

        def loss(own, others=params, player=player, keys=keys):
            return jnp.mean(LOSSES[player]({**others, player: own}, EXTRA, keys, Batch(X))[0])

        params = {**params, player: params[player] - 0.5 * jax.grad(loss)(params[player])}
    for player in params:
        np.testing.assert_allclose(after.params[player], params[player], rtol=1e-5, atol=1e-6)


def test_a_generated_image_is_the_generator_s_of_the_latent():
    z = MODEL.prior({}, {}, KEYS)
    image = MODEL.predict(PARAMS, EXTRA, None)(z, jnp.ones(()))
    np.testing.assert_allclose(image, z @ PARAMS["generator"], rtol=1e-6)


def test_both_networks_get_the_condition():
    seen = []

    def apply(params, stats, x, condition, train=False):
        seen.append(condition)
        return jnp.zeros(x.shape[0]), stats

    net = Network(lambda key, *inputs: ({}, {}), apply)
    model, label = gan(net, net, LATENT, condition=labels(3)), jnp.arange(6) % 3
    extra = {"critic": {}, "generator": {}}
    for player in ("critic", "generator"):
        model.losses[player](extra, extra, KEYS, Batch(X, label))
    model.predict(extra, extra, label)(model.prior({}, {}, KEYS), jnp.ones(()))
    assert len(seen) == 7 and all(condition is label for condition in seen)


def test_a_latent_of_no_dimension_is_refused():
    with pytest.raises(InputError, match="at least one dimension"):
        gan(counted((LATENT, DIMS), generate), counted((DIMS,), score), 0)
