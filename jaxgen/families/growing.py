"""Training that fades a network's new scale in."""

from __future__ import annotations

import jax.numpy as jnp

from jaxgen.types import Array, Batch, Loss, Model, Tree, Turn, check


def fading(model: Model, steps: int) -> Model:
    """The same model, whose networks' state "fade" has alpha = min(1, step / steps), the share of the newest scale, and
    whose images are faded in, too: alpha x + (1 - alpha) of x at half the size, enlarged again (Karras et al. 2017,
    arXiv:1710.10196, section 2 and figure 2). steps 0: the scale is there from the start.

    InputError for a model none of whose networks fades anything in: those of `nets.progressive` do.
    """
    check(steps >= 0, f"a scale is faded in within a number of steps, not {steps}")

    def init(key, batch: Batch) -> tuple[dict, Tree]:
        params, extra = model.game.init(key, batch)
        there = any("fade" in stats for stats in extra.values())
        check(there, "no network of this model fades a scale in: those of nets.progressive do")
        return params, extra

    def faded(loss: Loss) -> Loss:
        def at_this_step(params: Tree, extra: Tree, turn: Turn, batch: Batch):
            share = jnp.minimum(1.0, turn.step / steps) if steps else jnp.ones(())
            now = {
                name: {**stats, "fade": {"alpha": share}} if "fade" in stats else stats for name, stats in extra.items()
            }
            seen = batch._replace(x=share * batch.x + (1.0 - share) * coarse(batch.x)) if steps else batch
            return loss(params, now, turn, seen)

        return at_this_step

    losses = {player: faded(loss) for player, loss in model.game.losses.items()}
    return model._replace(game=model.game._replace(init=init, losses=losses))


def coarse(x: Array) -> Array:
    """Images [B, H, W, C] without their finest scale: every 2x2 pixels are their mean."""
    b, height, width, channels = x.shape
    means = x.reshape(b, height // 2, 2, width // 2, 2, channels).mean((2, 4), keepdims=True)
    return jnp.broadcast_to(means, (b, height // 2, 2, width // 2, 2, channels)).reshape(x.shape)
