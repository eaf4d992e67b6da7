"""Tensors of torch's files, without torch: files of all three forms are written here opcode by opcode."""

import io
import os
import struct
import zipfile
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import torch_file
from jaxgen.types import InputError

RNG = np.random.default_rng(0)


# A pickle by hand: enough opcodes for what torch writes, and for what an attacker would


class Name(NamedTuple):
    """A function or class by name."""

    module: str
    name: str


class Call(NamedTuple):
    function: Name
    args: tuple


class Module(NamedTuple):
    """An instance of a TorchScript class, and its attributes."""

    kind: Name
    attributes: dict


class Stored(NamedTuple):
    """A storage: what torch hands to `persistent_id`."""

    pid: tuple


def ops(value: Any) -> bytes:
    match value:
        case None:
            return b"N"
        case bool():
            return b"\x88" if value else b"\x89"
        case int() if value >= 2**31:
            return b"\x8a\x0a" + value.to_bytes(10, "little")
        case int():
            return b"J" + struct.pack("<i", value)
        case str():
            return b"X" + struct.pack("<I", len(value)) + value.encode()
        case Name():
            return f"c{value.module}\n{value.name}\n".encode()
        case Call():
            return ops(value.function) + ops(tuple(value.args)) + b"R"
        case Module():
            return ops(value.kind) + b")\x81" + ops(value.attributes) + b"b"
        case Stored():
            return ops(value.pid) + b"Q"
        case tuple():
            return b"(" + b"".join(map(ops, value)) + b"t"
        case list():
            return b"](" + b"".join(map(ops, value)) + b"e"
        case dict():
            return b"}(" + b"".join(ops(k) + ops(v) for k, v in value.items()) + b"u"
    raise TypeError(value)


def pickled(value: Any) -> bytes:
    return b"\x80\x02" + ops(value) + b"."


def tensor(key, numel, shape, strides, offset=0, kind="FloatStorage", view=()):
    storage = Stored(("storage", Name("torch", kind), key, "cpu", numel, *view))
    return Call(Name("torch._utils", "_rebuild_tensor_v2"), (storage, offset, shape, strides, False, None))


