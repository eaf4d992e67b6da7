"""Families of models: one factory each, taking networks and returning a `Model`."""

from jaxgen.families import priors
from jaxgen.families.diffusion import diffusion
from jaxgen.families.gan import gan
from jaxgen.families.pixels import dequantised, dynamically_binarised
from jaxgen.families.vae import vae

__all__ = ["dequantised", "diffusion", "dynamically_binarised", "gan", "priors", "vae"]
