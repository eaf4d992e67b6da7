"""A model in the code space of an autoencoder: latent diffusion, VQ-VAE's prior, two-stage VAEs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.conditions import check_condition
from jaxgen.types import Ahead, Array, Batch, Game, Keys, Loss, Model, Predict, Prediction, Tree, Turn, check

AUTOENCODER = "autoencoder"
FITTED = 100  # minibatches that the moments of the codes are estimated from


def latent(
    outer: Model, inner: Model, *, name: str = AUTOENCODER, train: bool = False, standardise: bool = True
) -> Model:
    """p(x) by x = g(z), z ~ `inner`, g the decoder of `outer`: `inner` is trained on the codes f(x) of its encoder.

    Latent diffusion is latent(KL autoencoder, diffusion) (Rombach et al. 2022, arXiv:2112.10752, section 3), the VQ-VAE
    is latent(quantised autoencoder, autoregressive) (van den Oord et al. 2017, arXiv:1711.00937, section 3.3), with
    `absorbing` in its place discrete latent diffusion, the two-stage VAE latent(VAE, VAE) (Dai and Wipf 2019,
    arXiv:1903.05789).

    params: the group `name` holds all of outer's, extra[name] its statistics; the other groups are inner's. The group
    is frozen, and `fit(..., start={name: RUN})` takes it from a run of `outer`, and the codes of a data set can be
    computed once (`Experiment.cache`); with `train` it is a player beside
    inner's: outer's own, which has to be a single one. Gradients of inner's losses go no further than the codes.
    standardise: codes have mean 0 and variance 1, one number each for all of their entries, estimated from the first
    hundred minibatches (LDM's scale factor is estimated from the first one). Integer codes stay.

    A process of `inner` must not clip: codes are no pixels. The condition is inner's, of the data's own labels or
    attributes; InputError for a conditional `outer`, and for conditions that are derived from the image.
    """
    check(outer.encode is not None, "a latent model needs an autoencoder: this outer model has no encoder")
    check(outer.condition is None, "the autoencoder of a latent model is unconditional: condition the inner one")
    derived = inner.condition is not None and inner.condition.derived
    check(not derived, "a condition derived from the image cannot be read from its code: condition on the data's own")
    clip = math.inf if inner.process is None else float(np.asarray(inner.process.clip))
    check(math.isinf(clip), f"the inner process clips x_0 to {clip:g}, codes are no pixels: give it clip=math.inf")
    parts = Parts(outer, inner, name, standardise)
    of_codes = {player: parts.standardised(loss) for player, loss in inner.game.losses.items()}
    losses = {player: parts.encoded(loss) for player, loss in of_codes.items()}
    if train:
        losses = {name: parts.of_images(), **losses}
    encoder = inner.process is not None or inner.encode is not None
    return Model(
        Game(parts.init, losses, parts.check, ahead=None if train else Ahead(parts.code, of_codes)),
        inner.prior,
        inner.predict,
        inner.sampler,
        decode=parts.decode,
        encode=parts.encode if encoder else None,
        condition=inner.condition,
        process=inner.process,
    )


def in_grid(model: Model, shape: Sequence[int]) -> Model:
    """The same model with its codes [B, D] as grids [B, *shape]: for a network of images in the code space of a VAE,
    whose codes are vectors."""

    def grid(z: Array) -> Array:
        return z.reshape(z.shape[0], *shape)

    def flat(z: Array) -> Array:
        return z.reshape(z.shape[0], -1)

    def predict(params: Tree, extra: Tree, condition: Tree) -> Predict:
        of_flat = model.predict(params, extra, condition)

        def of_grid(z: Array, t: Array) -> Prediction:
            found = of_flat(flat(z), t)
            return found._replace(x0=grid(found.x0))

        return of_grid

    encode = model.encode
    return model._replace(
        prior=lambda *inputs: grid(model.prior(*inputs)),
        predict=predict,
        decode=lambda params, extra, keys, z, condition: model.decode(params, extra, keys, flat(z), condition),
        encode=None if encode is None else lambda *inputs: grid(encode(*inputs)),
    )


class Parts(NamedTuple):
    """The two models, the name of the outer one's group, and whether codes are standardised."""

    outer: Model
    inner: Model
    name: str
    standardise: bool

    def init(self, key: Array, batch: Batch) -> tuple[dict, Tree]:
        for_outer, for_inner = jax.random.split(key)
        theta, extra = self.outer.game.init(for_outer, batch)
        code = self.outer.encode(theta, extra, batch.x, None)  # type: ignore[misc]
        params, carried = self.inner.game.init(for_inner, batch._replace(x=code))
        check(
            self.name not in params and self.name not in carried,
            f"the inner model has a group {self.name!r} of its own: give latent another name=",
        )
        if self.standardise and jnp.issubdtype(code.dtype, jnp.floating):
            carried = {**carried, "codes": {"moments": no_moments()}}
        return {self.name: theta, **params}, {self.name: extra, **carried}

    def code(self, params: Tree, extra: Tree, x: Array) -> Array:
        """f(x), as the encoder gives it."""
        return self.outer.encode(params[self.name], extra[self.name], x, None)  # type: ignore[misc]

    def standardised(self, loss: Loss) -> Loss:
        """A loss of the inner model as one of codes as the encoder gives them."""

        def of_codes(params: Tree, extra: Tree, turn: Turn, batch: Batch) -> tuple[Array, tuple[dict, Tree]]:
            if "codes" in extra:
                extra = {**extra, "codes": {"moments": fitted(extra["codes"]["moments"], batch.x, turn)}}
            value, (metrics, carried) = loss(params, extra, turn, batch._replace(x=standard(extra, batch.x)))
            return value, (metrics, {**extra, **carried})

        return of_codes

    def encoded(self, loss: Loss) -> Loss:
        """A loss of codes as one of images."""

        def of_images(params: Tree, extra: Tree, turn: Turn, batch: Batch) -> tuple[Array, tuple[dict, Tree]]:
            code = jax.lax.stop_gradient(self.code(params, extra, batch.x))
            return loss(params, extra, turn, batch._replace(x=code))

        return of_images

    def of_images(self) -> Loss:
        """The loss of the outer model's single player, its parameters and statistics under `name`."""
        players = list(self.outer.game.losses)
        check(
            len(players) == 1,
            f"an autoencoder that is trained beside the inner model has one player, not {players}: train it first",
        )
        loss = self.outer.game.losses[players[0]]

        def outer_loss(params: Tree, extra: Tree, turn: Turn, batch: Batch) -> tuple[Array, tuple[dict, Tree]]:
            value, (metrics, carried) = loss(params[self.name], extra[self.name], turn, batch)
            return value, (metrics, {**extra, self.name: carried})

        return outer_loss

    def check(self, batch: Batch) -> None:
        self.outer.game.check(batch)
        check_condition(self.inner.condition, batch)

    def decode(self, params: Tree, extra: Tree, keys: Keys, x0: Array, condition: Tree) -> Array:
        code = self.inner.decode(params, extra, keys, x0, condition)
        if "codes" in extra:
            mean, std = _mean_and_std(extra)
            code = mean + std * code
        return self.outer.decode(params[self.name], extra[self.name], keys, code, None)

    def encode(self, params: Tree, extra: Tree, x: Array, condition: Tree) -> Array:
        code = standard(extra, self.code(params, extra, x))
        inner = self.inner.encode
        return code if inner is None else inner(params, extra, code, condition)


def no_moments() -> dict[str, Array]:
    """The moments before there was any code."""
    return {"batches": jnp.zeros((), jnp.int32), "mean": jnp.zeros(()), "variance": jnp.ones(())}


def fitted(moments: dict[str, Array], code: Array, turn: Turn) -> dict[str, Array]:
    """The moments of all codes so far, those of the first `FITTED` minibatches weighing the same, none after them:
    from then on the codes of an image stay what they are."""
    n = moments["batches"]
    w = jnp.where(n < FITTED, 1.0 / (n + 1.0), 0.0)
    mean = jnp.mean(turn.gather(jnp.mean(code)[None]))
    d = mean - moments["mean"]
    variance = jnp.mean(turn.gather(jnp.mean(jnp.square(code - mean))[None]))
    return {
        "batches": jnp.minimum(n + 1, FITTED),
        "mean": moments["mean"] + w * d,
        "variance": (1.0 - w) * moments["variance"] + w * (variance + (1.0 - w) * d**2),
    }


def standard(extra: Tree, code: Array) -> Array:
    """(code - mean) / std; the code itself where it is not standardised."""
    if "codes" not in extra:
        return code
    mean, std = _mean_and_std(extra)
    return (code - mean) / std


def _mean_and_std(extra: Tree) -> tuple[Array, Array]:
    moments = extra["codes"]["moments"]
    return moments["mean"], jnp.sqrt(jnp.maximum(moments["variance"], 1e-12))
