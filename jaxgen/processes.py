"""Diffusion processes, x_t = alpha(t) x_0 + sigma(t) eps with eps ~ N(0, I).

Times are continuous, t in [0, 1]; a discrete process of T steps (Ho et al. 2020, arXiv:2006.11239) is the same
process on the grid t = i / T. A process is a pytree of numbers with static functions, so it passes through `jit` as an
argument.
"""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from jaxgen.types import Array, Predict, Process, check


def from_betas(betas, clip: float = 1.0) -> Process:
    """The variance-preserving process with steps q(x_i | x_{i-1}) = N(sqrt(1 - beta_i) x_{i-1}, beta_i I).

    alpha(i/T)^2 = prod_{j <= i} (1 - beta_j) exactly (Ho et al. 2020, eq. 4); between the grid's points
    log alpha is interpolated linearly, which is what a constant beta within each step gives. clip: of x_0 estimates,
    see `Process`; infinity for points and codes.
    """
    betas = np.asarray(betas, np.float64)
    check(
        betas.ndim == 1 and betas.size > 0 and bool(np.all((betas > 0) & (betas < 1))),
        "betas must be a non-empty vector with every entry inside (0, 1)",
    )
    log_alpha = np.concatenate([[0.0], 0.5 * np.cumsum(np.log1p(-betas))])
    table = jnp.asarray(log_alpha, jnp.float32)
    check(clip > 0, f"clip, the largest value of x_0, must be positive, it is {clip}")
    alpha, sigma, time = (Partial(function, table) for function in (_alpha, _sigma, _time))
    return Process(alpha, sigma, time, clip=jnp.asarray(clip, jnp.float32))


def linear(steps: int = 1000, first: float = 1e-4, last: float = 0.02, *, clip: float = 1.0) -> Process:
    """beta_i from `first` to `last` in `steps` equal increments (Ho et al. 2020, arXiv:2006.11239, section 4)."""
    return from_betas(np.linspace(first, last, steps), clip)


def cosine(steps: int = 1000, s: float = 0.008, *, clip: float = 1.0) -> Process:
    """alpha(t)^2 = cos^2((t + s) / (1 + s) pi / 2), normalised to 1 at 0, every beta clipped at 0.999
    (Nichol and Dhariwal 2021, arXiv:2102.09672, eq. 17)."""
    f = np.cos((np.linspace(0.0, 1.0, steps + 1) + s) / (1 + s) * np.pi / 2) ** 2
    return from_betas(np.clip(1.0 - f[1:] / f[:-1], 1e-12, 0.999), clip)


def sigmoid(
    steps: int = 1000, start: float = -3.0, stop: float = 3.0, tau: float = 1.0, *, clip: float = 1.0
) -> Process:
    """alpha(t)^2 = (S(stop) - S(start + t (stop - start))) / (S(stop) - S(start)), S(v) = sigmoid(v / tau), every beta
    clipped at 0.999 (Jabri, Fleet and Chen 2022, arXiv:2212.11972, appendix; Chen 2023, arXiv:2301.10972, figure 3)."""
    check(stop > start and tau > 0, f"a sigmoid runs from start to stop > start at tau > 0, not {start}, {stop}, {tau}")
    s = 1.0 / (1.0 + np.exp(-np.linspace(start, stop, steps + 1) / tau))
    f = (s[-1] - s) / (s[-1] - s[0])
    return from_betas(np.clip(1.0 - f[1:] / f[:-1], 1e-12, 0.999), clip)


def log_linear(*log_snr: float, clip: float = 1.0) -> Process:
    """log SNR(t) falls linearly, from 14 to -10 by default, with alpha^2 + sigma^2 = 1: the schedule on which the mean
    squared error of eps at times uniform on [0, 1] is the variational bound in continuous time, up to a factor and a
    constant (Kingma et al. 2021, arXiv:2107.00630, eq. 18 and appendix F.2, "linear"). At t = 0 there is still noise
    of e^(-first / 2).

    More than two values are the log-SNRs at even times, linear between them. The bound depends on the ends alone, its
    estimate's variance on the others (there section 5.1 and 5.2): where the loss is largest they should be nearest.
    """
    values = log_snr or (14.0, -10.0)
    falls = len(values) > 1 and all(first > last for first, last in itertools.pairwise(values))
    check(falls, f"the log-SNR falls from first to last, it is {' '.join(map(str, values))}")
    table = jnp.asarray(values, jnp.float32)
    functions = (Partial(_log_linear_alpha, table), Partial(_log_linear_sigma, table), Partial(_log_linear_time, table))
    return Process(*functions, clip=jnp.asarray(clip, jnp.float32))


def _log_linear(table: Array, t: Array) -> Array:
    return jnp.interp(t, jnp.linspace(0.0, 1.0, table.shape[0]), table)


def _log_linear_alpha(table: Array, t: Array) -> Array:
    return jnp.exp(0.5 * jax.nn.log_sigmoid(_log_linear(table, t)))


