"""The vocabulary of the package: what a model, a training state and a sampler are.

A generative model is a game plus a map from noise. An autoencoder, a VAE and a diffusion model are
one-player games, a GAN has two players. A VAE and a GAN turn noise into an image in one step, a diffusion
model iterates. Everything here is a pure function of arrays or a tree of arrays; nothing learns in place.

Conventions used throughout
  images       x: [B, H, W, C], float in [-1, 1] inside a step, uint8 in [0, 255] in a data set
  points       x: [B, D], float, in the data set's own units
  keys         [B] typed PRNG keys, one an example: noise belongs to the example, not to the device, so
               that eight devices draw what one device draws
  time         t in [0, 1]; 0 is data, 1 is noise
  losses       [B], one number an example; the caller reduces
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from jaxgen.errors import InputError as InputError
from jaxgen.errors import check as check

Array = jax.Array
Keys = jax.Array  # typed PRNG keys [B]
Tree = Any  # a pytree of arrays
Player = str

Predict = Callable[[Array, Array], Array]
"""`predict(x_t, t) -> x_0`. For a one-step model `x_t` is the latent and `t` is ignored."""

Sampler = Callable[[Keys, Predict, Array], Array]
"""`sampler(keys, predict, noise) -> x_0`, a pytree: its functions are static, its numbers are traced."""


class Batch(NamedTuple):
    """Examples `x: [B, ...]` and what they are conditioned on (labels `[B]`, attributes, images), or None."""

    x: Array
    condition: Tree = None


class Model(NamedTuple):
    """A generative model as pure functions: what every factory in `jaxgen.families` returns.

    init       (key, batch) -> (params: {player: tree}, extra), extra: batch statistics and other carried state
    losses     {player: (params, extra, keys[B], batch) -> (loss[B], (metrics, extra))}
    prior      (keys[B]) -> noise [B, ...]
    predict    (params, extra, condition) -> Predict
    sampler    the model's default Sampler
    condition  (n, user's condition) -> condition [n, ...], or raises InputError; None: unconditional
    encode     (params, extra, x, condition) -> latent in the space of `prior`, or None
    bound      (params, extra, keys[B], batch) -> nats [B], a bound on -log p(x), or None
    schedule   alpha(t), sigma(t) of a model that iterates, read by solvers chosen by name; None: one step
    """

    init: Callable[[Array, Batch], tuple[dict[Player, Tree], Tree]]
    losses: Mapping[Player, Callable[[Tree, Tree, Keys, Batch], tuple[Array, tuple[dict, Tree]]]]
    prior: Callable[[Keys], Array]
    predict: Callable[[Tree, Tree, Tree], Predict]
    sampler: Sampler
    condition: Callable[[int, Any], Array] | None = None
    encode: Callable[[Tree, Tree, Array, Tree], Array] | None = None
    bound: Callable[[Tree, Tree, Keys, Batch], Array] | None = None
    schedule: Any = None


class Average(NamedTuple):
    """An exponential moving average of everything that a model predicts with."""

    params: dict[Player, Tree]
    extra: Tree


class TrainState(NamedTuple):
    """Arrays only, so it donates, shards and checkpoints as it is. The data position follows from `step`."""

    step: Array
    key: Array
    params: dict[Player, Tree]
    opt: dict[Player, Tree]
    extra: Tree
    ema: Average | None


class Solver(NamedTuple):
    """One step of an iterative sampler. `init(noise) -> carry`, whose first element is x_t;
    `step(keys, predict, carry, t, u) -> carry` goes from time t to time u. Both are pytrees, `jax.tree_util.Partial`.
    """

    init: Callable[[Array], tuple]
    step: Callable[[Keys, Predict, tuple, Array, Array], tuple]


def normal(keys: Keys, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
    """z ~ N(0, I), [B, *shape]: row i is drawn from keys[i] alone."""
    return jax.vmap(lambda key: jax.random.normal(key, tuple(shape), dtype))(keys)


def _one_shot(keys: Keys, predict: Predict, noise: Array) -> Array:
    return predict(noise, jnp.ones(()))


one_shot: Sampler = Partial(_one_shot)
"""The sampler of a model that turns noise into an image in one step."""


def labels(classes: int) -> Callable[[int, Any], Array]:
    """`Model.condition` of a model conditioned on one of `classes` labels: an int or [n] ints -> int32 [n]."""

    def condition(n: int, value: Any) -> Array:
        value = np.asarray(value)
        check(np.issubdtype(value.dtype, np.integer), f"a label must be a whole number, 0 to {classes - 1}")
        check(value.shape in ((), (n,)), f"give one label, or {n} (one an image), not an array of shape {value.shape}")
        wrong = value[(value < 0) | (value >= classes)]
        check(wrong.size == 0, f"label {wrong.ravel()[0] if wrong.size else None} is outside 0 to {classes - 1}")
        return jnp.broadcast_to(jnp.asarray(value, jnp.int32), (n,))

    return condition
