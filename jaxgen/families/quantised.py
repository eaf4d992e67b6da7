"""Autoencoders with discrete latents (van den Oord et al. 2017, arXiv:1711.00937) and their quantisers.

An image is a grid of codes, each a whole number with a vector of its own. An autoregressive network over the grid is
the prior, trained beside the autoencoder.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.losses.likelihood import Likelihood, bernoulli, check_probability, check_support
from jaxgen.nets import Network
from jaxgen.nets.layers import mapped
from jaxgen.types import Array, Batch, Keys, Model, Predict, Tree, check, one_shot

LEAST_SHARE = 1e-8  # an unused code fades no further: its vector, a ratio of two averages, stays a number


class Learned(NamedTuple):
    """What a quantiser makes of u in training: index [B, h, w] int32, their vectors [B, h, w, D], penalty [B] and the
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
    learn    (state, keys [B], u) -> Learned
    """

    codes: int
    features: int
    init: Callable[[Array], Tree]
    bound: Callable[[Array], Array]
    nearest: Callable[[Tree, Array], Array]
    vectors: Callable[[Tree, Array], Array]
    learn: Callable[[Tree, Keys, Array], Learned]


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

    Averages and restarts see the whole minibatch wherever its parts lie: shares instead of the paper's counts, and one
    gathering where a layout maps the batch by hand, so that every device keeps the same codebook.
    """
    check(codes >= 2 and features >= 1, f"a codebook of {codes} codes with {features} features: at least 2 and 1")
    check(0.0 <= decay < 1.0, f"decay must be at least 0 and below 1, it is {decay}")
    check(commitment >= 0, f"the commitment's weight must not be negative, it is {commitment}")
    check(0.0 <= restart < 1.0, f"restart is a part of the fair share, at least 0 and below 1; it is {restart}")

    def init(key: Array) -> Tree:
        share = jnp.full(codes, 0.0 if restart else 1.0 / codes)  # 0: not born yet
        return {"share": share, "sum": share[:, None] * jax.random.normal(key, (codes, features))}

    def learn(state: Tree, keys: Keys, u: Array) -> Learned:
        if restart:
            state = _revived(state, *_gathered(jax.lax.stop_gradient(u), _scores(keys, u)), restart)
        index = _nearest(state, u)
        e = jax.lax.stop_gradient(_vectors(state, index))
        penalty = commitment * jnp.mean(jnp.sum(jnp.square(u - e), axis=-1), axis=(1, 2))
        return Learned(index, e, penalty, _averaged(state, *_gathered(jax.lax.stop_gradient(u), index), decay))

    return Quantiser(codes, features, init, lambda z: z, _nearest, _vectors, learn)


def _codebook(state: Tree) -> Array:
    """e_k = m_k / n_k, [K, D]; 0 for a code not born yet."""
    return state["sum"] / jnp.maximum(state["share"], 0.01 * LEAST_SHARE)[:, None]


def _vectors(state: Tree, index: Array) -> Array:
    return _codebook(state)[index]


def _nearest(state: Tree, u: Array) -> Array:
    e = _codebook(state)
    # |u|^2 is the same for every code
    return jnp.argmin(jnp.sum(jnp.square(e), axis=-1) - 2.0 * (u @ e.T), axis=-1).astype(jnp.int32)


def _scores(keys: Keys, u: Array) -> Array:
    """A random number for each vector, from its example's key: [B, h, w]."""
    return jax.vmap(lambda key: jax.random.uniform(key, u.shape[1:3]))(keys)


def _gathered(u: Array, of_each: Array) -> tuple[Array, Array]:
    """u [N, D] and another number for each [N], of the whole minibatch wherever its parts lie."""
    axis = mapped()
    if axis is not None:
        u, of_each = (jax.lax.all_gather(a, axis, tiled=True) for a in (u, of_each))
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

    def learn(state: Tree, keys: Keys, u: Array) -> Learned:
        index = nearest(state, jax.lax.stop_gradient(u))
        return Learned(index, vectors(state, index), jnp.zeros(u.shape[0]), state)

    return Quantiser(codes, len(l), lambda key: {}, bound, nearest, vectors, learn)


