"""FactorVAE: the critic's estimate of the total correlation against that of a Gaussian, which is known."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from _functions import losses_of

from jaxgen.families import factor_vae, vae
from jaxgen.families.factor_vae import permute_dims
from jaxgen.losses.likelihood import gaussian
from jaxgen.nets import Network
from jaxgen.training import init_state, make_step
from jaxgen.types import Batch, InputError, turn

LATENT, GAMMA, MANY = 3, 5.0, 40_000
RNG = np.random.default_rng(0)
KEYS = jax.random.split(jax.random.key(0), MANY)
# x ~ N(0, I), mu = x L^T, sigma^2 = 0.25: q(z) = N(0, L L^T + 0.25 I)
L = np.array([[1.0, 0.0, 0.0], [0.6, 0.7, 0.0], [0.2, -0.5, 0.8]])
COVARIANCE = L @ L.T + 0.25 * np.eye(LATENT)
SCALE = np.sqrt(np.diag(COVARIANCE))
TC = -0.5 * np.linalg.slogdet(COVARIANCE / SCALE[:, None] / SCALE)[1]
X = jnp.asarray(RNG.normal(size=(MANY, LATENT)), jnp.float32)


def encode(w, stats, x, condition=None, train=False):
    log_var = jnp.full(x.shape, 15 * np.arctanh(np.log(0.25) / 15))
    return jnp.concatenate([x @ w, log_var], axis=1), {"n": stats["n"] + train}


def decode(w, stats, z, condition=None, train=False):
    return z @ w, {"n": stats["n"] + train}


def quadratic(params, stats, z, condition=None, train=False):
    """a (-1/2 z^T P z + b): at a = 1, and P and b as below, log q(z) / prod_j q(z_j)."""
    form = -0.5 * jnp.einsum("bi,ij,bj->b", z, params["p"], z) + params["b"]
    return params["a"] * form, {"n": stats["n"] + train}


def started(params):
    return lambda key, *inputs: (jax.tree.map(jnp.float32, params), {"n": jnp.zeros((), jnp.int32)})


BEST = {"a": 1.0, "p": np.linalg.inv(COVARIANCE) - np.diag(1 / SCALE**2), "b": TC}
ENCODER, DECODER = Network(started(L.T), encode), Network(started(np.eye(LATENT)), decode)
CRITIC = Network(started(BEST), quadratic)
MODEL = factor_vae(ENCODER, DECODER, CRITIC, LATENT, gamma=GAMMA, likelihood=gaussian())
PARAMS, EXTRA = MODEL.game.init(jax.random.key(1), Batch(X[:2]))
LOSSES = {player: jax.jit(loss) for player, loss in losses_of(MODEL).items()}


def test_the_best_critic_gives_the_total_correlation():
    loss, (metrics, _) = LOSSES["vae"](PARAMS, EXTRA, KEYS, Batch(X))
    tc = np.float64(metrics["tc"])
    assert TC > 0.2 and abs(tc.mean() - TC) < 5 * tc.std() / np.sqrt(MANY)
    np.testing.assert_allclose(loss, metrics["distortion"] + metrics["kl"] + GAMMA * tc, rtol=1e-4, atol=1e-4)


def test_that_critic_is_where_its_own_loss_is_least():
    @jax.jit
    def derivatives(params):
        """d loss / d critic of every example, at the critic of `params`."""

        def loss(critic):
            return LOSSES["critic"]({**params, "critic": critic}, EXTRA, KEYS, Batch(X))[0]

        return jax.jacfwd(loss)(params["critic"])

    for one in jax.tree.leaves(derivatives(PARAMS)):
        assert np.all(np.abs(one.mean(0)) < 5 * one.std(0) / np.sqrt(MANY))
    beside = {**PARAMS, "critic": {**PARAMS["critic"], "a": jnp.float32(1.3)}}
    one = derivatives(beside)["a"]
    assert one.mean() > 10 * one.std() / np.sqrt(MANY)


def test_permuted_dimensions_keep_their_values_and_lose_their_correlation():
    z = jnp.asarray(RNG.normal(size=(MANY, LATENT)) @ np.linalg.cholesky(COVARIANCE).T, jnp.float32)
    permuted = permute_dims(turn(KEYS), z)
    np.testing.assert_array_equal(jnp.sort(permuted, axis=0), jnp.sort(z, axis=0))
    correlation = np.corrcoef(np.float64(permuted).T) - np.eye(LATENT)
    assert np.all(np.abs(correlation) < 5 / np.sqrt(MANY))
    assert np.max(np.abs(np.corrcoef(np.float64(z).T) - np.eye(LATENT))) > 0.5
    # every permutation of a small batch is as likely as any other
    batches = jax.vmap(lambda key: permute_dims(turn(jax.random.split(key, 3)), jnp.arange(3.0)[:, None]))(KEYS[:6000])
    _, counts = np.unique(np.asarray(batches[..., 0]), axis=0, return_counts=True)
    assert len(counts) == 6 and np.all(np.abs(counts - 1000) < 5 * np.sqrt(1000 * 5 / 6))


def test_without_its_weight_it_is_the_vae():
    few, keys = Batch(X[:5]), KEYS[:5]
    free = factor_vae(ENCODER, DECODER, CRITIC, LATENT, gamma=0.0, likelihood=gaussian())
    plain = vae(ENCODER, DECODER, LATENT, likelihood=gaussian())
    params, extra = plain.game.init(jax.random.key(1), few)
    expected = jax.jit(losses_of(plain)["vae"])(params, extra, keys, few)[0]
    np.testing.assert_allclose(jax.jit(losses_of(free)["vae"])(PARAMS, EXTRA, keys, few)[0], expected, rtol=1e-5)
    np.testing.assert_allclose(MODEL.encode(PARAMS, EXTRA, few.x, None), few.x @ L.T, rtol=1e-4, atol=1e-5)
    assert MODEL.density.log_p is not None and MODEL.prior(PARAMS, EXTRA, keys, None).shape == (5, LATENT)


def test_each_turn_moves_its_own_player():
    few = Batch(X[:8])
    optimizers = {"vae": optax.sgd(0.1), "critic": optax.sgd(0.0)}
    state = init_state(MODEL.game, optimizers, jax.random.key(2), few)
    after, _ = jax.jit(make_step(MODEL.game, optimizers))(state, Batch(X[None, None, :8]))
    same = jax.tree.map(lambda a, b: bool(jnp.all(a == b)), after.params, state.params)
    assert same == {
        "vae": {"encoder": False, "decoder": False, "prior": {}},
        "critic": {"a": True, "b": True, "p": True},
    }
    counts = {name: int(after.extra[name]["n"]) for name in ("encoder", "decoder", "critic")}
    assert counts == {"encoder": 1, "decoder": 1, "critic": 2}  # passes in training mode of a player's own turn


def test_a_negative_weight_is_refused():
    with pytest.raises(InputError, match="must not be negative, gamma is -1"):
        factor_vae(ENCODER, DECODER, CRITIC, LATENT, gamma=-1)
