"""Guidances as formulas of predictions, and that they wrap each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.conditions import labels, optional
from jaxgen.processes import cosine
from jaxgen.sampling import (
    autoguidance,
    classifier_free,
    compose,
    ddim,
    evaluations,
    iterate,
    limited,
    negative,
    rescaled,
    sample,
    uniform,
)
from jaxgen.types import Game, InputError, Model, Prediction, TrainState, normal

X, T = jnp.asarray(np.random.default_rng(0).normal(size=(5, 4, 4, 1)), jnp.float32), jnp.asarray(0.5)
STATE = TrainState(jnp.zeros((), jnp.int32), jax.random.key(0), {"gain": jnp.asarray(2.0)}, {}, {}, None)


def predict_of(condition):
    """A prediction of its own for every condition, of another spread for each."""
    gain = 0.3 if condition is None else condition
    return lambda x, t: Prediction(gain * x + jnp.sin(gain))


def at(guidance, given=None, condition=1.5, t=T):
    return guidance(predict_of, condition, given)(X, t).x0


def plain(condition):
    return predict_of(condition)(X, T).x0


def test_negative_guidance_goes_away_from_a_condition():
    found = at(negative(3.0), given=0.7)
    np.testing.assert_allclose(found, plain(0.7) + 3.0 * (plain(1.5) - plain(0.7)), rtol=1e-5)
    np.testing.assert_allclose(at(negative(3.0), given=0.3), at(classifier_free(3.0)), rtol=1e-5, atol=1e-2)
    with pytest.raises(InputError, match="conditions to guide away from"):
        at(negative(3.0))


def iterating(gain):
    """A model of a process whose estimate is gain x plus its condition's."""

    def predict(params, extra, condition):
        add = 0.0 if condition is None else 0.1 * jnp.where(condition.known, condition.value, 0).reshape(-1, 1, 1, 1)
        return lambda x, t: Prediction(0.1 * gain * params["gain"] * x + add)

    process = cosine()
    return Model(
        Game(lambda key, batch: ({}, {}), {}),
        lambda params, extra, keys, condition: normal(keys, (2, 2, 1)),
        predict,
        iterate(ddim(process), uniform(10)),
        condition=optional(labels(3)),
        process=process,
    )


def test_autoguidance_goes_away_from_a_weaker_model():
    weak, base = iterating(1.0), iterating(3.0)
    guidance = autoguidance(2.5, weak, STATE)
    strong = base.predict(STATE.params, {}, None)

    def of(condition):
        return strong

    found = guidance(of, None, None)(X, T).x0
    np.testing.assert_allclose(found, 0.2 * X + 2.5 * (0.6 * X - 0.2 * X), rtol=1e-5)
    for scale, model in ((1.0, weak), (2.5, base)):  # no scale, or no difference
        same = sample(base, STATE, jax.random.key(1), 4, guidance=autoguidance(scale, model, STATE))
        np.testing.assert_allclose(same, sample(base, STATE, jax.random.key(1), 4), atol=1e-5)
    with pytest.raises(InputError, match="draws in one step"):
        autoguidance(2.0, weak._replace(process=None), STATE)


def test_limited_guidance_is_guidance_inside_and_none_outside_and_costs_as_much():
    inside = limited(classifier_free(4.0), 0.3, 0.6)
    for t, wanted in ((0.5, at(classifier_free(4.0))), (0.2, plain(1.5)), (0.7, plain(1.5))):
        np.testing.assert_allclose(at(inside, t=jnp.asarray(t)), wanted, rtol=1e-6)
    model = iterating(1.0)
    assert evaluations(model, STATE, guidance=4.0) == 20
    assert evaluations(model, STATE, guidance=limited(classifier_free(4.0), 0.35, 0.75)) == 10 + 4  # .7 .6 .5 .4
    with pytest.raises(InputError, match="to a later stop"):
        limited(classifier_free(4.0), 0.6, 0.3)


def test_rescaled_guidance_has_the_deviation_of_the_plain_prediction():
    strong = classifier_free(7.0)
    full, half, none = (at(rescaled(strong, phi)) for phi in (1.0, 0.5, 0.0))

    def spread(x):
        return np.std(np.asarray(x).reshape(5, -1), axis=1)

    assert np.all(spread(at(strong)) > 1.5 * spread(plain(1.5)))
    np.testing.assert_allclose(spread(full), spread(plain(1.5)), rtol=1e-4)
    np.testing.assert_allclose(none, at(strong), rtol=1e-6)
    np.testing.assert_allclose(half, 0.5 * (full + none), rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match="from 0 to 1"):
        rescaled(strong, 1.5)


def test_all_of_them_wrap_and_compose():
    both = compose(classifier_free(2.0), autoguidance(1.5, iterating(1.0), STATE))
    wrapped = rescaled(limited(both, 0.2, 0.8), 0.5)
    model = iterating(2.0)
    images = sample(model, STATE, jax.random.key(0), 4, 2, guidance=wrapped)
    assert np.all(np.isfinite(images))
    assert not np.allclose(images, sample(model, STATE, jax.random.key(0), 4, 2))
    never = limited(both, 0.0, 1e-6)
    np.testing.assert_allclose(
        sample(model, STATE, jax.random.key(0), 4, 2, guidance=never),
        sample(model, STATE, jax.random.key(0), 4, 2),
        atol=1e-6,
    )
