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
from _layouts import assert_it_trains_as_one_does, pairs, results
from _tiny import virtual_devices

from jaxgen import checkpoint, parallel
from jaxgen.types import InputError

HERE = Path(__file__).parent


def environment(devices: int) -> dict[str, str]:
    return {
        **os.environ,
        **virtual_devices(devices),
        "JAX_COMPILATION_CACHE_DIR": str(jax.config.jax_compilation_cache_dir),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


SAMPLED = pairs(coupled=False)


@pytest.mark.slow
@pytest.mark.parametrize(("case", "layout"), SAMPLED)
def test_eight_devices_train_what_one_trains(case, layout):
    assert_it_trains_as_one_does(case, layout)


@pytest.mark.slow
@pytest.mark.parametrize(("case", "layout"), SAMPLED)
def test_a_key_draws_the_same_images_on_eight_devices(case, layout):
    assert results(case)[layout]["images"] < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("case", ["vae", "vq"])
def test_features_of_samples_do_not_depend_on_the_devices(case):
    assert results(case)["data"]["features"] <= 2 / 255 + 1e-6 and results(case)["data"]["spread"] > 0.02


@pytest.mark.slow
@pytest.mark.parametrize("case", sorted({case for case, _ in SAMPLED}))
def test_only_fsdp_divides_the_state(case):
    assert results(case)["fsdp"]["parts"] == 8
    assert results(case)["data"]["parts"] == 1


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.mark.slow
def test_two_stores_of_a_run_save_at_once_in_two_processes(tmp_path):
    # orbax's processes wait for each other by names, which two stores once shared
    command = [sys.executable, str(HERE / "_stores_worker.py")]
    port = str(free_port())
    running = [
        subprocess.Popen([*command, str(i), port, str(tmp_path)], env=environment(1), stderr=subprocess.PIPE, text=True)
        for i in range(2)
    ]
    try:
        for job in running:
            _, error = job.communicate(timeout=200)
            assert job.returncode == 0, error[-3000:]
    finally:
        for job in running:
            job.kill()
    assert checkpoint.steps(tmp_path / "all") == checkpoint.steps(tmp_path / "best") == [7, 8, 9]


@pytest.mark.slow
def test_two_processes_train_what_one_trains(tmp_path):
    port = free_port()
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
    from jaxgen.runs import load_run

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
