"""Standing statistics: batch statistics of a generator for the latents that it is going to be given."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.conditions import rows
from jaxgen.nets import Network
from jaxgen.sampling.guidance import cut_off
from jaxgen.types import Array, Model, TrainState, Tree, check, weights


def standing(
    model: Model,
    generator: Network,
    state: TrainState,
    key: Array,
    *,
    threshold: float = float("inf"),
    passes: int = 100,
    batch: int = 64,
    ema: bool = True,
    player: str = "generator",
) -> TrainState:
    """The state with standing statistics: the generator's batch statistics as means over `passes` minibatches of
    latents cut off at `threshold`, with labels drawn evenly, for samples of `sampling.truncated(threshold)`; those of
    training are of other latents, and of parameters that have moved since (Brock, Donahue and Simonyan 2018,
    arXiv:1809.11096, section 3.1 and appendix D).

    generator: the network of the player of that name; what of its state is no batch statistic stays as it is. ema: of
    the averaged parameters, where there are any. InputError for a generator without batch statistics.
    """
    check(passes >= 1 and batch >= 2, f"statistics are of 1 pass or more over 2 images or more, not {passes}, {batch}")
    params, extra = weights(state, ema)
    own, stats = params[player], extra[player]
    check("batch_stats" in stats, "this generator has no batch statistics: its samples need no standing ones")
    count = 0 if model.condition is None else model.condition.values
    check(model.condition is None or count > 0, "standing statistics are over labels, these conditions are no labels")

    every = None if model.condition is None else model.condition.given(count, np.arange(count))

    def moments(key: Array) -> Tree:
        """The batch statistics of one minibatch, by which running ones are pulled, from 0 and 1, towards their mean."""
        keys = jax.random.split(key, batch)
        c = rows(every, jax.random.randint(jax.random.fold_in(key, 1), (batch,), 0, max(count, 1)))
        z = cut_off(model.prior(params, extra, keys, c), jnp.asarray(threshold, jnp.float32))

        def after(start: float) -> Tree:
            begun = {**stats, "batch_stats": jax.tree.map(lambda a: jnp.full_like(a, start), stats["batch_stats"])}
            return generator.apply(own, begun, z, c, train=True)[1]["batch_stats"]

        def mean(from_0: Array, from_1: Array) -> Array:  # a running mean is m old + (1 - m) new
            return from_0 / (1.0 - (from_1 - from_0))

        return jax.tree.map(mean, after(0.0), after(1.0))

    found = jax.jit(lambda keys: jax.tree.map(lambda a: jnp.mean(a, axis=0), jax.lax.map(moments, keys)))
    changed = {**extra, player: {**stats, "batch_stats": found(jax.random.split(key, passes))}}
    if ema and state.ema is not None:
        return state._replace(ema=state.ema._replace(extra=changed))
    return state._replace(extra=changed)
