"""Adversarial objectives that read more of a critic than its score: classes, features, energies.

A critic gives them as fields of `Seen`; those of `nets.conv` do as their `heads` say. Each is an argument of
`families.gan`, and most wrap another objective, which plays the game of real against generated.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxgen.losses.adversarial import Adversarial, Objective, Stateful, changed, of_halves
from jaxgen.losses.likelihood import total
from jaxgen.types import Array, Seen, Tree, Turn, check


def auxiliary_classifier(objective: Objective, weight: float = 1.0) -> Objective:
    """Both players also minimise weight times the cross-entropy of the class, -log P(c | x), in nats: the critic on
    real and on generated images, the generator on its own (Odena, Olah and Shlens 2016, arXiv:1610.09585, eq. 3,
    ACGAN).

    Reads `Seen.logits` [B, K] and the labels that the model is conditioned on; the critic itself is not given them
    (`nets.unconditioned`). Metrics: accuracy_real and accuracy_fake, the share whose likeliest class is the right one.
    """
    check(weight >= 0, f"the weight of the classes must not be negative, it is {weight}")

    def with_classes(base: Adversarial) -> Adversarial:
        def critic(real: Seen, fake: Seen, turn: Turn) -> Array:
            return base.critic(real, fake, turn) + weight * (_cross_entropy(real) + _cross_entropy(fake))

        def report(real: Seen, fake: Seen, turn: Turn) -> dict[str, Array]:
            accuracy = {"accuracy_real": _right(real), "accuracy_fake": _right(fake)}
            return {**base.report(real, fake, turn), **accuracy}

        return base._replace(
            critic=critic,
            generator=lambda real, fake, turn: base.generator(real, fake, turn) + weight * _cross_entropy(fake),
            halves=None,
            report=report,
            reads=(*base.reads, "logits", "condition"),
        )

    return changed(objective, with_classes)


def semi_supervised(objective: Objective, weight: float = 1.0) -> Objective:
    """The critic also minimises weight times -log P(c | x), in nats, of the real images that have a label; those of -1
    have none (Salimans et al. 2016, arXiv:1606.03498, section 5; there the generator matches features).

    Reads `Seen.logits` [B, C] and the labels of the data, on which neither network is conditioned. The critic is to
    have C classes and one of generated images whose logit is 0, so that its score is log sum_k exp l_k:
    `Heads(joint=True)`.
    Metric: accuracy, of the labelled images of the minibatch.
    """
    check(weight >= 0, f"the weight of the classes must not be negative, it is {weight}")

    def over_labelled(value: Array, real: Seen, turn: Turn) -> Array:
        labelled = real.condition >= 0  # divided by their share: the mean over all is then that over the labelled
        return jnp.where(labelled, value, 0.0) / jnp.maximum(jnp.mean(turn.gather(labelled)), 1e-6)

    def with_classes(base: Adversarial) -> Adversarial:
        def critic(real: Seen, fake: Seen, turn: Turn) -> Array:
            return base.critic(real, fake, turn) + weight * over_labelled(_cross_entropy(real), real, turn)

        def report(real: Seen, fake: Seen, turn: Turn) -> dict[str, Array]:
            return {**base.report(real, fake, turn), "accuracy": over_labelled(_right(real), real, turn)}

        reads = (*base.reads, "logits", "condition")
        return base._replace(critic=critic, halves=None, report=report, reads=reads)

    return changed(objective, with_classes)


def feature_matching(objective: Objective) -> Objective:
    """`objective` for the critic; the generator minimises |E f(x) - E f(G(z))|^2, the squared distance of the
    minibatch's mean features, summed over them (Salimans et al. 2016, arXiv:1606.03498, section 3.1). Reads
    `Seen.features`."""

    def matching(base: Adversarial) -> Adversarial:
        def generator(real: Seen, fake: Seen, turn: Turn) -> Array:
            f, g = (_flat(turn.gather(seen.features)) for seen in (real, fake))
            apart = jnp.sum(jnp.square(jnp.mean(f, axis=0) - jnp.mean(g, axis=0)))
            return jnp.broadcast_to(apart, fake.score.shape)

        return base._replace(generator=generator, reads=(*base.reads, "features"))

    return changed(objective, matching)


def energy(margin: float, pull_away: float = 0.0) -> Adversarial:
    """With E(x) = -score, an energy, that of `nets.heads.AutoencoderCritic` the error of its reconstruction:

    critic: E(x) + max(0, margin - E(G(z))); generator: E(G(z)) + pull_away f_PT, with
    f_PT = 1 / (N (N - 1)) sum_{i != j} cos^2(s_i, s_j) of the codes s of a minibatch, `Seen.features`
    (Zhao, Mathieu and LeCun 2016, arXiv:1609.03126, eq. 1, 2 and 4; there pull_away is 0.1).
    Metrics: energy_real, energy_fake. An energy of real images above the margin leaves the game to nobody.
    """
    check(margin > 0, f"the margin of an energy must be positive, it is {margin}")
    check(pull_away >= 0, f"the weight of the pulling-away term must not be negative, it is {pull_away}")

    def generator(real: Seen, fake: Seen, turn: Turn) -> Array:
        return -fake.score + (pull_away * pulling_away(fake.features, turn) if pull_away else 0.0)

    base = of_halves(lambda real: -real.score, lambda fake: jax.nn.relu(margin + fake.score), generator)
    return base._replace(report=energies, reads=("features",) if pull_away else ())


def energies(real: Seen, fake: Seen, turn: Turn) -> dict[str, Array]:
    """The metrics of a critic whose score is minus an energy."""
    return {"energy_real": -real.score, "energy_fake": -fake.score}


def pulling_away(codes: Array | None, turn: Turn) -> Array:
    """1 / (N - 1) sum_{j != i} cos^2(s_i, s_j), [B], over all N of the minibatch (Zhao et al. 2016, arXiv:1609.03126,
    eq. 4: its mean over i)."""
    s = _flat(codes)
    s = s / jnp.sqrt(total(jnp.square(s)) + 1e-12)[:, None]
    every = turn.gather(s)
    n = every.shape[0]
    check(n > 1, "the pulling-away term compares the examples of a minibatch: give at least 2")
    return (jnp.sum(jnp.square(s @ every.T), axis=1) - 1.0) / (n - 1)  # without cos^2(s_i, s_i) = 1


def began(gamma: float = 0.5, rate: float = 1e-3) -> Stateful:
    """With L(x) = -score, the error of an autoencoder's reconstruction (`nets.heads.AutoencoderCritic`):

    critic: L(x) - k_t L(G(z)); generator: L(G(z)); k_{t+1} = k_t + rate (gamma E L(x) - E L(G(z))), kept in [0, 1] and
    0 at first, at each turn of the critic (Berthelot, Schumm and Metz 2017, arXiv:1703.10717, section 3.4).

    gamma: E L(G(z)) / E L(x) at balance; lower ones give sharper and less diverse images. rate: lambda_k.
    Metrics: k; convergence, M = L(x) + |gamma L(x) - L(G(z))| of the minibatch's means, which falls as training goes
    well (section 3.4.1); energy_real, energy_fake.
    """
    check(0 < gamma <= 1, f"gamma is a ratio of two errors, above 0 and at most 1, it is {gamma}")
    check(rate >= 0, f"the rate of k_t must not be negative, it is {rate}")

    def balance(real: Seen, fake: Seen, turn: Turn) -> tuple[Array, Array]:
        of_real, of_fake = (jnp.mean(turn.gather(-seen.score)) for seen in (real, fake))
        return of_real, gamma * of_real - of_fake

    def at(k: Array) -> Adversarial:
        def report(real: Seen, fake: Seen, turn: Turn) -> dict[str, Array]:
            of_real, off = balance(real, fake, turn)
            return {"k": k, "convergence": of_real + jnp.abs(off), **energies(real, fake, turn)}

        base = of_halves(lambda real: -real.score, lambda fake: k * fake.score, lambda real, fake, turn: -fake.score)
        return base._replace(report=report)

    def update(k: Tree, real: Seen, fake: Seen, turn: Turn) -> Tree:
        return jnp.clip(k + rate * balance(real, fake, turn)[1], 0.0, 1.0)

    return Stateful(lambda: jnp.zeros(()), at, update)


def _flat(features: Array | None) -> Array:
    assert features is not None, "the model has checked that the critic gives what the objective reads"
    return features.reshape(features.shape[0], -1)


def _cross_entropy(seen: Seen) -> Array:
    """-log P(c | x), nats [B]; of a label below 0 some number, which the caller leaves out. InputError for what is no
    label."""
    label = seen.condition
    is_label = isinstance(label, jax.Array) and label.ndim == 1 and jnp.issubdtype(label.dtype, jnp.integer)
    check(is_label, "this objective reads labels, int [B], and these data have other conditions: choose labelled ones")
    log_p = jax.nn.log_softmax(_flat(seen.logits))
    return -jnp.take_along_axis(log_p, jnp.maximum(seen.condition, 0)[:, None], axis=-1)[:, 0]


def _right(seen: Seen) -> Array:
    return (jnp.argmax(_flat(seen.logits), axis=-1) == seen.condition).astype(jnp.float32)
