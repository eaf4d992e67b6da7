"""Mode coverage of points whose modes are known."""

import numpy as np
import pytest

from jaxgen import data
from jaxgen.data.synthetic import GRID, RING
from jaxgen.metrics.modes import coverage, of_counts
from jaxgen.types import InputError

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(("name", "centres", "std"), [("grid25", GRID, 0.05), ("ring8", RING, 0.01)])
def test_real_points_cover_every_mode_and_lie_within_three_deviations(name, centres, std):
    """P(r < 3) = 1 - exp(-9 / 2) of a Gaussian in the plane; the divergence of n real samples is (M - 1) / 2n."""
    points = data.load(name)
    x = points.take(RNG.choice(points.size, 2500, replace=False)).x
    found = coverage(x, centres, std)
    assert (points.size, found.modes) == (100_000, len(centres))
    assert abs(found.quality - (1 - np.exp(-4.5))) < 4 * np.sqrt(0.011 * 0.989 / 2500)
    assert found.kl < 3 * (len(centres) - 1) / 5000
    some = points.take(np.arange(500))
    np.testing.assert_array_equal(np.square(some.x[:, None] - centres).sum(-1).argmin(1), some.condition)


def test_some_modes_unequally_and_some_points_nowhere():
    x = np.concatenate([np.repeat(RING[:1], 30, 0), np.repeat(RING[3:4], 10, 0), np.zeros((60, 2))])
    found = coverage(x, RING, 0.01)
    assert (found.modes, found.quality) == (2, 0.4)
    np.testing.assert_allclose(found.kl, 0.75 * np.log(0.75 * 8) + 0.25 * np.log(0.25 * 8), rtol=1e-9)
    np.testing.assert_allclose(coverage(x[:30], RING, 0.01).kl, np.log(8), rtol=1e-9)  # one mode of eight
    assert [coverage(RING[:1] + np.array([off, 0.0]), RING, 0.01).modes for off in (0.0299, 0.0301)] == [1, 0]
    nowhere = coverage(np.zeros((5, 2)), RING, 0.01)
    assert (nowhere.modes, nowhere.quality, nowhere.kl) == (0, 0.0, np.inf)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: coverage(np.zeros((5, 3)), RING, 0.01),
        lambda: coverage(np.zeros((0, 2)), RING, 0.01),
        lambda: coverage(np.zeros((5, 2)), RING, 0.0),
        lambda: of_counts(np.array([3, 4]), 6),
    ],
)
def test_what_cannot_be_measured_is_refused(wrong):
    with pytest.raises(InputError):
        wrong()
