"""Augmentations on the way to a critic: what each does to pixels, and how the adaptive one finds its p."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.losses import augmentation
from jaxgen.types import InputError, Seen, turn

RNG = np.random.default_rng(0)
N = 64
X = jnp.asarray(RNG.uniform(-1, 1, (N, 8, 8, 3)), jnp.float32)
KEYS = jax.random.split(jax.random.key(0), N)
TRANSFORMS = ["tint", "shift", "cutout", "blit", "geometry", "colour"]
ONE, ZERO = jnp.ones(()), jnp.zeros(())


@functools.cache
def compiled(name):
    """(key, p, x [N, 8, 8, C]) -> (the changed images, the gradient of their sum in x)."""
    transform = getattr(augmentation, name)

    def both(key, p, x):
        y, back = jax.vjp(lambda x: transform(key, p, x), x)
        return y, back(jnp.ones_like(y))[0]

    return jax.jit(jax.vmap(both, (0, None, 0)))


def applied(name, p, x=X, keys=KEYS):
    return compiled(name)(keys, p, x)[0]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", TRANSFORMS)
def test_nothing_is_changed_with_probability_zero_and_gradients_reach_every_image(name, channels):
    x = X[..., :channels]
    np.testing.assert_allclose(applied(name, ZERO, x), x, atol=2e-6)
    changed, gradient = compiled(name)(KEYS, ONE, x)
    assert changed.shape == x.shape and jnp.isfinite(changed).all()
    moved = np.abs(changed - x).max(axis=(1, 2, 3)) > 1e-3
    assert moved.sum() >= 48  # some draws are nearly nothing
    assert (np.abs(gradient).sum(axis=(1, 2, 3)) > 0).all()


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_change_is_made_with_its_probability_and_is_the_example_s_own(name):
    x = jnp.broadcast_to(X[:1], X.shape)
    rare, always = (np.asarray(applied(name, jnp.asarray(p), x)) for p in (0.1, 1.0))
    share = [np.mean(np.abs(y - x).max(axis=(1, 2, 3)) > 1e-3) for y in (rare, always)]
    assert 0.02 < share[0] < 0.55 < 0.8 < share[1]  # of one to five changes, each with probability 0.1
    assert len(np.unique(np.round(always.reshape(N, -1), 3), axis=0)) > 4
    np.testing.assert_allclose(applied(name, ONE, x, KEYS[::-1])[::-1], always, atol=1e-6)


def test_a_shift_moves_and_fills_with_zero():
    shifted = np.asarray(applied("shift", ONE))
    for x, y in zip(np.asarray(X), shifted, strict=True):
        options = [np.roll(np.pad(x, ((1, 1), (1, 1), (0, 0))), (i, j), (0, 1))[1:-1, 1:-1]
                   for i in (-1, 0, 1) for j in (-1, 0, 1)]  # fmt: skip
        assert min(np.abs(option - y).max() for option in options) < 1e-6


def test_a_cutout_is_a_square_of_half_the_sides_inside_the_image():
    holes = np.asarray(applied("cutout", ONE, jnp.ones_like(X)))[..., 0] == 0
    rows, columns = holes.any(2).sum(1), holes.any(1).sum(1)
    np.testing.assert_array_equal(holes.sum((1, 2)), rows * columns)  # a rectangle
    assert rows.max() == columns.max() == 4 and rows.min() >= 2


def test_a_blit_only_moves_pixels_and_colours_stay():
    """Every pixel of the result is one of the image's own."""
    for x, y in zip(np.asarray(X), np.asarray(applied("blit", ONE)), strict=True):
        apart = np.abs(x.reshape(-1, 1, 3) - y.reshape(1, -1, 3)).max(-1)
        assert apart.min(0).max() < 1e-6
    grey = applied("geometry", ONE, jnp.full_like(X, 0.3))
    np.testing.assert_allclose(grey, 0.3, atol=1e-5)  # weights of a bilinear reading add to one


