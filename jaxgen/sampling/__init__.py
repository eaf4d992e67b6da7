"""Sampling: one call for every family, the solvers that iterate, guidance, and walks in the latent space."""

from __future__ import annotations

from jaxgen.sampling.ddim import ddim
from jaxgen.sampling.ddpm import ddpm
from jaxgen.sampling.guidance import classifier, classifier_free, compose, truncation
from jaxgen.sampling.iterate import Times, iterate, uniform
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
from jaxgen.sampling.walks import (
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
from jaxgen.types import Model, Sampler, check

SOLVERS = {"ddim": ddim, "ddpm": ddpm}  # (process) -> Solver: those chosen by name


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
    "arithmetic",
    "attribute_vector",
    "classifier",
    "classifier_free",
    "compose",
    "conditions",
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
    "truncation",
    "uniform",
    "weights",
]
