"""Discrete latents of the 8x8 digits: a grid of 4x4 codes and a PixelCNN over it.

jaxgen train experiments/digits_vq.py
jaxgen train experiments/digits_vq.py --quantiser fsq --workdir runs/digits_fsq
python experiments/mnist_vq.py runs/digits_vq      what it is worth on held-out images
"""

from typing import Literal

import optax

from jaxgen import Experiment, data, families
from jaxgen.nets import network
from jaxgen.nets.codes import ConvGridDecoder, ConvGridEncoder, PixelCNN


def experiment(
    *,
    steps: int = 3000,
    batch: int = 64,
    lr: float = 1e-3,
    quantiser: Literal["vq", "fsq"] = "vq",
    codes: int = 64,
    features: int = 16,
    levels: tuple[int, ...] = (4, 4, 4),
    commitment: float = 0.25,
    restart: float = 0.05,
    prior_width: int = 32,
) -> Experiment:
    """A VQ-VAE, or the same with finite scalar quantisation.

    Args:
        steps: how long to train
        batch: examples a step
        lr: Adam's learning rate of both players, lowered to nothing along a cosine
        quantiser: vq learns a codebook, fsq rounds
        codes: of vq's codebook
        features: of vq's vectors
        levels: of fsq's features, whose product is the number of codes
        commitment: weight that keeps the encoder near its codes, for vq
        restart: part of a fair share of the use below which a code of vq begins anew, 0 for never
        prior_width: channels of the prior, which soon knows 1,500 digits by heart
    """
    digits = data.load("digits")
    q = families.vq(codes, features, commitment=commitment, restart=restart)
    q = families.fsq(levels) if quantiser == "fsq" else q
    encoder = network(ConvGridEncoder(q.features, width=16, halvings=1, blocks=1))
    decoder = network(ConvGridDecoder(digits.shape, width=16, blocks=1))
    prior = network(PixelCNN(q.codes, prior_width, layers=2))
    adam = optax.adam(optax.cosine_decay_schedule(lr, steps))
    model = families.vq_vae(encoder, decoder, q, prior, (4, 4))
    return Experiment(model, {"vq_vae": adam, "prior": adam}, digits, batch=batch, steps=steps)
