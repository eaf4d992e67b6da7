"""One picture file to one uint8 array."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from jaxgen.types import InputError, check

GREY = ("1", "L", "LA", "I;16", "I", "F")  # Pillow's modes


def read_picture(
    source: str | Path | BinaryIO, name: str, *, channels: int, size: int | None = None, upright: bool = True
) -> np.ndarray:
    """uint8 [H, W, channels], [size, size, channels] where `size` is given.

    The largest centred square is taken and resized bicubically, with antialiasing: the same as resizing the short side
    and cropping the middle. `upright` obeys the EXIF orientation. What is transparent is laid on white. The first frame
    of an animation is read. An unreadable picture raises InputError with its `name`.
    """
    from PIL import Image, ImageOps

    with _readable(name), Image.open(source) as image:
        if upright:
            image = ImageOps.exif_transpose(image)
        image = _colours(image, channels)
        if size is not None and image.size != (size, size):
            image = _square(image, size)
        x = np.asarray(image, np.uint8)
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
    check(channels in (None, 1, 3, 4), f"channels={channels!r}: expected 3 (colour) or 1 (grey); give one of these")


def _colours(image: Any, channels: int) -> Any:
    from PIL import Image

    mode = {1: "L", 3: "RGB", 4: "RGBA"}[channels]
    if image.mode.startswith("I;16"):  # convert() would clip 16 bits to white instead of scaling them
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"its pixels are of mode {image.mode}, not 8 or 16 bits")
    if channels != 4 and (image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == mode else image.convert(mode)


def _square(image: Any, size: int) -> Any:
    from PIL import Image

    width, height = image.size
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return image.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))
