"""The functions of a model as tests call them: losses by keys, images of latents."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxgen.types import Keys, Model, Turn, turn


def losses_of(model: Model, step: int = 0, axis: str | None = None) -> dict[str, Callable]:
    """{player: (params, extra, keys, batch) -> (loss, (metrics, extra))}, at a step; axis: that maps the batch."""

    def by_keys(loss: Callable) -> Callable:
        def of_keys(params, extra, keys, batch):
            return loss(params, extra, turn(keys, step) if axis is None else mapped(keys, step, axis), batch)

        return of_keys

    return {player: by_keys(loss) for player, loss in model.game.losses.items()}


def mapped(keys: Keys, step: int = 0, axis: str = "data") -> Turn:
    """The turn of a part of a minibatch, inside a function that is mapped over `axis`."""
    size = keys.shape[0]
    own = jax.lax.axis_index(axis) * size + jnp.arange(size)
    return Turn(keys, jnp.asarray(step), lambda tree: jax.lax.all_gather(tree, axis, tiled=True), own)


def drawn(model: Model, params, extra, condition) -> Callable:
    """(noise or x_t, t) -> the image that it stands for."""
    predict = model.predict(params, extra, condition)
    return lambda x, t: model.decode(params, extra, None, predict(x, t).x0, condition)