def test_geometry_is_one_affine_map_whose_inverse_is_read():
    """A ramp stays a ramp, as far as what is read lies inside."""
    ramp = jnp.broadcast_to(jnp.arange(64.0)[None, :, None, None], (N, 64, 64, 1))
    y = np.asarray(applied("geometry", ONE, ramp))[..., 0]
    inside = y[:, 24:40, 24:40]
    seconds = np.abs(np.diff(inside, 2, axis=1)).max((1, 2)), np.abs(np.diff(inside, 2, axis=2)).max((1, 2))
    assert np.median(seconds[0]) < 1e-3 and np.median(seconds[1]) < 1e-3
    slope = np.hypot(np.diff(inside, axis=1).mean((1, 2)), np.diff(inside, axis=2).mean((1, 2)))
    assert slope.min() > 0.5 and slope.max() < 2.0 and slope.std() > 0.02


def test_colour_turns_about_the_grey_axis():
    grey = jnp.broadcast_to(jnp.linspace(-0.5, 0.5, 8)[None, :, None, None], X.shape)
    y = np.asarray(applied("colour", ONE, grey))
    np.testing.assert_allclose(y, np.broadcast_to(y[..., :1], y.shape), atol=1e-5)  # grey stays grey


def test_diff_augment_is_its_three_transforms_always():
    aug = augmentation.augment()
    found = jax.jit(lambda x: aug.apply({}, turn(KEYS), x))(X)
    x = X
    for i, name in enumerate(("tint", "shift", "cutout")):
        x = applied(name, ONE, x, jax.vmap(jax.random.fold_in, (0, None))(KEYS, i))
    np.testing.assert_allclose(found, x, atol=1e-6)
    with pytest.raises(InputError, match=r"of images \[B, H, W, C\]"):
        aug.apply({}, turn(KEYS), X[:, 0, 0])


@pytest.mark.parametrize("share", [1.0, 0.0])
def test_p_rises_where_the_critic_is_sure_and_falls_where_it_is_not(share):
    """From 0.5 by 64 images a turn over 4,000: one way at a sign above the target, the other below it."""
    aug = augmentation.adaptive(target=0.6, images=4000, every=4, start=0.5)
    state, real = aug.init(), Seen(jnp.where(jnp.arange(N) < N * share, 1.0, -1.0))
    update = jax.jit(lambda state: aug.update(state, real, turn(KEYS)))
    for count in range(1, 9):
        state = update(state)
        moves = count // 4
        want = 0.5 + (1 if share else -1) * moves * N * 4 / 4000
        np.testing.assert_allclose(aug.report(state)["augmentation"], want, rtol=1e-5)
    for _ in range(80):
        state = update(state)
    assert state["p"] == share  # a probability


def test_p_settles_where_the_sign_is_the_target():
    """A critic that is the less sure the more is changed: E sign = 1 - 2 p ends at p = 0.2 for 0.6."""
    aug = augmentation.adaptive(target=0.6, images=8000, every=4)

    @jax.jit
    def step(state, key):
        sure = jax.random.uniform(key, (N,)) > state["p"]
        return aug.update(state, Seen(jnp.where(sure, 1.0, -1.0)), turn(KEYS))

    state, seen = aug.init(), []
    for key in jax.random.split(jax.random.key(3), 600):
        state = step(state, key)
        seen.append(float(state["p"]))
    assert abs(np.mean(seen[300:]) - 0.2) < 0.04


def test_p_is_what_the_images_are_changed_with():
    aug = augmentation.adaptive(augmentation.cutout)
    change = jax.jit(lambda state: aug.apply(state, turn(KEYS), X))
    for p in (0.0, 1.0):
        state = {**aug.init(), "p": jnp.asarray(p)}
        changed = np.abs(change(state) - X).max((1, 2, 3)) > 0
        assert changed.mean() == p


@pytest.mark.parametrize(
    "wrong", [{"target": 1.0}, {"images": 0}, {"every": 0}, {"start": 1.5}, {"target": -1.0}], ids=str
)
def test_an_adaptive_augmentation_that_cannot_be_is_refused(wrong):
    with pytest.raises(InputError):
        augmentation.adaptive(**wrong)
