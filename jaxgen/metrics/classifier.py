"""Classifiers with few labels on top of a trained encoder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxgen.conditions import condition_of
from jaxgen.data import Dataset, balanced, labels_of, order
from jaxgen.data.pipeline import normalize
from jaxgen.inputs import check_memory
from jaxgen.metrics.estimate import Estimate, mean_of
from jaxgen.metrics.pieces import in_pieces
from jaxgen.types import Array, Batch, Conditioner, Model, TrainState, Tree, check, weights

STANDARDISED = 2000  # unlabelled images whose codes give the mean and the standard deviation
SMALLEST = 0.1  # of the largest standard deviation of a code's dimensions: a lower one is not scaled up to 1
RATES = {"net": 1.0, "head": 10.0}  # of learning: the head begins at zero


class Row(NamedTuple):
    """Accuracies with so many labels, means over seeds: of a linear head on the codes of the frozen encoder; of encoder
    and head fine-tuned from there; of the same network from a fresh start."""

    labels: int
    frozen: Estimate
    tuned: Estimate
    scratch: Estimate


class _Net(NamedTuple):
    """A classifier: logits = (f(x) - mean) / std W + b, f of params and extra."""

    params: Tree
    extra: Tree
    mean: Array
    std: Array
    head: Tree


def pretrained_classifier(
    model: Model,
    state: TrainState,
    train: Dataset,
    test: Dataset,
    *,
    labels: Sequence[int] = (10, 50, 100, 1000),
    seeds: int = 3,
    steps: int = 300,
    lr: float = 1e-3,
    batch: int = 128,
    images: int | None = None,
    ema: bool = True,
) -> Iterator[Row]:
    """Accuracy on `test` of classifiers whose feature map is `model.encode`, with few labels of `train`: a row for each
    of `labels`, as they come (Kingma et al. 2014, arXiv:1406.5298, section 4, for the task).

    Every classifier is a linear softmax regression on codes, standardised by unlabelled images, trained by Adam with a
    cosine for `steps` minibatches of at most `batch`; the network at the rate `lr`, the head at ten times of it. The
    tuned one begins with the frozen one's head, which keeps its features in place (Kumar et al. 2022,
    arXiv:2202.10054). A seed draws the labelled examples (`data.balanced`), the fresh start and the minibatches; batch
    statistics stay as they are. images: of the test set, by default all.
    InputError for a model without an encoder or with one that is given the label, and for labels that do not exist.
    """
    check(
        model.condition is None or model.condition.derived,
        "this model's encoder is given the label: a classifier of its codes would read it off them",
    )
    encode = model.encode
    check(encode is not None, "this model has no encoder: it maps noise to images only")
    for name, value in (("labels", min(labels, default=0)), ("seeds", seeds), ("steps", steps), ("batch", batch)):
        check(value >= 1, f"{name} must be at least 1, it is {value}")
    check(steps < 2**31, f"steps are counted in 32 bits, {steps} are too many")
    check_memory(8 * seeds * sum(labels), f"the labels of {seeds:,} seeds", "give fewer seeds")
    n = test.size if images is None else images
    check(1 <= n <= test.size, f"{n} images: {test.name} has 1 to {test.size} in its {test.split} split")
    classes = int(max(labels_of(d).max() for d in (train, test))) + 1
    few = {(count, seed): balanced(train, count, seed) for count in labels for seed in range(seeds)}
    task = _Task(encode, model.condition, steps, batch)
    held_out = test.take(np.arange(n))
    unlabelled = train.take(order(train.size, 0, 0, min(STANDARDISED, train.size)))

    def row(count: int) -> Row:
        accuracies = []
        for seed in range(seeds):
            given, (for_init, for_steps) = train.take(few[count, seed]), jax.random.split(jax.random.key(seed))
            start = _standardised(task, *weights(state, ema), unlabelled, classes)
            fresh = _standardised(task, *_initial(model, for_init, given, batch), unlabelled, classes)
            frozen = _frozen(task, lr, start, given, for_steps)
            nets = (frozen, _fit(task, lr, frozen, given, for_steps), _fit(task, lr, fresh, given, for_steps))
            accuracies.append([_accuracy(task, net, held_out) for net in nets])
        return Row(count, *(mean_of(values, f"{seeds} seeds") for values in zip(*accuracies, strict=True)))

    return map(row, labels)


class _Task(NamedTuple):
    """What all classifiers of a comparison share; hashable."""

    encode: Any
    condition: Conditioner | None
    steps: int
    batch: int


def _initial(model: Model, key: Array, given: Batch, batch: int) -> tuple[Tree, Tree]:
    """A fresh start of the model on a first minibatch of the labelled images."""
    first = jax.tree.map(lambda a: jnp.asarray(a[:batch]), given)
    return model.game.init(key, normalize(first))


def _standardised(task: _Task, params: Tree, extra: Tree, unlabelled: Batch, classes: int) -> _Net:
    """An encoder under a head of zeros."""
    z = in_pieces(lambda b: _codes(task, params, extra, b.x), unlabelled.x, batch=task.batch)
    mean, std = z.mean(0), z.std(0)
    std = np.maximum(std, SMALLEST * std.max(initial=1e-6))
    head = {"w": jnp.zeros((z.shape[1], classes)), "b": jnp.zeros(classes)}
    return _Net(params, extra, jnp.asarray(mean), jnp.asarray(std), head)


def _frozen(task: _Task, lr: float, net: _Net, given: Batch, key: Array) -> _Net:
    """`net` with a head fitted to its codes."""
    z = in_pieces(lambda b: _codes(task, net.params, net.extra, b.x), given.x, batch=task.batch)
    task, alone = task._replace(encode=_identity, condition=None), net._replace(params={}, extra={})
    return net._replace(head=_fit(task, lr, alone, given._replace(x=z), key).head)


def _fit(task: _Task, lr: float, net: _Net, given: Batch, key: Array) -> _Net:
    params, head = _train(task, lr, net, *jax.tree.map(jnp.asarray, given), key)
    return net._replace(params=params, head=head)


@partial(jax.jit, static_argnums=0)
def _train(task: _Task, lr: Array, net: _Net, x: Array, y: Array, key: Array) -> tuple[Tree, Tree]:
    """(params, head) after the task's steps."""
    n = x.shape[0]
    adam = optax.scale_by_adam()
    rate = optax.cosine_decay_schedule(1.0, task.steps)

    def loss(trained: Tree, x: Array, y: Array) -> Array:
        logits = _logits(task, net._replace(params=trained["net"], head=trained["head"]), x)
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, y))

    def body(i: Array, carry: tuple) -> tuple:
        trained, opt = carry
        index = jax.random.permutation(jax.random.fold_in(key, i), n)[: task.batch]
        updates, opt = adam.update(jax.grad(loss)(trained, x[index], y[index]), opt)
        step = jax.tree.map(lambda times, u: optax.tree.scale(-lr * rate(i) * times, u), RATES, updates)
        return optax.apply_updates(trained, step), opt

    trained = {"net": net.params, "head": net.head}
    trained, _ = jax.lax.fori_loop(0, task.steps, body, (trained, adam.init(trained)))
    return trained["net"], trained["head"]


def _logits(task: _Task, net: _Net, x: Array) -> Array:
    z = _encoded(task, net.params, net.extra, normalize(Batch(x)).x)
    return (z - net.mean) / net.std @ net.head["w"] + net.head["b"]


def _encoded(task: _Task, params: Tree, extra: Tree, x: Array) -> Array:
    z = task.encode(params, extra, x, condition_of(task.condition, Batch(x)))
    return z.astype(jnp.float32).reshape(x.shape[0], -1)


def _identity(params: Tree, extra: Tree, x: Array, condition: Tree) -> Array:
    return x


_codes = jax.jit(_encoded, static_argnums=0)
_predicted = jax.jit(lambda task, net, x: jnp.argmax(_logits(task, net, x), axis=1), static_argnums=0)


def _accuracy(task: _Task, net: _Net, held_out: Batch) -> float:
    found = in_pieces(lambda b: _predicted(task, net, b.x), held_out.x, batch=task.batch)
    return float(np.mean(found == np.asarray(held_out.condition)))
