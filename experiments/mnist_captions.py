"""Text to image: digits drawn from captions such as "a thick seven leaning left".

TFDS_DATA_DIR=... jaxgen train experiments/mnist_captions.py
jaxgen sample runs/mnist_captions --condition "a thick seven leaning left" --guidance 2
python experiments/mnist_captions.py runs/mnist_captions

Captions are made of the real label and of two measured attributes, the pen and the leaning, each a third of the
training pictures. Thick twos and sevens leaning left are left out of the training. The last command draws digits for
all 90 captions, measures them as the training pictures were measured, lets a classifier of MNIST read them, and prints
the share that agrees with the caption, word by word, for captions that were trained on and for those that were not.
Beside it stands the same of real test pictures with their own captions (which differ only where the classifier is
wrong), and with captions dealt at random. A picture, captions.png in the run's folder, has a row for each of the eight
captions `SHOWN`, of which the first four were never seen in training. A second argument is the scale of guidance.
"""

from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import optax

import jaxgen
from jaxgen import Experiment, data, families, viz
from jaxgen.cli import script
from jaxgen.conditions import text
from jaxgen.data import captions
from jaxgen.data.pipeline import to_uint8
from jaxgen.metrics.features import Extractor, extract
from jaxgen.metrics.referee import referee
from jaxgen.nets import network, with_encoder
from jaxgen.nets.dit import DiT
from jaxgen.nets.text import TextEncoder
from jaxgen.nets.unet import UNet
from jaxgen.processes import cosine
from jaxgen.runs import load_run
from jaxgen.sampling import ddim, iterate, uniform

SPLITS, SEEN_EACH, UNSEEN_EACH = ("train", "test"), 6, 50
SHOWN = (
    "a thick seven leaning left",
    "a thin seven leaning left",
    "a thick two leaning left",
    "a thick two leaning right",
    "a thick seven leaning right",
    "a thin two leaning right",
    "a medium zero standing upright",
    "a thin eight leaning left",
)


def experiment(
    *,
    net: Literal["unet", "dit"] = "unet",
    size: int = 28,
    steps: int = 2_000,
    batch: int = 32,
    lr: float = 1e-3,
    width: int = 16,
    dropout: float = 0.0,
) -> Experiment:
    """A denoiser that attends to the words of a caption, encoded by a transformer that is trained with it.

    Args:
        net: a UNet, or a DiT of 7x7 patches, eight times as wide
        size: of the digits, 28 or 14
        steps: how long to train
        batch: examples a step
        lr: Adam's learning rate, warmed up and then lowered to nothing along a cosine
        width: channels of the UNet at full size
        dropout: in the denoiser
    """
    mnist, process = data.load("mnist_captions", part="seen", size=size), cosine()
    if net == "unet":
        denoiser = UNet(width, (1, 2, 4)[: size // 14 + 1], blocks=1, attention_at=(7,), heads=4, dropout=dropout)
    else:
        denoiser = DiT(patch=size // 7, width=8 * width, depth=6, heads=4, qk_norm=True, dropout=dropout)
    encoder = TextEncoder(len(mnist.classes), features=64, layers=2, heads=4)
    model = families.diffusion(
        with_encoder(network(denoiser), network(encoder)),
        process,
        mnist.shape,
        prediction="v",
        condition=text(mnist.classes, captions.LENGTH),
        sampler=iterate(ddim(process), uniform(50), clip=1.0),
    )
    rate = optax.warmup_cosine_decay_schedule(0.0, lr, min(500, steps // 10), steps)
    adam = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))
    return Experiment(model, {"denoiser": adam}, mnist, batch=batch, steps=steps, ema=0.995, save_every=500)


def main(run: Path, /, *, guidance: float = 2.0) -> None:
    """Print the shares that the file's docstring names, and draw the picture."""
    trained = load_run(run)
    model, state = trained.experiment.model, trained.state
    mnist, test = (data.shrunk(data.load("mnist", s), 28 // trained.experiment.data.shape[0] - 1) for s in SPLITS)
    extractor = referee(mnist, test)
    wanted = np.repeat(captions.every(), np.where(captions.unseen(captions.every()), UNSEEN_EACH, SEEN_EACH), axis=0)
    words = [captions.caption(row) for row in wanted]
    drawn = jaxgen.sample(model, state, jax.random.key(0), len(words), words, guidance=guidance)
    found = read(extractor, np.asarray(to_uint8(drawn)))

    real = test.take(np.arange(test.size))
    own = captions.described(np.asarray(real.x), np.asarray(real.condition))
    own_found = read(extractor, np.asarray(real.x))
    print(f"{'':40}  number  leaning  digit    pen    all")
    for part, is_unseen in (("seen", False), ("never seen", True)):
        chosen, real_chosen = captions.unseen(wanted) == is_unseen, captions.unseen(own) == is_unseen
        row(f"drawn, captions {part} in training", found[chosen] == wanted[chosen])
        row("real pictures of them", own_found[real_chosen] == own[real_chosen])
    for name, one in zip(("thick twos", "sevens leaning left"), captions.UNSEEN, strict=True):
        chosen = captions.fits(wanted, one)
        row(f"drawn, {name}, never seen", found[chosen] == wanted[chosen])
    row("real pictures, captions dealt at random", own_found == np.random.default_rng(0).permutation(own))

    each = [caption for caption in SHOWN for _ in range(10)]
    x = jaxgen.sample(model, state, jax.random.key(1), len(each), each, guidance=guidance)
    print(viz.save_picture(Path(run) / "captions.png", np.asarray(x), 10))


def read(extractor: Extractor, x: np.ndarray) -> np.ndarray:
    """What the classifier and the measurements find in pictures, as `captions.described`."""
    log_probs: Any = extract(extractor, data.in_memory("pictures", "drawn", x), batch=256).log_probs
    return captions.described(x, log_probs.argmax(1))


def row(name: str, agree: np.ndarray) -> None:
    """Print shares of agree, bool [N, 3]."""
    shares = "  ".join(f"{share:.3f}" for share in (*agree.mean(0), agree.all(1).mean()))
    print(f"{name:40}  {len(agree):6}  {shares}")


if __name__ == "__main__":
    script(main)
