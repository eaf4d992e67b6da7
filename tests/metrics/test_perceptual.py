"""LPIPS, SSIM and the path length: closed forms, invariances, and the reference implementations where installed."""

import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from scipy.special import gammaln

from jaxgen.conditions import labels
from jaxgen.families.autoencoder import autoencoder
from jaxgen.losses.perceptual import perceptual
from jaxgen.metrics.features import Extractor, pixels
from jaxgen.metrics.lpips import lpips
from jaxgen.metrics.paths import feature_distance, path_lengths, perceptual_path_length, squared_distance
from jaxgen.metrics.quality import distances, psnr, reconstruction_error, ssim
from jaxgen.nets import Network
from jaxgen.nets.lpips import TRUNKS, least_size
from jaxgen.sampling import lerp
from jaxgen.types import Batch, Game, InputError, Model, Prediction, TrainState, normal, one_shot, turn

RNG = np.random.default_rng(0)


def convolutions(net):
    return [conv for stage in TRUNKS[net] for conv in stage.convolutions]


def trunk_of(net, kernel):
    """A trunk's tensors as torchvision names them: kernel(convolution, inputs) -> [O, I, K, K], no biases."""
    tensors, inputs = {}, 3
    for conv in convolutions(net):
        tensors[f"features.{conv.place}.weight"] = np.asarray(kernel(conv, inputs), np.float32)
        tensors[f"features.{conv.place}.bias"] = np.zeros(conv.outputs, np.float32)
        inputs = conv.outputs
    return tensors


def he(conv, inputs):
    shape = conv.outputs, inputs, conv.size, conv.size
    return RNG.normal(size=shape) * math.sqrt(2 / (inputs * conv.size**2))


def signs(conv, inputs):
    """The first channel is how far red is above its shift, the second how far below, at every layer."""
    kernel = np.zeros((conv.outputs, inputs, conv.size, conv.size))
    middle = conv.size // 2
    kernel[0, 0, middle, middle] = 1.0
    kernel[1, 0 if inputs == 3 else 1, middle, middle] = -1.0 if inputs == 3 else 1.0
    return kernel


def linear_of(net):
    sizes = [stage.convolutions[-1].outputs for stage in TRUNKS[net]]
    return {f"lin{i}.model.1.weight": RNG.uniform(size=(1, c, 1, 1)).astype(np.float32) for i, c in enumerate(sizes)}


TRUNK, LINEAR = trunk_of("alex", he), linear_of("alex")
SIGNS = trunk_of("alex", signs)
ALEX = lpips(TRUNK, LINEAR)
DISTANCE = jax.jit(lambda d, x, y: d(x, y))
GRADIENT = jax.jit(jax.grad(lambda d, x, y: d(x, y).sum(), argnums=2))


def images(n, height=32, width=32, channels=3):
    return jnp.asarray(RNG.uniform(-1, 1, (n, height, width, channels)), jnp.float32)


# LPIPS


@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_between_opposite_features_the_weights_are_counted_and_contrast_is_not(net):
    """Red above and below its shift are orthogonal unit vectors: |a - b|^2 = 2, one weight each, at every layer."""
    linear = linear_of(net)
    d = lpips(SIGNS if net == "alex" else trunk_of(net, signs), linear, net)
    white, black, grey = (jnp.full((1, 32, 40, 1), v) for v in (1.0, -1.0, 0.5))
    expected = sum(w[0, :2, 0, 0].sum() for w in linear.values())
    np.testing.assert_allclose(d(white, black), [expected], rtol=1e-5)
    np.testing.assert_allclose(d(white, grey), [0.0], atol=1e-6)  # lengths are no difference, directions are


