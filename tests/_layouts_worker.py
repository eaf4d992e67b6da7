"""Trains every family a few steps in every layout on the devices it is given, and prints what came of it as JSON."""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxgen import families, parallel, sampling, schedules, training
from jaxgen.data import in_memory
from jaxgen.metrics.evaluation import samples
from jaxgen.metrics.features import extract, pixels
from jaxgen.nets import network
from jaxgen.nets.codes import PixelCNN
from jaxgen.nets.conv import ConvDecoder, ConvEncoder, DCGANCritic, DCGANGenerator
from jaxgen.nets.mlp import MLP, MLPDenoiser
from jaxgen.types import Batch, labels

SHAPE, BATCH, STEPS = (8, 8, 1), 16, 5


def models():
    encoder, decoder = ConvEncoder(8, width=4, hidden=64), ConvDecoder(SHAPE, width=4, hidden=64)
    yield "vae", families.vae(network(encoder), network(decoder), 4), None
    generator, critic = DCGANGenerator(SHAPE, width=4), DCGANCritic(width=8)
    yield "gan", families.gan(network(generator), network(critic), 8), ("critic", "critic", "generator")
    codes = families.vq(4, 3)
    encoder, decoder = network(MLP((2, 2, 3), (64,))), network(MLP(SHAPE, (64,)))
    yield "vq", families.vq_vae(encoder, decoder, codes, network(PixelCNN(4, 4, layers=1)), (2, 2)), None
    schedule = schedules.cosine()
    sampler = sampling.iterate(sampling.ddpm(schedule), sampling.uniform(5))
    denoiser = network(MLPDenoiser(64, 1, classes=3))
    yield (
        "diffusion",
        families.diffusion(denoiser, schedule, (2,), sampler=sampler, condition=labels(3), prediction="v"),
        None,
    )


def data(name, turns):
    rng = np.random.default_rng(0)
    shape = (STEPS, turns, 2, BATCH // 2)
    if name == "diffusion":
        return Batch(rng.normal(size=(*shape, 2)).astype(np.float32), rng.integers(0, 3, shape, dtype=np.int32))
    return Batch(rng.integers(0, 256, (*shape, *SHAPE), dtype=np.uint8))


def train(model, order, batch, place):
    optimizers = {player: optax.sgd(0.05, momentum=0.9) for player in model.losses}
    first = jax.tree.map(lambda a: jnp.zeros(a.shape[3:], a.dtype), batch)
    init = partial(training.init_state, model, optimizers, jax.random.key(0), first, ema=True)
    shapes = parallel.template(place, init)
    state = parallel.create(shapes, init)
    run = parallel.compile_step(place, partial(training.make_step, model, optimizers, order=order, ema=0.9), shapes)
    return run(state, parallel.place_batch(place, batch), np.int32(STEPS))


def numbers(tree):
    return np.concatenate([np.ravel(jax.device_get(a)).astype(np.float64) for a in jax.tree.leaves(tree)])


def seen(model, state):
    """The largest difference of features of samples that eight devices draw and look at, and one."""
    digits = in_memory("x", "train", np.zeros((4, *SHAPE), np.uint8))
    codes = []
    for layout in ("one", "data"):
        place = parallel.layout(layout)
        state = jax.device_get(state._replace(key=None))
        fakes = samples(model, state, digits, 21, sharding=place.rows)
        codes.append(extract(pixels(), fakes, batch=16, sharding=place.rows).codes)
    return {"difference": float(np.abs(codes[0] - codes[1]).max()), "spread": float(codes[0].std())}


def main():
    out = {"devices": jax.device_count()}
    for name, model, order in models():
        batch = data(name, training.minibatches(training.play_order(model, order)))
        results = {}
        for layout in parallel.LAYOUTS:
            place = parallel.layout(layout)
            state, report = train(model, order, batch, place)
            images = sampling.sample(
                model, state, jax.random.key(1), 20, 1 if name == "diffusion" else None, sharding=place.rows, batch=16
            )
            divided = max(len({str(s.index) for s in a.addressable_shards}) for a in jax.tree.leaves(state.params))
            results[layout] = numbers((state.params, state.ema, state.extra)), numbers(images), numbers(report.metrics)
            out[f"{name}/{layout}"] = {
                "parts": divided,
                "state": float(np.abs(results[layout][0] - results["one"][0]).max()),
                "images": float(np.abs(results[layout][1] - results["one"][1]).max()),
                "metrics": float(np.abs(results[layout][2] - results["one"][2]).max()),
                "moved": float(np.abs(numbers(state.params) - numbers(state.ema.params)).max()),
            }
        if name == "vae":
            out["features"] = seen(model, state)
    print(json.dumps(out))


if __name__ == "__main__":
    main()
