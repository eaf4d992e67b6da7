"""The referee: a small classifier trained on the data set itself, as a feature extractor where Inception fits badly."""

from __future__ import annotations

import hashlib
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jax.tree_util import Partial
from tqdm import tqdm

from jaxgen import parallel, training
from jaxgen.data import Dataset, labels_of, normalize, reader
from jaxgen.data.cache import cached
from jaxgen.metrics.features import Extractor, check_images, digest_of, extract
from jaxgen.nets import network
from jaxgen.nets.conv import ConvEncoder
from jaxgen.types import Array, Batch, Game, Tree, Turn, check

FEATURES, WIDTH, HIDDEN = 64, 16, 128
STEPS, BATCH, RATE, DECAY, CALL = 2000, 128, 2e-3, 1e-2, 50
RECIPE = f"3 {FEATURES} {WIDTH} {HIDDEN} {STEPS} {BATCH} {RATE} {DECAY}"  # what a referee depends on besides its data

NET = network(ConvEncoder(FEATURES, width=WIDTH, hidden=HIDDEN))


def referee(train: Dataset, test: Dataset, *, seed: int = 0) -> Extractor:
    """A classifier of `train`'s labels as an extractor, "classifier:NAME": its features are the last hidden layer [64],
    after the ReLU, log_probs its log p(y | x). Its accuracy on `test` is part of the protocol.

    Four-by-four convolutions of stride 2, trained by AdamW with a cosine on 2,000 minibatches of 128 images, each moved
    by at most a fourteenth of its sides. Features are scaled to a mean variance of 1, the unit of distances. A pure
    function of the data and the seed; trained once, then read from the cache. InputError for examples that are no
    images, and for a data set without labels.
    """
    check_images(train)
    labels = labels_of(train)
    check(labels.min() >= 0, f"{train.name} has examples without a label: a referee learns from a label an image")
    classes = int(max(labels.max(), labels_of(test).max())) + 1
    check(classes >= 2, f"all images of {train.name} have one label: a referee needs at least two classes")
    shapes, unravel = ravel_pytree((_parameters(jax.random.key(seed), train.shape, classes), jnp.ones(())))
    stamp = f"{RECIPE} {seed} {classes} {digest_of(train)} {digest_of(test)} {labels.tobytes().hex()}"

    def build() -> tuple[np.ndarray, np.ndarray]:
        found = _scaled(_trained(train, classes, seed), train)
        return np.asarray(ravel_pytree(found)[0]), np.array([_accuracy(_extractor(train, found, ""), test)])

    flat, accuracy = cached(f"referee-{train.name}", stamp, shapes.shape, build, np.float32)
    digest = hashlib.blake2b(flat.tobytes(), digest_size=8).hexdigest()
    protocol = {
        "classifier": f"trained on {train.size:,} images of {train.name} {train.split}, {classes} classes, seed {seed}",
        "accuracy": f"{float(np.sum(accuracy)):.4f} on {test.size:,} images of {test.name} {test.split}",  # type: ignore[arg-type]
        "features": f"its last hidden layer [{FEATURES}] after the ReLU, of mean variance 1 over the training images",
    }
    return _extractor(train, unravel(jnp.asarray(flat)), digest)._replace(protocol=protocol)


def _extractor(train: Dataset, found: tuple[Tree, Array], digest: str) -> Extractor:
    return Extractor(f"classifier:{train.name}", digest, Partial(_apply, *found), {}, train.classes, train.shape)


def _apply(params: Tree, scale: Array, x: Array) -> tuple[Array, Array]:
    h, logits = _classified(params, normalize(Batch(x)).x)
    return scale * h, jax.nn.log_softmax(logits)


def _scaled(params: Tree, train: Dataset) -> tuple[Tree, Array]:
    """(params, scale): the scale of a network's features depends on the course of its training, a distance must not."""
    h = extract(_extractor(train, (params, jnp.ones(())), ""), train, batch=256).vectors
    return params, jnp.asarray(1.0 / np.sqrt(np.mean(np.var(h, axis=0))), jnp.float32)


def _classified(params: Tree, x: Array) -> tuple[Array, Array]:
    h = jax.nn.relu(NET.apply(params["net"], {}, x)[0])
    return h, h @ params["w"] + params["b"]


def _parameters(key: Array, shape: tuple[int, ...], classes: int) -> Tree:
    net, _ = NET.init(key, jnp.zeros((1, *shape)))
    return {"net": net, "w": jnp.zeros((FEATURES, classes)), "b": jnp.zeros(classes)}


def _game(classes: int) -> Game:
    """Classification as a game of one player, trained by the same step as every model."""

    def init(key: Array, batch: Batch) -> tuple[dict, Tree]:
        return {"referee": _parameters(key, batch.x.shape[1:], classes)}, {}

    def loss(params: Tree, extra: Tree, turn: Turn, batch: Batch) -> tuple[Array, tuple[dict, Tree]]:
        x = jax.vmap(_moved)(turn.keys, batch.x)
        _, logits = _classified(params["referee"], x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch.condition), ({}, extra)

    return Game(init, {"referee": loss})


def _moved(key: Array, x: Array) -> Array:
    """x [H, W, C] shifted by a few pixels, its border repeated."""
    reach = max(1, max(x.shape[:2]) // 14)
    wide = jnp.pad(x, ((reach, reach), (reach, reach), (0, 0)), mode="edge")
    row, column = jax.random.randint(key, (2,), 0, 2 * reach + 1)
    return jax.lax.dynamic_slice(wide, (row, column, 0), x.shape)


def _trained(train: Dataset, classes: int, seed: int) -> Tree:
    """The parameters after `STEPS` steps on one device."""
    game, place = _game(classes), parallel.layout("one")
    optimizers = {"referee": optax.adamw(optax.cosine_decay_schedule(RATE, STEPS), weight_decay=DECAY)}
    one = jax.tree.map(jnp.asarray, train.take(np.zeros(1, np.int64)))
    begin = partial(training.init_state, game, optimizers, jax.random.key(seed), one)
    shapes = parallel.template(place, begin)
    run = parallel.compile_step(place, partial(training.make_step, game, optimizers), shapes)
    state = parallel.create(shapes, begin)
    with reader(train, seed=seed, shape=(1, 1, BATCH)) as batches:
        # a bar only on a terminal, and only where the wait is noticeable
        for _ in tqdm(
            range(STEPS // CALL), f"training a classifier of {train.name}", delay=2, disable=None, leave=False
        ):
            state, report = run(state, parallel.place_batch(place, batches.take(CALL)), np.int32(CALL))
            jax.block_until_ready(report)  # calls do not pile up
    return state.params["referee"]


def _accuracy(extractor: Extractor, test: Dataset) -> float:
    log_probs: Any = extract(extractor, test, batch=256).log_probs
    return float(np.mean(np.argmax(log_probs, axis=1) == labels_of(test)))
