"""Images a second of the Frechet distance's features: this package and torch, on one core, in pairs of one run.

taskset -c 0 python benchmarks/inception.py --torch PYTHON

PYTHON is one with torch (by default the same); the weights are those that `jaxgen evaluate` finds. Each side is a
process of its own that waits for its turn: A B A B ..., 16 images of 32x32 a turn, resizing included, five pairs after
a warm-up. Prints each side's median (smallest to largest) and the ratios of the pairs.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np

IMAGES, PAIRS = 16, 5


def ours() -> Callable[[np.ndarray], np.ndarray]:
    """The extractor, compiled."""
    import jax

    from jaxgen.metrics.inception import inception

    apply = inception().apply
    step = jax.jit(lambda apply, x: apply(x)[0])
    return lambda x: np.asarray(step(apply, x))


def torchs() -> Callable[[np.ndarray], np.ndarray]:
    """The TorchScript network itself, with torch's own resizing; channels last, its faster layout."""
    import io

    import torch  # type: ignore[import-not-found]

    from jaxgen import torch_file
    from jaxgen.metrics import weights

    torch.set_num_threads(1)
    last = torch.channels_last
    net = torch.jit.load(io.BytesIO(torch_file.content(weights.find("inception")))).eval().to(memory_format=last)
    at = [(2 * torch.arange(299) * n / 299 + 1) / n - 1 for n in (32, 32)]
    grid = torch.stack(torch.meshgrid(*at, indexing="ij")[::-1], -1)

    def step(x: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            y = torch.from_numpy(x).permute(0, 3, 1, 2).float()
            y = torch.nn.functional.grid_sample(
                y, grid.expand(len(x), -1, -1, -1), padding_mode="border", align_corners=False
            )
            return net(((y - 128) / 128).contiguous(memory_format=last)).numpy()

    return step


def serve(side: str) -> None:
    """One side: a line in, the seconds of a turn and the sum of its features out."""
    step = {"ours": ours, "torch": torchs}[side]()
    x = np.random.default_rng(0).integers(0, 256, (IMAGES, 32, 32, 3)).astype(np.uint8)
    for _ in range(3):
        step(x)
    print("ready", flush=True)
    for _ in sys.stdin:
        began = time.perf_counter()
        features = step(x)
        print(time.perf_counter() - began, float(features.sum()), flush=True)


def main() -> None:
    """All pairs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch", default=sys.executable, help="a Python with torch")
    parser.add_argument("--side", choices=("ours", "torch"), help="be one side")
    given = parser.parse_args()
    if given.side:
        serve(given.side)
        return

    def start(side: str, python: str) -> subprocess.Popen:
        command = [python, "-W", "ignore", __file__, "--side", side]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        if process.stdout.readline().strip() != "ready":
            raise SystemExit(f"{side}: {python} could not begin; see above")
        return process

    def turn(process: subprocess.Popen) -> tuple[float, float]:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write("\n")
        process.stdin.flush()
        seconds, total = map(float, process.stdout.readline().split())
        return IMAGES / seconds, total

    sides = [start("ours", sys.executable), start("torch", given.torch)]
    pairs = np.array([[turn(process) for process in sides] for _ in range(PAIRS)])
    for process in sides:
        process.communicate()
    if not np.allclose(pairs[0, 0, 1], pairs[0, 1, 1], rtol=1e-4):
        raise SystemExit(f"the two do not agree: the features' sums are {pairs[0, :, 1]}")
    speeds = pairs[..., 0]
    rows = [("jaxgen, images/s", speeds[:, 0]), ("torch, images/s", speeds[:, 1])]
    print("| features of the Frechet distance | median (smallest to largest) |\n|---|---|")
    for name, values in [*rows, ("jaxgen / torch", speeds[:, 0] / speeds[:, 1])]:
        print(f"| {name} | {np.median(values):.2f} ({values.min():.2f} to {values.max():.2f}) |", flush=True)


if __name__ == "__main__":
    main()