def test_it_is_a_symmetric_distance_linear_in_its_weights_and_blind_to_the_scale_of_features():
    x, y = images(3), images(3)
    both = ALEX(x, y)
    assert both.shape == (3,) and np.all(both > 0.01)
    np.testing.assert_array_equal(ALEX(x, x), np.zeros(3))
    np.testing.assert_allclose(ALEX(y, x), both, rtol=1e-5)
    np.testing.assert_allclose(lpips(TRUNK, {k: 3 * w for k, w in LINEAR.items()})(x, y), 3 * both, rtol=1e-4)
    louder = {**TRUNK, "features.10.weight": 7 * TRUNK["features.10.weight"]}
    np.testing.assert_allclose(lpips(louder, LINEAR)(x, y), both, rtol=1e-4)
    np.testing.assert_allclose(ALEX(x[..., :1], y[..., :1]), ALEX(*(a[..., [0, 0, 0]] for a in (x, y))), rtol=1e-5)


def test_the_least_size_is_the_least_that_leaves_something_of_every_layer():
    assert {net: least_size(net) for net in TRUNKS} == {"alex": 31, "vgg": 16}
    ALEX(images(1, 31, 31), images(1, 31, 31))
    with pytest.raises(InputError, match="31 x 31 pixels or more, these have 32 x 30: enlarge them, with size=64"):
        ALEX(images(1, 32, 30), images(1, 32, 30))
    x, y = images(2, 28, 28, 1), images(2, 28, 28, 1)
    larger = [jax.image.resize(a, (2, 40, 40, 1), "bilinear") for a in (x, y)]
    np.testing.assert_allclose(lpips(TRUNK, LINEAR, size=40)(x, y), ALEX(*larger), rtol=1e-5)
    with pytest.raises(InputError, match="31 pixels"):
        lpips(TRUNK, LINEAR, size=28)


@pytest.mark.parametrize(
    "trunk, linear, net, message",
    [
        (TRUNK, LINEAR, "squeeze", "alex and vgg, not 'squeeze'"),
        (LINEAR, TRUNK, "alex", "alex trunk has no features.0.weight, it has lin0"),
        (TRUNK, LINEAR, "vgg", r"features.0.weight of the vgg trunk must have the shape \(64, 3, 3, 3\)"),
        (TRUNK, {**LINEAR, "lin1.model.1.weight": -LINEAR["lin1.model.1.weight"]}, "alex", "lin1 has a negative"),
        ({**TRUNK, "features.3.bias": np.full(192, np.nan)}, LINEAR, "alex", "features.3.bias .* not finite"),
    ],
)
def test_a_file_that_holds_other_weights_is_refused_in_one_line(trunk, linear, net, message):
    with pytest.raises(InputError, match=message) as caught:
        lpips(trunk, linear, net)
    assert "\n" not in str(caught.value)


def test_compiled_code_takes_the_weights_as_arguments():
    traced = []

    @jax.jit
    def measure(d, x, y):
        traced.append(None)
        return d(x, y)

    x, y = images(1), images(1)
    assert abs(measure(ALEX, x, y) - measure(lpips(SIGNS, LINEAR), x, y))[0] > 1e-3
    assert len(traced) == 1
    text = measure.lower(ALEX, x, y).as_text()
    assert len(text) < 200_000  # two and a half million constants would be there in full


@pytest.mark.parametrize("trunk", [TRUNK, trunk_of("alex", lambda conv, inputs: 0 * he(conv, inputs))])
def test_gradients_are_finite_where_images_agree_and_where_nothing_is_active(trunk):
    d, x = lpips(trunk, LINEAR), images(2)
    for y in (x, x.at[0].set(0.0)):
        assert np.all(np.isfinite(GRADIENT(d, x, y)))


def test_its_gradient_is_the_slope_of_the_distance():
    x, y, along = images(1), images(1), images(1)
    slope, h = jnp.sum(GRADIENT(ALEX, x, y) * along), 1e-3
    ahead, behind = (DISTANCE(ALEX, x, y + s * along)[0] for s in (h, -h))
    np.testing.assert_allclose(slope, (ahead - behind) / (2 * h), rtol=1e-2)


