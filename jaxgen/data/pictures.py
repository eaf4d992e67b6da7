"""One picture file to one uint8 array."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from jaxgen.types import InputError, check

# what pillow knows but reads as no picture: containers of data or film, and what takes another program
NO_PICTURES = ("BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF")
GREY = ("1", "L", "LA", "I;16", "I", "F")  # Pillow's modes


def read_picture(
    source: str | Path | BinaryIO,
    name: str,
    *,
    channels: int,
    size: int | None = None,
    upright: bool = True,
    background: str = "white",
) -> np.ndarray:
    """uint8 [H, W, channels], [size, size, channels] where `size` is given.

    The largest centred square is taken and resized bicubically, with antialiasing: the same as resizing the short side
    and cropping the middle. `upright` obeys the EXIF orientation. What is transparent is laid on the colour
    `background`, or kept in the last of 4 channels; where nothing is seen the other three are 0. The first frame of an
    animation is read. An unreadable picture raises InputError with its `name`.
    """
    from PIL import Image, ImageOps

    with _readable(name), Image.open(source) as image:
        if upright:
            image = ImageOps.exif_transpose(image)
        image = _colours(image, channels, background)
        if size is not None and image.size != (size, size):
            image = _square(image, size)
        x = np.asarray(image, np.uint8)
    if channels == 4:
        x = np.where(x[..., 3:] > 0, x, 0)
    return x[:, :, None] if x.ndim == 2 else x


@contextlib.contextmanager
def _readable(name: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # decoders fail with OSError, SyntaxError, ValueError, struct.error, ...
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"cannot read the picture {name} ({reason}); repair or remove it") from error


def is_grey(source: str | Path | BinaryIO, name: str) -> bool:
    """Whether a picture file has grey pixels only, by its kind. An unreadable one raises InputError."""
    from PIL import Image

    with _readable(name), Image.open(source) as image:
        return image.mode in GREY


def check_format(size: Any, channels: int | None) -> None:
    """Refuse a `size` or a number of `channels` that no picture can have."""
    check(
        size is None or (isinstance(size, int) and not isinstance(size, bool) and size >= 1),
        f"size={size!r}: expected an integer number of pixels; give size=64, for example",
    )
    kinds = "3 (colour), 1 (grey) or 4 (colour and transparency)"
    check(channels in (None, 1, 3, 4), f"channels={channels!r}: expected {kinds}; give one of these")


def check_colour(name: str) -> None:
    """InputError for what is no colour, such as "white" or "#ff8000"."""
    from PIL import ImageColor

    try:
        ImageColor.getrgb(name)
    except (ValueError, AttributeError, TypeError):
        raise InputError(f"background={name!r} is no colour: give a name such as white, or #rrggbb") from None


@lru_cache(maxsize=1)
def suffixes() -> frozenset[str]:
    """Endings of the names of all kinds of pictures that pillow reads by itself, in lower case."""
    from PIL import Image

    known = Image.registered_extensions()
    return frozenset(suffix for suffix, kind in known.items() if kind in Image.OPEN and kind not in NO_PICTURES)


def is_readable(path: Path) -> bool:
    """Whether `read_picture` reads that file to its end."""
    try:
        read_picture(path, str(path), channels=3)
    except InputError:
        return False
    return True


def _colours(image: Any, channels: int, background: str) -> Any:
    from PIL import Image

    mode = {1: "L", 3: "RGB", 4: "RGBA"}[channels]
    if image.mode.startswith("I;16"):  # convert() would clip 16 bits to white instead of scaling them
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"its pixels are of mode {image.mode}, not 8 or 16 bits")
    if channels != 4 and (image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, background), image)
    return image if image.mode == mode else image.convert(mode)


def _square(image: Any, size: int) -> Any:
    from PIL import Image

    width, height = image.size
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return image.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))
