"""MNIST and CIFAR-10 prepared without TensorFlow, of small files in the published forms in place of downloads."""

from __future__ import annotations

import gzip
import hashlib
import io
import sys
import tarfile
import urllib.error
from types import SimpleNamespace

import numpy as np
import pytest
from _tiny import refusal

from jaxgen import cli, data
from jaxgen.data import published, tfds_images

SIZES = {"train": 24, "test": 10}
RNG = np.random.default_rng(0)
PICTURES = {split: RNG.integers(0, 256, (n, 28, 28), np.uint8) for split, n in SIZES.items()}
COLOURS = {split: RNG.integers(0, 256, (n, 32, 32, 3), np.uint8) for split, n in SIZES.items()}
LABELS = {split: (np.arange(n) % 10).astype(np.uint8) for split, n in SIZES.items()}


def idx(x: np.ndarray) -> bytes:
    return gzip.compress(bytes([0, 0, 8, x.ndim]) + np.array(x.shape, ">i4").tobytes() + x.tobytes())


def mnist_files() -> dict[str, bytes]:
    stems = {"train": "train", "test": "t10k"}
    images = {f"{stems[s]}-images-idx3-ubyte.gz": idx(PICTURES[s]) for s in SIZES}
    return images | {f"{stems[s]}-labels-idx1-ubyte.gz": idx(LABELS[s]) for s in SIZES}


def cifar_files() -> dict[str, bytes]:
    def rows(x, labels):
        return np.concatenate([labels[:, None], x.transpose(0, 3, 1, 2).reshape(len(x), -1)], axis=1).tobytes()

    train = np.array_split(np.arange(SIZES["train"]), 5)
    content = {f"data_batch_{i + 1}.bin": rows(COLOURS["train"][p], LABELS["train"][p]) for i, p in enumerate(train)}
    content["test_batch.bin"] = rows(COLOURS["test"], LABELS["test"])
    content["batches.meta.txt"] = "\n".join([f"kind{i}" for i in range(10)] + [""]).encode()
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, raw in content.items():
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            info.size = len(raw)
            archive.addfile(info, io.BytesIO(raw))
    return {"cifar-10-binary.tar.gz": file.getvalue()}


@pytest.fixture
def lay(tmp_path, monkeypatch):
    """`lay(name, files)`: files in place of the download, their checksums in place of the published ones."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("JAXGEN_CACHE", str(tmp_path / "cache"))
    original = tfds_images._builder

    def place(name: str, files: dict[str, bytes], write: bool = True):
        infos = {
            f"https://example.org/{file}": SimpleNamespace(size=len(raw), checksum=hashlib.sha256(raw).hexdigest())
            for file, raw in files.items()
        }

        def builder(*args, **options):
            made = original(*args, **options)
            monkeypatch.setattr(type(made), "url_infos", infos)
            return made

        monkeypatch.setattr(tfds_images, "_builder", builder)
        folder = tmp_path / "downloads" / name
        folder.mkdir(parents=True)
        for file, raw in files.items() if write else ():
            (folder / file).write_bytes(raw)
        return folder

    return place


@pytest.mark.parametrize(
    ("name", "files", "pictures"),
    [
        ("mnist", mnist_files, {s: x[..., None] for s, x in PICTURES.items()}),
        ("fashion_mnist", mnist_files, {s: x[..., None] for s, x in PICTURES.items()}),
        ("cifar10", cifar_files, COLOURS),
    ],
)
def test_published_files_are_prepared_as_tfds_would(lay, tmp_path, capsys, name, files, pictures):
    lay(name, files())
    cli.main(["data", "prepare", name])
    (folder,) = capsys.readouterr().out.split()
    assert folder.startswith(str(tmp_path / name)) and "tensorflow" not in sys.modules
    for split, n in SIZES.items():
        found = data.load(name, split)
        assert (found.size, found.shape) == (n, pictures[split].shape[1:])
        batch = found.take(np.arange(n))
        by_number = {x.tobytes(): i for i, x in enumerate(pictures[split])}
        places = [by_number[x.tobytes()] for x in batch.x]
        # TFDS's order: by the MD5 of the split's name and the number
        assert places == sorted(range(n), key=lambda i: int(hashlib.md5(f"{split}{i}".encode()).hexdigest(), 16))
        np.testing.assert_array_equal(batch.condition, LABELS[split][places])
        assert found.classes[:2] == (("kind0", "kind1") if name == "cifar10" else found.classes[:2])
    cli.main(["data", "prepare", name])  # it is there
    assert capsys.readouterr().out.split() == [folder]


def test_the_order_is_the_one_in_which_tfds_prepared_mnist():
    if not tfds_images.summary("mnist")[1]:
        pytest.skip("MNIST is not prepared here")
    from tensorflow_datasets.core.hashing import Hasher

    labels = data.labels_of(data.load("mnist", "test"))
    order = sorted(range(len(labels)), key=Hasher("test").hash_key)
    as_published = np.empty_like(labels)
    as_published[order] = labels
    # the first labels of t10k-labels-idx1-ubyte, as every introduction to MNIST shows them
    np.testing.assert_array_equal(as_published[:15], [7, 2, 1, 0, 4, 1, 4, 9, 5, 9, 0, 6, 9, 0, 1])


def test_a_download_is_verified_and_kept(lay, monkeypatch, capsys):
    files = mnist_files()
    folder = lay("mnist", files, write=False)

    def opened(url, timeout):
        file = io.BytesIO(files[url.rsplit("/", 1)[-1]])
        file.headers = {}  # type: ignore[attr-defined]
        return file

    monkeypatch.setattr(published.urllib.request, "urlopen", opened)
    cli.main(["data", "prepare", "mnist"])
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == files
    assert data.load("mnist", "test").size == SIZES["test"]


def damaged(raw: bytes) -> bytes:
    return raw[:-1] + bytes([raw[-1] ^ 1])


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda raw: raw[:-5], "it has "),
        (damaged, "its SHA-256 is another"),
        (None, "could not fetch https://example.org/t"),
    ],
)
def test_what_is_not_as_published_is_refused_and_nothing_is_written(lay, tmp_path, monkeypatch, capsys, change, part):
    folder = lay("mnist", mnist_files(), write=change is not None)
    for path in folder.iterdir():
        path.write_bytes(change(path.read_bytes()))

    def unreachable(url, timeout):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(published.urllib.request, "urlopen", unreachable)
    line = refusal(capsys, "data", "prepare", "mnist")
    assert part in line and ("put the file into" in line or "remove it, it is fetched again" in line)
    assert not (tmp_path / "mnist").exists()
