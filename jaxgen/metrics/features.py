"""Feature extractors: the vectors and class probabilities on which two sets of images are compared."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from tqdm import tqdm

from jaxgen.data import Dataset, normalize, to_uint8
from jaxgen.data.cache import cached
from jaxgen.inputs import check_memory
from jaxgen.types import Array, Batch, check


class Features(NamedTuple):
    """vectors: float32 [N, D]; log_probs: float32 [N, K], log p(y | x) of the extractor's own classes, or None."""

    vectors: np.ndarray
    log_probs: np.ndarray | None = None

    def rows(self, index: Any) -> Features:
        """The features of some of the images."""
        return Features(self.vectors[index], None if self.log_probs is None else self.log_probs[index])


class Extractor(NamedTuple):
    """A network that computes features, with everything that its numbers depend on.

    name      stands beside every number: scores of two extractors cannot be compared
    digest    of its weights and of its preprocessing; the key of cached features
    apply     uint8 [B, H, W, 1 or 3] -> (vectors [B, D], log_probs [B, K] or None), a `jax.tree_util.Partial` of a
              module-level function and the weights
    protocol  written beside the numbers
    classes   names of the classes of log_probs, () where it has none
    shape     [H, W, C] of the images that it takes; None: any
    """

    name: str
    digest: str
    apply: Callable[[Array], tuple[Array, Array | None]]
    protocol: Mapping[str, Any] = {}
    classes: tuple[str, ...] = ()
    shape: tuple[int, ...] | None = None


def extract(
    extractor: Extractor,
    images: Dataset,
    index: np.ndarray | None = None,
    *,
    batch: int = 64,
    sharding: Any = None,
    keep: bool = False,
) -> Features:
    """The features of `images` at index [N], by default of all of them in order. `batch` images at a time are read, so
    that memory holds N features but never N images; products are computed at full precision on every device.

    Images in [-1, 1] are rounded to uint8 first, as they would be in a file. sharding: of the batch axis, over devices.
    keep: in the cache, under the extractor's digest and a digest of the images themselves, which are therefore read
    once more. InputError for examples that are no images.
    """
    shape = check_size(extractor, images, images.size if index is None else len(index))
    index = np.arange(images.size) if index is None else np.asarray(index)
    check(index.size >= 1, f"{images.name}: no images to take features of: give at least one")
    if not keep:
        return _extracted(extractor, images, index, batch, sharding)

    def build() -> tuple[np.ndarray, np.ndarray | None]:
        return tuple(_extracted(extractor, images, index, batch, sharding))  # type: ignore[return-value]

    name = f"features-{extractor.name}-{images.name}-{images.split}-{'x'.join(map(str, images.shape))}"
    stamp = f"{extractor.digest} {digest_of(images, index)}"
    return Features(*cached(name, stamp, (index.size, *shape), build, np.float32))


def pixels() -> Extractor:
    """The pixels themselves, from -1 to 1, as features: the baseline of every extractor."""
    return Extractor("pixels", "1", Partial(_pixels), {"features": "the pixels, from -1 to 1"})


def _pixels(x: Array) -> tuple[Array, None]:
    return normalize(Batch(x)).x.reshape(x.shape[0], -1), None


def feature_shapes(extractor: Extractor, images: Dataset) -> tuple[Any, Any]:
    """Shapes of the (vectors, log_probs or None) of one image, without reading it. InputError for examples that are no
    images, or of another shape than the extractor takes."""
    check_images(images)
    check(
        extractor.shape in (None, images.shape),
        f"{extractor.name} takes images of shape {extractor.shape}, those of {images.name} are {images.shape}: "
        "bring them to one size, or choose another extractor",
    )
    return jax.eval_shape(extractor.apply, jax.ShapeDtypeStruct((1, *images.shape), jnp.uint8))


def check_size(extractor: Extractor, images: Dataset, n: int) -> tuple[int, ...]:
    """The shape of the features of one image. InputError where memory cannot hold those of n images, and as for
    `feature_shapes`."""
    shape = feature_shapes(extractor, images)[0].shape[1:]
    check_memory(4 * n * math.prod(shape), f"{extractor.name}'s features of {n:,} images", "give fewer images")
    return shape


def check_images(images: Dataset) -> None:
    """InputError for examples that are no images."""
    good = len(images.shape) == 3 and images.shape[2] in (1, 3)
    check(good, f"{images.name} has examples of shape {images.shape}: extractors take images [H, W, 1 or 3]")


def pieces(images: Dataset, index: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """uint8 [size, H, W, C] of index, the last image repeated in the last piece: one shape for every call."""
    for start in range(0, index.size, size):
        x = images.take(index[np.minimum(np.arange(start, start + size), index.size - 1)]).x
        yield np.asarray(x if x.dtype == np.uint8 else to_uint8(jnp.asarray(x)))


def _extracted(extractor: Extractor, images: Dataset, index: np.ndarray, batch: int, sharding: Any) -> Features:
    check(batch >= 1, f"the batch must be at least 1, it is {batch}")
    devices = 1 if sharding is None else sharding.num_devices
    size = -(-min(batch, index.size) // devices) * devices
    parts = []
    with tqdm(total=index.size, desc=f"features of {images.name}", delay=5, disable=None, leave=False) as bar:
        for x in pieces(images, index, size):
            given = x if sharding is None else jax.device_put(x, sharding)
            # An accelerator's default, TF32 or bfloat16, moves features by 1e-3 and more, and with them every score
            # that is compared with a published one.
            with jax.default_matmul_precision("highest"):
                parts.append(jax.device_get(_apply(extractor.apply, given)))
            bar.update(size)
    vectors, log_probs = (
        None if each[0] is None else np.concatenate(each)[: index.size].astype(np.float32)
        for each in zip(*parts, strict=True)
    )
    return Features(vectors, log_probs)  # type: ignore[arg-type]


_apply = jax.jit(lambda apply, x: apply(x))  # the weights are arguments: other weights recompile nothing


def digest_of(images: Dataset, index: np.ndarray | None = None, size: int = 1024) -> str:
    """Of the pixels themselves: a data set that changed under its name has another digest."""
    index = np.arange(images.size) if index is None else index
    digest = hashlib.blake2b(repr((index.size, images.shape)).encode(), digest_size=16)
    for start, x in zip(range(0, index.size, size), pieces(images, index, size), strict=True):
        digest.update(np.ascontiguousarray(x[: index.size - start]).data)
    return digest.hexdigest()
