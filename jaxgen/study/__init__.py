"""Human evaluation of samples: a page on which participants mark the generated images, and its pooled results.

`write` makes one HTML file that needs nothing else. A participant who has finished it saves a result; `read` pools the
results of several participants. Guessing gives an error rate of 1/2.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

from jaxgen.data.pipeline import to_uint8
from jaxgen.files import atomically
from jaxgen.inputs import check_memory, read_json
from jaxgen.types import Array, check

FORMAT = "jaxgen study result 1"
LEVEL = 0.95
LARGEST = 10 * 2**20  # bytes of a result: usual ones have some thousands


def toss(pages: int, per_page: int, seed: int = 0) -> np.ndarray:
    """Which images of a study are generated: bool [pages, per_page], a fair coin for each.

    The coins are independent, so that neither counting nor knowing the other images gives information on this one; a
    guesser is wrong at Binomial(pages x per_page, 1/2) of them, whatever the strategy.
    """
    for name, value in (("pages", pages), ("per_page", per_page)):
        check(value >= 1, f"{name} must be at least 1, it is {value}")
    check_memory(9 * pages * per_page, f"the coins of {pages:,} pages of {per_page:,} images", "give fewer")
    check(0 <= seed < 2**53, f"seed must be an integer from 0 to 2^53, which JSON can hold, it is {seed}")
    return np.random.default_rng(seed).random((pages, per_page)) < 0.5


def wilson(errors: int, n: int, level: float = LEVEL) -> tuple[float, float]:
    """The interval (low, high) for the probability of an error, from `errors` in n independent trials:

        (p + z^2 / 2n  ±  z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n),   p = errors / n,

    where P(|N(0, 1)| < z) = level: all q that the score test |p - q| < z sqrt(q (1 - q) / n) does not refuse.
    InputError for impossible counts.
    Source: Wilson (1927), Probable inference, the law of succession, and statistical inference, J. Am. Stat. Assoc. 22.
    """
    check(n >= 1 and 0 <= errors <= n, f"{errors} errors in {n} trials: give 0 to n errors, and at least one trial")
    check(0.0 < level < 1.0, f"level must lie between 0 and 1, it is {level}")
    z, p = NormalDist().inv_cdf(0.5 + level / 2), errors / n
    middle, half = p + z * z / (2 * n), z * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
    return max(0.0, (middle - half) / (1 + z * z / n)), min(1.0, (middle + half) / (1 + z * z / n))


# --- the page ------------------------------------------------------------------------------------------------------


def write(
    path: str | Path,
    reals: Array | np.ndarray,
    fakes: Array | np.ndarray,
    *,
    title: str = "Which images are generated?",
    per_page: int = 16,
    pages: int = 8,
    seed: int = 0,
    facts: Mapping[str, Any] = {},
) -> Path:
    """The study as one HTML file: `pages` grids of `per_page` images, real and generated mixed by `toss`.

    reals, fakes: [N, H, W, C] of one shape, C 1 or 3, uint8 or floats in [-1, 1]; as many as `toss` needs, the seed
    chooses among more. facts: about the images, shown to participants after the last page, and part of the result.

    Both kinds are written by the same uncompressed PNG encoder, so that not even the lengths of the files differ.
    InputError for images of other shapes, or for too few.
    """
    truth = toss(pages, per_page, seed).ravel()
    rng = np.random.default_rng([seed, 1])
    reals, fakes = _images("reals", reals), _images("fakes", fakes)
    check(
        reals.shape[1:] == fakes.shape[1:],
        f"real images of {reals.shape[1:]} and generated ones of {fakes.shape[1:]} cannot be mixed: give one shape",
    )
    x = np.empty((truth.size, *reals.shape[1:]), np.uint8)
    for name, those, where in (("real", reals, ~truth), ("generated", fakes, truth)):
        needed = int(where.sum())
        check(needed <= len(those), f"this study shows {needed} {name} images, there are {len(those)}: give more")
        x[where] = those[rng.permutation(len(those))[:needed]]
    study = {
        "format": FORMAT,
        "title": title,
        "facts": _json_safe(facts),
        "seed": seed,
        "digest": digest(x, truth, per_page),
        "per_page": per_page,
        "shape": x.shape[1:],
        "level": LEVEL,
        "z": NormalDist().inv_cdf(0.5 + LEVEL / 2),
        "images": [_png(x[i]) for i in range(len(x))],
    }
    study["key"] = _scrambled(truth, study["digest"])
    page = (resources.files(__name__) / "page.html").read_text(encoding="utf-8")
    # "<" only ever stands inside strings of JSON, where its escape means the same and cannot end the script
    parts = {"title": html.escape(title), "study": json.dumps(study).replace("<", "\\u003c")}
    page = re.sub(r"\{\{(title|study)\}\}", lambda found: parts[found[1]], page)
    return atomically(Path(path), lambda tmp: tmp.write_text(page, encoding="utf-8"))


def digest(x: np.ndarray, truth: np.ndarray, per_page: int) -> str:
    """Identifies the results of one study: SHA-256 of the images as shown, of their truth and their paging."""
    text = hashlib.sha256(f"{x.shape} {per_page} ".encode())
    text.update(np.packbits(truth).tobytes())
    text.update(np.ascontiguousarray(x).tobytes())
    return text.hexdigest()


def _images(name: str, x: Any) -> np.ndarray:
    x = np.asarray(x)
    check(
        x.ndim == 4 and x.shape[-1] in (1, 3) and 0 not in x.shape[1:],
        f"a study takes images [N, H, W, 1 or 3], {name} have the shape {x.shape}: give images",
    )
    if x.dtype == np.uint8:
        return x
    check(np.issubdtype(x.dtype, np.floating), f"{name} are {x.dtype}: give uint8, or floats in [-1, 1]")
    check(bool(np.isfinite(x).all()), f"{name} hold values that are not finite: give floats in [-1, 1]")
    return np.asarray(to_uint8(x))


def _png(x: np.ndarray) -> str:
    """A data URI, whose length depends on the shape alone: compressed, smooth images would be shorter."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(x[..., 0] if x.shape[-1] == 1 else x).save(file, format="PNG", compress_level=0)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _scrambled(truth: np.ndarray, key: str) -> str:
    """The truth as base64, a byte an image, each added without carry to a byte of a stream that the digest begins:

        s <- s ^ (s << 13),   s <- s ^ (s >> 17),   s <- s ^ (s << 5)   (mod 2^32), the top byte of s

    (Marsaglia 2003, Xorshift RNGs, J. Stat. Software 8). It hides the truth from a glance at the page's source, not
    from somebody who sets out to decode it: the page itself contains the key.
    """
    state, out = int(key[:8], 16) | 1, bytearray()
    for generated in truth:
        state ^= (state << 13) & 0xFFFFFFFF
        state ^= state >> 17
        state ^= (state << 5) & 0xFFFFFFFF
        out.append((state >> 24) ^ int(generated))
    return base64.b64encode(bytes(out)).decode()


