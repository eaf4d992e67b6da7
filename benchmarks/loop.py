"""What `fit` adds to a bare compiled step, as ratios of paired runs, and what a start costs.

taskset -c 1 python benchmarks/loop.py calls     steps a call, one and the same executable: a UNet, a convolutional VAE
taskset -c 1 python benchmarks/loop.py rate      a step of `fit` against the bare step, called in a loop
taskset -c 1 python benchmarks/loop.py start     from the start of a process to its first trained step
taskset -c 1 python benchmarks/loop.py cached    latent diffusion of MNIST with codes computed once, or at every step

All in CPU seconds of one core, system time included, so that other processes hardly count. `start` compares, in fresh
processes: nothing kept on disk; programs kept that took a second to compile (JAX's default); all of them kept
(jaxgen's); and that with the step traced twice, as it was once.
"""

import contextlib
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import numpy as np
import optax

import jaxgen
from jaxgen import ahead, families, parallel, runs, training
from jaxgen.data import in_memory, pipeline
from jaxgen.hooks import Hook, Moment
from jaxgen.nets import network
from jaxgen.nets.conv import ConvDecoder, ConvEncoder
from jaxgen.nets.unet import UNet
from jaxgen.processes import cosine
from jaxgen.sampling import ddim, iterate, uniform

ROUNDS = 5
FOREVER = 10**9


def experiment(name: str, steps: int = 1) -> jaxgen.Experiment:
    """A UNet on 32x32, batch 8, or a small VAE on 28x28, batch 128: random images."""
    size, channels, batch = (32, 3, 8) if name == "unet" else (28, 1, 128)
    x = np.random.default_rng(0).integers(0, 256, (1024, size, size, channels), dtype=np.uint8)
    if name == "unet":
        process = cosine()
        unet = network(UNet(64, multipliers=(1, 2, 2), blocks=1, attention_at=(8,), heads=4))
        sampler = iterate(ddim(process), uniform(2), clip=1.0)
        model = families.diffusion(unet, process, x.shape[1:], sampler=sampler)
    else:
        decoder = ConvDecoder((size, size, 1), width=16, hidden=128)
        model = families.vae(network(ConvEncoder(32, width=16, hidden=128)), network(decoder), 16)
    adam = {player: optax.adam(1e-4) for player in model.game.losses}
    exp = jaxgen.Experiment(model, adam, in_memory(name, "train", x), batch=batch, steps=steps)
    return exp._replace(sample_every=FOREVER, save_every=FOREVER)


def prepared(exp: jaxgen.Experiment) -> tuple[Callable, training.TrainState, Callable]:
    """(run, a state, n -> batches of n steps)."""
    place, make = parallel.layout("one"), partial(runs.init, exp)
    batch = runs.first_batch(exp)
    shapes = parallel.template(place, make, batch)
    state = parallel.create(shapes, make, batch)
    trained = ahead.computed(exp, state, place) if exp.cache else exp
    run = parallel.compile_step(place, partial(training.make_step, trained.game, exp.optimizers, ema=exp.ema), shapes)
    reader = pipeline.reader(trained.data, seed=0, shape=(1, 1, exp.batch))
    return run, state, lambda n: parallel.place_batch(place, reader.take(n))


