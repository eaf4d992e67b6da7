"""What `_layouts_worker` finds of each case, once for all its tests.

The tests are in three files, since a file is one worker's: `test_parallel.py` has those whose samples are compared too,
`test_layouts.py` the others of one player, `test_layouts_of_games.py` those of several.
"""

import functools
import json
import tempfile
from pathlib import Path

import _layouts_worker
from _layouts_worker import CASES
from _tiny import apart, virtual_devices

_MADE = {name: make() for name, make in CASES.items()}


def pairs(coupled: bool, games: bool | None = None) -> list[tuple[str, str]]:
    """(case, layout) of those that are coupled or not, and of several players, of one, or of both."""
    return [
        (name, layout)
        for name, case in _MADE.items()
        for layout in case.layouts
        if case.coupled == coupled and games in (None, len(case.model.game.losses) > 1)
    ]


def assert_it_trains_as_one_does(case: str, layout: str) -> None:
    """What eight devices train in this layout is what one trains."""
    result = results(case)[layout]
    assert result["moved"] > 1e-3  # it did train
    assert result["state"] < 2e-6
    assert result["metrics"] < 1e-4


def results(case: str) -> dict:
    """What the worker found of a case, on eight virtual devices."""
    out, error = run_worker(case)
    assert not error, error
    found = json.loads(out.splitlines()[-1])
    assert found["devices"] == 8
    return found


@functools.cache
def run_worker(case: str) -> tuple[str, str]:
    """(what it prints, "" or why it failed): once, for all tests of a case."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        for timeout in (150, 300):  # a second chance: on one or two cores XLA's virtual devices can wait for each other
            try:
                code, out, error = apart(_layouts_worker.main, case, log, timeout, **virtual_devices(8))
            except TimeoutError:
                continue
            return out, error[-3000:] if code else ""
    return "", "eight virtual devices did not finish in time, twice"
