"""One step in every layout, of games of several players; see `_layouts.py`."""

import pytest
from _layouts import assert_it_trains_as_one_does, pairs


@pytest.mark.slow
@pytest.mark.parametrize(("case", "layout"), pairs(coupled=True, games=True))
def test_eight_devices_train_what_one_trains(case, layout):
    assert_it_trains_as_one_does(case, layout)
