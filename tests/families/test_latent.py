"""Models in code spaces, adapted models and guided ones, of which everything is known: linear maps of Gaussians."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from _functions import losses_of

from jaxgen import sampling
from jaxgen.conditions import image, labels
from jaxgen.families import classifier, diffusion, latent, low_rank, vae
from jaxgen.families.low_rank import merged
from jaxgen.losses.likelihood import gaussian
from jaxgen.nets import Network, network
from jaxgen.nets.dit import DiT
from jaxgen.nets.mlp import MLP, MLPDenoiser
from jaxgen.processes import cosine
from jaxgen.training import init_state, make_step
from jaxgen.types import Batch, InputError, one_shot, weights

RNG = np.random.default_rng(0)
KEY, KEYS = jax.random.key(0), jax.random.split(jax.random.key(0), 8)
DIMS, LATENT = 6, 2
W = jnp.asarray(np.linalg.qr(RNG.normal(size=(DIMS, LATENT)))[0], jnp.float32)  # orthonormal columns
CODES = jnp.asarray(RNG.normal(size=(2000, LATENT)) * [0.3, 0.3] + [2.0, 2.0], jnp.float32)
X = CODES @ W.T
FREE, CLIPPED = cosine(clip=math.inf), cosine()


def net(apply):
    return Network(lambda key, *inputs: ({"w": W}, {}), apply)


# codes x W exactly, decoded as z W^T
ENCODER = net(lambda p, s, x, c=None, train=False: (jnp.concatenate([x @ p["w"], 0 * (x @ p["w"])], axis=1), s))
DECODER = net(lambda p, s, z, c=None, train=False: (z @ p["w"].T, s))
OUTER = vae(ENCODER, DECODER, LATENT, likelihood=gaussian())


def inner(process=FREE, **options):
    sampler = sampling.iterate(sampling.ddim(process), sampling.uniform(100))
    return diffusion(
        network(MLPDenoiser(32, 1, classes=2)), process, (LATENT,), sampler=sampler, prediction="v", **options
    )


def exact(process=FREE, mean=0.0, std=1.0):
    """The diffusion model of N(mean, std^2 I), its denoiser exact."""

    def apply(params, stats, x, t, condition=None, train=False):
        a, s = process.alpha(t)[:, None], process.sigma(t)[:, None]
        return mean + a * std**2 * (x - a * mean) / (a**2 * std**2 + s**2), stats

    sampler = sampling.iterate(sampling.ddim(process), sampling.uniform(100))
    exactly = Network(lambda key, *inputs: ({}, {}), apply)
    return diffusion(exactly, process, (LATENT,), sampler=sampler, prediction="x0")


def state_of(model, ema=False):
    optimizers = {player: optax.adam(1e-3) for player in model.game.losses}
    return init_state(model.game, optimizers, KEY, Batch(X[:64]), ema=ema), optimizers


def trained(model, batches=100):
    """The state after steps on all of X, and the state before."""
    state, optimizers = state_of(model)
    step = jax.jit(make_step(model.game, optimizers))
    after = state
    for _ in range(batches):
        after, _ = step(after, Batch(X[None, None]))
    return after, state


@pytest.fixture(scope="module")
def standardised():
    model = latent(OUTER, exact())
    return model, *trained(model, 3)


def test_the_autoencoder_is_frozen_and_its_codes_are_standardised(standardised):
    model, after, before = standardised
    assert set(model.game.losses) == {"denoiser"} and set(after.params) == {"autoencoder", "denoiser"}
    same = jax.tree.map(lambda a, b: np.asarray(a).tobytes() == np.asarray(b).tobytes(), after.params, before.params)
    assert all(jax.tree.leaves(same["autoencoder"]))
    moments = after.extra["codes"]["moments"]
    np.testing.assert_allclose(moments["mean"], np.mean(CODES), rtol=1e-4)
    np.testing.assert_allclose(moments["variance"], np.var(CODES), rtol=1e-3)
    code = model.encode(*weights(after), X, None)
    assert abs(float(code.mean())) < 1e-3 and abs(float(code.std()) - 1) < 1e-3


def test_samples_are_decoded_draws_of_the_codes(standardised):
    # inner draws N(0, I), standardised codes: images with the codes' mean and variance
    model, after, _ = standardised
    z = np.float64(sampling.sample(model, after, KEY, 4000, batch=4000) @ W)
    mean, std = float(np.mean(CODES)), float(np.std(CODES))
    assert np.all(np.abs(z.mean(0) - mean) < 5 * std / np.sqrt(4000))
    assert np.all(np.abs(z.std(0) / std - 1) < 5 / np.sqrt(2 * 4000) + 0.02)


def test_images_are_encoded_through_both_models_and_come_back(standardised):
    model, after, _ = standardised
    again = sampling.reconstruct(model, after, X[:16])
    np.testing.assert_allclose(again, X[:16], atol=0.03)
    code = sampling.encode(model, after, X[:16])
    np.testing.assert_allclose(
        code, (CODES[:16] - CODES.mean()) / CODES.std(), atol=0.1
    )  # N(0, I): the flow is identity


def test_codes_stay_what_they_are_after_a_hundred_minibatches():
    model = latent(OUTER, exact())
    loss = jax.jit(losses_of(model)["denoiser"])
    params, extra = model.game.init(KEY, Batch(X[:8]))
    for _ in range(100):
        extra = loss(params, extra, KEYS, Batch(X[:8]))[1][1]
    later = loss(params, extra, KEYS, Batch(X[8:16] + 5.0))[1][1]
    assert int(extra["codes"]["moments"]["batches"]) == 100
    jax.tree.map(np.testing.assert_array_equal, later["codes"], extra["codes"])


def test_trained_beside_the_inner_model_the_autoencoder_plays_its_own_loss():
    model = latent(OUTER, exact(), train=True, name="first")
    params, extra = model.game.init(KEY, Batch(X[:8]))
    assert list(model.game.losses) == ["first", "denoiser"]
    ours = losses_of(model)["first"](params, extra, KEYS, Batch(X[:8]))[0]
    theirs = losses_of(OUTER)["vae"](params["first"], extra["first"], KEYS, Batch(X[:8]))[0]
    np.testing.assert_array_equal(ours, theirs)

    def inner_loss(first):
        return jnp.mean(losses_of(model)["denoiser"]({**params, "first": first}, extra, KEYS, Batch(X[:8]))[0])

    gradient = jax.grad(inner_loss)(params["first"])
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(gradient))  # no further than the codes


def test_a_conditional_inner_model_takes_the_condition():
    model = latent(OUTER, inner(condition=labels(2)))
    batch = Batch(X[:8], jnp.arange(8) % 2)
    params, extra = model.game.init(KEY, batch)
    assert model.condition.values == 2
    loss, _ = losses_of(model)["denoiser"](params, extra, KEYS, batch)
    assert loss.shape == (8,) and np.all(np.isfinite(loss))


def test_a_two_stage_vae_composes():
    two = latent(OUTER, vae(network(MLP((4,), (8,))), network(MLP((LATENT,), (8,))), 2, likelihood=gaussian()))
    state, _ = state_of(two)
    assert sampling.encode(two, state, X[:4]).shape == (4, 2)
    assert sampling.sample(two, state, KEY, 3).shape == (3, DIMS)


def test_what_does_not_compose_is_refused():
    with pytest.raises(InputError, match="clips x_0 to 1, codes are no pixels"):
        latent(OUTER, inner(CLIPPED))
    with pytest.raises(InputError, match="no encoder"):
        latent(exact(), exact())
    with pytest.raises(InputError, match="is unconditional"):
        latent(vae(ENCODER, DECODER, LATENT, condition=labels(2)), exact())
    with pytest.raises(InputError, match="derived from the image"):
        latent(OUTER, inner(condition=image(lambda x: x, (LATENT,))))
    with pytest.raises(InputError, match="a group 'denoiser' of its own"):
        latent(OUTER, exact(), name="denoiser").game.init(KEY, Batch(X[:8]))


# --- low rank ---------------------------------------------------------------------------------------------------------

PLAIN = vae(network(MLP((4,), (5,))), network(MLP((DIMS,), (5,))), 2, likelihood=gaussian())


def test_an_adapted_model_begins_as_its_base_and_leaves_it_bit_equal():
    model = low_rank(PLAIN, 2, scale=3.0)
    params, extra = model.game.init(KEY, Batch(X[:8]))
    ours = losses_of(model)["vae"](params, extra, KEYS, Batch(X[:8]))[0]
    theirs = losses_of(PLAIN)["vae"](params["base"], extra["base"], KEYS, Batch(X[:8]))[0]
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    after, before = trained(model, 5)
    same = jax.tree.map(lambda a, b: np.asarray(a).tobytes() == np.asarray(b).tobytes(), after.params, before.params)
    assert all(jax.tree.leaves(same["base"])) and not any(jax.tree.leaves(same["vae"]))
    assert set(after.opt) == {"vae"}


def test_merged_parameters_are_the_plain_model_s():
    model = low_rank(PLAIN, 2, scale=3.0)
    after, _ = trained(model, 5)
    plain = merged(after.params, 3.0 / 2)
    kernel = plain["vae"]["encoder"]["Dense_0"]["kernel"] - after.params["base"]["vae"]["encoder"]["Dense_0"]["kernel"]
    assert 1 <= np.linalg.matrix_rank(np.float64(kernel), tol=1e-6) <= 2
    z = RNG.normal(size=(4, 2)).astype(np.float32)
    ours = model.decode(*weights(after), None, z, None)
    np.testing.assert_allclose(ours, PLAIN.decode(plain, after.extra["base"], None, z, None), rtol=1e-5)
    log_p = model.density.log_p(*weights(after), KEYS, Batch(X[:8]), 2)
    np.testing.assert_allclose(log_p, PLAIN.density.log_p(plain, after.extra["base"], KEYS, Batch(X[:8]), 2), rtol=1e-4)


def test_layers_that_are_scanned_over_have_an_update_each():
    sampler = sampling.iterate(sampling.ddim(CLIPPED), sampling.uniform(2))
    dit = network(DiT(2, 8, depth=3, heads=2, scan=True))
    model = low_rank(diffusion(dit, CLIPPED, (4, 4, 1), sampler=sampler), 2)
    params, _ = model.game.init(KEY, Batch(jnp.zeros((2, 4, 4, 1))))
    (name,) = (name for name in params["denoiser"] if name.endswith("up/kernel"))
    a, b = params["denoiser"][name]["a"], params["denoiser"][name]["b"]
    assert a.shape == (3, 8, 2) and b.shape == (3, 2, 32)
    params["denoiser"][name]["b"] = jax.random.normal(KEY, b.shape)
    before, after = (tree for tree in (params["base"]["denoiser"], merged(params, 0.5)["denoiser"]))
    for key in name.split("/"):
        before, after = before[key], after[key]
    for layer in range(3):
        difference = np.float64(after[layer] - before[layer])
        np.testing.assert_allclose(difference, 0.5 * a[layer] @ params["denoiser"][name]["b"][layer], atol=1e-6)
        assert np.linalg.matrix_rank(difference, tol=1e-5) == 2


def test_a_low_rank_update_of_nothing_is_refused():
    for make, line in (
        (lambda: low_rank(PLAIN, 0), "rank of at least 1"),
        (lambda: low_rank(PLAIN, players=["critic"]), "adapt some of the players"),
        (lambda: low_rank(OUTER).game.init(KEY, Batch(X[:8])), "needs kernels"),
    ):
        with pytest.raises(InputError, match=line):
            make()


# --- classifier guidance ----------------------------------------------------------------------------------------------

CENTRES, STD = jnp.array([[-1.0, 0.5], [1.0, -0.5]]), 0.4


def two_modes(x, t):
    """(E[x_0 | x_t, y] of each y [B, 2, D], log p(y | x_t)) of a mixture of two Gaussians."""
    a, s = FREE.alpha(t), FREE.sigma(t)
    v = a**2 * STD**2 + s**2
    away = x[:, None] - a * CENTRES
    log_p = jax.nn.log_softmax(-0.5 * jnp.sum(away**2, axis=-1) / v)
    return CENTRES + a * STD**2 * away / v, log_p


def mixture_of_modes():
    def apply(params, stats, x, t, condition=None, train=False):
        means, log_p = jax.vmap(lambda x, t: jax.tree.map(lambda a: a[0], two_modes(x[None], t)))(x, t)
        return jnp.sum(jnp.exp(log_p)[..., None] * means, axis=1), stats

    sampler = sampling.iterate(sampling.ddim(FREE), sampling.uniform(100))
    return diffusion(Network(lambda key, *i: ({}, {}), apply), FREE, (2,), sampler=sampler, prediction="x0")


def test_a_classifier_s_gradient_turns_the_unconditional_denoiser_into_the_conditional_one():
    """E[x_0 | x_t, y] = E[x_0 | x_t] + sigma^2 / alpha grad log p(y | x_t), by Tweedie's formula."""
    model, x = mixture_of_modes(), jnp.asarray(RNG.normal(size=(6, 2)), jnp.float32)
    y = jnp.arange(6) % 2
    guidance = sampling.classifier(lambda p, e, x, t: two_modes(x, t)[1], {}, {}, FREE, 1.0)
    params = {"denoiser": {}}
    for t in (0.2, 0.5, 0.8):
        t = jnp.asarray(t)
        guided = guidance(lambda c: model.predict(params, params, c), None, y)(x, t).x0
        np.testing.assert_allclose(guided, two_modes(x, t)[0][jnp.arange(6), y], rtol=1e-3, atol=1e-4)


