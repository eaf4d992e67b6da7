"""InfoGAN of MNIST: one code for the kind of digit and two numbers, found without labels.

TFDS_DATA_DIR=... jaxgen train experiments/mnist_infogan.py
python experiments/mnist_infogan.py runs/mnist_infogan

Chen et al. 2016 (arXiv:1606.03657), section 7.2 and appendix C.1. The last command draws both numbers from -2 to 2
(RUN/codes.png; a row for each value of the categorical code, between the numbers a gap) and prints how much the codes
say: the share of 10,000 samples whose class, as a classifier of MNIST sees it, is that of their categorical code under
the best assignment of one class to each value, and the correlation of the numbers with the samples' measured slant,
thickness and width.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.optimize import linear_sum_assignment

import jaxgen
from jaxgen import Experiment, data, families, viz
from jaxgen.cli import script
from jaxgen.data.attributes import NAMES, measurements
from jaxgen.data.pipeline import to_uint8
from jaxgen.losses.adversarial import non_saturating
from jaxgen.losses.information import Codes, information
from jaxgen.metrics.features import extract
from jaxgen.metrics.referee import referee
from jaxgen.nets import network
from jaxgen.nets.heads import Heads
from jaxgen.nets.infogan import InfoGANCritic, InfoGANGenerator
from jaxgen.types import Array, Model, TrainState

CODES = Codes(62, categorical=(10,), continuous=2)
MEASURED = ("slanted", "thick", "wide")
SAMPLES, STEPS = 10_000, 9


def experiment(
    *, steps: int = 5_000, batch: int = 64, width: int = 64, categorical: float = 1.0, continuous: float = 0.1
) -> Experiment:
    """InfoGAN with its networks and rates, averaged generator.

    Args:
        steps: how long to train; 938 are an epoch at batch 64
        batch: examples a turn
        width: channels at half the size, 64 in the published network
        categorical: weight of the information in the categorical code, in nats
        continuous: weight of that in the two numbers
    """
    mnist = data.load("mnist")
    model = families.gan(
        network(InfoGANGenerator(mnist.shape, width)),
        network(InfoGANCritic(width, heads=Heads(codes=CODES.outputs))),
        CODES,
        objective=information(non_saturating(), CODES, categorical, continuous),
    )
    players = {"critic": optax.adam(2e-4, b1=0.5), "generator": optax.adam(1e-3, b1=0.5)}
    return Experiment(model, players, mnist, batch=batch, steps=steps, ema=0.995)


# --- what the codes say ----------------------------------------------------------------------------------------------


def matched(code: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """The class of each value of a code, int [10]: the one-to-one assignment under which the most samples agree."""
    table = np.zeros((10, 10), int)
    np.add.at(table, (code, classes), 1)
    return linear_sum_assignment(-table)[1]


def within(code: np.ndarray, values: np.ndarray) -> np.ndarray:
    """values [N, K] less their mean over the samples of the same code."""
    return values - np.stack([values[code == c].mean(0) for c in range(10)])[code]


def correlations(code: np.ndarray, u: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Pearson's, [2, K], of the numbers u [N, 2] and of what was measured of the samples [N, K], each within the values
    of the categorical code: kinds of digits differ in slant and width themselves."""
    u, values = within(code, u), within(code, values)
    scale = np.sqrt(np.outer((u**2).sum(0), (values**2).sum(0)))
    return u.T @ values / np.maximum(scale, 1e-12)


def drawn(model: Model, state: TrainState, latents: Array) -> np.ndarray:
    """The images of latents, uint8."""
    keys = jax.random.split(jax.random.key(0), len(latents))
    return np.asarray(to_uint8(jaxgen.generate(model, state, keys, latents, batch=500)))


def walks(order: np.ndarray, number: int) -> Array:
    """The latents of a table [10 STEPS, D]: rows are values of the categorical code, columns one of the two numbers
    from -2 to 2, the other at 0; one z for all."""
    z = jnp.broadcast_to(jax.random.normal(jax.random.key(3), (CODES.noise,)), (10, STEPS, CODES.noise))
    rows = jnp.broadcast_to(jax.nn.one_hot(order, 10)[:, None], (10, STEPS, 10))
    u = jnp.zeros((10, STEPS, 2)).at[..., number].set(jnp.linspace(-2, 2, STEPS))
    return jnp.concatenate([z, rows, u], axis=-1).reshape(10 * STEPS, -1)


def picture(model: Model, state: TrainState, order: np.ndarray) -> np.ndarray:
    """Both tables side by side, a blank column between them."""
    left, right = (drawn(model, state, walks(order, i)).reshape(10, STEPS, 28, 28, 1) for i in range(2))
    blank = np.full((10, 1, 28, 28, 1), 255, np.uint8)
    return np.concatenate([left, blank, right], axis=1).reshape(-1, 28, 28, 1)


def main(run: Path, /) -> None:
    """Draw, measure, print."""
    model, state = jaxgen.load(run)
    latents = jax.jit(CODES.draw)(jax.random.split(jax.random.key(1), SAMPLES))
    (one_hot,), u = CODES.split(latents)
    images, code = drawn(model, state, latents), np.asarray(one_hot).argmax(1)
    classifier = referee(data.load("mnist"), data.load("mnist", "test"))
    seen = extract(classifier, data.in_memory("samples", "drawn", images)).log_probs
    assert seen is not None
    classes = seen.argmax(1)
    of_code = matched(code, classes)
    right = classes == of_code[code]
    print(f"class follows the code: {right.mean():.3f} ± {right.std() / SAMPLES**0.5:.3f}")
    for c in np.argsort(of_code):
        print(f"code {c}: {of_code[c]} {right[code == c].mean():.3f}")
    values = measurements(images)[:, [NAMES.index(name) for name in MEASURED]]
    for i, row in enumerate(correlations(code, np.asarray(u, np.float64), values)):
        print(f"number {i}: " + ", ".join(f"{name} {value:+.2f}" for name, value in zip(MEASURED, row, strict=True)))
    print(viz.save_picture(Path(run) / "codes.png", picture(model, state, np.argsort(of_code)), 2 * STEPS + 1))


if __name__ == "__main__":
    script(main)
