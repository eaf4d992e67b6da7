"""The three players of a VAE/GAN, their losses written out by hand for linear networks."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from _functions import drawn, losses_of

from jaxgen.conditions import labels
from jaxgen.families import vae, vae_gan
from jaxgen.losses.adversarial import wasserstein
from jaxgen.losses.likelihood import gaussian
from jaxgen.nets import Network, network
from jaxgen.nets.conv import DCGANCritic
from jaxgen.nets.heads import Heads
from jaxgen.training import init_state, make_step
from jaxgen.types import Batch, InputError, Seen

LATENT, DIMS, FEATURES, GAMMA, N = 2, 3, 4, 0.3, 6
RNG = np.random.default_rng(0)
KEYS = jax.random.split(jax.random.key(0), N)
X = jnp.asarray(RNG.normal(size=(N, DIMS)), jnp.float32)
PLAYERS = ("critic", "encoder", "decoder")


def linear(shape):
    def init(key, *inputs):
        return 0.5 * jax.random.normal(key, shape), {"n": jnp.zeros((), jnp.int32)}

    return Network(init, lambda w, stats, x, c=None, train=False: (x @ w, {"n": stats["n"] + train}))


def judge(w, stats, x, condition=None, train=False):
    return Seen(x @ w[:, 0], x @ w[:, 1:]), {"n": stats["n"] + train}


ENCODER, DECODER = linear((DIMS, 2 * LATENT)), linear((LATENT, DIMS))
CRITIC = Network(linear((DIMS, 1 + FEATURES)).init, judge)
MODEL = vae_gan(ENCODER, DECODER, CRITIC, LATENT, gamma=GAMMA)
PARAMS, EXTRA = MODEL.game.init(jax.random.key(1), Batch(X))
LOSSES = {player: jax.jit(loss) for player, loss in losses_of(MODEL).items()}


def by_hand():
    """(kl, llike, scores of x, of its reconstruction and of the prior's), from the same noise."""
    h = np.float64(X) @ PARAMS["encoder"]
    mu, log_var = h[:, :LATENT], 15 * np.tanh(h[:, LATENT:] / 15)
    eps = np.float64(jax.vmap(lambda key: jax.random.normal(key, (LATENT,)))(KEYS))
    again = (mu + np.exp(0.5 * log_var) * eps) @ PARAMS["decoder"]
    z_p = MODEL.prior({}, {}, jax.vmap(jax.random.fold_in, (0, None))(KEYS, 1), None)
    score, seen = PARAMS["critic"][:, 0], PARAMS["critic"][:, 1:]
    error = np.sum(np.square((np.float64(X) - again) @ seen), axis=1)
    kl = 0.5 * np.sum(mu**2 + np.exp(log_var) - 1 - log_var, axis=1)
    llike = 0.5 * error + 0.5 * FEATURES * np.log(2 * np.pi)
    return kl, llike, X @ score, again @ score, z_p @ PARAMS["decoder"] @ score


def softplus(x):
    return np.logaddexp(0.0, np.float64(x))


def test_the_losses_are_those_of_the_algorithm():
    kl, llike, real, again, fake = by_hand()
    losses = {player: loss(PARAMS, EXTRA, KEYS, Batch(X))[0] for player, loss in LOSSES.items()}
    np.testing.assert_allclose(losses["encoder"], kl + llike, rtol=1e-4)
    np.testing.assert_allclose(losses["critic"], softplus(-real) + (softplus(again) + softplus(fake)) / 2, rtol=1e-4)
    np.testing.assert_allclose(losses["decoder"], GAMMA * llike + (softplus(-again) + softplus(-fake)) / 2, rtol=1e-4)


def test_another_objective_is_two_functions():
    model = vae_gan(ENCODER, DECODER, CRITIC, LATENT, gamma=0.0, objective=wasserstein())
    _, _, real, again, fake = by_hand()
    got = jax.jit(losses_of(model)["critic"])(PARAMS, EXTRA, KEYS, Batch(X))[0]
    np.testing.assert_allclose(got, (again + fake) / 2 - real, rtol=1e-4, atol=1e-5)
    got = jax.jit(losses_of(model)["decoder"])(PARAMS, EXTRA, KEYS, Batch(X))[0]
    np.testing.assert_allclose(got, -(again + fake) / 2, rtol=1e-4, atol=1e-5)


def test_with_a_critic_that_sees_pixels_it_is_the_vae_of_unit_variance():
    def sees(w, stats, x, condition=None, train=False):
        return Seen(x @ w, x), stats

    critic = Network(lambda key, *inputs: (jnp.ones(DIMS), {}), sees)
    model, plain = (
        vae_gan(ENCODER, DECODER, critic, LATENT, gamma=1.0),
        vae(ENCODER, DECODER, LATENT, likelihood=gaussian(1.0)),
    )
    params, extra = {**PARAMS, "critic": jnp.ones(DIMS)}, {**EXTRA, "critic": {}}
    inside = {"vae": {"encoder": PARAMS["encoder"], "decoder": PARAMS["decoder"], "prior": {}}}
    stats = {"encoder": EXTRA["encoder"], "decoder": EXTRA["decoder"]}
    bound, (metrics, _) = jax.jit(losses_of(plain)["vae"])(inside, stats, KEYS, Batch(X))
    # the VAE draws [1, LATENT] numbers an example where the VAE/GAN draws [LATENT]: the same ones
    loss, _ = jax.jit(losses_of(model)["encoder"])(params, extra, KEYS, Batch(X))
    np.testing.assert_allclose(loss, bound, rtol=1e-5)
    loss, (ours, _) = jax.jit(losses_of(model)["decoder"])(params, extra, KEYS, Batch(X))
    np.testing.assert_allclose(loss - ours["adversarial"], metrics["distortion"], rtol=1e-5)


def test_a_step_is_three_turns_each_moving_its_own_player():
    optimizers = dict.fromkeys(PLAYERS, optax.sgd(0.1))
    state = init_state(MODEL.game, optimizers, jax.random.key(2), Batch(X))
    after, _ = jax.jit(make_step(MODEL.game, optimizers, order=PLAYERS))(state, Batch(X[None, None]))
    params, extra = dict(state.params), dict(state.extra)
    for turn, player in enumerate(PLAYERS):
        key = jax.random.fold_in(jax.random.fold_in(state.key, 0), turn)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(N))

        def loss(params, player=player, keys=keys, extra=extra):
            value, (_, extra) = LOSSES[player](params, extra, keys, Batch(X))
            return jnp.mean(value), extra

        gradient, extra = jax.jit(jax.grad(loss, has_aux=True))(params)
        # it depends on the others' parameters too: the gradients that are not applied are not zero
        assert all(float(jnp.max(jnp.abs(gradient[name]))) > 1e-3 for name in PLAYERS)
        params[player] = params[player] - 0.1 * gradient[player]
    for player in PLAYERS:
        np.testing.assert_allclose(after.params[player], params[player], rtol=1e-4, atol=1e-6)
    # passes in training mode that are remembered: those of a player's own turn
    assert {player: int(after.extra[player]["n"]) for player in PLAYERS} == {"critic": 3, "encoder": 1, "decoder": 2}


