"""Discrete latents of MNIST: a grid of 7x7 codes and a PixelCNN over it.

TFDS_DATA_DIR=... jaxgen train experiments/mnist_vq.py
TFDS_DATA_DIR=... jaxgen train experiments/mnist_vq.py --quantiser fsq --workdir runs/mnist_fsq
TFDS_DATA_DIR=... python experiments/mnist_vq.py runs/mnist_vq      what a run is worth on held-out images

The last command takes any run with discrete latents and prints, of all of the test split: the distortion -log p(x | z)
and the prior's -log p(c), nats an image; the perplexity of the use of the codes; the codes in use.
"""

import sys
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxgen import Experiment, data, families
from jaxgen.data.pipeline import normalize
from jaxgen.nets import network
from jaxgen.nets.codes import ConvGridDecoder, ConvGridEncoder, PixelCNN
from jaxgen.runs import load_run
from jaxgen.types import turn, weights


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
    """
    mnist = data.load("mnist")
    q = families.vq(codes, features, commitment=commitment, restart=restart)
    q = families.fsq(levels) if quantiser == "fsq" else q
    encoder = network(ConvGridEncoder(q.features, width, blocks=1))
    decoder = network(ConvGridDecoder(mnist.shape, width, blocks=1))
    prior = network(PixelCNN(q.codes, width=32, layers=4))
    adam = optax.adam(optax.cosine_decay_schedule(lr, steps))
    model = families.vq_vae(encoder, decoder, q, prior, (mnist.shape[0] // 4, mnist.shape[1] // 4))
    return Experiment(model, {"vq_vae": adam, "prior": adam}, mnist, batch=batch, steps=steps)


def main(workdir: str) -> None:
    """Print distortion, rate and the use of the codes on held-out images."""
    run = load_run(workdir)
    model, (params, extra) = run.experiment.model, weights(run.state)
    held_out = data.load(run.experiment.data.name, split="test")

    @jax.jit
    def measured(batch):
        keys = jax.random.split(jax.random.key(0), batch.x.shape[0])
        rate = model.game.losses["prior"](params, extra, turn(keys), batch)[0]
        bound = model.density.log_p(params, extra, keys, batch, 1)[:, 0]
        return rate, -bound - rate, model.encode(params, extra, batch.x, None)

    rows = []
    for start in range(0, held_out.size, 250):
        batch = held_out.take(np.arange(start, min(start + 250, held_out.size)))
        rows.append(jax.device_get(measured(normalize(jax.tree.map(jnp.asarray, batch)))))
    rate, distortion, z = (np.concatenate(parts) for parts in zip(*rows, strict=True))
    _, counts = np.unique(z.reshape(-1, z.shape[-1]), axis=0, return_counts=True)
    p = counts / counts.sum()
    print(f"distortion {distortion.mean():.2f} nats, prior {rate.mean():.2f} nats, {len(rate)} images")
    print(f"perplexity {np.exp(-np.sum(p * np.log(p))):.1f}, {len(p)} codes in use")


if __name__ == "__main__":
    main(sys.argv[1])
