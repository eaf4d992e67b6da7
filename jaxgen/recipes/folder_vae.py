"""A VAE of pictures of one's own, or of any data set.

jaxgen train folder_vae --folder ~/pictures --size 64
"""

import optax

from jaxgen import Experiment, families
from jaxgen import data as sets
from jaxgen.conditions import labels
from jaxgen.losses import augmentation
from jaxgen.losses.evidence import elbo
from jaxgen.losses.likelihood import optimal_gaussian
from jaxgen.nets import network
from jaxgen.nets.conv import ConvDecoder, ConvEncoder


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
    width: int = 16,
    latent: int = 128,
    beta: float = 1.0,
    lr: float = 1e-3,
    batch: int = 64,
    steps: int = 10_000,
) -> Experiment:
    """A convolutional VAE whose Gaussian likelihood takes the best variance for each image.

    Args:
        folder: of pictures; its sub-folders, where it has any, are classes
        data: instead of a folder, the name of a set (jaxgen data list), or a .npz or .parquet file
        size: pixels a side; of a folder 64 by default, else as the set has them
        channels: of a folder; 3: colour, 1: grey, 4: with transparency
        background: what transparent pictures are laid on, a name or '#rrggbb'
        conditional: on the class, where there are classes
        flips: mirror pictures at random
        crop: cut off up to this share of the sides at random
        width: channels at full size
        latent: dimensions of the latent
        beta: weight of the KL term
        lr: Adam's learning rate, lowered to nothing along a cosine
        batch: examples a step
        steps: how long to train
    """
    images = sets.images(data, folder, size=size, channels=channels, background=background)
    classes = len(images.classes) if conditional and len(images.classes) > 1 else None
    model = families.vae(
        network(ConvEncoder(2 * latent, width=width, classes=classes)),
        network(ConvDecoder(images.shape, width=width, classes=classes)),
        latent,
        likelihood=optimal_gaussian(),
        objective=elbo(beta=beta),
        condition=labels(classes) if classes else None,
    )
    transforms = augmentation.of_photographs(flips, crop)
    model = families.augmented(model, *transforms) if transforms else model
    adam = optax.chain(optax.clip_by_global_norm(1000.0), optax.adam(optax.cosine_decay_schedule(lr, steps)))
    return Experiment(model, {"vae": adam}, images, batch, steps, sample_every=500, save_every=500)
