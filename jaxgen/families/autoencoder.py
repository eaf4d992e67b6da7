"""The autoencoder, plain and denoising (Rumelhart, Hinton and Williams 1986; Vincent et al. 2008)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxgen.data.noise import Corruption
from jaxgen.families.common import check_decoder, codes, folded, output_shape
from jaxgen.losses.likelihood import Likelihood, check_support, total
from jaxgen.nets import Network
from jaxgen.types import Array, Batch, Game, Keys, Loss, Model, Tree, Turn, check, normal, one_shot

PLAYER = "autoencoder"
MOMENTUM = 0.99  # of the moments of the codes: they remember about a hundred batches


def autoencoder(
    encoder: Network,
    decoder: Network,
    latent: int,
    *,
    likelihood: Likelihood | None = None,
    corruption: Corruption | None = None,
) -> Model:
    """-log p(x | g(f(x))) an example, f the encoder, g the decoder, p the `likelihood`: by default the squared error
    sum_i (x_i - g(f(x))_i)^2 (Rumelhart, Hinton and Williams 1986; Hinton and Salakhutdinov 2006).

    encoder: x [B, ...] -> code [B, latent]; decoder: code -> output, `likelihood.outputs` channels for each of x.
    likelihood: of `losses.likelihood`, in nats summed over pixels. corruption: of `data.noise`, see
    `denoising_autoencoder`. metrics: "squared_error", of the likelihood's mean.

    An autoencoder has no prior of its own. Its codes are described after the fact by the Gaussian of their mean and
    covariance, running averages over about a hundred batches of training, and `prior` draws from that (Ghosh et al.
    2019, arXiv:1903.12436, section 4).
    """
    pair = paired(encoder, decoder, latent, likelihood)

    def init(key: Array, batch: Batch) -> tuple[dict, Tree]:
        params, stats = pair.init(key, batch)
        return {PLAYER: params}, {**stats, "codes": no_codes(latent)}

    def loss(params: Tree, extra: Tree, turn: Turn, batch: Batch) -> tuple[Array, tuple[dict, Tree]]:
        inputs = batch.x if corruption is None else corruption(turn.keys, batch.x)
        z, error, metrics, stats = pair.reconstruct(params[PLAYER], extra, turn.keys, batch.x, inputs)
        codes = fitted(extra["codes"], turn.gather(jax.lax.stop_gradient(z)))
        return error, (metrics, {**stats, "codes": codes})

    def prior(params: Tree, extra: Tree, keys: Keys, condition: Tree) -> Array:
        codes = extra["codes"]
        return codes["mean"] + normal(keys, (latent,)) @ root(codes["covariance"])

    return pair.model(init, {PLAYER: loss}, prior)


def denoising_autoencoder(
    encoder: Network,
    decoder: Network,
    latent: int,
    corruption: Corruption,
    *,
    likelihood: Likelihood | None = None,
) -> Model:
    """-log p(x | g(f(x~))), x~ a corruption of x drawn anew each time (Vincent et al. 2008, section 2.3; 2010, eq. 6).

    corruption: of `data.noise`. Otherwise as `autoencoder`. `sampling.reconstruct(model, state, noisy)` denoises:
    `encode` takes an image as it is. `prior` describes the codes of corrupted images, which the decoder knows.
    """
    return autoencoder(encoder, decoder, latent, likelihood=likelihood, corruption=corruption)


def squared_error() -> Likelihood:
    """-sum_i (x_i - mu_i)^2, mu the output: the Gaussian of variance 1/2 without its constant."""
    return Likelihood(lambda x, mu: -total(jnp.square(x - mu)), mean=lambda mu: mu.astype(jnp.float32))


class Pair(NamedTuple):
    """An encoder and a decoder that are one player, {"encoder", "decoder"}, and the parts of a `Model` that they are
    in every family of autoencoders."""

    encoder: Network
    decoder: Network
    latent: int
    likelihood: Likelihood

    def init(self, key: Array, batch: Batch) -> tuple[Tree, Tree]:
        """(parameters, statistics) of both. InputError for networks that do not fit the code or the likelihood."""
        for_f, for_g = jax.random.split(key)
        f, f_stats = self.encoder.init(for_f, batch.x)
        code = output_shape(self.encoder, f, f_stats, batch.x)
        check(code == (self.latent,), f"the encoder gives {code}, the code has {self.latent} numbers: change one")
        z = jnp.zeros((batch.x.shape[0], self.latent))
        g, g_stats = self.decoder.init(for_g, z)
        check_decoder(output_shape(self.decoder, g, g_stats, z), batch.x, self.likelihood)
        return {"encoder": f, "decoder": g}, {"encoder": f_stats, "decoder": g_stats}

    def codes(self, own: Tree, extra: Tree, keys: Keys, x: Array) -> tuple[Array, Tree]:
        """(f(x) [B, latent], statistics) in training mode."""
        z, stats = self.encoder.train(folded(keys, 2), own["encoder"], extra["encoder"], x)
        return z.astype(jnp.float32), stats

    def reconstruct(
        self, own: Tree, extra: Tree, keys: Keys, x: Array, inputs: Array
    ) -> tuple[Array, Array, dict, Tree]:
        """(f(inputs) [B, latent], -log p(x | g(f(inputs))) [B], metrics, {"encoder", "decoder"} statistics)."""
        z, f_stats = self.codes(own, extra, keys, inputs)
        output, g_stats = self.decoder.train(folded(keys, 3), own["decoder"], extra["decoder"], z)
        metrics = {"squared_error": total(jnp.square(x - self.likelihood.mean(output)))}
        return z, -self.likelihood.log_prob(x, output), metrics, {"encoder": f_stats, "decoder": g_stats}

    def decode(self, params: Tree, extra: Tree, keys: Keys, z: Array, condition: Tree) -> Array:
        return self.likelihood.mean(self.decoder.apply(params[PLAYER]["decoder"], extra["decoder"], z)[0])

    def encode(self, params: Tree, extra: Tree, x: Array, condition: Tree) -> Array:
        return self.encoder.apply(params[PLAYER]["encoder"], extra["encoder"], x)[0].astype(jnp.float32)

    def check(self, batch: Batch) -> None:
        check_support(self.likelihood, batch.x)

    def model(self, init: Callable, losses: dict[str, Loss], prior: Callable) -> Model:
        """The model of codes that `prior` draws and the decoder turns into images."""
        game = Game(init, losses, self.check)
        return Model(game, prior, codes, one_shot, decode=self.decode, encode=self.encode)


def paired(encoder: Network, decoder: Network, latent: int, likelihood: Likelihood | None) -> Pair:
    """The `Pair`, its likelihood by default the squared error. InputError for a code of no dimension."""
    check(latent >= 1, f"the code needs at least one dimension, it has {latent}")
    return Pair(encoder, decoder, latent, squared_error() if likelihood is None else likelihood)


def no_codes(latent: int) -> dict[str, Array]:
    """The moments before there was any code: those of N(0, I)."""
    return {"batches": jnp.zeros((), jnp.int32), "mean": jnp.zeros(latent), "covariance": jnp.eye(latent)}


def fitted(codes: dict[str, Array], z: Array) -> dict[str, Array]:
    """The moments with a minibatch z [B, D] of weight w = max(1 - MOMENTUM, 1 / n), n minibatches so far: those of the
    mixture of all before and of this one; the first hundred weigh the same.

    mean' = mean + w d, cov' = (1 - w) cov + w (cov of z + (1 - w) d d^T), d = mean of z - mean: no difference of large
    numbers.
    """
    w = jnp.maximum(1.0 - MOMENTUM, 1.0 / (codes["batches"] + 1.0))
    d = jnp.mean(z - codes["mean"], axis=0)
    offset = z - codes["mean"] - d
    covariance = jnp.mean(offset[:, :, None] * offset[:, None, :], axis=0)
    return {
        "batches": codes["batches"] + 1,
        "mean": codes["mean"] + w * d,
        "covariance": (1.0 - w) * codes["covariance"] + w * (covariance + (1.0 - w) * jnp.outer(d, d)),
    }


def root(covariance: Array) -> Array:
    """The symmetric R with R R = covariance [D, D]. It is there for a singular one too, of codes that leave a direction
    unused, and what rounding made negative counts as zero; a Cholesky factor would not be a number."""
    variances, axes = jnp.linalg.eigh(covariance)
    return (axes * jnp.sqrt(jnp.maximum(variances, 0.0))) @ axes.T
