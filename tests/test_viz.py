"""Pictures: where every pixel of a grid lies, and files that are complete or not there."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from jaxgen import viz
from jaxgen.files import atomically
from jaxgen.types import InputError

RNG = np.random.default_rng(0)


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


def test_the_images_of_a_row_stand_to_its_left_whatever_their_size():
    x, small, grey = numbered(4, 4, 4), numbered(2, 2, 3), numbered(2, 4, 4, 1)
    sheet = viz.beside([small, grey], x).reshape(2, 4, 4, 4, 3)
    np.testing.assert_array_equal(sheet[:, 2:], x.reshape(2, 2, 4, 4, 3))
    np.testing.assert_array_equal(sheet[:, 0, :2, :3], small)
    assert (sheet[:, 0, 2:] == 128).all() and (sheet[:, 0, :, 3:] == 128).all()
    np.testing.assert_array_equal(sheet[:, 1], np.broadcast_to(grey, (2, 4, 4, 3)))
    assert viz.beside([], x) is x


def test_points_are_drawn_and_only_in_the_plane(tmp_path):
    points = np.random.default_rng(0).normal(size=(50, 2))
    picture = np.asarray(Image.open(viz.save_picture(tmp_path / "x.png", points)).convert("RGB"))
    empty = np.asarray(Image.open(viz.save_picture(tmp_path / "y.png", points[:0])).convert("RGB"))
    assert picture.shape == empty.shape == (500, 500, 3)
    assert (picture != empty).any()
    with pytest.raises(InputError, match="these have 3 coordinates"):
        viz.save_picture(tmp_path / "z.png", np.zeros((5, 3)))
    assert not (tmp_path / "z.png").exists()


def test_labelled_points_have_a_colour_and_a_legend_a_class(tmp_path):
    points, labels = RNG.normal(size=(60, 2)), np.arange(60) % 12  # more classes than colours: another marker
    names = [f"class {c}" for c in range(12)]

    def drawn(labels, names=names, points=points) -> np.ndarray:
        return np.asarray(Image.open(viz.save_scatter(tmp_path / "x.png", points, labels, names)).convert("RGB"))

    def has(picture: np.ndarray, colour: str) -> bool:
        return bool((picture == [int(colour[i : i + 2], 16) for i in (0, 2, 4)]).all(-1).any())

    full = drawn(labels)
    assert all(has(full, colour) for colour in viz.COLOURS) and full.shape == (720, 840, 3)  # opaque in the legend
    two = drawn(labels % 2)
    assert [has(two, colour) for colour in viz.COLOURS] == [True, True] + 8 * [False]
    assert (full != drawn((labels + 1) % 12)).any() and (full != drawn(None)).any()
    assert (drawn(labels, names[::-1]) != full).any()


@pytest.mark.parametrize(
    ("points", "labels", "message"),
    [
        (np.zeros((4, 3)), None, r"only points in the plane can be drawn, not \(4, 3\)"),
        (np.zeros((4, 2)), np.zeros(3, int), "one label a point"),
        (np.zeros((4, 2)), np.array([0, 1, 2, 0]), "outside the 2 names"),
        (np.zeros((4, 2)), np.array([0, 1, -1, 0]), "outside the 2 names"),
    ],
)
def test_points_without_a_place_or_a_name_are_refused(tmp_path, points, labels, message):
    with pytest.raises(InputError, match=message):
        viz.save_scatter(tmp_path / "x.png", points, labels, ("a", "b"))
    assert list(tmp_path.iterdir()) == []


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
        assert path.read_bytes() == b"old"  # nothing shows before it is complete
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        atomically(path, half)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]
    atomically(path, lambda tmp: tmp.write_bytes(b"new"))
    assert path.read_bytes() == b"new" and list(tmp_path.iterdir()) == [path]
