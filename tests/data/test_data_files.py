"""One's own pictures and arrays: folders and .npz files."""

import os
import pickle

import numpy as np
import pytest
from PIL import Image

from jaxgen.data import load, other_split
from jaxgen.types import InputError


def save(path, x, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(x, np.uint8)).save(path, **options)


def plain(value, height=10, width=14):
    return np.full((height, width, 3), value, np.uint8)


def pictures(path, **options):
    dataset = load(f"folder:{path}", **{"split": "all", "size": 8, **options})
    return dataset, dataset.take(np.arange(dataset.size))


@pytest.mark.parametrize("streaming", [False, True])
def test_sub_folders_are_labels(tmp_path, streaming):
    save(tmp_path / "dogs" / "b.png", plain(30))
    save(tmp_path / "cats" / "a.png", plain(10))
    save(tmp_path / "cats" / "deep" / "z.BMP", plain(20))
    save(tmp_path / "cats" / ".hidden.png", plain(99))
    (tmp_path / "cats" / "notes.txt").write_text("no picture")
    (tmp_path / "empty").mkdir()
    dataset, batch = pictures(tmp_path, streaming=streaming)
    assert dataset.classes == ("cats", "dogs") and dataset.shape == (8, 8, 3) and dataset.streaming == streaming
    assert batch.x[:, 0, 0, 0].tolist() == [10, 20, 30] and batch.condition.tolist() == [0, 0, 1]
    assert batch.x.dtype == np.uint8 and batch.condition.dtype == np.int32
    unlabelled, batch = pictures(tmp_path, labels=False)
    assert unlabelled.classes == () and batch.condition is None


def test_a_flat_folder_has_no_labels_and_a_mixed_one_is_refused(tmp_path):
    save(tmp_path / "a.png", plain(1))
    assert pictures(tmp_path)[0].classes == ()
    save(tmp_path / "sub" / "b.png", plain(2))
    with pytest.raises(InputError, match="labels=False"):
        pictures(tmp_path)
    assert pictures(tmp_path, labels=False)[1].x[:, 0, 0, 0].tolist() == [1, 2]


def test_the_centre_is_cropped(tmp_path):
    wide = np.zeros((8, 24, 3), np.uint8)
    wide[:, 8:16] = 200
    save(tmp_path / "a_wide.png", wide)
    save(tmp_path / "b_tall.png", wide.transpose(1, 0, 2))
    assert (pictures(tmp_path)[1].x == 200).all()


def test_resizing_antialiases(tmp_path):
    """A fine chequerboard becomes its mean; picking every eighth pixel would leave it black or white."""
    board = np.indices((64, 64)).sum(0) % 2 * 255
    save(tmp_path / "a.png", np.repeat(board[..., None], 3, -1))
    assert np.abs(pictures(tmp_path)[1].x.astype(int)[:, 1:-1, 1:-1] - 127.5).max() < 8


def test_the_exif_orientation_is_obeyed(tmp_path):
    x = np.zeros((8, 8, 3), np.uint8)
    x[:2] = 255  # a bar at the top, which orientation 6 turns clockwise: to the right
    exif = Image.Exif()
    exif[0x0112] = 6
    save(tmp_path / "a.png", x, exif=exif)
    picture = pictures(tmp_path)[1].x[0, :, :, 0]
    assert (picture[:, 6:] == 255).all() and (picture[:, :6] == 0).all()


def test_channels_transparency_depth_and_animations(tmp_path):
    save(tmp_path / "a_grey.png", np.full((8, 8), 77))
    clear = np.zeros((8, 8, 4), np.uint8)
    clear[:4, :, 0], clear[:4, :, 3] = 255, 255
    save(tmp_path / "b_clear.png", clear)
    Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(tmp_path / "c_deep.png")
    frames = [Image.fromarray(plain(v, 8, 8)) for v in (50, 150)]
    frames[0].save(tmp_path / "d_moves.gif", save_all=True, append_images=frames[1:])
    save(tmp_path / "e.jpg", plain(90, 8, 8))
    save(tmp_path / "f.webp", plain(120, 8, 8), lossless=True)
    x = pictures(tmp_path)[1].x
    assert x[0, 0, 0].tolist() == [77] * 3
    assert x[1, 0, 0].tolist() == [255, 0, 0] and x[1, 7, 7].tolist() == [255] * 3  # what is transparent is white
    assert x[2, 0, 0].tolist() == [40_000 >> 8] * 3
    assert x[3:, 0, 0, 0].tolist() == [50, 90, 120]
    assert pictures(tmp_path, channels=1)[1].x.shape == (6, 8, 8, 1)


