"""Classifiers: games without a map from noise. One that sees noisy images guides a diffusion model."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxgen.conditions import labels
from jaxgen.families.common import output_shape, split_keys
from jaxgen.nets import Network
from jaxgen.processes import diffuse
from jaxgen.types import Array, Batch, Game, Process, Tree, Turn, check

PLAYER = "classifier"


class Classifier(NamedTuple):
    """game: how it is trained. log_prob: (params, extra, x_t [B, ...], t [B]) -> log p(y | x_t) [B, classes]."""

    game: Game
    log_prob: Callable[[Tree, Tree, Array, Array], Array]


def classifier(network: Network, classes: int, process: Process | None = None) -> Classifier:
    """-log p(y | x_t) an example, nats, x_t = alpha_t x_0 + sigma_t eps at t uniform on (0, 1] (Dhariwal and Nichol
    2021, arXiv:2105.05233, section 4); without a `process` of images as they are, t = 0. metrics: "accuracy".

    network: (x_t [B, ...], t [B]) -> logits [B, classes].
    """
    label = labels(classes)

    def init(key: Array, batch: Batch) -> tuple[dict, Tree]:
        t = jnp.ones(batch.x.shape[0])
        params, stats = network.init(key, batch.x, t)
        logits = output_shape(network, params, stats, batch.x, t)
        check(logits == (classes,), f"the classifier gives {logits}, it needs {classes} logits: change one")
        return {PLAYER: params}, {PLAYER: stats}

    def noisy(key: Array, x: Array) -> tuple[Array, Array]:
        if process is None:
            return x, jnp.zeros(())
        for_t, for_eps, _ = jax.random.split(key, 3)
        t = 1.0 - jax.random.uniform(for_t)
        return diffuse(process, x, jax.random.normal(for_eps, x.shape), t), t

    def loss(params: Tree, extra: Tree, turn: Turn, batch: Batch) -> tuple[Array, tuple[dict, Tree]]:
        x, t = jax.vmap(noisy)(turn.keys, batch.x)
        logits, stats = network.train(split_keys(turn.keys, 3)[2], params[PLAYER], extra[PLAYER], x, t)
        y = label.of(batch)
        metrics = {"accuracy": jnp.argmax(logits, axis=1) == y}
        nll = optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), y)
        return nll, (metrics, {**extra, PLAYER: stats})

    def log_prob(params: Tree, extra: Tree, x: Array, t: Array) -> Array:
        t = jnp.broadcast_to(t, x.shape[:1])
        return jax.nn.log_softmax(network.apply(params[PLAYER], extra[PLAYER], x, t)[0].astype(jnp.float32))

    return Classifier(Game(init, {PLAYER: loss}, label.check), log_prob)
