"""Guidance: transformers of predictions, `(predict_of, condition, given) -> Predict`, with traced numbers.

`predict_of(condition)` is the model's prediction under any condition, `predict_of(None)` the one without. A guidance is
a `jax.tree_util.Partial` of a function at the top of a module: another scale compiles nothing, and the parameters of
another network may be inside it. `given` is what it needs for each image, a tree [n, ...]: a label, a mask.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from jaxgen.processes import like
from jaxgen.types import (
    Array,
    Guidance,
    Interval,
    Model,
    Predict,
    Prediction,
    Process,
    TrainState,
    Tree,
    check,
    weights,
)

PredictOf = Callable[[Tree], Predict]


def classifier_free(scale: float) -> Partial:
    """x_0 = u + scale (c - u), c with the condition and u without it; 1 is no guidance, 0 drops the condition.

    On a linear parametrisation it is the paper's eps combination with w = scale - 1
    (Ho and Salimans 2022, arXiv:2207.12598, eq. 6).
    """
    return Partial(_classifier_free, jnp.asarray(scale, jnp.float32))


def _classifier_free(scale: Array, predict_of: PredictOf, condition: Tree, given: Tree) -> Predict:
    check(condition is not None, "guidance needs a condition: give one, or leave the guidance out")
    return _between(scale, predict_of(condition), predict_of(None))


def negative(scale: float) -> Partial:
    """x_0 = n + scale (c - n), n the prediction under another condition, away from which is guided; given: those
    conditions, as the model takes them (the "negative prompts" of text to image; with none in their place it is
    `classifier_free`)."""
    return Partial(_negative, jnp.asarray(scale, jnp.float32))


def _negative(scale: Array, predict_of: PredictOf, condition: Tree, given: Tree) -> Predict:
    check(
        given is not None, "negative guidance needs the conditions to guide away from: given=conditions, one an image"
    )
    away = predict_of(given)
    return _between(scale, predict_of(condition), away)


def autoguidance(scale: float, weaker: Model, state: TrainState, *, ema: bool = True) -> Partial:
    """x_0 = w + scale (c - w), w the prediction of a weaker model under the same condition: smaller, or trained for
    less long, of whose faults the better model has fewer (Karras et al. 2024, arXiv:2406.02507, eq. 3). It needs no
    model without a condition. InputError for a weaker model that does not iterate."""
    check(weaker.process is not None, "autoguidance is by a model that iterates, this one draws in one step")
    return Partial(Partial(_autoguidance, weaker.predict), *weights(state, ema), jnp.asarray(scale, jnp.float32))


def _autoguidance(predict, params, extra, scale, predict_of, condition, given) -> Predict:
    return _between(scale, predict_of(condition), predict(params, extra, condition))


def _between(scale: Array, to: Predict, away: Predict) -> Predict:
    def predict(x: Array, t: Array) -> Prediction:
        found, other = to(x, t), away(x, t)
        return found._replace(x0=other.x0 + scale * (found.x0 - other.x0))

    return predict


def limited(guidance: Guidance, start: float, stop: float) -> Partial:
    """`guidance` at times from `start` to `stop` alone, and none where there is more noise, where it hurts, or less,
    where it changes nothing (Kynkäänniemi et al. 2024, arXiv:2404.07724, eq. 6, there by noise levels). Outside only
    the model itself is evaluated."""
    check(0 <= start < stop <= 1, f"guidance is limited to times from start to a later stop, not {start} to {stop}")
    return Partial(_limited, guidance, jnp.asarray(start, jnp.float32), jnp.asarray(stop, jnp.float32))


def _limited(guidance, start, stop, predict_of: PredictOf, condition: Tree, given: Tree) -> Predict:
    guided, plain = guidance(predict_of, condition, given), predict_of(condition)

    def predict(x: Array, t: Array) -> Prediction:
        inside = jnp.all((at(t) >= start) & (at(t) <= stop))
        return jax.lax.cond(inside, lambda: guided(x, t), lambda: plain(x, t))

    return predict


def rescaled(guidance: Guidance, phi: float = 0.7) -> Partial:
    """x_0 scaled to the standard deviation that it has without guidance, which strong guidance raises until images are
    overexposed: x_0 (phi s_c / s_g + 1 - phi), s_g and s_c the deviations over an image's pixels with and without (Lin
    et al. 2023, arXiv:2305.08891, eq. 15 and 16, there of the network's output)."""
    check(0 <= phi <= 1, f"phi is a share, from 0 to 1, it is {phi}")
    return Partial(_rescaled, guidance, jnp.asarray(phi, jnp.float32))


def _rescaled(guidance, phi, predict_of: PredictOf, condition: Tree, given: Tree) -> Predict:
    guided, plain = guidance(predict_of, condition, given), predict_of(condition)

    def deviation(x: Array) -> Array:
        return jnp.std(x, axis=tuple(range(1, x.ndim)), keepdims=True)

    def predict(x: Array, t: Array) -> Prediction:
        found = guided(x, t)
        ratio = deviation(plain(x, t).x0) / jnp.maximum(deviation(found.x0), 1e-8)
        return found._replace(x0=found.x0 * (phi * ratio + 1.0 - phi))

    return predict


