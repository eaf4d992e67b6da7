"""What the package's primitives gain over the plain operation, as ratios of paired runs.

taskset -c 1 python benchmarks/primitives.py

Each row times ten gradient steps of one layer, batch 32, inside a `lax.scan`: plain and ours in turn, five times after
a warm-up, and prints the median, smallest and largest ratio plain / ours of the pairs.
"""

import time
from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxgen.nets import primitives
from jaxgen.nets.norms import GroupNorm

STEPS, PAIRS = 10, 5
LAYOUT = ("NHWC", "HWIO", "NHWC")


def stepper(layer: Callable, x: jax.Array, w: jax.Array) -> Callable[[], float]:
    """A function that runs the steps and gives the seconds that they took."""
    gradient = jax.grad(lambda x, w: jnp.mean(jnp.square(layer(x, w))), argnums=(0, 1))

    @jax.jit
    def run(carry: tuple) -> tuple:
        def body(carry: tuple, _: None) -> tuple[tuple, None]:
            return jax.tree.map(lambda a, g: a - 0.1 * g, carry, gradient(*carry)), None

        return lax.scan(body, carry, length=STEPS)[0]

    def timed() -> float:
        began = time.perf_counter()
        jax.block_until_ready(run((x, w)))
        return time.perf_counter() - began

    return timed


def compare(name: str, plain: Callable, ours: Callable, x: jax.Array, w: jax.Array) -> None:
    """One row."""
    runs = [stepper(layer, x, w) for layer in (plain, ours)]
    for run in runs:
        run()
    pairs = np.array([[run() for run in runs] for _ in range(PAIRS)])
    ratio = pairs[:, 0] / pairs[:, 1]
    print(f"| {name} | {np.median(ratio):.1f} ({ratio.min():.1f} to {ratio.max():.1f}) |", flush=True)


def main() -> None:
    """All rows."""
    key = jax.random.key(0)
    x, w3, w4 = (jax.random.normal(key, s) / 10 for s in ((32, 16, 16, 32), (3, 3, 32, 32), (4, 4, 32, 32)))
    print("| layer in a scan | plain / ours |\n|---|---|")

    def plain_conv(x: jax.Array, w: jax.Array) -> jax.Array:
        return lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=LAYOUT)

    def plain_transposed(x: jax.Array, w: jax.Array) -> jax.Array:
        return lax.conv_transpose(x, w, (2, 2), "SAME", dimension_numbers=LAYOUT)

    def plain_grouped(x: jax.Array, w: jax.Array) -> jax.Array:
        return lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=LAYOUT, feature_group_count=2)

    compare("3x3 convolution, 32 channels, 16x16", plain_conv, primitives.conv, x, w3)
    compare("the same in 2 groups", plain_grouped, partial(primitives.conv, groups=2), x, w3[:, :, :16])
    compare("4x4 stride-2 transposed convolution", plain_transposed, primitives.conv_transpose, x, w4)
    ours, plain = GroupNorm(), nn.GroupNorm(num_groups=8)
    scale = jnp.ones(32)

    def norm(module: nn.Module) -> Callable:
        return lambda x, w: module.apply({"params": {"scale": w, "bias": jnp.zeros(32)}}, x)

    compare("group normalisation, 32 channels, 16x16", norm(plain), norm(ours), x, scale)


if __name__ == "__main__":
    main()