def test_samples_of_an_unconditional_model_go_where_a_classifier_guides_them():
    model = mixture_of_modes()
    state, y = init_state(model.game, {"denoiser": optax.sgd(0.1)}, KEY, Batch(jnp.zeros((2, 2)))), np.arange(400) % 2
    guidance = partial(sampling.classifier, lambda p, e, x, t: two_modes(x, t)[1], {}, {}, FREE)
    x = np.float64(sampling.sample(model, state, KEY, 400, guidance=guidance(1.0), given=y, batch=400))
    for k in (0, 1):
        own = x[y == k]
        assert np.all(np.abs(own.mean(0) - CENTRES[k]) < 5 * STD / np.sqrt(200) + 0.02)
        assert np.all(np.abs(own.std(0) / STD - 1) < 5 / np.sqrt(400) + 0.05)
    free = sampling.sample(model, state, KEY, 400, batch=400)
    none = sampling.sample(model, state, KEY, 400, guidance=guidance(0.0), given=y, batch=400)
    np.testing.assert_allclose(none, free, atol=1e-4)
    with pytest.raises(InputError, match="needs the labels"):
        sampling.sample(model, state, KEY, 4, guidance=guidance(1.0))
    with pytest.raises(InputError, match="for each of 4 images, not for 3"):
        sampling.sample(model, state, KEY, 4, guidance=guidance(1.0), given=[0, 1, 0])