def zipped(value: Any, storages: dict[str, bytes], root="archive", **extra: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(f"{root}/data.pkl", pickled(value))
        for key, raw in storages.items():
            archive.writestr(f"{root}/data/{key}", raw)
        for name, raw in extra.items():
            archive.writestr(f"{root}/{name}", raw)
    return file.getvalue()


def legacy(value: Any, storages: dict[str, bytes], item=4) -> bytes:
    head = [torch_file.MAGIC, 1001, {"protocol_version": 1001, "little_endian": True}, value, list(storages)]
    raw = [struct.pack("<q", len(bytes_) // item) + bytes_ for bytes_ in storages.values()]
    return b"".join(map(pickled, head)) + b"".join(raw)


def saved(tmp_path, content: bytes, name="weights.pth"):
    path = tmp_path / name
    path.write_bytes(content)
    return path


X = RNG.normal(size=(3, 4)).astype(np.float32)
Y = RNG.normal(size=5).astype(np.float32)
BYTES = {"0": X.tobytes(), "1": Y.tobytes()}
STATE = {"a.weight": tensor("0", 12, (3, 4), (4, 1)), "a.bias": tensor("1", 5, (5,), (1,))}


@pytest.mark.parametrize("write", [zipped, legacy])
def test_a_state_dict_of_either_form(tmp_path, write):
    got = torch_file.read(saved(tmp_path, write(STATE, BYTES)))
    assert list(got) == ["a.weight", "a.bias"]
    np.testing.assert_array_equal(got["a.weight"], X)
    np.testing.assert_array_equal(got["a.bias"], Y)
    with pytest.raises(ValueError, match="read-only"):
        got["a.bias"][0] = 1.0


def test_a_torchscript_network_has_dotted_names(tmp_path):
    inner = Module(
        Name("__torch__.net.___torch_mangle_1", "Conv"), {"weight": STATE["a.weight"], "training": False, "stride": 2}
    )
    pads = Call(Name("torch.jit._pickle", "build_intlist"), ([0, 3],))
    net = Module(Name("__torch__.net", "Net"), {"conv": inner, "padding": pads, "beta": STATE["a.bias"]})
    got = torch_file.read(saved(tmp_path, zipped(net, BYTES, root="net", version=b"3\n"), "net.pt"))
    assert set(got) == {"conv.weight", "beta"}
    np.testing.assert_array_equal(got["conv.weight"], X)


def test_nested_containers_and_parameters_and_what_is_no_tensor(tmp_path):
    ordered = Call(Name("collections", "OrderedDict"), ([("w", STATE["a.weight"])],))
    parameter = Call(Name("torch._utils", "_rebuild_parameter"), (STATE["a.bias"], True, None))
    got = torch_file.read(saved(tmp_path, zipped({"state": ordered, "more": [7, parameter], "epoch": 3}, BYTES)))
    assert list(got) == ["state.w", "more.1"]


@pytest.mark.parametrize("write", [zipped, legacy])
def test_views_share_a_storage(tmp_path, write):
    views = {
        "transposed": tensor("0", 12, (4, 3), (1, 4)),
        "column": tensor("0", 12, (3,), (4,), 2),
        "expanded": tensor("0", 12, (5, 2), (0, 1), 10),
        "scalar": tensor("0", 12, (), (), 11),
        "empty": tensor("0", 12, (0, 3), (3, 1)),
    }
    got = torch_file.read(saved(tmp_path, write(views, {"0": X.tobytes()})))
    np.testing.assert_array_equal(got["transposed"], X.T)
    np.testing.assert_array_equal(got["column"], X[:, 2])
    np.testing.assert_array_equal(got["expanded"], np.tile(X[2, 2:], (5, 1)))
    assert got["scalar"] == X[2, 3] and got["scalar"].shape == () and got["empty"].shape == (0, 3)


def test_a_legacy_storage_that_is_part_of_another(tmp_path):
    part = tensor("0", 12, (4,), (1,), 0, view=(("0part", 4, 4),))
    got = torch_file.read(
        saved(tmp_path, legacy({"row": part, "all": tensor("0", 12, (12,), (1,))}, {"0": X.tobytes()}))
    )
    np.testing.assert_array_equal(got["row"], X[1])


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [("HalfStorage", "f2"), ("DoubleStorage", "f8"), ("BFloat16Storage", jnp.bfloat16), ("LongStorage", "i8"),
     ("IntStorage", "i4"), ("ShortStorage", "i2"), ("CharStorage", "i1"), ("ByteStorage", "u1"), ("BoolStorage", "?")],
)  # fmt: skip
def test_every_type_of_number(tmp_path, kind, dtype):
    x = np.asarray([0, 1, 2.5, -3]).astype(dtype)
    value = {"x": tensor("0", 4, (4,), (1,), kind=kind)}
    for content in (zipped(value, {"0": x.tobytes()}), legacy(value, {"0": x.tobytes()}, x.itemsize)):
        got = torch_file.read(saved(tmp_path, content))["x"]
        assert got.dtype == x.dtype and np.array_equal(got, x)


def test_inside_an_archive(tmp_path):
    path = tmp_path / "package.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("package/one.pth", legacy(STATE, BYTES))
        archive.writestr("package/code.py", "raise SystemExit")
    np.testing.assert_array_equal(torch_file.read(path)["a.weight"], X)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("package/two.pt", zipped(STATE, BYTES))
    with pytest.raises(InputError, match=r"it has package/one\.pth, package/two\.pt"):
        torch_file.read(path)
    assert set(torch_file.read(path, member="package/two.pt")) == set(STATE)
    with pytest.raises(InputError, match=r"one torch file package/three\.pt"):
        torch_file.read(path, member="package/three.pt")


# What must not pass


@pytest.mark.parametrize("write", [zipped, legacy])
@pytest.mark.parametrize(
    "name",
    [Name("os", "system"), Name("posix", "system"), Name("builtins", "eval"), Name("torch", "load"),
     Name("torch._utils", "_rebuild_xla_tensor"), Name("jaxgen.data.torch_file", "os.system")],
)  # fmt: skip
def test_a_pickle_that_would_run_something_is_refused_and_does_not(tmp_path, monkeypatch, write, name):
    ran = tmp_path / "ran"
    monkeypatch.setattr(os, "system", lambda command: ran.touch())
    evil = {**STATE, "x": Call(name, (f"touch {ran}",))}
    with pytest.raises(InputError, match=f"asks for {name.module}.{name.name}") as refused:
        torch_file.read(saved(tmp_path, write(evil, BYTES)))
    assert "\n" not in str(refused.value) and not ran.exists()


def test_nothing_that_a_pickle_sets_outlives_its_reading(tmp_path):
    """A pickle may hand attributes to what it names; the next file is read as before."""
    rebuild = Name("torch._utils", "_rebuild_tensor_v2")
    altered = b"\x80\x02" + ops(rebuild) + ops((None, {"__defaults__": (1, 2, 3), "__code__": None})) + b"b."
    module = b"\x80\x02" + ops(Name("__torch__", "M")) + ops((None, {"__setstate__": rebuild})) + b"b."
    for pickle_ in (altered, module):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("a/data.pkl", pickle_)
        with pytest.raises(InputError):
            torch_file.read(saved(tmp_path, file.getvalue()))
    net = Module(Name("__torch__", "M"), STATE)
    np.testing.assert_array_equal(torch_file.read(saved(tmp_path, zipped(net, BYTES)))["a.weight"], X)


def test_lists_that_hold_one_another_come_to_an_end(tmp_path):
    itself = b"\x80\x02]q\x00(h\x00h\x00e."
    laughs = b"\x80\x02]q\x00" + b"".join(b"](h%ch%ceq%c" % (i, i, i + 1) for i in range(40)) + b"."
    for described in (itself, laughs):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("a/data.pkl", described)
        with pytest.raises(InputError, match="without end"):
            torch_file.read(saved(tmp_path, file.getvalue()))


@pytest.mark.parametrize("write", [zipped, legacy])
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (tensor("0", 12, (4, 4), (4, 1)), "leaves its storage"),
        (tensor("0", 12, (3, 4), (4, 1), 1), "leaves its storage"),
        (tensor("0", 12, (3, 4), (4, -1)), "leaves its storage"),
        (tensor("0", 12, (1,), (1,), -1), "leaves its storage"),
        (tensor("0", 12, (2**40,), (1,)), "leaves its storage"),
        (tensor("0", 12, (3, 4), (4,)), "cannot be"),
        (tensor("0", 12, (-3, 4), (4, 1)), "cannot be"),
        (tensor("0", 13, (3, 4), (4, 1)), "should hold 13 numbers"),
        (tensor("0", 12, (3, 4), (4, 1), kind="ComplexFloatStorage"), "asks for torch.ComplexFloatStorage"),
    ],
)
def test_a_tensor_stays_within_its_storage(tmp_path, write, wrong, message):
    with pytest.raises(InputError, match=message):
        torch_file.read(saved(tmp_path, write({"x": wrong}, {"0": X.tobytes()})))