def test_encoded_images_are_drawn_again():
    z = MODEL.encode(PARAMS, EXTRA, X, None)
    np.testing.assert_allclose(z, (X @ PARAMS["encoder"])[:, :LATENT], rtol=1e-5)
    np.testing.assert_allclose(drawn(MODEL, PARAMS, EXTRA, None)(z, jnp.ones(())), z @ PARAMS["decoder"], rtol=1e-5)


def test_all_networks_get_the_condition():
    seen = []

    def net(output):
        def apply(params, stats, x, condition, train=False):
            seen.append(condition)
            return output(x), stats

        return Network(lambda key, *inputs: ({}, {}), apply)

    critic = net(lambda x: Seen(jnp.zeros(N), jnp.zeros((N, 2))))
    model = vae_gan(
        net(lambda x: jnp.zeros((N, 2 * LATENT))),
        net(lambda z: jnp.zeros((N, DIMS))),
        critic,
        LATENT,
        condition=labels(3),
    )
    label, nothing = jnp.arange(N) % 3, {player: {} for player in PLAYERS}
    for player in PLAYERS:
        losses_of(model)[player](nothing, nothing, KEYS, Batch(X, label))
    assert len(seen) == 3 * 6 and all(condition is label for condition in seen)


def test_a_critic_without_features_is_refused():
    with pytest.raises(InputError, match=r"heads=Heads\(\)"):
        vae_gan(ENCODER, DECODER, linear((DIMS,)), LATENT).game.init(jax.random.key(0), Batch(X))


def test_the_convolutional_critic_scores_the_features_that_it_gives():
    x = jnp.asarray(RNG.normal(size=(2, 8, 8, 1)), jnp.float32)
    plain, seen = (network(DCGANCritic(width=4, heads=heads)) for heads in (None, Heads()))

    @jax.jit
    def both(key):
        params, stats = plain.init(key, x, None)
        (score, h, *_), _ = seen.apply(params, stats, x, None)
        last = params["Dense_0"]
        return score, plain.apply(params, stats, x, None)[0], h @ last["kernel"][:, 0] + last["bias"][0]

    score, *others = both(jax.random.key(0))
    for other in others:
        np.testing.assert_allclose(score, other, rtol=1e-5)
