"""What a critic gives besides its score, from its last hidden layer; and the critic that is an autoencoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxgen.nets.layers import Dense, Embed
from jaxgen.types import Array, Seen, Tree, check


class Heads(NamedTuple):
    """The heads of a critic of `nets`.

    logits      K, of classes (ACGAN, C + 1 classes); 0: none
    joint       the score is log sum_k exp l_k of the logits: that of K classes against one more, of generated images,
                whose logit is 0 (Salimans et al. 2016, arXiv:1606.03498, section 5)
    codes       how many numbers tell the generator's codes (InfoGAN: `Codes.outputs`), behind a layer of 128; 0: none
    projection  labels join the score alone, D(x, y) = psi(h) + <V_y, h> (Miyato and Koyama 2018, arXiv:1802.05637,
                eq. 3), instead of the image
    """

    logits: int = 0
    joint: bool = False
    codes: int = 0
    projection: bool = False


def judged(
    heads: Heads | None,
    h: Array,
    label: Tree,
    classes: Any,
    dense: Callable[[int], nn.Module] = Dense,
    embed: Callable[..., nn.Module] = Embed,
) -> Array | Seen:
    """What a critic whose labels join by projection gives of a hidden layer: its score, or `Seen` with `heads`. Without
    heads there is a projection where there are `classes`. The rest as of `seen`."""
    chosen = heads or Heads(projection=classes is not None)
    check(label is None or chosen.projection, "this critic is given labels: give it their number, classes=10 for ten")
    found = seen(chosen, h, label, classes, dense, embed)
    return found.score if heads is None else found


def seen(
    heads: Heads,
    h: Array,
    label: Tree,
    classes: Any,
    dense: Callable[[int], nn.Module] = Dense,
    embed: Callable[..., nn.Module] = Embed,
) -> Seen:
    """`Seen` of a hidden layer h [B, F], to be called inside a module, whose layers they are; features are h itself.

    label, classes: for a projection, int [B] of `classes`; dense, embed: how these layers are made.
    """
    check(not heads.joint or heads.logits > 0, "a joint score is that of logits: Heads(logits=10, joint=True)")

    def out(features: int, h: Array) -> Array:
        return dense(features)(h).astype(jnp.float32)

    logits = out(heads.logits, h) if heads.logits else None
    joint = jnp.asarray(jax.nn.logsumexp(logits, axis=-1)) if logits is not None and heads.joint else None
    score = out(1, h)[:, 0] if joint is None else joint
    if heads.projection:
        check(isinstance(classes, int), "a projection needs labels: give the critic classes=10 for ten of them")
        check(label is not None, f"this critic is conditional: give a label, 0 to {classes - 1}")
        v = embed(classes, h.shape[-1], h.shape[-1] ** -0.5, name="projection")(label)
        score = score + jnp.sum(v * h, axis=-1, dtype=jnp.float32)
    codes = out(heads.codes, nn.leaky_relu(dense(128)(h), 0.1)) if heads.codes else None
    return Seen(score, h.astype(jnp.float32), logits, codes)


class AutoencoderCritic(nn.Module):
    """Image [B, ...] -> Seen(score = -E(x), features = the code): E is the error of a reconstruction, the mean of
    |x - Dec(Enc(x))|^order over the image (Zhao et al. 2016, arXiv:1609.03126, section 2.3, order 2; Berthelot et al.
    2017, arXiv:1703.10717, eq. 1, order 1).

    encoder: (x, condition) -> code [B, D]; decoder: (code, condition) -> image.
    """

    encoder: nn.Module
    decoder: nn.Module
    order: int = 2

    @nn.compact
    def __call__(self, x: Array, condition: Tree = None, train: bool = False) -> Seen:
        code = self.encoder(x, condition, train)
        again = self.decoder(code, condition, train)
        check(again.shape == x.shape, f"this critic's decoder makes {again.shape[1:]}, images are {x.shape[1:]}")
        error = jnp.abs(x - again) if self.order == 1 else jnp.square(x - again)
        return Seen(-jnp.mean(error, axis=range(1, x.ndim)), code)
