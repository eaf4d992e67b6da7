"""Flax layers over the package's primitives. Parameters are float32; `dtype` is that of the computation."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxgen.conditions import Maybe, Tokens
from jaxgen.nets import primitives
from jaxgen.types import Array, Keys, Tree, check

Dtype = Any
Classes = Any
"""How many different labels there are; {name: Classes} of a dictionary of conditions; None where none is a label."""
AXIS = "data"  # the name of the mapped batch axis, where a layout maps one


def mapped(axis: str = AXIS) -> str | None:
    """The axis' name inside a function that is mapped over it (pmap, shard_map), else None: under jit an array is the
    global batch, and a mean over it needs no collective."""
    try:
        jax.lax.axis_index(axis)
    except NameError:
        return None
    return axis


Weight = Callable[[nn.Module, Array], Array]
"""(layer, its parameter W [..., features]) -> the kernel that it uses, as spectral normalisation in `nets.weights`."""


class Dense(nn.Module):
    """y = x W + b over the last axis. weight: what is done to W first."""

    features: int
    bias: bool = True
    kernel_init: Any = primitives.std_init()
    weight: Weight | None = None
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = _kernel(self, (x.shape[-1], self.features))
        y = primitives.dense(x.astype(self.dtype), kernel.astype(self.dtype))
        return y + _bias(self) if self.bias else y


class Conv(nn.Module):
    """A convolution, NHWC. groups: of channels that do not see each other; weight: what is done to its kernel first."""

    features: int
    size: int = 3
    stride: int = 1
    padding: Any = "SAME"
    groups: int = 1
    bias: bool = True
    kernel_init: Any = primitives.std_init()
    weight: Weight | None = None
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = _kernel(self, (self.size, self.size, x.shape[-1] // self.groups, self.features))
        y = self._slide(x.astype(self.dtype), kernel.astype(self.dtype))
        return y + _bias(self) if self.bias else y

    def _slide(self, x: Array, kernel: Array) -> Array:
        return primitives.conv(x, kernel, stride=self.stride, padding=self.padding, groups=self.groups)


class ConvTranspose(Conv):
    """A transposed convolution, NHWC: `stride` times as large with padding "SAME"."""

    size: int = 4
    stride: int = 2

    def _slide(self, x: Array, kernel: Array) -> Array:
        return primitives.conv_transpose(x, kernel, stride=self.stride, padding=self.padding)


def _kernel(layer: Any, shape: tuple[int, ...]) -> Array:
    kernel = layer.param("kernel", layer.kernel_init, shape, jnp.float32)
    return kernel if layer.weight is None else layer.weight(layer, kernel)


def _bias(layer: Any) -> Array:
    return layer.param("bias", nn.initializers.zeros, (layer.features,), jnp.float32).astype(layer.dtype)


class Embed(nn.Module):
    """A learned vector for each of `count` labels: int [B] -> [B, features]."""

    count: int
    features: int
    std: float = 1.0
    weight: Weight | None = None
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, label: Array) -> Array:
        check(jnp.issubdtype(label.dtype, jnp.integer), f"a label must be an integer array, not {label.dtype}")
        table = self.param("embedding", primitives.constant_std(self.std), (self.count, self.features), jnp.float32)
        table = table if self.weight is None else self.weight(self, table)
        return table.astype(self.dtype)[label]


class Dropout(nn.Module):
    """x m / (1 - rate), m_j ~ Bernoulli(1 - rate) (Srivastava et al. 2014, JMLR 15, section 4), [B, ...]: that of
    example i is drawn from keys[i] and the layer's place in the network; without keys, as outside training, x itself.

    A module passes on the argument `keys` of its `__call__`, see `network`, and every family gives them to its networks
    in training. In a scan over layers, whose place is one for all, give it `layer_keys(keys, i)`.
    """

    rate: float

    @nn.compact
    def __call__(self, x: Array, keys: Keys | None = None) -> Array:
        check(0.0 <= self.rate < 1.0, f"dropout needs a rate from 0 to below 1, it is {self.rate}")
        if keys is None or self.rate == 0.0:
            return x
        own = layer_keys(keys, zlib.crc32("/".join(self.path).encode()))
        kept = jax.vmap(lambda key: jax.random.bernoulli(key, 1.0 - self.rate, x.shape[1:]))(own)
        return jnp.where(kept, x / (1.0 - self.rate), 0.0).astype(x.dtype)


def layer_keys(keys: Keys | None, layer: Array | int) -> Keys | None:
    """Other keys for the same examples, [B], those of a layer; None for None."""
    return None if keys is None else jax.vmap(jax.random.fold_in, (0, None))(keys, jnp.asarray(layer, jnp.uint32))


def rematerialised(layer: Any) -> Any:
    """A module's class whose activations are computed again in the backward pass instead of kept (Chen et al. 2016,
    arXiv:1604.06174). It has the same name, so that the paths of parameters stay."""
    again = nn.remat(layer)
    again.__name__ = layer.__name__
    return again


def joined(x: Array, condition: Array | None) -> Array:
    """The features of a condition behind those of x, [..., C + features]; x itself where there is none."""
    return x if condition is None else jnp.concatenate([x, condition.astype(x.dtype)], axis=-1)


def separated(condition: Tree, batch: int, sides: Sequence[int]) -> tuple[Tree, Array | None]:
    """(the rest of a condition, its images side by side [B, H, W, C] or None), for networks of images.

    An image of a `Maybe` is zero where it is not known, and has one more channel: 1 where it is known, else 0.
    InputError for images to condition on whose sides are not `sides`, those of the network's own images.
    """
    if isinstance(condition, Maybe):
        rest, image = separated(condition.value, batch, sides)
        if image is not None:
            known = condition.known[:, None, None, None]
            flag = jnp.broadcast_to(known, (*image.shape[:3], 1)).astype(image.dtype)
            image = jnp.concatenate([jnp.where(known, image, 0), flag], axis=-1)
        return None if rest is None else Maybe(rest, condition.known), image
    if isinstance(condition, Mapping):
        parts = {name: separated(condition[name], batch, sides) for name in sorted(condition)}
        images = [image for _, image in parts.values() if image is not None]
        rest = {name: rest for name, (rest, _) in parts.items() if rest is not None}
        return rest or None, jnp.concatenate(images, axis=-1) if images else None
    if condition is None or isinstance(condition, Tokens) or condition.ndim != 4:
        return condition, None
    found, needed = condition.shape[1:3], tuple(sides[:2])
    check(found == needed, f"an image to condition on has the images' sides {needed}, this one has {found}: resize it")
    _check_count(condition, batch)
    return None, condition


def tokens_in(condition: Tree) -> Tokens | None:
    """The sequences of a condition one after another, vectors [B, S, E], or None where it has none: those of a `Maybe`
    are masked where they are not known. InputError for vectors of different sizes and for words, no vectors yet."""
    if isinstance(condition, Maybe):
        found = tokens_in(condition.value)
        return None if found is None else Tokens(found.values, found.mask & condition.known[:, None])
    if isinstance(condition, Mapping):
        parts = [part for name in sorted(condition) if (part := tokens_in(condition[name])) is not None]
        sizes = {part.values.shape[-1] for part in parts}
        check(len(sizes) <= 1, f"sequences to condition on have vectors of one size, not of {sorted(sizes)}")
        return Tokens(*(jnp.concatenate(each, axis=1) for each in zip(*parts, strict=True))) if parts else None
    if not isinstance(condition, Tokens):
        return None
    _check_tokens(condition)
    return condition


def _check_tokens(tokens: Tokens) -> None:
    shape, kind = tokens.values.shape, tokens.values.dtype
    check(
        len(shape) == 3 and jnp.issubdtype(kind, jnp.floating),
        f"this network is given words, {kind} {list(shape)}: give it an encoder of them, "
        "with_encoder(network, network(TextEncoder(...)))",
    )
    fits = tokens.mask.shape == shape[:2]
    check(fits, f"the mask of sequences {list(shape[:2])} has one number a vector, not {list(tokens.mask.shape)}")


class Condition(nn.Module):
    """A condition as a vector [B, F]; None, of an unconditional model, stays None.

    label       int [B], of `classes`: embedded, F = features
    numbers     [B, ...], attributes or an image: flattened, F = how many they are; with `project` a dense layer makes
                them F = features
    Tokens      vectors [B, L, E] and which of them count: their mean, F = E; with `project` a dense layer makes it F =
                features
    Maybe       a learned vector where it is not known
    dictionary  its parts side by side, in the order of their names; with `project` their sum

    InputError for a label without `classes`, for `classes` without a label, and for a condition that is missing.
    """

    classes: Classes
    features: int
    project: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, condition: Tree, batch: int) -> Array | None:
        if condition is None:
            check_unconditional(self.classes, self.variables.get("params"))
            return None
        maybe = isinstance(condition, Maybe)
        h = self._vector(condition.value if maybe else condition, batch)
        if not maybe or h is None:
            return h
        null = self.param("null", primitives.constant_std(1.0), h.shape[1:], jnp.float32)
        _check_count(condition.known, batch)
        return jnp.where(condition.known[:, None], h, null.astype(self.dtype))

    def _vector(self, condition: Tree, batch: int) -> Array | None:
        if isinstance(condition, Mapping):
            return self._parts(condition, batch)
        condition = _mean(condition) if isinstance(condition, Tokens) else condition
        _check_count(condition, batch)
        label = condition.ndim == 1 and jnp.issubdtype(condition.dtype, jnp.integer)
        if self.classes is not None:
            found = f"{condition.dtype} {list(condition.shape)}"
            check(
                label and isinstance(self.classes, int),
                f"this network takes {_wanted(self.classes)} (labels are an integer array [B]), not an array {found}",
            )
            return Embed(self.classes, self.features, dtype=self.dtype)(condition)
        check(not label, "this network is given labels: give it their number, classes=10 for ten of them")
        h = condition.reshape(batch, -1).astype(self.dtype)
        return Dense(self.features, dtype=self.dtype)(h) if self.project else h

    def _parts(self, condition: Mapping[str, Tree], batch: int) -> Array | None:
        classes = {} if self.classes is None else self.classes
        names = ", ".join(sorted(condition))
        check(
            isinstance(classes, Mapping),
            f"this network is given the conditions {names}: give classes as a dictionary, the number of labels by name",
        )
        trained = set(self.variables.get("params", {})) - {"null"}
        missing = ", ".join(sorted((set(classes) | trained) - set(condition)))
        check(not missing, f"this network needs the condition {missing}, it is given {names}")
        parts = []
        for name in sorted(condition):
            part = Condition(classes.get(name), self.features, self.project, self.dtype, name=name)
            parts += [h for h in [part(condition[name], batch)] if h is not None]
        if not parts:
            return None
        return jnp.sum(jnp.stack(parts), axis=0) if self.project else jnp.concatenate(parts, axis=-1)


def _mean(tokens: Tokens) -> Array:
    """The mean of those vectors that count, [B, E]; 0 where none does."""
    _check_tokens(tokens)
    weights = tokens.mask.astype(tokens.values.dtype)
    total = jnp.sum(tokens.values * weights[..., None], axis=1)
    return total / jnp.maximum(jnp.sum(weights, axis=1, keepdims=True), 1.0)


def check_unconditional(classes: Classes, trained: Any) -> None:
    """InputError for a condition of None where there are labels, or parameters that were trained with a condition."""
    check(classes is None and not trained, f"this model is conditional: give {_wanted(classes)}")


def _check_count(condition: Array, batch: int) -> None:
    shape = tuple(condition.shape)
    check(shape[:1] == (batch,), f"give one condition an example, {batch} of them, not an array of shape {shape}")


def _wanted(classes: Classes) -> str:
    if isinstance(classes, Mapping):
        return f"the conditions {', '.join(sorted(classes))}"
    return "the condition that it was trained with" if classes is None else f"a label, 0 to {classes - 1}"


def time_features(t: Array, features: int, dtype: Dtype = jnp.float32) -> Array:
    """[cos(1000 t w_i), sin(1000 t w_i)], w_i = 10000^(-i / half): [B] in [0, 1] -> [B, features]; of several times an
    example, [B, K], side by side, [B, K features] (Vaswani et al. 2017, arXiv:1706.03762, section 3.5; Ho et al. 2020
    count the time to 1000)."""
    half = features // 2
    w = jnp.exp(-math.log(10_000.0) * jnp.arange(half) / half)
    angle = 1000.0 * t[..., None].astype(jnp.float32) * w
    return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1).astype(dtype).reshape(t.shape[0], -1)


def fourier_features(x: Array, exponents: Sequence[int]) -> Array | None:
    """sin(2^n pi x) and cos(2^n pi x) of every channel, for each of N exponents n: [..., C] -> [..., 2 C N]; None
    without exponents (Kingma et al. 2021, arXiv:2107.00630, appendix C)."""
    if not exponents:
        return None
    angles = [2.0**n * math.pi * x.astype(jnp.float32) for n in exponents]
    return jnp.concatenate([f(angle) for angle in angles for f in (jnp.sin, jnp.cos)], axis=-1)
