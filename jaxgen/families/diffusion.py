"""Denoising diffusion (Ho, Jain and Abbeel 2020, arXiv:2006.11239)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp

from jaxgen.conditions import check_condition, condition_of
from jaxgen.families.bound import step_term
from jaxgen.families.denoiser import PLAYER, Denoiser, Output, Source, droppable, kept, noise_of
from jaxgen.families.flow import flow_density
from jaxgen.losses.denoising import Coupling, Hybrid, TimesOf, Weighting, discrete, independent
from jaxgen.nets import Network
from jaxgen.parametrisations import Parametrisation, parametrisation
from jaxgen.types import Array, Batch, Conditioner, Game, Keys, Model, Process, Sampler, Tree, Turn


def diffusion(
    denoiser: Network,
    process: Process,
    shape: Sequence[int],
    *,
    sampler: Sampler,
    prediction: str | Parametrisation = "eps",
    times: TimesOf | None = None,
    weighting: Weighting | None = None,
    coupling: Coupling = independent,
    variance: Hybrid | None = None,
    source: Source | None = None,
    condition: Conditioner | None = None,
    drop: float = 0.1,
) -> Model:
    """loss = w_t mean_i (x_0 - x^_0)_i^2, x_t = alpha_t x_0 + sigma_t eps, one t an example, x^_0 the estimate that the
    denoiser's output stands for. Without a weighting it is the mean squared error of the output itself: with prediction
    "eps" the simple loss L_simple (eq. 14), with "velocity" and `processes.flow()` flow matching (Lipman et al. 2022,
    arXiv:2210.02747, eq. 23), with "edm" EDM's (Karras et al. 2022, arXiv:2206.00364, eq. 8).

    denoiser: (x_t [B, ...], t [B] in [0, 1], condition) -> what `prediction` names, like x_t; x_t and t as the
    parametrisation gives them to the network. shape: of one example; sampler: the model's default.
    times, weighting, coupling: values of `losses.denoising`; by default t is uniform on {1/1000, ..., 1}.
    variance: the denoiser gives twice the channels, of which the second half is the variance of a step back in time,
    and the bound's term that trains it is added (Nichol and Dhariwal 2021, arXiv:2102.09672, section 3.1).
    source: (keys [B]) -> eps [B, ...] in place of normal noise, for a flow between two distributions of data (Tong et
    al. 2023, arXiv:2302.00482, section 3); such a model has no density. Otherwise that of the probability flow.
    condition: an input of the denoiser, dropped with probability `drop`, which trains the unconditional
    model that classifier-free guidance needs (Ho and Salimans 2022, arXiv:2207.12598, algorithm 1); 0: never.
    """
    times = times or discrete(1000 if variance is None else variance.steps)
    condition = droppable(condition, drop)
    denoise = Denoiser(denoiser, process, parametrisation(prediction), tuple(shape), variance is not None)

    def init(key: Array, batch: Batch) -> tuple[dict, Tree]:
        return denoise.init(key, batch.x, condition_of(condition, batch))

    def loss(params: Tree, extra: Tree, turn: Turn, batch: Batch) -> tuple[Array, tuple[dict, Tree]]:
        for_t, for_eps, for_drop, for_net = turn.split(4)
        t, eps = times(process, for_t), coupling(batch.x, noise_of(for_eps.keys, shape, source), for_eps)
        c = kept(condition, batch, for_drop, drop)
        error, found = denoise.error(params, extra, batch.x, eps, t, c, for_net.keys, weighting)
        if variance is not None:
            error = error + variance.weight * _bound(variance, batch.x, t, found)
        return error, ({}, {**extra, PLAYER: found.stats})

    def _bound(hybrid: Hybrid, x0: Array, t: Array, found: Output) -> Array:
        """T L_{t-1} in bits a dimension, whose gradient reaches the variances alone."""
        before = jnp.maximum(t - 1.0 / hybrid.steps, 0.0)
        estimate = jax.lax.stop_gradient(found.x0)
        assert found.fraction is not None
        nats = step_term(process, x0, estimate, t, before, found.fraction, hybrid.levels)
        return hybrid.steps * nats / (x0[0].size * math.log(2.0))

    def prior(params: Tree, extra: Tree, keys: Keys, condition: Tree) -> Array:
        return process.scale * noise_of(keys, shape, source)

    game = Game(init, {PLAYER: loss}, partial(check_condition, condition))
    model = Model(game, prior, denoise.predict, sampler, condition=condition, process=process)
    return model if source is not None else model._replace(density=flow_density(model))
