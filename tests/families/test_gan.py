"""Generative adversarial networks: two players, each with its own loss, parameters and statistics."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from _functions import drawn, losses_of

from jaxgen.conditions import labels
from jaxgen.families import gan
from jaxgen.losses.adversarial import Adversarial, Stateful, instance_noise, lazy, r1, wasserstein
from jaxgen.nets import Network
from jaxgen.training import init_state, make_step
from jaxgen.types import Batch, InputError

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
PARAMS, EXTRA = MODEL.game.init(jax.random.key(1), Batch(X))
LOSSES = {player: jax.jit(loss) for player, loss in losses_of(MODEL).items()}


def softplus(x):
    return np.logaddexp(0.0, np.float64(x))


def test_the_losses_are_the_objective_of_the_scores():
    fake = MODEL.prior({}, {}, KEYS, None) @ PARAMS["generator"] @ PARAMS["critic"]
    loss, (metrics, _) = LOSSES["critic"](PARAMS, EXTRA, KEYS, Batch(X))
    np.testing.assert_allclose(loss, softplus(-(X @ PARAMS["critic"])) + softplus(fake), rtol=1e-5)
    np.testing.assert_allclose(metrics["score_real"], X @ PARAMS["critic"], rtol=1e-5)
    np.testing.assert_allclose(metrics["score_fake"], fake, rtol=1e-5)
    np.testing.assert_allclose(
        LOSSES["generator"](PARAMS, EXTRA, KEYS, Batch(X))[0], softplus(-np.float64(fake)), rtol=1e-5
    )


def test_another_objective_is_two_functions():
    model = gan(counted((LATENT, DIMS), generate), counted((DIMS,), score), LATENT, objective=wasserstein())
    fake = model.prior({}, {}, KEYS, None) @ PARAMS["generator"] @ PARAMS["critic"]
    np.testing.assert_allclose(losses_of(model)["generator"](PARAMS, EXTRA, KEYS, Batch(X))[0], -fake, rtol=1e-6)
    loss = losses_of(model)["critic"](PARAMS, EXTRA, KEYS, Batch(X))[0]
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
    full = jax.grad(lambda params: jnp.mean(LOSSES[player](params, EXTRA, KEYS, Batch(X))[0]))(PARAMS)
    assert all(float(jnp.max(jnp.abs(full[name]))) > 1e-3 for name in (player, other))
    optimizers = {player: optax.sgd(0.1), other: optax.sgd(0.0)}
    state = init_state(MODEL.game, optimizers, jax.random.key(2), Batch(X))
    after, _ = jax.jit(make_step(MODEL.game, optimizers))(state, Batch(X[None, None]))
    assert jnp.all(after.params[other] == state.params[other])
    assert jnp.all(after.params[player] != state.params[player])


def test_the_order_of_turns_is_the_order_of_updates():
    # after the critic's turn the generator plays against the new critic: by hand, with the step's own noise
    optimizers = {"critic": optax.sgd(0.5), "generator": optax.sgd(0.5)}
    state = init_state(MODEL.game, optimizers, jax.random.key(3), Batch(X))
    after, _ = jax.jit(make_step(MODEL.game, optimizers, order=("critic", "generator")))(state, Batch(X[None, None]))
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
    z = MODEL.prior({}, {}, KEYS, None)
    image = drawn(MODEL, PARAMS, EXTRA, None)(z, jnp.ones(()))
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
        losses_of(model)[player](extra, extra, KEYS, Batch(X, label))
    drawn(model, extra, extra, label)(model.prior({}, {}, KEYS, None), jnp.ones(()))
    assert len(seen) == 7 and all(condition is label for condition in seen)


def test_a_latent_of_no_dimension_is_refused():
    with pytest.raises(InputError, match="at least one dimension"):
        gan(counted((LATENT, DIMS), generate), counted((DIMS,), score), 0)


# --- penalties, objectives with a state, augmentations ----------------------------------------------------------------


def linear_gan(**options):
    return gan(counted((LATENT, DIMS), generate), counted((DIMS,), score), LATENT, **options)


def test_r1_of_a_linear_critic_is_its_squared_weight():
    model = linear_gan(penalties=(r1(6.0),))
    loss, (metrics, _) = losses_of(model)["critic"](PARAMS, EXTRA, KEYS, Batch(X))
    want = np.full(6, 3.0 * np.sum(np.float64(PARAMS["critic"]) ** 2))
    np.testing.assert_allclose(metrics["penalty"], want, rtol=1e-5)
    np.testing.assert_allclose(loss, LOSSES["critic"](PARAMS, EXTRA, KEYS, Batch(X))[0] + want, rtol=1e-5)


def test_a_lazy_penalty_is_paid_in_full_every_few_steps():
    model, always = linear_gan(penalties=(lazy(r1(2.0), 4),)), linear_gan(penalties=(r1(2.0),))
    per_step = losses_of(always)["critic"](PARAMS, EXTRA, KEYS, Batch(X))[1][0]["penalty"]
    for step, times in ((0, 4), (1, 0), (3, 0), (4, 4), (5, 0)):
        paid = jax.jit(losses_of(model, step)["critic"])(PARAMS, EXTRA, KEYS, Batch(X))[1][0]["penalty"]
        np.testing.assert_allclose(paid, times * per_step, rtol=1e-5)
    gradient = jax.grad(
        lambda d: jnp.mean(losses_of(model, 4)["critic"]({**PARAMS, "critic": d}, EXTRA, KEYS, Batch(X))[0])
    )
    plain = jax.grad(lambda d: jnp.mean(LOSSES["critic"]({**PARAMS, "critic": d}, EXTRA, KEYS, Batch(X))[0]))
    d = PARAMS["critic"]
    np.testing.assert_allclose(gradient(d) - plain(d), 4 * 2.0 * d, rtol=1e-4, atol=1e-5)  # of 4 |d|^2


def test_the_state_of_an_objective_is_carried_and_used():
    """A proportional controller, as BEGAN's k_t: k <- k + (gamma mean real - mean fake)."""

    def at(k):
        return Adversarial(
            critic=lambda real, fake, turn: real.score - k * fake.score,
            generator=lambda real, fake, turn: k * fake.score,
        )

    def update(k, real, fake, turn):
        scores = turn.gather((real.score, fake.score))
        return k + 0.5 * jnp.mean(scores[0]) - jnp.mean(scores[1])

    model = linear_gan(objective=Stateful(lambda: jnp.asarray(0.25), at, update))
    params, extra = model.game.init(jax.random.key(1), Batch(X))
    loss, (metrics, after) = losses_of(model)["critic"](params, extra, KEYS, Batch(X))
    real, fake = (np.float64(metrics[name]) for name in ("score_real", "score_fake"))
    np.testing.assert_allclose(loss, real - 0.25 * fake, rtol=1e-5)
    np.testing.assert_allclose(after["objective"]["state"], 0.25 + 0.5 * real.mean() - fake.mean(), rtol=1e-5)
    loss, (_, later) = losses_of(model)["generator"](params, after, KEYS, Batch(X))
    np.testing.assert_allclose(loss, after["objective"]["state"] * fake, rtol=1e-5)
    assert later["objective"] == after["objective"]  # the critic's turn moves it, the generator's does not