def linear_pair(side, latent):
    """An encoder that identifies each image and a decoder that has learnt nothing, linear and tiny."""
    encoder = Network(lambda key, x: ({}, {}), lambda p, s, x, train=False: (x[:, 0, :latent, 0], s))
    shape = latent, side * side
    decoder = Network(
        lambda key, z: ({"w": 0.1 * jax.random.normal(key, shape)}, {}),
        lambda p, s, z, train=False: ((z @ p["w"]).reshape(-1, side, side, 1), s),
    )
    return encoder, decoder


def test_an_autoencoder_learns_with_it():
    x = images(4, channels=1).at[:, 0, :4, 0].set(jnp.eye(4))
    model = autoencoder(*linear_pair(32, 4), 4, likelihood=perceptual(ALEX, weight=1.0))
    batch, keys = Batch(x), jax.random.split(jax.random.key(0), 4)
    params, extra = model.game.init(jax.random.key(1), batch)

    @jax.jit
    def step(params):
        def loss(p):
            return jnp.mean(model.game.losses["autoencoder"](p, extra, turn(keys), batch)[0])

        value, gradient = jax.value_and_grad(loss)(params)
        return value, jax.tree.map(lambda p, g: p - 0.3 * g, params, gradient)

    values = []
    for _ in range(15):
        value, params = step(params)
        values.append(float(value))
    assert np.all(np.isfinite(values)) and values[-1] < 0.5 * values[0] and model.density is None


def test_a_perceptual_likelihood_is_the_squared_error_and_so_many_pixels_times_the_distance():
    x, y = images(2), images(2)
    squares = jnp.sum(jnp.square(x - y), axis=(1, 2, 3))
    got = perceptual(ALEX, weight=0.5)
    np.testing.assert_allclose(got.log_prob(x, y), -squares - 0.5 * 32 * 32 * 3 * ALEX(x, y), rtol=1e-5)
    assert got.measure == "" and got.mean(y) is y
    with pytest.raises(InputError, match="negative"):
        perceptual(ALEX, weight=-1.0)


@pytest.mark.parity
@pytest.mark.parametrize("net", ["alex", "vgg"])
@pytest.mark.parametrize("shape", [(33, 33), (64, 48)])
def test_it_is_that_of_the_reference_implementation(net, shape, tmp_path):
    torch, reference = pytest.importorskip("torch"), pytest.importorskip("lpips")
    torch.manual_seed(0)
    theirs = reference.LPIPS(net=net, pnet_rand=True, verbose=False)
    with torch.no_grad():
        for name, p in theirs.net.named_parameters():
            if name.endswith("bias"):
                p.normal_(0.0, 0.1)
    names = {name: "features." + ".".join(name.split(".")[-2:]) for name in theirs.net.state_dict()}
    torch.save({names[name]: p for name, p in theirs.net.state_dict().items()}, tmp_path / "trunk.pth")
    ours = lpips(tmp_path / "trunk.pth", Path(reference.__file__).parent / f"weights/v0.1/{net}.pth", net)
    x = images(3, *shape)
    y = jnp.clip(x + jnp.asarray([0.05, 0.3, 1.0])[:, None, None, None] * images(3, *shape), -1, 1)
    a, b = (torch.tensor(np.array(v)).permute(0, 3, 1, 2) for v in (x, y))
    b.requires_grad_()
    d = theirs(a, b)
    d.sum().backward()
    np.testing.assert_allclose(ours(x, y), d.detach().numpy().ravel(), rtol=1e-4)
    gradient = np.asarray(GRADIENT(ours, x, y))
    wanted = b.grad.permute(0, 2, 3, 1).numpy()
    assert np.abs(gradient - wanted).max() < 1e-3 * np.abs(wanted).max()


# SSIM

C1, C2 = 0.02**2, 0.06**2


