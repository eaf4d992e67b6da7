"""StyleGAN and StyleGAN2: a GAN whose generator maps noise to styles, and styles and noise inputs to an image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxgen.conditions import check_condition, condition_of
from jaxgen.families.common import folded
from jaxgen.families.gan import CRITIC, GENERATOR, SIGNS, Generator, Parts, parts_of
from jaxgen.losses.adversarial import Objective
from jaxgen.losses.augmentation import Augmentation
from jaxgen.losses.penalties import Penalty
from jaxgen.nets import Network
from jaxgen.types import (
    Array,
    Batch,
    Conditioner,
    Game,
    Keys,
    Loss,
    Model,
    Predict,
    Prediction,
    TrainState,
    Tree,
    Turn,
    check,
    normal,
    one_shot,
    weights,
)


class PathLength(NamedTuple):
    """weight (|J_w^T y|_2 - a)^2, y ~ N(0, I) an image, J_w the Jacobian of the synthesis in w, a the running mean of
    the lengths (Karras et al. 2019, arXiv:1912.04958, eq. 4): a step in w then changes the image equally everywhere.

    every   it is paid at each so many turns of the generator, so many times as large
    shrink  it is computed of every `shrink`th image
    decay   by which a approaches the minibatch's mean length
    """

    weight: float = 2.0
    every: int = 4
    shrink: int = 2
    decay: float = 0.01


class Style(NamedTuple):
    """The generator of a StyleGAN: two networks that are one player.

    mapping    (z [B, D], condition) -> w [B, W]
    synthesis  (w [B, layers, W], keys [B]) -> image
    mixing     share of the training images whose styles are those of two latents, from a random layer on
    beta       decay of the mean of w
    """

    mapping: Network
    synthesis: Network
    layers: int
    mixing: float
    beta: float

    def init(self, key: Array, z: Array, c: Tree) -> tuple[Tree, Tree]:
        for_mapping, for_synthesis = jax.random.split(key)
        m, m_stats = self.mapping.init(for_mapping, z, c)
        w = self.mapping.apply(m, m_stats, z, c)[0]
        keys = jax.random.split(key, z.shape[0])
        s, s_stats = self.synthesis.init(for_synthesis, self.broadcast(w), keys)
        mean = {"w": jnp.zeros(w.shape[1:])}
        return {"mapping": m, "synthesis": s}, {"mapping": m_stats, "synthesis": s_stats, "mean": {"average": mean}}

    def broadcast(self, w: Array) -> Array:
        return jnp.broadcast_to(w[:, None], (w.shape[0], self.layers, w.shape[-1]))

    def map(self, params: Tree, stats: Tree, z: Array, c: Tree, keys: Keys | None = None) -> tuple[Array, Tree]:
        w, own = self.mapping.call(keys, params["mapping"], stats["mapping"], z, c)
        return w, {**stats, "mapping": own}

    def draw(self, params: Tree, stats: Tree, w: Array, keys: Keys, train: bool = False) -> tuple[Array, Tree]:
        dropping = folded(keys, 15) if train else None
        x, own = self.synthesis.call(dropping, params["synthesis"], stats["synthesis"], w, keys)
        return x, {**stats, "synthesis": own}

    def styles(self, params: Tree, stats: Tree, z: Array, turn: Turn, c: Tree) -> tuple[Array, Tree]:
        """(w [B, layers, W] with mixed styles, statistics with the mean of w), in training."""
        first, stats = self.map(params, stats, z, c, folded(turn.keys, 16))
        mean = stats["mean"]["average"]["w"]
        now = jnp.mean(turn.gather(jax.lax.stop_gradient(first)), axis=0)
        stats = {**stats, "mean": {"average": {"w": self.beta * mean + (1.0 - self.beta) * now}}}
        if self.mixing == 0:
            return self.broadcast(first), stats
        other = normal(folded(turn.keys, 11), z.shape[1:])
        second, _ = self.map(params, stats, other, c, folded(turn.keys, 17))
        u = jax.vmap(lambda key: jax.random.uniform(key, (2,)))(folded(turn.keys, 12))
        cut = jnp.where(u[:, 0] < self.mixing, 1 + jnp.floor(u[:, 1] * (self.layers - 1)), self.layers)
        later = jnp.arange(self.layers)[None, :, None] >= cut[:, None, None]
        return jnp.where(later, self.broadcast(second), self.broadcast(first)), stats


def style_gan(
    mapping: Network,
    synthesis: Network,
    critic: Network,
    latent: int,
    *,
    layers: int,
    objective: Objective | None = None,
    penalties: Sequence[Penalty] = (),
    augmentation: Augmentation | None = None,
    condition: Conditioner | None = None,
    mixing: float = 0.9,
    beta: float = 0.995,
    path_length: PathLength | None = None,
) -> Model:
    """z ~ N(0, I), w = f(z, condition), x = g(w, noise); a GAN whose generator are both networks (Karras et al. 2018,
    arXiv:1812.04948, StyleGAN; Karras et al. 2019, arXiv:1912.04958, StyleGAN2, with a path length).

    mapping: (z [B, latent], condition) -> w [B, W]; synthesis: (w [B, layers, W], keys [B] of the noise inputs) ->
    image [B, ...] in [-1, 1]: those of `nets.style`, where `styles(shape)` gives the layers; critic as of `gan`.
    mixing: share of the training images made of two latents' styles (section 3.1). beta: decay of the mean of w, which
    `sampling.truncation` reads by `mean_style`.

    A sample's noise inputs are drawn with its key, its w by `predict`: guidance changes w, `decode` is the synthesis.
    """
    check(0 <= mixing <= 1, f"mixing is a share of the images, it is {mixing}")
    check(0 <= beta < 1, f"beta is the decay of a mean, at least 0 and below 1, it is {beta}")
    check(layers >= 1, f"a synthesis has at least one style, not {layers}")
    style = Style(mapping, synthesis, layers, mixing, beta)

    def draw(params: Tree, stats: Tree, turn: Turn, z: Array, c: Tree) -> tuple[Array, Tree]:
        w, stats = style.styles(params, stats, z, turn, c)
        return style.draw(params, stats, w, folded(turn.keys, 13), train=True)

    from_styles = Generator(style.init, draw)
    parts = parts_of(from_styles, critic, latent, objective, penalties, augmentation, condition)
    init, generator_loss = parts.init, parts.generator_loss
    if path_length is not None:
        init, generator_loss = regularised(parts, style, path_length)
    losses: dict[str, Loss] = {CRITIC: parts.critic_loss, GENERATOR: generator_loss}

    def predict(params: Tree, extra: Tree, condition: Tree) -> Predict:
        def map_(z: Array, t: Array) -> Prediction:
            w, _ = style.map(params[GENERATOR], extra[GENERATOR], z, condition)
            return Prediction(style.broadcast(w))

        return map_

    def decode(params: Tree, extra: Tree, keys: Keys, w: Array, condition: Tree) -> Array:
        return style.draw(params[GENERATOR], extra[GENERATOR], w, keys)[0]

    game = Game(init, losses, partial(check_condition, condition), SIGNS)
    return Model(game, parts.prior, predict, one_shot, decode, condition=condition)


def is_style(state: TrainState) -> bool:
    """Whether a state is a StyleGAN's."""
    return "mean" in state.extra.get(GENERATOR, {})


