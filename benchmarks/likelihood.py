"""What the Bernoulli likelihood of importance samples gains by its sum and its form, as ratios of paired runs.

taskset -c 1 python benchmarks/likelihood.py

5,000 latents (100 images, 50 each) through a decoder's last layer, 200 -> 28x28, to log p(x|z), forward, and with the
gradient in the kernel: each form and ours in turn, seven times after a warm-up; the median, smallest and largest ratio.
"""

import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.losses.likelihood import bernoulli

LATENTS, HIDDEN, SHAPE, PAIRS = 5000, 200, (28, 28, 1), 7


def plain_sum(x: jax.Array, logits: jax.Array) -> jax.Array:
    """The same terms, summed as they are."""
    y = (x + 1.0) / 2.0
    terms = y * logits - jnp.maximum(logits, 0.0) - jnp.log1p(jnp.exp(-jnp.abs(logits)))
    return jnp.sum(terms, axis=(1, 2, 3))


def log_sigmoids(x: jax.Array, logits: jax.Array) -> jax.Array:
    """The equation as it reads: y log p + (1 - y) log(1 - p)."""
    y = (x + 1.0) / 2.0
    return jnp.sum(y * jax.nn.log_sigmoid(logits) + (1.0 - y) * jax.nn.log_sigmoid(-logits), axis=(1, 2, 3))


def timed(call: Callable, *inputs: jax.Array) -> float:
    """Seconds of one call."""
    began = time.perf_counter()
    jax.block_until_ready(call(*inputs))
    return time.perf_counter() - began


def main() -> None:
    """Print the table."""
    keys = jax.random.split(jax.random.key(0), 3)
    h = jax.random.normal(keys[0], (LATENTS, HIDDEN))
    w = jax.random.normal(keys[1], (HIDDEN, int(np.prod(SHAPE)))) / HIDDEN**0.5
    x = jnp.where(jax.random.uniform(keys[2], (LATENTS, *SHAPE)) < 0.2, 1.0, -1.0)
    forms = {"ours": bernoulli().log_prob, "plain sum": plain_sum, "log_sigmoid twice": log_sigmoids}

    def calls(form: Callable) -> tuple[Callable, Callable]:
        def mean(w: jax.Array, h: jax.Array, x: jax.Array) -> jax.Array:
            return jnp.mean(form(x, (h @ w).reshape(-1, *SHAPE)))

        return jax.jit(mean), jax.jit(jax.grad(mean))

    compiled = {name: calls(form) for name, form in forms.items()}
    print("| form | work | time / ours: median, min, max |\n|---|---|---|")
    for name in list(forms)[1:]:
        for i, work in enumerate(("forward", "gradient")):
            for both in (name, "ours"):
                timed(compiled[both][i], w, h, x)
            ratios = [timed(compiled[name][i], w, h, x) / timed(compiled["ours"][i], w, h, x) for _ in range(PAIRS)]
            print(f"| {name} | {work} | {np.median(ratios):.1f}, {min(ratios):.1f}, {max(ratios):.1f} |", flush=True)


if __name__ == "__main__":
    main()