def test_ssim_of_equal_images_is_one_and_of_any_two_symmetric_and_below():
    x, y = images(4), images(4)
    np.testing.assert_allclose(ssim(x, x), np.ones(4), atol=1e-6)
    np.testing.assert_allclose(ssim(x, y), ssim(y, x), atol=1e-6)
    assert np.all(ssim(x, y) < 1)


def test_of_constant_images_only_the_means_are_compared():
    a, b = jnp.asarray([1.0, 0.5, 0.0]), jnp.asarray([-1.0, 0.6, 0.01])
    x, y = (jnp.broadcast_to(v[:, None, None, None], (3, 20, 15, 2)) for v in (a, b))
    np.testing.assert_allclose(ssim(x, y), (2 * a * b + C1) / (a**2 + b**2 + C1), atol=1e-5)


@pytest.mark.parametrize("contrast", [0.5, -1.0, 2.0])
def test_of_a_pattern_without_mean_only_the_contrast_is_compared(contrast):
    board = 0.3 * (-1.0) ** np.add.outer(np.arange(24), np.arange(20))[None, :, :, None]
    variance = 0.3**2
    expected = (2 * contrast * variance + C2) / ((1 + contrast**2) * variance + C2)
    np.testing.assert_allclose(ssim(board, contrast * board), [expected], rtol=2e-3)


def test_bright_images_lose_no_digits():
    """(a, b) and (-a, -b) have one and the same SSIM; the mean's square would drown the variance of a faint pattern."""
    x = 0.98 + 0.002 * images(2)
    y = x + 0.002 * images(2)
    wide = [np.asarray(v, np.float64) for v in (x, y)]
    at = np.exp(-(np.arange(-5.0, 6.0) ** 2) / 4.5)
    w = np.outer(at, at)[None, :, :, None] / at.sum() ** 2
    corner = [v[:, :11, :11] for v in wide]
    m = [np.sum(w * v, axis=(1, 2)) for v in corner]
    s = [
        np.sum(w * (a - p[:, None, None]) * (b - q[:, None, None]), axis=(1, 2))
        for a, p, b, q in ((corner[i], m[i], corner[j], m[j]) for i, j in ((0, 0), (1, 1), (0, 1)))
    ]
    exact = (2 * m[0] * m[1] + C1) * (2 * s[2] + C2) / ((m[0] ** 2 + m[1] ** 2 + C1) * (s[0] + s[1] + C2))
    np.testing.assert_allclose(ssim(x[:, :11, :11], y[:, :11, :11]), exact.mean(-1), atol=1e-6)


def test_images_smaller_than_the_window_are_refused_and_another_window_is_for_the_user_to_choose():
    x = images(1, 8, 12)
    with pytest.raises(InputError, match="8 x 12 are smaller: enlarge them, or give window=7"):
        ssim(x, x)
    np.testing.assert_allclose(ssim(x, x, window=7), [1.0], atol=1e-6)
    with pytest.raises(InputError, match="odd"):
        ssim(x, x, window=4)


@pytest.mark.parity
def test_it_is_that_of_scikit_image():
    metrics = pytest.importorskip("skimage.metrics")
    x = images(2, 40, 33)
    y = jnp.clip(x + 0.4 * images(2, 40, 33), -1, 1)
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 2.0}
    wide = [np.asarray(v, np.float64) for v in (x, y)]
    wanted = [metrics.structural_similarity(a, b, channel_axis=-1, **settings) for a, b in zip(*wide, strict=True)]
    np.testing.assert_allclose(ssim(x, y), wanted, atol=1e-6)


def test_distances_of_a_data_set_s_images_are_those_of_the_images():
    x, y = RNG.integers(0, 256, (2, 7, 32, 32, 3), dtype=np.uint8)
    a, b = (jnp.asarray(2.0 * v / 255.0 - 1.0, jnp.float32) for v in (x, y))
    for distance in (psnr, ssim, ALEX):
        np.testing.assert_allclose(distances(distance, x, b, batch=3), distance(a, b), rtol=1e-4, atol=1e-6)


