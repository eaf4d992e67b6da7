"""jaxgen: deep generative models as pure functions in JAX.

exp = jaxgen.load_experiment("experiments/digits_vae.py", steps=500)
jaxgen.fit(exp)
model, state = jaxgen.load("runs/digits_vae")
images = jaxgen.sample(model, state, jax.random.key(0), 64)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxgen.exports import export_model, load_exported, load_weights, save_weights
    from jaxgen.loop import fit, fit_stages
    from jaxgen.metrics.evaluation import evaluate, samples
    from jaxgen.runs import Experiment, load, load_experiment
    from jaxgen.sampling import (
        along,
        analogy,
        arithmetic,
        attribute_vector,
        boundary,
        encode,
        generate,
        in_codes,
        interpolate,
        invert,
        manifold,
        mix,
        reconstruct,
        sample,
        traverse,
    )
    from jaxgen.viz import grid, save_picture

__version__ = "0.1.0"

_HOME = {
    "Experiment": "runs",
    "export_model": "exports",
    "fit": "loop",
    "fit_stages": "loop",
    "load": "runs",
    "load_experiment": "runs",
    "load_exported": "exports",
    "load_weights": "exports",
    "save_weights": "exports",
    "evaluate": "metrics.evaluation",
    "samples": "metrics.evaluation",
    "along": "sampling",
    "analogy": "sampling",
    "arithmetic": "sampling",
    "attribute_vector": "sampling",
    "boundary": "sampling",
    "encode": "sampling",
    "generate": "sampling",
    "in_codes": "sampling",
    "interpolate": "sampling",
    "invert": "sampling",
    "manifold": "sampling",
    "mix": "sampling",
    "reconstruct": "sampling",
    "sample": "sampling",
    "traverse": "sampling",
    "grid": "viz",
    "save_picture": "viz",
}

__all__ = [
    "Experiment",
    "along",
    "analogy",
    "arithmetic",
    "attribute_vector",
    "boundary",
    "encode",
    "evaluate",
    "export_model",
    "fit",
    "fit_stages",
    "generate",
    "grid",
    "in_codes",
    "interpolate",
    "invert",
    "load",
    "load_experiment",
    "load_exported",
    "load_weights",
    "manifold",
    "mix",
    "reconstruct",
    "sample",
    "samples",
    "save_picture",
    "save_weights",
    "traverse",
]


ROOMS = ("conditions", "data", "families", "hooks", "losses", "nets", "optimizers", "processes", "sampling", "types")


def __getattr__(name: str) -> Any:
    """Names are imported when first used: `jaxgen --help` does not wait for JAX."""
    if name in ROOMS:
        return importlib.import_module(f"jaxgen.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'jaxgen' has no attribute {name!r}")
    return getattr(importlib.import_module(f"jaxgen.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    """The API, and nothing that this file needs."""
    return [*__all__, *ROOMS, "__version__"]
