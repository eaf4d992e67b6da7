"""Likelihood of binary MNIST with two stochastic layers: the ladder VAE and the top-down hierarchical VAE.

TFDS_DATA_DIR=... jaxgen train experiments/binary_mnist_ladder.py --workdir runs/ladder
jaxgen likelihood runs/ladder --samples 5000
"""

from typing import Literal

import optax

from jaxgen import Experiment, data, families
from jaxgen.losses import evidence
from jaxgen.nets import network
from jaxgen.nets.mlp import MLP


def experiment(
    *,
    epochs: int = 200,
    batch: int = 100,
    lr: float = 5e-4,
    top: int = 40,
    bottom: int = 40,
    hidden: int = 300,
    samples: int = 1,
    beta: float = 1.0,
    warmup: int = 50,
    free_bits: float = 0.0,
    inference: Literal["ladder", "merged"] = "ladder",
    dynamic: bool = False,
) -> Experiment:
    """Multilayer perceptrons of gated layers, two latents (Sonderby et al. 2016; Tomczak and Welling 2017, section 5).

    Args:
        epochs: passes over the training images
        batch: examples a step
        lr: Adam's learning rate, lowered to nothing along a cosine
        top: dimensions of the latent z_2
        bottom: dimensions of the latent z_1, next to the image
        hidden: width of every hidden layer
        samples: latents an example; more than one minimise IWAE's bound
        beta: weight of the KL term, with one sample
        warmup: epochs in which it rises from nothing
        free_bits: nats that each dimension of the latents may hold without cost
        inference: q(z_1 | z_2, x) is the product of p(z_1 | z_2) and what x says, or a network's
        dynamic: binarise the training images anew at every use, instead of once
    """
    binary = data.load("mnist", "train[:50000]") if dynamic else data.load("binary_mnist")
    per_epoch = binary.size // batch
    objective = (
        evidence.iwae() if samples > 1 else evidence.elbo(beta=beta, warmup=warmup * per_epoch, free_bits=free_bits)
    )
    merged = inference == "merged"

    def net(out: int, layers: int = 2):
        return network(MLP((out,), (hidden,) * layers, gated=True))

    model = families.hierarchical_vae(
        [net(hidden if merged else 2 * bottom + hidden), net(2 * top)],
        [net(2 * bottom)],
        network(MLP(binary.shape, (hidden, hidden), gated=True)),
        (bottom, top),
        merge=[net(2 * bottom, 1)] if merged else None,
        objective=objective,
        samples=samples,
    )
    steps = epochs * per_epoch
    adam = optax.adam(optax.cosine_decay_schedule(lr, steps))
    return Experiment(
        families.dynamically_binarised(model) if dynamic else model,
        {"vae": adam},
        binary,
        batch=batch,
        steps=steps,
        log_every=per_epoch,
        sample_every=20 * per_epoch,
        save_every=5 * per_epoch,
    )
