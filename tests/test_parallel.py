"""One step, the same in every layout: on eight devices, and in two processes."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import chex
import jax
import numpy as np
import pytest

from jaxgen import parallel
from jaxgen.types import InputError

HERE = Path(__file__).parent
FAMILIES = ("vae", "gan", "vq", "diffusion")


def environment(devices: int) -> dict[str, str]:
    return {
        **os.environ,
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "NPROC": "64",  # virtual devices share XLA's thread pool: with few threads a collective can deadlock
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(jax.config.jax_compilation_cache_dir),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


@pytest.fixture(scope="module")
def results():
    worker = [sys.executable, str(HERE / "_layouts_worker.py")]
    for timeout in (150, 300):  # a second chance: on one or two cores XLA's virtual devices can wait for each other
        try:
            done = subprocess.run(worker, env=environment(8), capture_output=True, text=True, timeout=timeout)
        except subprocess.TimeoutExpired:
            continue
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout.splitlines()[-1])
    pytest.fail("eight virtual devices did not finish in time, twice")


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layout", ["data", "fsdp", "pmap"])
def test_eight_devices_train_what_one_trains(results, family, layout):
    assert results["devices"] == 8
    result = results[f"{family}/{layout}"]
    assert result["moved"] > 1e-3  # it did train
    assert result["state"] < 2e-6
    assert result["metrics"] < 1e-4


@pytest.mark.slow
def test_eight_devices_draw_and_see_what_one_does(results):
    assert results["features"]["difference"] <= 2 / 255 + 1e-6 and results["features"]["spread"] > 0.02


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layout", ["data", "fsdp", "pmap"])
def test_a_key_draws_the_same_images_on_eight_devices(results, family, layout):
    assert results[f"{family}/{layout}"]["images"] < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_only_fsdp_divides_the_state(results, family):
    assert results[f"{family}/fsdp"]["parts"] == 8
    assert results[f"{family}/data"]["parts"] == 1


@pytest.mark.slow
def test_two_processes_train_what_one_trains(tmp_path):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    command = [sys.executable, "-m", "jaxgen", "train", str(HERE / "tiny" / "vae.py"), "--steps", "12"]
    command += ["--score", "fid", "--score-every", "6", "--score-n", "100", "--score-extractor", "pixels"]
    shared = [*command, "--workdir", str(tmp_path / "two"), "--layout", "data"]
    joined = ["--coordinator", f"127.0.0.1:{port}", "--processes", "2", "--process"]
    jobs = [[*command, "--workdir", str(tmp_path / "one")], *([*shared, *joined, str(i)] for i in range(2))]
    running = [
        subprocess.Popen(job, env=environment(1), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for job in jobs
    ]
    for job in running:
        _, error = job.communicate(timeout=200)
        assert job.returncode == 0, error[-3000:]
    from jaxgen.experiment import load_run

    one, two = (load_run(tmp_path / name) for name in ("one", "two"))
    assert one.step == two.step == 12
    # Adam divides by the gradient's size: where that is nearly nothing, the order of a sum shows
    chex.assert_trees_all_close(one.state.params, two.state.params, rtol=0.0, atol=2e-4)
    best = [json.loads((tmp_path / name / "best" / "best.json").read_text()) for name in ("one", "two")]
    assert best[0]["step"] == best[1]["step"]
    np.testing.assert_allclose(best[0]["value"], best[1]["value"], rtol=1e-2)
    assert (tmp_path / "two" / "samples.png").read_bytes()[:4] == b"\x89PNG"


def test_unknown_layouts_are_named():
    with pytest.raises(InputError, match=r"unknown layout 'ddp': choose one of one, data, fsdp, pmap"):
        parallel.layout("ddp")
