"""Image quality: PSNR, SSIM and other distances of two images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.data.pipeline import normalize
from jaxgen.losses.likelihood import total
from jaxgen.metrics.pieces import in_pieces
from jaxgen.sampling import reconstruct
from jaxgen.types import Array, Batch, Model, TrainState, Tree, check

PEAK = 2.0  # from black, -1, to white, 1
K1, K2, SIGMA = 0.01, 0.03, 1.5  # of SSIM


def psnr(x: Any, y: Any) -> Array:
    """10 log10(2^2 / mean_i (x_i - y_i)^2), the peak signal-to-noise ratio: [B, ...] in [-1, 1] each -> dB [B].

    Infinite for equal images. InputError where the shapes differ.
    """
    x, y = _pair(x, y)
    mean = total(jnp.square(x - y)) / (x[0].size if len(x) else 1)
    return 10.0 * jnp.log10(PEAK**2 / mean)


def ssim(x: Any, y: Any, *, window: int = 11) -> Array:
    """(2 m_x m_y + C1)(2 s_xy + C2) / ((m_x^2 + m_y^2 + C1)(s_x^2 + s_y^2 + C2)), 1 for equal images, less for others,
    with means m, variances s^2 and covariance s_xy under a Gaussian window of deviation 1.5 pixels, C1 = (0.01 L)^2,
    C2 = (0.03 L)^2 and L = 2: [B, H, W, C] in [-1, 1] each -> [B], the mean over windows that lie inside the image and
    over channels (Wang, Bovik, Sheikh and Simoncelli 2004, doi:10.1109/TIP.2003.819861, eq. 13 to 17).

    window: pixels a side, odd, by default the paper's 11. Images that are smaller are refused: with another window the
    number is not comparable with published ones, so it has to be chosen. Differentiable.
    """
    x, y = _pair(x, y)
    check(x.ndim == 4, f"SSIM compares images [B, H, W, C], not arrays of shape {x.shape}")
    check(window >= 1 and window % 2 == 1, f"the window has an odd number of pixels a side, not {window}")
    least = min(x.shape[1:3])
    largest = least - 1 + least % 2
    check(
        least >= window,
        f"SSIM has a window of {window} x {window} pixels, images of {x.shape[1]} x {x.shape[2]} are smaller: "
        f"enlarge them, or give window={largest} and report it",
    )
    # variances do not depend on the image's mean: without it the difference of squares loses no digits
    middles = [jnp.mean(a, axis=(1, 2), keepdims=True) for a in (x, y)]
    x, y = (a - middle for a, middle in zip((x, y), middles, strict=True))
    near_x, near_y, xx, yy, xy = (_blurred(a, window) for a in (x, y, x * x, y * y, x * y))
    spread, covariance = xx - near_x**2 + yy - near_y**2, xy - near_x * near_y
    m_x, m_y = near_x + middles[0], near_y + middles[1]
    c1, c2 = (K1 * PEAK) ** 2, (K2 * PEAK) ** 2
    structure = (2 * m_x * m_y + c1) * (2 * covariance + c2) / ((m_x**2 + m_y**2 + c1) * (spread + c2))
    return jnp.mean(structure, axis=(1, 2, 3))


def _blurred(x: Array, window: int) -> Array:
    """Means under the window, along one axis after the other: [B, H, W, C] -> [B, H - window + 1, ..., C]. Sums, not
    convolutions, whose products an accelerator may round too coarsely for the differences of variances."""
    at = np.arange(window) - window // 2
    weights = np.exp(-(at**2) / (2 * SIGMA**2))
    for axis in (1, 2):
        size = x.shape[axis] - window + 1
        parts = [jax.lax.slice_in_dim(x, i, i + size, axis=axis) for i in range(window)]
        x = sum(float(w) * part for w, part in zip(weights / weights.sum(), parts, strict=True))  # type: ignore
    return x


def distances(distance: Callable[[Array, Array], Array], x: Any, y: Any, *, batch: int = 64) -> np.ndarray:
    """`distance(x_i, y_i)` of N pairs, `batch` at a time: [N, ...] each, as a data set gives it or in [-1, 1] -> [N].

    distance: (x, y) -> [B], such as `metrics.lpips.lpips`, `psnr` or `ssim`. InputError where the shapes differ.
    """
    check(x.shape == y.shape and len(x) > 0, f"give as many images of the same shape twice, not {x.shape}, {y.shape}")
    return in_pieces(lambda two: _measured(_traced(distance), two.x, two.condition), x, y, batch=batch)


def reconstruction_error(
    model: Model,
    state: TrainState,
    x: Any,
    *,
    distance: Callable[[Array, Array], Array] | None = None,
    condition: Tree = None,
    batch: int = 128,
    **options,
) -> np.ndarray:
    """||x - x_hat||^2 of the reconstruction x_hat, summed over pixels of range 2: x [N, ...], as a data set gives it or
    in [-1, 1] -> [N].

    distance: (x, x_hat) -> [B] instead, such as `metrics.lpips.lpips`, `psnr` or `ssim`; condition: of the model,
    [N, ...]; batch: images a call; options: those of `sampling.generate`.
    InputError for a model without an encoder.
    """
    measured = _traced(_squared if distance is None else distance)

    def error(given: Batch) -> Array:
        again = reconstruct(model, state, given.x, condition=given.condition, batch=batch, **options)
        return _measured(measured, given.x, again)

    return in_pieces(error, x, condition)


def _squared(x: Array, y: Array) -> Array:
    return total(jnp.square(x - y))


def _traced(distance: Callable[[Array, Array], Array]) -> jax.tree_util.Partial:
    """The distance as a pytree: its weights, where it has any, are arguments of what is compiled."""
    return distance if isinstance(distance, jax.tree_util.Partial) else jax.tree_util.Partial(distance)


def _measured(distance: Callable[[Array, Array], Array], x: Array, y: Array) -> Array:
    # a metric is compared with published numbers: the products of a network such as LPIPS's are not rounded to TF32
    with jax.default_matmul_precision("highest"):
        return _apply(distance, x, y)


@jax.jit
def _apply(distance: Callable[[Array, Array], Array], x: Array, y: Array) -> Array:
    return distance(normalize(Batch(x)).x, normalize(Batch(y)).x)


def _pair(x: Any, y: Any) -> tuple[Array, Array]:
    x, y = jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)
    check(x.shape == y.shape, f"images are compared one by one: give two arrays of one shape, not {x.shape}, {y.shape}")
    return x, y
