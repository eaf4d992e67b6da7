"""Progressive GAN: networks that grow by a scale at a time, the new one faded in.

All stages have the parameters of the largest, of which a stage uses its own: a stage begins with the run of the one
before as it is. The share of the new scale, alpha, is the networks' state "fade", which `families.fading` sets.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax.numpy as jnp

from jaxgen.nets.conv import halvings, width_at
from jaxgen.nets.heads import Heads, judged
from jaxgen.nets.layers import Classes, Condition, Conv, Dense, Dtype, joined
from jaxgen.nets.minibatch import MinibatchStd
from jaxgen.nets.norms import pixel_norm
from jaxgen.nets.resnet import downsampled, upsampled
from jaxgen.nets.style import equal
from jaxgen.types import Array, Seen, Tree, check

GAIN = 2.0**0.5


def stages(shape: Sequence[int]) -> int:
    """How many stages an image [height, width, ...] takes, from about 4x4 to its full size."""
    return halvings(shape, 4) + 1


def size_at(shape: Sequence[int], stage: int) -> tuple[int, int]:
    """The sides of the images of a stage, 0 the smallest. InputError for a stage that the shape does not reach."""
    last = stages(shape) - 1
    sides = f"{shape[0]}x{shape[1]}"
    check(0 <= stage <= last, f"images of {sides} grow in the stages 0 to {last}, there is no stage {stage}")
    return shape[0] >> (last - stage), shape[1] >> (last - stage)


def shrinks(shape: Sequence[int], stage: int) -> int:
    """How often images of the full size are halved for a stage: `data.shrunk(images, shrinks(images.shape, stage))`."""
    size_at(shape, stage)
    return stages(shape) - 1 - stage


def alpha(module: nn.Module) -> Array:
    """The share of the newest scale: the module's state."""
    return module.variable("fade", "alpha", lambda: jnp.ones(())).value


class ProgressiveGenerator(nn.Module):
    """z [B, D] -> image of the stage's size, [B, *size_at(shape, stage), channels]: z and every convolution's pixels
    normalised, leaky ReLU, nearest-neighbour enlarging; the image is alpha times the newest scale's and 1 - alpha times
    that of the scale before, enlarged (Karras et al. 2017, arXiv:1710.10196, figure 2, section 4 and table 2).

    shape: of the full size. The i-th scale from it has min(2^i width, most) channels.
    """

    shape: Sequence[int]
    stage: int
    width: int = 16
    most: int = 512
    classes: Classes = None
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, z: Array, condition: Tree = None, train: bool = False) -> Array:
        last = stages(self.shape) - 1
        size_at(self.shape, self.stage)
        conv, act = partial(equal, Conv, gain=GAIN, dtype=self.dtype), partial(nn.leaky_relu, negative_slope=0.2)
        c = Condition(self.classes, z.shape[-1], dtype=self.dtype)(condition, z.shape[0])
        h = pixel_norm(joined(pixel_norm(z.astype(self.dtype)), c))
        height, breadth = size_at(self.shape, 0)
        features = [width_at(self, last - i) for i in range(last + 1)]
        h = equal(Dense, height * breadth * features[0], gain=GAIN / 4, dtype=self.dtype, name="first")(h)
        h = pixel_norm(act(h.reshape(-1, height, breadth, features[0])))
        image = jnp.zeros(())
        fade, all_scales = alpha(self), self.is_initializing()
        for i in range((last if all_scales else self.stage) + 1):
            h = upsampled(h) if i else h
            for name in ("a", "b") if i else ("b",):
                h = pixel_norm(act(conv(features[i], name=f"scale_{i}_{name}")(h)))
            if i < self.stage - 1 and not all_scales:
                continue
            new = equal(Conv, self.shape[-1], 1, dtype=self.dtype, name=f"image_{i}")(h)
            image = new if i == 0 or i == self.stage - 1 else upsampled(image) * (1.0 - fade) + new * fade
        if all_scales:  # they have their parameters now, the image has this stage's size
            return jnp.zeros((z.shape[0], *size_at(self.shape, self.stage), self.shape[-1]))
        return image.astype(jnp.float32)


class ProgressiveCritic(nn.Module):
    """Image of the stage's size -> score [B]: the generator's mirror image, means of four pixels, the deviation of the
    minibatch at the smallest scale (Karras et al. 2017, arXiv:1710.10196, table 2). Of a fading scale it sees
    alpha times the new layers' features and 1 - alpha times those of the halved image. Labels join by projection."""

    shape: Sequence[int]
    stage: int
    width: int = 16
    most: int = 512
    group: int = 4
    classes: Classes = None
    heads: Heads | None = None
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, condition: Tree = None, train: bool = False) -> Array | Seen:
        last, sides = stages(self.shape) - 1, size_at(self.shape, self.stage)
        check(x.shape[1:3] == sides, f"stage {self.stage} is of images {sides}, these are {x.shape[1:3]}: shrink them")
        conv, act = partial(equal, Conv, gain=GAIN, dtype=self.dtype), partial(nn.leaky_relu, negative_slope=0.2)
        features = [width_at(self, last - i) for i in range(last + 1)]
        fade, top, x = alpha(self), self.stage, x.astype(self.dtype)
        if self.is_initializing():  # at the full size, so that all scales have their parameters
            top = last
            x = jnp.zeros((x.shape[0], *size_at(self.shape, last), x.shape[-1]), self.dtype)

        def entered(x: Array, i: int) -> Array:
            return act(conv(features[i], 1, name=f"image_{i}")(x))

        h = entered(x, top)
        for i in range(top, 0, -1):
            h = act(conv(features[i], name=f"scale_{i}_a")(h))
            h = downsampled(act(conv(features[i - 1], name=f"scale_{i}_b")(h)))
            x = downsampled(x)
            if i == top or self.is_initializing():
                h = fade * h + (1.0 - fade) * entered(x, i - 1)
        h = act(conv(features[0], name="scale_0")(MinibatchStd(self.group)(h)))
        dense = partial(equal, Dense, dtype=self.dtype)
        h = act(equal(Dense, features[0], gain=GAIN, dtype=self.dtype, name="last")(h.reshape(h.shape[0], -1)))
        return judged(self.heads, h, condition, self.classes, dense)
