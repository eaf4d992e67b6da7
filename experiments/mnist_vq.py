"""Discrete latents of MNIST: a grid of 7x7 codes and a prior over it, a PixelCNN or discrete diffusion.

TFDS_DATA_DIR=... jaxgen train experiments/mnist_vq.py
TFDS_DATA_DIR=... jaxgen train experiments/mnist_vq.py --quantiser fsq --workdir runs/mnist_fsq
TFDS_DATA_DIR=... python experiments/mnist_vq.py runs/mnist_vq      what a run is worth on held-out images

Two priors of the same codes, each trained alone, P = absorbing and pixelcnn:

jaxgen train experiments/mnist_vq.py --prior none --workdir runs/mnist_codes
jaxgen train experiments/mnist_vq.py --prior P --frozen --start vq_vae=runs/mnist_codes --workdir runs/mnist_P

The third command takes any run with discrete latents and prints, of all of the test split: the distortion -log p(x |
z) and the prior's -log p(c), nats an image, of diffusion a bound; the perplexity of the use of the codes; the codes in
use.
"""

from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxgen import Experiment, data, families
from jaxgen.cli import script
from jaxgen.data.pipeline import normalize
from jaxgen.losses.likelihood import bernoulli
from jaxgen.nets import network
from jaxgen.nets.codes import CodeTransformer, ConvGridDecoder, ConvGridEncoder, PixelCNN
from jaxgen.processes import absorbing
from jaxgen.runs import load_run
from jaxgen.sampling import iterate, uniform, unmask
from jaxgen.types import Model, turn, weights

GROUP = "vq_vae"  # of the autoencoder's parameters


def experiment(
    *,
    steps: int = 3000,
    batch: int = 64,
    lr: float = 1e-3,
    quantiser: Literal["vq", "fsq"] = "vq",
    codes: int = 128,
    features: int = 16,
    levels: tuple[int, ...] = (8, 4, 4),
    commitment: float = 0.25,
    restart: float = 0.05,
    width: int = 16,
    prior: Literal["pixelcnn", "absorbing", "none"] = "pixelcnn",
    frozen: bool = False,
) -> Experiment:
    """A VQ-VAE, or the same with finite scalar quantisation.

    Args:
        steps: how long to train; 938 are an epoch at batch 64
        batch: examples a step
        lr: Adam's learning rate of both players, lowered to nothing along a cosine
        quantiser: vq learns a codebook, fsq rounds
        codes: of vq's codebook
        features: of vq's vectors
        levels: of fsq's features, whose product is the number of codes
        commitment: weight that keeps the encoder near its codes, for vq
        restart: part of a fair share of the use below which a code of vq begins anew, 0 for never
        width: channels of the encoder's first layer
        prior: of the codes
        frozen: train the prior alone, on codes that are computed once; give --start vq_vae=RUN
    """
    mnist = data.load("mnist")
    q = families.vq(codes, features, commitment=commitment, restart=restart)
    q = families.fsq(levels) if quantiser == "fsq" else q
    networks = (
        network(ConvGridEncoder(q.features, width, blocks=1)),
        network(ConvGridDecoder(mnist.shape, width, blocks=1)),
    )
    adam, grid = optax.adam(optax.cosine_decay_schedule(lr, steps)), (mnist.shape[0] // 4, mnist.shape[1] // 4)
    if prior == "pixelcnn" and not frozen:
        model = families.vq_vae(*networks, q, network(PixelCNN(q.codes, width=32, layers=4)), grid)
    else:
        model = families.quantised(*networks, q, grid)
        if prior != "none":
            model = families.latent(model, over_codes(prior, q.codes, grid), name=GROUP, train=not frozen)
    optimizers = dict.fromkeys(model.game.losses, adam)
    return Experiment(model, optimizers, mnist, batch=batch, steps=steps, cache=frozen)


def over_codes(prior: str, codes: int, grid: tuple[int, int]) -> Model:
    """A PixelCNN, or diffusion by a transformer with about as many steps as there are codes."""
    if prior == "pixelcnn":
        return families.autoregressive(network(PixelCNN(codes, width=32, layers=4)), codes, grid)
    sampler = iterate(unmask(absorbing(codes)), uniform(50))
    transformer = network(CodeTransformer(codes, width=64, layers=3, local=True))
    return families.absorbing(transformer, codes, grid, sampler=sampler)


def main(run: Path, /) -> None:
    """Print distortion, rate and the use of the codes on held-out images."""
    trained = load_run(run)
    model, (params, extra) = trained.experiment.model, weights(trained.state)
    held_out = data.load(trained.experiment.data.name, split="test")
    priors = [(player, loss) for player, loss in model.game.losses.items() if player != GROUP]
    draws = 8  # of a bound that is estimated

    @jax.jit
    def measured(batch):
        keys = jax.random.split(jax.random.key(0), (draws, batch.x.shape[0]))
        z = model.encode(params, extra, batch.x, None)
        distortion = -bernoulli().log_prob(batch.x, logit(model.decode(params, extra, keys[0], z, None)))
        rate = jnp.zeros(len(batch.x))
        for player, loss in priors:
            of = [loss(params, extra, turn(k), batch)[0] for k in (keys if player == "denoiser" else keys[:1])]
            rate = rate + jnp.mean(jnp.stack(of), axis=0)
        return rate, distortion, z

    rows = []
    for start in range(0, held_out.size, 250):
        batch = held_out.take(np.arange(start, min(start + 250, held_out.size)))
        rows.append(jax.device_get(measured(normalize(jax.tree.map(jnp.asarray, batch)))))
    rate, distortion, z = (np.concatenate(parts) for parts in zip(*rows, strict=True))
    codes = z.reshape(-1, z.shape[-1]) if z.ndim == 4 else z.ravel()  # vectors, or their numbers
    _, counts = np.unique(codes, axis=0, return_counts=True)
    p = counts / counts.sum()
    print(f"distortion {distortion.mean():.2f} nats, prior {rate.mean():.2f} nats, {len(rate)} images")
    print(f"perplexity {np.exp(-np.sum(p * np.log(p))):.1f}, {len(p)} codes in use")


def logit(x: jax.Array) -> jax.Array:
    """The output whose Bernoulli mean is x in [-1, 1]."""
    p = jnp.clip((x + 1.0) / 2.0, 1e-7, 1.0 - 1e-7)
    return jnp.log(p) - jnp.log1p(-p)


if __name__ == "__main__":
    script(main)
