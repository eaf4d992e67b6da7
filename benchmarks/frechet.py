"""The Frechet distance by eigenvalues against a matrix square root, as ratios of paired runs.

taskset -c 1 python benchmarks/frechet.py

Two Gaussians of 2,048 dimensions, fitted to 10,000 examples each, whose variances fall off as those of images' features
do: scipy.linalg.sqrtm's formula and ours in turn, twice; and how long the statistics of 10,000 examples take.
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.linalg import sqrtm

from jaxgen.metrics.frechet import Gaussian, frechet_distance, gaussian

EXAMPLES, FEATURES, PAIRS = 10_000, 2048, 2


def by_square_root(a: Gaussian, b: Gaussian) -> float:
    """The equation as it reads: tr (A B)^1/2 by the Schur form of A B."""
    gap = a.mean - b.mean
    root = np.real(np.asarray(sqrtm(a.cov @ b.cov)))
    return float(gap @ gap + np.trace(a.cov) + np.trace(b.cov) - 2.0 * np.trace(root))


def timed(call: Callable, *inputs: Any) -> tuple[float, Any]:
    """Seconds of one call, and its result."""
    began = time.perf_counter()
    given = call(*inputs)
    return time.perf_counter() - began, given


def main() -> None:
    """Print the table."""
    rng = np.random.default_rng(0)
    scale = np.arange(1, FEATURES + 1) ** -0.5
    mix = np.linalg.qr(rng.normal(size=(FEATURES, FEATURES)))[0] * scale[:, None]
    sets = [(rng.normal(loc, 1.0, size=(EXAMPLES, FEATURES)) @ mix).astype(np.float32) for loc in (0.0, 0.02)]
    fitted = [timed(gaussian, features) for features in sets]
    a, b = (found for _, found in fitted)
    print(f"statistics of {EXAMPLES} x {FEATURES} features: {min(seconds for seconds, _ in fitted):.1f} s")
    print("| round | sqrtm, s | ours, s | ratio | relative difference |\n|---|---|---|---|---|")
    for i in range(PAIRS):
        (slow, theirs), (fast, ours) = timed(by_square_root, a, b), timed(frechet_distance, a, b)
        difference = abs(ours - theirs) / theirs
        print(f"| {i + 1} | {slow:.1f} | {fast:.2f} | {slow / fast:.1f} | {difference:.1e} |", flush=True)


if __name__ == "__main__":
    main()
