"""Sampling: one call for every family, the solvers that iterate, guidance, and walks in the latent space."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from jaxgen.sampling.adaptive import adaptive
from jaxgen.sampling.codes import in_codes, mix
from jaxgen.sampling.consistency import consistency, jumping
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
from jaxgen.sampling.iterate import Times, cosine, custom, iterate, karras, log_uniform, quadratic, stopped, uniform
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
from jaxgen.sampling.unmask import confident, unmask
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

# (process) -> Solver: those chosen by name, of processes of Gaussian noise, of models trained for long jumps, and of
# processes over codes
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
JUMPING: dict[str, Callable[[Process], Solver]] = {
    "consistency": consistency,
    "mean_flow": lambda process: jumping(ddim(process)),
}
UNMASKING: dict[str, Callable[[Process], Solver]] = {"unmask": unmask, "confident": confident}


def named(model: Model, solver: str | None, steps: int) -> Sampler:
    """The sampler of that solver's name for a model that iterates, with `steps` equal steps and its process's clip; of
    none, the first one for its process, DDIM or `unmask`; "adaptive" chooses its own steps."""
    process = model.process
    check(process is not None, "this model draws its samples in one step: it takes no sampler and no sampler steps")
    gaussian = process.mask is None  # type: ignore[union-attr]
    there = SOLVERS | JUMPING if gaussian else UNMASKING
    name = next(iter(there)) if solver is None else solver
    if name == "adaptive" and gaussian:
        return adaptive(process, clip=process.clip)  # type: ignore[union-attr, arg-type]
    kind = "" if name not in (SOLVERS | JUMPING | UNMASKING) else " for this model's process"
    check(name in there, f"unknown sampler {name!r}{kind}: choose one of {', '.join(there)}")
    return iterate(there[name](process), uniform(steps), process.clip)  # type: ignore[union-attr, arg-type]


__all__ = [
    "JUMPING",
    "SOLVERS",
    "UNMASKING",
    "Options",
    "Times",
    "adaptive",
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
    "confident",
    "consistency",
    "cosine",
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
    "jumping",
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
    "unmask",
    "weights",
]
