"""A GAN of pictures of one's own, or of any data set.

jaxgen train folder_gan --folder ~/pictures --size 64
"""

from typing import Literal

import optax

from jaxgen import Experiment, families
from jaxgen import data as sets
from jaxgen.conditions import labels
from jaxgen.losses import augmentation, penalties
from jaxgen.nets import network
from jaxgen.nets.conv import DCGANCritic, DCGANGenerator
from jaxgen.nets.style import Mapping, StyleCritic, StyleSynthesis2, styles


def experiment(
    *,
    folder: str = "",
    data: str = "photos",
    size: int | None = None,
    channels: int = 3,
    background: str = "white",
    kind: Literal["dcgan", "stylegan2"] = "dcgan",
    conditional: bool = True,
    flips: bool = True,
    crop: float = 0.1,
    augment: bool = True,
    width: int = 32,
    latent: int = 128,
    batch: int = 32,
    steps: int = 20_000,
) -> Experiment:
    """DCGAN with the non-saturating loss, or StyleGAN2, for few pictures: with DiffAugment.

    Args:
        folder: of pictures; its sub-folders, where it has any, are classes
        data: instead of a folder, the name of a set (jaxgen data list), or a .npz or .parquet file
        size: pixels a side; of a folder 64 by default, else as the set has them
        channels: of a folder; 3: colour, 1: grey, 4: with transparency
        background: what transparent pictures are laid on, a name or '#rrggbb'
        kind: whose networks, loss and optimizer; StyleGAN2's take longer
        conditional: on the class, where there are classes
        flips: mirror pictures at random
        crop: cut off up to this share of the sides at random
        augment: change what the critic sees, real and generated (DiffAugment), for few pictures
        width: channels at full size
        latent: dimensions of the noise
        batch: examples a turn
        steps: how long to train
    """
    images = sets.images(data, folder, size=size, channels=channels, background=background)
    classes = len(images.classes) if conditional and len(images.classes) > 1 else None
    changed = augmentation.augment() if augment else None
    condition = labels(classes) if classes else None
    if kind == "stylegan2":
        model = families.style_gan(
            network(Mapping(latent, 4, classes=classes)),
            network(StyleSynthesis2(images.shape, width, 8 * width)),
            network(StyleCritic(width, 8 * width, classes=classes)),
            latent,
            layers=styles(images.shape),
            penalties=(penalties.lazy(penalties.r1(1.0), 16),),
            augmentation=changed,
            condition=condition,
        )
        adam = optax.adam(2e-3, b1=0.0, b2=0.99)
        players = {"critic": adam, "generator": adam}
    else:
        model = families.gan(
            network(DCGANGenerator(images.shape, width, classes=classes)),
            network(DCGANCritic(width, classes=classes)),
            latent,
            augmentation=changed,
            condition=condition,
        )
        adam = optax.adam(2e-4, b1=0.5)
        players = {"critic": adam, "generator": adam}
    transforms = augmentation.of_photographs(flips, crop)
    model = families.augmented(model, *transforms) if transforms else model
    turns = ("critic", "generator")
    return Experiment(model, players, images, batch, steps, order=turns, sample_every=500, save_every=500)
