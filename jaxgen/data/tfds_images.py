"""Any image set of TensorFlow Datasets, read without TensorFlow from prepared ArrayRecord files.

The files are those in `data_dir`, in the folder named by TFDS_DATA_DIR, or in ~/tensorflow_datasets. Nothing here
reaches the network except `prepare`: a set that is not prepared is refused at once with the command that prepares it.
"""

from __future__ import annotations

import difflib
import io
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from jaxgen.data import published
from jaxgen.data.dataset import Dataset, from_reader
from jaxgen.data.pictures import check_format, read_picture
from jaxgen.inputs import is_folder
from jaxgen.types import InputError, check


def load(
    name: str,
    split: str = "train",
    *,
    size: int | None = None,
    labels: str | None = "auto",
    data_dir: str | None = None,
    streaming: bool | None = None,
) -> Dataset:
    """uint8 [N, H, W, C] pictures of the TFDS set `name` ("cifar10", "lsun/bedroom", ...).

    `size` crops the centred square and resizes it with antialiasing: required where the pictures differ in size.
    `labels` names the feature to condition on: a class label gives int32 [N], a group of K yes-no features gives
    int32 [N, K]; "auto" takes the set's own label if it has one, None takes none. `split` is one of the set's own, or a
    part such as "train[:10%]". `streaming` as in `jaxgen.data.dataset.from_reader`. Raises InputError when the set is
    not prepared or has no such picture, label or split.
    """
    check_format(size, 3)
    with _quiet():
        builder = _builder(name, data_dir)
        features, image = _features(name, builder)
        _check_prepared(name, builder, data_dir)
        part = _part(name, builder, split)
        shape = _shape(name, features[image], size)
        label = _label_key(name, features, labels)
        classes, encode = _classes(features, label)
        source = _source(name, builder, split, features)

    def read(indices):
        records = _records(name, builder, source, indices)
        options = {"channels": shape[2], "size": size, "upright": False}  # as TFDS decodes them
        pictures = [(io.BytesIO(r[image]), f"{i} of {name}") for i, r in zip(indices, records, strict=True)]
        x = np.stack([read_picture(file, what, **options) for file, what in pictures])
        return x, None if label is None else np.array([encode(record[label]) for record in records], np.int32)

    stamp = f"{builder.info.full_name} {split} {part.num_examples} {part.num_bytes} {size} {label}"
    about = {"size": part.num_examples, "shape": shape, "classes": classes}
    return from_reader(name, split, read, **about, fingerprint=stamp, streaming=streaming)


def prepare(name: str, data_dir: str | None = None) -> str:
    """Download the TFDS set `name` and write it as ArrayRecord files; returns their folder. Needs extra [prepare], but
    for those of `data.published`."""
    with _quiet():
        builder = _builder(name, data_dir)
        _features(name, builder)  # refused before gigabytes without pictures are downloaded
        if builder.is_prepared():
            _check_prepared(name, builder, data_dir)
            return str(builder.data_dir)
        if name in published.SOURCES:
            builder = _builder(name, data_dir, file_format="array_record")
            published.prepare(name, builder, Path(_root(data_dir)[0]))
            return str(builder.data_dir)
        check(
            find_spec("tensorflow") is not None,
            f"preparing {name} needs TensorFlow (reading it afterwards does not): pip install 'jaxgen[prepare]'",
        )
        try:
            _builder(name, data_dir, file_format="array_record").download_and_prepare()
        except Exception as error:  # a network, a quota, a checksum, a full disk: all are the user's to mend
            raise InputError(
                f"could not prepare {name} ({_reason(error)}); try again, or read pictures that you have "
                "with folder:PATH"
            ) from error
    return str(builder.data_dir)


def known() -> list[str]:
    """Names of the sets that TFDS can prepare (not only image sets); read from the package, without the network."""
    import tensorflow_datasets as tfds

    return tfds.list_builders(with_community_datasets=False)


def in_folder(data_dir: str | None = None) -> list[str]:
    """Names of the sets that have files in the data folder."""
    root = Path(_root(data_dir)[0])
    # NAME/VERSION/ or NAME/CONFIGURATION/VERSION/; no deeper, for the downloads lie there as well.
    found = (*root.glob("*/*/dataset_info.json"), *root.glob("*/*/*/dataset_info.json"))
    return sorted({path.relative_to(root).parts[0] for path in found})


def summary(name: str, data_dir: str | None = None) -> tuple[str, bool]:
    """("28x28x1, 60,000 train + ...", is it prepared?) of a set, in milliseconds and without the network."""
    with _quiet():
        builder = _builder(name, data_dir)
        features, image = _features(name, builder)
        shape = features[image].shape
        text = "x".join("?" if side is None else str(side) for side in shape)
        prepared = _is_array_record(builder)
        splits = " + ".join(f"{info.num_examples:,} {split}" for split, info in builder.info.splits.items())
    return (f"{text}, {splits}" if splits else text), prepared


