"""An accelerator that JAX does not use is said in one line, with the plugin that its driver serves."""

import jax
import pytest

from jaxgen import accelerators


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine without accelerators, whose devices are files in a folder of the test."""
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    monkeypatch.setattr(accelerators, "GPUS", (f"{tmp_path}/nvidia[0-9]*",))
    monkeypatch.setattr(accelerators, "TPUS", (f"{tmp_path}/accel[0-9]*",))
    monkeypatch.setattr(accelerators, "DRIVER", f"{tmp_path}/version")
    for name in accelerators.TPU_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("driver", "extra"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19", "cuda12"),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build", "cuda13"),
        (None, "cuda12"),
    ],
)
def test_a_gpu_that_jax_does_not_see_is_said_with_the_plugin_of_its_driver(machine, driver, extra):
    (machine / "nvidia0").touch()
    if driver is not None:
        (machine / "version").write_text(driver)
    line = accelerators.overlooked()
    assert f"pip install 'jax[{extra}]=={jax.__version__}'" in line and "\n" not in line  # never another jax


def test_a_tpu_is_known_by_its_device_or_the_environment(machine, monkeypatch):
    assert accelerators.overlooked() == ""
    monkeypatch.setenv("TPU_NAME", "local")
    assert "a TPU (TPU_NAME)" in accelerators.overlooked() and "jax[tpu]==" in accelerators.overlooked()


def test_nothing_is_said_where_jax_sees_it_or_the_cpu_is_meant(machine, monkeypatch):
    (machine / "nvidia0").touch()
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert accelerators.overlooked() == ""
    monkeypatch.delenv("JAX_PLATFORMS")
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert accelerators.overlooked() == ""
