"""What several families share: the Gaussian posterior, the standard prior, models of codes, and their checks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxgen.losses.adversarial import as_seen
from jaxgen.losses.likelihood import Likelihood
from jaxgen.nets import Network
from jaxgen.types import Array, Keys, Predict, Prediction, Seen, Tree, check, normal

LOG_VAR_RANGE = 15.0  # |log variance| stays below this, smoothly: exp of it neither overflows nor vanishes


class Gaussian(NamedTuple):
    """N(mu, diag exp log_var), [..., D]."""

    mu: Array
    log_var: Array

    def at(self, eps: Array) -> Array:
        """mu + sigma eps; the draws' own axes, if there are any, come before the last."""
        return self.mu + jnp.exp(0.5 * self.log_var) * eps

    def rows(self, axis: int) -> Gaussian:
        """The same with an axis for several draws."""
        return Gaussian(jnp.expand_dims(self.mu, axis), jnp.expand_dims(self.log_var, axis))


def posterior(h: Array, latent: int) -> tuple[Gaussian, Array]:
    """(q(z|x), the rest) of an encoder's output [B, 2 latent + rest]: mu, log sigma^2 and what is beyond them."""
    mu, log_var, rest = jnp.split(h.astype(jnp.float32), [latent, 2 * latent], axis=-1)
    return Gaussian(mu, bounded(log_var)), rest


def bounded(log_var: Array) -> Array:
    """A log variance that no input makes too large or too small for its exponential: |.| < LOG_VAR_RANGE."""
    return LOG_VAR_RANGE * jnp.tanh(log_var / LOG_VAR_RANGE)


def standard(shape: Sequence[int]) -> Callable[[Tree, Tree, Keys, Tree], Array]:
    """The prior N(0, I) of noise [B, *shape]."""
    return lambda params, extra, keys, condition: normal(keys, shape)


def codes(params: Tree, extra: Tree, condition: Tree) -> Predict:
    """The `predict` of a model whose noise is the code itself, from which `decode` makes the sample."""
    return lambda z, t: Prediction(z)


def split_keys(keys: Keys, n: int = 2) -> list[Keys]:
    """n keys for each of [B]."""
    each = split_each(keys, n).reshape(-1, n)
    return [each[:, i] for i in range(n)]


def folded(keys: Keys, number: Array | int) -> Keys:
    """Other keys for the same examples, [B]: those of a second draw, of a position, of a step."""
    return jax.vmap(jax.random.fold_in, (0, None))(keys, number)


def split_each(keys: Keys, n: int) -> Keys:
    """n keys of every example's, [B n], example by example."""
    return jax.vmap(lambda key: jax.random.split(key, n))(keys).reshape(-1)


def output_shape(net: Network, params: Tree, stats: Tree, *inputs: Any) -> tuple[int, ...]:
    """The shape of one example's output, without computing it."""
    return jax.eval_shape(net.apply, params, stats, *inputs)[0].shape[1:]


def judged_apart(
    critic: Network, params: Tree, stats: Tree, keys: Keys, images: Sequence[Array], *given: Tree
) -> tuple[list[Seen], Tree]:
    """(what a critic gives for each of several batches, its statistics), in training: batches of their own, so that a
    batch normalisation does not mix them."""
    seen = []
    for i, x in enumerate(images):
        output, stats = critic.train(folded(keys, i), params, stats, x, *given)
        seen.append(as_seen(output))
    return seen, stats


def check_latent(latent: int) -> None:
    """InputError for a latent of no dimension."""
    check(latent >= 1, f"the latent needs at least one dimension, it has {latent}")


def check_encoder(encoder: Network, params: Tree, stats: Tree, x: Array, c: Tree, latent: int, *, exact: bool) -> None:
    """InputError for an encoder that does not give mu and log sigma^2 (exact: and nothing else) of `latent`."""
    shape = output_shape(encoder, params, stats, x, c)
    fits = len(shape) == 1 and (shape[0] == 2 * latent if exact else shape[0] >= 2 * latent)
    check(fits, f"the encoder gives {shape}, mu and log sigma^2 of the latent are {2 * latent} numbers: change one")


def check_decoder(shape: tuple[int, ...], x: Array, likelihood: Likelihood) -> None:
    """InputError for a decoder whose output, of `shape` an example, is not what the likelihood of x needs."""
    needed = (*x.shape[1:-1], x.shape[-1] * likelihood.outputs)
    check(shape == needed, f"the decoder gives {shape}, the likelihood needs {needed}: change one")


def check_score(shape: tuple[int, ...]) -> None:
    """InputError for a critic of codes that does not give one score an example."""
    check(shape == (), f"the critic gives {shape} an example, not one score (): change its output")
