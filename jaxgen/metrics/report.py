"""evaluation.json: scores with everything that they depend on beside them, and tables of them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxgen.metrics.evaluation import Evaluation, Score
from jaxgen.types import InputError, check
from jaxgen.viz import atomically


def read(path: Path) -> list[Evaluation]:
    """The evaluations of a file, oldest first; none where there is no file. InputError for one that is none of ours."""
    if not path.exists():
        return []
    try:
        entries = json.loads(path.read_text())["evaluations"]
        return [
            Evaluation({k: Score(**v) for k, v in e["scores"].items()}, dict(e["protocol"]), dict(e["cost"]))
            for e in entries
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is no file of evaluations ({error}): move it away, or give another --out") from None


def add(path: Path, evaluation: Evaluation) -> Path:
    """Write an evaluation behind the others of the file; of one with the same protocol it takes the place, but for the
    scores that it does not have."""
    evaluation = evaluation._replace(protocol=json.loads(json.dumps(evaluation.protocol)))
    known = read(path)
    for old in [old for old in known if old.protocol == evaluation.protocol]:
        known.remove(old)
        evaluation = evaluation._replace(scores={**old.scores, **evaluation.scores})
    entries = [
        {"scores": {k: _plain(v) for k, v in e.scores.items()}, "protocol": e.protocol, "cost": e.cost}
        for e in [*known, evaluation]
    ]
    text = json.dumps({"evaluations": entries}, indent=1) + "\n"
    return atomically(path, lambda tmp: tmp.write_text(text))


def _plain(score: Score) -> dict[str, Any]:
    """An error that is not known is null: not a number is no JSON."""
    found = score._asdict()
    return found | {k: None for k in ("error", "floor_error") if found[k] is not None and not math.isfinite(found[k])}


def table(scores: Mapping[str, Score]) -> list[str]:
    """Lines of a table of scores beside what real images score."""
    rows = [("", "score", "real images", "at their number")]
    for name, s in scores.items():
        floor = "" if s.floor is None else f"{number(s.floor, s.floor_error)} ({s.floor_images:,})"
        again = "" if s.at_floor is None or s.floor_images == s.images else number(s.at_floor)
        rows.append((name, number(s.value, s.error), floor, again))
    return columns(rows)


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of words as lines, each column as wide as its widest word: the first to the left, others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            word.rjust(w) if i else word.ljust(w) for i, (word, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def number(value: float, error: float | None = None) -> str:
    """A value to the place that its error allows: 12.3 ± 0.4."""
    if error is None or not error > 0:
        return f"{value:.4g}"
    digits = max(0, -_magnitude(error) + 1)
    return f"{value:.{digits}f} ± {error:.{digits}f}"


def _magnitude(x: float) -> int:
    return int(f"{x:e}".split("e")[1])


def comparable(evaluations: Iterable[Evaluation]) -> None:
    """InputError where scores are of different extractors or references, and therefore have nothing to do with
    each other."""
    for key in ("extractor", "digest", "reals", "samples"):
        seen = {str(e.protocol.get(key)) for e in evaluations}
        check(
            len(seen) <= 1,
            f"these runs were evaluated with different {key} ({', '.join(sorted(seen))}): evaluate them alike first",
        )
