"""Stages of a growing network, each a run that begins with the one before."""

import inspect
from pathlib import Path

import jax
import numpy as np
import optax
import pytest

from jaxgen import Experiment, cli, data, families, fit_stages, load
from jaxgen.families.growing import fading
from jaxgen.nets import network
from jaxgen.nets.progressive import ProgressiveCritic, ProgressiveGenerator, stages
from jaxgen.types import InputError
from jaxgen.types import weights as averaged

SHAPE, STEPS = (8, 8, 1), 6


def experiment(*, stage: int = 0, steps: int = STEPS) -> Experiment:
    """A stage.

    Args:
        stage: 0 or 1
        steps: of a stage
    """
    digits = data.load("digits")
    generator, critic = ProgressiveGenerator(SHAPE, stage, 2, 4), ProgressiveCritic(SHAPE, stage, 2, 4)
    model = fading(families.gan(network(generator), network(critic), 4), steps if stage else 0)
    players = {name: optax.sgd(0.05) for name in ("critic", "generator")}
    small = data.shrunk(digits, stages(SHAPE) - 1 - stage)
    every = {"log_every": steps, "sample_every": steps, "save_every": 2}
    return Experiment(model, players, small, 8, steps, order=tuple(players), ema=0.5, name=f"stage{stage}", **every)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stages")
    fit_stages(lambda stage: experiment(stage=stage), 2, folder, progress=False)
    return folder


def test_a_stage_begins_with_the_averaged_parameters_of_the_one_before(trained):
    _, before = load(trained / "0")
    start = averaged(before)[0]
    _, after = load(trained / "1")
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), after.params, start)
    assert 0 < max(jax.tree.leaves(moved)) < 0.5  # a few small steps from there, not a new network
    assert after.extra["generator"]["fade"]["alpha"] == (STEPS - 1) / STEPS  # of the last step


def test_interrupted_in_a_stage_it_goes_on_there(trained, tmp_path):
    """The second stage stops after two steps, as a kill would have it: the end is the same, bit for bit."""

    class Killed(BaseException):
        pass

    def killed(stage):
        if stage == 1:
            raise Killed
        return experiment(stage=stage)

    with pytest.raises(Killed):
        fit_stages(killed, 2, tmp_path, progress=False)
    fit_stages(lambda stage: experiment(stage=stage)._replace(steps=(STEPS, 2)[stage]), 2, tmp_path, progress=False)
    fit_stages(lambda stage: experiment(stage=stage), 2, tmp_path, progress=False)
    for stage in ("0", "1"):
        ours, theirs = (load(folder / stage)[1] for folder in (tmp_path, trained))
        same = jax.tree.map(lambda a, b: bool((a == b).all()), ours.params, theirs.params)
        assert all(jax.tree.leaves(same)), stage


def test_one_command_trains_all_stages(tmp_path, capsys):
    # the experiment of this file, as a file of its own
    source = Path(inspect.getfile(experiment)).read_text()
    file = tmp_path / "growing.py"
    file.write_text(source.replace("import pytest\n", "").split("\n\n@pytest.fixture")[0])
    cli.main(["train", str(file), "--stages", "2", "--steps", "2", "--workdir", str(tmp_path / "run")])
    assert [(tmp_path / "run" / stage / "samples.png").exists() for stage in ("0", "1")] == [True, True]
    capsys.readouterr()
    for arguments, message in [(["--stages", "0"], "at least one stage"), (["--stages", "3"], "there is no stage 2")]:
        with pytest.raises(SystemExit) as error:
            cli.main(["train", str(file), *arguments, "--steps", "2", "--workdir", str(tmp_path / "other")])
        assert error.value.code == 2 and message in capsys.readouterr().err


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
        fit_stages(lambda stage: experiment(stage=stage), 0, "nowhere")
