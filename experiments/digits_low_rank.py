"""Adapting a VAE of nine digits to the tenth by low-rank updates: LoRA on the 8x8 digits.

jaxgen train experiments/digits_low_rank.py --stage base --workdir runs/digits_but_nine
jaxgen train experiments/digits_low_rank.py --stage adapt --start base=runs/digits_but_nine --workdir runs/digits_nine
python experiments/digits_low_rank.py runs/digits_but_nine runs/digits_nine

The last command prints the objective (the negative ELBO, nats) of held-out nines and of the other held-out digits
before and after the adaptation, the share of parameters that was trained, and whether the base is bit for bit what it
was.
"""

import sys
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxgen import Experiment, data, families
from jaxgen.data import normalize, only_classes, other_split, without_classes
from jaxgen.nets import network
from jaxgen.nets.conv import ConvDecoder, ConvEncoder
from jaxgen.nets.network import parameter_count
from jaxgen.runs import Run, load_run
from jaxgen.types import turn, weights


def experiment(
    *,
    stage: Literal["base", "adapt"] = "adapt",
    digit: int = 9,
    steps: int = 4000,
    batch: int = 64,
    lr: float = 1e-3,
    rank: int = 2,
    latent: int = 8,
) -> Experiment:
    """The VAE of `digits_vae.py`, without a digit, or adapted to that digit alone.

    Args:
        stage: train the base without the digit, or low-rank updates of it with nothing but the digit
        digit: which
        steps: how long to train
        batch: examples a step
        lr: Adam's learning rate, lowered to nothing along a cosine
        rank: of the updates
        latent: dimensions of the latent
    """
    digits = data.load("digits")
    encoder = network(ConvEncoder(2 * latent, width=16, hidden=128))
    decoder = network(ConvDecoder(digits.shape, width=16, hidden=128))
    model = families.vae(encoder, decoder, latent)
    adam = {"vae": optax.adam(optax.cosine_decay_schedule(lr, steps))}
    if stage == "base":
        return Experiment(model, adam, without_classes(digits, [digit]), batch=batch, steps=steps)
    return Experiment(families.low_rank(model, rank), adam, only_classes(digits, [digit]), batch=batch, steps=steps)


def objective(run: Run, part: data.Dataset) -> float:
    """The mean of the loss over all of a data set, 50 draws of the latent an image."""
    batch = normalize(jax.tree.map(jnp.asarray, part.take(np.repeat(np.arange(part.size), 50))))
    loss = run.experiment.model.game.losses["vae"]
    mean = jax.jit(lambda params, extra, keys, batch: jnp.mean(loss(params, extra, turn(keys), batch)[0]))
    return float(mean(*weights(run.state), jax.random.split(jax.random.key(0), len(batch.x)), batch))


def main(base: str, adapted: str) -> None:
    """Print the objectives before and after."""
    before, after = load_run(base), load_run(adapted)
    digit = after.experiment.settings["digit"]
    test = other_split(data.load("digits"), "test")
    parts = {f"held-out {digit}": only_classes(test, [digit]), "the others": without_classes(test, [digit])}
    for name, part in parts.items():
        values = [objective(run, part) for run in (before, after)]
        print(f"{name:12}  {values[0]:.2f} -> {values[1]:.2f} nats, {part.size} images")
    trained, total = (parameter_count(after.state.params[group]) for group in ("vae", "base"))
    print(f"{trained:,} of {total:,} parameters trained, {trained / total:.1%}")
    now, then = (jax.tree.map(np.asarray, tree) for tree in (after.state.params["base"], weights(before.state)[0]))
    same = jax.tree.map(lambda a, b: a.tobytes() == b.tobytes(), now, then)
    print("the base is bit-equal to the run that it began with:", all(jax.tree.leaves(same)))


if __name__ == "__main__":
    main(*sys.argv[1:])
