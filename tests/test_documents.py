"""The site's pages are there, and its reference names modules that are."""

import importlib.util
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxgen
from jaxgen import families, processes
from jaxgen.losses.evidence import Terms
from jaxgen.nets import network
from jaxgen.nets.mlp import MLP
from jaxgen.types import Seen, turn

ROOT = Path(__file__).parent.parent
PAGES = re.findall(r"- (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.M)


def test_every_page_is_in_the_navigation_and_the_reverse():
    there = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert there == set(PAGES) and len(PAGES) >= 10


def blocks(page):
    """The names that the page's Python makes."""
    names = {}
    for block in re.findall(r"```python\n(.*?)```", (ROOT / "docs" / page).read_text(), re.S):
        exec(block, names)
    return names


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith("families/")])
def test_the_model_of_a_family_s_page_trains(page, tmp_path):
    exp = blocks(page)["exp"]
    state = jaxgen.fit(exp._replace(steps=2, batch=8), tmp_path, progress=False)
    assert int(state.step) == 2
    assert (tmp_path / "samples.png").exists()


def test_the_losses_of_the_page_are_their_equations(tmp_path):
    made, where = blocks("loss.md"), turn(jax.random.split(jax.random.key(0), 2))
    real, fake = Seen(jnp.array([0.5, -1.0])), Seen(jnp.array([2.0, 0.0]))
    objective = made["soft_hinge"]()
    expected = np.log1p(np.exp(1 - np.array([0.5, -1.0]))) + np.log1p(np.exp(1 + np.array([2.0, 0.0])))
    np.testing.assert_allclose(objective.critic(real, fake, where), expected, rtol=1e-6)
    np.testing.assert_allclose(objective.generator(real, fake, where), [-2.0, 0.0])
    px, pz, qz = jnp.array([[-3.0, -5.0]]), jnp.array([[-1.0, -2.0]]), jnp.array([[0.5, 0.5]])
    terms = Terms(px, pz, qz, qz - pz, jnp.zeros((1, 2, 1)), None, None, jnp.zeros((1, 1)))
    loss, metrics = made["squared_kl"](2.0)(terms, where)
    np.testing.assert_allclose((loss, metrics["kl"]), ([4.0 + 2.0 * 4.0], [2.0]))
    t = jnp.array([0.2, 0.9])
    snr = np.exp(processes.log_snr(processes.cosine(), t))
    np.testing.assert_allclose(made["truncated_snr"]()(processes.cosine(), t), [snr[0], 1.0], rtol=1e-5)
    assert snr[0] > 1 > snr[1]


def test_a_replaced_loss_pays_for_its_parameters_too(tmp_path):
    digits = jaxgen.data.load("digits")
    model = families.autoencoder(network(MLP((2,), (4,))), network(MLP(digits.shape, (4,))), 2)
    heavier = blocks("loss.md")["with_weight_decay"](model, "autoencoder", 0.5)
    batch = jaxgen.data.pipeline.normalize(digits.take(np.arange(4)))
    params, extra = model.game.init(jax.random.key(0), batch)
    where = turn(jax.random.split(jax.random.key(1), 4))
    plain, paid = (m.game.losses["autoencoder"](params, extra, where, batch)[0] for m in (model, heavier))
    squares = optax.global_norm(params["autoencoder"]) ** 2
    np.testing.assert_allclose(paid - plain, np.full(4, 0.5 * squares), rtol=1e-3)


def test_the_page_of_scores_scores(capsys):
    blocks("evaluation.md")
    assert "Estimate(" in capsys.readouterr().out


def test_the_reference_names_modules_that_are_there():
    text = "\n".join((ROOT / "docs" / page).read_text() for page in PAGES if page.startswith("reference/"))
    named = re.findall(r"^::: (\S+)$", text, re.M)
    assert all(importlib.util.find_spec(name) is not None for name in named)
    rooms = {path.parent.name for path in (ROOT / "jaxgen").glob("*/__init__.py")}
    assert {f"jaxgen.{room}" for room in rooms - {"cli", "metrics", "recipes", "study"}} <= set(named)