def test_reconstructions_are_measured_with_any_distance():
    encode = lambda params, extra, x, condition: x  # noqa: E731
    model = MODEL._replace(encode=encode, predict=lambda params, extra, condition: lambda z, t: Prediction(0.5 * z))
    model = model._replace(prior=lambda params, extra, keys, condition: normal(keys, (32, 32, 3)))
    x = images(3)
    for distance in (psnr, ssim):
        np.testing.assert_allclose(reconstruction_error(model, STATE, x, distance=distance), distance(x, x / 2), 1e-4)


# The path length

LATENT, SIDE = 16, 4
A = (RNG.normal(size=(LATENT, SIDE * SIDE)) / 8).astype(np.float32)
TRACE = float(np.sum(A.astype(np.float64) ** 2))


def predict(params, extra, condition):
    factor = 1.0 if condition is None else (1.0 + condition)[:, None, None, None]
    return lambda z, t: Prediction(factor * (z @ params["a"]).reshape(-1, SIDE, SIDE, 1))


GAME = Game(lambda key, batch: ({}, {}), {})


def model_of(latent):
    return Model(GAME, lambda p, e, keys, c: normal(keys, (latent,)), predict, one_shot)


MODEL = model_of(LATENT)
STATE = TrainState(jnp.zeros((), jnp.int32), jax.random.key(0), {"a": jnp.asarray(A)}, {}, {}, None)


def length(**options):
    options = {"n": 2000, "batch": 500, "trim": 0.0, **options}
    return perceptual_path_length(MODEL, STATE, squared_distance, **options)


def near(found, expected):
    assert 0 < found.error < 0.1 * expected and abs(found.value - expected) < 4.5 * found.error


@pytest.mark.parametrize("ends", ["full", "end"])
def test_along_straight_paths_a_linear_generator_has_twice_its_squared_norm(ends):
    """G = A z: |A (z2 - z1)|^2 has the mean 2 tr(A^T A), wherever on the path."""
    near(length(path=lerp, ends=ends), 2 * TRACE)


def speed(latent, t):
    """E|dz/dt|^2 / D on arcs between Gaussian draws. With w the angle, dz/dt = w / sin w (cos(t w) z2 - cos((1 - t) w)
    z1), E|z|^2 = D, E|z1||z2| = 2 (G((D + 1) / 2) / G(D / 2))^2, and w has the density sin^(D - 2) w."""
    w = np.linspace(0, np.pi, 4001)[1:-1, None]
    product = 2 * np.exp(2 * (gammaln((latent + 1) / 2) - gammaln(latent / 2)))
    near_z1, near_z2 = np.cos((1 - t) * w), np.cos(t * w)
    squared = latent * (near_z1**2 + near_z2**2) - 2 * product * near_z1 * near_z2 * np.cos(w)
    density = np.sin(w) ** (latent - 2)
    return float(np.mean(density * (w / np.sin(w)) ** 2 * squared) / np.mean(density) / latent)


@pytest.mark.parametrize("ends, t", [("full", (np.arange(200)[None] + 0.5) / 200), ("end", np.zeros((1, 1)))])
def test_along_arcs_it_is_the_mean_squared_speed_of_the_arc(ends, t):
    """An isotropic direction meets tr(A^T A) / D; of many dimensions all angles are right: (pi / 2)^2 tr(A^T A)."""
    near(length(ends=ends), speed(LATENT, t) * TRACE)
    assert speed(20_000, t) == pytest.approx((np.pi / 2) ** 2, rel=1e-3) and speed(LATENT, t) > 1.02 * (np.pi / 2) ** 2


def cut(a):
    """Ten bits after the leading one, as TF32 keeps them."""
    bits = jax.lax.bitcast_convert_type(a, jnp.uint32)
    return jax.lax.bitcast_convert_type((bits + 0x1000) & jnp.uint32(0xFFFFE000), jnp.float32)


def half(a):
    return a.astype(jnp.bfloat16)


