"""Sampling: one call for every family, the solvers that iterate, guidance, and walks in the latent space."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from jaxgen.sampling.codes import in_codes, mix
from jaxgen.sampling.ddim import ddim
from jaxgen.sampling.ddpm import ddpm
from jaxgen.sampling.directions import analogy, boundary, factors, principal
from jaxgen.sampling.euler import euler, heun
from jaxgen.sampling.guidance import (
    autoguidance,
    classifier,
    classifier_free,
    compose,
    limited,
    negative,
    rescaled,
    truncated,
    truncation,
)
from jaxgen.sampling.inversion import invert
from jaxgen.sampling.iterate import Times, custom, iterate, karras, log_uniform, quadratic, stopped, uniform
from jaxgen.sampling.multistep import multistep
from jaxgen.sampling.restoration import (
    blurred,
    grey,
    masked,
    pooled,
    posterior,
    project,
    renoising,
    travel,
)
from jaxgen.sampling.sample import (
    Options,
    conditions,
    drawer,
    evaluations,
    generate,
    image_shape,
    latent_shape,
    sample,
    stream,
    weights,
)
from jaxgen.sampling.standing import standing
from jaxgen.sampling.walks import (
    along,
    arithmetic,
    attribute_vector,
    encode,
    interpolate,
    lerp,
    manifold,
    reconstruct,
    slerp,
    traverse,
)
from jaxgen.types import Model, Process, Sampler, Solver, check

# (process) -> Solver: those chosen by name
SOLVERS: dict[str, Callable[[Process], Solver]] = {
    "ddim": ddim,
    "ddpm": ddpm,
    "euler": euler,
    "euler_ancestral": partial(ddim, eta=1.0),  # the same step (Karras et al. 2022's in a variance-exploding process)
    "heun": heun,
    "dpmpp_2m": multistep,
    "dpmpp_2m_sde": partial(multistep, eta=1.0),
    "dpmpp_3m": partial(multistep, order=3),
}


def named(model: Model, solver: str, steps: int) -> Sampler:
    """The sampler of that solver's name for a model that iterates, with `steps` equal steps and its process's clip."""
    process = model.process
    check(process is not None, "this model draws its samples in one step: it takes no sampler and no sampler steps")
    check(solver in SOLVERS, f"unknown sampler {solver!r}: choose one of {', '.join(SOLVERS)}")
    return iterate(SOLVERS[solver](process), uniform(steps), process.clip)  # type: ignore[union-attr, arg-type]


__all__ = [
    "SOLVERS",
    "Options",
    "Times",
    "along",
    "analogy",
    "arithmetic",
    "attribute_vector",
    "autoguidance",
    "blurred",
    "boundary",
    "classifier",
    "classifier_free",
    "compose",
    "conditions",
    "custom",
    "ddim",
    "ddpm",
    "drawer",
    "encode",
    "euler",
    "evaluations",
    "factors",
    "generate",
    "grey",
    "heun",
    "image_shape",
    "in_codes",
    "interpolate",
    "invert",
    "iterate",
    "karras",
    "latent_shape",
    "lerp",
    "limited",
    "log_uniform",
    "manifold",
    "masked",
    "mix",
    "multistep",
    "named",
    "negative",
    "pooled",
    "posterior",
    "principal",
    "project",
    "quadratic",
    "reconstruct",
    "renoising",
    "rescaled",
    "sample",
    "slerp",
    "standing",
    "stopped",
    "stream",
    "travel",
    "traverse",
    "truncated",
    "truncation",
    "uniform",
    "weights",
]
