"""Generative adversarial networks: two players, each with its own loss, parameters and statistics."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from _functions import drawn, losses_of

from jaxgen import Experiment, data, fit
from jaxgen.conditions import labels
from jaxgen.families import gan
from jaxgen.families.gan import packed, unpacked
from jaxgen.losses import heads, information
from jaxgen.losses.adversarial import Adversarial, Stateful, non_saturating, wasserstein
from jaxgen.losses.augmentation import instance_noise
from jaxgen.losses.penalties import lazy, r1, scheduled
from jaxgen.nets import Network
from jaxgen.records import read
from jaxgen.training import init_state, make_step
from jaxgen.types import Batch, InputError, Seen

LATENT, DIMS = 2, 3
RNG = np.random.default_rng(0)
KEYS = jax.random.split(jax.random.key(0), 6)
X = jnp.asarray(RNG.normal(size=(6, DIMS)), jnp.float32)


def generate(params, stats, z, condition=None, train=False):
    return z @ params, {"n": stats["n"] + train}


def score(params, stats, x, condition=None, train=False):
    return x @ params, {"n": stats["n"] + train}


def counted(shape, apply):
    return Network(lambda key, *inputs: (jax.random.normal(key, shape), {"n": jnp.zeros((), jnp.int32)}), apply)


MODEL = gan(counted((LATENT, DIMS), generate), counted((DIMS,), score), LATENT)
PARAMS, EXTRA = MODEL.game.init(jax.random.key(1), Batch(X))
LOSSES = {player: jax.jit(loss) for player, loss in losses_of(MODEL).items()}


def softplus(x):
    return np.logaddexp(0.0, np.float64(x))


def test_the_losses_are_the_objective_of_the_scores():
    fake = MODEL.prior({}, {}, KEYS, None) @ PARAMS["generator"] @ PARAMS["critic"]
    loss, (metrics, _) = LOSSES["critic"](PARAMS, EXTRA, KEYS, Batch(X))
    np.testing.assert_allclose(loss, softplus(-(X @ PARAMS["critic"])) + softplus(fake), rtol=1e-5)
    np.testing.assert_allclose(metrics["score_real"], X @ PARAMS["critic"], rtol=1e-5)
    np.testing.assert_allclose(metrics["score_fake"], fake, rtol=1e-5)
    np.testing.assert_allclose(
        LOSSES["generator"](PARAMS, EXTRA, KEYS, Batch(X))[0], softplus(-np.float64(fake)), rtol=1e-5
    )


def test_another_objective_is_two_functions():
    model = gan(counted((LATENT, DIMS), generate), counted((DIMS,), score), LATENT, objective=wasserstein())
    fake = model.prior({}, {}, KEYS, None) @ PARAMS["generator"] @ PARAMS["critic"]
    np.testing.assert_allclose(losses_of(model)["generator"](PARAMS, EXTRA, KEYS, Batch(X))[0], -fake, rtol=1e-6)
    loss = losses_of(model)["critic"](PARAMS, EXTRA, KEYS, Batch(X))[0]
    np.testing.assert_allclose(loss, fake - X @ PARAMS["critic"], rtol=1e-5, atol=1e-6)


def test_a_turn_updates_its_own_player_s_statistics_only():
    # the critic sees real and generated images in batches of their own: two updates
    _, (_, after) = LOSSES["critic"](PARAMS, EXTRA, KEYS, Batch(X))
    assert (int(after["critic"]["n"]), int(after["generator"]["n"])) == (2, 0)
    _, (_, after) = LOSSES["generator"](PARAMS, EXTRA, KEYS, Batch(X))
    assert (int(after["critic"]["n"]), int(after["generator"]["n"])) == (0, 1)


@pytest.mark.parametrize("player, other", [("critic", "generator"), ("generator", "critic")])
def test_a_loss_never_moves_the_other_player(player, other):
    # the loss does depend on the other's parameters: the gradient that is not applied is not zero
    full = jax.grad(lambda params: jnp.mean(LOSSES[player](params, EXTRA, KEYS, Batch(X))[0]))(PARAMS)
    assert all(float(jnp.max(jnp.abs(full[name]))) > 1e-3 for name in (player, other))
    optimizers = {player: optax.sgd(0.1), other: optax.sgd(0.0)}
    state = init_state(MODEL.game, optimizers, jax.random.key(2), Batch(X))
    after, _ = jax.jit(make_step(MODEL.game, optimizers))(state, Batch(X[None, None]))
    assert jnp.all(after.params[other] == state.params[other])
    assert jnp.all(after.params[player] != state.params[player])


def test_the_order_of_turns_is_the_order_of_updates():
    # after the critic's turn the generator plays against the new critic: by hand, with the step's own noise
    optimizers = {"critic": optax.sgd(0.5), "generator": optax.sgd(0.5)}
    state = init_state(MODEL.game, optimizers, jax.random.key(3), Batch(X))
    after, _ = jax.jit(make_step(MODEL.game, optimizers, order=("critic", "generator")))(state, Batch(X[None, None]))
    params = dict(state.params)
    for turn, player in enumerate(("critic", "generator")):
        key = jax.random.fold_in(jax.random.fold_in(state.key, 0), turn)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(6))

        def loss(own, others=params, player=player, keys=keys):
            return jnp.mean(LOSSES[player]({**others, player: own}, EXTRA, keys, Batch(X))[0])

        params = {**params, player: params[player] - 0.5 * jax.grad(loss)(params[player])}
    for player in params:
        np.testing.assert_allclose(after.params[player], params[player], rtol=1e-5, atol=1e-6)


def test_a_generated_image_is_the_generator_s_of_the_latent():
    z = MODEL.prior({}, {}, KEYS, None)
    image = drawn(MODEL, PARAMS, EXTRA, None)(z, jnp.ones(()))
    np.testing.assert_allclose(image, z @ PARAMS["generator"], rtol=1e-6)


def test_both_networks_get_the_condition():
    seen = []

    def apply(params, stats, x, condition, train=False):
        seen.append(condition)
        return jnp.zeros(x.shape[0]), stats

    net = Network(lambda key, *inputs: ({}, {}), apply)
    model, label = gan(net, net, LATENT, condition=labels(3)), jnp.arange(6) % 3
    extra = {"critic": {}, "generator": {}}
    for player in ("critic", "generator"):
        losses_of(model)[player](extra, extra, KEYS, Batch(X, label))
    drawn(model, extra, extra, label)(model.prior({}, {}, KEYS, None), jnp.ones(()))
    assert len(seen) == 7 and all(condition is label for condition in seen)


def test_a_latent_of_no_dimension_is_refused():
    with pytest.raises(InputError, match="at least one dimension"):
        gan(counted((LATENT, DIMS), generate), counted((DIMS,), score), 0)


# --- penalties, objectives with a state, augmentations ----------------------------------------------------------------


def linear_gan(**options):
    return gan(counted((LATENT, DIMS), generate), counted((DIMS,), score), LATENT, **options)


def test_r1_of_a_linear_critic_is_its_squared_weight():
    model = linear_gan(penalties=(r1(6.0),))
    loss, (metrics, _) = losses_of(model)["critic"](PARAMS, EXTRA, KEYS, Batch(X))
    want = np.full(6, 3.0 * np.sum(np.float64(PARAMS["critic"]) ** 2))
    np.testing.assert_allclose(metrics["penalty"], want, rtol=1e-5)
    np.testing.assert_allclose(loss, LOSSES["critic"](PARAMS, EXTRA, KEYS, Batch(X))[0] + want, rtol=1e-5)


def test_a_lazy_penalty_is_paid_in_full_every_few_steps():
    model, always = linear_gan(penalties=(lazy(r1(2.0), 4),)), linear_gan(penalties=(r1(2.0),))
    per_step = losses_of(always)["critic"](PARAMS, EXTRA, KEYS, Batch(X))[1][0]["penalty"]
    for step, times in ((0, 4), (1, 0), (3, 0), (4, 4), (5, 0)):
        paid = jax.jit(losses_of(model, step)["critic"])(PARAMS, EXTRA, KEYS, Batch(X))[1][0]["penalty"]
        np.testing.assert_allclose(paid, times * per_step, rtol=1e-5)
    gradient = jax.grad(
        lambda d: jnp.mean(losses_of(model, 4)["critic"]({**PARAMS, "critic": d}, EXTRA, KEYS, Batch(X))[0])
    )
    plain = jax.grad(lambda d: jnp.mean(LOSSES["critic"]({**PARAMS, "critic": d}, EXTRA, KEYS, Batch(X))[0]))
    d = PARAMS["critic"]
    np.testing.assert_allclose(gradient(d) - plain(d), 4 * 2.0 * d, rtol=1e-4, atol=1e-5)  # of 4 |d|^2


def test_a_scheduled_penalty_is_as_many_times_as_large_as_its_schedule_says():
    schedule = optax.cosine_decay_schedule(1.0, 8, alpha=0.1)
    model, always = (linear_gan(penalties=(p,)) for p in (scheduled(lazy(r1(2.0), 4), schedule), r1(2.0)))
    per_step = losses_of(always)["critic"](PARAMS, EXTRA, KEYS, Batch(X))[1][0]["penalty"]
    for step, times in ((0, 4.0), (1, 0.0), (4, 4 * 0.55), (8, 4 * 0.1), (16, 4 * 0.1)):
        paid = jax.jit(losses_of(model, step)["critic"])(PARAMS, EXTRA, KEYS, Batch(X))[1][0]["penalty"]
        np.testing.assert_allclose(paid, times * per_step, rtol=1e-5)


def test_the_state_of_an_objective_is_carried_and_used():
    """A proportional controller, as BEGAN's k_t: k <- k + (gamma mean real - mean fake)."""

    def at(k):
        return Adversarial(
            critic=lambda real, fake, turn: real.score - k * fake.score,
            generator=lambda real, fake, turn: k * fake.score,
        )

    def update(k, real, fake, turn):
        scores = turn.gather((real.score, fake.score))
        return k + 0.5 * jnp.mean(scores[0]) - jnp.mean(scores[1])

    model = linear_gan(objective=Stateful(lambda: jnp.asarray(0.25), at, update))
    params, extra = model.game.init(jax.random.key(1), Batch(X))
    loss, (metrics, after) = losses_of(model)["critic"](params, extra, KEYS, Batch(X))
    real, fake = (np.float64(metrics[name]) for name in ("score_real", "score_fake"))
    np.testing.assert_allclose(loss, real - 0.25 * fake, rtol=1e-5)
    np.testing.assert_allclose(after["objective"]["state"], 0.25 + 0.5 * real.mean() - fake.mean(), rtol=1e-5)
    loss, (_, later) = losses_of(model)["generator"](params, after, KEYS, Batch(X))
    np.testing.assert_allclose(loss, after["objective"]["state"] * fake, rtol=1e-5)
    assert later["objective"] == after["objective"]  # the critic's turn moves it, the generator's does not


