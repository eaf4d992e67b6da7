"""The one sampling call of every family."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxgen.sampling.guidance import classifier_free
from jaxgen.types import Array, Keys, Model, Predict, Sampler, TrainState, Tree, check


def sample(model: Model, state: TrainState, key: Array, n: int, condition: Any = None, **options) -> Array:
    """n images [n, H, W, C] in [-1, 1] (or points [n, D]): `sampler(keys, predict, prior)`.

    Image i is a function of (key, i) and its condition alone: it does not depend on n, the batch or the devices.
    condition: what the model is conditioned on, one for all or [n]; None for an unconditional sample.
    options: those of `stream`. Raises InputError for a condition that the model does not take.
    """
    return jnp.concatenate(list(stream(model, state, key, n, condition, **options)))


def stream(
    model: Model,
    state: TrainState,
    key: Array,
    n: int,
    condition: Any = None,
    *,
    sampler: Sampler | None = None,
    guidance: float | Any = None,
    batch: int = 64,
    ema: bool = True,
    sharding: Any = None,
) -> Iterator[Array]:
    """The images of `sample` in pieces of at most `batch`, so that any number can be drawn in constant memory.

    sampler: instead of the model's own; guidance: a classifier-free scale or a guidance of `jaxgen.sampling`;
    batch: images a compiled call; ema: use the averaged parameters where there are any;
    sharding: of the batch axis, to spread a call over devices.
    """
    draw = drawer(model, state, key, n, condition, sampler=sampler, guidance=guidance, ema=ema, sharding=sharding)
    size = _bucket(n, batch, sharding)

    def piece(start: int) -> Array:
        return draw(jnp.arange(start, start + size))[: n - start]

    return map(piece, range(0, n, size))  # what is wrong with the arguments is said now, not at the first image


def drawer(
    model: Model,
    state: TrainState,
    key: Array,
    n: int,
    condition: Any = None,
    *,
    sampler: Sampler | None = None,
    guidance: float | Any = None,
    ema: bool = True,
    sharding: Any = None,
) -> Callable[[Array], Array]:
    """`draw(index [m]) -> [m, ...]`: any of the n images of `sample`, by their place; m says what is compiled."""
    check(n >= 1, f"the number of images must be at least 1, it is {n}")
    condition = conditions(model, n, condition)
    render = renderer(model, state, sampler=sampler, guidance=guidance, ema=ema, guided=condition is not None)
    params, extra = weights(state, ema)

    def draw(index: Array) -> Array:
        keys, noise = _draw(model.prior, params, extra, key, _place(index, sharding))
        given = None if condition is None else _place(condition[jnp.minimum(index, n - 1)], sharding)
        return render(keys, noise, given)

    return draw


def evaluations(model: Model, state: TrainState, *, sampler: Sampler | None = None, guidance: Any = None) -> int:
    """How often the network is asked for one image: counted by drawing one with a predictor that counts."""
    asked: list[None] = []

    def predict(x: Array, t: Array) -> Array:
        jax.debug.callback(lambda: asked.append(None))
        return x

    keys = jax.random.split(jax.random.key(0), 1)
    noise = model.prior(*weights(state), keys)
    guided = predict if guidance is None else _guidance(guidance)(predict, predict)
    jax.block_until_ready((model.sampler if sampler is None else sampler)(keys, guided, noise))
    jax.effects_barrier()
    return len(asked)


def generate(
    model: Model,
    state: TrainState,
    keys: Keys,
    noise: Array,
    condition: Any = None,
    *,
    sampler: Sampler | None = None,
    guidance: float | Any = None,
    batch: int = 64,
    ema: bool = True,
    sharding: Any = None,
) -> Array:
    """Images of given noise [n, ...]: `sampler(keys, predict, noise)`; keys [n] serve a sampler that adds noise."""
    n = noise.shape[0]
    _check_latent(model, state, noise)
    condition = conditions(model, n, condition)
    render = renderer(model, state, sampler=sampler, guidance=guidance, ema=ema, guided=condition is not None)
    size = _bucket(n, batch, sharding)
    inputs = (keys, noise) if condition is None else (keys, noise, condition)
    pieces = []
    for start in range(0, n, size):
        piece = [_place(_rows(a, start, size), sharding) for a in inputs]
        pieces.append(render(*piece[:2], piece[2] if len(piece) > 2 else None))
    return jnp.concatenate(pieces)[:n]


def _check_latent(model: Model, state: TrainState, noise: Array) -> None:
    """Noise of another shape than the prior's is refused, before anything is compiled."""
    needed = latent_shape(model, state)
    check(noise.shape[1:] == needed, f"a latent of this model has shape {needed}, these have {noise.shape[1:]}")


def latent_shape(model: Model, state: TrainState) -> tuple[int, ...]:
    """The shape of one latent."""
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1))
    return jax.eval_shape(model.prior, state.params, state.extra, keys).shape[1:]


def weights(state: TrainState, ema: bool = True) -> tuple[Tree, Tree]:
    """(params, extra) to predict with: the averaged ones unless told otherwise or there are none."""
    return (state.ema.params, state.ema.extra) if ema and state.ema is not None else (state.params, state.extra)


def conditions(model: Model, n: int, condition: Any) -> Array | None:
    """The user's condition, checked and given once for each of n images."""
    if condition is None:
        return None
    check(
        model.condition is not None,
        "this model is unconditional: it was trained without conditions; leave the condition out",
    )
    return model.condition.given(n, condition)  # type: ignore[union-attr]


def renderer(model: Model, state: TrainState, *, sampler: Any, guidance: Any, ema: bool, guided: bool):
    """`(keys, noise, condition) -> images`, compiled once for a model and a kind of sampler."""
    check(guidance is None or guided, "guidance needs a condition: give one, or leave the guidance out")
    check(
        guidance is None or model.schedule is not None,
        "guidance steers a model that iterates, this one draws in one step",
    )
    guidance = None if guidance is None else _guidance(guidance)
    params, extra = weights(state, ema)
    return partial(_render, model.predict, model.sampler if sampler is None else sampler, guidance, params, extra)


def _guidance(guidance: float | Any) -> Any:
    return guidance if callable(guidance) else classifier_free(guidance)


@partial(jax.jit, static_argnums=0)
def _draw(prior: Any, params: Tree, extra: Tree, key: Array, index: Array) -> tuple[Keys, Array]:
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, index)
    own, walk = jnp.swapaxes(jax.vmap(partial(jax.random.split, num=2))(keys), 0, 1)
    return walk, prior(params, extra, own)


@partial(jax.jit, static_argnums=0)
def _render(model_predict, sampler, guidance, params, extra, keys, noise, condition) -> Array:
    predict: Predict = model_predict(params, extra, condition)
    if guidance is not None:
        predict = guidance(predict, model_predict(params, extra, None))
    return sampler(keys, predict, noise)


def _bucket(n: int, batch: int, sharding: Any) -> int:
    """A power of two that holds n, `batch` at most: so few sizes are ever compiled."""
    devices = 1 if sharding is None else sharding.num_devices
    check(batch >= 1, f"the sampling batch must be at least 1, it is {batch}")
    size = min(batch, 1 << (n - 1).bit_length())
    return -(-size // devices) * devices


def _rows(a: Array, start: int, size: int) -> Array:
    """Rows start to start + size, the last one repeated past the end, so that every piece has one shape."""
    return a[jnp.minimum(jnp.arange(start, start + size), a.shape[0] - 1)]


def _place(a: Array, sharding: Any) -> Array:
    return a if sharding is None else jax.device_put(a, sharding)
