"""Sampling: one call for every family, the solvers that iterate, guidance, and walks in the latent space."""

from __future__ import annotations

from jaxgen.sampling.ddim import ddim
from jaxgen.sampling.ddpm import ddpm
from jaxgen.sampling.guidance import classifier_free
from jaxgen.sampling.iterate import Times, iterate, uniform
from jaxgen.sampling.latent import (
    arithmetic,
    attribute_vector,
    encode,
    image_shape,
    interpolate,
    lerp,
    manifold,
    reconstruct,
    slerp,
    traverse,
)
from jaxgen.sampling.sample import drawer, evaluations, generate, latent_shape, sample, stream, weights
from jaxgen.types import Model, Sampler, check

SOLVERS = {"ddim": ddim, "ddpm": ddpm}  # (schedule) -> Solver, for those chosen by name


def named(model: Model, solver: str, steps: int, clip: float = 1.0) -> Sampler:
    """The sampler of that solver's name for a model that iterates, with `steps` equal steps; clip as in `iterate`."""
    check(
        model.schedule is not None, "this model draws its samples in one step: it takes no sampler and no sampler steps"
    )
    check(solver in SOLVERS, f"unknown sampler {solver!r}: choose one of {', '.join(SOLVERS)}")
    return iterate(SOLVERS[solver](model.schedule), uniform(steps), clip)


__all__ = [
    "SOLVERS",
    "Times",
    "arithmetic",
    "attribute_vector",
    "classifier_free",
    "ddim",
    "ddpm",
    "drawer",
    "encode",
    "evaluations",
    "generate",
    "image_shape",
    "interpolate",
    "iterate",
    "latent_shape",
    "lerp",
    "manifold",
    "named",
    "reconstruct",
    "sample",
    "slerp",
    "stream",
    "traverse",
    "uniform",
    "weights",
]
