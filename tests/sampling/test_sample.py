"""The one sampling call: an image belongs to its key and its place, and no number causes a compilation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.conditions import labels, optional
from jaxgen.processes import linear
from jaxgen.sampling import classifier_free, ddim, ddpm, generate, iterate, named, sample, stream, uniform
from jaxgen.types import Average, Game, InputError, Model, Prediction, TrainState, one_shot

PROCESS = linear()
KEY = jax.random.key(0)
OFFSETS = np.array([0.5, -1.0, 2.0], np.float32)


def toy(classes=None, traces=None):
    """x_0 = tanh(w x + extra + the label's offset), where there is a label; counts its traces."""

    def predict(params, extra, condition):
        if traces is not None:
            traces.append(1)
        offset = 0.0
        if condition is not None:
            offset = jnp.where(condition.known, jnp.asarray(OFFSETS)[condition.value], 0.0)[:, None]
        return lambda x, t: Prediction(jnp.tanh(params["g"] * x + extra + offset))

    return Model(
        Game(lambda key, batch: ({}, {}), {}),
        prior=lambda params, extra, keys, condition: normals(keys),
        predict=predict,
        sampler=one_shot,
        condition=optional(labels(classes)) if classes else None,
        process=PROCESS,
    )


def state(w=0.7, shift=0.0, average=None):
    ema = None if average is None else Average({"g": jnp.asarray(average[0])}, jnp.asarray(average[1]))
    return TrainState(jnp.zeros((), jnp.int32), KEY, {"g": jnp.asarray(w)}, {}, jnp.asarray(shift), ema)


PLAIN, LABELLED = toy(), toy(classes=3)
STOCHASTIC = iterate(ddpm(PROCESS), uniform(5))


def test_an_image_depends_on_its_key_and_place_only():
    full = sample(PLAIN, state(), KEY, 20, sampler=STOCHASTIC)
    assert full.shape == (20, 2)
    for n, batch in ((7, 64), (20, 8), (3, 1)):
        np.testing.assert_allclose(sample(PLAIN, state(), KEY, n, sampler=STOCHASTIC, batch=batch), full[:n], atol=1e-6)
    assert len(np.unique(np.round(full, 4), axis=0)) == 20
    assert np.all(np.abs(sample(PLAIN, state(), jax.random.key(1), 20, sampler=STOCHASTIC) - full) > 0)


def test_an_image_depends_on_its_own_label_only():
    label = np.array([0, 1, 2, 2, 1, 0, 0, 1, 2, 1, 0])
    full = sample(LABELLED, state(), KEY, 11, label)
    np.testing.assert_allclose(sample(LABELLED, state(), KEY, 11, label, batch=4), full, atol=1e-6)
    for k in range(3):
        np.testing.assert_allclose(sample(LABELLED, state(), KEY, 11, k)[label == k], full[label == k], atol=1e-6)
    free = sample(LABELLED, state(), KEY, 11)
    np.testing.assert_allclose(np.arctanh(full) - np.arctanh(free), np.repeat(OFFSETS[label][:, None], 2, 1), atol=1e-3)


def test_the_prior_s_noise_and_the_walk_s_are_different_draws():
    # the walk's first draw must not be the noise it starts from: x_0 would depend on it twice
    model = toy()._replace(sampler=jax.tree_util.Partial(lambda keys, predict, noise: normals(keys) - noise))
    assert np.all(np.abs(sample(model, state(), KEY, 16)) > 1e-6)


def normals(keys):
    return jax.vmap(lambda key: jax.random.normal(key, (2,)))(keys)


def test_a_stream_is_the_sample_in_pieces():
    pieces = list(stream(PLAIN, state(), KEY, 10, batch=4))
    assert [len(piece) for piece in pieces] == [4, 4, 2]
    np.testing.assert_array_equal(np.concatenate(pieces), sample(PLAIN, state(), KEY, 10, batch=4))


def test_generate_is_the_sampler_of_given_noise():
    noise = np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32)
    keys = jax.random.split(KEY, 5)
    np.testing.assert_allclose(
        generate(PLAIN, state(0.3, 0.1), keys, noise, batch=2), np.tanh(0.3 * noise + 0.1), atol=1e-6
    )
    label = np.array([2, 0, 1, 1, 2])
    want = np.tanh(0.3 * noise + 0.1 + OFFSETS[label][:, None])
    np.testing.assert_allclose(generate(LABELLED, state(0.3, 0.1), keys, noise, label, batch=2), want, atol=1e-6)


def test_averages_are_used_by_default():
    noise, keys = np.float32([[0.5, -1.0]]), jax.random.split(KEY, 1)
    both = state(0.3, 0.1, average=(0.9, -0.4))
    np.testing.assert_allclose(generate(PLAIN, both, keys, noise), np.tanh(0.9 * noise - 0.4), atol=1e-6)
    np.testing.assert_allclose(generate(PLAIN, both, keys, noise, ema=False), np.tanh(0.3 * noise + 0.1), atol=1e-6)
    np.testing.assert_allclose(generate(PLAIN, state(0.3, 0.1), keys, noise), np.tanh(0.3 * noise + 0.1), atol=1e-6)


# --- guidance ---------------------------------------------------------------------------------------------------------


def test_guidance_is_linear_between_and_beyond_its_two_predictions():
    keys, noise = jax.random.split(KEY, 6), np.random.default_rng(1).normal(size=(6, 2)).astype(np.float32)
    conditional = generate(LABELLED, state(), keys, noise, 1)
    free = generate(LABELLED, state(), keys, noise)
    for scale in (0.0, 0.5, 1, 3.0, -1.0):
        want = free + scale * (conditional - free)
        np.testing.assert_allclose(generate(LABELLED, state(), keys, noise, 1, guidance=scale), want, atol=1e-5)


