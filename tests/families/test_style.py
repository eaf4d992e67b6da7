"""StyleGAN as a game: mixed styles, the mean of w, path lengths, truncation; and scales that fade in."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _functions import losses_of

from jaxgen.families import PathLength, mean_style, style_gan
from jaxgen.families.gan import gan
from jaxgen.families.growing import fading
from jaxgen.families.style import Style
from jaxgen.nets import Network
from jaxgen.sampling import sample, truncation
from jaxgen.types import Batch, InputError, TrainState, turn

LAYERS, W, DIMS, N = 4, 3, 5, 64
RNG = np.random.default_rng(0)
KEYS = jax.random.split(jax.random.key(0), N)
X = jnp.asarray(RNG.normal(size=(N, DIMS)), jnp.float32)
A = jnp.asarray(RNG.normal(size=(LAYERS, W, DIMS)), jnp.float32)

mapping = Network(lambda key, z, c: ({}, {}), lambda params, stats, z, c, train=False: (z, stats))
linear = Network(
    lambda key, w, keys: (A, {}),
    lambda params, stats, w, keys, train=False: (jnp.einsum("blw,lwd->bd", w, params), stats),
)
critic = Network(lambda key, x, c: (jnp.ones(DIMS), {}), lambda params, stats, x, c, train=False: (x @ params, stats))


def model(**options):
    return style_gan(mapping, linear, critic, W, layers=LAYERS, **options)


def begun(**options):
    m = model(**options)
    return m, *m.game.init(jax.random.key(1), Batch(X))


def test_mixed_styles_are_those_of_two_latents_from_some_layer_on():
    style = Style(mapping, linear, LAYERS, 0.75, 0.9)
    z = jax.vmap(lambda key: jax.random.normal(key, (W,)))(KEYS)
    params, stats = style.init(jax.random.key(2), z, None)
    w, after = style.styles(params, stats, z, turn(KEYS), None)
    same = np.isclose(w, z[:, None]).all(-1)
    assert same[:, 0].all()  # the first layer is the first latent's
    np.testing.assert_array_equal(np.sort(same, axis=1)[:, ::-1], same)  # and then the others', to the end
    cut = same.sum(1)
    mixed = cut < LAYERS
    assert 0.55 < np.mean(mixed) < 0.92 and set(cut) == {1, 2, 3, 4}
    second = np.where(same[mixed, :, None], np.nan, w[mixed])
    spread = np.nanmax(second, 1) - np.nanmin(second, 1)
    assert np.nanmax(spread) < 1e-6  # the later layers of an image share one latent
    np.testing.assert_allclose(after["mean"]["average"]["w"], 0.1 * np.mean(z, 0), rtol=1e-4, atol=1e-6)


def test_without_mixing_every_layer_has_the_latent_s_own_style():
    m, params, extra = begun(mixing=0.0)
    loss, _ = losses_of(m)["generator"](params, extra, KEYS, Batch(X))
    z = m.prior(params, extra, KEYS, None)
    fake = np.einsum("bw,lwd->bd", np.float64(z), np.float64(A)).sum(-1)
    np.testing.assert_allclose(loss, np.logaddexp(0, -fake), rtol=1e-4)


def test_a_sample_is_the_synthesis_of_its_truncated_style():
    m, params, extra = begun()
    mean = jnp.asarray([0.5, -1.0, 2.0])
    extra["generator"]["mean"]["average"]["w"] = mean
    state = TrainState(jnp.asarray(1), jax.random.key(3), params, {}, extra, None)
    np.testing.assert_array_equal(mean_style(state), mean)
    w = m.predict(params, extra, None)(z := m.prior(params, extra, KEYS[:4], None), jnp.ones(())).x0
    np.testing.assert_array_equal(w, np.broadcast_to(z[:, None], (4, LAYERS, W)))
    for psi in (1.0, 0.5, 0.0, np.array([0.5, 0.5, 1.0, 1.0])):
        x = sample(m, state, jax.random.key(4), 4, guidance=truncation(psi, mean_style(state)))
        plain = sample(m, state, jax.random.key(4), 4)
        share = np.broadcast_to(psi, LAYERS)
        moved = np.einsum("lwd,w,l->d", np.float64(A), np.float64(mean), 1 - share)
        if np.ndim(psi) == 0:
            np.testing.assert_allclose(x, psi * np.float64(plain) + moved, rtol=1e-4, atol=1e-4)
        assert np.abs(x - plain).max() > 1e-3 or np.all(share == 1)
    with pytest.raises(InputError, match="truncation is of w"):
        sample(m, state, jax.random.key(4), 4, guidance=truncation(0.5, mean[:2]))


def test_the_path_length_of_a_linear_synthesis_is_that_of_its_matrix():
    """J_w = A: lengths sqrt(mean over layers |A_l y|^2), their running mean, and a penalty every other turn."""
    path = PathLength(weight=3.0, every=2, shrink=1, decay=0.25)
    m, params, extra = begun(path_length=path, mixing=0.0)
    plain, _, _ = begun(mixing=0.0)
    start = {**extra, "path_length": {"state": jnp.asarray(2.0)}}
    base = losses_of(plain)["generator"](params, extra, KEYS, Batch(X))[0]
    y = jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, 14), (DIMS,)))(KEYS) / np.sqrt(DIMS)
    back = np.einsum("lwd,bd->blw", np.float64(A), np.float64(y))
    lengths = np.sqrt(np.square(back).sum(-1).mean(-1))
    a = 2.0 + 0.25 * (lengths.mean() - 2.0)
    loss, (metrics, after) = losses_of(m)["generator"](params, start, KEYS, Batch(X))
    np.testing.assert_allclose(after["path_length"]["state"], a, rtol=1e-5)
    np.testing.assert_allclose(loss - base, np.full(N, 2 * 3.0 * np.mean((lengths - a) ** 2)), rtol=1e-2)
    loss, (metrics, after) = losses_of(m, 1)["generator"](params, start, KEYS, Batch(X))
    assert after["path_length"]["state"] == metrics["path_length"] == 2.0 and metrics["path_penalty"] == 0
    np.testing.assert_allclose(loss, base, rtol=1e-5)


def test_only_a_style_gan_has_a_mean_style():
    m = gan(critic, critic, DIMS)
    state = TrainState(jnp.asarray(1), jax.random.key(3), {}, {}, {"generator": {}}, None)
    with pytest.raises(InputError, match="only a StyleGAN has a mean style"):
        mean_style(state)
    assert m.condition is None


@pytest.mark.parametrize(
    "options", [{"mixing": 1.5}, {"beta": 1.0}, {"path_length": PathLength(every=0)}, {"path_length": PathLength(-1.0)}]
)
def test_a_style_gan_that_cannot_be_is_refused(options):
    with pytest.raises(InputError):
        model(**options)


# --- fading in -------------------------------------------------------------------------------------------------------


def test_the_share_of_a_new_scale_grows_with_the_steps_in_networks_and_images():
    seen, x = [], RNG.normal(size=(N, 4, 4, 1)).astype(np.float32)

    def scored(params, stats, x, c, train=False):
        seen.append((stats["fade"]["alpha"], x))
        return x.reshape(len(x), -1) @ params, stats

    def made(params, stats, z, c, train=False):
        return (z[:, :1] * params).reshape(-1, 4, 4, 1), stats

    growing = Network(lambda key, x, c: (jnp.ones(16), {"fade": {"alpha": jnp.ones(())}}), scored)
    drawn = Network(lambda key, z, c: (jnp.ones(16), {}), made)
    m = fading(gan(drawn, growing, 2), 10)
    params, extra = m.game.init(jax.random.key(0), Batch(jnp.asarray(x)))
    means = x.reshape(N, 2, 2, 2, 2, 1).mean((2, 4))
    for step, alpha in ((0, 0.0), (5, 0.5), (10, 1.0), (99, 1.0)):
        for player in ("critic", "generator"):
            seen.clear()
            _, (_, after) = losses_of(m, step)[player](params, extra, KEYS, Batch(jnp.asarray(x)))
            np.testing.assert_allclose([share for share, _ in seen], np.full(len(seen), alpha), rtol=1e-6)
            real = alpha * x + (1 - alpha) * means.repeat(2, 1).repeat(2, 2)  # half the size, enlarged again
            np.testing.assert_allclose(seen[0][1], real, atol=1e-6)
        assert after["critic"]["fade"]["alpha"] == alpha if step else True
    with pytest.raises(InputError, match="no network of this model fades a scale in"):
        fading(model(), 10).game.init(jax.random.key(0), Batch(X))
    with pytest.raises(InputError, match="number of steps, not -1"):
        fading(m, -1)