def _log_linear_sigma(table: Array, t: Array) -> Array:
    return jnp.exp(0.5 * jax.nn.log_sigmoid(-_log_linear(table, t)))


def _log_linear_time(table: Array, log_snr: Array) -> Array:
    return jnp.interp(log_snr, table[::-1], jnp.linspace(1.0, 0.0, table.shape[0]))


def flow(*, clip: float = 1.0) -> Process:
    """alpha = 1 - t, sigma = t: the straight paths of rectified flow and of flow matching with a Gaussian source (Liu,
    Gong and Liu 2022, arXiv:2209.03003, eq. 1; Lipman et al. 2022, arXiv:2210.02747, eq. 20 and 23 with sigma_min = 0,
    time reversed)."""
    return Process(Partial(_remaining), Partial(jnp.asarray), Partial(_flow_time), clip=jnp.asarray(clip, jnp.float32))


def absorbing(codes: int) -> Process:
    """x_t is x_0 with probability alpha = 1 - t, position by position, and else the mask, one more code beside 0, ...,
    codes - 1 (Austin et al. 2021, arXiv:2107.03006, section 3.1, "absorbing state"). Other schedules are other times:
    the bound does not depend on them (Sahoo et al. 2024, arXiv:2406.07524, section 3.4), a sampler's steps do."""
    check(codes >= 2, f"a process over codes has at least 2 of them, not {codes}")
    return flow(clip=np.inf)._replace(mask=jnp.asarray(codes, jnp.int32))


def check_gaussian(process: Process, what: str) -> None:
    """InputError for a process over codes, which `what` is not for."""
    check(process.mask is None, f"{what} by Gaussian noise, this model's process masks codes")


def _remaining(t: Array) -> Array:
    return 1.0 - t


def _flow_time(log_snr: Array) -> Array:
    return jnp.reciprocal(1.0 + jnp.exp(0.5 * log_snr))


def variance_exploding(sigma_max: float = 80.0, *, clip: float = 1.0) -> Process:
    """alpha = 1, sigma = sigma_max t, from N(0, sigma_max^2 I): EDM's, whose times are its noise levels (Karras et al.
    2022, arXiv:2206.00364, section 3 and table 1). Its steps are those of `sampling.karras`."""
    check(sigma_max > 0, f"the largest noise level must be positive, it is {sigma_max}")
    most = jnp.asarray(sigma_max, jnp.float32)
    functions = (Partial(jnp.ones_like), Partial(jnp.multiply, most), Partial(_level_time, most))
    return Process(*functions, scale=most, clip=jnp.asarray(clip, jnp.float32))


def _level_time(sigma_max: Array, log_snr: Array) -> Array:
    return jnp.exp(-0.5 * log_snr) / sigma_max


def shifted(process: Process, ratio: float) -> Process:
    """The same process at other times: log SNR'(t) = log SNR(t) - 2 log ratio, for images whose sides are `ratio` times
    those for which the process was chosen, and which need as much more noise to be as blurred (Hoogeboom, Heek and
    Salimans 2023, arXiv:2301.11093, eq. 3; for a flow t' = ratio t / (1 + (ratio - 1) t), Esser et al. 2024,
    arXiv:2403.03206, eq. 23). Times at which the process itself has not so much noise are at its end."""
    check(ratio > 0, f"the ratio of two sides must be positive, it is {ratio}")
    by = jnp.asarray(2.0 * np.log(ratio), jnp.float32)
    alpha, sigma = (Partial(_at_shifted, process, function, by) for function in (process.alpha, process.sigma))
    return process._replace(alpha=alpha, sigma=sigma, time=Partial(_shifted_time, process, by))


def _at_shifted(process: Process, function: Partial, by: Array, t: Array) -> Array:
    inside = jnp.clip(t, 1e-12, 1.0)
    moved = process.time(log_snr(process, inside) - by)
    return function(jnp.where(t > 0, jnp.where(t < 1, moved, 1.0), 0.0))


def _shifted_time(process: Process, by: Array, log_snr: Array) -> Array:
    return process.time(log_snr + by)


def _log_alpha(table: Array, t: Array) -> Array:
    steps = table.shape[0] - 1
    return jnp.interp(t * steps, jnp.arange(steps + 1, dtype=jnp.float32), table)


def _alpha(table: Array, t: Array) -> Array:
    return jnp.exp(_log_alpha(table, t))


def _sigma(table: Array, t: Array) -> Array:
    # sqrt(1 - alpha^2) without cancellation near t = 0
    return jnp.sqrt(-jnp.expm1(2.0 * _log_alpha(table, t)))


def _time(table: Array, log_snr: Array) -> Array:
    # log alpha falls with t; alpha^2 = sigmoid(log SNR) where alpha^2 + sigma^2 = 1
    steps = table.shape[0] - 1
    return jnp.interp(0.5 * -jnp.logaddexp(0.0, -log_snr), table[::-1], jnp.linspace(1.0, 0.0, steps + 1))