def straight_through(u: Array, vectors: Array) -> Array:
    """The vectors, with the gradient of u (Bengio et al. 2013, arXiv:1308.3432; section 3.2 of the VQ-VAE)."""
    return u + jax.lax.stop_gradient(vectors - u)


def usage(index: Array, codes: int) -> dict[str, Array]:
    """perplexity exp(-sum_k p_k log p_k) of the shares p_k of the codes in a minibatch, at most `codes`, and the share
    of codes that are used at all."""
    axis, p = mapped(), jnp.mean(jax.nn.one_hot(index.reshape(-1), codes), axis=0)
    p = p if axis is None else jax.lax.pmean(p, axis)
    return {"perplexity": jnp.exp(-jnp.sum(jax.scipy.special.xlogy(p, p))), "used": jnp.mean(p > 0)}


def vq_vae(
    encoder: Network,
    decoder: Network,
    quantiser: Quantiser,
    prior: Network,
    grid: tuple[int, int],
    *,
    likelihood: Likelihood | None = None,
) -> Model:
    """An autoencoder through a grid of codes c and a prior over them: the players "vq_vae" and "prior" minimise

    -log p(x | z_c) + penalty (eq. 3)   and   -log p(c) = -sum_i log p(c_i | c_1, ..., c_{i-1}), nats,

    z_c the codes' vectors, through which the gradient goes straight to the encoder; the prior's goes no further than
    the codes.

    encoder: x [B, ...] -> [B, *grid, D]; decoder: [B, *grid, D] -> output; prior: codes [B, *grid] -> logits
    [B, *grid, codes], those of a position from the codes before it, row by row. quantiser: `vq` or `fsq`.
    likelihood: `losses.likelihood.bernoulli()` unless told otherwise.

    The latents of `prior`, `encode` and `predict` are vectors [B, *grid, D]; `predict` takes any and decodes the
    nearest codes'. The posterior is the point c(x), so that p(x) >= p(x | z_c) p(c): the `log_weights` of an image are
    all equal.
    """
    check(len(grid) == 2 and min(grid) >= 1, f"a grid of codes has a height and a width of at least 1, not {grid}")
    p = bernoulli() if likelihood is None else likelihood
    q, (height, width) = quantiser, grid

    def init(key: Array, batch: Batch) -> tuple[dict, Tree]:
        for_encoder, for_decoder, for_prior, for_codes = jax.random.split(key, 4)
        n, state = batch.x.shape[0], q.init(for_codes)
        phi, phi_stats = encoder.init(for_encoder, batch.x)
        theta, theta_stats = decoder.init(for_decoder, jnp.zeros((n, height, width, q.features)))
        eta, eta_stats = prior.init(for_prior, jnp.zeros((n, height, width), jnp.int32))
        params = {"vq_vae": {"encoder": phi, "decoder": theta}, "prior": eta}
        extra = {"encoder": phi_stats, "decoder": theta_stats, "prior": eta_stats, "codes": state}
        _check_networks(encoder, decoder, prior, q, grid, params, extra, batch.x, p)
        return params, extra

    def encoded(params: Tree, extra: Tree, x: Array) -> Array:
        h, _ = encoder.apply(params["vq_vae"]["encoder"], extra["encoder"], x)
        return q.nearest(extra["codes"], q.bound(h.astype(jnp.float32)))

    def decoded(params: Tree, extra: Tree, index: Array) -> Array:
        z = q.vectors(extra["codes"], index)
        return decoder.apply(params["vq_vae"]["decoder"], extra["decoder"], z)[0]

    def loss(params: Tree, extra: Tree, keys: Keys, batch: Batch) -> tuple[Array, tuple[dict, Tree]]:
        own = params["vq_vae"]
        h, phi_stats = encoder.apply(own["encoder"], extra["encoder"], batch.x, train=True)
        u = q.bound(h.astype(jnp.float32))
        c = q.learn(extra["codes"], keys, u)
        z = straight_through(u, c.vectors)
        output, theta_stats = decoder.apply(own["decoder"], extra["decoder"], z, train=True)
        distortion = -p.log_prob(batch.x, output)
        stats = {"encoder": phi_stats, "decoder": theta_stats, "prior": extra["prior"], "codes": c.state}
        told = {"distortion": distortion, "penalty": c.penalty, **usage(c.index, q.codes)}
        return distortion + c.penalty, (told, stats)

    def prior_loss(params: Tree, extra: Tree, keys: Keys, batch: Batch) -> tuple[Array, tuple[dict, Tree]]:
        index = encoded(params, extra, batch.x)
        logits, eta_stats = prior.apply(params["prior"], extra["prior"], index, train=True)
        return -_log_prob(logits, index), ({}, {**extra, "prior": eta_stats})

    def log_weights(params: Tree, extra: Tree, keys: Keys, batch: Batch, k: int) -> Array:
        index = encoded(params, extra, batch.x)
        log_px = p.log_prob(batch.x, decoded(params, extra, index))
        log_pc = _log_prob(prior.apply(params["prior"], extra["prior"], index)[0], index)
        return jnp.broadcast_to((log_px + log_pc)[:, None], (batch.x.shape[0], k))

    def draw(params: Tree, extra: Tree, keys: Keys) -> Array:
        index = _sampled(partial(prior.apply, params["prior"], extra["prior"]), keys, height, width)
        return q.vectors(extra["codes"], index)

    def predict(params: Tree, extra: Tree, condition: Tree) -> Predict:
        return lambda z, t: p.mean(decoded(params, extra, q.nearest(extra["codes"], z)))

    def encode(params: Tree, extra: Tree, x: Array, condition: Tree) -> Array:
        return q.vectors(extra["codes"], encoded(params, extra, x))

    return Model(
        init,
        {"vq_vae": loss, "prior": prior_loss},
        draw,
        predict,
        one_shot,
        encode=encode,
        log_weights=log_weights,
        check=lambda batch: check_support(p, batch.x),
        check_weights=lambda batch: check_probability(p, batch.x),
        measure=p.measure,
    )


