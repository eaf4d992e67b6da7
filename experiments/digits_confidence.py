"""How many samples of a digits run does a classifier of the real digits recognise?

python experiments/digits_confidence.py runs/digits_vae runs/digits_gan runs/digits_diffusion

The classifier (ten small networks, each trained on a bootstrap of the training digits, their probabilities averaged)
never saw a generated image. A sample counts if one class gets a probability above 0.9. Beside each run stand the
held-out real digits (what the best model could reach) and draws from one Gaussian with the pixels' mean and covariance
(what a model without structure reaches). The share alone does not see a model that repeats a few digits, or copies the
training digits. So beside it stand the number of classes among the counted samples, the share of the most frequent one,
and the median distance to the nearest training digit (pixels in [0, 1]): far below that of held-out digits, it copies.
"""

import sys
from typing import Any

import jax
import numpy as np
from sklearn.ensemble import BaggingClassifier
from sklearn.metrics import pairwise_distances
from sklearn.neural_network import MLPClassifier

import jaxgen
from jaxgen import data
from jaxgen.data.pipeline import to_uint8

SAMPLES, SURE = 1000, 0.9


def features(x: Any) -> np.ndarray:
    """uint8 images as the classifier sees them: flat, in [0, 1]."""
    return x.reshape(len(x), -1) / 255.0


def gaussian(x: Any, n: int) -> np.ndarray:
    """n draws of a Gaussian with the mean and covariance of images x, as images."""
    flat = x.reshape(len(x), -1).astype(np.float64)
    rng = np.random.default_rng(0)
    draws = rng.multivariate_normal(flat.mean(0), np.cov(flat.T), n, method="eigh")
    return np.clip(np.round(draws), 0, 255).astype(np.uint8).reshape(-1, *x.shape[1:])


def row(name: str, classifier: Any, train: Any, x: Any) -> str:
    """One line of the table for images x."""
    p = classifier.predict_proba(features(x))
    sure = p.max(1) > SURE
    counts = np.bincount(p.argmax(1)[sure], minlength=10)
    error = np.sqrt(sure.mean() * (1 - sure.mean()) / len(x))
    top = counts.max() / max(1, counts.sum())
    near = np.median(pairwise_distances(features(x), features(train)).min(1))
    return f"| {name} | {len(x)} | {sure.mean():.3f} ± {error:.3f} | {(counts > 0).sum()} | {top:.2f} | {near:.2f} |"


def main(runs: list[str]) -> None:
    """Print the table for the runs."""
    train, test = (data.load("digits", split) for split in ("train", "test"))
    real, held_out = (d.take(np.arange(d.size)) for d in (train, test))
    network = MLPClassifier((128,), alpha=1e-2, max_iter=1000)
    classifier = BaggingClassifier(network, n_estimators=10, random_state=0)
    classifier.fit(features(real.x), real.condition)
    accuracy = classifier.score(features(held_out.x), held_out.condition)
    print(f"The classifier is right on {accuracy:.3f} of the held-out digits.\n")
    print(f"| images | number | confident (> {SURE}) | classes found | most frequent | nearest |")
    print("|---|---|---|---|---|---|")
    print(row("held-out real digits", classifier, real.x, held_out.x))
    for run in runs:
        model, state = jaxgen.load(run)
        labels = None if model.condition is None else np.arange(SAMPLES) % 10
        x = jaxgen.sample(model, state, jax.random.key(0), SAMPLES, labels, batch=250)
        print(row(run, classifier, real.x, np.asarray(to_uint8(x))), flush=True)
    print(row("Gaussian of the pixels", classifier, real.x, gaussian(real.x, SAMPLES)))


if __name__ == "__main__":
    main(sys.argv[1:])
