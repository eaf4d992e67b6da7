"""Sampling: one call for every family, the solvers that iterate, guidance, and walks in the latent space."""

from __future__ import annotations

from jaxgen.sampling.codes import in_codes, mix
from jaxgen.sampling.ddim import ddim
from jaxgen.sampling.ddpm import ddpm
from jaxgen.sampling.directions import analogy, boundary, factors, principal
from jaxgen.sampling.guidance import classifier, classifier_free, compose, truncated, truncation
from jaxgen.sampling.inversion import invert
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
    "along",
    "analogy",
    "arithmetic",
    "attribute_vector",
    "boundary",
    "classifier",
    "classifier_free",
    "compose",
    "conditions",
    "ddim",
    "ddpm",
    "drawer",
    "encode",
    "evaluations",
    "factors",
    "generate",
    "image_shape",
    "in_codes",
    "interpolate",
    "invert",
    "iterate",
    "latent_shape",
    "lerp",
    "manifold",
    "mix",
    "named",
    "principal",
    "reconstruct",
    "sample",
    "slerp",
    "standing",
    "stream",
    "traverse",
    "truncated",
    "truncation",
    "uniform",
    "weights",
]
