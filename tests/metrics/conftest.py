"""Tests that need the published weights of Inception: marked `weights`, and skipped where there are none."""

import pytest

from jaxgen.metrics import weights
from jaxgen.types import InputError


def _inception():
    try:
        return weights.find("inception")
    except InputError:
        return None


_FOUND = _inception()  # at import: other tests give the cache another folder while they run


@pytest.fixture(scope="session")
def inception_weights():
    """The file of Inception's weights; a test that takes it, directly or by another fixture, is marked `weights`."""
    if _FOUND is None:
        pytest.skip(f"no weights: {weights.TABLE['inception'].how}")
    return _FOUND


def pytest_collection_modifyitems(items):
    for item in items:
        if "inception_weights" in getattr(item, "fixturenames", ()):
            item.add_marker("weights")
