"""What can be told of a user's numbers, names and files before they are used: each mistake is an `InputError`. Free of
JAX, so that the command line answers at once."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from jaxgen.errors import InputError, check

SEEDS = 2**32  # JAX drops the bits above these: of a larger seed another one would draw the same
LARGEST = (2 - 2**-23) * 2.0**127  # of float32, in which everything is computed
LONGEST_NAME, LONGEST_PATH = 255, 4095  # bytes that file systems take
NESTED = 64  # levels of a JSON value


# --- numbers and names ---------------------------------------------------------------------------------------------


def check_number(what: str, value: Any) -> None:
    """InputError for a number, or one inside a list or a dictionary, that is not finite in float32, or an integer that
    has more than 64 bits."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple | set):
        for part in value:
            check_number(what, part)
    elif isinstance(value, float):
        check(math.isfinite(value), f"{what} is {value}: give a finite number")
        check(abs(value) <= LARGEST, f"{what} is {value}, which is infinite in float32: give a smaller number")
    elif isinstance(value, int):
        check(-(2**63) <= value < 2**63, f"{what} is {value:.3e}: give an integer of at most 64 bits")


def check_seed(what: str, seed: int) -> None:
    """InputError for a seed that not all that is random can take."""
    check(0 <= seed < SEEDS, f"{what} is {seed}: give an integer from 0 to {SEEDS - 1}")


def check_name(what: str, text: str) -> None:
    """InputError for a word that names nothing: an empty one, and what no file system takes in a path."""
    check(text != "", f"{what} is empty: give a name, or leave it out")
    check("\0" not in text, f"{what} has a NUL character: give a name without")
    remote = re.match(r"(gs|s3|az|abfs|hdfs|https?)://?", text)
    remedy = "mount it and give its folder, or copy the finished run there"
    check(remote is None, f"{what}, {text[:60]}, is no folder or file of this machine: {remedy}")
    try:
        parts = [part.encode() for part in text.replace(",", "/").replace("=", "/").split("/")]
    except UnicodeEncodeError:
        raise InputError(f"{what} is not UTF-8: give a name that is, or rename the file") from None
    longest = max(len(part) for part in parts)
    fine = longest <= LONGEST_NAME and sum(len(part) + 1 for part in parts) <= LONGEST_PATH
    check(fine, f"{what}, {text[:40]}..., is longer than file systems take ({LONGEST_NAME} bytes a name): shorten it")


