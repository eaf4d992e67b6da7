"""The loss of a denoiser, in two values: at which times it is taken, and what an error there weighs.

A new time distribution is one function `(process, turn) -> t [B]`, a new weighting one function `(process, t) -> w [B]`
of the squared error of x_0; both are arguments of `families.diffusion`. A coupling says which noise an example goes to.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxgen.processes import level, log_snr
from jaxgen.types import Array, Interval, Process, Turn, check

TimesOf = Callable[[Process, Turn], Array]  # -> t [B] in (0, 1]
Weighting = Callable[[Process, Array], Array]  # (process, t [B]) -> w [B]
Coupling = Callable[[Array, Array, Turn], Array]  # (x_0 [B, ...], eps [B, ...], turn) -> eps [B, ...], in another order


class Hybrid(NamedTuple):
    """The term of the variational bound that trains variances: weight T L_{t-1}, bits a dimension (Nichol and Dhariwal
    2021, arXiv:2102.09672, eq. 16, whose code has bits).

    steps: T of the bound; levels: of pixels from -1 to 1, whose probability L_0 is then, None for a density.
    """

    weight: float = 0.001
    steps: int = 1000
    levels: int | None = 256


IntervalsOf = Callable[[Turn], Interval]
PairsOf = Callable[[Process, Array, Array], Array]  # (process, t [B], the run's step) -> r [B] in [0, t)

# --- times -----------------------------------------------------------------------------------------------------------


def discrete(steps: int = 1000) -> TimesOf:
    """t uniform on {1/T, 2/T, ..., 1}, T = steps (Ho et al. 2020, arXiv:2006.11239, algorithm 1)."""
    check(steps >= 1, f"a process has at least one step, not {steps}")
    return lambda process, turn: (jnp.floor(_uniform(turn) * steps) + 1.0) / steps


def continuous() -> TimesOf:
    """t uniform on (0, 1]."""
    return lambda process, turn: 1.0 - _uniform(turn)


def low_discrepancy() -> TimesOf:
    """t_i = 1 - mod(u + i / B, 1), one u ~ U(0, 1) a minibatch: each t_i is uniform, and together they cover (0, 1]
    evenly, which lowers the variance of the loss (Kingma et al. 2021, arXiv:2107.00630, appendix I.1)."""

    def times(process: Process, turn: Turn) -> Array:
        u = turn.gather(_uniform(turn))
        return 1.0 - jnp.mod(u[0] + turn.own / u.shape[0], 1.0)

    return times


def log_normal(mean: float = -1.2, std: float = 1.2) -> TimesOf:
    """log(sigma / alpha) ~ N(mean, std^2): EDM's noise levels (Karras et al. 2022, arXiv:2206.00364, table 1). What
    lies beyond a process's own levels is taken at its ends."""
    check(std > 0, f"a standard deviation must be positive, it is {std}")
    return lambda process, turn: _inside(process.time(-2.0 * (mean + std * _normal(turn))))


def logit_normal(mean: float = 0.0, std: float = 1.0) -> TimesOf:
    """log(t / (1 - t)) ~ N(mean, std^2): more often in the middle (Esser et al. 2024, arXiv:2403.03206, eq. 19)."""
    check(std > 0, f"a standard deviation must be positive, it is {std}")
    return lambda process, turn: _inside(jax.nn.sigmoid(mean + std * _normal(turn)))


def intervals(mean: float = -0.4, std: float = 1.0, share: float = 0.25) -> IntervalsOf:
    """(t, r), the larger and the smaller of two logit-normal times; r = t with probability 1 - share (Geng et al. 2025,
    arXiv:2505.13447, table 1)."""
    check(std > 0 and 0 <= share <= 1, f"std must be positive and share a probability: {std}, {share}")

    def times(turn: Turn) -> Interval:
        for_times, for_share = turn.split()
        pair = jax.vmap(lambda key: jax.random.normal(key, (2,)))(for_times.keys)
        pair = jax.nn.sigmoid(mean + std * pair)
        t, r = jnp.max(pair, axis=1), jnp.min(pair, axis=1)
        return Interval(t, jnp.where(_uniform(for_share) < share, r, t))

    return times


