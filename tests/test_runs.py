"""The folder of a run: it stands by itself, it runs no stranger's code, and others can begin with it."""

from __future__ import annotations

import json
import py_compile
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from _tiny import Home, Process, assert_same_runs, home, tiny

import jaxgen
from jaxgen import checkpoint, cli, data, grafts, runs, trust
from jaxgen.data import described, order
from jaxgen.families import Classifier
from jaxgen.runs import load_run
from jaxgen.types import Batch, Game, InputError, Model

__all__ = ["home"]

POINTS = """
import optax
from jaxgen import Experiment, data, families
from jaxgen.conditions import labels
from jaxgen.nets import network
from jaxgen.nets.mlp import MLP

MARK = "first"

def experiment(*, name: str = "points.npz", steps: int = 4, lr: float = 1e-3) -> Experiment:
    points = data.load(name)
    encoder, decoder = network(MLP((4,), (8,), classes=2)), network(MLP(points.shape, (8,), classes=2))
    model = families.vae(encoder, decoder, 2, condition=labels(len(points.classes)))
    return Experiment(model, {"vae": optax.adam(lr)}, points, batch=4, steps=steps, save_every=2, log_every=2)
"""


@pytest.fixture
def points(tmp_path, monkeypatch) -> Path:
    """A folder with an experiment on an .npz of pictures, in which the test works."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    x = 255 * rng.integers(0, 2, (20, 4, 4, 1), dtype=np.uint8)
    np.savez(tmp_path / "points.npz", x=x, labels=np.arange(20) % 2)
    (tmp_path / "points.py").write_text(POINTS)
    return tmp_path


def trained(**keywords: object) -> Path:
    exp = jaxgen.load_experiment("points.py", name=str(Path("points.npz").resolve()), **keywords)
    jaxgen.fit(exp, "run", progress=False)
    return Path("run")


def refusal(capsys: pytest.CaptureFixture, *arguments: object) -> str:
    """The one line that a command refuses with."""
    with pytest.raises(SystemExit) as error:
        cli.main([*map(str, arguments)])
    err = capsys.readouterr().err
    assert error.value.code == 2 and err.count("\n") == 1
    return err


# --- it stands by itself -------------------------------------------------------------------------------------------


def test_a_run_is_sampled_where_its_data_and_its_experiment_are_gone(points, capsys):
    run = trained()
    model, state = jaxgen.load(run)
    before = jaxgen.sample(model, state, jax.random.key(0), 3, 1)
    Path("points.npz").unlink()
    Path("points.py").unlink()
    moved = run.rename("moved")
    model, state = jaxgen.load(moved)
    np.testing.assert_array_equal(jaxgen.sample(model, state, jax.random.key(0), 3, 1), before)
    a, b = jax.random.normal(jax.random.key(1), (2, 2, 2))
    assert jaxgen.interpolate(model, state, a, b, steps=3, condition=1).shape == (2, 3, 4, 4, 1)
    capsys.readouterr()
    cli.main(["sample", str(moved), "--n", "4", "--out", "x.npz"])
    cli.main(["show", str(moved)])
    out, err = capsys.readouterr()
    assert "18 examples of shape (4, 4, 1)" in out and err == ""
    with np.load("x.npz") as arrays:
        assert arrays["x"].shape == (4, 4, 4, 1) and list(arrays["labels"]) == [0, 1, 0, 1]
    line = refusal(capsys, "reconstruct", moved)
    assert "points.npz" in line and "there is no file" in line  # of whatever needs the images


def test_a_run_of_a_prepared_set_is_sampled_where_it_is_not_prepared(tmp_path, monkeypatch):
    if not data.tfds_images.summary("mnist")[1]:
        pytest.skip("MNIST is not prepared here")
    text = POINTS.replace('"points.npz"', '"mnist"').replace("classes=2", "classes=10")
    (tmp_path / "mnist_vae.py").write_text(text)
    jaxgen.fit(jaxgen.load_experiment(tmp_path / "mnist_vae.py"), tmp_path / "run", progress=False)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "elsewhere"))
    run = load_run(tmp_path / "run")
    exp = run.experiment
    assert (exp.data.size, exp.data.shape, len(exp.data.classes)) == (60_000, (28, 28, 1), 10)
    assert jaxgen.sample(exp.model, run.state, jax.random.key(0), 2, 7).shape == (2, 28, 28, 1)
    with pytest.raises(InputError, match=r"needs the examples of mnist, .* jaxgen data prepare mnist"):
        exp.data.take(np.arange(2))


def test_another_data_set_in_the_place_of_the_first_is_refused(points):
    run = trained()
    np.savez("points.npz", x=np.zeros((30, 4, 4, 1), np.uint8), labels=np.arange(30) % 2)
    again = load_run(run).experiment
    with pytest.raises(InputError, match=r"has 27 examples of shape \(4, 4, 1\), the run was trained on 18"):
        again.data.take(np.zeros(1, np.int64))


def test_a_data_set_is_described_as_it_is():
    digits = data.load("digits")
    plain = json.loads(json.dumps(described.describe("digits", digits)))
    stand_in = described.stand_in(plain, lambda: digits)
    assert stand_in._replace(take=digits.take) == digits
    np.testing.assert_array_equal(stand_in.take(np.arange(3)).x, digits.take(np.arange(3)).x)
    maybe = Batch(np.zeros((5, 2), np.float32), {"a": np.zeros((5, 3), np.int32), "b": (np.ones(5, bool), None)})
    outline = json.loads(json.dumps(described.outline(digits._replace(take=lambda i: maybe))))
    found = described.batch_of(outline, 7)
    wanted = jax.eval_shape(lambda: jax.tree.map(lambda a: jnp.zeros((7, *a.shape[1:]), a.dtype), maybe))
    shapes = [jax.tree.map(lambda a: (a.shape, a.dtype), tree) for tree in (found, wanted)]
    assert shapes[0] == shapes[1]


def test_a_changed_experiment_is_named_and_the_runs_own_copy_is_used(points, capsys):
    run = trained()
    Path("points.py").write_text(POINTS.replace("(8,)", "(16,)").replace("first", "second"))
    state = load_run(run).state  # of the sizes that it was trained with
    assert "points.py has changed since the run in run was trained, which keeps its own copy" in capsys.readouterr().err
    assert {a.shape[0] for a in jax.tree.leaves(state.params) if a.ndim == 1} >= {8}


def test_a_run_that_goes_on_with_a_changed_file_keeps_both(points, capsys):
    run = trained()
    Path("points.py").write_text(POINTS.replace("first", "second"))
    trained(steps=6)
    assert "has changed since the run in run began: it goes on with the file as it is now" in capsys.readouterr().err
    assert 'MARK = "second"' in (run / "experiment.py").read_text()
    assert 'MARK = "first"' in (run / "experiment-until-4.py").read_text()
    assert load_run(run).step == 6
    Path("points.py").write_text(POINTS.replace("first", "third"))
    trained(steps=6)  # nothing is left to train, nothing changes
    assert 'MARK = "second"' in (run / "experiment.py").read_text()


# --- whose code it runs --------------------------------------------------------------------------------------------


@pytest.fixture
def strange(points, monkeypatch) -> Path:
    """The run of a user with another key."""
    run = trained()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(points / "mine"))
    return run


def test_a_strangers_run_executes_nothing(strange, capsys, monkeypatch):
    text = (strange / "experiment.py").read_text()
    settings = json.loads((strange / "settings.json").read_text())
    (strange / "experiment.py").write_text(text + "\nopen('executed', 'w')\n")
    with pytest.raises(InputError, match=r"experiment.py has changed since the run was trained; .* --trust"):
        load_run(strange)
    settings["sha256"] = trust.sha256((strange / "experiment.py").read_text())
    (strange / "settings.json").write_text(json.dumps(settings))
    for signature in (settings["signature"], "", "0" * 64):
        (strange / "settings.json").write_text(json.dumps(settings | {"signature": signature}))
        with pytest.raises(InputError, match=r"not signed by you, .* --trust \(trust=True in Python\)"):
            load_run(strange)
    line = refusal(capsys, "sample", strange)
    assert "not signed by you" in line and "--trust" in line
    with pytest.raises(InputError, match="not signed by you"):
        jaxgen.fit(jaxgen.load_experiment("points.py", name=str(Path("points.npz").resolve())), "new", start=strange)
    assert not Path("executed").exists() and not Path("new").exists()
    cli.main(["sample", str(strange), "--n", "2", "--trust"])
    assert Path("executed").exists() and Path("run/sample.png").exists()
    assert load_run(strange, trust=True).step == jaxgen.load(strange, trust=True)[1].step == 4
    with trust.trusting():
        assert load_run(strange).step == 4


def test_a_change_of_ones_own_runs_code_is_refused_too(points):
    run = trained()
    assert load_run(run).step == 4
    (run / "experiment.py").write_text((run / "experiment.py").read_text().replace("first", "other"))
    with pytest.raises(InputError, match="has changed since the run was trained"):
        load_run(run)


def test_compiled_code_beside_the_source_is_not_executed(points):
    run = trained()
    Path("evil.py").write_text("open('executed', 'w')\n" + POINTS)
    for name in ("experiment", "jaxgen_experiment_experiment"):
        cache = run / "__pycache__" / f"{name}.{py_compile.sys.implementation.cache_tag}.pyc"
        py_compile.compile("evil.py", cache, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    assert load_run(run).step == 4 and not Path("executed").exists()


def test_the_key_is_its_owners_alone(points, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(points / "new"))
    signature = trust.sign("text")
    key = points / "new" / "jaxgen" / "key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600 and key.stat().st_size == 32
    assert trust.is_own("text", signature) and not trust.is_own("other", signature)
    assert signature == trust.sign("text") != trust.sign("other") != ""
    key.chmod(0o644)
    assert not trust.is_own("text", signature) and trust.sign("text") == ""
    assert "not a key that only its owner can read" in capsys.readouterr().err


def test_without_a_place_for_a_key_runs_are_trained_and_ask(points, monkeypatch, capsys):
    Path("file").touch()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(points / "file"))
    run = trained()
    assert capsys.readouterr().err.count("no key for signing runs can be kept") == 1
    with pytest.raises(InputError, match="not signed by you"):
        load_run(run)
    assert load_run(run, trust=True).step == 4


# --- an experiment's own mistakes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "keywords", "line"),
    [
        ("raise ValueError('two\\n lines')", {}, "raised ValueError: two lines; mend the file or the keywords"),
        ("return experiments", {}, "raised NameError: name 'experiments' is not defined"),
        ("raise InputError('as it is')", {}, "^as it is$"),
        ("assert False", {"steps": -5}, "^steps must be at least 1, it is -5$"),
        ("assert False", {"ema": 1.5}, r"^ema must be in \[0, 1\), it is 1.5$"),
        ("assert False", {}, "raised AssertionError; mend"),
    ],
)
def test_what_an_experiment_raises_becomes_one_line(tmp_path, monkeypatch, capsys, code, keywords, line):
    path = tmp_path / "own.py"
    head = "from jaxgen.types import InputError\ndef experiment(*, steps: int = 3, ema: float = 0.0):\n    "
    path.write_text(head + code)
    with pytest.raises(InputError, match=line):
        jaxgen.load_experiment(path, **keywords)
    flags = [f"--{name}={value}" for name, value in keywords.items()]
    assert "Traceback" not in refusal(capsys, "train", path, *flags)
    monkeypatch.setenv("JAXGEN_TRACEBACK", "1")
    with pytest.raises(SystemExit):
        cli.main(["train", str(path), *flags])
    assert "Traceback" in capsys.readouterr().err


def test_networks_that_cannot_be_initialised_are_one_line(points, capsys):
    Path("wrong.py").write_text(POINTS.replace("MLP((4,), (8,), classes=2)", "MLP((4,), (-8,), classes=2)"))
    assert "wrong.py raised" in refusal(capsys, "train", "wrong.py")
    assert not Path("runs").exists()


# --- how it begins -------------------------------------------------------------------------------------------------


def by_the_data(key, batch):
    return {"player": {"mean": jnp.mean(batch.x, axis=0)}}, {}


def test_networks_are_initialised_on_the_first_minibatch_itself():
    digits = data.load("digits")
    exp = jaxgen.Experiment(
        Classifier(Game(by_the_data, {"player": None}), None),  # type: ignore[arg-type, dict-item]
        {"player": optax.sgd(1.0)},
        digits,
        batch=32,
        accumulate=2,
        seed=3,
    )
    state = jax.jit(lambda batch: runs.init(exp, batch))(runs.first_batch(exp))
    first = digits.take(order(digits.size, 3, 0, 16)).x / 127.5 - 1
    np.testing.assert_allclose(state.params["player"]["mean"], first.mean(0), atol=1e-5)
    assert np.abs(first.mean(0)).max() > 0.1


def test_a_frozen_group_takes_all_of_another_run(home: Home, tmp_path):
    donor = load_run(home.run("vae"))
    exp = jaxgen.load_experiment(tiny("latent"), steps=1)
    for start in ({"autoencoder": home.run("vae")}, None):  # and so it does, should it be killed early
        state = jaxgen.fit(exp, tmp_path / "run", start=start, progress=False)
        same(state.params["autoencoder"], donor.state.ema.params)  # averaged ones
        assert set(state.ema.params) == {"vae"} and int(state.step) == 1
        shutil.rmtree(tmp_path / "run" / "checkpoints")
    noted = json.loads((tmp_path / "run" / "settings.json").read_text())["start"]
    assert noted == {"autoencoder": str(home.run("vae").resolve())}


def test_a_group_begins_with_the_donors_group_of_that_name(home: Home, tmp_path, capsys):
    donor, still = load_run(home.run("gan")).state, jaxgen.load_experiment(tiny("gan"), steps=1)
    still = still._replace(optimizers={player: optax.sgd(0.0) for player in still.optimizers}, ema=0.5)
    state = jaxgen.fit(still, tmp_path / "run", start={"critic": home.run("gan")}, progress=False)
    fresh = runs.init(still, runs.first_batch(still))
    same(state.params["critic"], donor.ema.params["critic"])
    for ours, theirs in zip(*map(jax.tree.leaves, (state.params["generator"], fresh.params["generator"])), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    same(state.ema.params["critic"], donor.ema.params["critic"])


def test_a_grafts_part_of_extra_comes_with_it(home: Home):
    run, exp = home.run("gan"), jaxgen.load_experiment(tiny("gan"))
    donor, fresh = load_run(run).state, runs.init(exp, runs.first_batch(exp))
    graft = grafts.load({"critic": run}, fresh)
    assert set(graft.params) == {"critic"} and set(graft.extra) <= {"critic"}
    state = grafts.apply(fresh, exp.game, graft)
    for group in fresh.extra:
        same(state.extra[group], donor.ema.extra[group] if group in graft.extra else fresh.extra[group])
    same(state.ema.extra, state.extra)
    taken = jax.tree.leaves((state.params, state.extra, state.ema))
    assert len({a.unsafe_buffer_pointer() for a in taken}) == len(taken)  # the first step donates them all


def test_grafts_that_do_not_fit_are_refused_by_shape(home: Home, tmp_path):
    exp = jaxgen.load_experiment(tiny("latent"), width=24)
    wrong = r"the group autoencoder cannot begin with the run of vae: vae/\S+ is float32\[\d+\] in vae's groups vae, "
    with pytest.raises(InputError, match=wrong + r"float32\[\d+\] in autoencoder; give a run of the same networks"):
        jaxgen.fit(exp, tmp_path / "run", start={"autoencoder": home.run("vae")}, progress=False)
    with pytest.raises(InputError, match="no group encoder to start with a run: this one has autoencoder, vae"):
        jaxgen.fit(exp, tmp_path / "run", start={"encoder": home.run("vae")}, progress=False)
    assert not (tmp_path / "run").exists()


def test_a_frozen_group_that_nobody_trained_is_said(home: Home, tmp_path, capsys):
    exp = jaxgen.load_experiment(tiny("latent"), steps=1)
    for start, said in ((None, True), ({"autoencoder": home.run("vae")}, False)):
        jaxgen.fit(exp, tmp_path / str(said), start=start, progress=False)
        assert ("frozen, begins at random: --start autoencoder=RUN" in capsys.readouterr().err) == said
    jaxgen.fit(exp._replace(steps=2), tmp_path / "True", progress=False)  # it goes on
    assert "at random" not in capsys.readouterr().err


def test_a_start_is_read_from_the_command_line(home: Home, tmp_path, capsys):
    assert grafts.parse("a=runs/x, b=y") == {"a": "runs/x", "b": "y"}
    assert grafts.parse("runs/x") == "runs/x"
    (tmp_path / "a=b").mkdir()
    assert grafts.parse(str(tmp_path / "a=b")) == str(tmp_path / "a=b")
    with pytest.raises(InputError, match="--start a=b,c: give the folder of a run, or GROUP=RUN"):
        grafts.parse("a=b,c")
    run, start = tmp_path / "run", f"autoencoder={home.run('vae')}"
    cli.main(["train", str(tiny("latent")), "--workdir", str(run), "--steps", "2", "--start", start])
    cli.main(["train", str(tiny("latent")), "--workdir", str(run), "--steps", "4", "--start", start])
    cli.main(["train", str(tiny("latent")), "--workdir", str(run), "--steps", "6"])
    same(load_run(run).state.params["autoencoder"], load_run(home.run("vae")).state.ema.params)
    capsys.readouterr()
    other = ("--workdir", run, "--steps", 8, "--start", f"autoencoder={run}")
    assert "holds a run that began with" in refusal(capsys, "train", tiny("latent"), *other)


def test_a_latent_run_killed_before_its_first_checkpoint_begins_with_the_same(home: Home, tmp_path):
    arguments = ("train", tiny("latent"), "--workdir", tmp_path / "run")
    first = Process(tmp_path / "0.log", *arguments, "--start", f"autoencoder={home.run('vae')}")
    first.kill_when(lambda: (tmp_path / "run" / "settings.json").exists())
    assert checkpoint.latest(tmp_path / "run" / "checkpoints") in (None, 10)
    last = Process(tmp_path / "1.log", *arguments)
    assert last.end() == 0, last.err.read_text()
    reference = Process(
        tmp_path / "2.log",
        *("train", tiny("latent"), "--workdir", tmp_path / "other"),
        *("--start", f"autoencoder={home.run('vae')}"),
    )
    assert reference.end() == 0, reference.err.read_text()
    assert_same_runs(tmp_path / "run", tmp_path / "other")


def same(ours, theirs) -> None:
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_array_equal(a, b)


# --- what draws no samples -----------------------------------------------------------------------------------------


def test_a_classifier_is_trained_without_pictures_and_is_not_sampled(tmp_path, capsys):
    run = tmp_path / "run"
    cli.main(["train", str(tiny("classifier")), "--workdir", str(run)])
    assert capsys.readouterr().err.splitlines()[-1].endswith("no picture: it draws no samples")
    assert not (run / "samples").exists() and not (run / "samples.png").exists()
    cli.main(["train", str(tiny("classifier")), "--workdir", str(run)])
    assert "is trained to step 40 already; no picture" in capsys.readouterr().err
    model, state = jaxgen.load(run)
    digits = data.normalize(data.load("digits", "test").take(np.arange(100)))
    log_p = model.log_prob(state.params, state.extra, jnp.asarray(digits.x), jnp.zeros(()))
    assert np.mean(np.argmax(log_p, 1) == digits.condition) > 0.3
    assert "draws no samples" in refusal(capsys, "sample", run)
    wrong = refusal(capsys, "train", tiny("classifier"), "--workdir", tmp_path / "other", "--score", "fid")
    assert "draws no samples, which a score needs" in wrong and not (tmp_path / "other").exists()
    cli.main(["show", str(run)])
    assert "player      classifier" in capsys.readouterr().out


def test_points_that_are_not_in_the_plane_are_trained_without_pictures(tmp_path, capsys):
    x = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    vae = jaxgen.load_experiment(tiny("vae"), steps=2)
    cube = data.in_memory("cube", "train", np.clip(x, -1, 1))
    from jaxgen import families
    from jaxgen.nets import network
    from jaxgen.nets.mlp import MLP

    model = families.vae(network(MLP((4,), (8,))), network(MLP((3,), (8,))), 2)
    assert isinstance(model, Model)
    exp = vae._replace(model=model, data=cube, source="", code="", settings={}, name="cube", sample_every=1)
    jaxgen.fit(exp, tmp_path / "run", progress=False)
    assert "no picture: there is no picture of samples of shape (3,)" in capsys.readouterr().err


def test_points_with_attributes_are_pictured(tmp_path, capsys):
    from jaxgen import families
    from jaxgen.conditions import attributes
    from jaxgen.nets import network
    from jaxgen.nets.mlp import MLP

    x = np.clip(np.random.default_rng(0).normal(size=(40, 2)), -1, 1).astype(np.float32)
    plane = data.in_memory("plane", "train", x, (np.arange(80) % 2).reshape(40, 2))
    model = families.vae(network(MLP((4,), (8,))), network(MLP((2,), (8,))), 2, condition=attributes(2))
    exp = jaxgen.Experiment(model, {"vae": optax.adam(1e-3)}, plane, batch=4, steps=1, name="plane")
    jaxgen.fit(exp, tmp_path / "run", progress=False)
    assert (tmp_path / "run" / "samples.png").exists()


def test_a_set_without_names_of_its_classes_draws_every_class(tmp_path):
    from jaxgen.hooks import picture_plan

    exp = jaxgen.load_experiment(tiny("diffusion"))
    plan = picture_plan(exp._replace(data=exp.data._replace(classes=())))
    np.testing.assert_array_equal(plan.condition, np.arange(80) % 10)
    assert (plan.n, plan.columns) == (80, 10)


def test_the_front_door_shows_the_api_only():
    assert dir(jaxgen) == sorted([*jaxgen.__all__, *jaxgen.ROOMS, "__version__"])
    code = "import jaxgen, sys; assert 'jax' not in sys.modules; jaxgen.families.vae, jaxgen.data.load, jaxgen.sampling"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert all(callable(getattr(jaxgen, name)) for name in jaxgen.__all__)
    modules = {path.stem for path in Path(jaxgen.__file__).parent.glob("*")}
    assert not modules & set(jaxgen.__all__)  # once imported, a module takes the place of a function of its name
