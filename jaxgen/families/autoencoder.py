"""The autoencoder, plain and denoising (Rumelhart, Hinton and Williams 1986; Vincent et al. 2008)."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxgen.data.noise import Corruption
from jaxgen.families.vae import check_decoder
from jaxgen.losses.likelihood import Likelihood, check_support, total
from jaxgen.nets import Network
from jaxgen.nets.layers import mapped
from jaxgen.types import Array, Batch, Keys, Model, Predict, Tree, check, normal, one_shot

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
    """-log p(x | g(f(x))) an example, f the encoder, g the decoder, p the `likelihood`: without one the squared error
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

    def loss(params: Tree, extra: Tree, keys: Keys, batch: Batch) -> tuple[Array, tuple[dict, Tree]]:
        seen = batch.x if corruption is None else corruption(keys, batch.x)
        z, error, metrics, stats = pair.reconstruct(params[PLAYER], extra, batch.x, seen)
        codes = fitted(extra["codes"], jax.lax.stop_gradient(z))
        return error, (metrics, {**stats, "codes": codes})

    def prior(params: Tree, extra: Tree, keys: Keys) -> Array:
        codes = extra["codes"]
        return codes["mean"] + normal(keys, (latent,)) @ root(codes["covariance"])

    return Model(init, {PLAYER: loss}, prior, pair.predict, one_shot, encode=pair.encode, check=pair.check)


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
        z, _ = jax.eval_shape(self.encoder.apply, f, f_stats, batch.x)
        check(
            z.shape[1:] == (self.latent,),
            f"the encoder gives {z.shape[1:]}, the code has {self.latent} numbers: change one",
        )
        z = jnp.zeros(z.shape)
        g, g_stats = self.decoder.init(for_g, z)
        check_decoder(self.decoder, g, g_stats, z, None, batch.x, self.likelihood)
        return {"encoder": f, "decoder": g}, {"encoder": f_stats, "decoder": g_stats}

    def codes(self, own: Tree, extra: Tree, x: Array) -> tuple[Array, Tree]:
        """(f(x) [B, latent], statistics) in training mode."""
        z, stats = self.encoder.apply(own["encoder"], extra["encoder"], x, train=True)
        return z.astype(jnp.float32), stats

    def reconstruct(self, own: Tree, extra: Tree, x: Array, seen: Array) -> tuple[Array, Array, dict, Tree]:
        """(f(seen) [B, latent], -log p(x | g(f(seen))) [B], metrics, {"encoder", "decoder"} statistics)."""
        z, f_stats = self.codes(own, extra, seen)
        output, g_stats = self.decoder.apply(own["decoder"], extra["decoder"], z, train=True)
        metrics = {"squared_error": total(jnp.square(x - self.likelihood.mean(output)))}
        return z, -self.likelihood.log_prob(x, output), metrics, {"encoder": f_stats, "decoder": g_stats}

    def predict(self, params: Tree, extra: Tree, condition: Tree) -> Predict:
        def decode(z: Array, t: Array) -> Array:
            return self.likelihood.mean(self.decoder.apply(params[PLAYER]["decoder"], extra["decoder"], z)[0])

        return decode

    def encode(self, params: Tree, extra: Tree, x: Array, condition: Tree) -> Array:
        return self.encoder.apply(params[PLAYER]["encoder"], extra["encoder"], x)[0].astype(jnp.float32)

    def check(self, batch: Batch) -> None:
        check_support(self.likelihood, batch.x)


def paired(encoder: Network, decoder: Network, latent: int, likelihood: Likelihood | None) -> Pair:
    """The `Pair`, its likelihood the squared error unless told otherwise. InputError for a code of no dimension."""
    check(latent >= 1, f"the code needs at least one dimension, it has {latent}")
    return Pair(encoder, decoder, latent, squared_error() if likelihood is None else likelihood)


def no_codes(latent: int) -> dict[str, Array]:
    """The moments before any code was seen: those of N(0, I)."""
    return {"seen": jnp.zeros((), jnp.int32), "mean": jnp.zeros(latent), "covariance": jnp.eye(latent)}


def fitted(codes: dict[str, Array], z: Array) -> dict[str, Array]:
    """The moments with a batch z [B, D] of weight w = max(1 - MOMENTUM, 1 / n), n batches so far: those of the mixture
    of all before and of this one; the first hundred count alike.

    mean' = mean + w d, cov' = (1 - w) cov + w (cov of z + (1 - w) d d^T), d = mean of z - mean: no difference of large
    numbers, and the whole batch's moments wherever its parts lie.
    """
    w = jnp.maximum(1.0 - MOMENTUM, 1.0 / (codes["seen"] + 1.0))
    d = _mean(z - codes["mean"])
    offset = z - codes["mean"] - d
    covariance = _mean(offset[:, :, None] * offset[:, None, :])
    return {
        "seen": codes["seen"] + 1,
        "mean": codes["mean"] + w * d,
        "covariance": (1.0 - w) * codes["covariance"] + w * (covariance + (1.0 - w) * jnp.outer(d, d)),
    }


def root(covariance: Array) -> Array:
    """The symmetric R with R R = covariance [D, D]. It is there for a singular one too, of codes that leave a direction
    unused, and what rounding made negative counts as zero; a Cholesky factor would not be a number."""
    variances, axes = jnp.linalg.eigh(covariance)
    return (axes * jnp.sqrt(jnp.maximum(variances, 0.0))) @ axes.T


def _mean(a: Array) -> Array:
    """Over the examples, on every device where a layout maps them."""
    mean, axis = jnp.mean(a, axis=0), mapped()
    return mean if axis is None else jax.lax.pmean(mean, axis)
