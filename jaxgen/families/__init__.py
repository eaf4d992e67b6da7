"""Families of models: one factory each, taking networks and returning a `Model`."""

from jaxgen.families import priors
from jaxgen.families.absorbing import absorbing
from jaxgen.families.autoencoder import autoencoder, denoising_autoencoder
from jaxgen.families.autoregressive import autoregressive
from jaxgen.families.bound import variational_density
from jaxgen.families.classifier import Classifier, classifier
from jaxgen.families.consistency import consistency
from jaxgen.families.diffusion import diffusion
from jaxgen.families.distillation import progressive, reflow
from jaxgen.families.factor_vae import factor_vae
from jaxgen.families.flow import flow_density
from jaxgen.families.gan import gan
from jaxgen.families.ladder import hierarchical_vae
from jaxgen.families.latent import in_grid, latent
from jaxgen.families.low_rank import low_rank
from jaxgen.families.m2 import m2
from jaxgen.families.mean_flow import mean_flow
from jaxgen.families.pixels import augmented, dequantised, dynamically_binarised
from jaxgen.families.quantised import fsq, quantised, vq, vq_vae
from jaxgen.families.sharpened import sharpened
from jaxgen.families.style import PathLength, is_style, mean_style, style_gan, style_kernels
from jaxgen.families.vae import vae
from jaxgen.families.vae_gan import vae_gan
from jaxgen.families.wasserstein import adversarial_autoencoder, wae_mmd

__all__ = [
    "Classifier",
    "PathLength",
    "absorbing",
    "adversarial_autoencoder",
    "augmented",
    "autoencoder",
    "autoregressive",
    "classifier",
    "consistency",
    "denoising_autoencoder",
    "dequantised",
    "diffusion",
    "dynamically_binarised",
    "factor_vae",
    "flow_density",
    "fsq",
    "gan",
    "hierarchical_vae",
    "in_grid",
    "is_style",
    "latent",
    "low_rank",
    "m2",
    "mean_flow",
    "mean_style",
    "priors",
    "progressive",
    "quantised",
    "reflow",
    "sharpened",
    "style_gan",
    "style_kernels",
    "vae",
    "vae_gan",
    "variational_density",
    "vq",
    "vq_vae",
    "wae_mmd",
]