def test_the_split_is_fixed_and_other_pictures_do_not_move_it(tmp_path):
    for i in range(120):
        save(tmp_path / f"{i}.png", plain(i, 4, 4))

    def values(split):
        dataset = load(f"folder:{tmp_path}", split, size=4)
        return set(dataset.take(np.arange(dataset.size)).x[:, 0, 0, 0].tolist())

    train, test = values("train"), values("test")
    assert not train & test and train | test == values("all") == set(range(120))
    assert 4 <= len(test) <= 24
    for i in range(60, 120):
        os.remove(tmp_path / f"{i}.png")
    assert values("test") == {i for i in test if i < 60}


def test_a_changed_picture_is_decoded_again(tmp_path, cache):
    save(tmp_path / "in" / "a.png", plain(1))
    assert pictures(tmp_path / "in")[1].x.max() == 1
    save(tmp_path / "in" / "a.png", plain(2))
    os.utime(tmp_path / "in" / "a.png", ns=(1, 1))
    assert pictures(tmp_path / "in")[1].x.max() == 2
    assert pictures(tmp_path / "in", size=4)[0].shape == (4, 4, 3)


@pytest.mark.parametrize("raw", [b"", b"not a picture", None])
def test_an_unreadable_picture_is_named(tmp_path, raw):
    save(tmp_path / "a.png", plain(1))
    intact = np.random.default_rng(0).integers(0, 256, (64, 64, 3))
    save(tmp_path / "broken.png", intact)
    path = tmp_path / "broken.png"
    path.write_bytes(path.read_bytes()[:5000] if raw is None else raw)
    with pytest.raises(InputError, match=r"broken\.png") as error:
        pictures(tmp_path)
    assert "\n" not in str(error.value)


def test_a_link_to_nothing_is_named(tmp_path):
    save(tmp_path / "a.png", plain(1))
    (tmp_path / "b.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(InputError, match=r"b\.png \(No such file"):
        pictures(tmp_path)


def test_folders_without_pictures_and_bad_options_are_refused(tmp_path):
    with pytest.raises(InputError, match="no pictures"):
        pictures(tmp_path)
    with pytest.raises(InputError, match="no folder"):
        pictures(tmp_path / "nowhere")
    save(tmp_path / "a.png", plain(1))
    with pytest.raises(InputError, match=f"did you mean 'folder:{tmp_path}'"):
        load(str(tmp_path))
    with pytest.raises(InputError, match="no folder"):
        load("folder:")
    for options in ({"size": 0}, {"size": 2.5}, {"channels": 2}, {"split": "val"}):
        with pytest.raises(InputError, match="give"):
            pictures(tmp_path, **options)
    with pytest.raises(InputError, match="split='all'"):
        [load(f"folder:{tmp_path}", split, size=4) for split in ("train", "test")]


# Arrays


def arrays(path, split="all", **content):
    np.savez(path / "a.npz", **content)
    dataset = load(str(path / "a.npz"), split)
    return dataset, dataset.take(np.arange(dataset.size))


def test_pictures_points_and_labels(tmp_path):
    x = np.arange(20 * 4 * 4 * 3, dtype=np.uint8).reshape(20, 4, 4, 3)
    dataset, batch = arrays(tmp_path, x=x, labels=np.arange(20) % 3)
    assert np.array_equal(batch.x, x) and batch.x.dtype == np.uint8 and dataset.classes == ("0", "1", "2")
    assert batch.condition.tolist() == (np.arange(20) % 3).tolist() and batch.condition.dtype == np.int32
    dataset, batch = arrays(tmp_path, images=x[..., 0])
    assert dataset.shape == (4, 4, 1) and batch.condition is None
    _, batch = arrays(tmp_path, x=x / 127.5 - 1)
    assert batch.x.dtype == np.float32 and np.allclose(batch.x, x / 127.5 - 1)
    dataset, batch = arrays(tmp_path, x=np.array([[1, 2], [300, -4]]))
    assert dataset.shape == (2,) and batch.x.dtype == np.float32 and batch.x.tolist() == [[1, 2], [300, -4]]


def test_npz_splits_are_disjoint_and_complete(tmp_path):
    x = np.arange(100.0)[:, None]
    train, test = (arrays(tmp_path, split, x=x)[1].x[:, 0].tolist() for split in ("train", "test"))
    assert len(test) == 10 and sorted(train + test) == x[:, 0].tolist()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"y": np.zeros(3)}, "holds y; expected either x or images"),
        ({"x": np.zeros((2, 2)), "images": np.zeros((2, 2))}, "expected either"),
        ({"x": np.zeros(3)}, "expected"),
        ({"x": np.zeros((0, 4, 4, 3), np.uint8)}, "expected"),
        ({"x": np.zeros((2, 4, 4, 3), np.int64)}, "uint8 from 0 to 255"),
        ({"x": np.zeros((2, 4, 4, 3))}, r"2\*x - 1"),
        ({"x": np.linspace(0, 255, 32).reshape(2, 4, 4, 1)}, "from 0 to 255; expected real numbers from -1 to 1"),
        ({"x": np.array([[1.0, np.nan]])}, "not finite"),
        ({"x": np.array([["a", "b"]])}, "integers or real numbers"),
        ({"x": np.zeros((2, 2), complex)}, "integers or real numbers"),
        ({"x": np.zeros((3, 2)), "labels": np.zeros(2, int)}, r"integers \[3\]"),
        ({"x": np.zeros((2, 2)), "labels": np.zeros(2)}, "expected integers"),
        ({"x": np.zeros((2, 2)), "labels": np.array([0, -1])}, "from 0 up"),
        ({"x": np.zeros((2, 2)), "labels": np.array([0, 2**31 - 1])}, "a label is 2147483647, at most 999999 is read"),
        ({"x": np.zeros((2, 2)), "labels": np.array([0, 2**63], np.uint64)}, "a label is 9223372036854775808"),
    ],
)
def test_arrays_that_are_no_data_set_are_refused(tmp_path, content, message):
    with pytest.raises(InputError, match=message) as error:
        arrays(tmp_path, **content)
    assert "\n" not in str(error.value)


