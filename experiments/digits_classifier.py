"""A classifier of noisy 8x8 digits, log p(y | x_t), and an unconditional diffusion model that it guides.

jaxgen train experiments/digits_diffusion.py --drop 1 --workdir runs/digits_unconditional
jaxgen train experiments/digits_classifier.py
python experiments/digits_classifier.py runs/digits_unconditional runs/digits_classifier

The last command draws eight samples of every digit at each guidance scale, a picture a scale, and prints the share of
1,000 samples that a classifier of clean digits, trained apart, gives the label that they were guided to, and their
Frechet distance in its features.
"""

from pathlib import Path

import jax
import numpy as np
import optax

import jaxgen
from jaxgen import Experiment, data, families, viz
from jaxgen.cli import script
from jaxgen.data import in_memory, to_uint8
from jaxgen.metrics.evaluation import extractor_for
from jaxgen.metrics.features import extract
from jaxgen.metrics.frechet import fid
from jaxgen.nets import network
from jaxgen.nets.unet import Classifier
from jaxgen.processes import cosine
from jaxgen.sampling import classifier
from jaxgen.types import weights

SCALES, N = (0.0, 1.0, 2.0, 4.0, 8.0), 1000


def experiment(*, steps: int = 3000, batch: int = 128, lr: float = 1e-3, width: int = 32) -> Experiment:
    """The downward half of a UNet, of images at every level of the cosine schedule's noise.

    Args:
        steps: how long to train
        batch: examples a step
        lr: Adam's learning rate, lowered to nothing along a cosine
        width: channels at full size
    """
    digits = data.load("digits")
    net = network(Classifier(10, width, multipliers=(1, 2), blocks=1))
    adam = optax.adamw(optax.cosine_decay_schedule(lr, steps), weight_decay=1e-2)
    return Experiment(families.classifier(net, 10, cosine()), {"classifier": adam}, digits, batch=batch, steps=steps)


def main(diffusion: Path, trained: Path, /) -> None:
    """Draw and score guided samples."""
    (model, state), (guide, guide_state) = jaxgen.load(diffusion), jaxgen.load(trained)
    digits, labels = data.load("digits"), np.arange(N) % 10
    extractor = extractor_for("classifier", digits)
    reals = extract(extractor, digits).vectors
    print("scale  label reached  Frechet distance")
    for scale in SCALES:
        guidance = classifier(guide.log_prob, *weights(guide_state), model.process, scale)
        x = np.asarray(jaxgen.sample(model, state, jax.random.key(0), N, guidance=guidance, given=labels, batch=250))
        found = extract(extractor, in_memory("guided", "all", np.asarray(to_uint8(x))))
        reached = np.mean(np.argmax(np.asarray(found.log_probs), axis=1) == labels)
        print(f"{scale:5}  {reached:13.3f}  {fid(reals, found.vectors).value:.3f}", flush=True)
        viz.save_picture(Path(trained) / f"guided_{scale:g}.png", x[:80], 10)


if __name__ == "__main__":
    script(main)
