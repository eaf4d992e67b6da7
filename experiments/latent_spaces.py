"""The autoencoder's term alone, the KL term alone, and both: the latent spaces of three settings of one model.

TFDS_DATA_DIR=... python experiments/latent_spaces.py runs/latent_spaces.png
"""

from pathlib import Path

import numpy as np
import optax
from matplotlib.figure import Figure

from jaxgen import Experiment, data, encode, families, fit
from jaxgen.cli import script
from jaxgen.data.pipeline import normalize
from jaxgen.losses.evidence import elbo
from jaxgen.nets import network
from jaxgen.nets.mlp import MLP

SETTINGS = {"autoencoder alone": (1.0, 0.0), "KL alone": (0.0, 1.0), "VAE": (1.0, 1.0)}  # weights: distortion, KL
STEPS, SHOWN = 8000, 4000


def trained(name: str, distortion: float, beta: float, folder: Path):
    """(model, state) of a VAE of MNIST with a code in the plane."""
    mnist, layers = data.load("mnist"), (400, 200)
    encoder, decoder = network(MLP((4,), layers)), network(MLP(mnist.shape, layers))
    model = families.vae(encoder, decoder, 2, objective=elbo(distortion=distortion, beta=beta))
    adam = optax.adam(optax.cosine_decay_schedule(1e-3, STEPS))
    exp = Experiment(model, {"vae": adam}, mnist, steps=STEPS, name=name.replace(" ", "_"), sample_every=STEPS)
    return model, fit(exp, folder / exp.name, progress=False)


def main(out: Path, /) -> None:
    """Draw the codes of held-out digits."""
    test = data.load("mnist", "test").take(np.arange(SHOWN))
    figure = Figure(figsize=(15, 5), dpi=80)
    for axes, (name, weights) in zip(figure.subplots(1, 3), SETTINGS.items(), strict=True):
        model, state = trained(name, *weights, out.with_suffix(""))
        z = np.asarray(encode(model, state, normalize(test).x))
        dots = axes.scatter(*z.T, c=test.condition, cmap="tab10", s=5, linewidths=0)
        axes.set_title(f"{name}: codes of deviation {z[:, 0].std():.2g}, {z[:, 1].std():.2g}")
        axes.set_aspect("equal", adjustable="datalim")
    figure.legend(*dots.legend_elements(), loc="center right")
    figure.savefig(out)
    print(out)


if __name__ == "__main__":
    script(main)
