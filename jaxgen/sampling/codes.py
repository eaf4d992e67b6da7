"""The second latent space: codes, what a sampler makes of noise and `decode` makes an image of (a StyleGAN's w)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.sampling.sample import Options
from jaxgen.sampling.walks import images_of
from jaxgen.types import Array, Keys, Model, Predict, Prediction, TrainState, Tree, as_is, check, one_shot


def in_codes(model: Model) -> Model:
    """The same model with codes as its latents: all that takes latents then takes w instead of z.

    Its prior draws a code as the model's own sampler does, its images are `decode`'s. A StyleGAN's codes are the styles
    w [layers, W], a latent diffusion model's those of its autoencoder. InputError where the codes are the images.
    """
    check(
        model.decode is not as_is,
        "this model makes images of its noise in one piece: there are no codes in between, walk in z",
    )

    def prior(params: Tree, extra: Tree, keys: Keys, condition: Tree) -> Array:
        own, walk = jnp.swapaxes(jax.vmap(jax.random.split)(keys), 0, 1)
        z = model.prior(params, extra, own, condition)
        return model.sampler(walk, model.predict(params, extra, condition), z)

    def predict(params: Tree, extra: Tree, condition: Tree) -> Predict:
        return lambda w, t: Prediction(w)

    return model._replace(prior=prior, predict=predict, sampler=one_shot, process=None)


def mix(
    model: Model,
    state: TrainState,
    a: Array,
    b: Array,
    layers: Sequence[int],
    *,
    condition: object = None,
    **options: Unpack[Options],
) -> Array:
    """Images with the styles of a, and at `layers` those of b: w [R, L, W] and [C, L, W] -> [R, C, H, W, C] (Karras et
    al. 2018, arXiv:1812.04948, section 3.1 and figure 3).

    model: `in_codes(model)` of a StyleGAN. Low layers are coarse: pose and shape; high ones are fine: colours. A row
    shares its noise inputs. condition: one for all, or [R]. InputError for latents that are not [., L, W], and for
    layers outside 0 to L - 1.
    """
    fits = a.ndim == b.ndim == 3 and a.shape[1:] == b.shape[1:]
    check(fits, f"styles are mixed by layers: give w [rows, L, W] and [columns, L, W], not {a.shape} and {b.shape}")
    count, chosen = a.shape[1], np.asarray(layers, int)
    inside = bool(np.all((chosen >= 0) & (chosen < count)))
    check(inside, f"this model has styles 0 to {count - 1}, {list(layers)} are not all among them")
    taken = np.isin(np.arange(count), chosen)[:, None]
    return images_of(model, state, jnp.where(taken, b[None], a[:, None]), condition, options)
