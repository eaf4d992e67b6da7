"""Denoising diffusion (Ho, Jain and Abbeel 2020, arXiv:2006.11239)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp

from jaxgen.conditions import check_condition, condition_of, optional, where
from jaxgen.families.flow import flow_density
from jaxgen.losses.denoising import Coupling, TimesOf, Weighting, discrete, independent
from jaxgen.losses.likelihood import total
from jaxgen.nets import Network
from jaxgen.parametrisations import Parametrisation, parametrisation
from jaxgen.processes import diffuse, like
from jaxgen.types import (
    Array,
    Batch,
    Conditioner,
    Game,
    Keys,
    Model,
    Predict,
    Prediction,
    Process,
    Sampler,
    Tree,
    Turn,
    check,
    normal,
)

PLAYER = "denoiser"


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
    The density is that of the probability flow, `flow_density`.
    condition: an input of the denoiser, dropped with probability `drop`, which trains the unconditional
    model that classifier-free guidance needs (Ho and Salimans 2022, arXiv:2207.12598, algorithm 1); 0: never.
    """
    f, times = parametrisation(prediction), times or discrete()
    check(0.0 <= drop <= 1.0, f"drop is a probability, it is {drop}")
    condition = optional(condition) if condition is not None and drop > 0 else condition

    def init(key: Array, batch: Batch) -> tuple[dict, Tree]:
        check(
            batch.x.shape[1:] == tuple(shape),
            f"the model is of examples {tuple(shape)}, the data are {batch.x.shape[1:]}: change one",
        )
        params, stats = denoiser.init(key, batch.x, jnp.ones(batch.x.shape[0]), condition_of(condition, batch))
        return {PLAYER: params}, {PLAYER: stats}

    def loss(params: Tree, extra: Tree, turn: Turn, batch: Batch) -> tuple[Array, tuple[dict, Tree]]:
        for_t, for_eps, for_drop, for_net = turn.split(4)  # the first ones do not depend on how many there are
        t, eps = times(process, for_t), coupling(batch.x, normal(for_eps.keys, shape), for_eps)
        c = condition_of(condition, batch)
        if condition is not None and condition.empty is not None:
            dropped = jax.vmap(jax.random.uniform)(for_drop.keys) < drop
            c = where(dropped, condition.empty(batch.x.shape[0]), c)
        x_t, a, s = diffuse(process, batch.x, eps, t), *scales(batch.x, t)
        inputs = (*f.inputs(a, s, x_t, t), c)
        output, stats = denoiser.train(for_net.keys, params[PLAYER], extra[PLAYER], *inputs)
        error = total(jnp.square(f.target(a, s, batch.x, eps) - output)) / eps[0].size
        if weighting is not None:
            error = weighting(process, t) * jnp.square(f.error(process.alpha(t), process.sigma(t))) * error
        return error, ({}, {**extra, PLAYER: stats})

    def scales(x: Array, t: Array) -> tuple[Array, Array]:
        return like(process.alpha(t), x), like(process.sigma(t), x)

    def prior(params: Tree, extra: Tree, keys: Keys, condition: Tree) -> Array:
        return process.scale * normal(keys, shape)

    def predict(params: Tree, extra: Tree, condition: Tree) -> Predict:
        encoded = denoiser.encode(params[PLAYER], extra[PLAYER], condition)  # once, not at every step

        def denoise(x: Array, t: Array) -> Prediction:
            t = jnp.broadcast_to(t, x.shape[:1])
            a, s = scales(x, t)
            output, _ = denoiser.apply(params[PLAYER], extra[PLAYER], *f.inputs(a, s, x, t), encoded)
            return Prediction(f.to_x0(a, s, x, output))

        return denoise

    game = Game(init, {PLAYER: loss}, partial(check_condition, condition))
    model = Model(game, prior, predict, sampler, condition=condition, process=process)
    return model._replace(density=flow_density(model))