def classifier(
    log_prob: Callable[[Tree, Tree, Array, Array], Array], params: Tree, extra: Tree, process: Process, scale: float
) -> Partial:
    """x_0 + scale sigma_t^2 / alpha_t grad_x log p(y | x_t): for scale = 1 the posterior mean of x_0 given y too, by
    Tweedie's formula (Dhariwal and Nichol 2021, arXiv:2105.05233, eq. 11 to 14 and algorithm 2, in eps there).

    log_prob: (params, extra, x_t, t) -> log p(y | x_t) [B, classes], of a classifier that was trained on noisy images,
    such as `families.classifier`'s; process: that of the guided model, which may be unconditional. given: the labels y,
    int [n].
    """
    scale_ = jnp.asarray(scale, jnp.float32)
    return Partial(Partial(_classifier, log_prob), params, extra, process, scale_)


def _classifier(log_prob, params, extra, process, scale, predict_of, condition, given) -> Predict:
    check(given is not None, "classifier guidance needs the labels to guide to: given=labels, one an image")
    base = predict_of(condition)

    def predict(x: Array, t: Array) -> Prediction:
        def chosen(x: Array) -> Array:
            return jnp.sum(jnp.take_along_axis(log_prob(params, extra, x, at(t)), given[:, None], axis=1))

        found = base(x, t)
        push = jax.grad(chosen)(x)
        return steered(process, found, t, scale * push)

    return predict


def steered(process: Process, found: Prediction, t: Array, slope: Array) -> Prediction:
    """x_0 + sigma_t^2 / alpha_t slope: what a slope of log p(y | x_t) in x_t does to the estimate of x_0, by Tweedie's
    formula."""
    t = at(t)
    return found._replace(x0=found.x0 + like(jnp.square(process.sigma(t)) / process.alpha(t), slope) * slope)


def at(t: Array | Interval) -> Array:
    """The time at which x_t is."""
    return t.t if isinstance(t, Interval) else t


def truncation(psi: float | Array, mean: Array) -> Partial:
    """w = mean + psi (w - mean): styles nearer to their mean, better images and fewer kinds of them; 1 changes nothing,
    0 gives one w to all (Karras et al. 2018, arXiv:1812.04948, appendix B).

    psi: a number, or [layers], one a style: 1 from some layer on truncates the coarse styles alone; mean: [W], that of
    `families.mean_style(state)`.
    """
    return Partial(_truncation, jnp.asarray(psi, jnp.float32), jnp.asarray(mean, jnp.float32))


def _truncation(psi: Array, mean: Array, predict_of: PredictOf, condition: Tree, given: Tree) -> Predict:
    base = predict_of(condition)

    def predict(z: Array, t: Array) -> Prediction:
        found = base(z, t)
        fits = found.x0.ndim == 3 and mean.shape == found.x0.shape[-1:] and psi.shape in ((), found.x0.shape[1:2])
        check(
            fits, f"truncation is of w [B, layers, W] by a mean [W] and psi () or [layers], not of {found.x0.shape[1:]}"
        )
        return found._replace(x0=mean + psi[..., None] * (found.x0 - mean))

    return predict


def truncated(threshold: float | Array) -> Partial:
    """z from a normal distribution cut off at -threshold and threshold, by which few kinds of better images are drawn
    (Brock, Donahue and Simonyan 2018, arXiv:1809.11096, section 3.1, who draw again what lies outside): a normal z is
    moved to the same quantile of the cut one,

        erf(z' / sqrt 2) = erf(threshold / sqrt 2) erf(z / sqrt 2),

    so that an image changes smoothly with the threshold; infinity changes nothing. Of a one-step model.
    """
    return Partial(_truncated, jnp.asarray(threshold, jnp.float32))


def cut_off(z: Array, threshold: Array) -> Array:
    """A normal z at the same quantile of the normal distribution that is cut off at -threshold and threshold."""
    check(jnp.issubdtype(z.dtype, jnp.floating), "only a normal z can be cut off, these latents are integers")
    root = jnp.sqrt(2.0)
    inside = jax.lax.erf(threshold / root) * jax.lax.erf(z / root)
    return jnp.where(jnp.isinf(threshold), z, jnp.clip(root * jax.lax.erf_inv(inside), -threshold, threshold))


def _truncated(threshold: Array, predict_of: PredictOf, condition: Tree, given: Tree) -> Predict:
    base = predict_of(condition)
    return lambda z, t: base(cut_off(z, threshold), t)


def compose(*guidances: Guidance) -> Partial:
    """Several at once, the first one outermost: it sees the predictions that the others have changed. given: a tuple
    with what each of them needs, or None where none needs anything."""
    check(len(guidances) >= 1, "compose at least one guidance")
    return Partial(_compose, tuple(guidances))


def _compose(guidances: tuple, predict_of: PredictOf, condition: Tree, given: Tree) -> Predict:
    given = (None,) * len(guidances) if given is None else given
    check(
        isinstance(given, tuple) and len(given) == len(guidances),
        f"{len(guidances)} composed guidances take a tuple of as many `given`, None where one needs nothing",
    )
    for guidance, own in list(zip(guidances, given, strict=True))[:0:-1]:
        predict_of = _guided(guidance, predict_of, own)
    return guidances[0](predict_of, condition, given[0])


def _guided(guidance: Guidance, predict_of: PredictOf, given: Tree) -> PredictOf:
    return lambda condition: guidance(predict_of, condition, given)
