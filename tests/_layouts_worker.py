"""`main(CASE)`, in a process of its own, trains a tiny model a few steps in every layout on the devices it is given and
prints what came of it as JSON. To add one, add a model to `tiny.zoo`.
"""

import json
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from tiny.zoo import SHAPE, ZOO, examples

from jaxgen import parallel, sampling, training
from jaxgen.data import in_memory
from jaxgen.metrics.evaluation import samples
from jaxgen.metrics.features import extract, pixels
from jaxgen.types import Batch, Model

BATCH, STEPS = 16, 5


class Case(NamedTuple):
    """model      and the turns of its players, `order`
    kind       of data
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


def coupled(name: str, rate: float = 1e-3) -> Callable[[], Case]:
    """rate: of losses summed over pixels."""
    return lambda: case(name, coupled=True, rate=rate)


def case(name: str, **settings: Any) -> Case:
    kind = ZOO[name]
    return Case(kind.make(), kind.order, kind.data, **settings)


# {name: a function that makes the Case}
CASES = {
    "vae": lambda: case("vae"),
    "gan": lambda: case("gan"),
    "vq": lambda: case("vq"),
    "diffusion": lambda: case("diffusion", condition=1),
    "latent": coupled("latent", 0.05),
    "low_rank": coupled("low_rank", 3e-3),
    "vae_gan": coupled("vae_gan", 3e-3),
    "minibatch": coupled("minibatch", 0.01),
    "consistency": coupled("consistency", 2.0),
    **{name: coupled(name, 0.05) for name in ("began", "ada", "big", "style", "flow", "text")},
}
CASES |= {name: coupled(name) for name, kind in ZOO.items() if name not in CASES and not kind.cache}


def data(case: Case) -> Batch:
    """Minibatches [STEPS, M, slices, B, ...] for the players' turns."""
    turns = training.minibatches(training.play_order(case.model.game, case.order))
    return examples(case.kind, (STEPS, turns, 2, BATCH // 2))


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