def test_guidances_compose():
    """Classifier guidance inside classifier-free guidance: a linear combination of three predictions."""
    model = inner(condition=labels(2))
    params, extra = model.game.init(KEY, Batch(CODES[:8], jnp.arange(8) % 2))
    push = sampling.classifier(lambda p, e, x, t: two_modes(x, t)[1], {}, {}, FREE, 0.7)
    both = sampling.compose(sampling.classifier_free(3.0), push)
    x, t, y = CODES[:4], jnp.asarray(0.5), jnp.array([0, 1, 1, 0])

    def predict_of(c):
        return model.predict(params, extra, model.condition.empty(4) if c is None else c)

    c, u = predict_of(model.condition.given(4, y))(x, t).x0, predict_of(None)(x, t).x0
    shift = push(predict_of, None, y)(x, t).x0 - u
    got = both(predict_of, model.condition.given(4, y), (None, y))(x, t).x0
    np.testing.assert_allclose(got, u + 3.0 * (c - u) + shift, rtol=1e-4, atol=1e-4)
    with pytest.raises(InputError, match="a tuple of as many"):
        both(predict_of, model.condition.given(4, y), y)


def test_the_best_classifier_of_noisy_images_loses_their_conditional_entropy():
    """-E log p(y | x_t), estimated by the exact classifier's loss, against a Monte Carlo estimate of its own."""

    def apply(params, stats, x, t, train=False):
        return jax.vmap(lambda x, t: two_modes(x[None], t)[1][0])(x, t), stats

    model = classifier(Network(lambda key, *inputs: ({}, {}), apply), 2, FREE)
    n = 20_000
    y = jnp.arange(n) % 2
    x = CENTRES[y] + STD * jax.random.normal(KEY, (n, 2))
    keys = jax.random.split(jax.random.key(5), n)
    params = {"classifier": {}}
    loss, (metrics, _) = jax.jit(losses_of(model)["classifier"])(params, params, keys, Batch(x, y))
    t = jax.random.uniform(jax.random.key(6), (n,), minval=1e-6)
    noisy = FREE.alpha(t)[:, None] * x + FREE.sigma(t)[:, None] * jax.random.normal(jax.random.key(7), (n, 2))
    other = -jax.vmap(lambda x, t, y: two_modes(x[None], t)[1][0, y])(noisy, t, y)
    error = np.hypot(loss.std(), other.std()) / np.sqrt(n)
    assert abs(loss.mean() - other.mean()) < 5 * error and 0.05 < loss.mean() < np.log(2)
    assert 0.5 < metrics["accuracy"].mean() < 1.0


def test_one_shot_models_have_no_process_and_no_scale():
    assert OUTER.process is None and OUTER.sampler is one_shot
    state, _ = state_of(OUTER)
    with pytest.raises(InputError, match="steers a model that iterates"):
        sampling.sample(OUTER, state, KEY, 4, guidance=2.0)
