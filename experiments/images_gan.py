"""Residual, style and R3GAN networks on images of any data set: CIFAR-10 by default.

jaxgen train experiments/images_gan.py --kind stylegan2 --workdir runs/images_stylegan2
jaxgen train experiments/images_gan.py --kind biggan --name fashion_mnist --workdir runs/fashion_biggan
"""

from typing import Literal

import optax

from jaxgen import Experiment, data, families
from jaxgen.conditions import labels
from jaxgen.losses import adversarial, augmentation, penalties
from jaxgen.nets import network
from jaxgen.nets.r3gan import R3Critic, R3Generator
from jaxgen.nets.resnet import ResNetCritic, ResNetGenerator
from jaxgen.nets.style import Mapping, StyleCritic, StyleSynthesis, StyleSynthesis2, styles
from jaxgen.nets.weights import spectral


def experiment(
    *,
    kind: Literal["sngan", "sagan", "biggan", "stylegan", "stylegan2", "r3gan"] = "stylegan2",
    name: str = "cifar10",
    size: int = 32,
    width: int = 32,
    latent: int = 64,
    steps: int = 20_000,
    batch: int = 32,
    augment: bool = False,
) -> Experiment:
    """A GAN with the loss, penalties and optimizers of its paper.

    Args:
        kind: whose networks and loss
        name: of a data set, such as cifar10, fashion_mnist or folder:PATH
        size: pixels a side, of a folder of pictures
        width: channels at full size
        latent: dimensions of z
        steps: how long to train
        batch: examples a turn
        augment: with DiffAugment
    """
    images = data.load(name, size=size, channels=3) if name.startswith("folder:") else data.load(name)
    aug = augmentation.augment() if augment else None
    shape, most = images.shape, 8 * width
    both = ("critic", "generator")
    if kind in ("stylegan", "stylegan2"):
        synthesis = {"stylegan": StyleSynthesis, "stylegan2": StyleSynthesis2}[kind](shape, width, most)
        model = families.style_gan(
            network(Mapping(latent, 4)),
            network(synthesis),
            network(StyleCritic(width, most)),
            latent,
            layers=styles(shape),
            penalties=(penalties.lazy(penalties.r1(1.0), 16),),
            path_length=families.PathLength() if kind == "stylegan2" else None,
            augmentation=aug,
        )
        adam = optax.adam(2e-3, b1=0.0, b2=0.99)
        return Experiment(model, {"critic": adam, "generator": adam}, images, batch, steps, order=both)
    if kind == "r3gan":
        lowered = optax.cosine_decay_schedule(1.0, steps, alpha=0.1)  # as its authors' code does, in 20 million images
        paid = tuple(penalties.scheduled(one(0.1), lowered) for one in (penalties.r1, penalties.r2))
        model = families.gan(
            network(R3Generator(shape, width, most)),
            network(R3Critic(width, most)),
            latent,
            objective=adversarial.relativistic(),
            penalties=paid,
            augmentation=aug,
        )
        adam = optax.adam(optax.cosine_decay_schedule(2e-4, steps, alpha=0.25), b1=0.0, b2=0.99)
        return Experiment(model, {"critic": adam, "generator": adam}, images, batch, steps, order=both)
    big, classes = kind == "biggan", len(images.classes) or None
    attention = 0 if kind == "sngan" else shape[0] // 2
    weight = None if kind == "sngan" else spectral
    condition = labels(classes) if big and classes else None
    own = {"classes": classes if condition else None, "attention": attention}
    generator = ResNetGenerator(shape, width, most, skip=big, weight=weight, **own)
    critic = ResNetCritic(width, most, smallest=8 if shape[0] % 8 == 0 else 7, **own)
    model = families.gan(
        network(generator),
        network(critic),
        latent,
        objective=adversarial.hinge(),
        augmentation=aug,
        condition=condition,
    )
    players = {"critic": optax.adam(4e-4, b1=0.0, b2=0.9), "generator": optax.adam(1e-4, b1=0.0, b2=0.9)}
    turns = {"sngan": 5, "sagan": 1, "biggan": 2}[kind]
    return Experiment(model, players, images, batch, steps, order=("critic",) * turns + ("generator",))
