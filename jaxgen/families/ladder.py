"""Variational autoencoders of several stochastic layers: the ladder VAE and the top-down hierarchical VAE."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxgen.conditions import check_condition, condition_of, repeat
from jaxgen.families.common import Gaussian, check_decoder, codes, folded, output_shape, posterior, split_each, standard
from jaxgen.families.vae import PLAYER
from jaxgen.losses.divergence import kl_standard_normal_parts, log_normal
from jaxgen.losses.evidence import Objective, Terms, elbo
from jaxgen.losses.likelihood import Likelihood, bernoulli, check_probability, check_support
from jaxgen.nets import Network
from jaxgen.types import (
    Array,
    Batch,
    Conditioner,
    Density,
    Game,
    Keys,
    Model,
    Tree,
    Turn,
    check,
    normal,
    one_shot,
    turn,
)

Call = Callable[[str, Array, Tree], Array]  # (a network's name, its input, condition) -> its output
Choose = Callable[[int, Gaussian, Array], Array]  # (l, p(z_l | z_>l), the z above) -> eps_l


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
    """p(z_L) = N(0, I), p(z_l | z_>l) = N(mu_p,l, diag sigma_p,l^2), p(x | z_1, ..., z_L) by `likelihood`; inference
    goes from the top down, q(z_l | z_>l, x) = N(mu_q,l, diag sigma_q,l^2), the precision-weighted product

        1 / sigma_q^2 = 1 / hat sigma^2 + 1 / sigma_p^2,   mu_q = sigma_q^2 (hat mu / hat sigma^2 + mu_p / sigma_p^2)

    of p(z_l | z_>l) and the evidence of x from below, and at the top N(hat mu_L, hat sigma_L^2): the ladder VAE
    (Sonderby et al. 2016, arXiv:1602.02282, eq. 13 to 19). `objective` of `samples` latents an example, nats summed
    over pixels.

    Layer 1 is next to x: up[0], down[0] and latents[0] are its own. Every z_l is a vector, [B, latents[l - 1]].
    up: L networks, (d_{l-1}, condition) -> hat mu_l, log hat sigma_l^2 and the features d_l, side by side; d_0 = x, and
    d_L is nothing. down: L - 1 networks, (z_>l, condition) -> mu_p,l and log sigma_p,l^2, z_>l = [z_L, ..., z_{l+1}].
    decoder: ([z_L, ..., z_1], condition) -> output; it is given all layers, which keeps the upper ones in use.
    merge: L - 1 networks ([d_l, z_>l], condition) -> mu_q,l and log sigma_q,l^2 instead of the product; all that up[l]
    gives below the top is d_l then (the hierarchical VAE of Tomczak and Welling 2017, arXiv:1705.07120, section 4).
    objective: of `losses.evidence`, by default the negative ELBO.

    The noise of `prior` and `encode` is white, eps_l = (z_l - mu_p,l) / sigma_p,l, the top layer first. So are the
    latents of the objective, which leaves every KL what it is: one part a dimension, in closed form given the z drawn
    above. `losses.evidence.tc` needs a q(z | x) that is one Gaussian, which this is for L = 1 only.
    """
    _check_counts(up, down, merge, latents, samples)
    p, bound = bernoulli() if likelihood is None else likelihood, elbo() if objective is None else objective
    parts = Parts(_named(up, down, merge, decoder), tuple(latents), merge is not None, p, condition)

    def loss(params: Tree, extra: Tree, turn: Turn, batch: Batch) -> tuple[Array, tuple[dict, Tree]]:
        terms, stats = parts.terms(params, extra, turn, batch, samples, True)
        value, metrics = bound(terms, turn)
        each = {f"kl_{l}": jnp.sum(part, axis=1) for l, part in _split(terms.kl, latents).items()}
        return value, ({**metrics, **each}, stats)

    def check_data(batch: Batch) -> None:
        check_support(p, batch.x)
        check_condition(condition, batch)

    return Model(
        Game(parts.init, {PLAYER: loss}, check_data),
        standard((sum(latents),)),
        codes,
        one_shot,
        decode=parts.decode,
        encode=parts.encode,
        condition=condition,
        density=Density(parts.log_p, "weights", p.measure, lambda batch: check_probability(p, batch.x)),
    )


class Parts(NamedTuple):
    """networks: by name, up1, ..., down1, ..., merge1, ..., decoder; merged: the inference is `merge`'s."""

    networks: dict[str, Network]
    latents: tuple[int, ...]
    merged: bool
    likelihood: Likelihood
    condition: Conditioner | None

    @property
    def layers(self) -> int:
        return len(self.latents)

    def init(self, key: Array, batch: Batch) -> tuple[dict, Tree]:
        c, params, extra, d = condition_of(self.condition, batch), {}, {}, batch.x
        keys = dict(zip(self.networks, jax.random.split(key, len(self.networks)), strict=True))

        def begin(name: str, x: Array) -> tuple[int, ...]:
            """Parameters for inputs like x; the output's shape."""
            params[name], extra[name] = self.networks[name].init(keys[name], x, c)
            return output_shape(self.networks[name], params[name], extra[name], x, c)

        def numbers(name: str, x: Array) -> int:
            shape = begin(name, x)
            check(len(shape) == 1, f"network {name!r} gives {shape}: give it one axis of numbers")
            return shape[0]

        for l, width in enumerate(self.latents, 1):
            plain = self.merged and l < self.layers
            features = numbers(f"up{l}", d) - (0 if plain else 2 * width)
            _check_features(f"up{l}", features, width, top=l == self.layers)
            above = jnp.zeros((d.shape[0], sum(self.latents[l:])))
            d = jnp.zeros((d.shape[0], features))
            for name, x in (("down", above), ("merge", jnp.concatenate([d, above], axis=1))):
                if f"{name}{l}" in self.networks:
                    _check_gaussian(f"{name}{l}", numbers(f"{name}{l}", x), width)
        z = jnp.zeros((batch.x.shape[0], sum(self.latents)))
        check_decoder(begin("decoder", z), batch.x, self.likelihood)
        return {PLAYER: params}, extra

    def calling(self, params: Tree, extra: Tree, keys: Keys | None = None) -> tuple[Call, dict]:
        """The networks by name, and a dictionary in which their statistics are gathered as they are called; with keys
        in training."""
        stats, names = dict(extra), list(self.networks)

        def call(name: str, x: Array, c: Tree) -> Array:
            own = None
            if keys is not None:  # x may hold several latents of an example
                own = split_each(folded(keys, 2 + names.index(name)), x.shape[0] // keys.shape[0])
            output, stats[name] = self.networks[name].call(own, params[PLAYER][name], extra[name], x, c)
            return output

        return call, stats

    def ascend(self, call: Call, x: Array, c: Tree) -> tuple[list[Gaussian | None], list[Array]]:
        """The evidence of x for each layer, N(hat mu, hat sigma^2), or None where a network merges; and d_l."""
        evidence, d = [], [x]
        for l, width in enumerate(self.latents, 1):
            h, q_hat = call(f"up{l}", d[-1], c).astype(jnp.float32), None
            if not self.merged or l == self.layers:
                q_hat, h = posterior(h, width)
            evidence.append(q_hat)
            d.append(h)
        return evidence, d[1:]

    def descend(self, call: Call, n: int, choose: Choose, c: Tree) -> Array:
        """z = [z_L, ..., z_1], [n, total], z_l = mu_p + sigma_p eps_l with the eps_l chosen when the z above are."""
        z = jnp.zeros((n, 0))
        for l in range(self.layers, 0, -1):
            width = self.latents[l - 1]
            p = Gaussian(jnp.zeros((n, width)), jnp.zeros((n, width)))
            if l < self.layers:
                p, _ = posterior(call(f"down{l}", z, c), width)
            z = jnp.concatenate([z, p.at(choose(l, p, z))], axis=-1)
        return z

    def infer(self, call: Call, x: Array, u: Array, c: Tree) -> tuple[Array, Gaussian]:
        """(z, q) [B K, total] of K latents an example, from u [B, K, total]: q = q(eps_l | z_>l, x), eps_l = mu_l +
        sigma_l u_l."""
        evidence, d = self.ascend(call, x, c)
        n, k, total = u.shape
        us, above, c = _split(u.reshape(n * k, total), self.latents), [], repeat(c, k)

        def choose(l: int, p: Gaussian, z: Array) -> Array:
            q_hat = repeat(evidence[l - 1], k)  # example by example, each with its k latents
            if q_hat is None:
                h = call(f"merge{l}", jnp.concatenate([repeat(d[l - 1], k), z], axis=-1), c)
                q, _ = posterior(h, self.latents[l - 1])
                q = Gaussian((q.mu - p.mu) * jnp.exp(-0.5 * p.log_var), q.log_var - p.log_var)
            else:
                q = q_hat if l == self.layers else product(q_hat, p)
            above.append(q)
            return q.at(us[l])

        z = self.descend(call, n * k, choose, c)
        return z, Gaussian(*(jnp.concatenate(parts, axis=-1) for parts in zip(*above, strict=True)))

    def terms(self, params: Tree, extra: Tree, turn: Turn, batch: Batch, k: int, train: bool) -> tuple[Terms, Tree]:
        """What objectives see of k latents an example, and the statistics."""
        b, c, total = batch.x.shape[0], condition_of(self.condition, batch), sum(self.latents)
        call, stats = self.calling(params, extra, turn.keys if train else None)
        u = normal(turn.keys, (k, total))
        z, q = self.infer(call, batch.x, u, c)
        output = call("decoder", z, repeat(c, k))
        log_px = self.likelihood.log_prob(repeat(batch.x, k), output).reshape(b, k)
        q = Gaussian(*(a.reshape(b, k, total) for a in q))
        eps = q.at(u)
        log_qz = log_normal(u) - 0.5 * jnp.sum(q.log_var, axis=-1)
        kl = jnp.mean(kl_standard_normal_parts(*q), axis=1)
        drawn = normal(folded(turn.keys, 1), (total,))
        # q(z | x) of several layers is not one Gaussian: only that of each layer given the ones above is
        gaussian = (q.mu[:, 0], q.log_var[:, 0]) if self.layers == 1 else (None, None)
        return Terms(log_px, log_normal(eps), log_qz, kl, eps, *gaussian, drawn), stats

    def log_p(self, params: Tree, extra: Tree, keys: Keys, batch: Batch, k: int) -> Array:
        return self.terms(params, extra, turn(keys), batch, k, False)[0].log_w

    def decode(self, params: Tree, extra: Tree, keys: Keys, eps: Array, condition: Tree) -> Array:
        call, _ = self.calling(params, extra)
        parts = _split(eps, self.latents)
        z = self.descend(call, eps.shape[0], lambda l, p, z: parts[l], condition)
        return self.likelihood.mean(call("decoder", z, condition))

    def encode(self, params: Tree, extra: Tree, x: Array, condition: Tree) -> Array:
        call, _ = self.calling(params, extra)
        return self.infer(call, x, jnp.zeros((x.shape[0], 1, sum(self.latents))), condition)[1].mu


def product(q_hat: Gaussian, p: Gaussian) -> Gaussian:
    """N(mu, sigma^2) of eps = (z - mu_p) / sigma_p where z has the density N(z; hat mu, hat sigma^2) N(z; mu_p,
    sigma_p^2), normalised (Sonderby et al. 2016, eq. 17 and 18): with the gain g = sigma_p^2 / (sigma_p^2 + hat
    sigma^2), mu = g (hat mu - mu_p) / sigma_p and sigma^2 = 1 - g."""
    r = p.log_var - q_hat.log_var
    return Gaussian(jax.nn.sigmoid(r) * (q_hat.mu - p.mu) * jnp.exp(-0.5 * p.log_var), -jax.nn.softplus(r))


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
