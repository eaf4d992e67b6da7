"""Families of generative models: one factory each, taking its networks, returning a `Model`."""

from jaxgen.families.diffusion import diffusion
from jaxgen.families.gan import gan
from jaxgen.families.vae import vae

__all__ = ["diffusion", "gan", "vae"]
