"""The one sampling call of every family."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple, TypedDict, Unpack

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.conditions import rows
from jaxgen.sampling.guidance import classifier_free
from jaxgen.types import Array, Guidance, Keys, Model, Predict, Prediction, Sampler, TrainState, Tree, check
from jaxgen.types import weights as weights


class Options(TypedDict, total=False):
    """How images are drawn: the keywords of `sample`, `stream`, `drawer`, `generate` and all walks.

    sampler   instead of the model's own
    guidance  a classifier-free scale, or a guidance of `jaxgen.sampling`
    given     what the guidance needs for each image: a tree of arrays [n, ...]
    batch     images a compiled call, 64 by default
    ema       predict with the averaged parameters where there are any, as by default
    sharding  of the batch axis, to spread a call over devices
    """

    sampler: Sampler | None
    guidance: float | Guidance | None
    given: Tree
    batch: int
    ema: bool
    sharding: Any


def sample(
    model: Model, state: TrainState, key: Array, n: int, condition: Any = None, **options: Unpack[Options]
) -> Array:
    """n images [n, H, W, C] in [-1, 1] (or points [n, D]): `decode(sampler(keys, predict, prior))`.

    Image i is a function of (key, i) and its condition alone: it does not depend on n, the batch or the devices.
    condition: what the model is conditioned on, one for all or [n]; None: without a condition.
    Raises InputError for a condition that the model does not take.
    """
    return jnp.concatenate(list(stream(model, state, key, n, condition, **options)))


def stream(
    model: Model, state: TrainState, key: Array, n: int, condition: Any = None, **options: Unpack[Options]
) -> Iterator[Array]:
    """The images of `sample` in pieces of at most `batch`, so that any number can be drawn in constant memory."""
    draw = drawer(model, state, key, n, condition, **options)
    size = _bucket(n, options)

    def piece(start: int) -> Array:
        return draw(jnp.arange(start, start + size))[: n - start]

    return map(piece, range(0, n, size))  # what is wrong with the arguments is raised now, not at the first image


def drawer(
    model: Model, state: TrainState, key: Array, n: int, condition: Any = None, **options: Unpack[Options]
) -> Callable[[Array], Array]:
    """`draw(index [m]) -> [m, ...]`: any of the n images of `sample`, by their place; one compilation for each m."""
    check(n >= 1, f"the number of images must be at least 1, it is {n}")
    condition, given = conditions(model, n, condition), _given(n, options)
    render, sharding = renderer(model, state, options), options.get("sharding")
    params, extra = weights(state, options.get("ema", True))

    def draw(index: Array) -> Array:
        inside = jnp.minimum(index, n - 1)
        own = _place((rows(condition, inside), rows(given, inside)), sharding)
        keys, noise = _draw(model.prior, params, extra, key, _place(index, sharding), own[0])
        return render(keys, noise, *own)

    return draw


def generate(
    model: Model,
    state: TrainState,
    keys: Keys,
    noise: Array,
    condition: Any = None,
    **options: Unpack[Options],
) -> Array:
    """Images of given noise [n, ...]: `decode(sampler(keys, predict, noise))`; keys [n] serve a sampler that adds
    noise."""
    n = noise.shape[0]
    needed = latent_shape(model, state)
    check(noise.shape[1:] == needed, f"a latent of this model has shape {needed}, these have {noise.shape[1:]}")
    inputs = (keys, noise, conditions(model, n, condition), _given(n, options))
    render, size, pieces = renderer(model, state, options), _bucket(n, options), []
    for start in range(0, n, size):
        # the last row again where a piece is not full, so that every piece has one shape
        index = jnp.minimum(jnp.arange(start, start + size), n - 1)
        pieces.append(render(*_place(rows(inputs, index), options.get("sharding"))))
    return jnp.concatenate(pieces)[:n]


def evaluations(model: Model, state: TrainState, **options: Unpack[Options]) -> int:
    """Network evaluations of one image: counted by drawing one with a predictor that counts, and predicts zeros."""
    calls: list[None] = []
    keys, condition = jax.random.split(jax.random.key(0), 1), _blank(model, 1)

    def predict(x: Array, t: Array) -> Prediction:
        jax.debug.callback(lambda: calls.append(None))
        found = jax.eval_shape(model.predict(*weights(state), condition), x, t)
        return jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), found)

    noise, guidance = model.prior(*weights(state), keys, condition), _guidance(model, options)
    guided = predict if guidance is None else guidance(lambda c: predict, condition, _first(options.get("given")))
    sampler = options.get("sampler") or model.sampler
    jax.block_until_ready(sampler(keys, guided, noise))
    jax.effects_barrier()
    return len(calls)


def latent_shape(model: Model, state: TrainState) -> tuple[int, ...]:
    """The shape of one latent: of what the prior draws."""
    return _shapes(model, state, lambda params, extra, keys, c: model.prior(params, extra, keys, c))


def image_shape(model: Model, state: TrainState) -> tuple[int, ...]:
    """The shape of one image that the model makes."""

    def image(params: Tree, extra: Tree, keys: Keys, condition: Tree) -> Array:
        x0 = model.prior(params, extra, keys, condition)
        if model.process is None:
            x0 = model.sampler(keys, model.predict(params, extra, condition), x0)
        return model.decode(params, extra, keys, x0, condition)

    return _shapes(model, state, image)


def _shapes(model: Model, state: TrainState, function: Callable) -> tuple[int, ...]:
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1))
    return jax.eval_shape(function, *weights(state), keys, _blank(model, 1)).shape[1:]


def conditions(model: Model, n: int, condition: Any) -> Tree:
    """The user's condition, checked and given once for each of n images; the one that means "no condition" where it is
    None. InputError where the model is unconditional, or always needs a condition."""
    if model.condition is None:
        check(condition is None, "this model is unconditional: it was trained without one; leave the condition out")
        return None
    if condition is None:
        check(
            model.condition.empty is not None,
            "this model always needs a condition, it was trained with one for every image: give condition=...",
        )
        return model.condition.empty(n)  # type: ignore[misc]
    return model.condition.given(n, condition)


class _Functions(NamedTuple):
    """What a compiled sampler is of: static, compared by identity."""

    predict: Any
    decode: Any
    empty: Any


def renderer(model: Model, state: TrainState, options: Options) -> Callable[[Keys, Array, Tree, Tree], Array]:
    """`(keys, noise, condition, given) -> images`, compiled once for a model and a kind of sampler."""
    sampler, guidance = options.get("sampler") or model.sampler, _guidance(model, options)
    functions = _Functions(model.predict, model.decode, None if model.condition is None else model.condition.empty)
    return partial(_render, functions, sampler, guidance, *weights(state, options.get("ema", True)))


def _guidance(model: Model, options: Options) -> Guidance | None:
    guidance = options.get("guidance")
    if guidance is None or callable(guidance):
        return guidance
    check(model.process is not None, "guidance steers a model that iterates, this one draws in one step: leave it out")
    return classifier_free(guidance)


@partial(jax.jit, static_argnums=0)
def _draw(prior: Any, params: Tree, extra: Tree, key: Array, index: Array, condition: Tree) -> tuple[Keys, Array]:
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, index)
    own, walk = jnp.swapaxes(jax.vmap(partial(jax.random.split, num=2))(keys), 0, 1)
    return walk, prior(params, extra, own, condition)


@partial(jax.jit, static_argnums=0)
def _render(functions: _Functions, sampler, guidance, params, extra, keys, noise, condition, given) -> Array:
    def predict_of(c: Tree) -> Predict:
        if c is None and condition is not None:
            check(
                functions.empty is not None,
                "this model has no prediction without its condition, which guidance needs: train it with drop > 0",
            )
            c = functions.empty(noise.shape[0])
        return functions.predict(params, extra, c)

    predict = predict_of(condition) if guidance is None else guidance(predict_of, condition, given)
    return functions.decode(params, extra, keys, sampler(keys, predict, noise), condition)


def _given(n: int, options: Options) -> Tree:
    """What the guidance needs, a row an image: one for all is repeated."""
    given = options.get("given")
    given = jax.tree.map(jnp.asarray, np.asarray(given) if isinstance(given, list) else given)  # a list is an array
    for leaf in jax.tree.leaves(given):
        check(
            leaf.ndim == 0 or leaf.shape[0] in (1, n),
            f"given is what the guidance needs for each of {n} images, not for {leaf.shape[0] if leaf.ndim else 1}",
        )
    return jax.tree.map(lambda a: jnp.broadcast_to(a, (n, *a.shape[1:])), given)


def _first(given: Tree) -> Tree:
    return _given(1, {"given": jax.tree.map(lambda a: jnp.atleast_1d(a)[:1], given)})


def _blank(model: Model, n: int) -> Tree:
    return None if model.condition is None else model.condition.blank(n)


def _bucket(n: int, options: Options) -> int:
    """A power of two that holds n, `batch` at most: so few sizes are ever compiled."""
    batch, sharding = options.get("batch", 64), options.get("sharding")
    devices = 1 if sharding is None else sharding.num_devices
    check(batch >= 1, f"the sampling batch must be at least 1, it is {batch}")
    size = min(batch, 1 << (n - 1).bit_length())
    return -(-size // devices) * devices


def _place(tree: Tree, sharding: Any) -> Tree:
    return tree if sharding is None else jax.tree.map(lambda a: jax.device_put(a, sharding), tree)