def easy(steps: int, q: float = 2.0, doublings: int = 8, k: float = 8.0, b: float = 1.0) -> PairsOf:
    """S_r = S_t max(1 - q^-(i + 1) (1 + k sigmoid(-b S_t)), 0) of noise levels S = sigma / alpha, i from 0 to
    doublings - 1 in equal parts of the run's `steps`: at first r = 0 for small t, diffusion's own loss, at last pairs
    q^doublings times as near (Geng et al. 2024, arXiv:2406.14548, section 3.3; the constants of its code)."""
    check(steps >= 1 and doublings >= 1, f"steps and doublings are at least 1, not {steps} and {doublings}")
    check(q > 1, f"pairs come nearer by a factor q above 1, it is {q}")

    def nearer(process: Process, t: Array, step: Array) -> Array:
        s_t = level(process, t)
        i = jnp.minimum(step * doublings // steps, doublings - 1).astype(jnp.float32)
        ratio = 1.0 - q ** -(i + 1.0) * (1.0 + k * jax.nn.sigmoid(-b * s_t))
        r = process.time(-2.0 * (jnp.log(s_t) + jnp.log(jnp.maximum(ratio, 1e-6))))
        return jnp.where(ratio > 0, jnp.minimum(r, t), 0.0)

    return nearer


def _uniform(turn: Turn) -> Array:
    return jax.vmap(jax.random.uniform)(turn.keys)


def _normal(turn: Turn) -> Array:
    return jax.vmap(jax.random.normal)(turn.keys)


def _inside(t: Array) -> Array:
    return jnp.clip(t, 1e-5, 1.0)


# --- weights ---------------------------------------------------------------------------------------------------------


def _snr(process: Process, t: Array) -> Array:
    return jnp.square(process.alpha(t) / process.sigma(t))


def simple() -> Weighting:
    """w = SNR: the squared error of eps, L_simple, whatever the network predicts (Ho et al. 2020, eq. 14)."""
    return _snr


def min_snr(gamma: float = 5.0) -> Weighting:
    """w = min(SNR, gamma): times with hardly any noise, which conflict with the others, weigh less (Hang et al. 2023,
    arXiv:2303.09556, section 3.4)."""
    check(gamma > 0, f"gamma is a signal-to-noise ratio, above 0, it is {gamma}")
    return lambda process, t: jnp.minimum(_snr(process, t), gamma)


def edm_weight(sigma_data: float = 0.5) -> Weighting:
    """w = SNR + 1 / sigma_data^2 = (S^2 + d^2) / (S d)^2 at the level S = sigma / alpha (Karras et al. 2022,
    arXiv:2206.00364, table 1): that which `edm`'s own parametrisation has without a weighting."""
    check(sigma_data > 0, f"the standard deviation of the data must be positive, it is {sigma_data}")
    return lambda process, t: _snr(process, t) + sigma_data**-2


def likelihood() -> Weighting:
    """w = -dSNR/dt / 2, for times uniform on (0, 1]: the loss is then the diffusion term of the variational bound of
    -log p(x_0) in continuous time, nats a dimension (Kingma et al. 2021, arXiv:2107.00630, eq. 17)."""

    def weight(process: Process, t: Array) -> Array:
        slope = jax.vmap(jax.grad(partial(log_snr, process)))(t)
        return -0.5 * slope * _snr(process, t)

    return weight


# --- couplings -------------------------------------------------------------------------------------------------------


def independent(x0: Array, eps: Array, turn: Turn) -> Array:
    """Every example with its own noise."""
    return eps


def optimal(x0: Array, eps: Array, turn: Turn) -> Array:
    """The noises of a minibatch among its examples so that sum |x_0 - eps|^2 is least: minibatch optimal transport,
    whose paths cross less (Tong et al. 2023, arXiv:2302.00482, section 3.2; Pooladian et al. 2023, arXiv:2304.14772).
    The assignment is exact, by the Hungarian algorithm, whose time grows with the cube of the minibatch."""
    every_x, every_eps = (turn.gather(a).reshape(-1, a[0].size) for a in (x0, eps))
    squares = jnp.sum(jnp.square(every_x), 1)[:, None] + jnp.sum(jnp.square(every_eps), 1)[None]
    cost = squares - 2.0 * jnp.matmul(every_x, every_eps.T, precision="highest")
    rows, columns = optax.assignment.hungarian_algorithm(jax.lax.stop_gradient(cost))
    chosen = jnp.zeros_like(columns).at[rows].set(columns)
    return every_eps[chosen[turn.own]].reshape(eps.shape)
