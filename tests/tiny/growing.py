"""A progressive GAN of the 8x8 digits, in two stages."""

import optax

from jaxgen import Experiment, data, families
from jaxgen.families.growing import fading
from jaxgen.nets import network
from jaxgen.nets.progressive import ProgressiveCritic, ProgressiveGenerator, shrinks


def experiment(*, stage: int = 0, steps: int = 6) -> Experiment:
    """A stage.

    Args:
        stage: 0 or 1
        steps: of a stage
    """
    digits = data.load("digits")
    small = data.shrunk(digits, shrinks(digits.shape, stage))
    generator, critic = (net(digits.shape, stage, 2, 4) for net in (ProgressiveGenerator, ProgressiveCritic))
    model = fading(families.gan(network(generator), network(critic), 4), steps if stage else 0)
    players = {name: optax.sgd(0.05) for name in ("critic", "generator")}
    every = {"log_every": 6, "sample_every": 6, "save_every": 2}
    return Experiment(model, players, small, 8, steps, order=tuple(players), ema=0.5, **every)
