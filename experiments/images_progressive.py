"""Progressive GAN of images of any data set: from 4x4 to 32x32 pixels, a scale at a time.

jaxgen train experiments/images_progressive.py --stages 4      # 4x4, 8x8, 16x16, 32x32; goes on where it was stopped
"""

import optax

from jaxgen import Experiment, data, families
from jaxgen.families.growing import fading
from jaxgen.losses import adversarial, penalties
from jaxgen.nets import network
from jaxgen.nets.progressive import ProgressiveCritic, ProgressiveGenerator, shrinks


def experiment(
    *,
    stage: int = 0,
    name: str = "cifar10",
    size: int = 32,
    width: int = 16,
    latent: int = 64,
    steps: int = 3000,
    batch: int = 32,
) -> Experiment:
    """A stage of a progressive GAN, with WGAN-GP as in the paper.

    Args:
        stage: 0 is 4x4, each further one twice as large
        name: of a data set, such as cifar10, fashion_mnist or folder:PATH
        size: pixels a side of the last stage, of a folder of pictures
        width: channels at full size
        latent: dimensions of z
        steps: of a stage, half of them to fade its scale in
        batch: examples a turn
    """
    images = data.load(name, size=size, channels=3) if name.startswith("folder:") else data.load(name)
    shape = images.shape
    model = families.gan(
        network(ProgressiveGenerator(shape, stage, width, 8 * width)),
        network(ProgressiveCritic(shape, stage, width, 8 * width)),
        latent,
        objective=adversarial.wasserstein(),
        penalties=(penalties.gradient_penalty(10.0), penalties.drift(1e-3)),
    )
    small = data.shrunk(images, shrinks(shape, stage))
    adam = optax.adam(1e-3, b1=0.0, b2=0.99)
    return Experiment(
        fading(model, steps // 2 if stage else 0),
        {"critic": adam, "generator": adam},
        small,
        batch=batch,
        steps=steps,
        order=("critic", "generator"),
    )