def mean_style(state: TrainState, ema: bool = True) -> Array:
    """The running mean of w, [W], of the averaged mapping network where there is one."""
    _, extra = weights(state, ema)
    check(is_style(state), "only a StyleGAN has a mean style, this state is of another model")
    return extra[GENERATOR]["mean"]["average"]["w"]


def style_kernels(state: TrainState, ema: bool = True) -> list[Array]:
    """The kernels [W, channels] of all layers of the synthesis that read w, for `sampling.factors`. InputError for a
    state that is not a StyleGAN's."""
    check(is_style(state), "only a StyleGAN has layers that read styles, this state is of another model")
    leaves = jax.tree.leaves(weights(state, ema)[0][GENERATOR]["synthesis"])
    return [leaf for leaf in leaves if leaf.ndim == 2]  # its dense layers read w and nothing else


def regularised(parts: Parts, style: Style, path: PathLength) -> tuple[Callable, Loss]:
    """(the model's init with the running mean of path lengths, the generator's loss with their penalty)."""
    check(path.weight >= 0 and 0 < path.decay <= 1, f"a weight is not negative, a decay above 0 and at most 1: {path}")
    check(path.every >= 1 and path.shrink >= 1, f"it is paid every 1, 2, ... turns, of every 1st, 2nd, ...: {path}")

    def init(key: Array, batch: Batch) -> tuple[dict, Tree]:
        params, extra = parts.init(key, batch)
        return params, {**extra, "path_length": {"state": jnp.zeros(())}}

    def lengths(own: Tree, stats: Tree, turn: Turn, c: Tree) -> tuple[Array, Array]:
        """(the lengths of every `shrink`th image of the minibatch, what each counts): where a device's part cannot be
        divided so, of all of its images, of which the others count nothing."""
        k = path.shrink if turn.keys.shape[0] % path.shrink == 0 else 1
        some, c = turn._replace(keys=turn.keys[::k], own=turn.own[::k]), jax.tree.map(lambda a: a[::k], c)
        z = parts.codes.draw(some.keys)
        w, _ = style.styles(own, stats, z, some._replace(gather=lambda tree: tree), c)

        def image(w: Array) -> Array:
            return style.draw(own, stats, w, folded(some.keys, 13), train=True)[0]

        x, back = jax.vjp(image, w)
        y = normal(folded(some.keys, 14), x.shape[1:]) / jnp.sqrt(jnp.prod(jnp.asarray(x.shape[1:3], jnp.float32)))
        counts = (some.own % path.shrink == 0) * (path.shrink / k)
        return jnp.sqrt(jnp.mean(jnp.sum(jnp.square(back(y)[0]), axis=-1), axis=-1) + 1e-12), counts

    def loss(params: Tree, extra: Tree, turn: Turn, batch: Batch) -> tuple[Array, tuple[dict, Tree]]:
        value, (metrics, after) = parts.generator_loss(params, extra, turn, batch)
        a = extra["path_length"]["state"]

        def paid() -> tuple[Array, Array, Array]:
            c = condition_of(parts.condition, batch)
            found, counts = lengths(params[GENERATOR], extra[GENERATOR], turn, c)
            now = jnp.mean(turn.gather(jax.lax.stop_gradient(found * counts)))
            mean = a + path.decay * (now - a)
            return path.every * path.weight * jnp.mean(counts * jnp.square(found - mean)), mean, now

        def free() -> tuple[Array, Array, Array]:
            return jnp.zeros(()), a, a

        penalty, mean, length = jax.lax.cond(turn.step % path.every == 0, paid, free)
        metrics = {**metrics, "path_length": length, "path_penalty": penalty}
        return value + penalty, (metrics, {**after, "path_length": {"state": mean}})

    return init, loss