def page_faults() -> int:
    """Of this process so far: memory that the system had to provide anew."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def calls() -> None:
    """Seconds a step for one step a call and for three."""
    print("| model | steps a call | ms a step | page faults a step | times as fast as one |\n|---|---|---|---|---|")
    for name in ("unet", "vae"):
        run, state, batches = prepared(experiment(name))
        six, seconds = batches(6), {n: [] for n in (1, 3)}
        state, _ = jax.block_until_ready(run(state, six, np.int32(1)))
        for _ in range(ROUNDS):
            for n, found in seconds.items():
                began, faults = time.process_time(), page_faults()
                for _ in range(6 // n):
                    state, _ = jax.block_until_ready(run(state, six, np.int32(n)))
                found.append(((time.process_time() - began) / 6, (page_faults() - faults) / 6))
        for n, found in seconds.items():
            ratio = np.median([one / other for (one, _), (other, _) in zip(seconds[1], found, strict=True)])
            step, faults = np.median(found, axis=0)
            print(f"| {name} | {n} | {1e3 * step:.1f} | {faults:,.0f} | {ratio:.3f} |", flush=True)


def rate() -> None:
    """Seconds a step of `fit`, between two hooks, against those of a loop of single compiled steps."""
    print("| model | bare step, ms | fit, ms | bare / fit |\n|---|---|---|---|")
    for name, steps in (("unet", 12), ("vae", 40)):
        exp = experiment(name, 2 * steps)
        step = jax.jit(training.make_step(exp.game, exp.optimizers, ema=exp.ema), donate_argnums=0)
        _, state, batches = prepared(exp)
        found = []
        state, _ = jax.block_until_ready(step(state, jax.tree.map(lambda a: a[0], batches(1))))
        for _ in range(3):
            began = time.process_time()
            for _ in range(steps):
                state, metrics = step(state, jax.tree.map(lambda a: a[0], batches(1)))
                jax.device_get(metrics)
            bare = (time.process_time() - began) / steps
            found.append((bare, fitted(exp, steps)))
        bare, fit = 1e3 * np.median(found, axis=0)
        print(f"| {name} | {bare:.1f} | {fit:.1f} | {np.median([a / b for a, b in found]):.2f} |", flush=True)


def cached() -> None:
    """Seconds a step that encodes against those of one on codes that are computed once."""
    print("| model | encoding, ms a step | cached, ms a step | encoding / cached |\n|---|---|---|---|")
    folder = Path(__file__).parents[1] / "experiments"
    for name, options in (("mnist_vq", {"prior": "absorbing", "frozen": True}), ("mnist_latent", {})):
        exp, kinds, found = jaxgen.load_experiment(folder / f"{name}.py", **options), {}, {}
        for cache in (False, True):
            run, state, batches = prepared(exp._replace(cache=cache))
            ready = batches(6)
            state, _ = jax.block_until_ready(run(state, ready, np.int32(1)))
            kinds[cache], found[cache] = [run, state, ready], []
        for _ in range(ROUNDS):
            for cache, (run, state, ready) in kinds.items():
                began = time.process_time()
                kinds[cache][1], _ = jax.block_until_ready(run(state, ready, np.int32(6)))
                found[cache].append(1e3 * (time.process_time() - began) / 6)
        ratio = np.median([a / b for a, b in zip(found[False], found[True], strict=True)])
        print(f"| {name} | {np.median(found[False]):.1f} | {np.median(found[True]):.1f} | {ratio:.2f} |", flush=True)


class Done(Exception):
    """The run has been measured: its last picture is not drawn."""


def fitted(exp: jaxgen.Experiment, steps: int) -> float:
    """Seconds a step in the second half of a run of 2 `steps`."""
    times = []

    def note(moment: Moment) -> None:
        times.append(time.process_time())
        if len(times) == 2:
            raise Done

    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(Done):
        jaxgen.fit(exp, folder, hooks=[Hook(steps, note)], progress=False)
    return (times[1] - times[0]) / steps


START = """
import sys, time
sys.path.insert(0, {here!r})
import jaxgen
from jaxgen import parallel
if {twice}: parallel._traced_once = lambda step: step
import loop
def first(moment):
    print(time.process_time(), flush=True)
    raise SystemExit
jaxgen.fit(loop.experiment({name!r}, 2), {run!r}, hooks=[jaxgen.hooks.Hook(1, first)], progress=False)
"""


def start() -> None:
    """Seconds to the first trained step of fresh processes: with nothing on disk, then with what that one kept."""
    print("| model | kept on disk | cold | warm |\n|---|---|---|---|")
    kinds = {
        "nothing": {"JAX_ENABLE_COMPILATION_CACHE": "0"},
        "from 1 s on": {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "1"},
        "all": {},
        "all, traced twice": {},
    }
    for name in ("vae", "unet"):
        for kind, options in kinds.items():
            with tempfile.TemporaryDirectory() as folder:
                env = os.environ | {"JAXGEN_CACHE": folder} | options
                values = {"here": str(Path(__file__).parent), "name": name, "twice": kind.endswith("twice")}
                cold, *warm = (_seconds(START.format(run=f"{folder}/{i}", **values), env) for i in range(1 + 3))
            print(f"| {name} | {kind} | {cold:.1f} | {np.median(warm):.1f} |", flush=True)


def _seconds(text: str, env: dict[str, str]) -> float:
    return float(subprocess.run([sys.executable, "-c", text], env=env, capture_output=True, text=True).stdout)


if __name__ == "__main__":
    {"calls": calls, "rate": rate, "start": start, "cached": cached}[sys.argv[1]]()
