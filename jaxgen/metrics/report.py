"""evaluation.json: scores with everything that they depend on, and tables of them."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxgen import inputs
from jaxgen.files import atomically
from jaxgen.metrics.estimate import Estimate
from jaxgen.types import check


class Score(NamedTuple):
    """estimate       the score, of so many `images`
    better         "lower" or "higher", or ""
    floor          the same score of `floor_images` held-out real images in place of the generated ones, or of one half
                   of the reference set against the other where nothing is held out; None: a score without a floor
    at_floor       the score of as many generated images against the same reference: what to compare the floor with
    """

    estimate: Estimate
    better: str
    images: int
    floor: Estimate | None = None
    floor_images: int | None = None
    at_floor: Estimate | None = None

    @property
    def value(self) -> float:
        """The score itself."""
        return self.estimate.value


class Evaluation(NamedTuple):
    """scores: {name: Score}; protocol: what they depend on, in plain values; cost: of drawing the samples."""

    scores: Mapping[str, Score]
    protocol: Mapping[str, Any]
    cost: Mapping[str, Any] = {}


def number(estimate: Estimate) -> str:
    """12.34 ± 0.45: the value to the place of its error's second digit, four digits where the error is unknown or 0."""
    value, error, _ = estimate
    if not 0 < error < math.inf:
        return f"{value:.4g}{' ± 0' if error == 0 else ''}"
    digits = max(0, 1 - int(f"{error:e}".split("e")[1]))
    return f"{value:.{digits}f} ± {error:.{digits}f}"


def read(path: Path) -> list[Evaluation]:
    """The evaluations of a file, oldest first; none where there is no file. InputError for any other file."""
    if not os.path.lexists(path):
        return []
    remedy = "move it away, or give another --out"
    found = inputs.read_json(path, FILE, "is no file of evaluations", remedy)
    return [
        Evaluation({k: _score(v) for k, v in e["scores"].items()}, e["protocol"], e["cost"])
        for e in found["evaluations"]
    ]


_ESTIMATE = {"value": float, "error": (None, float), "how": str}
_SCORE = {
    "estimate": _ESTIMATE,
    "better": str,
    "images": int,
    "floor": (None, _ESTIMATE),
    "floor_images": (None, int),
    "at_floor": (None, _ESTIMATE),
}
FILE = {"evaluations": [{"scores": inputs.table(_SCORE), "protocol": dict, "cost": dict}]}


def add(path: Path, evaluation: Evaluation) -> Path:
    """Append an evaluation to the file. It replaces one with the same protocol, whose other scores are kept."""
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


def plain(estimate: Estimate) -> dict[str, Any]:
    """A dictionary of plain values; an unknown error is None, since NaN is no JSON."""
    return estimate._asdict() | ({} if math.isfinite(estimate.error) else {"error": None})


def _plain(score: Score) -> dict[str, Any]:
    return {k: plain(v) if isinstance(v, Estimate) else v for k, v in score._asdict().items()}


def _score(fields: Mapping[str, Any]) -> Score:
    """The inverse of `_plain`."""

    def estimate(found: Mapping[str, Any]) -> Estimate:
        error = math.nan if found["error"] is None else found["error"]
        return Estimate(found["value"], error, found["how"])

    found: dict[str, Any] = {name: estimate(v) if isinstance(v := fields[name], dict) else v for name in _SCORE}
    return Score(**found)


def headline(protocol: Mapping[str, Any]) -> list[str]:
    """What was compared with what, in two lines: "pixels: 100 samples of vae, step 120, against 1,500 images of A"."""
    p = protocol
    what = p.get("fakes", "samples")
    if "step" in p:
        what = f"{p['samples']:,} samples of {what}, step {p['step']}" + "," * ("reals" in p)
    against = f" against {p['reals']}" if "reals" in p else ""
    return [f"{p.get('extractor', 'the model')}: {what}{against}", f"held out: {p['held_out']}"]


def table(scores: Mapping[str, Score]) -> list[str]:
    """Lines of a table of scores beside their floors."""
    rows = [("", "score", "real images", "score at their number")]
    for name, s in scores.items():
        rows.append((name, number(s.estimate), floor(s), at_their_number(s)))
    return columns(rows)


def floor(score: Score) -> str:
    """The floor and its number of images in words, or ""."""
    return "" if score.floor is None else f"{number(score.floor)} ({score.floor_images:,})"


def at_their_number(score: Score) -> str:
    """The score of as many generated images as the floor has, where these are others than all, or ""."""
    return "" if score.at_floor is None or score.floor_images == score.images else number(score.at_floor)


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of words as lines, each column as wide as its widest word: the first to the left, others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            word.rjust(w) if i else word.ljust(w) for i, (word, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def comparable(evaluations: Iterable[Evaluation]) -> None:
    """InputError for scores of different extractors, reference sets or numbers of samples: they cannot be compared."""
    evaluations = list(evaluations)
    for key in ("extractor", "digest", "reals", "samples"):
        found = {str(e.protocol.get(key)) for e in evaluations}
        check(
            len(found) <= 1,
            f"these runs were evaluated with different {key} ({', '.join(sorted(found))}): evaluate them the same way",
        )