def rounded(kind):
    def predict(params, extra, condition):
        return lambda z, t: Prediction((kind(z) @ kind(params["a"])).astype(jnp.float32).reshape(-1, SIDE, SIDE, 1))

    return MODEL._replace(predict=predict)


@pytest.mark.parametrize(
    "kind, epsilon, least, most",
    [
        (jnp.asarray, 1e-4, 0, 1e-3),
        (jnp.asarray, 1e-6, 1e-2, 0.1),
        (cut, 1e-2, 0, 0.02),
        (cut, 1e-4, 1.0, 10.0),
        (half, 0.1, 0, 0.02),
        (half, 1e-4, 10.0, 100.0),
    ],
)
def test_which_step_is_safe_in_which_precision(kind, epsilon, least, most):
    """Along a line the lengths of a linear generator do not depend on the step: what they differ by is rounding."""
    options = {"n": 300, "batch": 300, "path": lerp}
    exact = path_lengths(MODEL, STATE, squared_distance, epsilon=0.1, **options)
    found = path_lengths(rounded(kind), STATE, squared_distance, epsilon=epsilon, **options)
    assert least <= np.sqrt(np.mean((found / exact - 1) ** 2)) < most


def test_a_step_that_rounding_or_jumps_outweigh_is_refused():
    for model, epsilon, fits in [(MODEL, 1e-4, True), (rounded(half), 1e-4, False), (rounded(half), 0.05, True)]:
        if fits:
            how = perceptual_path_length(model, STATE, squared_distance, n=200, epsilon=epsilon).how
            assert float(how.split("median ")[1].split(" ")[0]) == pytest.approx(1.0, abs=0.1)
        else:
            with pytest.raises(InputError, match="give a larger epsilon"):
                perceptual_path_length(model, STATE, squared_distance, n=200, epsilon=epsilon)
    with pytest.raises(InputError, match="diverged"):
        perceptual_path_length(rounded(lambda a: a / 0.0), STATE, squared_distance, n=20)
    stairs = jnp.linspace(0, 1, 256)[:, None]  # the number of jumps on the way grows with its length, not the square
    jumps = MODEL._replace(predict=lambda p, e, c: lambda z, t: Prediction(jnp.round((z @ p["a"])[:, None] + stairs)))
    with pytest.raises(InputError, match=r"is (3\.\d+|4|4\.\d+) times"):
        perceptual_path_length(jumps, STATE, squared_distance, n=200, epsilon=2e-3)


def test_a_path_is_a_matter_of_its_seed_and_number():
    def found(n, **options):
        return path_lengths(MODEL, STATE, squared_distance, n=n, epsilon=0.01, **options)

    full = found(40)
    auto = (jax.sharding.AxisType.Auto,)  # as `parallel.layout` makes them
    mesh = jax.make_mesh((jax.device_count(),), ("d",), axis_types=auto)
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("d"))
    for other in (found(40, batch=7), found(23, batch=64), found(40, sharding=rows)):
        np.testing.assert_allclose(other, full[: len(other)], rtol=1e-3)
    assert np.abs(found(40, seed=1) / full - 1).min() > 1e-3


def test_both_ends_have_the_condition():
    model = MODEL._replace(condition=labels(3))
    plain = path_lengths(MODEL, STATE, squared_distance, n=30, epsilon=0.01)
    label = np.arange(30) % 3
    got = path_lengths(model, STATE, squared_distance, n=30, epsilon=0.01, condition=label, batch=8)
    np.testing.assert_allclose(got, plain * (1 + label) ** 2, rtol=1e-3)
    one = perceptual_path_length(model, STATE, squared_distance, n=30, epsilon=0.01, condition=label, batch=8, trim=0)
    assert one.value == pytest.approx(got.mean())
    with pytest.raises(InputError, match="unconditional"):
        path_lengths(MODEL, STATE, squared_distance, n=4, condition=1)


