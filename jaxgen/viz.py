"""Pictures: image grids, scatter plots of points, arrays in files."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxgen.data.pipeline import to_uint8
from jaxgen.files import atomically
from jaxgen.types import Array, check

# ten colours that stay apart for every kind of colour vision (Petroff 2021, arXiv:2107.02270); more classes take
# them again with another marker
COLOURS = ("3f90da", "ffa90e", "bd1f01", "94a4a2", "832db6", "a96b59", "e76300", "b9ac70", "717581", "92dadd")
MARKERS = "o^sDvP*X<>"
CHANNELS = (1, 3, 4)  # of an image that can be drawn
# of a picture: there are programs that refuse to open more, taking it for an attack
MOST_PIXELS = 80_000_000
POINT = 64  # pixels that a point of a scatter plot counts for


def grid(images: Array | np.ndarray, columns: int | None = None, border: int = 1) -> np.ndarray:
    """Images [n, H, W, C] in [-1, 1] (or uint8) -> one uint8 picture [H', W', 3], row by row.

    C: grey, colour, or colour and opacity, which is shown on squares of two greys. columns: about a square of images
    by default; border: grey pixels between images.
    """
    images = np.asarray(images)
    good = images.ndim == 4 and images.shape[-1] in CHANNELS
    check(good, f"a grid takes images [n, H, W, 1, 3 or 4], not {images.shape}")
    images = images if images.dtype == np.uint8 else np.asarray(to_uint8(images))
    images = on_squares(images) if images.shape[-1] == 4 else images
    n, height, width, channels = images.shape
    check(n >= 1, "a grid takes at least one image, there are none")
    columns = int(min(n, columns or max(1, round(n**0.5))))
    rows = -(-n // columns)
    cell = np.full((rows * columns, height + border, width + border, 3), 128, np.uint8)
    cell[n:] = 255
    cell[:n, :height, :width] = np.broadcast_to(images, (n, height, width, 3)) if channels == 1 else images
    sheet = cell.reshape(rows, columns, height + border, width + border, 3).swapaxes(1, 2)
    return sheet.reshape(rows * (height + border), columns * (width + border), 3)[: -border or None, : -border or None]


def on_squares(images: np.ndarray) -> np.ndarray:
    """Images [n, H, W, 4], uint8, whose last channel is opacity, on squares of two greys: [n, H, W, 3]."""
    height, width = images.shape[1:3]
    side = max(1, height // 8)
    rows, columns = np.arange(height)[:, None] // side, np.arange(width)[None] // side
    squares = np.where((rows + columns) % 2, 160.0, 208.0)[:, :, None]
    opacity = images[..., 3:] / 255.0
    return np.rint(opacity * images[..., :3] + (1.0 - opacity) * squares).astype(np.uint8)


def beside(left: Sequence[np.ndarray], x: np.ndarray) -> np.ndarray:
    """Images x [rows * k, ...], k a row, each of `left` [rows, ...] to the left of its row; grey becomes colour, and
    smaller ones lie in the upper left corner of a mid-grey one."""
    if not left:
        return x
    if 4 in {a.shape[-1] for a in (*left, x)}:  # there is no one way to lay the others beside opacity
        *left, x = (_flat(a) for a in (*left, x))
    height, width, channels = np.max([a.shape[1:] for a in (*left, x)], axis=0)
    rows, grey = len(left[0]), 128 if x.dtype == np.uint8 else 0

    def wide(a: np.ndarray) -> np.ndarray:
        a = np.broadcast_to(a, (*a.shape[:-1], channels))
        a = np.pad(
            a, ((0, 0), (0, height - a.shape[1]), (0, width - a.shape[2]), (0, 0)), constant_values=np.asarray(grey)
        )
        return a.reshape(rows, -1, height, width, channels)

    return np.concatenate([wide(a) for a in (*left, x)], axis=1).reshape(-1, height, width, channels)


def _flat(x: np.ndarray) -> np.ndarray:
    """uint8, without opacity."""
    x = x if x.dtype == np.uint8 else np.asarray(to_uint8(x))
    return on_squares(x) if x.shape[-1] == 4 else x


def check_picture(n: int, shape: Sequence[int]) -> None:
    """InputError for n examples of that shape, images or points, that are too many for one picture."""
    each = POINT if len(shape) < 3 else math.prod(_zoom(shape[0]) * (side + 1) for side in shape[:2])
    check(
        n * each <= MOST_PIXELS,
        f"a picture of {n:,} examples of shape {tuple(shape)} would be too large to look at: {MOST_PIXELS // each:,} "
        f"of them are {MOST_PIXELS:,} pixels; give a smaller number, or save arrays (.npz) where the command can",
    )


def _zoom(height: int) -> int:
    """How many times images of that height are enlarged."""
    return max(1, 64 // height)


def save_picture(path: str | Path, x: Array | np.ndarray, columns: int | None = None) -> Path:
    """Images [n, H, W, C] as a PNG grid, small ones enlarged pixel by pixel; points [n, 2] as a scatter plot."""
    path, x = Path(path), np.asarray(x)
    check_picture(len(x), x.shape[1:])
    if x.ndim == 2:
        return atomically(path, lambda tmp: _scatter(tmp, x))
    from PIL import Image

    picture = Image.fromarray(grid(x, columns))
    zoom = _zoom(x.shape[1])
    picture = picture.resize((picture.width * zoom, picture.height * zoom), Image.Resampling.NEAREST)
    return atomically(path, lambda tmp: picture.save(tmp, format="PNG"))


def save_film(path: str | Path, pictures: Sequence[np.ndarray], milliseconds: int = 150) -> Path:
    """Pictures uint8 [H, W, 3] one after the other, as a GIF that repeats, small ones enlarged pixel by pixel."""
    from PIL import Image

    zoom = _zoom(pictures[0].shape[0])
    frames = [Image.fromarray(x) for x in pictures]
    frames = [f.resize((f.width * zoom, f.height * zoom), Image.Resampling.NEAREST) for f in frames]
    options: dict[str, Any] = {"save_all": True, "append_images": frames[1:], "duration": milliseconds, "loop": 0}
    return atomically(Path(path), lambda tmp: frames[0].save(tmp, format="GIF", **options))


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


def save_scatter(
    path: str | Path,
    points: Array | np.ndarray,
    labels: Array | np.ndarray | None = None,
    names: Sequence[str] = (),
    axes: tuple[str, str] = ("z_1", "z_2"),
) -> Path:
    """Points [n, 2] as a PNG, coloured by labels [n], whose `names` stand in a legend and at each class's median."""
    points = np.asarray(points)
    check(points.ndim == 2 and points.shape[1] == 2, f"only points in the plane can be drawn, not {points.shape}")
    if labels is not None:
        labels = np.asarray(labels)
        check(labels.shape == points.shape[:1], f"give one label a point, not {labels.shape} for {len(points)} points")
        check(bool(np.all((labels >= 0) & (labels < len(names)))), f"a label is outside the {len(names)} names")
    return atomically(Path(path), lambda tmp: _plane(tmp, points, labels, names, axes))


