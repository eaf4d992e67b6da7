"""Stages of a growing network, each a run that begins with the one before."""

import jax
import numpy as np
import pytest
from _tiny import tiny

from jaxgen import cli, data, fit_stages, load, load_experiment
from jaxgen.types import InputError
from jaxgen.types import weights as averaged

STEPS = 6


def make(stage: int, **settings):
    return load_experiment(tiny("growing"), stage=stage, **settings)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stages")
    fit_stages(make, 2, folder, progress=False)
    return folder


def test_a_stage_begins_with_the_averaged_parameters_of_the_one_before(trained):
    _, before = load(trained / "0")
    start = averaged(before)[0]
    _, after = load(trained / "1")
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), after.params, start)
    assert 0 < max(jax.tree.leaves(moved)) < 0.5  # a few small steps from there, not a new network
    np.testing.assert_allclose(after.extra["generator"]["fade"]["alpha"], (STEPS - 1) / STEPS)  # of the last step


def test_interrupted_in_a_stage_it_goes_on_there(trained, tmp_path):
    """Stopped after two steps of the second stage, as a kill would have it: the end is the same, bit for bit."""
    fit_stages(lambda stage: make(stage)._replace(steps=(STEPS, 2)[stage]), 2, tmp_path, progress=False)
    fit_stages(make, 2, tmp_path, progress=False)
    for stage in ("0", "1"):
        ours, theirs = (load(folder / stage)[1] for folder in (tmp_path, trained))
        same = jax.tree.map(lambda a, b: bool((a == b).all()), ours.params, theirs.params)
        assert all(jax.tree.leaves(same)), stage


def test_one_command_trains_all_stages(tmp_path, capsys):
    train = ["train", str(tiny("growing")), "--steps", "2", "--workdir", str(tmp_path / "run"), "--stages"]
    cli.main([*train, "2"])
    assert [(tmp_path / "run" / stage / "samples.png").exists() for stage in ("0", "1")] == [True, True]
    capsys.readouterr()
    for file, count, message in [
        ("growing", "0", "there is at least one stage, not 0"),
        ("growing", "3", "grow in the stages 0 to 1, there is no stage 2"),
        ("gan", "2", "has no such keyword"),
    ]:
        with pytest.raises(SystemExit) as error:
            cli.main(["train", str(tiny(file)), "--stages", count, "--workdir", str(tmp_path / "other")])
        err = capsys.readouterr().err
        assert error.value.code == 2 and message in err and err.count("\n") == 1
    assert not (tmp_path / "other").exists()  # refused before the first stage begins


def test_shrunk_images_are_means_and_sides_must_halve():
    digits = data.load("digits")
    small, x = data.shrunk(digits, 1), np.asarray(digits.take(np.arange(5)).x)
    y = small.take(np.arange(5)).x
    assert small.shape == (4, 4, 1) and y.dtype == np.uint8
    want = x.reshape(5, 4, 2, 4, 2, 1).astype(float).mean((2, 4))
    assert np.abs(y - want).max() <= 0.5
    assert data.shrunk(digits, 0) is digits
    with pytest.raises(InputError, match="images of 8x8 cannot be halved 4 times"):
        data.shrunk(digits, 4)
    with pytest.raises(InputError, match="has no images"):
        data.shrunk(data.load("gaussians8", n=8), 1)
    with pytest.raises(InputError, match="at least one stage, not 0"):
        fit_stages(make, 0, "nowhere")