def test_instance_noise_falls_to_nothing_and_reaches_real_and_fake_images():
    model = linear_gan(augmentation=instance_noise(2.0, 10))
    clean = LOSSES["critic"](PARAMS, EXTRA, KEYS, Batch(X))[1][0]
    for step, sigma in ((0, 2.0), (5, 1.0), (10, 0.0), (99, 0.0)):
        noisy = losses_of(model, step)["critic"](PARAMS, EXTRA, KEYS, Batch(X))[1][0]
        for name in ("score_real", "score_fake"):
            moved = np.float64(noisy[name] - clean[name])
            bound = 5 * sigma * np.linalg.norm(PARAMS["critic"])
            assert np.all(np.abs(moved) <= bound + 1e-6) and np.all((np.abs(moved) > 1e-4) == (sigma > 0))


def test_what_does_not_fit_is_refused_before_anything_is_compiled():
    wide = gan(counted((LATENT, DIMS + 1), generate), counted((DIMS,), score), LATENT)
    with pytest.raises(InputError, match=r"the generator makes \(4,\), the data are \(3,\)"):
        wide.game.init(jax.random.key(0), Batch(X))
    table = gan(counted((LATENT, DIMS), generate), counted((DIMS, 2), score), LATENT)
    with pytest.raises(InputError, match=r"the critic gives \(2,\) an example"):
        table.game.init(jax.random.key(0), Batch(X))


