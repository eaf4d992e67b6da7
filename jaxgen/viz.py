"""Pictures: image grids, scatter plots of points, arrays in files."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from jaxgen.data.pipeline import to_uint8
from jaxgen.types import Array, InputError, check


def grid(images: Array | np.ndarray, columns: int | None = None, border: int = 1) -> np.ndarray:
    """Images [n, H, W, C] in [-1, 1] (or uint8) -> one uint8 picture [H', W', 3], row by row.

    columns: about a square of images unless told otherwise; border: grey pixels between images.
    """
    images = np.asarray(images)
    check(images.ndim == 4 and images.shape[-1] in (1, 3), f"a grid takes images [n, H, W, 1 or 3], not {images.shape}")
    images = images if images.dtype == np.uint8 else np.asarray(to_uint8(images))
    n, height, width, channels = images.shape
    check(n >= 1, "a grid takes at least one image, there are none")
    columns = int(min(n, columns or max(1, round(n**0.5))))
    rows = -(-n // columns)
    cell = np.full((rows * columns, height + border, width + border, 3), 128, np.uint8)
    cell[n:] = 255
    cell[:n, :height, :width] = np.broadcast_to(images, (n, height, width, 3)) if channels == 1 else images
    sheet = cell.reshape(rows, columns, height + border, width + border, 3).swapaxes(1, 2)
    return sheet.reshape(rows * (height + border), columns * (width + border), 3)[: -border or None, : -border or None]


def beside(left: Sequence[np.ndarray], x: np.ndarray) -> np.ndarray:
    """Images x [rows * k, ...], k a row, each of `left` [rows, ...] to the left of its row; grey becomes colour."""
    if not left:
        return x
    rows, channels = len(left[0]), max(a.shape[-1] for a in (*left, x))
    images = [a.reshape(rows, -1, *a.shape[-3:]) for a in (*left, x)]
    wide = [np.broadcast_to(a, (*a.shape[:-1], channels)) for a in images]
    return np.concatenate(wide, axis=1).reshape(-1, *x.shape[1:-1], channels)


def save_picture(path: str | Path, x: Array | np.ndarray, columns: int | None = None) -> Path:
    """Images [n, H, W, C] as a PNG grid, small ones enlarged pixel by pixel; points [n, 2] as a scatter plot."""
    path, x = Path(path), np.asarray(x)
    if x.ndim == 2:
        return atomically(path, lambda tmp: _scatter(tmp, x))
    from PIL import Image

    picture = Image.fromarray(grid(x, columns))
    zoom = max(1, 64 // x.shape[1])
    picture = picture.resize((picture.width * zoom, picture.height * zoom), Image.Resampling.NEAREST)
    return atomically(path, lambda tmp: picture.save(tmp, format="PNG"))


def save_arrays(path: str | Path, **arrays: np.ndarray | None) -> Path:
    """Named arrays as a compressed .npz; None is left out."""
    given = {name: np.asarray(a) for name, a in arrays.items() if a is not None}

    def write(tmp: Path) -> None:
        with open(tmp, "wb") as file:
            np.savez_compressed(file, **given)  # type: ignore[arg-type]

    return atomically(Path(path), write)


def _scatter(path: Path, x: np.ndarray) -> None:
    from matplotlib.figure import Figure

    check(x.shape[1] == 2, f"only points in the plane can be drawn, these have {x.shape[1]} coordinates")
    figure = Figure(figsize=(5, 5), dpi=100)
    axes = figure.subplots()
    axes.scatter(x[:, 0], x[:, 1], s=4, alpha=0.5, linewidths=0)
    axes.set_aspect("equal")
    figure.savefig(path, format="png")


def atomically(path: Path, write: Callable[[Path], object]) -> Path:
    """Write beside the target, then replace it: what was there stays until what comes is whole."""
    tmp = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        tmp.touch()
    except OSError as error:
        raise InputError(f"cannot write into {path.parent} ({error.strerror}): give another folder") from None
    try:
        write(tmp)
        os.replace(tmp, path)
    finally:
        tmp.unlink(missing_ok=True)
    return path
