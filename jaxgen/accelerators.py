"""Accelerators that are in the machine and that JAX does not use: mostly a plugin that is missing or too old."""

from __future__ import annotations

import os
import re
from functools import lru_cache
from glob import glob
from pathlib import Path

import jax

from jaxgen.errors import notice

GPUS = ("/dev/nvidia[0-9]*", "/dev/dxg")  # the second: of Windows' subsystem for Linux
TPUS = ("/dev/accel[0-9]*", "/dev/vfio/[0-9]*")
TPU_VARIABLES = ("TPU_NAME", "TPU_ACCELERATOR_TYPE", "TPU_WORKER_ID", "COLAB_TPU_ADDR")
DRIVER = "/proc/driver/nvidia/version"
CUDA_13 = 580  # the first driver of CUDA 13 (NVIDIA, release notes of the CUDA toolkit 13.0)


def overlooked() -> str:
    """One line on an accelerator that is here while JAX computes on the CPU, and what to do; "" where there is none, or
    where the user has chosen the CPU by JAX_PLATFORMS."""
    if jax.default_backend() != "cpu" or os.environ.get("JAX_PLATFORMS"):
        return ""
    gpus, tpus = _found(GPUS), _found(TPUS) + [name for name in TPU_VARIABLES if os.environ.get(name)]
    if gpus:
        what, extra = f"a GPU ({gpus[0]})", f"cuda{_cuda()}"
    elif tpus:
        what, extra = f"a TPU ({tpus[0]})", "tpu"
    else:
        return ""
    return (
        f"jaxgen: note: {what} is here, but JAX {jax.__version__} computes on the CPU: "
        f"pip install 'jax[{extra}]=={jax.__version__}'; JAX_PLATFORMS=cpu says that the CPU is meant"
    )


@lru_cache(maxsize=1)
def say() -> None:
    """That line on stderr, once a process."""
    line = overlooked()
    if line:
        notice(line)


def _found(patterns: tuple[str, ...]) -> list[str]:
    return [path for pattern in patterns for path in sorted(glob(pattern))]


def _cuda() -> int:
    """The CUDA that the installed driver serves: 13, or 12 where it is older."""
    try:
        found = re.search(r"\s(\d{3,})\.\d", Path(DRIVER).read_text())
    except OSError:
        return 12
    return 13 if found and int(found[1]) >= CUDA_13 else 12
