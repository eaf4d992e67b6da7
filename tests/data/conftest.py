"""A cache of its own for every test session, the prepared data sets beside the repository, and small sets to read."""

import io
import os
from pathlib import Path

import numpy as np
import pytest

_prepared = Path(__file__).resolve().parents[3] / "shared" / "data"
if "TFDS_DATA_DIR" not in os.environ and _prepared.is_dir():
    os.environ["TFDS_DATA_DIR"] = str(_prepared)


@pytest.fixture(scope="session", autouse=True)
def session_cache(tmp_path_factory):
    before = os.environ.get("JAXGEN_CACHE")
    os.environ["JAXGEN_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["JAXGEN_CACHE"]
    else:
        os.environ["JAXGEN_CACHE"] = before


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder."""
    monkeypatch.setenv("JAXGEN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def mnist_dir():
    """The folder with MNIST prepared, or a skip."""
    root = os.environ.get("TFDS_DATA_DIR", "")
    if not root or not (Path(root) / "mnist").is_dir():
        pytest.skip("TFDS_DATA_DIR holds no mnist")
    return root


@pytest.fixture(scope="session")
def faces_dir(tmp_path_factory):
    """Five grey pictures as a prepared celeb_a: record i has brightness 20i and attribute j set where i + j is odd."""
    import tensorflow_datasets as tfds
    from array_record.python.array_record_module import ArrayRecordWriter
    from PIL import Image
    from tensorflow_datasets.core import example_serializer, naming, splits

    root = tmp_path_factory.mktemp("tfds")
    builder = tfds.builder("celeb_a", data_dir=str(root), file_format="array_record")
    features = builder.info.features
    serializer = example_serializer.ExampleSerializer(features.get_serialized_info())
    os.makedirs(builder.data_dir)
    template = naming.ShardedFileTemplate(
        data_dir=builder.data_path, dataset_name="celeb_a", split="train", filetype_suffix="array_record"
    )
    writer = ArrayRecordWriter(str(template.sharded_filepath(shard_index=0, num_shards=1)), "group_size:1")
    for i in range(5):
        file = io.BytesIO()
        Image.fromarray(np.full((218, 178, 3), 20 * i, np.uint8)).save(file, "PNG")
        record = {
            "image": file.getvalue(),
            "landmarks": dict.fromkeys(features["landmarks"], i),
            "attributes": {name: bool((i + j) % 2) for j, name in enumerate(sorted(features["attributes"]))},
            "identity": {"Identity_No": i},
        }
        writer.write(serializer.serialize_example(record))
    writer.close()
    train = splits.SplitInfo(name="train", shard_lengths=[5], num_bytes=1, filename_template=template)
    builder.info.set_splits(splits.SplitDict([train]))
    builder.info.write_to_directory(builder.data_path)
    return str(root)
