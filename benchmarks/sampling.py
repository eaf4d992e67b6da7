"""1,000 images by 50 steps: one compiled call for each batch, against a Python loop over compiled steps.

taskset -c 1 python benchmarks/sampling.py [PAIRS]

A UNet of the digits with random parameters, DDIM, batches of 64, compiled before the clock starts; alternating pairs,
in CPU seconds of this process and in those of the clock. The images are the same.
"""

import sys
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen import families, sample
from jaxgen.nets import network
from jaxgen.nets.unet import UNet
from jaxgen.processes import cosine
from jaxgen.sampling import ddim, iterate, uniform
from jaxgen.types import Batch, TrainState

N, STEPS, BATCH = 1000, 50, 64


def main(pairs: int = 5) -> None:
    """Print the ratio of each pair and their median."""
    process, key = cosine(), jax.random.key(0)
    solver, grid = ddim(process), np.asarray(uniform(STEPS).grid)
    net = network(UNet(16, multipliers=(1, 2), blocks=1, attention_at=(4,), heads=2))
    model = families.diffusion(net, process, (8, 8, 1), sampler=iterate(solver, uniform(STEPS), 1.0), prediction="v")
    params, extra = model.game.init(key, Batch(jnp.zeros((2, 8, 8, 1))))
    state = TrainState(jnp.zeros((), jnp.int32), key, params, {}, extra, None)

    @jax.jit
    def step(params, extra, keys, x, t, u):
        predict = model.predict(params, extra, None)
        return solver.step(keys, lambda x, t: clipped(predict(x, t)), (x,), t, u)[0]

    def clipped(found):
        return found._replace(x0=jnp.clip(found.x0, -1.0, 1.0))

    @jax.jit
    def begin(index):
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, index)
        own, walk = jnp.swapaxes(jax.vmap(partial(jax.random.split, num=2))(keys), 0, 1)
        return walk, model.prior(params, extra, own, None)

    def loop() -> np.ndarray:
        pieces = []
        for start in range(0, N, BATCH):
            walk, x = begin(jnp.arange(start, start + BATCH))
            for i in range(STEPS):
                x = step(params, extra, walk, x, jnp.asarray(grid[i]), jnp.asarray(grid[i + 1]))
            pieces.append(np.asarray(x))
        return np.concatenate(pieces)[:N]

    def at_once() -> np.ndarray:
        return np.asarray(sample(model, state, key, N, batch=BATCH))

    np.testing.assert_allclose(loop(), at_once(), atol=1e-4)
    ratios = []
    for _ in range(pairs):
        (loop_cpu, loop_clock), (cpu, clock) = timed(loop), timed(at_once)
        ratios.append((loop_cpu / cpu, loop_clock / clock))
        print(f"loop {loop_cpu:.2f} s, one call {cpu:.2f} s of CPU: {ratios[-1][0]:.2f}, clock {ratios[-1][1]:.2f}")
    print("median: CPU {:.2f}, clock {:.2f}".format(*np.median(ratios, axis=0)))


def timed(function) -> tuple[float, float]:
    """(CPU seconds, seconds of the clock)."""
    cpu, clock = time.process_time(), time.perf_counter()
    function()
    return time.process_time() - cpu, time.perf_counter() - clock


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