def _json_safe(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The facts as they will be read back: finite numbers, and everything else as text."""
    words = {str(name): str(value) for name, value in facts.items()}
    finite = {str(k): v for k, v in facts.items() if isinstance(v, int) or (isinstance(v, float) and np.isfinite(v))}
    return words | finite


# --- the results ---------------------------------------------------------------------------------------------------


class Score(NamedTuple):
    """Counts of one participant, or of all together.

    name          the result's file, or "all"
    generated     generated images that were shown; `hits` of them were marked as generated
    real          real images that were shown; `false_alarms` of them were marked as generated
    seconds       that the marking took
    """

    name: str
    generated: int
    hits: int
    real: int
    false_alarms: int
    seconds: float

    @property
    def images(self) -> int:
        return self.generated + self.real

    @property
    def errors(self) -> int:
        return self.generated - self.hits + self.false_alarms

    @property
    def error_rate(self) -> float:
        return self.errors / self.images

    @property
    def interval(self) -> tuple[float, float]:
        """`wilson` of the errors, at 95%."""
        return wilson(self.errors, self.images)

    @property
    def hit_rate(self) -> float:
        return self.hits / self.generated if self.generated else float("nan")

    @property
    def false_alarm_rate(self) -> float:
        return self.false_alarms / self.real if self.real else float("nan")


class Summary(NamedTuple):
    """Results of one study: the Score of each participant, and that of all their answers pooled.

    The pooled interval takes all answers for independent. Those of participants with the same images are not quite, so
    it is somewhat too narrow for other images or participants; the participants' own rates show how much they differ.
    """

    title: str
    digest: str
    facts: Mapping[str, Any]
    participants: tuple[Score, ...]
    pooled: Score


def read(files: Sequence[str | Path]) -> Summary:
    """The downloaded results of one study, pooled. InputError for a file that is none, for results of different
    studies and for one that is given twice."""
    check(len(files) >= 1, "there are no results: give at least one file that the study's page has saved")
    results = [_load(Path(file)) for file in files]
    first, sittings = results[0], {}
    for file, result in zip(files, results, strict=True):
        same = all(result[field] == first[field] for field in ("digest", "generated"))
        check(same, f"{file} is of another study than {files[0]} (other images): give results of one study")
        twin = sittings.setdefault(result["sitting"], file)
        check(twin is file, f"{file} and {twin} are the same result: give it once")
    participants = tuple(_score(Path(file).name, result) for file, result in zip(files, results, strict=True))
    generated, hits, real, alarms, seconds = (sum(column) for column in list(zip(*participants, strict=True))[1:])
    pooled = Score("all", generated, hits, real, alarms, seconds)
    return Summary(first["title"], first["digest"], first["facts"], participants, pooled)


def _load(path: Path) -> dict[str, Any]:
    """A valid result; its own count of errors is not used but computed again."""
    result = read_json(path, dict, "is no result of a study", "give a file that the study's page saved", LARGEST)
    form = result.get("format")
    check(form == FORMAT, f"{path} is no result of a study (its format is not {FORMAT!r}): give the file it saved")
    words = all(isinstance(result.get(name), str) for name in ("title", "digest", "sitting"))
    ok = words and isinstance(result.get("facts"), dict) and _is_answers(result)
    check(ok, f"{path} is a broken result of a study: some of its fields are missing or wrong; give the file it saved")
    return result


def _is_answers(result: Mapping[str, Any]) -> bool:
    """The truth and the marks are rows of booleans of equal lengths, with a time for each row."""
    truth, marked, seconds = (_rows(result.get(name)) for name in ("generated", "marked", "seconds"))
    if not truth or len(truth) != len(marked) or len(truth) != len(seconds):
        return False
    times = all(isinstance(s, int | float) and not isinstance(s, bool) and 0 <= s < 1e9 for s in seconds)
    pairs = [(_rows(row), _rows(marks)) for row, marks in zip(truth, marked, strict=True)]
    same = all(row and len(row) == len(marks) for row, marks in pairs)
    return times and same and all(isinstance(v, bool) for row, marks in pairs for v in [*row, *marks])


def _rows(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _score(name: str, result: Mapping[str, Any]) -> Score:
    truth, marked = (np.concatenate([np.asarray(row, bool) for row in result[k]]) for k in ("generated", "marked"))
    hits, alarms = int((truth & marked).sum()), int((~truth & marked).sum())
    return Score(name, int(truth.sum()), hits, int((~truth).sum()), alarms, float(sum(result["seconds"])))
