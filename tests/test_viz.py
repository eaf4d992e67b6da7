"""Pictures: where every pixel of a grid lies, and files that are whole or not there."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from jaxgen import viz
from jaxgen.types import InputError


def numbered(n: int, height: int, width: int, channels: int = 3) -> np.ndarray:
    """Images whose every pixel has its own value."""
    return np.arange(n * height * width * channels, dtype=np.uint8).reshape(n, height, width, channels)


@pytest.mark.parametrize(("n", "columns", "border"), [(6, 3, 1), (5, 2, 2), (3, 8, 1), (4, None, 0), (1, None, 3)])
def test_image_i_lies_in_row_i_div_columns_and_column_i_mod_columns(n, columns, border):
    x = numbered(n, 2, 3)
    sheet = viz.grid(x, columns, border)
    across = min(n, columns or round(n**0.5))
    rows = -(-n // across)
    assert sheet.dtype == np.uint8
    assert sheet.shape == (rows * (2 + border) - border, across * (3 + border) - border, 3)
    between = np.ones(sheet.shape[:2], bool)
    for i in range(rows * across):
        top, left = i // across * (2 + border), i % across * (3 + border)
        cell = sheet[top : top + 2, left : left + 3]
        between[top : top + 2, left : left + 3] = False
        np.testing.assert_array_equal(cell, x[i] if i < n else 255)
    used = between[: (n // across) * (2 + border), :]  # beside the places that are left empty
    assert (sheet[: len(used)][used] == 128).all()


def test_grey_is_the_same_in_all_three_colours_and_floats_are_rounded():
    x = np.array([-1.0, -0.5, 0.0, 1.0, 3.0, -2.0], np.float32).reshape(1, 2, 3, 1)
    sheet = viz.grid(x)
    np.testing.assert_array_equal(sheet[..., 0].ravel(), [0, 64, 128, 255, 255, 0])
    assert (sheet == sheet[..., :1]).all()


@pytest.mark.parametrize("shape", [(2, 4, 4), (2, 4, 4, 2), (0, 4, 4, 1)], ids=str)
def test_what_is_no_image_is_refused(shape):
    with pytest.raises(InputError, match="a grid takes"):
        viz.grid(np.zeros(shape, np.uint8))


@pytest.mark.parametrize(("side", "zoom"), [(8, 8), (20, 3), (32, 2), (64, 1)])
def test_a_png_has_every_pixel_of_the_grid_enlarged_to_about_64(tmp_path, side, zoom):
    x = np.random.default_rng(0).integers(0, 256, (6, side, side, 3), dtype=np.uint8)
    path = viz.save_picture(tmp_path / "new" / "x.png", x, 3)
    picture = np.asarray(Image.open(path))
    np.testing.assert_array_equal(picture, viz.grid(x, 3).repeat(zoom, 0).repeat(zoom, 1))


def test_points_are_drawn_and_only_in_the_plane(tmp_path):
    points = np.random.default_rng(0).normal(size=(50, 2))
    picture = np.asarray(Image.open(viz.save_picture(tmp_path / "x.png", points)).convert("RGB"))
    empty = np.asarray(Image.open(viz.save_picture(tmp_path / "y.png", points[:0])).convert("RGB"))
    assert picture.shape == empty.shape == (500, 500, 3)
    assert (picture != empty).any()
    with pytest.raises(InputError, match="these have 3 coordinates"):
        viz.save_picture(tmp_path / "z.png", np.zeros((5, 3)))
    assert not (tmp_path / "z.png").exists()


def test_arrays_come_back_as_they_were_and_none_is_left_out(tmp_path):
    x = numbered(3, 2, 2)
    with np.load(viz.save_arrays(tmp_path / "x.npz", x=x, labels=None, more=np.arange(3.0))) as file:
        assert sorted(file) == ["more", "x"]
        np.testing.assert_array_equal(file["x"], x)
        assert file["x"].dtype == np.uint8


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(b"old")

    def half(tmp):
        tmp.write_bytes(b"ne")
        assert path.read_bytes() == b"old"  # nothing shows before it is whole
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        viz.atomically(path, half)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]
    viz.atomically(path, lambda tmp: tmp.write_bytes(b"new"))
    assert path.read_bytes() == b"new" and list(tmp_path.iterdir()) == [path]