def _root(data_dir: str | None) -> tuple[str, str]:
    """The folder with the data, and why it is that one. Read at each call: TFDS itself reads the variable on import."""
    if data_dir:
        return os.path.expanduser(data_dir), "the given data_dir"
    if os.environ.get("TFDS_DATA_DIR"):
        return os.path.expanduser(os.environ["TFDS_DATA_DIR"]), "from TFDS_DATA_DIR"
    return os.path.expanduser("~/tensorflow_datasets"), "TFDS_DATA_DIR is not set"


def _builder(name: str, data_dir: str | None, **options: Any) -> Any:
    import tensorflow_datasets as tfds

    root, _ = _root(data_dir)
    base, names = name.split("/")[0].split(":")[0], known()
    if base not in names and not is_folder(Path(root) / base):
        close = difflib.get_close_matches(base, names, 1)
        hint = f"; did you mean {close[0]!r}?" if close else "; 'jaxgen data list' shows some that it has"
        raise InputError(f"TFDS has no data set {name!r}{hint}")
    try:
        return tfds.builder(name, data_dir=root, **options)
    except Exception as error:  # an unknown configuration or version, or a builder that lacks a package of its own
        raise InputError(f"TFDS cannot open {name!r}: {_reason(error)}") from error


def _is_array_record(builder: Any) -> bool:
    return builder.is_prepared() and "array_record" in {form.value for form in builder.info.available_file_formats()}


def _check_prepared(name: str, builder: Any, data_dir: str | None) -> None:
    where, command = f"{builder.data_dir} ({_root(data_dir)[1]})", f"run: jaxgen data prepare {name}"
    check(builder.is_prepared(), f"{name} is not prepared: expected in {where}; {command}")
    remedy = f"remove it, or set TFDS_DATA_DIR to another folder, and {command}"
    check(_is_array_record(builder), f"{name} is prepared in {where}, but not as ArrayRecord; {remedy}")


def _part(name: str, builder: Any, split: str) -> Any:
    """What TFDS knows of a split: its numbers of examples and of bytes."""
    splits = builder.info.splits
    try:
        return splits[split]
    except (KeyError, ValueError, AssertionError) as error:
        raise InputError(f"{name} has no split {split!r}; give one of {', '.join(splits)}") from error


def _features(name: str, builder: Any) -> tuple[dict[str, Any], str]:
    """The features of a set, and the one that is its picture."""
    import tensorflow_datasets as tfds

    features = builder.info.features
    features = dict(features.items()) if isinstance(features, tfds.features.FeaturesDict) else {}
    keys = [key for key in features if isinstance(features[key], tfds.features.Image)]
    check(bool(keys), f"{name} has no pictures, only {', '.join(features) or 'other data'}; give an image set")
    return features, "image" if "image" in keys else keys[0]


def _shape(name: str, feature: Any, size: int | None) -> tuple[int, int, int]:
    dtype = np.dtype(feature.np_dtype)
    check(dtype == np.uint8, f"the pictures of {name} are {dtype}; expected uint8: give another set")
    height, width, channels = feature.shape
    if size is not None:
        height = width = size
    check(None not in (height, width), f"the pictures of {name} differ in size; give size=64, for example")
    return height, width, channels or 3


def _label_key(name: str, features: dict[str, Any], labels: str | None) -> str | None:
    import tensorflow_datasets as tfds

    if labels == "auto":
        return "label" if isinstance(features.get("label"), tfds.features.ClassLabel) else None
    good = labels is None or isinstance(features.get(labels), (tfds.features.ClassLabel, tfds.features.FeaturesDict))
    check(good, f"{name} has no labels {labels!r}; its features are {', '.join(features)}: give one, or None")
    return labels


def _classes(features: dict[str, Any], label: str | None) -> tuple[tuple[str, ...], Any]:
    """Names of the classes or attributes, and the function from a record's value to int32 [] or [K]."""
    if label is None:
        return (), None
    if hasattr(features[label], "names"):
        return tuple(features[label].names), int
    names = tuple(sorted(features[label]))
    return names, lambda value: [int(value[name]) for name in names]


def _source(name: str, builder: Any, split: str, features: dict[str, Any]) -> Any:
    """Records by index, their pictures still encoded: threads can share the decoding, and masks need none."""
    import tensorflow_datasets as tfds

    pictures = [key for key in features if isinstance(features[key], tfds.features.Image)]
    decoders = {key: tfds.decode.SkipDecoding() for key in pictures}
    try:
        return builder.as_data_source(split=split, decoders=decoders)
    except Exception as error:
        raise _damaged(name, builder, error) from error


def _records(name: str, builder: Any, source: Any, indices: np.ndarray) -> list[dict]:
    try:
        return source.__getitems__([int(i) for i in indices])
    except Exception as error:
        raise _damaged(name, builder, error) from error


def _damaged(name: str, builder: Any, error: Exception) -> InputError:
    remedy = f"if its files are damaged, remove that folder and run: jaxgen data prepare {name}"
    return InputError(f"cannot read {name} in {builder.data_dir} ({_reason(error)}); {remedy}")


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


@contextmanager
def _quiet() -> Iterator[None]:
    """Without TFDS's warnings about folders that do not exist yet and packages that are not needed here."""
    logger = logging.getLogger("absl")
    logger.addFilter(_only_errors)
    try:
        yield
    finally:
        logger.removeFilter(_only_errors)


def _only_errors(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR
