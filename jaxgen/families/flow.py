"""log p(x) of a diffusion or flow model, by its probability flow."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxgen.conditions import condition_of
from jaxgen.families.common import folded, split_keys
from jaxgen.losses.likelihood import total
from jaxgen.processes import angle, at_angle, check_gaussian, slope_by_log
from jaxgen.types import Array, Batch, Density, Keys, Model, Predict, Process, Tree, check, normal

IMAGES = 128  # at once


def flow_density(
    model: Model,
    *,
    trace: Literal["hutchinson", "exact"] = "hutchinson",
    tolerance: float = 1e-4,
    level: float = 1e-3,
    levels: int | None = None,
) -> Density:
    """log p(x_0) = log p(x_1) + int div (dx/dt) dt along the probability flow (Song et al. 2020, arXiv:2011.13456,
    section 4.3; Chen et al. 2018, arXiv:1806.07366, theorem 1).

    It is integrated in what no schedule changes: y = x / r, r^2 = alpha^2 + sigma^2, u = log tan(phi / 2), tan(phi) =
    sigma / alpha, dy/du = cos(phi) y - x^_0, which is slow at every level of noise, from tan(phi) = `level` on, below
    which x is taken for y, to that of t = 1, by Tsitouras' method of order 5 with this absolute and relative
    `tolerance` (diffrax), of y and of the integral apart.

    trace: "exact", one Jacobian-vector product a dimension: for points; "hutchinson", the unbiased estimate v^T J v
    with one v of signs a draw (Grathwohl et al. 2018, arXiv:1810.01367, eq. 8): for images. It is a density:
    for pixels, whole numbers, `dequantised` makes a bound of it where the model was trained on dequantised ones.

    levels: of pixels from -1 to 1, on which the model was trained as they are. Their density is a comb, of no use; with
    y ~ q(y|x) = N(cos(phi) x, sin(phi)^2 I) at the first angle, the noise that is there, it bounds a probability,

        log P(x) >= E log p(y) + log P(x|y) - log q(y|x), P(x|y) = prod_i softmax_k log N(y_i; cos(phi) v_k, sin(phi)^2)

    (as Ho et al. 2019, arXiv:1902.00275, section 3.1, dequantise; the decoder is that of Kingma et al. 2021,
    arXiv:2107.00630, section 3.3), tightly where `level` is below a quarter of the distance of levels.
    InputError for a model that does not iterate.
    """
    check(model.process is not None, "a flow is of a model that iterates, this one draws in one step")
    check_gaussian(model.process, "the probability flow is of diffusion")  # type: ignore[arg-type]
    check(trace in ("hutchinson", "exact"), f"the trace is exact or hutchinson's, not {trace!r}")
    check(tolerance > 0 and level > 0, f"tolerance and level must be positive, they are {tolerance} and {level}")
    check(levels is None or levels >= 2, f"pixels have at least 2 levels, not {levels}")
    process: Process = model.process  # type: ignore[assignment]

    def log_p(params: Tree, extra: Tree, keys: Keys, batch: Batch, k: int) -> Array:
        predict = model.predict(params, extra, condition_of(model.condition, batch))

        def draw(i: Array) -> Array:
            own, y, constant = folded(keys, i), batch.x, 0.0
            if levels is not None:
                own, for_noise = split_keys(own)
                y, constant = _noised(for_noise, batch.x, jnp.arctan(level), levels)
            signs = _signs(own, batch.x.shape[1:])
            divergence = partial(_estimated, signs) if trace == "hutchinson" else _exact
            return integrated(process, predict, y, tolerance, level, divergence) + constant

        return jax.lax.map(draw, jnp.arange(k)).T

    if levels is None:
        kind = "exact" if trace == "exact" else "unbiased"
        return Density(log_p, kind, "a density of what was trained on", draws=IMAGES)
    measure = f"a probability of pixels on {levels} levels, by the flow's first noise"
    return Density(log_p, "weights" if trace == "exact" else "bound", measure, draws=IMAGES)


def _noised(keys: Keys, x: Array, phi: Array, levels: int) -> tuple[Array, Array]:
    """(y ~ q(y|x), log P(x|y) - log q(y|x) [B]), x on `levels` levels."""
    sin, values = jnp.sin(phi), jnp.cos(phi) * jnp.linspace(-1.0, 1.0, levels)
    y = jnp.cos(phi) * x + sin * normal(keys, x.shape[1:])
    of_all = jax.nn.logsumexp(-0.5 * jnp.square((y[..., None] - values) / sin), axis=-1)
    return y, total(0.5 * jnp.log(2 * jnp.pi) + jnp.log(sin) - of_all)


def integrated(process: Process, predict: Predict, y: Array, tolerance: float, level: float, divergence) -> Array:
    """log p(y), [B], y at the noise level `level`."""
    import diffrax  # a second and a half to import

    def moved(u: Any, carry: Any, args: Any) -> Any:
        phi = 2.0 * jnp.arctan(jnp.exp(u))
        return divergence(lambda y: slope_by_log(process, predict, y, phi), carry[0])

    last = angle(process, jnp.ones(()))
    begin, end = (jnp.log(jnp.tan(0.5 * phi)) for phi in (jnp.arctan(jnp.asarray(level)), last))
    found = diffrax.diffeqsolve(
        diffrax.ODETerm(moved),
        diffrax.Tsit5(),
        begin,
        end,
        None,
        (y, jnp.zeros(y.shape[0])),
        stepsize_controller=diffrax.PIDController(rtol=tolerance, atol=tolerance, norm=_worse),
        max_steps=10_000,
    )
    y, change = (a[-1] for a in found.ys or ())
    scale = process.scale / at_angle(process, last)[1]
    return -0.5 * total(jnp.square(y / scale)) - y[0].size * (0.5 * jnp.log(2 * jnp.pi) + jnp.log(scale)) + change


def _worse(error: tuple[Array, Array]) -> Array:
    """The larger of two root mean squares: in one over both the many numbers of y would hide the integral's error."""
    return jnp.maximum(*(jnp.sqrt(jnp.mean(jnp.square(part))) for part in error))


def _exact(f, y: Array) -> tuple[Array, Array]:
    """(f(y), its divergence [B]), a dimension at a time."""
    size = y[0].size

    def along(i: Array) -> Array:
        v = jnp.broadcast_to(jnp.zeros(size).at[i].set(1.0).reshape(y.shape[1:]), y.shape)
        return jax.jvp(f, (y,), (v,))[1].reshape(len(y), -1)[:, i]

    return f(y), jnp.sum(jax.lax.map(along, jnp.arange(size)), axis=0)


def _estimated(signs: Array, f, y: Array) -> tuple[Array, Array]:
    """(f(y), v^T J v), which is the divergence on average over v."""
    value, turned = jax.jvp(f, (y,), (signs,))
    return value, total(signs * turned)


def _signs(keys: Keys, shape: tuple[int, ...]) -> Array:
    return jax.vmap(lambda key: jax.random.rademacher(key, shape, jnp.float32))(keys)