def test_guidance_of_x0_is_the_paper_s_guidance_of_eps():
    # eps_guided = (1 + w) eps(c) - w eps, w = scale - 1 (Ho and Salimans 2022, eq. 6)
    a, s, x, t = 0.6, 0.8, jnp.array([[0.4]]), jnp.array(0.5)
    c, u = jnp.array([[0.9]]), jnp.array([[-0.2]])

    def predict_of(condition):
        return lambda x, t: Prediction(u if condition is None else c)

    guided = classifier_free(3.0)(predict_of, 1, None)(x, t).x0
    eps = [(x - a * x0) / s for x0 in (c, u, guided)]
    np.testing.assert_allclose(eps[2], 3.0 * eps[0] - 2.0 * eps[1], rtol=1e-5)


@pytest.mark.parametrize("scale", [np.float32(2.0), np.float64(2.0), np.int64(2), jnp.asarray(2.0)])
def test_a_guidance_scale_may_be_any_number(scale):
    # values read from an array, as in a sweep over np.linspace(1, 5, 9).astype(np.float32)
    want = sample(LABELLED, state(), KEY, 2, 1, guidance=2.0)
    np.testing.assert_allclose(sample(LABELLED, state(), KEY, 2, 1, guidance=scale), want, atol=1e-6)


# --- compilations -----------------------------------------------------------------------------------------------------


def test_no_number_causes_a_compilation():
    traces = []
    model = toy(classes=3, traces=traces)

    def draw(n=20, seed=0, w=0.7, label=1, scale=2.0, solver=None, steps=5, clip=1.0, average=None):
        sampler = iterate(ddim(PROCESS) if solver is None else solver, uniform(steps), clip)
        return sample(
            model, state(w, average=average), jax.random.key(seed), n, label, batch=8, guidance=scale, sampler=sampler
        )

    first = draw()
    count = len(traces)
    assert count
    for change in (
        {"n": 9},
        {"n": 100},
        {"seed": 5},
        {"w": 0.1},
        {"label": 2},
        {"label": np.arange(20) % 3},
        {"scale": 4},
        {"scale": 0.5},
        {"solver": ddim(PROCESS, eta=0.7)},
        {"solver": ddim(linear(last=0.01))},
        {"steps": 50},
        {"clip": 0.3},
        {"average": (0.2, 0.0)},
    ):
        changed = draw(**change)
        assert len(traces) == count, f"{change} compiled again"
        assert changed.shape != first.shape or np.any(changed != first), f"{change} changed nothing"


def test_the_variance_of_ddpm_does_not_cause_a_compilation():
    traces = []
    model = toy(traces=traces)
    one = sample(model, state(), KEY, 8, sampler=iterate(ddpm(PROCESS), uniform(5)))
    other = sample(model, state(), KEY, 8, sampler=iterate(ddpm(PROCESS, "beta_tilde"), uniform(6)))
    assert len(traces) == 1 and np.all(one != other)


def test_few_batch_sizes_are_compiled_for_many_numbers_of_images():
    traces = []
    model = toy(traces=traces)
    for n in range(1, 20):
        assert sample(model, state(), KEY, n, batch=8).shape == (n, 2)
    assert len(traces) <= 4  # 1, 2, 4, 8


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "condition, line",
    [
        (3, "label 3 is outside 0 to 2"),
        (-1, "label -1 is outside 0 to 2"),
        ([0, 1, 2, 7], "label 7 is outside 0 to 2"),
        ([0, 1], "4 .one an image"),
        ([[0, 1, 2, 1]], "4 .one an image"),
        (1.0, "an integer"),
        ("two", "an integer"),
    ],
)
def test_a_wrong_label_is_refused_in_one_line(condition, line):
    with pytest.raises(InputError, match=line) as error:
        sample(LABELLED, state(), KEY, 4, condition)
    assert "\n" not in str(error.value)


def test_a_label_for_an_unconditional_model_is_refused():
    with pytest.raises(InputError, match="unconditional"):
        sample(PLAIN, state(), KEY, 4, 1)
    with pytest.raises(InputError, match="unconditional"):
        generate(PLAIN, state(), jax.random.split(KEY, 4), jnp.zeros((4, 2)), 1)


def test_guidance_without_a_condition_is_refused():
    with pytest.raises(InputError, match="guidance needs a condition"):
        sample(PLAIN, state(), KEY, 4, guidance=2.0)
    always = LABELLED._replace(condition=labels(3))
    with pytest.raises(InputError, match="always needs a condition"):
        sample(always, state(), KEY, 4)


def test_guidance_of_no_condition_changes_nothing():
    free = sample(LABELLED, state(), KEY, 4)
    np.testing.assert_allclose(sample(LABELLED, state(), KEY, 4, guidance=3.0), free, atol=1e-6)


@pytest.mark.parametrize("options", [{"n": 0}, {"n": -1}, {"n": 4, "batch": 0}])
def test_sizes_below_one_are_refused(options):
    with pytest.raises(InputError, match="at least 1"):
        sample(PLAIN, state(), KEY, **options)


def test_a_sampler_by_name_is_the_one_by_hand():
    by_hand = sample(PLAIN, state(), KEY, 4, sampler=iterate(ddim(PROCESS), uniform(7), clip=1.0))
    np.testing.assert_array_equal(sample(PLAIN, state(), KEY, 4, sampler=named(PLAIN, "ddim", 7)), by_hand)
    with pytest.raises(InputError, match=r"'nothing'.*ddim, ddpm"):
        named(PLAIN, "nothing", 7)
    with pytest.raises(InputError, match="one step"):
        named(PLAIN._replace(process=None), "ddim", 7)
