"""Likelihood of binary MNIST: VAE, IWAE, VampPrior, normalizing flows.

TFDS_DATA_DIR=... jaxgen train experiments/binary_mnist.py --samples 50 --workdir runs/iwae
jaxgen likelihood runs/iwae --samples 5000
"""

from typing import Literal

import optax

from jaxgen import Experiment, data, families
from jaxgen.losses import evidence
from jaxgen.nets import network
from jaxgen.nets.flows import InverseAutoregressive, Planar
from jaxgen.nets.mlp import MLP

FLOWS = {"planar": Planar(10), "iaf": InverseAutoregressive(2, 320)}
CONTEXT = 100  # numbers that the encoder gives a flow


def experiment(
    *,
    epochs: int = 200,
    batch: int = 100,
    lr: float = 5e-4,
    latent: int = 40,
    hidden: int = 300,
    samples: int = 1,
    beta: float = 1.0,
    warmup: int = 0,
    free_bits: float = 0.0,
    prior: Literal["standard", "mixture", "vamp"] = "standard",
    components: int = 500,
    flow: Literal["none", "planar", "iaf"] = "none",
    dynamic: bool = False,
) -> Experiment:
    """Multilayer perceptrons of two gated layers (Tomczak and Welling 2017, section 5).

    Args:
        epochs: passes over the training images
        batch: examples a step
        lr: Adam's learning rate, lowered to nothing along a cosine
        latent: dimensions of the latent
        hidden: width of every hidden layer
        samples: latents an example; more than one minimise IWAE's bound
        beta: weight of the KL term, with one sample
        warmup: epochs in which it rises from nothing
        free_bits: nats that each dimension of the latent may hold without cost
        prior: of the latent
        components: of a mixture or a VampPrior
        flow: of the posterior
        dynamic: binarise the training images anew at every use, instead of once
    """
    binary = data.load("mnist", "train[:50000]") if dynamic else data.load("binary_mnist")
    per_epoch = binary.size // batch
    objective = (
        evidence.iwae() if samples > 1 else evidence.elbo(beta=beta, warmup=warmup * per_epoch, free_bits=free_bits)
    )
    layers = (hidden, hidden)
    context = CONTEXT if flow != "none" else 0
    model = families.vae(
        network(MLP((2 * latent + context,), layers, gated=True)),
        network(MLP(binary.shape, layers, gated=True)),
        latent,
        objective=objective,
        samples=samples,
        prior={"standard": None, "mixture": families.priors.mixture, "vamp": families.priors.vamp}[prior](components)
        if prior != "standard"
        else None,
        flow=network(FLOWS[flow]) if flow != "none" else None,
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
