"""M2, the semi-supervised VAE: digits of which only a few have labels.

jaxgen train experiments/digits_m2.py
jaxgen sample runs/digits_m2
python experiments/digits_m2.py runs/digits_m2

The last command prints the share of held-out digits that q(y|x) names rightly, and beside it that of the same
classifier trained on the labelled digits alone. `--dataset mnist` takes MNIST instead.
"""

from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxgen import Experiment, data, families
from jaxgen.cli import script
from jaxgen.data.pipeline import normalize
from jaxgen.families.m2 import log_q as log_q_of
from jaxgen.nets import Network, network
from jaxgen.nets.mlp import MLP
from jaxgen.runs import load_run
from jaxgen.sampling import weights
from jaxgen.types import Batch

CLASSES = 10
ALONE = 2000  # steps of the classifier that sees the labelled digits alone; its accuracy has settled long before


def experiment(
    *,
    dataset: Literal["digits", "mnist"] = "digits",
    labels: int = 100,
    draw: int = 0,
    share: float = 0.25,
    alpha: float = 0.1,
    steps: int = 5_000,
    batch: int = 100,
    lr: float = 1e-3,
    latent: int = 8,
    hidden: int = 128,
) -> Experiment:
    """Multilayer perceptrons of two layers and a classifier of one.

    Args:
        dataset: what to learn
        labels: how many examples have one, as many of every class
        draw: which ones, drawn by chance
        share: of a minibatch that has labels; they come again so often
        alpha: weight of the classification, that of the paper's 0.1 N against N examples
        steps: how long to train
        batch: examples a step
        lr: Adam's learning rate, lowered to nothing along a cosine
        latent: dimensions of the latent, which is left with the style
        hidden: width of every hidden layer
    """
    some, kept = few(dataset, labels, draw)
    again = max(1, round(share / (1 - share) * some.size / labels))  # as often as makes them a share of the minibatch
    mixed = data.subset(some, np.concatenate([np.arange(some.size), np.tile(kept, again)]))
    known = labels * (again + 1) / mixed.size
    encoder = network(MLP((2 * latent,), (hidden, hidden), classes=CLASSES))
    decoder = network(MLP(some.shape, (hidden, hidden), classes=CLASSES))
    model = families.m2(encoder, decoder, classifier(hidden), latent, CLASSES, alpha=alpha / known)
    adam = optax.adam(optax.cosine_decay_schedule(lr, steps))
    return Experiment(model, {"m2": adam}, mixed, batch=batch, steps=steps, log_every=500, sample_every=5_000)


def few(dataset: str, labels: int, draw: int) -> tuple[data.Dataset, np.ndarray]:
    """The data with so many labels, and which examples have one."""
    full = data.load(dataset)
    return data.labelled(full, labels, draw), data.balanced(full, labels, draw)


def classifier(hidden: int) -> Network:
    """x -> logits [B, 10]."""
    return network(MLP((CLASSES,), (hidden,)))


def alone(net: Network, known: Batch, seed: int) -> Any:
    """Parameters of the classifier after cross-entropy on the labelled examples alone, all of them at every step."""
    params, stats = net.init(jax.random.key(seed), known.x)
    adam = optax.adam(1e-3)

    def step(i: Any, carry: tuple) -> tuple:
        params, state = carry

        def loss(params: Any) -> Any:
            logits = net.apply(params, stats, known.x, train=True)[0]
            return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, known.condition))

        updates, state = adam.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    return jax.jit(lambda start: jax.lax.fori_loop(0, ALONE, step, start))((params, adam.init(params)))[0], stats


def main(first: Path, others: tuple[Path, ...] = (), /) -> None:
    """Print the table of the file's docstring, a line a run."""
    print("run  labels  q(y|x)  the classifier alone")
    for run in (first, *others):
        trained = load_run(run)
        settings = trained.experiment.settings
        some, kept = few(settings["dataset"], settings["labels"], settings["draw"])
        held_out = data.other_split(some, "test")
        parts = some.take(kept), held_out.take(np.arange(held_out.size))
        known, test = (normalize(jax.tree.map(jnp.asarray, part)) for part in parts)
        net = classifier(settings["hidden"])
        log_q = log_q_of(net, *weights(trained.state), test.x)
        by_itself = net.apply(*alone(net, known, trained.experiment.seed), test.x)[0]
        ours, theirs = (float(jnp.mean(jnp.argmax(a, axis=1) == test.condition)) for a in (log_q, by_itself))
        print(f"{run}  {settings['labels']}  {ours:.4f}  {theirs:.4f}")


if __name__ == "__main__":
    script(main)
