"""Solvers of processes over codes, which put codes in place of masks (Austin et al. 2021, arXiv:2107.03006).

A prediction's x_0 are logits [B, h, w, K]; x_t are codes int32 [B, h, w], some of them `process.mask`. What has been
unmasked stays. Codes that are unmasked in one step are drawn independently of each other, which costs quality where the
steps are few.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from jaxgen.types import Array, Keys, Predict, Process, Solver, check


def unmask(process: Process) -> Solver:
    """A masked position stays masked with probability sigma_u / sigma_t, else its code is drawn from softmax(x_0),
    position by position: the reverse process (Sahoo et al. 2024, arXiv:2406.07524, section 3.2; Shi et al. 2024,
    arXiv:2406.04329, section 2)."""
    _check(process)
    return Solver(Partial(_init), Partial(_step, process))


def confident(process: Process, temperature: float = 4.5) -> Solver:
    """Codes are drawn for all masked positions, and the surest are kept: round(sigma_u N) of the N positions stay
    masked, those of the least log p(code) + temperature u g, g Gumbel noise (Chang et al. 2022, arXiv:2202.04200,
    section 3.2; the noise and its 4.5 as in their implementation). Its times are `cosine`'s there.

    temperature: 0 is greedy, whose samples are of few kinds; infinity takes positions in random order, and with a step
    for each of them draws exactly from a model that knows the conditional distributions (Hoogeboom et al. 2021,
    arXiv:2110.02037, section 3).
    """
    _check(process)
    check(temperature >= 0, f"the temperature must not be negative, it is {temperature}")
    return Solver(Partial(_init), Partial(_confident, process, jnp.asarray(temperature, jnp.float32)))


def _check(process: Process) -> None:
    check(process.mask is not None, "this solver is for processes over codes, this one is of Gaussian noise")


def _init(noise: Array) -> tuple:
    return (noise,)


def _step(process: Process, keys: Keys, predict: Predict, carry: tuple, t: Array, u: Array) -> tuple:
    (c,) = carry
    for_place, for_code = _split(keys)
    drawn = _drawn(for_code, predict(c, t).x0)
    stays = jax.vmap(lambda key: jax.random.uniform(key, c.shape[1:]))(for_place) < process.sigma(u) / process.sigma(t)
    return (jnp.where((c == process.mask) & ~stays, drawn, c),)


def _confident(
    process: Process, temperature: Array, keys: Keys, predict: Predict, carry: tuple, t: Array, u: Array
) -> tuple:
    (c,) = carry
    for_place, for_code = _split(keys)
    logits = predict(c, t).x0
    drawn, masked = _drawn(for_code, logits), c == process.mask
    log_p = jnp.take_along_axis(jax.nn.log_softmax(logits), drawn[..., None], axis=-1)[..., 0]
    noise = jax.vmap(lambda key: jax.random.gumbel(key, c.shape[1:]))(for_place)
    # divided by 1 + temperature, which changes no order, infinity is a number
    weight = jnp.where(jnp.isinf(temperature), 1.0, temperature * u / (1.0 + temperature))
    sure = jnp.where(jnp.isinf(temperature), 0.0, log_p / (1.0 + temperature)) + weight * noise
    sure = jnp.where(masked, sure, jnp.inf).reshape(c.shape[0], -1)
    rank = jnp.argsort(jnp.argsort(sure, axis=1), axis=1).reshape(c.shape)
    stays = rank < jnp.round(process.sigma(u) * c[0].size)
    return (jnp.where(masked & ~stays, drawn, c),)


def _split(keys: Keys) -> tuple[Keys, Keys]:
    both = jax.vmap(jax.random.split)(keys)
    return both[:, 0], both[:, 1]


def _drawn(keys: Keys, logits: Array) -> Array:
    """A code of softmax(logits) at every position: int32 [B, h, w]."""
    return jax.vmap(jax.random.categorical)(keys, logits).astype(jnp.int32)
