"""Autoencoders with discrete codes (van den Oord et al. 2017, arXiv:1711.00937) and their quantisers.

An image is a grid of codes, each an integer with a vector of its own. The VQ-VAE is such an autoencoder with an
autoregressive prior over the grid: `families.latent(quantised(...), autoregressive(...))`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.families.autoregressive import autoregressive
from jaxgen.families.common import check_decoder, codes, folded, output_shape
from jaxgen.families.latent import latent
from jaxgen.losses.likelihood import Likelihood, bernoulli, check_probability, check_support
from jaxgen.nets import Network
from jaxgen.types import (
    Array,
    Batch,
    Conditioner,
    Density,
    Game,
    Keys,
    Model,
    Tree,
    Turn,
    check,
    one_shot,
)

PLAYER = "vq_vae"
LEAST_SHARE = 1e-8  # an unused code fades no further: its vector, a ratio of two averages, stays a number


class Learned(NamedTuple):
    """A quantiser's result for u in training: index [B, h, w] int32, their vectors [B, h, w, D], penalty [B] and the
    next state."""

    index: Array
    vectors: Array
    penalty: Array
    state: Tree


class Quantiser(NamedTuple):
    """codes, features   how many codes, and the dimension D of their vectors

    init     (key) -> state, carried from step to step and moved by no gradient
    bound    (z [B, h, w, D], an encoder's output) -> u, where the vectors lie
    nearest  (state, u) -> index [B, h, w] int32 of the vectors closest to any u
    vectors  (state, index) -> their vectors [B, h, w, D]
    learn    (state, turn, u) -> Learned
    """

    codes: int
    features: int
    init: Callable[[Array], Tree]
    bound: Callable[[Array], Array]
    nearest: Callable[[Tree, Array], Array]
    vectors: Callable[[Tree, Array], Array]
    learn: Callable[[Tree, Turn, Array], Learned]


def vq(
    codes: int = 512, features: int = 64, *, decay: float = 0.99, commitment: float = 0.25, restart: float = 0.05
) -> Quantiser:
    """c = argmin_k |u - e_k|^2 (eq. 1 and 2), with the codebook e_k = m_k / n_k of moving averages (appendix A.1):

    n_k <- decay n_k + (1 - decay) share of k among the minibatch's vectors
    m_k <- decay m_k + (1 - decay) mean over the minibatch's vectors of [c = k] u

    commitment: beta of the penalty beta |u - sg(e_c)|^2, averaged over the grid (eq. 3 and the remark below it).
    restart: a code with n_k <= restart / codes begins anew, as one of the minibatch's vectors drawn at random and with
    n_k = 1 / codes (Dhariwal et al. 2020, arXiv:2005.00341, section 3.1); so does every code at the first step.
    With 0 there are no restarts, and the codebook starts as draws of N(0, I).

    Averages and restarts are of the minibatch wherever its parts lie (`Turn.gather`), with shares instead of the
    paper's counts, so that every device keeps the same codebook.
    """
    check(codes >= 2 and features >= 1, f"a codebook of {codes} codes with {features} features: at least 2 and 1")
    check(0.0 <= decay < 1.0, f"decay must be at least 0 and below 1, it is {decay}")
    check(commitment >= 0, f"the commitment's weight must not be negative, it is {commitment}")
    check(0.0 <= restart < 1.0, f"restart is a part of the fair share, at least 0 and below 1; it is {restart}")

    def init(key: Array) -> Tree:
        share = jnp.full(codes, 0.0 if restart else 1.0 / codes)  # 0: not born yet
        return {"share": share, "sum": share[:, None] * jax.random.normal(key, (codes, features))}

    def learn(state: Tree, turn: Turn, u: Array) -> Learned:
        if restart:
            state = _revived(state, *_gathered(turn, jax.lax.stop_gradient(u), _scores(turn.keys, u)), restart)
        index = _nearest(state, u)
        e = jax.lax.stop_gradient(_vectors(state, index))
        penalty = commitment * jnp.mean(jnp.sum(jnp.square(u - e), axis=-1), axis=(1, 2))
        return Learned(index, e, penalty, _averaged(state, *_gathered(turn, jax.lax.stop_gradient(u), index), decay))

    return Quantiser(codes, features, init, lambda z: z, _nearest, _vectors, learn)


def _codebook(state: Tree) -> Array:
    """e_k = m_k / n_k, [K, D]; 0 for a code not born yet."""
    return state["sum"] / jnp.maximum(state["share"], 0.01 * LEAST_SHARE)[:, None]


def _vectors(state: Tree, index: Array) -> Array:
    return _codebook(state)[index]


def _nearest(state: Tree, u: Array) -> Array:
    e = _codebook(state)
    # |u|^2 is the same for every code; the rest is a difference, which the default precision of an accelerator (TF32,
    # bfloat16) decides wrongly where two codes are nearly as close
    product = jnp.matmul(u, e.T, precision=jax.lax.Precision.HIGHEST)
    return jnp.argmin(jnp.sum(jnp.square(e), axis=-1) - 2.0 * product, axis=-1).astype(jnp.int32)


def _scores(keys: Keys, u: Array) -> Array:
    """A random number for each vector, from its example's key: [B, h, w]."""
    return jax.vmap(lambda key: jax.random.uniform(key, u.shape[1:3]))(keys)


def _gathered(turn: Turn, u: Array, of_each: Array) -> tuple[Array, Array]:
    """u [N, D] and another number for each [N], of the minibatch wherever its parts lie."""
    u, of_each = turn.gather((u, of_each))
    return u.reshape(-1, u.shape[-1]), of_each.reshape(-1)


def _revived(state: Tree, u: Array, scores: Array, restart: float) -> Tree:
    """Dead codes begin anew as vectors u [N, D] of the minibatch, those of the highest scores: all different ones where
    there are enough."""
    codes = state["share"].shape[0]
    _, drawn = jax.lax.top_k(scores, min(codes, len(scores)))
    fresh = u[drawn[jnp.arange(codes) % len(drawn)]]
    dead = state["share"] <= restart / codes
    share = jnp.where(dead, 1.0 / codes, state["share"])
    return {"share": share, "sum": jnp.where(dead[:, None], fresh / codes, state["sum"])}


def _averaged(state: Tree, u: Array, index: Array, decay: float) -> Tree:
    """The moving averages after a minibatch of vectors u [N, D] with their codes."""
    mine = jax.nn.one_hot(index, state["share"].shape[0])
    kept = jnp.where(state["share"] > LEAST_SHARE, decay, 1.0)
    share = kept * state["share"] + (1.0 - decay) * jnp.mean(mine, axis=0)
    return {"share": share, "sum": kept[:, None] * state["sum"] + (1.0 - decay) / len(u) * (mine.T @ u)}


def fsq(levels: Sequence[int] = (8, 5, 5, 5)) -> Quantiser:
    """Finite scalar quantisation: each of the len(levels) features is rounded to one of its L levels after
    f(z) = (L - 1) / 2 tanh(z + shift) - offset, offset 1/2 for even L, 0 for odd (Mentzer et al. 2023,
    arXiv:2309.15505, section 3 and appendix A.1). No codebook, no penalty, no state; prod(levels) codes.

    The vectors are round(f(z)) / floor(L / 2), in [-1, 1]; a code counts in mixed radix, the first feature fastest.
    shift = artanh(2 offset / (L - 1)), so that f(0) = 0; f stays a thousandth of (L - 1) / 2 away from the next
    rounding.
    """
    least = min(levels, default=0)
    check(least >= 3, f"finite scalar quantisation needs at least 3 levels of each feature, not {tuple(levels)}")
    codes = math.prod(levels)
    check(codes < 2**31, f"{codes} codes are more than an int32 can count: choose fewer levels")
    radix = np.concatenate([[1], np.cumprod(levels)[:-1]]).astype(np.int32)
    l = np.asarray(levels)
    half, offset, reach = (l - 1) / 2 * (1 - 1e-3), np.where(l % 2 == 0, 0.5, 0.0), l // 2
    shift = np.arctanh(offset / half)

    def bound(z: Array) -> Array:
        return (jnp.tanh(z + jnp.float32(shift)) * jnp.float32(half) - jnp.float32(offset)) / jnp.float32(reach)

    def nearest(state: Tree, u: Array) -> Array:
        digit = jnp.round(u * jnp.float32(reach)).astype(jnp.int32) + reach
        return jnp.sum(jnp.clip(digit, 0, l - 1).astype(jnp.int32) * radix, axis=-1)

    def vectors(state: Tree, index: Array) -> Array:
        return (index[..., None] // radix % l.astype(np.int32) - reach).astype(jnp.float32) / jnp.float32(reach)

    def learn(state: Tree, turn: Turn, u: Array) -> Learned:
        index = nearest(state, jax.lax.stop_gradient(u))
        return Learned(index, vectors(state, index), jnp.zeros(u.shape[0]), state)

    return Quantiser(codes, len(l), lambda key: {}, bound, nearest, vectors, learn)


def straight_through(u: Array, vectors: Array) -> Array:
    """The vectors, with the gradient of u (Bengio et al. 2013, arXiv:1308.3432; section 3.2 of the VQ-VAE)."""
    return u + jax.lax.stop_gradient(vectors - u)


def usage(index: Array, codes: int) -> dict[str, Array]:
    """perplexity exp(-sum_k p_k log p_k) of the shares p_k of the codes in a minibatch, at most `codes`, and the share
    of codes that are used at all."""
    p = jnp.mean(jax.nn.one_hot(index.reshape(-1), codes), axis=0)
    return {"perplexity": jnp.exp(-jnp.sum(jax.scipy.special.xlogy(p, p))), "used": jnp.mean(p > 0)}


def quantised(
    encoder: Network,
    decoder: Network,
    quantiser: Quantiser,
    grid: tuple[int, int],
    *,
    likelihood: Likelihood | None = None,
) -> Model:
    """An autoencoder through a grid of codes c: the player "vq_vae" minimises

    -log p(x | z_c) + penalty (eq. 3), nats,

    z_c the codes' vectors, through which the gradient goes straight to the encoder.

    encoder: x [B, ...] -> [B, *grid, D]; decoder: [B, *grid, D] -> output. quantiser: `vq` or `fsq`. likelihood: by
    default `losses.likelihood.bernoulli()`. Its codes are int32 [B, *grid]; its prior is uniform over them, so that a
    sample of it alone is noise: `families.latent` gives it a prior.
    """
    check(len(grid) == 2 and min(grid) >= 1, f"a grid of codes has a height and a width of at least 1, not {grid}")
    p = bernoulli() if likelihood is None else likelihood
    parts = Parts(encoder, decoder, quantiser, tuple(grid), p)

    def uniform(params: Tree, extra: Tree, keys: Keys, condition: Tree) -> Array:
        return jax.vmap(lambda key: jax.random.randint(key, grid, 0, quantiser.codes, jnp.int32))(keys)

    return Model(
        Game(parts.init, {PLAYER: parts.loss}, lambda batch: check_support(p, batch.x)),
        uniform,
        codes,
        one_shot,
        decode=parts.decode,
        encode=parts.encode,
    )


def vq_vae(
    encoder: Network,
    decoder: Network,
    quantiser: Quantiser,
    prior: Network,
    grid: tuple[int, int],
    *,
    likelihood: Likelihood | None = None,
    condition: Conditioner | None = None,
) -> Model:
    """`latent(quantised(...), autoregressive(...))`: the players "vq_vae" and "prior" minimise

    -log p(x | z_c) + penalty (eq. 3)   and   -log p(c) = -sum_i log p(c_i | c_1, ..., c_{i-1}), nats,

    side by side; the prior's gradient goes no further than the codes.

    encoder, decoder, quantiser, likelihood: as in `quantised`; prior: (codes [B, *grid], condition) -> logits
    [B, *grid, codes], as in `autoregressive`. condition: of the prior.

    Noise and codes are vectors [B, *grid, D], between which there are paths and distances; any are decoded as the
    nearest codes'. The posterior is the point c(x), so that the density is the bound p(x) >= p(x | z_c) p(c).
    """
    outer = quantised(encoder, decoder, quantiser, grid, likelihood=likelihood)
    inner = autoregressive(prior, quantiser.codes, grid, condition=condition)
    model = latent(outer, inner, name=PLAYER, train=True)
    p, q = bernoulli() if likelihood is None else likelihood, quantiser
    parts = Parts(encoder, decoder, quantiser, tuple(grid), p)

    def draw(params: Tree, extra: Tree, keys: Keys, condition: Tree) -> Array:
        return q.vectors(extra[PLAYER]["codes"], model.prior(params, extra, keys, condition))

    def decode(params: Tree, extra: Tree, keys: Keys, z: Array, condition: Tree) -> Array:
        return model.decode(params, extra, keys, q.nearest(extra[PLAYER]["codes"], z), condition)

    def encode(params: Tree, extra: Tree, x: Array, condition: Tree) -> Array:
        return q.vectors(extra[PLAYER]["codes"], parts.encode(params[PLAYER], extra[PLAYER], x, condition))

    def log_p(params: Tree, extra: Tree, keys: Keys, batch: Batch, k: int) -> Array:
        index = parts.encode(params[PLAYER], extra[PLAYER], batch.x, None)
        log_px = p.log_prob(batch.x, parts.output(params[PLAYER], extra[PLAYER], index))
        log_pc = inner.density.log_p(params, extra, keys, batch._replace(x=index), k)  # type: ignore[union-attr]
        return log_px[:, None] + log_pc

    density = Density(log_p, "bound", p.measure, lambda batch: check_probability(p, batch.x))
    return model._replace(prior=draw, decode=decode, encode=encode, density=density)


class Parts(NamedTuple):
    """The networks and the quantiser of an autoencoder through a grid of codes."""

    encoder: Network
    decoder: Network
    quantiser: Quantiser
    grid: tuple[int, ...]
    likelihood: Likelihood

    def init(self, key: Array, batch: Batch) -> tuple[dict, Tree]:
        q, (for_encoder, for_decoder, for_codes) = self.quantiser, jax.random.split(key, 3)
        vectors = (*self.grid, q.features)
        phi, phi_stats = self.encoder.init(for_encoder, batch.x)
        got = output_shape(self.encoder, phi, phi_stats, batch.x)
        check(got == vectors, f"the encoder gives {got}, the grid of the quantiser's vectors is {vectors}: change one")
        z = jnp.zeros((batch.x.shape[0], *vectors))
        theta, theta_stats = self.decoder.init(for_decoder, z)
        check_decoder(output_shape(self.decoder, theta, theta_stats, z), batch.x, self.likelihood)
        extra = {"encoder": phi_stats, "decoder": theta_stats, "codes": q.init(for_codes)}
        return {PLAYER: {"encoder": phi, "decoder": theta}}, extra

    def loss(self, params: Tree, extra: Tree, turn: Turn, batch: Batch) -> tuple[Array, tuple[dict, Tree]]:
        own, q = params[PLAYER], self.quantiser
        h, phi_stats = self.encoder.train(folded(turn.keys, 2), own["encoder"], extra["encoder"], batch.x)
        u = q.bound(h.astype(jnp.float32))
        c = q.learn(extra["codes"], turn, u)
        z = straight_through(u, c.vectors)
        output, theta_stats = self.decoder.train(folded(turn.keys, 3), own["decoder"], extra["decoder"], z)
        distortion = -self.likelihood.log_prob(batch.x, output)
        stats = {"encoder": phi_stats, "decoder": theta_stats, "codes": c.state}
        metrics = {"distortion": distortion, "penalty": c.penalty, **usage(turn.gather(c.index), q.codes)}
        return distortion + c.penalty, (metrics, {**extra, **stats})

    def encode(self, params: Tree, extra: Tree, x: Array, condition: Tree) -> Array:
        """The codes of x, int32 [B, *grid]."""
        h, _ = self.encoder.apply(params[PLAYER]["encoder"], extra["encoder"], x)
        return self.quantiser.nearest(extra["codes"], self.quantiser.bound(h.astype(jnp.float32)))

    def output(self, params: Tree, extra: Tree, index: Array) -> Array:
        z = self.quantiser.vectors(extra["codes"], index)
        return self.decoder.apply(params[PLAYER]["decoder"], extra["decoder"], z)[0]

    def decode(self, params: Tree, extra: Tree, keys: Keys, index: Array, condition: Tree) -> Array:
        return self.likelihood.mean(self.output(params, extra, index))
