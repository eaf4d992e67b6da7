"""MNIST, Fashion-MNIST and CIFAR-10 from the files that their authors published, prepared without TensorFlow.

What is written is what tensorflow-datasets (TFDS) writes: ArrayRecord files of `tf.train.Example`s with PNG pictures,
in the order that TFDS gives them, which sorts them by a hash of their number, so that example i is example i of a set
that TFDS has prepared. Addresses, sizes and checksums are those in TFDS.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import os
import shutil
import tarfile
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxgen.inputs import is_file
from jaxgen.types import InputError, check

SECONDS = 60.0  # without a byte, after which a download is given up
PIECE = 1 << 20

Arrays = dict[str, tuple[np.ndarray, np.ndarray]]
"""{split: (x uint8 [N, H, W, C], labels [N])}, in the published order."""


class Source(NamedTuple):
    """files: names of the published files; read: (their paths) -> (Arrays, names of the labels or none)."""

    files: tuple[str, ...]
    read: Callable[[dict[str, Path]], tuple[Arrays, list[str]]]


def prepare(name: str, builder: Any, root: Path) -> None:
    """Write the set `name` of that TFDS builder into its folder; files that lie in ROOT/downloads/NAME already are not
    fetched again. InputError for what cannot be fetched or is not what was published."""
    source, folder = SOURCES[name], root / "downloads" / name
    known = {url.rsplit("/", 1)[-1]: (url, info) for url, info in builder.url_infos.items()}
    paths = {file: _fetched(*known[file], folder / file) for file in source.files}
    arrays, names = source.read(paths)
    if names:
        builder.info.features["label"].names = names
    final = Path(builder.data_dir)
    unfinished = final.with_name(f"{final.name}.incomplete{os.getpid()}")
    try:
        unfinished.mkdir(parents=True, exist_ok=True)
        _write(name, builder, arrays, unfinished)
        os.replace(unfinished, final)
    except OSError as error:
        raise InputError(f"cannot write {final} ({error.strerror}): make room, or give another data_dir") from None
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


# --- fetching ------------------------------------------------------------------------------------------------------


def _fetched(url: str, info: Any, path: Path) -> Path:
    """The file of a url, complete and with the checksum that it has to have."""
    if is_file(path):
        wrong = _wrong(path, info)
        check(not wrong, f"{path} is not what was published at {url} ({wrong}): remove it, it is fetched again")
        return path
    part = path.with_name(f"{path.name}.part{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _download(url, part)
        wrong = _wrong(part, info)
        check(not wrong, f"what {url} gives is not what was published ({wrong}): try again later")
        os.replace(part, path)
    except OSError as error:  # of the network, too
        reason = getattr(error, "reason", None) or error.strerror or error
        raise InputError(f"could not fetch {url} ({reason}): try again, or put the file into {path.parent}") from None
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
    return path


def _download(url: str, path: Path) -> None:
    from tqdm import tqdm

    with urllib.request.urlopen(url, timeout=SECONDS) as answer, open(path, "wb") as file:
        size = int(answer.headers.get("Content-Length") or 0) or None
        with tqdm(total=size, desc=url.rsplit("/", 1)[-1], unit="B", unit_scale=True, disable=None) as bar:
            while piece := answer.read(PIECE):
                file.write(piece)
                bar.update(len(piece))


def _wrong(path: Path, info: Any) -> str:
    """How the file differs from the published one, or ""."""
    size = path.stat().st_size
    if size != int(info.size):
        return f"it has {size:,} bytes, not {int(info.size):,}"
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(PIECE):
            digest.update(piece)
    return "" if digest.hexdigest() == info.checksum else "its SHA-256 is another"


# --- the published forms -------------------------------------------------------------------------------------------


def _idx(path: Path) -> np.ndarray:
    """An array of bytes in the idx form (LeCun, Cortes and Burges 1998): 0, 0, 8 for bytes, the number of dimensions,
    each of them as a big-endian int32, and the bytes."""
    with _whole(path), gzip.open(path) as file:
        raw = file.read()
        rank = raw[3]
        shape = np.frombuffer(raw, ">i4", rank, 4)
        if raw[:3] != b"\0\0\x08" or len(raw) != 4 + 4 * rank + int(np.prod(shape)):
            raise ValueError("it is no idx file of bytes")
        return np.frombuffer(raw, np.uint8, offset=4 + 4 * rank).reshape(shape)


def _mnist(paths: dict[str, Path]) -> tuple[Arrays, list[str]]:
    found = {}
    for split, stem in (("train", "train"), ("test", "t10k")):
        x, labels = _idx(paths[f"{stem}-images-idx3-ubyte.gz"]), _idx(paths[f"{stem}-labels-idx1-ubyte.gz"])
        found[split] = x[..., None], labels
    return found, []


def _cifar10(paths: dict[str, Path]) -> tuple[Arrays, list[str]]:
    """Rows of a label and the three colours' planes of 32x32 (Krizhevsky 2009)."""
    (path,) = paths.values()
    parts = {"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "test": ["test_batch.bin"]}
    found = {}
    with _whole(path), tarfile.open(path) as archive:

        def content(name: str) -> bytes:
            return archive.extractfile(f"cifar-10-batches-bin/{name}").read()  # type: ignore[union-attr]

        for split, files in parts.items():
            rows = np.frombuffer(b"".join(map(content, files)), np.uint8).reshape(-1, 1 + 3 * 32 * 32)
            found[split] = rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), rows[:, 0]
        return found, content("batches.meta.txt").decode().split()


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # its checksum is right: this is not what the reader takes
        raise InputError(f"cannot read {path} ({error}): remove it, it is fetched again") from None


