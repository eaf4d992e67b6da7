"""Latent diffusion of pictures of one's own, or of any data set: an autoencoder, then a diffusion model of its codes.

jaxgen train folder_latent --folder ~/pictures --stage autoencoder --workdir runs/codes
jaxgen train folder_latent --folder ~/pictures --start autoencoder=runs/codes
jaxgen train folder_latent --folder ~/pictures --stage autoencoder --critic --start vae=runs/codes --workdir runs/sharp

The third command goes on with the autoencoder of the first and a critic of its reconstructions.
"""

import math
from typing import Literal

import optax

from jaxgen import Experiment, families
from jaxgen import data as sets
from jaxgen.conditions import labels
from jaxgen.data import Dataset
from jaxgen.errors import check
from jaxgen.losses import augmentation
from jaxgen.losses.evidence import elbo
from jaxgen.losses.likelihood import gaussian
from jaxgen.nets import Network, network
from jaxgen.nets.codes import ConvGridDecoder, ConvGridEncoder, flat_posterior, of_flat
from jaxgen.nets.conv import PatchCritic
from jaxgen.nets.dit import DiT
from jaxgen.nets.unet import UNet
from jaxgen.processes import cosine
from jaxgen.sampling import ddim, iterate, uniform
from jaxgen.types import Model


def experiment(
    *,
    folder: str = "",
    data: str = "photos",
    size: int | None = None,
    channels: int = 3,
    background: str = "white",
    conditional: bool = True,
    flips: bool = True,
    crop: float = 0.1,
    stage: Literal["autoencoder", "diffusion"] = "diffusion",
    net: Literal["unet", "dit"] = "unet",
    features: int = 4,
    sigma: float = 0.1,
    critic: bool = False,
    width: int = 64,
    sampler_steps: int = 50,
    lr: float = 1e-3,
    batch: int = 32,
    steps: int = 10_000,
) -> Experiment:
    """A variational autoencoder whose latents are a grid of a quarter of the sides, and a denoiser that predicts v over
    them on the cosine schedule (Rombach et al. 2022, arXiv:2112.10752).

    Args:
        folder: of pictures; its sub-folders, where it has any, are classes
        data: instead of a folder, the name of a set (jaxgen data list), or a .npz or .parquet file
        size: pixels a side; of a folder 64 by default, else as the set has them
        channels: of a folder; 3: colour, 1: grey, 4: with transparency
        background: what transparent pictures are laid on, a name or '#rrggbb'
        conditional: on the class, where there are classes
        flips: mirror pictures at random
        crop: cut off up to this share of the sides at random
        stage: what is trained: the autoencoder, or the diffusion model of its codes
        net: the denoiser, a UNet or a transformer
        features: of a code, at each place
        sigma: deviation of the autoencoder's Gaussian likelihood: the smaller, the more a code says
        critic: of patches, which compares the autoencoder's reconstructions with pictures
        width: channels of the denoiser; a token of the transformer has three times as many
        sampler_steps: of DDIM
        lr: Adam's learning rate, warmed up and then lowered to nothing along a cosine
        batch: examples a step
        steps: how long to train
    """
    images = sets.images(data, folder, size=size, channels=channels, background=background)
    height, across, _ = images.shape
    check(height % 8 == across % 8 == 0, f"codes are a quarter of {height}x{across}: give sides that divide by 8")
    shape = (height // 4, across // 4, features)
    rate = optax.warmup_cosine_decay_schedule(0.0, lr, min(500, steps // 10 + 1), steps + 1)
    adam = optax.chain(optax.clip_by_global_norm(1000.0 if stage == "autoencoder" else 1.0), optax.adam(rate))
    if stage == "autoencoder":
        model, optimizers = autoencoder(images, shape, sigma, critic), {"vae": adam}
        if critic:
            optimizers["critic"] = optax.adam(rate, b1=0.5)
    else:
        classes = len(images.classes) if conditional and len(images.classes) > 1 else None
        outer, inner = autoencoder(images, shape, sigma), denoiser(net, width, shape, classes, sampler_steps)
        model, optimizers = families.latent(families.in_grid(outer, shape), inner), {"denoiser": adam}
    transforms = augmentation.of_photographs(flips, crop)
    model = families.augmented(model, *transforms) if transforms else model
    averaged = 0.0 if stage == "autoencoder" else 0.999
    return Experiment(model, optimizers, images, batch, steps, ema=averaged, sample_every=500, save_every=500)


def autoencoder(images: Dataset, shape: tuple[int, int, int], sigma: float, critic: bool = False) -> Model:
    """A VAE of codes of that shape, with a critic of patches where there is to be one."""
    encoder = flat_posterior(network(ConvGridEncoder(2 * shape[-1], 32, blocks=1, norm=False)))
    decoder = of_flat(network(ConvGridDecoder(images.shape, 32, blocks=1)), shape)

    def make(likelihood):
        return families.vae(encoder, decoder, math.prod(shape), likelihood=likelihood, objective=elbo())

    if not critic:
        return make(gaussian(sigma))
    return families.sharpened(make, network(PatchCritic(32, halvings=2)), likelihood=gaussian(sigma))


def denoiser(net: str, width: int, shape: tuple[int, int, int], classes: int | None, steps: int) -> Model:
    """A diffusion model of codes, which have no range to which x_0 could be clipped."""
    process = cosine(clip=math.inf)
    chosen: Network = network(
        DiT(2, 3 * width, 6, 6, classes=classes)
        if net == "dit"
        else UNet(width, (1, 2), 2, attention_at=(shape[0] // 2,), heads=4, classes=classes)
    )
    return families.diffusion(
        chosen,
        process,
        shape,
        prediction="v",
        condition=labels(classes) if classes else None,
        sampler=iterate(ddim(process), uniform(steps)),
    )