class Bomb:
    def __reduce__(self):
        return (os.mkdir, (os.environ["BOMB"],))


def test_objects_are_never_unpickled(tmp_path, monkeypatch):
    monkeypatch.setenv("BOMB", str(tmp_path / "exploded"))
    with pytest.raises(InputError, match="Python objects"):
        arrays(tmp_path, x=np.array([Bomb()], dtype=object))
    (tmp_path / "a.npz").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(InputError, match="damaged or not"):
        load(str(tmp_path / "a.npz"))
    assert not (tmp_path / "exploded").exists()


def test_damaged_and_missing_files_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros((50, 40)))
    raw = (tmp_path / "a.npz").read_bytes()
    flipped = raw[:9000] + bytes([raw[9000] ^ 1]) + raw[9001:]
    np.savez_compressed(tmp_path / "a.npz", x=np.random.default_rng(0).random((50, 40)))
    packed = (tmp_path / "a.npz").read_bytes()
    packed = packed[:200] + bytes(1000) + packed[1200:]
    for damaged in (raw[:5000], flipped, packed, b"", b"text"):
        (tmp_path / "a.npz").write_bytes(damaged)
        with pytest.raises(InputError, match="damaged or not"):
            load(str(tmp_path / "a.npz"))
    with pytest.raises(InputError, match="no file"):
        load(str(tmp_path / "b.npz"))
    np.save(tmp_path / "c.npy", np.zeros((2, 2)))
    os.rename(tmp_path / "c.npy", tmp_path / "c.npz")
    with pytest.raises(InputError, match="damaged or not"):
        load(str(tmp_path / "c.npz"))


def test_another_split_is_loaded_with_the_same_options(tmp_path):
    for i in range(40):
        save(tmp_path / f"{i}.png", plain(i))
    train = load(f"folder:{tmp_path}", size=16, channels=1)
    test = other_split(train, "test")
    assert test.shape == train.shape == (16, 16, 1)
    assert 0 < test.size < train.size
    assert test.split == "test"


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_may_be_taken_as_they_are(tmp_path, channels):
    x = np.random.default_rng(0).integers(0, 256, (3, 5, 7, channels), np.uint8)
    for i, each in enumerate(x):
        Image.fromarray(each[..., 0] if channels == 1 else each).save(tmp_path / f"{i}.png")
    given = load(f"folder:{tmp_path}", "all", size=None, channels=None)
    assert given.shape == (5, 7, channels)
    np.testing.assert_array_equal(given.take(np.arange(3)).x, x)
    Image.fromarray(np.zeros((4, 7), np.uint8)).save(tmp_path / "3.png")
    with pytest.raises(InputError, match=r"3\.png has 4x7 pixels, the first picture has 5x7: give a size"):
        load(f"folder:{tmp_path}", "all", size=None, channels=None)