def test_instance_noise_falls_to_nothing_and_reaches_real_and_fake_images():
    model = linear_gan(augmentation=instance_noise(2.0, 10))
    clean = LOSSES["critic"](PARAMS, EXTRA, KEYS, Batch(X))[1][0]
    for step, sigma in ((0, 2.0), (5, 1.0), (10, 0.0), (99, 0.0)):
        noisy = losses_of(model, step)["critic"](PARAMS, EXTRA, KEYS, Batch(X))[1][0]
        for name in ("score_real", "score_fake"):
            moved = np.float64(noisy[name] - clean[name])
            bound = 5 * sigma * np.linalg.norm(PARAMS["critic"])
            assert np.all(np.abs(moved) <= bound + 1e-6) and np.all((np.abs(moved) > 1e-4) == (sigma > 0))


def test_what_does_not_fit_is_refused_before_anything_is_compiled():
    wide = gan(counted((LATENT, DIMS + 1), generate), counted((DIMS,), score), LATENT)
    with pytest.raises(InputError, match=r"the generator makes \(4,\), the data are \(3,\)"):
        wide.game.init(jax.random.key(0), Batch(X))
    table = gan(counted((LATENT, DIMS), generate), counted((DIMS, 2), score), LATENT)
    with pytest.raises(InputError, match=r"the critic gives \(2,\) an example"):
        table.game.init(jax.random.key(0), Batch(X))
