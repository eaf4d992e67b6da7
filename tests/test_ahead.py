"""Codes computed once for a data set: what a run learns of them is what it learns by encoding at every step."""

import shutil

import jax
import numpy as np
import pytest
from _tiny import Home, assert_same_runs, home, leaves, tiny  # noqa: F401  (home is a fixture)

import jaxgen
from jaxgen import ahead, load_experiment, parallel, sampling
from jaxgen.data import normalize
from jaxgen.runs import init, load_run
from jaxgen.types import Batch, InputError


def experiment(family, **keywords):
    return load_experiment(tiny("zoo"), family=family, **keywords)


@pytest.fixture(scope="module")
def runs(home: Home, tmp_path_factory):  # noqa: F811
    """A run of an autoencoder with a critic, and one of the codes of its autoencoder, cached."""
    folder = tmp_path_factory.mktemp("ahead")
    jaxgen.fit(experiment("sharpened", steps=6), folder / "outer", progress=False)
    start = {"autoencoder": folder / "outer"}
    jaxgen.fit(experiment("cached", steps=20), folder / "cached", start=start, progress=False)
    return folder, start


def test_a_latent_model_begins_with_the_autoencoder_and_leaves_its_critic(runs):
    folder, _ = runs
    (_, outer), (_, inner) = (jaxgen.load(folder / name) for name in ("outer", "cached"))
    assert set(outer.params) == {"vae", "critic"} and set(inner.params["autoencoder"]) == {"vae"}
    wanted = outer.ema.params["vae"]
    jax.tree.map(np.testing.assert_array_equal, inner.params["autoencoder"]["vae"], wanted)


def test_what_is_cached_is_what_the_encoder_gives(runs):
    run = load_run(runs[0] / "cached")
    exp = ahead.computed(run.experiment, run.state, parallel.layout("one"))
    index = np.array([255, 0, 17, 17])
    batch, x = exp.data.take(index), normalize(Batch(run.experiment.data.take(index).x)).x
    code = jax.jit(run.experiment.game.ahead.of)(run.state.params, run.state.extra, x)
    assert exp.data.shape == batch.x.shape[1:] == (8,) and exp.data.size == 256
    np.testing.assert_allclose(batch.x, code, rtol=1e-5, atol=1e-6)
    assert run.experiment.data.shape == (8, 8, 1)  # a run's data are images as before
    game = run.experiment.game
    doubled = game._replace(ahead=game.ahead._replace(of=lambda *inputs: 2 * game.ahead.of(*inputs)))
    other = run.experiment._replace(model=run.experiment.model._replace(game=doubled))
    again = ahead.computed(other, run.state, parallel.layout("one"))  # of the same parameters, by another program
    np.testing.assert_allclose(again.data.take(index).x, 2 * batch.x, rtol=1e-5)


def test_a_run_learns_the_same_with_and_without(runs):
    folder, start = runs
    exp = experiment("cached", steps=20)
    plain = jaxgen.fit(exp._replace(cache=False), folder / "plain", start=start, progress=False)
    cached = load_run(folder / "cached").state
    begun = init(exp, exp.data.take(np.arange(16)))
    for a, b, c in zip(*(jax.tree.leaves(s.params["denoiser"]) for s in (plain, cached, begun)), strict=True):
        assert np.abs(a - b).max() < 1e-3 * np.abs(a - c).max()  # of what was learned
    moments = [s.extra["codes"]["moments"]["variance"] for s in (plain, cached)]
    np.testing.assert_allclose(*moments, rtol=1e-5)
    model, state = jaxgen.load(folder / "cached")
    assert sampling.sample(model, state, jax.random.key(0), 2).shape == (2, 8, 8, 1)


def test_a_run_that_was_interrupted_finds_the_same_codes(runs, home):  # noqa: F811
    folder, start = runs
    jaxgen.fit(experiment("cached", steps=10), folder / "half", start=start, progress=False)
    shutil.rmtree(home.folder / "cache")  # computed anew
    jaxgen.fit(experiment("cached", steps=20), folder / "half", progress=False)
    assert_same_runs(folder / "half", folder / "cached")
    assert leaves(folder / "half")[0] == 20


def test_a_model_without_a_frozen_encoder_has_nothing_to_cache(tmp_path):
    for family in ("vae", "absorbing"):  # which trains its autoencoder
        with pytest.raises(InputError, match="nothing of zoo can be cached"):
            jaxgen.fit(experiment(family)._replace(cache=True), tmp_path / family)
