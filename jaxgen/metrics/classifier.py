"""What a trained encoder is worth to a classifier that has few labels."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxgen.data import Dataset, balanced, labels_of, order
from jaxgen.data.pipeline import normalize
from jaxgen.metrics.pieces import in_pieces
from jaxgen.sampling import weights
from jaxgen.types import Array, Batch, Conditioner, Model, TrainState, Tree, check, condition_of

SEEN = 2000  # unlabelled images by which codes are standardised
SMALLEST = 0.1  # of the largest standard deviation of a code's dimensions: one that says nothing is not blown up
RATES = {"net": 1.0, "head": 10.0}  # of learning: the head begins at nothing


class Accuracy(NamedTuple):
    """Share of the test images that are classified rightly: the mean over seeds and its standard error."""

    mean: float
    error: float


class Row(NamedTuple):
    """With so many labels: a linear head on the codes of the frozen encoder; encoder and head trained on from there;
    the same network, from a fresh start."""

    labels: int
    frozen: Accuracy
    tuned: Accuracy
    scratch: Accuracy


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
    statistics stay as they are. images: of the test set, all unless told otherwise.
    InputError for a model without an encoder or with one that is told the label, and for labels that there are not.
    """
    encode = model.encode
    check(encode is not None, "this model has no encoder: it maps noise to images only")
    told = model.condition is not None and model.condition.kind != "image"
    check(not told, "this model's encoder is told the label: a classifier by it would know the answer")
    for name, value in (("labels", min(labels, default=0)), ("seeds", seeds), ("steps", steps), ("batch", batch)):
        check(value >= 1, f"{name} must be at least 1, it is {value}")
    n = test.size if images is None else images
    check(1 <= n <= test.size, f"{n} images: {test.name} has 1 to {test.size} in its {test.split} split")
    classes = int(max(labels_of(d).max() for d in (train, test))) + 1
    few = {(count, seed): balanced(train, count, seed) for count in labels for seed in range(seeds)}
    task = _Task(encode, model.condition, steps, batch)
    held_out = test.take(np.arange(n))
    seen = train.take(order(train.size, 0, 0, min(SEEN, train.size)))

    def row(count: int) -> Row:
        shares = []
        for seed in range(seeds):
            given, (for_init, for_steps) = train.take(few[count, seed]), jax.random.split(jax.random.key(seed))
            start = _standardised(task, *weights(state, ema), seen, classes)
            fresh = _standardised(task, *model.init(for_init, normalize(_few(given))), seen, classes)
            frozen = _frozen(task, lr, start, given, for_steps)
            nets = (frozen, _fit(task, lr, frozen, given, for_steps), _fit(task, lr, fresh, given, for_steps))
            shares.append([_accuracy(task, net, held_out) for net in nets])
        return Row(count, *(_over_seeds(values) for values in zip(*shares, strict=True)))

    return map(row, labels)


class _Task(NamedTuple):
    """What all classifiers of a comparison share; hashable."""

    encode: Any
    condition: Conditioner | None
    steps: int
    batch: int


def _standardised(task: _Task, params: Tree, extra: Tree, seen: Batch, classes: int) -> _Net:
    """An encoder under a head of zeros."""
    z = in_pieces(lambda b: _features(task, params, extra, b.x), seen.x, batch=task.batch)
    mean, std = z.mean(0), z.std(0)
    std = np.maximum(std, SMALLEST * std.max(initial=1e-6))
    head = {"w": jnp.zeros((z.shape[1], classes)), "b": jnp.zeros(classes)}
    return _Net(params, extra, jnp.asarray(mean), jnp.asarray(std), head)


def _frozen(task: _Task, lr: float, net: _Net, given: Batch, key: Array) -> _Net:
    """`net` with a head that fits its codes as they are."""
    z = in_pieces(lambda b: _features(task, net.params, net.extra, b.x), given.x, batch=task.batch)
    task, alone = task._replace(encode=_as_given, condition=None), net._replace(params={}, extra={})
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


def _as_given(params: Tree, extra: Tree, x: Array, condition: Tree) -> Array:
    return x


_features = jax.jit(_encoded, static_argnums=0)
_predicted = jax.jit(lambda task, net, x: jnp.argmax(_logits(task, net, x), axis=1), static_argnums=0)


def _accuracy(task: _Task, net: _Net, held_out: Batch) -> float:
    found = in_pieces(lambda b: _predicted(task, net, b.x), held_out.x, batch=task.batch)
    return float(np.mean(found == np.asarray(held_out.condition)))


def _few(batch: Batch) -> Batch:
    """One example of a batch as a network's `init` takes it: labels are no condition of a model without one."""
    return jax.tree.map(lambda a: jnp.asarray(a[:1]), batch)


def _over_seeds(values: Sequence[Any]) -> Accuracy:
    error = np.std(values, ddof=1) / math.sqrt(len(values)) if len(values) > 1 else float("nan")
    return Accuracy(float(np.mean(values)), float(error))
