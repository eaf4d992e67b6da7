"""Most of a test session's time is compilation: it is quick rather than thorough, and kept between sessions."""

import atexit
import gc
import os
import shutil
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import pytest

# JAX reads these when it is first imported, and the processes that tests start inherit them.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).resolve().parents[1] / ".jax_cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
# On the CPU: without LLVM's optimisation and XLA's newer emitters of fused loops compiling takes half the time, and
# what runs a few times is none the slower; a program in one part rather than 32 takes 5 % less of two busy cores.
# Measurements (`benchmarks`, `experiments`) are of code as users compile it. The flag of emitters is unknown to jaxlib
# 0.12, which would end the process.
OLDER = tuple(int(part) for part in version("jaxlib").split(".")[:2]) < (0, 11)
QUICK = "--xla_backend_optimization_level=0" + " --xla_cpu_use_fusion_emitters=false" * OLDER
QUICK += " --xla_cpu_parallel_codegen_split_count=1"
os.environ["XLA_FLAGS"] = f"{QUICK} {os.environ.get('XLA_FLAGS', '')}"
sys.path.append(str(Path(__file__).resolve().parents[1] / "experiments"))  # what they measure is tested
# The key that signs runs is not the user's own.
os.environ["XDG_CONFIG_HOME"] = tempfile.mkdtemp(prefix="jaxgen-tests-")
atexit.register(shutil.rmtree, os.environ["XDG_CONFIG_HOME"], ignore_errors=True)


@pytest.fixture(scope="module", autouse=True)
def _programs_of_one_file():
    """A compiled program is dozens of memory maps, of which Linux allows a process 65,530: then compiling ends it."""
    yield
    if "jax" in sys.modules:
        sys.modules["jax"].clear_caches()
        gc.collect()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """With JAXGEN_NO_SKIPS a test that skips has failed: what it needs was to be there."""
    report = yield
    if report.skipped and os.environ.get("JAXGEN_NO_SKIPS") and not hasattr(report, "wasxfail"):
        report.outcome, report.longrepr = "failed", f"skipped under JAXGEN_NO_SKIPS: {report.longrepr}"
    return report


def pytest_xdist_auto_num_workers(config):
    """One more than there are cores: many tests wait for processes that they start, stop and kill."""
    return (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(items):
    """Files with slow tests first: what the last worker still has to do should be short."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
