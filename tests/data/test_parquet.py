"""Pictures in Parquet files."""

import io
import json

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

import jaxgen
from jaxgen.data import load
from jaxgen.types import InputError


def encoded(value, size=10):
    file = io.BytesIO()
    Image.fromarray(np.full((size, size + 4, 3), value, np.uint8)).save(file, "PNG")
    return file.getvalue()


def write(path, values, labels=None, names=None, record=True):
    """As the library datasets writes it: records of bytes and path, classes in the metadata."""
    pictures = [{"bytes": encoded(v), "path": None} if record else encoded(v) for v in values]
    columns = {"id": list(range(len(values))), "image": pictures}
    table = pa.table(columns if labels is None else {**columns, "label": labels})
    if names is not None:
        features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    parquet.write_table(table, path)


def everything(path, **options):
    dataset = load(str(path), "all", **{"size": 4, **options})
    return dataset, dataset.take(np.arange(dataset.size))


@pytest.mark.parametrize("record", [True, False])
@pytest.mark.parametrize("streaming", [True, False])
def test_pictures_and_classes_come_from_all_files_of_a_pattern(tmp_path, record, streaming):
    write(tmp_path / "train-0.parquet", [10, 20], [1, 0], ["cat", "dog", "owl"], record)
    write(tmp_path / "train-1.parquet", [30], [1], ["cat", "dog", "owl"], record)
    dataset, batch = everything(tmp_path / "train-*.parquet", streaming=streaming)
    assert dataset.classes == ("cat", "dog", "owl") and dataset.shape == (4, 4, 3) and dataset.streaming == streaming
    assert batch.x[:, 0, 0, 0].tolist() == [10, 20, 30] and batch.condition.tolist() == [1, 0, 1]
    assert batch.x.dtype == np.uint8 and batch.condition.dtype == np.int32


def test_strings_are_classes_and_without_a_column_there_are_none(tmp_path):
    write(tmp_path / "a.parquet", [1, 2, 3], ["oak", "ash", "oak"])
    dataset, batch = everything(tmp_path / "a.parquet", channels=1)
    assert dataset.classes == ("ash", "oak") and batch.condition.tolist() == [1, 0, 1] and dataset.shape == (4, 4, 1)
    write(tmp_path / "b.parquet", [1, 2])
    dataset, batch = everything(tmp_path / "b.parquet")
    assert dataset.classes == () and batch.condition is None


def test_the_parts_are_disjoint_and_an_experiment_takes_the_file_by_name(tmp_path):
    path = str(tmp_path / "a.parquet")
    write(path, range(40), [i % 2 for i in range(40)])
    parts = [load(path, split, size=4) for split in ("train", "test")]
    seen = [set(part.take(np.arange(part.size)).x[:, 0, 0, 0].tolist()) for part in parts]
    assert len(seen[1]) == 4 and seen[0] | seen[1] == set(range(40)) and not seen[0] & seen[1]
    exp = jaxgen.load_experiment("folder_vae", data=path, size=16, width=2, latent=2)
    assert exp.data.shape == (16, 16, 3) and exp.data.classes == ("0", "1")


def test_what_is_no_such_file_is_refused_in_a_line(tmp_path):
    def refused(match, name="a.parquet", **options):
        with pytest.raises(InputError, match=match) as error:
            everything(tmp_path / name, **options)
        assert "\n" not in str(error.value)

    refused("there is no file")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and no more")
    refused("damaged")
    parquet.write_table(pa.table({"label": [1]}), tmp_path / "a.parquet")
    refused("no column of pictures; its columns are label")
    parquet.write_table(pa.table({"image": [b"no picture"]}), tmp_path / "a.parquet")
    refused("cannot read the picture 0 of")
    parquet.write_table(pa.table({"image": pa.array([None], pa.binary())}), tmp_path / "a.parquet")
    refused("row 0 of .* has no picture")
    write(tmp_path / "a.parquet", [1], [-1])
    refused("integers from 0 up")
    write(tmp_path / "a.parquet", [1], [2], ["cat", "dog"])
    refused("a label is 2, there are 2 classes")
    write(tmp_path / "a.parquet", [1, 2], [0, None])
    refused("1 rows have no label")
    write(tmp_path / "a.parquet", [1])
    refused("to one size", size=None)
    write(tmp_path / "a.parquet", [1], [0])
    write(tmp_path / "b.parquet", [1], ["x"])
    refused("damaged, or no Parquet file, or its files differ", "*.parquet")
