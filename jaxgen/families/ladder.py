"""Variational autoencoders of several stochastic layers: the ladder VAE and the top-down hierarchical VAE."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxgen.families.vae import bounded, check_decoder
from jaxgen.losses.divergence import kl_standard_normal_parts, log_normal
from jaxgen.losses.evidence import Objective, Terms, elbo
from jaxgen.losses.likelihood import Likelihood, bernoulli, check_probability, check_support
from jaxgen.nets import Network
from jaxgen.types import (
    Array,
    Batch,
    Conditioner,
    Keys,
    Model,
    Predict,
    Tree,
    check,
    check_condition,
    condition_of,
    normal,
    one_shot,
)

Call = Callable[[str, Array, Tree], Array]  # (a network's name, its input, condition) -> its output
Choose = Callable[[int, Array, Array, Array], Array]  # (l, mu_p, log sigma_p^2, the z above) -> eps_l


def hierarchical_vae(
    up: Sequence[Network],
    down: Sequence[Network],
    decoder: Network,
    latents: Sequence[int],
    *,
    merge: Sequence[Network] | None = None,
    likelihood: Likelihood | None = None,
    objective: Objective | None = None,
    samples: int = 1,
    condition: Conditioner | None = None,
) -> Model:
    """p(z_L) = N(0, I), p(z_l | z_>l) = N(mu_p,l, diag sigma_p,l^2), p(x | z_1, ..., z_L) by `likelihood`; what is
    inferred goes from the top down, q(z_l | z_>l, x) = N(mu_q,l, diag sigma_q,l^2), the precision-weighted product

        1 / sigma_q^2 = 1 / hat sigma^2 + 1 / sigma_p^2,   mu_q = sigma_q^2 (hat mu / hat sigma^2 + mu_p / sigma_p^2)

    of p(z_l | z_>l) and what x says from below, and at the top N(hat mu_L, hat sigma_L^2): the ladder VAE (Sonderby et
    al. 2016, arXiv:1602.02282, eq. 13 to 19). `objective` of `samples` latents an example, nats summed over pixels.

    Layer 1 is next to x: up[0], down[0] and latents[0] are its own. Every z_l is a vector, [B, latents[l - 1]].
    up: L networks, (d_{l-1}, condition) -> hat mu_l, log hat sigma_l^2 and the features d_l, side by side; d_0 = x, and
    d_L is nothing. down: L - 1 networks, (z_>l, condition) -> mu_p,l and log sigma_p,l^2, z_>l = [z_L, ..., z_{l+1}].
    decoder: ([z_L, ..., z_1], condition) -> output; it sees all layers, which keeps the upper ones in use.
    merge: L - 1 networks ([d_l, z_>l], condition) -> mu_q,l and log sigma_q,l^2 instead of the product; all that up[l]
    gives below the top is d_l then (the hierarchical VAE of Tomczak and Welling 2017, arXiv:1705.07120, section 4).
    objective: of `losses.evidence`, the negative ELBO unless told otherwise.

    The noise of `prior` and `encode` is white, eps_l = (z_l - mu_p,l) / sigma_p,l, the top layer first. So are the
    latents that the objective sees, which leaves every KL what it is: one part a dimension, in closed form given the
    z drawn above. `losses.evidence.tc` needs a q(z | x) that is one Gaussian, which this is not for L > 1.
    """
    layers, total = len(latents), sum(latents)
    _check_counts(up, down, merge, latents, samples)
    p = bernoulli() if likelihood is None else likelihood
    objective = elbo() if objective is None else objective
    networks = _named(up, down, merge, decoder)

    def init(key: Array, batch: Batch) -> tuple[dict, Tree]:
        c, params, extra, d = condition_of(condition, batch), {}, {}, batch.x
        keys = dict(zip(networks, jax.random.split(key, len(networks)), strict=True))

        def begin(name: str, x: Array) -> int:
            """Parameters for inputs like x; the numbers that the output has."""
            params[name], extra[name] = networks[name].init(keys[name], x, c)
            output = jax.eval_shape(networks[name].apply, params[name], extra[name], x, c)[0]
            check(len(output.shape) == 2, f"network {name!r} gives {output.shape[1:]}: give it one axis of numbers")
            return output.shape[1]

        for l, width in enumerate(latents, 1):
            plain = merge is not None and l < layers
            features = begin(f"up{l}", d) - (0 if plain else 2 * width)
            _check_features(f"up{l}", features, width, top=l == layers)
            above = jnp.zeros((d.shape[0], sum(latents[l:])))
            d = jnp.zeros((d.shape[0], features))
            for name, x in (("down", above), ("merge", jnp.concatenate([d, above], axis=1))):
                if f"{name}{l}" in networks:
                    _check_gaussian(f"{name}{l}", begin(f"{name}{l}", x), width)
        z = jnp.zeros((batch.x.shape[0], total))
        params["decoder"], extra["decoder"] = decoder.init(keys["decoder"], z, c)
        check_decoder(decoder, params["decoder"], extra["decoder"], z, c, batch.x, p)
        return {"vae": params}, {**extra, "step": jnp.zeros((), jnp.int32)}

    def calling(params: Tree, extra: Tree, train: bool) -> tuple[Call, dict]:
        """The networks by name, and a dictionary in which their statistics are gathered as they are called."""
        stats = dict(extra)

        def call(name: str, x: Array, c: Tree) -> Array:
            output, stats[name] = networks[name].apply(params["vae"][name], extra[name], x, c, train=train)
            return output

        return call, stats

    def ascend(call: Call, x: Array, c: Tree) -> tuple[list, list]:
        """What x says of each layer: (hat mu, log hat sigma^2) [B, D_l], or None where a network merges, and d_l."""
        says, d = [], [x]
        for l, width in enumerate(latents, 1):
            h = call(f"up{l}", d[-1], c).astype(jnp.float32)
            if merge is None or l == layers:
                mu_hat, log_var_hat, h = jnp.split(h, [width, 2 * width], axis=-1)
                says.append((mu_hat, bounded(log_var_hat)))
            else:
                says.append(None)
            d.append(h)
        return says, d[1:]

    def descend(call: Call, n: int, choose: Choose, c: Tree) -> Array:
        """z = [z_L, ..., z_1], [n, total], z_l = mu_p + sigma_p eps_l with the eps_l chosen when the z above are."""
        z = jnp.zeros((n, 0))
        for l in range(layers, 0, -1):
            mu_p = log_var_p = jnp.zeros((n, latents[l - 1]))
            if l < layers:
                mu_p, log_var_p = _gaussian(call(f"down{l}", z, c))
            eps = choose(l, mu_p, log_var_p, z)
            z = jnp.concatenate([z, mu_p + jnp.exp(0.5 * log_var_p) * eps], axis=-1)
        return z

    def infer(call: Call, x: Array, u: Array, c: Tree) -> tuple[Array, Array, Array]:
        """(z, mu, log sigma^2) [B K, total] of K latents an example, from u [B, K, total]: mu and sigma^2 are those of
        q(eps_l | z_>l, x), eps_l = mu_l + sigma_l u_l."""
        says, d = ascend(call, x, c)
        n, k = u.shape[:2]

        def again(a: Array) -> Array:  # example by example, each with its k latents
            return jnp.repeat(a, k, axis=0)

        us, above, c = _split(u.reshape(n * k, total), latents), [], None if c is None else again(c)

        def choose(l: int, mu_p: Array, log_var_p: Array, z: Array) -> Array:
            if says[l - 1] is not None:
                mu_hat, log_var_hat = (again(a) for a in says[l - 1])
                mu, log_var = (mu_hat, log_var_hat) if l == layers else product(mu_hat, log_var_hat, mu_p, log_var_p)
            else:
                h = call(f"merge{l}", jnp.concatenate([again(d[l - 1]), z], axis=-1), c)
                mu_q, log_var_q = _gaussian(h)
                mu, log_var = (mu_q - mu_p) * jnp.exp(-0.5 * log_var_p), log_var_q - log_var_p
            above.append((mu, log_var))
            return mu + jnp.exp(0.5 * log_var) * us[l]

        z = descend(call, n * k, choose, c)
        mu, log_var = (jnp.concatenate(parts, axis=-1) for parts in zip(*above, strict=True))
        return z, mu, log_var

    def terms(params: Tree, extra: Tree, keys: Keys, batch: Batch, k: int, train: bool) -> tuple[Terms, Tree]:
        b, c = batch.x.shape[0], condition_of(condition, batch)
        call, stats = calling(params, extra, train)
        u = normal(keys, (k, total))
        z, mu, log_var = infer(call, batch.x, u, c)
        again = jnp.repeat(batch.x, k, axis=0)
        output = call("decoder", z, None if c is None else jnp.repeat(c, k, axis=0))
        log_px = p.log_prob(again, output).reshape(b, k)
        mu, log_var = (a.reshape(b, k, total) for a in (mu, log_var))
        eps = mu + jnp.exp(0.5 * log_var) * u
        log_qz = log_normal(u) - 0.5 * jnp.sum(log_var, axis=-1)
        kl = jnp.mean(kl_standard_normal_parts(mu, log_var), axis=1)
        drawn = normal(jax.vmap(jax.random.fold_in, (0, None))(keys, 1), (total,))
        told = Terms(log_px, log_normal(eps), log_qz, kl, eps, mu[:, 0], log_var[:, 0], drawn, extra["step"])
        return told, {**stats, "step": extra["step"] + 1}

    def loss(params: Tree, extra: Tree, keys: Keys, batch: Batch) -> tuple[Array, tuple[dict, Tree]]:
        told, stats = terms(params, extra, keys, batch, samples, True)
        value, metrics = objective(told)
        each = {f"kl_{l}": jnp.sum(part, axis=1) for l, part in _split(told.kl, latents).items()}
        return value, ({**metrics, **each}, stats)

    def log_weights(params: Tree, extra: Tree, keys: Keys, batch: Batch, k: int) -> Array:
        told, _ = terms(params, extra, keys, batch, k, False)
        return told.log_px + told.log_pz - told.log_qz

    def prior(params: Tree, extra: Tree, keys: Keys) -> Array:
        return normal(keys, (total,))

    def predict(params: Tree, extra: Tree, condition: Tree) -> Predict:
        def decode(eps: Array, t: Array) -> Array:
            call, _ = calling(params, extra, False)
            parts = _split(eps, latents)
            z = descend(call, eps.shape[0], lambda l, mu_p, log_var_p, z: parts[l], condition)
            return p.mean(call("decoder", z, condition))

        return decode

    def encode(params: Tree, extra: Tree, x: Array, condition: Tree) -> Array:
        call, _ = calling(params, extra, False)
        return infer(call, x, jnp.zeros((x.shape[0], 1, total)), condition)[1]

    def check_data(batch: Batch) -> None:
        check_support(p, batch.x)
        check_condition(condition, batch)

    return Model(
        init,
        {"vae": loss},
        prior,
        predict,
        one_shot,
        condition=condition,
        encode=encode,
        log_weights=log_weights,
        check=check_data,
        check_weights=lambda batch: check_probability(p, batch.x),
        measure=p.measure,
    )


def product(mu_hat: Array, log_var_hat: Array, mu_p: Array, log_var_p: Array) -> tuple[Array, Array]:
    """(mu, log sigma^2) of eps = (z - mu_p) / sigma_p where z has the density N(z; hat mu, hat sigma^2) N(z; mu_p,
    sigma_p^2), normalised (Sonderby et al. 2016, eq. 17 and 18): with the gain g = sigma_p^2 / (sigma_p^2 + hat
    sigma^2), mu = g (hat mu - mu_p) / sigma_p and sigma^2 = 1 - g."""
    r = log_var_p - log_var_hat
    return jax.nn.sigmoid(r) * (mu_hat - mu_p) * jnp.exp(-0.5 * log_var_p), -jax.nn.softplus(r)


def _gaussian(h: Array) -> tuple[Array, Array]:
    mu, log_var = jnp.split(h.astype(jnp.float32), 2, axis=-1)
    return mu, bounded(log_var)


def _split(z: Array, latents: Sequence[int]) -> dict[int, Array]:
    """{l: layer l's part} of [..., total], where the top layer comes first."""
    parts, start = {}, 0
    for l in range(len(latents), 0, -1):
        parts[l] = z[..., start : start + latents[l - 1]]
        start += latents[l - 1]
    return parts


def _named(up: Sequence, down: Sequence, merge: Sequence | None, decoder: Any) -> dict[str, Network]:
    lists = {"up": up, "down": down, "merge": merge or ()}
    named = {f"{name}{l}": net for name, nets in lists.items() for l, net in enumerate(nets, 1)}
    return {**named, "decoder": decoder}


def _check_counts(up: Sequence, down: Sequence, merge: Sequence | None, latents: Sequence[int], samples: int) -> None:
    check(len(latents) >= 1 and min(latents) >= 1, f"every layer needs at least one dimension, they have {latents}")
    layers, merges = len(latents), len(latents) - 1 if merge is None else len(merge)
    check(
        (len(up), len(down), merges) == (layers, layers - 1, layers - 1),
        f"{layers} layers need {layers} networks up, {layers - 1} down and {layers - 1} to merge or none: there are "
        f"{len(up)}, {len(down)} and {0 if merge is None else merges}",
    )
    check(samples >= 1, f"at least one latent sample is needed, there are {samples}")


def _check_features(name: str, features: int, width: int, top: bool) -> None:
    check(
        features == 0 if top else features >= 1,
        f"network {name!r} gives {features} features besides mu and log sigma^2 of {width} dimensions: it needs "
        + ("none, nothing is above it" if top else "some, which the layer above sees"),
    )


def _check_gaussian(name: str, got: int, width: int) -> None:
    check(got == 2 * width, f"network {name!r} gives {got} numbers, mu and log sigma^2 of its layer are {2 * width}")
