"""What guidance buys and costs: precision and recall of the digits against its scale, of three guidances.

jaxgen train experiments/digits_diffusion.py
jaxgen train experiments/digits_diffusion.py --steps 300 --width 16 --workdir runs/digits_weaker
jaxgen train experiments/digits_classifier.py
python experiments/digits_guidance.py runs/digits_diffusion runs/digits_weaker runs/digits_classifier runs/guidance.png

Classifier-free (Ho and Salimans 2022, arXiv:2207.12598), by a classifier of noisy images (Dhariwal and Nichol 2021,
arXiv:2105.05233), by a weaker model of the same condition (Karras et al. 2024, arXiv:2406.02507); the first also in
the middle of the noise alone (Kynkäänniemi et al. 2024, arXiv:2404.07724). A scale of 1 is no guidance: that of the
classifier, which is added to a conditional model, is counted from there.
"""

from pathlib import Path

import jax
import numpy as np

import jaxgen
from jaxgen import data, viz
from jaxgen.cli import script
from jaxgen.data.pipeline import to_uint8
from jaxgen.metrics.evaluation import extractor_for
from jaxgen.metrics.features import extract
from jaxgen.metrics.frechet import fid
from jaxgen.metrics.neighbours import prdc
from jaxgen.sampling import autoguidance, classifier, classifier_free, limited
from jaxgen.types import weights

SCALES, N = (1.0, 1.5, 2.0, 3.0, 5.0, 8.0), 1500


def main(run: Path, weaker: Path, guide: Path, out: Path, /) -> None:
    """Draw at every scale with every guidance, score, tabulate and draw the curves and a grid."""
    (model, state), weak, (noisy, noisy_state) = jaxgen.load(run), jaxgen.load(weaker), jaxgen.load(guide)
    process, digits, wanted = model.process, data.load("digits"), np.arange(N) % 10
    assert process is not None
    guidances = {
        "classifier-free": classifier_free,
        "classifier-free, 0.2 < t < 0.8": lambda scale: limited(classifier_free(scale), 0.2, 0.8),
        "classifier": lambda scale: classifier(noisy.log_prob, *weights(noisy_state), process, scale - 1.0),
        "weaker model": lambda scale: autoguidance(scale, *weak),
    }
    extractor = extractor_for("classifier", digits)
    reals = extract(extractor, digits).vectors
    curves, grids = {name: [] for name in ("precision", "recall", "Fréchet distance")}, []
    print("| guidance | scale | precision | recall | Fréchet distance | class |\n|---|---|---|---|---|---|")
    for name, guidance in guidances.items():
        points = {score: [] for score in curves}
        for scale in SCALES:
            given = wanted if name == "classifier" else None
            options = {"guidance": guidance(scale), "given": given, "batch": 500}
            x = np.asarray(jaxgen.sample(model, state, jax.random.key(0), N, wanted, **options))
            found = extract(extractor, data.in_memory("drawn", "all", np.asarray(to_uint8(x))))
            near, distance = prdc(reals, found.vectors), fid(reals, found.vectors).value
            hit = np.mean(np.argmax(np.asarray(found.log_probs), axis=1) == wanted)
            row = [near.precision.value, near.recall.value, distance]
            print(f"| {name} | {scale:g} | " + " | ".join(f"{v:.3f}" for v in [*row, hit]) + " |", flush=True)
            for score, value in zip(curves, row, strict=True):
                points[score].append((scale, value, 0.0))
            if scale in (1.0, 3.0, 8.0):
                grids.append(x[:20])
        for score in curves:
            curves[score].append(viz.Curve(name, points[score]))
    panels = [viz.Panel("scale", score, found, log="") for score, found in curves.items()]
    print(viz.save_panels(out, panels, columns=3))
    print(viz.save_picture(Path(out).with_name("guided.png"), np.concatenate(grids), 20))


if __name__ == "__main__":
    script(main)
