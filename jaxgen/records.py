"""What a run writes down while it trains: metrics.jsonl, TensorBoard scalars, a progress bar, and a summary."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxgen import scalars
from jaxgen.errors import InputError, notice
from jaxgen.files import Growing, atomically
from jaxgen.inputs import misfit, parse_json, read_bytes, table

LINE_SECONDS = 60.0  # between two lines of a log, where there is no terminal that shows a bar
RECORD = {"step": int, "seconds": float}
NUMBERS = table(float)


def read(folder: str | Path, before: int | None = None) -> list[dict[str, Any]]:
    """The records of metrics.jsonl, oldest first, up to step `before`; a line cut short by a kill, or any other that is
    no record, is left out."""
    path = Path(folder) / "metrics.jsonl"
    records = []
    for line in read_bytes(path, "move it away").splitlines() if os.path.lexists(path) else []:
        try:
            record = parse_json(line, "no record", "")
        except InputError:
            continue
        if not misfit(record, RECORD) and not misfit(record, NUMBERS) and (before is None or record["step"] <= before):
            records.append(record)
    return records


def _watched() -> bool:
    """Whether somebody sees a bar move: on a terminal, or in a notebook."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()  # None but in a notebook, or in ipython
    return sys.stderr.isatty() or shell is not None


class Records:
    """A context that collects the reports of compiled calls and writes one record each `log`.

    progress: a bar on a terminal or in a notebook, elsewhere a line a minute. start: the step that training goes on
    from (later records, of steps lost in a kill, are dropped); total: the last step; examples: of one step; write:
    whether this process is the one that writes.
    """

    def __init__(self, folder: Path, start: int, total: int, examples: int, progress: bool, write: bool):
        self.folder, self.start, self.total, self.examples = folder, start, total, examples
        self.progress, self.write = progress, write
        self.steps = 0  # trained by this call
        self._sums: dict[str, float] = {}
        self._count = 0
        # (time of training, steps) at the end of the first call, which had to be compiled, and at that of the last
        self._first: tuple[float, int] | None = None
        self._latest = (0.0, 0)
        self._aside = 0.0
        self._seconds = 0.0
        self._last: dict[str, float] = {}
        self._failing: set[str] = set()
        self._said = time.monotonic()

    def __enter__(self) -> Records:
        self._began = self._now()
        if self.write:
            from tqdm import tqdm

            old = read(self.folder, before=self.start)
            text = "".join(json.dumps(record) + "\n" for record in old)
            atomically(self.folder / "metrics.jsonl", lambda tmp: tmp.write_text(text))
            self._seconds = old[-1]["seconds"] if old else 0.0
            self._files = {"metrics.jsonl": Growing(self.folder / "metrics.jsonl")}
            self._files["tensorboard"] = scalars.open_file(self.folder / "tensorboard")
            self._write({"tensorboard": scalars.beginning(self.start)})
            idle = self.start >= self.total
            self._bar = tqdm(
                total=self.total,
                initial=self.start,
                unit="step",
                disable=idle or not self.progress or not _watched(),
                dynamic_ncols=True,
            )
        return self

    def __exit__(self, *_: Any) -> None:
        if self.write:
            self._bar.close()
            for file in self._files.values():
                file.close()

    def _write(self, pieces: Mapping[str, bytes]) -> None:
        """What a full disk does not take is written later, as soon as it does: said once."""
        errors = {name: error for name, piece in pieces.items() if (error := self._files[name].add(piece))}
        for name in sorted(set(errors) - self._failing):
            line = f"{name} in {self.folder} cannot be written ({errors[name].strerror}): training goes on, it is tried"
            notice(f"jaxgen: note: {line} again")
        self._failing = set(errors)

    def add(self, step: int, n: int, metrics: dict[str, Any]) -> None:
        """The means `metrics` over the n steps that end at `step`."""
        for name, value in metrics.items():
            self._sums[name] = self._sums.get(name, 0.0) + n * float(value)
        self._count += n
        self.steps += n
        self._latest = (self._now(), self.steps)
        self._first = self._first or self._latest
        if self.write:
            self._bar.update(n)

    def means(self) -> dict[str, float]:
        """The means since the last record."""
        return {name: value / self._count for name, value in self._sums.items()}

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write a record of these numbers, the means since the last one among them."""
        if not self._count:
            return
        self._last = dict(metrics)
        record = {
            "step": step,
            "seconds": round(self.seconds, 3),
            "images_per_second": round(self.rate, 1),
            **self._last,
        }
        self._sums, self._count = {}, 0
        if self.write:
            values = {name: value for name, value in record.items() if name != "step"}
            line = json.dumps(record) + "\n"
            self._write({"metrics.jsonl": line.encode(), "tensorboard": scalars.event(step, values)})
            losses = {
                name.removesuffix("/loss"): f"{v:.4g}" for name, v in self._last.items() if name.endswith("/loss")
            }
            self._bar.set_postfix(losses, refresh=False)
            if self.progress and self._bar.disable and time.monotonic() - self._said > LINE_SECONDS:
                self._said = time.monotonic()
                shown = ", ".join(f"{name} {value}" for name, value in losses.items())
                notice(f"step {step:,} of {self.total:,}, {self.rate:,.0f} images/s; {shown}")

    @contextlib.contextmanager
    def aside(self, what: str = "") -> Iterator[None]:
        """Time that is not training: it counts for neither the seconds nor the rate. what: the bar says meanwhile."""
        began = time.perf_counter()
        if self.write and what:
            self._bar.set_description_str(what)
        try:
            yield
        finally:
            self._aside += time.perf_counter() - began
            if self.write and what:
                self._bar.set_description_str("")

    def _now(self) -> float:
        return time.perf_counter() - self._aside

    @property
    def seconds(self) -> float:
        """Time trained, over every call that went on with the run, compilation included."""
        return self._seconds + self._now() - self._began

    @property
    def rate(self) -> float:
        """Images a second of this call, from the end of the first call, which was compiled, to that of the last."""
        if self._first is None or self._latest == self._first:
            return 0.0
        (began, first), (ended, last) = self._first, self._latest
        return (last - first) * self.examples / (ended - began)

    def summary(self, folder: Path, no_picture: str = "") -> str:
        """One line for the end of a run; no_picture: why there is none."""
        samples = f"no picture: {no_picture}" if no_picture else f"samples in {folder / 'samples.png'}"
        if not self.steps:
            return f"{folder} is trained to step {self.start} already; {samples}"
        losses = ", ".join(f"{name} {value:.4g}" for name, value in self._last.items() if name.endswith("/loss"))
        return (
            f"step {self.start + self.steps} after {self.seconds:.0f} s, {self.rate:,.0f} images/s; {losses}; {samples}"
        )
