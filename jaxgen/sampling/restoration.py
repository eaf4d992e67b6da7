"""A trained model as a prior of images: what is known of an image, A x = y, fills in the rest, without training.

A guidance for every solver: `sample(model, state, key, n, guidance=project(masked(mask)), given=y)`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from jaxgen.losses.likelihood import total
from jaxgen.processes import forward, like
from jaxgen.sampling.guidance import PredictOf, steered
from jaxgen.sampling.iterate import LONGEST, Times, custom
from jaxgen.types import Array, Keys, Predict, Prediction, Process, Solver, Tree, check, normal


class Operator(NamedTuple):
    """A linear map A of images [B, H, W, C], a pytree.

    of    x -> A x
    back  y -> A^+ y, its pseudo-inverse: A A^+ A = A
    gain  A A^T = gain I, or about so
    """

    of: Callable[[Array], Array]
    back: Callable[[Array], Array]
    gain: Array | float = 1.0


def masked(mask: Array | np.ndarray) -> Operator:
    """In-painting: A x = m x, of a mask [H, W] or [H, W, 1] that is 1 where pixels are known and 0 elsewhere."""
    m = np.asarray(mask, np.float32)
    check(m.ndim in (2, 3) and bool(np.all((m == 0) | (m == 1))), f"a mask [H, W] is 0 and 1, this one is {m.shape}")
    known = jnp.asarray(m.reshape(*m.shape[:2], 1))
    return Operator(Partial(jnp.multiply, known), Partial(jnp.multiply, known))


def pooled(factor: int) -> Operator:
    """Super-resolution: A x is the mean of each factor x factor pixels."""
    check(factor >= 1, f"images are made 1, 2, ... times smaller, not {factor}")
    ones = jnp.ones((factor, factor))
    return Operator(Partial(_pool, ones), Partial(_repeat, ones), 1.0 / factor**2)


def _pool(ones: Array, x: Array) -> Array:
    f, (b, height, width, channels) = len(ones), x.shape
    check(height % f == width % f == 0, f"images of {height}x{width} cannot be made {f} times smaller")
    return x.reshape(b, height // f, f, width // f, f, channels).mean((2, 4))


def _repeat(ones: Array, y: Array) -> Array:
    return y.repeat(len(ones), 1).repeat(len(ones), 2)


def grey() -> Operator:
    """Colourisation: A x is the mean of the three colours."""
    return Operator(Partial(_grey), Partial(_coloured), 1.0 / 3.0)


def _grey(x: Array) -> Array:
    return jnp.mean(x, axis=-1, keepdims=True)


def _coloured(y: Array) -> Array:
    return jnp.repeat(y, 3, axis=-1)


def blurred(deviation: float, least: float = 0.05) -> Operator:
    """Deblurring: A is a circular convolution with a Gaussian of that deviation in pixels; frequencies that it lowers
    to less than `least` times are lost, to the pseudo-inverse as well."""
    check(deviation > 0 and 0 < least < 1, f"a deviation is positive and least between 0 and 1: {deviation}, {least}")
    numbers = jnp.asarray(deviation, jnp.float32), jnp.asarray(least, jnp.float32)
    return Operator(Partial(_blur, *numbers), Partial(_sharpen, *numbers), 0.5)


def _transfer(deviation: Array, least: Array, shape: tuple[int, ...]) -> Array:
    u, v = (jnp.fft.fftfreq(n) for n in shape[1:3])
    h = jnp.exp(-2.0 * jnp.square(jnp.pi * deviation) * (jnp.square(u)[:, None] + jnp.square(v)[None]))
    return jnp.where(h >= least, h, 0.0)[..., None]


def _blur(deviation: Array, least: Array, x: Array) -> Array:
    h = _transfer(deviation, least, x.shape)
    return jnp.fft.ifft2(h * jnp.fft.fft2(x, axes=(1, 2)), axes=(1, 2)).real.astype(x.dtype)


def _sharpen(deviation: Array, least: Array, y: Array) -> Array:
    h = _transfer(deviation, least, y.shape)
    inverse = jnp.where(h > 0, 1.0 / jnp.maximum(h, 1e-6), 0.0)
    return jnp.fft.ifft2(inverse * jnp.fft.fft2(y, axes=(1, 2)), axes=(1, 2)).real.astype(y.dtype)


# --- guidances -------------------------------------------------------------------------------------------------------


def project(operator: Operator) -> Partial:
    """x_0 + A^+ (y - A x_0): every estimate has what is known and keeps its own of the rest (DDNM; Wang, Yu and Zhang
    2022, arXiv:2212.00490, eq. 13). given: y, one an image; without noise in it."""
    return Partial(_project, operator)


def _project(operator: Operator, predict_of: PredictOf, condition: Tree, given: Tree) -> Predict:
    check(given is not None, "a restoration needs what is known of each image: given=y")
    base = predict_of(condition)

    def predict(x: Array, t: Array) -> Prediction:
        found = base(x, t)
        return found._replace(x0=found.x0 + operator.back(given - operator.of(found.x0)))

    return predict


def posterior(operator: Operator, process: Process, *, noise: float = 0.05, spread: float = 0.5) -> Partial:
    """x_0 + sigma_t^2 / alpha_t grad_x log N(y; A x_0(x), (noise^2 + gain r_t^2) I), through the network: the posterior
    of an image of which y = A x + noise is known (DPS; Chung et al. 2022, arXiv:2209.14687, eq. 11; its variance r_t^2
    = d^2 sigma^2 / (d^2 alpha^2 + sigma^2), d = spread, as of data of that deviation, Song et al. 2023, Pi-GDM).

    Exact for data N(m, d^2 I) and A A^T = gain I. given: y, one an image."""
    check(noise >= 0 and spread > 0, f"noise must not be negative and spread positive: {noise}, {spread}")
    return Partial(_posterior, operator, process, jnp.asarray(noise, jnp.float32), jnp.asarray(spread, jnp.float32))


def _posterior(operator, process, noise, spread, predict_of: PredictOf, condition: Tree, given: Tree) -> Predict:
    check(given is not None, "a restoration needs what is known of each image: given=y")
    base = predict_of(condition)

    def predict(x: Array, t: Array) -> Prediction:
        alpha, sigma = process.alpha(t), process.sigma(t)
        r2 = jnp.square(spread * sigma) / (jnp.square(spread * alpha) + jnp.square(sigma))
        variance = jnp.square(noise) + operator.gain * r2

        def misfit(x: Array) -> tuple[Array, Prediction]:
            found = base(x, t)
            return jnp.sum(total(jnp.square(given - operator.of(found.x0)))), found

        slope, found = jax.grad(misfit, has_aux=True)(x)
        return steered(process, found, t, -0.5 * slope / like(variance, x))

    return predict


# --- resampling in time ----------------------------------------------------------------------------------------------


def travel(steps: int, jump: int = 10, repeats: int = 5) -> Times:
    """`steps` equal steps from 1 to 0, of which every `jump` are gone back and walked again, `repeats` times in all:
    what was filled in has then time to fit what is known (RePaint; Lugmayr et al. 2022, arXiv:2201.09865, section 4.2
    and appendix B). For `renoising` solvers."""
    check(min(steps, jump, repeats) >= 1, f"steps, jump and repeats are at least 1: {steps}, {jump}, {repeats}")
    grid = 1.0 - np.arange(steps + 1) / steps
    times = [grid[0]]
    for start in range(0, steps, jump):
        part = grid[start + 1 : start + jump + 1]
        last = start + jump >= steps  # from time 0 there is no way back to the same image
        for again in range(1 if last else repeats):
            times += [grid[start]] * (again > 0) + list(part)
    count = len(times) - 1
    check(count <= LONGEST, f"{count} steps are more than {LONGEST}: fewer steps or repeats, or longer jumps")
    return custom(times)


def renoising(solver: Solver, process: Process) -> Solver:
    """`solver`, and where the next time is the later one a step of the process itself, x_u ~ q(x_u | x_t)."""
    return Solver(solver.init, Partial(_renoising, solver, process))


def _renoising(solver, process, keys: Keys, predict: Predict, carry: tuple, t: Array, u: Array) -> tuple:
    def back() -> tuple:
        a, beta = forward(process, t, u)
        return a * carry[0] + jnp.sqrt(beta) * normal(keys, carry[0].shape[1:], carry[0].dtype), *carry[1:]

    return jax.lax.cond(u > t, back, lambda: solver.step(keys, predict, carry, t, u))
