"""`python _layouts_worker.py CASE` trains a tiny model a few steps in every layout on the devices it is given, and
prints what came of it as JSON. To add one, add a line to `CASES`.
"""

import json
import sys
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from jaxgen import families, parallel, sampling, training
from jaxgen.conditions import labels
from jaxgen.data import in_memory
from jaxgen.losses import evidence
from jaxgen.metrics.evaluation import samples
from jaxgen.metrics.features import extract, pixels
from jaxgen.nets import network
from jaxgen.nets.codes import PixelCNN
from jaxgen.nets.conv import ConvDecoder, ConvEncoder, DCGANCritic, DCGANGenerator
from jaxgen.nets.mlp import MLP, MLPDenoiser
from jaxgen.processes import cosine
from jaxgen.types import Batch, Model

SHAPE, BATCH, STEPS = (8, 8, 1), 16, 5


class Case(NamedTuple):
    """model      and the turns of its players, `order`
    kind       of data: "images" or "points", labelled
    condition  of the samples
    coupled    only training is tried, and without fsdp: of a loss or a state that couples the examples of a minibatch,
               and of what differs from other cases in its losses alone
    rate       SGD's learning rate, as large as the losses allow
    """

    model: Model
    order: tuple[str, ...] | None = None
    kind: str = "images"
    condition: int | None = None
    coupled: bool = False
    rate: float = 0.05

    @property
    def layouts(self) -> tuple[str, ...]:
        return ("data", "pmap") if self.coupled else ("data", "fsdp", "pmap")


def mlp_vae(objective):
    return families.vae(network(MLP((8,), (32,))), network(MLP(SHAPE, (32,))), 4, objective=objective)


def conv_vae():
    encoder, decoder = ConvEncoder(8, width=4, hidden=64), ConvDecoder(SHAPE, width=4, hidden=64)
    return families.vae(network(encoder), network(decoder), 4)


def wae_mmd():
    return families.wae_mmd(network(MLP((4,), (32,))), network(MLP(SHAPE, (32,))), 4)


def factor_vae():
    encoder, decoder, critic = network(MLP((8,), (32,))), network(MLP(SHAPE, (32,))), network(MLP((), (32,)))
    return families.factor_vae(encoder, decoder, critic, 4, gamma=2.0)


def gan():
    generator, critic = DCGANGenerator(SHAPE, width=4), DCGANCritic(width=8)
    return families.gan(network(generator), network(critic), 8)


def vq():
    encoder, decoder = network(MLP((2, 2, 3), (64,))), network(MLP(SHAPE, (64,)))
    return families.vq_vae(encoder, decoder, families.vq(4, 3), network(PixelCNN(4, 4, layers=1)), (2, 2))


def diffusion():
    process = cosine()
    sampler = sampling.iterate(sampling.ddpm(process), sampling.uniform(5))
    denoiser = network(MLPDenoiser(64, 1, classes=3))
    return families.diffusion(denoiser, process, (2,), sampler=sampler, condition=labels(3), prediction="v")


def nets(*outputs: int):
    """Perceptrons with so many outputs, the last of an image."""
    return [*(network(MLP((out,) if out else (), (32,))) for out in outputs), network(MLP(SHAPE, (32,)))]


def adversarial():
    encoder, critic, decoder = nets(4, 0)
    return families.adversarial_autoencoder(encoder, decoder, critic, 4)


def latent():
    process = cosine(clip=np.inf)
    sampler = sampling.iterate(sampling.ddim(process), sampling.uniform(5))
    codes = families.diffusion(network(MLPDenoiser(32, 1)), process, (4,), sampler=sampler, prediction="v")
    return families.latent(mlp_vae(None), codes)


def coupled(model: Model) -> Case:
    return Case(model, coupled=True, rate=1e-3)  # of losses summed over pixels