@pytest.mark.parametrize("write", [zipped, legacy])
def test_a_file_cut_anywhere_is_refused(tmp_path, write):
    complete = write(STATE, BYTES)
    for end in range(0, len(complete), max(1, len(complete) // 60)):
        with pytest.raises(InputError, match=r"weights\.pth"):
            torch_file.read(saved(tmp_path, complete[:end]))


def test_a_flipped_bit_in_a_zip_is_noticed(tmp_path):
    content = bytearray(zipped(STATE, BYTES))
    at = content.find(X.tobytes())
    content[at + 5] ^= 1
    with pytest.raises(InputError, match="damaged"):
        torch_file.read(saved(tmp_path, bytes(content)))


def test_other_files_are_none_of_torch(tmp_path):
    other = tmp_path / "other.zip"
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("readme.txt", "hello")
    for content, message in [
        (b"\x89PNG....", "torch did not write it"),
        (pickled({"a": 1}), "torch did not write it"),
        (zipped({"epoch": 1}, {}), "holds no tensors"),
        (zipped(STATE, BYTES, byteorder=b"big"), "little-endian"),
    ]:
        with pytest.raises(InputError, match=message):
            torch_file.read(saved(tmp_path, content))
    with pytest.raises(InputError, match="expected one torch file in it; it has none"):
        torch_file.read(other)
    with pytest.raises(InputError, match="is no file"):
        torch_file.read(tmp_path / "nothing.pth")


@pytest.mark.parity
@pytest.mark.parametrize("new", [True, False])
def test_files_that_torch_wrote(tmp_path, new):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    base = torch.randn(6, 5)
    tensors = {
        "w": base,
        "t": base.T,
        "row": base[2],
        "parameter": torch.nn.Parameter(torch.randn(3)),
        "half": torch.randn(4).half(),
        "brain": torch.randn(4).bfloat16(),
        "count": torch.tensor(7),
        "bool": torch.tensor([True, False]),
    }
    torch.save(tensors, tmp_path / "x.pth", _use_new_zipfile_serialization=new)
    got = torch_file.read(tmp_path / "x.pth")
    assert set(got) == set(tensors)
    for name, expected in tensors.items():
        np.testing.assert_array_equal(got[name].astype(np.float32), expected.detach().float().numpy())
    torch.save(torch.nn.Linear(3, 2), tmp_path / "module.pth", _use_new_zipfile_serialization=new)
    with pytest.raises(InputError, match=r"torch\.nn\.modules\.linear\.Linear"):
        torch_file.read(tmp_path / "module.pth")
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    torch.jit.script(net).save(str(tmp_path / "net.pt"))
    state, got = net.state_dict(), torch_file.read(tmp_path / "net.pt")
    assert set(state) <= set(got)
    for name in state:
        np.testing.assert_array_equal(got[name], state[name].numpy())