# --- packing, heads, codes -------------------------------------------------------------------------------------------


def test_packed_examples_lie_side_by_side_and_come_back():
    x = jnp.asarray(RNG.normal(size=(6, 4, 5, 3)), jnp.float32)
    together = packed(x, 3)
    assert together.shape == (2, 4, 5, 9)
    for i in range(6):
        np.testing.assert_array_equal(together[i // 3, ..., 3 * (i % 3) : 3 * (i % 3) + 3], x[i])
    np.testing.assert_array_equal(unpacked(together, 3), x)
    np.testing.assert_array_equal(packed(X, 2), X.reshape(3, 2 * DIMS))


def test_a_packing_critic_judges_packs_and_its_penalties_are_of_packs():
    wide = counted((2 * DIMS,), score)
    model = gan(counted((LATENT, DIMS), generate), wide, LATENT, penalties=(r1(2.0),), pack=2)
    params, extra = model.game.init(jax.random.key(1), Batch(X))
    loss, (metrics, _) = losses_of(model)["critic"](params, extra, KEYS, Batch(X))
    d = np.float64(params["critic"])
    fake = np.float64(model.prior({}, {}, KEYS, None) @ params["generator"]).reshape(3, -1) @ d
    real = np.float64(X).reshape(3, -1) @ d
    np.testing.assert_allclose(loss, softplus(-real) + softplus(fake) + np.sum(d**2), rtol=1e-4)
    np.testing.assert_allclose(metrics["penalty"], np.full(3, np.sum(d**2)), rtol=1e-5)
    of_generator = losses_of(model)["generator"](params, extra, KEYS, Batch(X))[0]
    np.testing.assert_allclose(of_generator, softplus(-fake), rtol=1e-4)
    with pytest.raises(InputError, match="5 examples cannot be packed by 2"):
        model.game.init(jax.random.key(1), Batch(X[:5]))


def headed(params, stats, x, condition=None, train=False):
    h = x @ params
    return Seen(h[:, 0], logits=h[:, 1:4], codes=h[:, 4:]), {"n": stats["n"] + train}


def test_a_critic_without_what_the_objective_reads_is_refused_before_anything_is_compiled():
    net = counted((LATENT, DIMS), generate)
    classes, features = heads.auxiliary_classifier(non_saturating()), heads.feature_matching(non_saturating())
    plain = counted((DIMS,), score)
    for objective, critic, label, message in [
        (classes, plain, jnp.arange(6) % 3, "reads the critic's logits, which gives none"),
        (features, plain, None, "reads the critic's features, which gives none"),
        (classes, counted((DIMS, 5), headed), None, "reads labels, and the data have none"),
        (classes, counted((DIMS, 5), headed), jnp.ones((6, 2)), "reads labels, int .B., and these data have other"),
        (
            information.information(non_saturating(), information.Codes(0, (2,))),
            counted((DIMS, 5), headed),
            None,
            "gives 1 numbers for codes, these need 2",
        ),
    ]:
        with pytest.raises(InputError, match=message):
            gan(net, critic, LATENT, objective=objective).game.init(jax.random.key(0), Batch(X, label))
    with pytest.raises(InputError, match="packed images have no label of their own"):
        gan(net, plain, LATENT, pack=2, condition=labels(3))
    with pytest.raises(InputError, match="images at a time, not 0"):
        gan(net, plain, LATENT, pack=0)


def test_codes_are_drawn_told_and_reported():
    codes = information.Codes(1, categorical=(3,))
    objective = information.information(non_saturating(), codes)
    model = gan(counted((codes.size, DIMS), generate), counted((DIMS, 7), headed), codes, objective=objective)
    params, extra = model.game.init(jax.random.key(1), Batch(X))
    loss, (metrics, _) = losses_of(model)["critic"](params, extra, KEYS, Batch(X))
    z = model.prior(params, extra, KEYS, None)
    np.testing.assert_array_equal(z, codes.draw(KEYS))
    h = np.float64(z @ params["generator"] @ params["critic"])
    log_q = h[:, 4:] - np.log(np.exp(h[:, 4:]).sum(-1, keepdims=True))
    told = np.sum(log_q * z[:, 1:], -1) + np.log(3)
    np.testing.assert_allclose(metrics["information_categorical"], told, rtol=1e-4, atol=1e-5)
    real = np.float64(X @ params["critic"])[:, 0]
    np.testing.assert_allclose(loss, softplus(-real) + softplus(h[:, 0]) - told, rtol=1e-4, atol=1e-5)


def test_labels_of_the_data_reach_an_objective_whose_networks_do_not_see_them():
    seen = []

    def critic(params, stats, x, condition=None, train=False):
        seen.append(condition)
        return headed(params, stats, x)

    objective = heads.semi_supervised(non_saturating())
    model = gan(counted((LATENT, DIMS), generate), counted((DIMS, 5), critic), LATENT, objective=objective)
    batch = Batch(X, jnp.asarray([0, 1, 2, -1, -1, -1]))
    params, extra = model.game.init(jax.random.key(1), batch)
    _, (metrics, _) = losses_of(model)["critic"](params, extra, KEYS, batch)
    right = np.argmax(np.float64(X @ params["critic"])[:3, 1:4], -1) == np.arange(3)
    np.testing.assert_allclose(np.mean(metrics["accuracy"]), right.mean(), rtol=1e-5)
    assert all(condition is None for condition in seen)


# --- a game that goes wrong ------------------------------------------------------------------------------------------


def test_the_metrics_that_signs_are_read_from():
    _, (metrics, _) = LOSSES["critic"](PARAMS, EXTRA, KEYS, Batch(X))
    fake = np.float64(MODEL.prior({}, {}, KEYS, None) @ PARAMS["generator"])
    spread = [np.std(x, axis=0).mean() for x in (fake, np.float64(X))]
    np.testing.assert_allclose(metrics["diversity"], spread[0] / spread[1], rtol=1e-5)
    scores = np.float64(X) @ PARAMS["critic"], fake @ PARAMS["critic"]
    np.testing.assert_allclose(np.mean(metrics["ranked"]), np.mean(scores[0][:, None] > scores[1][None]), rtol=1e-6)


def test_signs_are_in_the_records_and_said_once(tmp_path, capsys):
    """A generator of one image, a critic that never errs; both players rest after that, so that no gradient is left."""
    still = Network(lambda key, z, c: (jnp.zeros(DIMS), {}), lambda p, s, z, c, train=False: (z[:, :1] * 0 + p, s))
    sure = Network(lambda key, x, c: (jnp.ones(()), {}), lambda p, s, x, c, train=False: (p * jnp.sum(x * x, 1), s))
    points = data.in_memory("points", "train", np.asarray(X) + 3.0)
    players = {"critic": optax.sgd(0.0), "generator": optax.sgd(0.0)}
    exp = Experiment(gan(still, sure, LATENT), players, points, 4, 30, log_every=10, sample_every=30, save_every=30)
    fit(exp, tmp_path / "run", progress=False)
    err = capsys.readouterr().err
    for line in ("scores every real image above", "gradient has vanished", "the modes have collapsed"):
        assert err.count(line) == 1 and err.count("jaxgen: note: step 10: ") == 3
    for record in read(tmp_path / "run"):
        assert {record[f"sign/{name}"] for name in ("critic_sure", "no_gradient", "collapse")} == {1.0}
    healthy = MODEL.game.signs
    fine = {"critic/ranked": 0.8, "generator/grad_norm": 0.1, "critic/diversity": 0.9}
    assert not any(sign.found(fine) for sign in healthy.values())