def _log_prob(logits: Array, index: Array) -> Array:
    """sum_i log softmax(logits_i)[c_i]: [B, h, w, K], [B, h, w] -> nats [B]."""
    chosen = jnp.take_along_axis(logits, index[..., None], axis=-1)[..., 0]
    return jnp.sum(chosen - jax.nn.logsumexp(logits, axis=-1), axis=(1, 2))


def _sampled(logits_of: Callable[[Array], tuple[Array, Tree]], keys: Keys, height: int, width: int) -> Array:
    """c_i ~ p(c_i | c_1, ..., c_{i-1}), position by position: [B, height, width]. Position i of an example draws from
    (its key, i)."""

    def body(i: Array, index: Array) -> Array:
        logits = logits_of(index.reshape(-1, height, width))[0].reshape(*index.shape, -1)[:, i]
        keys_i = jax.vmap(jax.random.fold_in, (0, None))(keys, i)
        return index.at[:, i].set(jax.vmap(jax.random.categorical)(keys_i, logits).astype(jnp.int32))

    index = jnp.zeros((keys.shape[0], height * width), jnp.int32)
    return jax.lax.fori_loop(0, height * width, body, index).reshape(-1, height, width)


def _check_networks(
    encoder: Network,
    decoder: Network,
    prior: Network,
    q: Quantiser,
    grid: tuple[int, int],
    params: Tree,
    extra: Tree,
    x: Array,
    p: Likelihood,
) -> None:
    """InputError where a network's output is not what the others take."""

    def shape(net: Network, own: Tree, stats: Tree, *inputs: Any) -> tuple[int, ...]:
        return jax.eval_shape(net.apply, own, stats, *inputs)[0].shape[1:]

    own, needed = params["vq_vae"], (*grid, q.features)
    got = shape(encoder, own["encoder"], extra["encoder"], x)
    check(got == needed, f"the encoder gives {got}, the grid of the quantiser's vectors is {needed}: change one")
    z, needed = jnp.zeros((1, *needed)), (*x.shape[1:-1], x.shape[-1] * p.outputs)
    got = shape(decoder, own["decoder"], extra["decoder"], z)
    check(got == needed, f"the decoder gives {got}, the likelihood needs {needed}: change one")
    got = shape(prior, params["prior"], extra["prior"], jnp.zeros((1, *grid), jnp.int32))
    check(got == (*grid, q.codes), f"the prior gives {got}, the logits of the codes are {(*grid, q.codes)}: change one")
