"""An autoencoder with a critic of its reconstructions, of linear maps: every gradient is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _functions import losses_of

from jaxgen.families import autoencoder, quantised, sharpened, vae, vq
from jaxgen.losses.adversarial import non_saturating
from jaxgen.losses.likelihood import Likelihood, gaussian
from jaxgen.losses.perceptual import of_features, perceptual
from jaxgen.nets import Network, network
from jaxgen.nets.conv import PatchCritic
from jaxgen.types import Batch, InputError

RNG = np.random.default_rng(0)
KEY, B = jax.random.key(0), 8
KEYS = jax.random.split(KEY, B)
X = jnp.asarray(RNG.normal(size=(B, 4)), jnp.float32)
A = jnp.asarray(RNG.normal(size=4), jnp.float32)  # the critic's score is <a, x>


def shifted(last=0.0):
    """x -> x + b."""
    return Network(
        lambda key, x, *c: ({"b": jnp.full(x.shape[-1], last)}, {}),
        lambda params, stats, x, *c, train=False: (x + params["b"], stats),
    )


CRITIC = Network(lambda key, x, *c: ({"a": A}, {}), lambda params, stats, x, *c, train=False: (x @ params["a"], stats))


def plain(p=None):
    return autoencoder(shifted(0.3), shifted(0.2), 4, likelihood=p)


def of(make=plain, critic=CRITIC, x=X, **options):
    model = sharpened(make, critic, **options)
    return model, *model.game.init(KEY, Batch(x))


def gradient(model, player, params, extra, x=X, step=0):
    def mean(own):
        loss, (metrics, _) = losses_of(model, step)[player]({**params, player: own}, extra, KEYS, Batch(x))
        return jnp.mean(loss), (loss, metrics)

    return jax.jit(jax.grad(mean, has_aux=True))(params[player])


def test_both_losses_push_at_the_output_with_strengths_of_the_given_ratio():
    model, params, extra = of(weight=0.7)
    got, (loss, metrics) = gradient(model, "autoencoder", params, extra)
    away = 2 * 0.5 * jnp.ones_like(X)  # d |x - x^|^2 / dx^, x^ = x + 0.5
    weight = 0.7 * jnp.linalg.norm(away) / (np.sqrt(B) * jnp.linalg.norm(A))
    np.testing.assert_allclose(metrics["weight"], weight, rtol=1e-4)
    score = (X + 0.5) @ A
    np.testing.assert_allclose(loss, 4 * 0.25 - weight * score, rtol=1e-4)
    for part in ("encoder", "decoder"):  # the weight itself has no gradient
        np.testing.assert_allclose(got[part]["b"], away[0] - weight * A, rtol=1e-4)
    fixed, (_, metrics) = gradient(*(of(weight=0.7, adaptive=False)[0], "autoencoder", params, extra))
    np.testing.assert_allclose(fixed["decoder"]["b"], away[0] - 0.7 * A, rtol=1e-4)


def test_the_weight_is_of_the_minibatch_wherever_its_parts_lie():
    model, params, extra = of()
    full = losses_of(model)["autoencoder"](params, extra, KEYS, Batch(X))[1][0]["weight"]
    part = jax.vmap(
        lambda keys, x: losses_of(model, axis="data")["autoencoder"](params, extra, keys, Batch(x))[1][0]["weight"],
        axis_name="data",
    )
    np.testing.assert_allclose(part(KEYS.reshape(2, 4), X.reshape(2, 4, 4)), np.full(2, full), rtol=1e-5)


def test_the_critic_s_loss_is_the_objective_s_of_images_and_reconstructions():
    for objective, want in (
        (None, jax.nn.relu(1 - X @ A) + jax.nn.relu(1 + (X + 0.5) @ A)),
        (non_saturating(), jax.nn.softplus(-X @ A) + jax.nn.softplus((X + 0.5) @ A)),
    ):
        model, params, extra = of(objective=objective)
        got, (loss, metrics) = gradient(model, "critic", params, extra)
        np.testing.assert_allclose(loss, want, rtol=1e-5)
        np.testing.assert_allclose(metrics["score_fake"] - metrics["score_real"], 0.5 * A.sum(), rtol=1e-4)
        assert np.any(got["a"] != 0)
    others = jax.grad(lambda p: losses_of(model)["critic"](p, extra, KEYS, Batch(X))[0].sum())(params)
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(others["autoencoder"]))


def test_a_perceptual_distance_is_part_of_what_the_critic_is_weighed_against():
    """L = |x - x^|^2 + c D mean_j (m_j . (x - x^))^2: its gradient by hand, at x^ = x + 0.5."""
    m = jnp.asarray(RNG.normal(size=(4, 3)), jnp.float32)
    p = perceptual(of_features(lambda x: x @ m), weight=1.5)
    model, params, extra = of(likelihood=p, weight=1.0)
    got, (loss, metrics) = gradient(model, "autoencoder", params, extra)
    shift = jnp.full(4, 0.5)
    slope = 2 * shift + 1.5 * 4 * 2 * (shift @ m) @ m.T / 3
    np.testing.assert_allclose(metrics["weight"], jnp.linalg.norm(slope) / jnp.linalg.norm(A), rtol=1e-4)
    np.testing.assert_allclose(got["decoder"]["b"], slope - metrics["weight"] * A, rtol=1e-3)
    value = jnp.sum(shift**2) + 1.5 * 4 * jnp.mean(jnp.square(shift @ m))
    np.testing.assert_allclose(loss - metrics["weight"] * metrics["adversarial"], value, rtol=1e-3)


def test_before_its_start_the_critic_neither_learns_nor_is_heard():
    model, params, extra = of(start=5)
    base = losses_of(plain())["autoencoder"]({"autoencoder": params["autoencoder"]}, extra, KEYS, Batch(X))
    for step, heard in ((4, False), (5, True)):
        own = gradient(model, "autoencoder", params, extra, step=step)
        theirs = gradient(model, "critic", params, extra, step=step)
        np.testing.assert_array_equal(np.any(own[1][0] != base[0]), heard)
        np.testing.assert_array_equal(np.any(theirs[0]["a"] != 0), heard)
    assert set(extra) == {"encoder", "decoder", "codes", "critic"}


def test_the_adversarial_gradient_goes_through_a_quantised_and_a_drawn_code_to_the_encoder():
    w = jnp.asarray(RNG.normal(size=(3, 3)), jnp.float32)
    decoder = Network(
        lambda key, z, *c: ({"w": w}, {}), lambda params, stats, z, *c, train=False: (z @ params["w"], stats)
    )
    deaf = Likelihood(lambda x, mu: 0.0 * x.reshape(B, -1).sum(1), mean=lambda mu: mu)  # the critic alone is heard
    x = jnp.asarray(RNG.normal(size=(B, 2, 2, 3)), jnp.float32)
    score = Network(lambda key, x, *c: ({}, {}), lambda p, s, x, *c, train=False: (x.reshape(B, -1).sum(1), s))

    def grid(p):
        return quantised(shifted(), decoder, vq(5, 3, commitment=0.0, restart=0.0), (2, 2), likelihood=p)

    options = {"critic": score, "likelihood": deaf, "weight": 2.0, "adaptive": False}
    model, params, extra = of(grid, x=x, **options)
    got = gradient(model, "vq_vae", params, extra, x)[0]
    np.testing.assert_allclose(got["encoder"]["b"], -2.0 * 4 * w.sum(axis=1), rtol=1e-4)

    def drawn(p):
        doubled = Network(
            lambda key, x, *c: ({"b": jnp.zeros(3)}, {}),
            lambda params, stats, x, *c, train=False: (jnp.concatenate([x + params["b"], 0 * x], axis=1), stats),
        )
        return vae(doubled, decoder, 3, likelihood=p, objective=lambda terms, turn: (-terms.log_px[:, 0], {}))

    model, params, extra = of(drawn, x=x[:, 0, 0], **options)
    got = gradient(model, "vae", params, extra, x[:, 0, 0])[0]
    np.testing.assert_allclose(got["encoder"]["b"], -2.0 * w.sum(axis=1), rtol=1e-4)


def test_of_a_map_of_patches_the_losses_are_averaged_and_not_the_scores():
    patches = Network(lambda key, x, *c: ({}, {}), lambda p, s, x, *c, train=False: (3.0 * x.reshape(B, 2, 2), s))
    model, params, extra = of(critic=patches, adaptive=False)
    want = jax.nn.relu(1 - 3 * X).mean(1) + jax.nn.relu(1 + 3 * (X + 0.5)).mean(1)
    got = losses_of(model)["critic"](params, extra, KEYS, Batch(X))[0]
    np.testing.assert_allclose(got, want, rtol=1e-5)


@pytest.mark.parametrize(("halvings", "patch"), [(1, 16), (2, 34)])
def test_a_patch_critic_s_scores_see_their_patches_alone(halvings, patch):
    net, size = network(PatchCritic(4, halvings, norm=False)), 48
    x = jnp.asarray(RNG.normal(size=(1, size, size, 1)), jnp.float32)
    params, stats = net.init(KEY, x)
    score = net.apply(params, stats, x)[0]
    side = size >> halvings
    assert score.shape == (1, side, side)
    seen = jax.grad(lambda x: net.apply(params, stats, x)[0][0, side // 2, side // 2])(x)[0, ..., 0] != 0
    rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
    assert np.ptp(rows) + 1 == np.ptp(columns) + 1 == patch


def test_what_cannot_be_sharpened_is_refused():
    many = Network(lambda key, x, *c: ({}, {}), lambda p, s, x, *c, train=False: (jnp.zeros(()), s))
    double = Network(
        lambda key, x, *c: ({}, {}),
        lambda params, stats, x, *c, train=False: (jnp.concatenate([x, 0 * x], axis=1), stats),
    )

    def two(p):
        return vae(double, shifted(), 4, likelihood=p, samples=2)

    model, params, extra = of(two, likelihood=gaussian())
    for call, line in (
        (lambda: losses_of(model)["vae"](params, extra, KEYS, Batch(X)), "one latent an example"),
        (lambda: of(critic=many), "not one or a map an image"),
        (lambda: of(lambda p: of()[0]), "has one player, not"),
        (lambda: of(weight=-1.0), "must not be negative"),
    ):
        with pytest.raises(InputError, match=line):
            call()
