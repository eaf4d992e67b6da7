"""Flows: their log-determinants against the Jacobian's, and a VAE's weights through them against the evidence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxgen.families import vae
from jaxgen.losses.likelihood import gaussian
from jaxgen.nets import Network, network
from jaxgen.nets.flows import InverseAutoregressive, Planar
from jaxgen.types import Batch, InputError

B, D = 5, 4
RNG = np.random.default_rng(0)
FLOWS = {"planar": Planar(4), "iaf": InverseAutoregressive(2, 16)}


def made(name, features, scale):
    """(z -> (z', log_det), z, context) of a flow with parameters far from its beginning."""
    net = network(FLOWS[name])
    z, context = jnp.float32(RNG.normal(size=(B, D))), jnp.float32(RNG.normal(size=(B, features)))
    params, stats_ = net.init(jax.random.key(0), z, context)
    leaves, tree = jax.tree.flatten(params)
    params = jax.tree.unflatten(tree, [jnp.float32(scale * RNG.normal(size=leaf.shape)) for leaf in leaves])
    return lambda z, c: net.apply(params, stats_, z, c)[0], z, context


@pytest.mark.parametrize("features", [0, 3])
@pytest.mark.parametrize("name", FLOWS)
def test_the_log_determinant_is_the_jacobian_s(name, features):
    flow, z, context = made(name, features, 0.4)
    _, log_det = flow(z, context)

    def one(z, c):
        return flow(z[None], c[None])[0][0]

    jacobian = np.float64(jax.vmap(jax.jacobian(one))(z, context))
    sign, want = np.linalg.slogdet(jacobian)
    np.testing.assert_allclose(log_det, want, rtol=1e-3, atol=1e-4)
    assert name == "iaf" or np.all(sign > 0)  # invertible: it nowhere folds


@pytest.mark.parametrize("scale", [3.0, 30.0])
def test_a_planar_layer_stays_invertible_whatever_its_parameters(scale):
    net = network(Planar(1))
    z = jnp.linspace(-5.0, 5.0, 401)[:, None]
    for seed in range(5):
        params, stats_ = net.init(jax.random.key(seed), z, jnp.zeros((401, 0)))
        params = jax.tree.map(lambda a: scale / 0.05 * a, params)
        out, _ = net.apply(params, stats_, z, jnp.zeros((401, 0)))[0]
        assert np.all(np.diff(np.asarray(out)[:, 0]) > -1e-6)  # in one dimension: it rises


def test_an_autoregressive_step_depends_on_what_came_before_only():
    net = network(InverseAutoregressive(1, 16))
    z, context = jnp.float32(RNG.normal(size=D)), jnp.zeros((1, 0))
    params, stats_ = net.init(jax.random.key(0), z[None], context)
    jacobian = jax.jacobian(lambda z: net.apply(params, stats_, z[None], context)[0][0][0])(z)[::-1]  # unreversed
    np.testing.assert_array_equal(np.triu(jacobian, 1), 0.0)
    assert np.all(np.abs(np.tril(jacobian, -1)[np.tril_indices(D, -1)]) > 0)  # and at all that came before


@pytest.mark.parametrize("name", FLOWS)
def test_the_weights_through_a_flow_still_average_to_the_evidence(name):
    n, sigma, latent = 40_000, 0.8, 2
    w = 0.7 * RNG.normal(size=(latent, 3))

    def linear(params, stats, x, condition=None, train=False):
        return x @ params["w"] + params["b"], stats

    net = Network(lambda key, *inputs: ({}, {}), linear)
    flow = network({"planar": Planar(3), "iaf": InverseAutoregressive(2, 8)}[name])
    model = vae(net, net, latent, likelihood=gaussian(sigma), flow=flow)
    phi, _ = flow.init(jax.random.key(3), jnp.zeros((1, latent)), jnp.zeros((1, 3)))
    encoder = {"w": jnp.float32(0.2 * RNG.normal(size=(3, 7))), "b": jnp.array([0, 0, 1.0, 1.0, 0.5, -1.0, 2.0])}
    params = {
        "vae": {"encoder": encoder, "decoder": {"w": jnp.float32(w), "b": jnp.zeros(3)}, "prior": {}, "flow": phi}
    }
    extra = {"encoder": {}, "decoder": {}, "flow": {}, "step": 0}
    x, keys = jnp.float32(RNG.normal(size=3)), jax.random.split(jax.random.key(0), n)
    log_w = jax.jit(model.density.log_p, static_argnums=4)(params, extra, keys, Batch(jnp.tile(x, (n, 1))), 1)[:, 0]
    weights = np.exp(np.float64(log_w))
    want = stats.multivariate_normal.pdf(x, np.zeros(3), w.T @ w + sigma**2 * np.eye(3))
    assert abs(weights.mean() - want) < 5 * weights.std() / np.sqrt(n)
    assert weights.std() > 0.05 * want  # the posterior is not exact, so that the flow's density matters


def test_a_flow_begins_near_the_identity():
    for name, flow in FLOWS.items():
        net, z = network(flow), jnp.float32(RNG.normal(size=(B, D)))
        params, stats_ = net.init(jax.random.key(0), z, jnp.zeros((B, 0)))
        out, log_det = net.apply(params, stats_, z, jnp.zeros((B, 0)))[0]
        assert np.corrcoef(np.ravel(out), np.ravel(z))[0, 1] > 0.9, name
        assert np.all(np.abs(log_det) < 2.0), name


def test_an_autoregressive_flow_of_one_dimension_is_refused():
    with pytest.raises(InputError, match="at least 2 dimensions"):
        network(InverseAutoregressive(1, 4)).init(jax.random.key(0), jnp.zeros((2, 1)), jnp.zeros((2, 0)))


def test_a_context_that_no_flow_takes_is_refused():
    def wide(params, stats, x, condition=None, train=False):
        return jnp.zeros((x.shape[0], 9)), stats

    net = Network(lambda key, *inputs: ({}, {}), wide)
    with pytest.raises(InputError, match="the encoder gives"):
        vae(net, net, 2).game.init(jax.random.key(0), Batch(jnp.zeros((2, 9))))
