"""Damaged inputs: `damaged(kind, seed, folder)` makes one, the same for a seed, and `opens(kind, given)` reads it as
jaxgen does. It either loads or is an InputError of one line; anything else is a fault of jaxgen's.

A benchmark takes thousands of seeds, the tests some of each kind.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import io
import json
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from PIL import Image

from jaxgen import checkpoint, conditions, data, records, runs, scoring, study
from jaxgen.cli.evaluate import _with
from jaxgen.data.described import batch_of, standing_in
from jaxgen.metrics import report
from jaxgen.types import InputError

Rng = np.random.Generator

# --- bytes and values ------------------------------------------------------------------------------------------------


def choose(rng: Rng, values: Any) -> Any:
    """One of a list, without NumPy's conversion to its own types."""
    return values[int(rng.integers(len(values)))]


def spoilt(rng: Rng, content: bytes) -> bytes:
    """Cut short, with bytes of other values, with bytes put in, nothing of it, or as it was."""
    kind, n = rng.integers(6), len(content)
    if kind == 0:
        return content[: rng.integers(n + 1)]
    if kind <= 2 and n:
        spoilt = bytearray(content)
        for place in rng.integers(0, n, rng.integers(1, 9)):
            spoilt[place] = rng.integers(256)
        return bytes(spoilt)
    if kind == 3:
        place = int(rng.integers(n + 1))
        return content[:place] + rng.bytes(int(rng.integers(1, 64))) + content[place:]
    return rng.bytes(int(rng.integers(200))) if kind == 4 else content


DEEP = "as deep as this"  # stands for lists in lists, of which few can be walked through
VALUES = [
    None,
    True,
    False,
    0,
    1,
    -1,
    10**18,
    10**30,
    0.5,
    1e300,
    float("nan"),
    float("inf"),
    "",
    "x",
    "a\0b",
    "\ud800",
    "x" * 5000,
    "../..",
    "float32",
    [],
    [1, "x"],
    [[]],
    {},
    {"a": 1},
    {"": {"x": []}},
    DEEP,
]


