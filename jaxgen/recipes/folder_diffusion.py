"""A diffusion model of pictures of one's own, or of any data set.

jaxgen train folder_diffusion --folder ~/pictures --size 32
jaxgen train folder_diffusion --folder ~/pictures --size 64 --start runs/folder_diffusion --workdir runs/larger

The second command goes on at twice the size with the parameters of the first: the network has the same at any size.
"""

from typing import Literal

import optax

from jaxgen import Experiment, families, processes
from jaxgen import data as sets
from jaxgen.conditions import labels
from jaxgen.losses import augmentation
from jaxgen.nets import Network, network
from jaxgen.nets.conv import halvings
from jaxgen.nets.dit import DiT
from jaxgen.nets.unet import UNet
from jaxgen.sampling import ddim, iterate, uniform


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
    net: Literal["unet", "dit"] = "unet",
    width: int = 32,
    blocks: int = 1,
    sampler_steps: int = 25,
    lr: float = 3e-4,
    batch: int = 32,
    steps: int = 20_000,
) -> Experiment:
    """A UNet or a transformer that predicts v on the cosine schedule, drawn by DDIM; with classes it can be guided
    (--guidance).

    Args:
        folder: of pictures; its sub-folders, where it has any, are classes
        data: instead of a folder, the name of a set (jaxgen data list), or a .npz or .parquet file
        size: pixels a side; of a folder 64 by default, else as the set has them
        channels: of a folder; 3: colour, 1: grey, 4: with transparency
        background: what transparent pictures are laid on, a name or '#rrggbb'
        conditional: on the class, where there are classes
        flips: mirror pictures at random
        crop: cut off up to this share of the sides at random
        net: the denoiser, a UNet or a transformer of about 16x16 patches
        width: channels at full size; a token of the transformer has six times as many
        blocks: residual blocks at each size; of the transformer six times as many
        sampler_steps: of DDIM
        lr: Adam's learning rate, warmed up and then lowered to nothing along a cosine
        batch: examples a step
        steps: how long to train
    """
    images = sets.images(data, folder, size=size, channels=channels, background=background)
    classes = len(images.classes) if conditional and len(images.classes) > 1 else None
    process = processes.cosine()
    model = families.diffusion(
        denoiser(net, images.shape, width, blocks, classes),
        process,
        images.shape,
        prediction="v",
        condition=labels(classes) if classes else None,
        sampler=iterate(ddim(process), uniform(sampler_steps), clip=1.0),
    )
    transforms = augmentation.of_photographs(flips, crop)
    model = families.augmented(model, *transforms) if transforms else model
    rate = optax.warmup_cosine_decay_schedule(0.0, lr, min(500, steps // 10 + 1), steps + 1)
    adam = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))
    return Experiment(model, {"denoiser": adam}, images, batch, steps, sample_every=500, save_every=500)


def denoiser(net: str, shape: tuple[int, ...], width: int, blocks: int, classes: int | None) -> Network:
    """A network of images of that shape."""
    if net == "dit":
        patch = max(2, shape[0] // 16)
        return network(DiT(patch, 6 * width, 6 * blocks, 6, classes=classes))
    scales = min(4, 1 + halvings(shape, 4))
    return network(UNet(width, (1, 2, 2, 4)[:scales], blocks, (shape[0] >> (scales - 1),), heads=4, classes=classes))