_IDX = tuple(f"{split}-{kind}-ubyte.gz" for split in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))
SOURCES = {
    "mnist": Source(_IDX, _mnist),
    "fashion_mnist": Source(_IDX, _mnist),
    "cifar10": Source(("cifar-10-binary.tar.gz",), _cifar10),
}


# --- writing -------------------------------------------------------------------------------------------------------


def _write(name: str, builder: Any, arrays: Arrays, folder: Path) -> None:
    """The files of a prepared set, one of records a split."""
    import tensorflow_datasets

    tfds: Any = tensorflow_datasets
    template = tfds.core.ShardedFileTemplate(
        data_dir=folder, dataset_name=name, filetype_suffix="array_record", template=None, split=None
    )
    splits = []
    for split, (x, labels) in arrays.items():
        own = template.replace(split=split)
        path = folder / f"{name}-{split}.array_record-00000-of-00001"
        size = _write_records(path, split, x, labels, "id" in builder.info.features)
        splits.append(tfds.core.SplitInfo(name=split, shard_lengths=[len(x)], num_bytes=size, filename_template=own))
    builder.info.set_splits(tfds.core.splits.SplitDict(splits))
    builder.info.download_size = sum(int(info.size) for info in builder.url_infos.values())
    builder.info.write_to_directory(folder)


def _write_records(path: Path, split: str, x: np.ndarray, labels: np.ndarray, ids: bool) -> int:
    """The bytes of all examples, written in TFDS's order; ids: with the name that TFDS gives each."""
    from array_record.python.array_record_module import ArrayRecordWriter
    from tensorflow_datasets.core.hashing import Hasher

    hasher, size = Hasher(split), 0
    writer = ArrayRecordWriter(str(path), "group_size:1")
    try:
        for i in sorted(range(len(x)), key=hasher.hash_key):
            record = _example(x[i], int(labels[i]), f"{split}_{i:05d}" if ids else "")
            writer.write(record)
            size += len(record)
    finally:
        writer.close()
    return size


def _example(x: np.ndarray, label: int, name: str) -> bytes:
    """A `tf.train.Example` of a picture [H, W, C], as PNG, its label, and its name if it has one."""
    from PIL import Image
    from tensorflow_datasets.proto import tf_example_pb2

    messages: Any = tf_example_pb2
    png, example = io.BytesIO(), messages.Example()
    Image.fromarray(x[..., 0] if x.shape[-1] == 1 else x).save(png, format="PNG")
    example.features.feature["image"].bytes_list.value.append(png.getvalue())
    example.features.feature["label"].int64_list.value.append(label)
    if name:
        example.features.feature["id"].bytes_list.value.append(name.encode())
    return example.SerializeToString(deterministic=True)