def places(value: Any) -> list[tuple[Any, Any]]:
    """(container, key) of everything inside a value of JSON."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else []
    return [place for key in keys for place in [(value, key), *places(value[key])]]


def changed(rng: Rng, value: Any) -> bytes:
    """The JSON of a value some of which is of another kind, or missing, or there as well; at times with other bytes."""
    value = json.loads(json.dumps(value))
    for _ in range(rng.integers(1, 4)):
        there = places(value)
        other = copy.deepcopy(choose(rng, VALUES))
        if not there or rng.random() < 0.05:
            value = other
            continue
        container, key = choose(rng, there)
        kind = rng.integers(4)
        if kind == 0:
            del container[key]
        elif kind == 1 and isinstance(container, dict):
            container[choose(rng, ["", "x", "step", "value", "shape", "dict", "maybe", "\ud800"])] = other
        else:
            container[key] = other
    text = json.dumps(value, indent=choose(rng, [None, 1]))
    depth = choose(rng, [100, 500, 50_000])
    content = text.replace(json.dumps(DEEP), "[" * depth + "]" * depth).encode()
    return spoilt(rng, content) if rng.random() < 0.2 else content


# --- kinds of inputs -------------------------------------------------------------------------------------------------


def write_npz(rng: Rng, folder: Path) -> Path:
    """Arrays of any type and shape under the names that are read, some of them no arrays."""
    n, path = int(rng.integers(1, 12)), folder / "set.npz"
    shapes = [(n, 4, 4, 1), (n, 4, 4), (n, 2), (n,), (), (n + 1,), (n, 4, 4, 3), (0, 2), (n, 0, 4, 1)]
    types = ["u1", "f4", "f8", "i8", "u8", "f2", "?", "c8", "U3", "S2", "M8[s]", "O", "i4,f4"]
    arrays = {"x": rng.integers(0, 256, choose(rng, shapes[:3]), np.uint8), "labels": np.arange(n)}
    for name in ("x", "images", "labels", "y"):
        if rng.random() < 0.2:
            scale = choose(rng, [0, 1, 2, 300, 1e300, 2**63, float("nan")])
            with np.errstate(all="ignore"), contextlib.suppress(ValueError, TypeError):
                arrays[name] = np.asarray((rng.random(choose(rng, shapes)) - 0.5) * scale, choose(rng, types))
    if rng.random() < 0.1:
        arrays.pop(choose(rng, list(arrays)))
    file = io.BytesIO()
    np.savez(file, **arrays)
    if rng.random() < 0.1:
        with zipfile.ZipFile(file, "a") as archive:
            archive.writestr(choose(rng, ["x", "labels", "x.npy", "../x.npy"]), rng.bytes(30))
    path.write_bytes(spoilt(rng, file.getvalue()) if rng.random() < 0.3 else file.getvalue())
    return path


def open_npz(path: Path) -> None:
    for split in ("train", "test", "all"):
        found = data.load(str(path), split)
        assert np.isfinite(found.take(np.arange(found.size)).x).all()


def write_pictures(rng: Rng, folder: Path) -> Path:
    """A folder of pictures of every format and mode, some of which are no such."""
    root = folder / "pictures"
    for i in range(int(rng.integers(1, 5))):
        suffix = choose(rng, ["png", "jpg", "bmp", "webp", "gif"])
        inside = root / choose(rng, ["", "a", "b"])
        inside.mkdir(parents=True, exist_ok=True)
        sides = rng.integers(1, 20, 2)
        image = Image.fromarray(rng.integers(0, 256, (*sides, 3), np.uint8))
        mode = choose(rng, ["RGB", "L", "P", "1", "CMYK"])
        file = io.BytesIO()
        try:
            image.convert(mode).save(file, {"jpg": "jpeg"}.get(suffix, suffix))
        except (OSError, ValueError):  # a mode that the format does not have
            image.save(file, {"jpg": "jpeg"}.get(suffix, suffix))
        (inside / f"{i}.{suffix}").write_bytes(spoilt(rng, file.getvalue()) if rng.random() < 0.3 else file.getvalue())
    return root


def open_pictures(root: Path) -> None:
    for options in ({"size": 4}, {"size": None, "channels": None, "labels": False}):
        found = data.load(f"folder:{root}", "all", streaming=True, **options)
        found.take(np.arange(found.size))


SETTINGS = {
    "name": "vae",
    "source": "/nowhere/vae.py",
    "sha256": "0" * 64,
    "signature": "0" * 64,
    "keywords": {"steps": 120, "lr": 0.001, "bf16": False, "kind": "image", "sides": [1, 2]},
    "start": {"vae": "/nowhere"},
    "data": [
        {
            "given": "digits",
            "name": "digits",
            "split": "train",
            "options": {"size": 8},
            "size": 1500,
            "shape": [8, 8, 1],
            "classes": ["0", "1"],
            "streaming": False,
        }
    ],
    "example": {
        "x": {"shape": [8, 8, 1], "dtype": "uint8"},
        "condition": {"maybe": [{"dict": {"a": {"shape": [], "dtype": "int32"}}}, {"shape": [], "dtype": "bool"}]},
    },
}


def write_settings(rng: Rng, folder: Path) -> Path:
    (folder / "settings.json").write_bytes(changed(rng, SETTINGS))
    return folder


def open_settings(folder: Path) -> None:
    note = runs.read_settings(folder)
    runs.noted_start(folder)
    with standing_in(note["data"]):
        data.load("digits")
    if note["example"]:
        batch_of(note["example"], 4)


def write_metrics(rng: Rng, folder: Path) -> Path:
    good = {"step": 10, "seconds": 1.5, "images_per_second": 100.0, "vae/loss": 3.0}
    lines = [changed(rng, good) if rng.random() < 0.6 else json.dumps(good).encode() for _ in range(5)]
    content = b"\n".join(lines)
    (folder / "metrics.jsonl").write_bytes(spoilt(rng, content) if rng.random() < 0.2 else content)
    return folder


def open_metrics(folder: Path) -> None:
    for record in records.read(folder, before=15):
        assert record["step"] <= 15 and f"{record['seconds']:.0f}"
        ", ".join(f"{k} {v:.5g}" for k, v in record.items()).encode()


ESTIMATE = {"value": 3.0, "error": 0.5, "how": "folds"}
EVALUATIONS = {
    "evaluations": [
        {
            "scores": {
                "fid": {
                    "estimate": ESTIMATE,
                    "better": "lower",
                    "images": 100,
                    "floor": ESTIMATE,
                    "floor_images": 90,
                    "at_floor": None,
                }
            },
            "protocol": {"samples": 100, "held_out": "none", "step": 120, "reals": "a", "extractor": "pixels"},
            "cost": {"network_evaluations": 1, "seconds_a_sample": 0.1, "batch": 64, "parameters": {"vae": 10}},
        }
    ]
}


def write_evaluation(rng: Rng, folder: Path) -> Path:
    (folder / "evaluation.json").write_bytes(changed(rng, EVALUATIONS))
    return folder


def open_evaluation(folder: Path) -> None:
    for found in report.read(folder / "evaluation.json"):
        "\n".join(report.table(found.scores)).encode()
    report.add(folder / "evaluation.json", report.Evaluation({}, {"samples": 1}))
    from jaxgen.cli.evaluate import _Point

    for found in _with(folder, "fid"):
        _Point("run", found, 1.0, found.scores["fid"]).row()


@functools.lru_cache(maxsize=1)
def _state() -> Path:
    """Checkpoints of a state that was saved without a note, whose score only best.json knows."""
    folder = Path(tempfile.mkdtemp(prefix="jaxgen-fuzz-"))
    store = checkpoint.open_store(folder / "checkpoints")
    checkpoint.save(store, {"x": jnp.zeros(2)}, 120)
    checkpoint.close(store)
    return folder


def write_best(rng: Rng, folder: Path) -> Path:
    shutil.copytree(_state(), folder, dirs_exist_ok=True)
    note = {"value": 1.5, "step": 120, "metric": "fid", "every": 10, "n": 100, "extractor": "pixels"}
    (folder / "best.json").write_bytes(changed(rng, note))
    return folder


def open_best(folder: Path) -> None:
    found = scoring.read_best(folder)
    assert found is not None and found["step"] == 120


def write_study(rng: Rng, folder: Path) -> Path:
    result = {
        "format": study.FORMAT,
        **{name: name for name in ("title", "digest", "sitting")},
        "facts": {"run": "vae", "step": 120},
        "generated": [[True, False]],
        "marked": [[True, True]],
        "seconds": [1.5],
    }
    (folder / "result.json").write_bytes(changed(rng, result))
    return folder / "result.json"


def open_study(path: Path) -> None:
    study.read([path])


def words(rng: Rng, pieces: list[str]) -> str:
    """Some of these pieces and of all characters, in a row."""
    those = [
        choose(rng, pieces) if rng.random() < 0.8 else chr(rng.integers(0xD800)) for _ in range(rng.integers(1, 6))
    ]
    return "".join(those)


def write_condition(rng: Rng, folder: Path) -> str:
    return words(
        rng, ["3", "-1", "²", "٣", "thick", ",", ";", "=", "label=", "traits=", " ", "", "1e9", "\0", "9" * 5000]
    )


def open_condition(text: str) -> None:
    """By each kind of conditioner."""
    labels, traits = conditions.labels(10), conditions.attributes(2)
    upper = conditions.image(lambda x: x, (4, 8, 1))
    both = conditions.several(label=conditions.optional(labels), traits=conditions.optional(traits))
    refusals = []
    for kind in (labels, traits, upper, both, conditions.optional(labels)):
        try:
            kind.given(3, kind.read(text, 3, ("thick", "looped")))
        except InputError as error:
            refusals.append(error)
    if len(refusals) == 5:
        raise refusals[0]


def write_spec(rng: Rng, folder: Path) -> tuple[str, str, dict]:
    pieces = [
        "folder:",
        "npz:",
        ".npz",
        "tfds:",
        "mnist",
        "digits",
        "photos",
        "/",
        "..",
        "~",
        "[:10%]",
        ":",
        "\0",
        "x" * 300,
    ]
    (folder / "x.npz").mkdir(exist_ok=True)
    name = words(rng, [*pieces, str(folder)])
    split = choose(rng, ["train", "test", "all", "", "train[:10%]", "train[", "train+test", "\0", "x" * 300])
    options = {
        choose(rng, ["n", "size", "labels", "streaming", "x"]): choose(rng, VALUES[:-1]) for _ in range(rng.integers(2))
    }
    return name, split, options


def open_spec(spec: tuple[str, str, dict]) -> None:
    name, split, options = spec
    data.load(name, split, **options)


class Kind(NamedTuple):
    """write(rng, folder) -> what is given; open(given)."""

    write: Callable[[Rng, Path], Any]
    open: Callable[[Any], None]


KINDS = {
    "npz": Kind(write_npz, open_npz),
    "pictures": Kind(write_pictures, open_pictures),
    "settings": Kind(write_settings, open_settings),
    "metrics": Kind(write_metrics, open_metrics),
    "evaluation": Kind(write_evaluation, open_evaluation),
    "best": Kind(write_best, open_best),
    "study": Kind(write_study, open_study),
    "condition": Kind(write_condition, open_condition),
    "spec": Kind(write_spec, open_spec),
}


def damaged(kind: str, seed: int, folder: Path) -> Any:
    """What `opens` takes: an input of this kind, written into the empty `folder` where it is a file."""
    return KINDS[kind].write(np.random.default_rng([list(KINDS).index(kind), seed]), folder)


def opens(kind: str, given: Any) -> bool:
    """Whether it loads; an InputError says that it does not. Raises whatever else jaxgen raises."""
    try:
        KINDS[kind].open(given)
    except InputError as error:
        assert len(str(error)) > 10, error
        return False
    return True