def _plane(path: Path, x: np.ndarray, labels: np.ndarray | None, names: Sequence[str], titles: Sequence[str]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 6), dpi=120, layout="constrained")
    axes = figure.subplots()
    style = {"s": 10 if len(x) <= 3000 else 4, "linewidths": 0, "alpha": 0.7}
    if labels is None:
        axes.scatter(x[:, 0], x[:, 1], **style, c=f"#{COLOURS[0]}")
    else:
        _classes(axes, x, labels, names, style)
    axes.set(xlabel=titles[0], ylabel=titles[1])
    axes.set_aspect("equal", adjustable="datalim")
    figure.savefig(path, format="png")


def _classes(axes: Any, x: np.ndarray, labels: np.ndarray, names: Sequence[str], style: dict) -> None:
    """Points coloured by their labels, the names in a legend and at the medians."""
    from matplotlib.lines import Line2D
    from matplotlib.patheffects import withStroke

    colours = [f"#{COLOURS[c % len(COLOURS)]}" for c in range(len(names))]
    markers = [MARKERS[c // len(COLOURS) % len(MARKERS)] for c in range(len(names))]
    for marker in dict.fromkeys(markers):  # all points of a marker at once: no class hides the others
        rows = np.array([markers[label] == marker for label in labels])
        axes.scatter(x[rows, 0], x[rows, 1], **style, c=[colours[label] for label in labels[rows]], marker=marker)
    there, outline = np.unique(labels), [withStroke(linewidth=3, foreground="w")]
    for c in there:
        at = np.median(x[labels == c], axis=0)
        axes.annotate(names[c], at, weight="bold", ha="center", va="center", path_effects=outline)
    keys = [Line2D([], [], ls="", marker=markers[c], color=colours[c], label=names[c]) for c in there]
    axes.legend(handles=keys, loc="center left", bbox_to_anchor=(1.0, 0.5), ncols=1 + len(keys) // 25)


def save_table(path: str | Path, rows: Sequence[Sequence[str]]) -> Path:
    """Rows of words as a .csv file."""

    def write(tmp: Path) -> None:
        with open(tmp, "w", newline="") as file:
            csv.writer(file).writerows(rows)

    return atomically(Path(path), write)


class Curve(NamedTuple):
    """A named series of points (x, y, error of y), joined by a line; thin: without marks, under the others of its
    name."""

    name: str
    points: Sequence[tuple[float, float, float]]
    thin: bool = False


class Panel(NamedTuple):
    """Axes with curves; floor: the name of a level that is drawn dashed, and the level; log: the axes that are so."""

    x: str
    y: str
    curves: Sequence[Curve]
    floor: tuple[str, float] | None = None
    log: str = "x"


def save_panels(path: str | Path, panels: Sequence[Panel], columns: int = 4) -> Path:
    """Panels in rows of `columns` as a PNG, a colour for each curve's name, the names in one legend."""
    return atomically(Path(path), lambda tmp: _panels(tmp, panels, columns))


def _ticks(panel: Panel) -> list[float]:
    """The measured numbers themselves, where a logarithmic axis has few and they stand apart; else none."""
    at = sorted({x for curve in panel.curves for x, *_ in curve.points})
    if "x" not in panel.log or not 2 <= len(at) <= 6 or at[0] <= 0:
        return []
    gaps = np.diff(np.log(at))
    return at if gaps.min() >= gaps.sum() / 10 else []


def _panels(path: Path, panels: Sequence[Panel], columns: int) -> None:
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    names = list(dict.fromkeys(curve.name for panel in panels for curve in panel.curves))
    again = [i + i // len(COLOURS) for i in range(len(names))]  # a colour's second curve has the next marker
    styles = {name: (f"#{COLOURS[i % len(COLOURS)]}", MARKERS[again[i] % len(MARKERS)]) for i, name in enumerate(names)}
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.2 * rows + 0.5), dpi=110, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax, panel in zip(axes, panels, strict=False):
        for curve in panel.curves:
            x, y, error = np.array(sorted(curve.points), np.float64).T
            colour, marker = styles[curve.name]
            style = {"lw": 1, "alpha": 0.6} if curve.thin else {"marker": marker, "ms": 5, "lw": 1.2, "capsize": 2}
            ax.errorbar(x, y, None if curve.thin else np.nan_to_num(error), color=colour, **style)
        if panel.floor is not None:
            ax.axhline(panel.floor[1], color="0.4", lw=1, ls="--")
        ax.set(xlabel=panel.x, ylabel=panel.y)
        for axis in panel.log:
            getattr(ax, f"set_{axis}scale")("log")
        at = _ticks(panel)
        if at:
            ax.set_xticks(at, [f"{x:g}" for x in at])
            ax.set_xticks([], minor=True)
    for ax in axes[len(panels) :]:
        ax.remove()
    keys = [Line2D([], [], color=styles[name][0], marker=styles[name][1], label=name) for name in names]
    levels = dict.fromkeys(panel.floor[0] for panel in panels if panel.floor is not None)
    keys += [Line2D([], [], color="0.4", ls="--", label=name) for name in levels]
    figure.legend(handles=keys, loc="outside lower center", ncols=min(len(keys), 2 * columns))
    figure.savefig(path, format="png")
