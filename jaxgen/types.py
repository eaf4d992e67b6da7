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


class Conditioner(NamedTuple):
    """What a model is conditioned on.

    kind    "label", "attributes" or "image"
    given   (n, the user's value, for one or for n) -> condition [n, ...], or raises InputError
    of      (batch) -> condition [B, ...], what the data say
    empty   (condition) -> like it, the one that means "no condition"
    """

    kind: str
    given: Callable[[int, Any], Array]
    of: Callable[[Batch], Array]
    empty: Callable[[Array], Array]


class Model(NamedTuple):
    """A generative model as pure functions: what every factory in `jaxgen.families` returns.

    init       (key, batch) -> (params: {player: tree}, extra), extra: batch statistics and other carried state
    losses     {player: (params, extra, keys[B], batch) -> (loss[B], (metrics, extra))}
    prior      (params, extra, keys[B]) -> noise [B, ...]
    predict    (params, extra, condition) -> Predict
    sampler    the model's default Sampler
    condition  what it is conditioned on, a `Conditioner`; None: unconditional
    encode     (params, extra, x, condition) -> latent in the space of `prior`, or None
    log_weights  (params, extra, keys[B], batch, k) -> nats [B, k], log p(x, z) - log q(z | x) of k draws z ~ q an
               example: E exp = p(x), so that their mean is the ELBO and the log of the mean of their exponentials the
               importance-weighted bound; None: no such bound
    schedule   alpha(t), sigma(t) of a model that iterates, read by solvers chosen by name; None: one step
    check      (batch, as a data set gives it) -> None, or raises InputError for data that the model does not take
    check_weights  the same for data whose likelihood `log_weights` cannot say
    measure    what the mean of exp(log_weights) is, in words: "a probability of binary pixels", "a density of ..."
    classify   (params, extra, x) -> log q(y | x) [B, classes] of a model that names what it sees, or None
    """

    init: Callable[[Array, Batch], tuple[dict[Player, Tree], Tree]]
    losses: Mapping[Player, Callable[[Tree, Tree, Keys, Batch], tuple[Array, tuple[dict, Tree]]]]
    prior: Callable[[Tree, Tree, Keys], Array]
    predict: Callable[[Tree, Tree, Tree], Predict]
    sampler: Sampler
    condition: Conditioner | None = None
    encode: Callable[[Tree, Tree, Array, Tree], Array] | None = None
    log_weights: Callable[[Tree, Tree, Keys, Batch, int], Array] | None = None
    schedule: Any = None
    check: Callable[[Batch], None] = lambda batch: None
    check_weights: Callable[[Batch], None] = lambda batch: None
    measure: str = ""
    classify: Callable[[Tree, Tree, Array], Array] | None = None


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


def labels(classes: int) -> Conditioner:
    """One of `classes` labels: int32 [n]. The label `classes` means "no condition"."""
    check(classes >= 1, f"a conditional model needs at least one class, it has {classes}")

    def given(n: int, value: Any) -> Array:
        value = np.asarray(value)
        check(np.issubdtype(value.dtype, np.integer), f"a label must be a whole number, 0 to {classes - 1}")
        check(value.shape in ((), (n,)), f"give one label, or {n} (one an image), not an array of shape {value.shape}")
        wrong = value[(value < 0) | (value >= classes)]
        check(wrong.size == 0, f"label {wrong.ravel()[0] if wrong.size else None} is outside 0 to {classes - 1}")
        return jnp.broadcast_to(jnp.asarray(value, jnp.int32), (n,))

    return Conditioner("label", given, _from_data, lambda condition: jnp.full_like(condition, classes))


def attributes(count: int) -> Conditioner:
    """A vector of `count` attributes, 0 and 1 or any numbers: float32 [n, count]. Zeros mean "no condition"."""
    check(count >= 1, f"a model conditioned on attributes needs at least one, it has {count}")

    def given(n: int, value: Any) -> Array:
        value = np.asarray(value)
        check(np.issubdtype(value.dtype, np.number), f"attributes are {count} numbers, not {value.dtype}")
        check(
            value.shape in ((count,), (n, count)),
            f"give {count} attributes, or {n} rows of {count} (one an image), not an array of shape {value.shape}",
        )
        check(bool(np.all(np.isfinite(value))), "attributes must be finite numbers")
        return jnp.broadcast_to(jnp.asarray(value, jnp.float32), (n, count))

    return Conditioner("attributes", given, lambda batch: _from_data(batch).astype(jnp.float32), jnp.zeros_like)


def image(derive: Callable[[Array], Array], shape: Sequence[int]) -> Conditioner:
    """An image of `shape` in [-1, 1], `derive(x)` of each training image: float32 [n, *shape], such as its grey
    version (colourisation) or its upper half (in-painting). A mid-grey one means "no condition"."""

    def given(n: int, value: Any) -> Array:
        value = np.asarray(value)
        check(
            value.shape in (tuple(shape), (n, *shape)),
            f"give an image of shape {tuple(shape)} to condition on, or {n} of them, not an array of {value.shape}",
        )
        check(bool(np.all(np.abs(value) <= 1.0)), "an image to condition on has values from -1 to 1")
        return jnp.broadcast_to(jnp.asarray(value, jnp.float32), (n, *shape))

    return Conditioner("image", given, lambda batch: derive(batch.x), jnp.zeros_like)


def condition_of(conditioner: Conditioner | None, batch: Batch) -> Array | None:
    """What a batch of data says about the condition, or None for an unconditional model."""
    return None if conditioner is None else conditioner.of(batch)


def check_condition(conditioner: Conditioner | None, batch: Batch) -> None:
    """InputError where the data's own conditions are none that the model takes; those derived from the image are."""
    if conditioner is not None and conditioner.kind != "image":
        conditioner.given(len(batch.x), _from_data(batch))


def _from_data(batch: Batch) -> Array:
    check(batch.condition is not None, "this model is conditional: its data needs labels or attributes, it has none")
    return batch.condition