# {name: a function that makes the Case}
CASES = {
    "vae": lambda: Case(conv_vae()),
    "gan": lambda: Case(gan(), ("critic", "critic", "generator")),
    "vq": lambda: Case(vq()),
    "diffusion": lambda: Case(diffusion(), kind="points", condition=1),
    "free_bits": lambda: coupled(mlp_vae(evidence.elbo(free_bits=0.05))),
    "info": lambda: coupled(mlp_vae(evidence.info(scale=5.0))),
    "tc": lambda: coupled(mlp_vae(evidence.tc(100, beta=3.0))),
    "factor_vae": lambda: coupled(factor_vae()),
    "wae_mmd": lambda: coupled(wae_mmd()),
    "autoencoder": lambda: coupled(families.autoencoder(*nets(4), 4)),
    "adversarial": lambda: coupled(adversarial()),
    "latent": lambda: Case(latent(), coupled=True),
    "low_rank": lambda: Case(families.low_rank(mlp_vae(None)), coupled=True, rate=3e-3),
}


def data(case: Case) -> Batch:
    """Minibatches [STEPS, M, slices, B, ...] for the players' turns."""
    rng = np.random.default_rng(0)
    turns = training.minibatches(training.play_order(case.model.game, case.order))
    shape = (STEPS, turns, 2, BATCH // 2)
    if case.kind == "points":
        return Batch(rng.normal(size=(*shape, 2)).astype(np.float32), rng.integers(0, 3, shape, dtype=np.int32))
    return Batch(rng.integers(0, 256, (*shape, *SHAPE), dtype=np.uint8))


def train(case: Case, batch: Batch, place: parallel.Layout) -> tuple:
    game = case.model.game
    optimizers = {player: optax.sgd(case.rate, momentum=0.9) for player in game.losses}
    first = jax.tree.map(lambda a: a[0, 0, 0], batch)
    init = partial(training.init_state, game, optimizers, jax.random.key(0), ema=True)
    shapes = parallel.template(place, init, first)
    state = parallel.create(shapes, init, first)
    make = partial(training.make_step, game, optimizers, order=case.order, ema=0.9)
    run = parallel.compile_step(place, make, shapes)
    return run(state, parallel.place_batch(place, batch), np.int32(STEPS))


def numbers(tree: Any) -> np.ndarray:
    return np.concatenate([np.ravel(jax.device_get(a)).astype(np.float64) for a in jax.tree.leaves(tree)])


def features(model: Model, state: Any) -> dict[str, float]:
    """The largest difference between the features of samples that all devices draw and those of one."""
    digits = in_memory("x", "train", np.zeros((4, *SHAPE), np.uint8))
    found = []
    for layout in ("one", "data"):
        place = parallel.layout(layout)
        state = jax.device_get(state._replace(key=None))
        fakes = samples(model, state, digits, 21, sharding=place.rows)
        found.append(extract(pixels(), fakes, batch=16, sharding=place.rows).vectors)
    return {"features": float(np.abs(found[0] - found[1]).max()), "spread": float(found[0].std())}


def result(case: Case, batch: Batch, layout: str) -> dict[str, Any]:
    """What one layout gives: numbers to compare, how much was learned, and in how many parts the state lies."""
    place = parallel.layout(layout)
    state, report = train(case, batch, place)
    found = {"state": numbers((state.params, state.ema, state.extra)), "metrics": numbers(report.metrics)}
    if not case.coupled:
        options = {"sharding": place.rows, "batch": 16}
        found["images"] = numbers(sampling.sample(case.model, state, jax.random.key(1), 20, case.condition, **options))
    parts = max(len({str(shard.index) for shard in a.addressable_shards}) for a in jax.tree.leaves(state.params))
    moved = float(np.abs(numbers({p: state.params[p] for p in state.ema.params}) - numbers(state.ema.params)).max())
    drawn = features(case.model, state) if layout == "data" and not case.coupled and case.kind == "images" else {}
    return {"numbers": found, "about": {"parts": parts, "moved": moved, **drawn}}


def compare(case: Case) -> dict[str, dict[str, float]]:
    """{layout: how far what it gives is from what one device gives}."""
    batch = data(case)
    one, out = result(case, batch, "one"), {}
    for layout in case.layouts:
        other = result(case, batch, layout)
        pairs = {name: (ours, one["numbers"][name]) for name, ours in other["numbers"].items()}
        out[layout] = {name: float(np.abs(a - b).max()) for name, (a, b) in pairs.items()} | other["about"]
    return out


def main(name: str) -> None:
    print(json.dumps({"devices": jax.device_count()} | compare(CASES[name]())))


if __name__ == "__main__":
    main(sys.argv[1])
