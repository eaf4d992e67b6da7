"""Directions in a latent space: from labels, from the spread of latents, from a network's weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxgen.types import Array, check


def analogy(having: Array, lacking: Array, plain: Array) -> Array:
    """mean(having) - mean(lacking) + mean(plain), latents [N, ...] of three kinds of images, each of a number of its
    own -> a latent [...]: "with" - "without" + "plain" (Radford, Metz and Chintala 2015, arXiv:1511.06434, section
    6.3.2; single latents are unstable there, means of three are not)."""
    shapes = {a.shape[1:] for a in (having, lacking, plain)}
    check(len(shapes) == 1, f"latents of one model have one shape, not {sorted(shapes)}")
    for a in (having, lacking, plain):
        check(len(a) >= 1, "there are no latents of one of the kinds: draw more samples")
    return jnp.mean(having, axis=0) - jnp.mean(lacking, axis=0) + jnp.mean(plain, axis=0)


class Boundary(NamedTuple):
    """direction [...], of length 1, to the side of the latents that have it; accuracy: the share of held-out latents
    that lie on the right side."""

    direction: Array
    accuracy: float


def boundary(latents: Any, has: Any, *, penalty: float = 10.0) -> Boundary:
    """The normal of the plane that best parts latents that have an attribute from those that do not, latents [N, ...],
    has: bool [N] (Shen et al. 2019, arXiv:1907.10786, section 3.1, there by a support vector machine; here by logistic
    regression of latents scaled to a total variance of 1, which minimises sum -log p + penalty |n|^2 / 2).

    A larger penalty turns the normal towards the difference of the two means, along which latents vary; a small one
    towards what parts best, along which a StyleGAN's w hardly varies and its images hardly change.

    Every fifth latent is held out for the accuracy: a half where the latents do not say. InputError for latents of one
    kind only.
    """
    from sklearn.linear_model import LogisticRegression  # half a second to import

    x, y = np.asarray(latents, np.float32).reshape(len(latents), -1), np.asarray(has)
    check(y.shape == (len(x),), f"`has` is a yes or no for each of {len(x)} latents, its shape is {y.shape}")
    y, held = y.astype(bool), np.arange(len(x)) % 5 == 0
    rare = min(int(np.sum(y[~held])), int(np.sum(~y[~held])))
    check(rare >= 1, f"{int(np.sum(y))} of {len(y)} latents have the attribute: a plane needs some on either side")
    x = x / np.sqrt(np.maximum(np.var(x, axis=0).sum(), 1e-12))
    model = LogisticRegression(C=1.0 / penalty, max_iter=1000).fit(x[~held], y[~held])
    normal = model.coef_[0] / np.linalg.norm(model.coef_[0])
    accuracy = float(np.mean(model.predict(x[held]) == y[held]))
    return Boundary(jnp.asarray(normal.reshape(np.shape(latents)[1:]), jnp.float32), accuracy)


class Directions(NamedTuple):
    """vectors [k, ...], each of length 1, with their strengths [k], the largest first."""

    vectors: Array
    strengths: Array


def principal(latents: Any, k: int = 10) -> Directions:
    """The k principal components of latents [N, ...] and the standard deviation of the latents along them: GANSpace, of
    a StyleGAN's w (Härkönen et al. 2020, arXiv:2004.02546, section 2.2). A component's sign means nothing."""
    x = np.asarray(latents, np.float64)
    shape, x = x.shape[1:], x.reshape(len(x), -1)
    most = min(len(x) - 1, x.shape[1])
    check(1 <= k <= most, f"{len(x)} latents of {x.shape[1]} numbers have 1 to {most} components, not {k}")
    _, scales, vectors = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)
    along = scales[:k] / np.sqrt(len(x) - 1)
    return Directions(jnp.asarray(vectors[:k].reshape(k, *shape), jnp.float32), jnp.asarray(along, jnp.float32))


def factors(kernels: Sequence[Array], k: int = 10) -> Directions:
    """The k orthogonal unit directions n that change most what the first layers, x -> x K, make of a latent: the
    eigenvectors of sum K K^T, with their |n K| (SeFa; Shen and Zhou 2020, arXiv:2007.06600, eq. 5 to 7).

    kernels: of all layers that see the latent, [D, outputs] each: the first dense layer of a DCGAN, the style layers
    of a StyleGAN.
    """
    check(len(kernels) >= 1, "directions are of the layers that see the latent: give their kernels [D, outputs]")
    both = [np.asarray(kernel, np.float64) for kernel in kernels]
    fits = all(kernel.ndim == 2 and len(kernel) == len(both[0]) for kernel in both)
    check(fits, f"kernels are [D, outputs] with one D, not {[kernel.shape for kernel in both]}")
    size = len(both[0])
    check(1 <= k <= size, f"latents of {size} numbers have 1 to {size} directions, not {k}")
    values, vectors = np.linalg.eigh(sum(kernel @ kernel.T for kernel in both))
    largest = slice(None, -k - 1, -1)
    strengths = np.sqrt(np.maximum(values[largest], 0.0))
    return Directions(jnp.asarray(vectors[:, largest].T, jnp.float32), jnp.asarray(strengths, jnp.float32))
