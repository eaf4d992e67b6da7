"""Adapting a model of nine digits to the tenth by low-rank updates: LoRA on the 8x8 digits, of a VAE or of diffusion.

jaxgen train experiments/digits_low_rank.py --stage base --workdir runs/digits_but_nine
jaxgen train experiments/digits_low_rank.py --stage adapt --start base=runs/digits_but_nine --workdir runs/digits_nine
python experiments/digits_low_rank.py runs/digits_but_nine runs/digits_nine

The last command prints the objective (the VAE's negative ELBO in nats, the denoiser's error) of held-out nines and of
the other held-out digits before and after the adaptation, the share of samples that a classifier reads as nines, the
share of parameters that was trained, and whether the base is bit for bit what it was.
"""

from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxgen import Experiment, data, families, sample
from jaxgen.cli import script
from jaxgen.data import in_memory, normalize, only_classes, other_split, without_classes
from jaxgen.data.pipeline import to_uint8
from jaxgen.metrics.evaluation import extractor_for
from jaxgen.metrics.features import extract
from jaxgen.nets import network
from jaxgen.nets.conv import ConvDecoder, ConvEncoder
from jaxgen.nets.network import parameter_count
from jaxgen.nets.unet import UNet
from jaxgen.processes import cosine
from jaxgen.runs import Run, load_run
from jaxgen.sampling import ddim, iterate, uniform
from jaxgen.types import Model, turn, weights


def vae(latent: int = 8) -> Model:
    """That of `digits_vae.py`."""
    encoder = network(ConvEncoder(2 * latent, width=16, hidden=128))
    decoder = network(ConvDecoder((8, 8, 1), width=16, hidden=128))
    return families.vae(encoder, decoder, latent)


def diffusion() -> Model:
    """Twice as wide as that of `digits_diffusion.py`, without labels: updates of rank 1 are 1 % of its parameters."""
    process, net = cosine(), UNet(64, multipliers=(1, 2), blocks=1, attention_at=(4,), heads=4)
    sampler = iterate(ddim(process), uniform(50), process.clip)
    return families.diffusion(network(net), process, (8, 8, 1), sampler=sampler, prediction="v")


def experiment(
    *,
    stage: Literal["base", "adapt"] = "adapt",
    family: Literal["vae", "diffusion"] = "vae",
    digit: int = 9,
    steps: int = 4000,
    batch: int = 64,
    lr: float = 1e-3,
    rank: int = 2,
) -> Experiment:
    """A model of the digits without one of them, or adapted to that digit alone.

    Args:
        stage: train the base without the digit, or low-rank updates of it with nothing but the digit
        family: of the model
        digit: which
        steps: how long to train
        batch: examples a step
        lr: Adam's learning rate, lowered to nothing along a cosine
        rank: of the updates
    """
    digits, model = data.load("digits"), {"vae": vae, "diffusion": diffusion}[family]()
    adam = dict.fromkeys(model.game.losses, optax.adam(optax.cosine_decay_schedule(lr, steps)))
    if stage == "base":
        return Experiment(model, adam, without_classes(digits, [digit]), batch=batch, steps=steps)
    return Experiment(families.low_rank(model, rank), adam, only_classes(digits, [digit]), batch=batch, steps=steps)


def objective(run: Run, part: data.Dataset) -> float:
    """The mean of the loss over all of a data set, 50 draws of its latent or of its noise an image."""
    batch = normalize(jax.tree.map(jnp.asarray, part.take(np.repeat(np.arange(part.size), 50))))
    (loss,) = run.experiment.model.game.losses.values()
    mean = jax.jit(lambda params, extra, keys, batch: jnp.mean(loss(params, extra, turn(keys), batch)[0]))
    return float(mean(*weights(run.state), jax.random.split(jax.random.key(0), len(batch.x)), batch))


def share(run: Run, digit: int, n: int = 500) -> float:
    """Of n samples those that a classifier of digits reads as this one."""
    images = np.asarray(to_uint8(sample(run.experiment.model, run.state, jax.random.key(0), n)))
    read = extract(extractor_for("classifier", data.load("digits")), in_memory("drawn", "all", images)).log_probs
    assert read is not None
    return float(np.mean(np.argmax(read, axis=-1) == digit))


def main(base: Path, adapted: Path, /) -> None:
    """Print the objectives before and after."""
    before, after = load_run(base), load_run(adapted)
    digit = after.experiment.settings["digit"]
    test = other_split(data.load("digits"), "test")
    parts = {f"held-out {digit}": only_classes(test, [digit]), "the others": without_classes(test, [digit])}
    for name, part in parts.items():
        values = [objective(run, part) for run in (before, after)]
        print(f"{name:12}  {values[0]:.4g} -> {values[1]:.4g}, {part.size} images")
    print(f"samples read as {digit}: {share(before, digit):.3f} -> {share(after, digit):.3f}")
    (player,) = after.experiment.model.game.losses
    trained, total = (parameter_count(after.state.params[group]) for group in (player, "base"))
    print(f"{trained:,} of {total:,} parameters trained, {trained / total:.1%}")
    now, then = (jax.tree.map(np.asarray, tree) for tree in (after.state.params["base"], weights(before.state)[0]))
    same = jax.tree.map(lambda a, b: a.tobytes() == b.tobytes(), now, then)
    print("the base is bit-equal to the run that it began with:", all(jax.tree.leaves(same)))


if __name__ == "__main__":
    script(main)
