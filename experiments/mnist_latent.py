"""Latent diffusion of MNIST: a KL autoencoder of 7x7 codes, with or without a critic, then diffusion of its codes.

TFDS_DATA_DIR=... jaxgen train experiments/mnist_latent.py --stage autoencoder --workdir runs/mnist_kl
TFDS_DATA_DIR=... jaxgen train experiments/mnist_latent.py --start autoencoder=runs/mnist_kl
jaxgen train experiments/mnist_latent.py --stage autoencoder --critic --start vae=runs/mnist_kl --workdir runs/sharp
TFDS_DATA_DIR=... python experiments/mnist_latent.py runs/mnist_kl      test pictures beside their reconstructions

The third command goes on with a critic where the first one ended. The last one takes any of these runs, draws
reconstructions.png and writes 1,000 reconstructions to reconstructions.npz, for `jaxgen evaluate --fakes`.
"""

import math
from pathlib import Path
from typing import Literal

import jax.numpy as jnp
import numpy as np
import optax

from jaxgen import Experiment, data, families, sampling, viz
from jaxgen.cli import script
from jaxgen.conditions import labels
from jaxgen.data.pipeline import normalize
from jaxgen.losses.evidence import elbo
from jaxgen.losses.likelihood import bernoulli
from jaxgen.nets import network
from jaxgen.nets.codes import ConvGridDecoder, ConvGridEncoder, flat_posterior, of_flat
from jaxgen.nets.conv import PatchCritic
from jaxgen.nets.unet import UNet
from jaxgen.processes import cosine
from jaxgen.runs import load_run
from jaxgen.sampling import ddim, iterate, uniform
from jaxgen.types import Batch


def experiment(
    *,
    stage: Literal["autoencoder", "diffusion"] = "diffusion",
    steps: int = 2_000,
    batch: int = 64,
    lr: float = 1e-3,
    features: int = 2,
    beta: float = 0.2,
    critic: bool = False,
    critic_start: int = 0,
    width: int = 64,
    cache: bool = True,
) -> Experiment:
    """A variational autoencoder whose latents are a grid, and a UNet that predicts v over them.

    Args:
        stage: what is trained: the autoencoder, or the diffusion model of its codes, conditioned on the label
        steps: how long to train; 938 are an epoch at batch 64
        batch: examples a step
        lr: Adam's learning rate, lowered to nothing along a cosine
        features: of a code, at each of 7x7 places
        beta: weight of the autoencoder's KL term
        critic: of patches of 16 pixels, which compares reconstructions with images
        critic_start: the step from which on it does
        width: channels of the UNet at 7x7
        cache: compute the codes once instead of at every step
    """
    mnist, process = data.load("mnist"), cosine(clip=math.inf)
    shape = (mnist.shape[0] // 4, mnist.shape[1] // 4, features)
    encoder = flat_posterior(network(ConvGridEncoder(2 * features, 16, blocks=1, norm=False)))
    decoder = of_flat(network(ConvGridDecoder(mnist.shape, 16, blocks=1)), shape)

    def autoencoder(p):
        return families.vae(encoder, decoder, math.prod(shape), likelihood=p, objective=elbo(beta=beta))

    rate = optax.cosine_decay_schedule(lr, steps)
    if stage == "autoencoder":
        model, optimizers = autoencoder(bernoulli()), {"vae": optax.adam(rate)}
        if critic:
            patches = network(PatchCritic(16, halvings=1))
            model = families.sharpened(autoencoder, patches, likelihood=bernoulli(), start=critic_start)
            optimizers["critic"] = optax.adam(rate, b1=0.5)
        return Experiment(model, optimizers, mnist, batch=batch, steps=steps)
    unet = UNet(width, multipliers=(1,), blocks=2, attention_at=(7,), classes=len(mnist.classes))
    codes = families.diffusion(
        network(unet),
        process,
        shape,
        prediction="v",
        condition=labels(len(mnist.classes)),
        sampler=iterate(ddim(process), uniform(50)),
    )
    model = families.latent(families.in_grid(autoencoder(bernoulli()), shape), codes)
    adam = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))
    return Experiment(model, {"denoiser": adam}, mnist, batch=batch, steps=steps, cache=cache)


def main(run: Path, /) -> None:
    """Write reconstructions of 1,000 test pictures, and a picture of the first 40 beside theirs."""
    trained = load_run(run)
    x = normalize(Batch(jnp.asarray(data.load("mnist", split="test").take(np.arange(1000)).x))).x
    again = sampling.reconstruct(trained.experiment.model, trained.state, x)
    pairs = jnp.stack([x[:40], again[:40]], axis=1).reshape(-1, *x.shape[1:])
    print(viz.save_picture(run / "reconstructions.png", np.asarray(pairs), 10))
    print(viz.save_arrays(run / "reconstructions.npz", x=np.asarray(viz.to_uint8(again))))


if __name__ == "__main__":
    script(main)