# --- memory --------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def memory() -> int:
    """Bytes of this machine's memory; where that is unknown, more than any."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not a POSIX system
        return 2**63


def check_memory(size: int, what: str, remedy: str, most: int | None = None) -> None:
    """InputError for something of so many bytes that cannot lie in memory: in `most` bytes, by default this machine's.
    Not all that passes fits; but what cannot is refused in one line, before hours of work or the end of the process."""
    most = memory() if most is None else most
    check(size <= most, f"{what} would take {size / 2**30:,.1f} GiB, there are {most / 2**30:,.1f}: {remedy}")


# --- values of JSON -----------------------------------------------------------------------------------------------

Form = Any
"""What a value of JSON has to be, see `misfit`: a type; None; a tuple of forms, any of which will do, the usual one
last; [form], a list of such; {name: form}, a dictionary that has at least these names; `table(form)`, one of any names;
or another function (what, value) -> what is wrong with it, or ""."""


def table(form: Form) -> Callable[[str, Any], str]:
    """The form of a dictionary of any names, all of whose values are of one form."""

    def misfit_of(what: str, value: Any) -> str:
        if not isinstance(value, dict):
            return _is_not(what, value, "an object")
        return next((wrong for name, part in value.items() if (wrong := misfit(part, form, f"{what}.{name}"))), "")

    return misfit_of


def count(what: str, value: Any) -> str:
    """The form of an integer that counts something."""
    return misfit(value, int, what) or ("" if value >= 0 else f"{what} is {value}, below 0")


def misfit(value: Any, form: Form, what: str = "it") -> str:
    """ "" for a value of that form, or what is wrong with it: "its shape is a string, not a list". An int is an integer
    of 64 bits, a float any number of that size, and a bool is neither."""
    if isinstance(form, tuple):
        wrong = [misfit(value, each, what) for each in form]
        return "" if "" in wrong else wrong[-1]
    if isinstance(form, dict):
        if not isinstance(value, dict):
            return _is_not(what, value, "an object")
        missing = [name for name in form if name not in value]
        if missing:
            return f"{what} has no {missing[0]!r}"
        return next((wrong for name in form if (wrong := misfit(value[name], form[name], f"{what}.{name}"))), "")
    if isinstance(form, list):
        if not isinstance(value, list):
            return _is_not(what, value, "a list")
        return next((wrong for i, part in enumerate(value) if (wrong := misfit(part, form[0], f"{what}[{i}]"))), "")
    if form is None:
        return "" if value is None else _is_not(what, value, "null")
    if not isinstance(form, type):
        return form(what, value)
    wide = " of 64 bits" if form in (int, float) else ""
    return "" if _is_a(value, form) else _is_not(what, value, _NAMES[form] + wide)


def _is_a(value: Any, kind: type) -> bool:
    if kind not in (int, float):
        return isinstance(value, kind)
    good = isinstance(value, int | kind) and not isinstance(value, bool)
    return good and not (isinstance(value, int) and abs(value) >= 2**63)


_NAMES = {
    str: "a string",
    int: "an integer",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "an object",
    type(None): "null",
}


def _is_not(what: str, value: Any, wanted: str) -> str:
    return f"{what} is {_NAMES.get(type(value), 'something else')}, not {wanted}"


# --- files ---------------------------------------------------------------------------------------------------------


def is_file(path: str | Path) -> bool:
    """Whether there is a file that ends: no folder, no pipe, no device. Never raises: a name that is too long, which
    `Path.is_file` raises for, is no file's."""
    return os.path.isfile(path)


def is_folder(path: str | Path) -> bool:
    """Whether there is a folder of that name; never raises."""
    return os.path.isdir(path)


def read_bytes(path: str | Path, remedy: str, largest: int | None = None) -> bytes:
    """The content of a file, of `largest` bytes at most. InputError where it cannot be read; remedy: what to do."""
    path = Path(path)
    try:
        check(is_file(path) or not path.exists(), f"cannot read {path} (it is no ordinary file): {remedy}")
        small = largest is None or path.stat().st_size <= largest
        check(small, f"cannot read {path} (it is larger than {largest} bytes): {remedy}")
        return path.read_bytes()
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path} ({getattr(error, 'strerror', None) or error}): {remedy}") from None


def read_json(path: str | Path, form: Form, wrong: str, remedy: str, largest: int | None = None) -> Any:
    """The value of a JSON file, of a form as in `misfit`. InputError where it cannot be read, and "PATH `wrong` (why):
    `remedy`" where it is no JSON, or of another form."""
    value = parse_json(read_bytes(path, remedy, largest), f"{path} {wrong}", remedy)
    misfits = misfit(value, form)
    check(not misfits, f"{path} {wrong} ({misfits}): {remedy}")
    return value


def parse_json(text: bytes, wrong: str, remedy: str) -> Any:
    """The value of a JSON text; InputError where it is none, nests too deep to be walked through, or has strings that
    cannot be printed."""
    try:
        value = json.loads(text)
        json.dumps(value, ensure_ascii=False).encode()  # half of a surrogate pair is refused here
    except (ValueError, RecursionError) as error:
        raise InputError(f"{wrong} ({error}): {remedy}") from None
    layer, level = [value], 0
    while layer and level < NESTED:
        level += 1
        inside = (part.values() if isinstance(part, dict) else part for part in layer if isinstance(part, dict | list))
        layer = [part for parts in inside for part in parts]
    check(not layer, f"{wrong} (it nests more than {NESTED} levels): {remedy}")
    return value
