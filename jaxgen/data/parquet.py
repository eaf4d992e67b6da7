"""Pictures in Parquet files, as Hugging Face's data sets are kept: `data.load("cats/train-*.parquet")`."""

from __future__ import annotations

import glob
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from jaxgen.data.dataset import Dataset, from_reader
from jaxgen.data.pictures import check_colour, check_format, read_picture
from jaxgen.data.pipeline import part
from jaxgen.inputs import check_memory
from jaxgen.types import InputError, check

SPLITS = ("train", "test", "all")
LABELS = ("label", "labels", "class", "fine_label", "category")  # names of columns, the first that is there counts


def load(
    path: str,
    split: str = "train",
    *,
    size: int | None = 64,
    channels: int = 3,
    background: str = "white",
    streaming: bool | None = None,
) -> Dataset:
    """uint8 [N, size, size, channels] from the pictures in a Parquet file, or in all that a pattern with * matches.

    The pictures are the first column of encoded files: of bytes, or of records with `bytes`, as the library datasets
    writes them. Labels are the column of one of the names in `LABELS`, integers from 0 up or strings; their names are
    those that datasets has written beside them. Pictures are read as from a folder (`jaxgen.data.folder`). "test" is a
    fixed 10 percent of the rows, "train" the rest, "all" everything. What is no such file raises InputError.
    """
    check(split in SPLITS, f"{path} has no split {split!r}; give one of {', '.join(SPLITS)}")
    check_format(size, channels)
    check_colour(background)
    check(size is not None, f"{path}: pictures in Parquet are brought to one size: give one, size=64 for example")
    files = [Path(name) for name in sorted(glob.glob(os.path.expanduser(path)))]
    check(bool(files), f"there is no file {path}; give the path of a .parquet file, or a pattern with *")
    pictures, labels, classes = _columns(path, files)
    chosen = np.arange(len(pictures)) if split == "all" else part(len(pictures), split)

    def read(indices):
        at = chosen[indices]
        x = [
            read_picture(
                _bytes(path, pictures, int(i)), f"{i} of {path}", channels=channels, size=size, background=background
            )
            for i in at
        ]
        return np.stack(x), None if labels is None else labels[at]

    changed = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    about = {"size": len(chosen), "shape": (size, size, channels), "classes": classes, "streaming": streaming}
    return from_reader(path, split, read, **about, fingerprint=f"{changed} {classes} {background}")


def _columns(path: str, files: list[Path]) -> tuple[Any, np.ndarray | None, tuple[str, ...]]:
    """(the column of pictures, labels int32 [N] or None, their names)."""
    import pyarrow
    from pyarrow import parquet

    check_memory(sum(file.stat().st_size for file in files), f"the pictures of {path}", "give fewer files")
    try:
        schema = parquet.read_schema(files[0])
        picture = next((field.name for field in schema if _holds_files(field.type)), None)
        check(picture is not None, f"{path} has no column of pictures; its columns are {', '.join(schema.names)}")
        label = next((name for name in LABELS if name in schema.names), None)
        wanted = [name for name in (picture, label) if name is not None]
        table = pyarrow.concat_tables([parquet.read_table(file, columns=wanted) for file in files])
    except InputError:
        raise
    except Exception as error:  # a damaged file can fail in any way
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path} is damaged, or no Parquet file, or its files differ ({reason})") from error
    check(table.num_rows > 0, f"{path} holds no pictures; give files that do")
    if label is None:
        return table.column(picture), None, ()
    return table.column(picture), *_labels(path, table.column(label), _names(schema, label))


def _holds_files(kind: Any) -> bool:
    """Whether a column's type is that of encoded pictures."""
    from pyarrow import types

    if types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0
    return types.is_binary(kind) or types.is_large_binary(kind)


def _bytes(path: str, pictures: Any, i: int) -> io.BytesIO:
    value = pictures[i].as_py()
    value = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(value, bytes):
        raise InputError(f"row {i} of {path} has no picture; remove the row, or write the picture into it")
    return io.BytesIO(value)


def _names(schema: Any, label: str) -> tuple[str, ...]:
    """The classes' names that the library datasets has written into the file, or none."""
    try:
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        return tuple(str(name) for name in features[label]["names"])
    except (KeyError, TypeError, ValueError):
        return ()


def _labels(path: str, column: Any, names: tuple[str, ...]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Integers as they are, strings numbered in their alphabetical order."""
    check(column.null_count == 0, f"{path}: {column.null_count} rows have no label; remove them, or the column")
    values = np.asarray(column.to_pylist())
    if values.dtype.kind == "U":
        found, numbers = np.unique(values, return_inverse=True)
        return numbers.astype(np.int32), tuple(str(name) for name in found)
    check(values.dtype.kind in "iu" and values.min() >= 0, f"{path}: labels must be integers from 0 up, or strings")
    count = int(values.max()) + 1
    names = names or tuple(str(i) for i in range(min(count, 100_000)))
    check(count <= len(names), f"{path}: a label is {count - 1}, there are {len(names)} classes: number them from 0")
    return values.astype(np.int32), names