def test_without_its_ends_the_mean_is_that_of_the_others_and_its_error_that_of_many_repetitions():
    values = path_lengths(MODEL, STATE, squared_distance, n=500, seed=3, batch=500)
    got = perceptual_path_length(MODEL, STATE, squared_distance, n=500, seed=3, batch=500, trim=10.0)
    assert got.value == pytest.approx(np.sort(values)[49:-49].mean(), rel=1e-6) and "10 % of each end" in got.how
    assert got.value < values.mean()  # a long tail to the right
    found = [length(n=100, batch=100, seed=seed, trim=5.0) for seed in range(100)]
    spread = np.std([one.value for one in found], ddof=1)
    assert np.mean([one.error for one in found]) == pytest.approx(spread, rel=0.25)


def test_features_measure_the_unrounded_image():
    w = jnp.asarray(RNG.normal(size=(SIDE * SIDE, 5)), jnp.float32)
    apply = Partial(lambda w, x: (x.reshape(x.shape[0], -1).astype(jnp.float32) @ w, None), w)
    example = RNG.integers(0, 256, (2, SIDE, SIDE, 1), dtype=np.uint8)
    d = feature_distance(Extractor("linear", "0", apply), example)
    small = STATE._replace(params={"a": jnp.asarray(A / 4)})  # inside [-1, 1], beyond which levels are clipped
    found = perceptual_path_length(MODEL, small, d, n=2000, batch=500, trim=0.0, path=lerp)
    near(found, 2 * float(np.sum((127.5 * (A / 4).astype(np.float64) @ np.asarray(w, np.float64)) ** 2)))
    rounding = Partial(lambda x: (jnp.round(x.reshape(x.shape[0], -1).astype(jnp.float32)), None))
    for deaf in (pixels(), Extractor("rounded", "0", rounding)):
        with pytest.raises(InputError, match=f"{deaf.name} takes integer grey levels only"):
            feature_distance(deaf, example)


def test_steps_and_shares_that_mean_nothing_are_refused():
    for options, message in [
        ({"n": 1}, "2 paths"),
        ({"trim": 50.0}, "less than 50"),
        ({"epsilon": 1e-7}, "from 1e-6"),
        ({"ends": "middle"}, "not 'middle'"),
        ({"batch": 0}, "batch"),
    ]:
        with pytest.raises(InputError, match=message):
            length(**options)


def test_images_of_a_code_are_decoded_before_they_are_measured():
    """A model whose sampler gives a code: G = 3 A z, nine times the squared length, and both ends share their noise."""

    def decode(params, extra, keys, x0, condition):
        return 3.0 * x0 + jax.vmap(lambda key: jax.random.normal(key, (SIDE, SIDE, 1)))(keys)

    options = {"n": 30, "epsilon": 0.1, "path": lerp, "batch": 8}
    plain = path_lengths(MODEL, STATE, squared_distance, **options)
    found = path_lengths(MODEL._replace(decode=decode), STATE, squared_distance, **options)
    np.testing.assert_allclose(found, 9 * plain, rtol=1e-3)


def test_a_latent_of_integers_has_no_path():
    grids = MODEL._replace(prior=lambda p, e, keys, c: jnp.zeros((len(keys), LATENT), jnp.int32))
    with pytest.raises(InputError, match="integers"):
        path_lengths(grids, STATE, squared_distance, n=4)


def test_a_distance_of_a_network_is_measured_at_full_precision():
    precisions = []

    def distance(x, y):
        precisions.append(jax.config.jax_default_matmul_precision)
        return jnp.zeros(len(x))

    model = MODEL._replace(encode=lambda params, extra, x, condition: x.reshape(len(x), -1))
    x = np.zeros((2, SIDE, SIDE, 1), np.uint8)
    distances(distance, x, x)
    path_lengths(MODEL, STATE, distance, n=2)
    reconstruction_error(model, STATE, x, distance=distance)
    assert len(precisions) == 3 and set(precisions) == {"highest"}
