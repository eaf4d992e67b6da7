"""A test by people: a page that asks which of the images are generated, and what its results say.

`write` makes one HTML file that needs nothing else. Who has finished it downloads a result; `read` pools the results of
several people. An error rate of 1/2 is what guessing gives: the people could not tell the two kinds apart.
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
from jaxgen.types import Array, InputError, check
from jaxgen.viz import atomically

FORMAT = "jaxgen study result 1"
LEVEL = 0.95
LARGEST = 10 * 2**20  # bytes of a result: a real one has some thousands


def toss(pages: int, per_page: int, seed: int = 0) -> np.ndarray:
    """Which images of a study are generated: bool [pages, per_page], a fair coin for each.

    Each coin is thrown for itself, so that neither counting nor what the other images are tells anything of this one;
    whoever guesses is wrong at Binomial(pages x per_page, 1/2) of them, whatever the way of guessing.
    """
    for name, value in (("pages", pages), ("per_page", per_page)):
        check(value >= 1, f"{name} must be at least 1, it is {value}")
    check(0 <= seed < 2**53, f"seed must be a whole number from 0 to 2^53, which JSON can hold, it is {seed}")
    return np.random.default_rng(seed).random((pages, per_page)) < 0.5


def wilson(errors: int, n: int, level: float = LEVEL) -> tuple[float, float]:
    """The interval (low, high) for a probability of which `errors` of n independent trials told:

        (p + z^2 / 2n  ±  z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n),   p = errors / n,

    where P(|N(0, 1)| < z) = level: all q that the score test |p - q| < z sqrt(q (1 - q) / n) does not refuse.
    InputError for counts that cannot be.
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
    """The study as one HTML file: `pages` grids of `per_page` images, real and generated mixed as `toss` says.

    reals, fakes: [N, H, W, C] of one shape, C 1 or 3, uint8 or floats in [-1, 1]; as many as `toss` asks for, of more
    the seed chooses. facts: what the images are, for people to read after the last page, and for the result.

    Both kinds are written by the same uncompressed PNG encoder, so that not even the lengths of the files tell them
    apart. InputError for images of other shapes, or for too few.
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
    """By which the results of one study are known: SHA-256 of the images as shown, of their truth and their paging."""
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

    (Marsaglia 2003, Xorshift RNGs, J. Stat. Software 8). It keeps the truth from a glance at the page's source, not
    from somebody who sets out to read it: the page itself must know it.
    """
    state, out = int(key[:8], 16) | 1, bytearray()
    for generated in truth:
        state ^= (state << 13) & 0xFFFFFFFF
        state ^= state >> 17
        state ^= (state << 5) & 0xFFFFFFFF
        out.append((state >> 24) ^ int(generated))
    return base64.b64encode(bytes(out)).decode()


def _json_safe(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The facts as they will be read back: finite numbers, and everything else in words."""
    words = {str(name): str(value) for name, value in facts.items()}
    finite = {str(k): v for k, v in facts.items() if isinstance(v, int) or (isinstance(v, float) and np.isfinite(v))}
    return words | finite


# --- the results ---------------------------------------------------------------------------------------------------


class Score(NamedTuple):
    """What one person did, or all together.

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
    """Results of one study: a Score a person, and that of all their answers together.

    The interval of the whole takes every answer for independent. People who saw the same images are not quite, so it
    is somewhat too narrow for other images or other people; the people's own rates show how much they differ.
    """

    title: str
    digest: str
    facts: Mapping[str, Any]
    people: tuple[Score, ...]
    whole: Score


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
    people = tuple(_score(Path(file).name, result) for file, result in zip(files, results, strict=True))
    generated, hits, real, alarms, seconds = (sum(column) for column in list(zip(*people, strict=True))[1:])
    whole = Score("all", generated, hits, real, alarms, seconds)
    return Summary(first["title"], first["digest"], first["facts"], people, whole)


def _load(path: Path) -> dict[str, Any]:
    """A result whose fields are what they should be; its own count of errors is not believed but made again."""
    try:
        check(path.stat().st_size <= LARGEST, f"{path} is too large for a result of a study: give the file it saved")
        text = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path} ({error.strerror}): give a file that the study's page saved") from None
    try:
        result = json.loads(text)
    except (ValueError, RecursionError):
        raise InputError(f"{path} is no result of a study, it is not JSON: give the file it saved") from None
    told = result.get("format") if isinstance(result, dict) else None
    check(told == FORMAT, f"{path} is no result of a study (its format is not {FORMAT!r}): give the file it saved")
    words = all(isinstance(result.get(name), str) for name in ("title", "digest", "sitting"))
    ok = words and isinstance(result.get("facts"), dict) and _is_answers(result)
    check(ok, f"{path} is a broken result of a study: some of its fields are missing or wrong; give the file it saved")
    return result


def _is_answers(result: Mapping[str, Any]) -> bool:
    """The truth and the marks are rows of true and false, alike in length, and each row took some seconds."""
    truth, marked, seconds = (_rows(result.get(name)) for name in ("generated", "marked", "seconds"))
    if not truth or len(truth) != len(marked) or len(truth) != len(seconds):
        return False
    times = all(isinstance(s, int | float) and not isinstance(s, bool) and 0 <= s < 1e9 for s in seconds)
    pairs = [(_rows(row), _rows(marks)) for row, marks in zip(truth, marked, strict=True)]
    alike = all(row and len(row) == len(marks) for row, marks in pairs)
    return times and alike and all(isinstance(v, bool) for row, marks in pairs for v in [*row, *marks])


def _rows(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _score(name: str, result: Mapping[str, Any]) -> Score:
    truth, marked = (np.concatenate([np.asarray(row, bool) for row in result[k]]) for k in ("generated", "marked"))
    hits, alarms = int((truth & marked).sum()), int((~truth & marked).sum())
    return Score(name, int(truth.sum()), hits, int((~truth).sum()), alarms, float(sum(result["seconds"])))