def log_snr(process: Process, t: Array) -> Array:
    """log(alpha(t)^2 / sigma(t)^2), the inverse of `process.time`."""
    return 2.0 * (jnp.log(process.alpha(t)) - jnp.log(process.sigma(t)))


def like(scale: Array, x: Array) -> Array:
    """A scalar or a [B] vector, shaped to multiply x: [B, ...]."""
    return scale if jnp.ndim(scale) == 0 else jnp.reshape(scale, scale.shape + (1,) * (x.ndim - scale.ndim))


def diffuse(process: Process, x0: Array, eps: Array, t: Array) -> Array:
    """x_t = alpha(t) x_0 + sigma(t) eps (Ho et al. 2020, eq. 4). x0, eps: [B, ...]; t: [B] or a scalar."""
    return like(process.alpha(t), x0) * x0 + like(process.sigma(t), x0) * eps


def forward(process: Process, s: Array, t: Array) -> tuple[Array, Array]:
    """(a, beta) of q(x_t | x_s) = N(a x_s, beta I), s <= t: a = alpha_t / alpha_s, beta = sigma_t^2 - a^2 sigma_s^2."""
    a = process.alpha(t) / process.alpha(s)
    return a, jnp.maximum(jnp.square(process.sigma(t)) - jnp.square(a * process.sigma(s)), 0.0)


def fraction_of(variance: str) -> float:
    """The v of `log_variance` that a name stands for: 1 for "beta", 0 for "beta_tilde", -1 for "own", the model's."""
    fractions = {"own": -1.0, "beta": 1.0, "beta_tilde": 0.0}
    check(variance in fractions, f"variance must be 'own', 'beta' or 'beta_tilde', it is {variance!r}")
    return fractions[variance]


def log_variance(process: Process, t: Array, s: Array, fraction: Array | float) -> Array:
    """v log beta + (1 - v) log beta_tilde of the step from t back to s < t, v = `fraction` (Nichol and Dhariwal 2021,
    arXiv:2102.09672, eq. 15); beta_tilde = beta sigma_s^2 / sigma_t^2. It would be 0 for s = 0, where it is taken from
    the step of the same length before, from min(2 t, 1) to t, as in their code. t, s: [B] or scalars.
    """
    _, beta = forward(process, s, t)
    first = s <= 0
    later, earlier = jnp.where(first, jnp.minimum(2.0 * t, 1.0), t), jnp.where(first, jnp.minimum(t, 0.5), s)
    tilde = forward(process, earlier, later)[1] * jnp.square(process.sigma(earlier) / process.sigma(later))
    logs = [jnp.log(jnp.maximum(b, 1e-20)) for b in (beta, tilde)]
    if jnp.ndim(fraction) > 0:
        logs = [like(b, jnp.asarray(fraction)) for b in logs]
    return fraction * logs[0] + (1.0 - fraction) * logs[1]


def flowed(process: Process, x0: Array, x: Array, t: Array, u: Array) -> Array:
    """x_u = alpha_u x_0 + sigma_u eps, DDIM's step from x_t to u, [B] (Song et al. 2021, arXiv:2010.02502, eq. 12)."""
    eps = to_eps(like(process.alpha(t), x), like(process.sigma(t), x), x, x0)
    return diffuse(process, x0, eps, u)


def level(process: Process, t: Array) -> Array:
    """The noise level sigma / alpha."""
    return process.sigma(t) / process.alpha(t)


def angle(process: Process, t: Array) -> Array:
    """phi, tan(phi) = sigma / alpha; a flow ends a little before a right angle."""
    return jnp.minimum(jnp.arctan(jnp.exp(-0.5 * log_snr(process, t))), 0.5 * np.pi - 1e-5)


def at_angle(process: Process, phi: Array) -> tuple[Array, Array]:
    """(t, r), r^2 = alpha^2 + sigma^2, where sigma / alpha = tan(phi)."""
    t = process.time(-2.0 * jnp.log(jnp.tan(phi)))
    return t, jnp.hypot(process.alpha(t), process.sigma(t))


def slope_by_angle(process: Process, predict: Predict, y: Array, phi: Array) -> Array:
    """dy/dphi = -sin(phi) x^_0 + cos(phi) eps^ = (cos(phi) y - x^_0) / sin(phi) of the probability flow, y = x / r:
    without the schedule, and finite at both ends. phi: [B] or a scalar."""
    return slope_by_log(process, predict, y, phi) / like(jnp.sin(phi), y)


def slope_by_log(process: Process, predict: Predict, y: Array, phi: Array) -> Array:
    """dy/du = cos(phi) y - x^_0 of the same flow, u = log tan(phi / 2): slow at every level of noise."""
    t, length = at_angle(process, phi)
    return like(jnp.cos(phi), y) * y - predict(like(length, y) * y, t).x0


def to_eps(alpha: Array, sigma: Array, x_t: Array, x0: Array) -> Array:
    """eps = (x_t - alpha x_0) / sigma: the noise in x_t if its clean image is x_0."""
    return (x_t - alpha * x0) / sigma
