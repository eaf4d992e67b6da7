"""Attacks on runs, as many as one likes, and a table of what they did.

python benchmarks/faults.py --kills 200 --flips 1000 --files 500 --disks 50 --signals 100 --fuzzed 10000
python benchmarks/faults.py --kills 60 --kinds style flow

Each attack has a seed, by which it is repeated: `--first` is that of the first. They are those of `tests/faults`, on
its tiny experiments, in turn over the kinds of models, or those given. kills: SIGKILL at any moment, then resumed;
flips: one bit of a checkpoint; files: any file of a run cut, overwritten, removed or made a folder; disks: one without
room, with too few files, or filled in the middle (on systems where a user may mount); signals: SIGINT or SIGTERM at any
moment; fuzzed: damaged files, settings and names of every kind that a user can give. lost: good work gone, or a resumed
run that is not bit-equal to an uninterrupted one; silent: a failure without a word; traceback: said in more than
jaxgen's own lines.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "faults")]
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".jax_cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")


def main() -> None:
    """Run the attacks and print the table."""
    import _attacks
    import _fuzz
    from _tiny import Home

    parser = argparse.ArgumentParser()
    for name in ("kills", "flips", "files", "disks", "signals", "fuzzed", "first"):
        parser.add_argument(f"--{name}", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", choices=_attacks.KINDS, default=_attacks.KINDS)
    counts = vars(parser.parse_args())
    kinds = counts["kinds"]
    with tempfile.TemporaryDirectory(prefix="jaxgen-faults-") as folder:
        os.environ["XDG_CONFIG_HOME"] = folder  # not the user's own key
        home = Home(Path(folder))

        def attack(one: Callable) -> Callable[[int, Path], _attacks.Outcome]:
            return lambda seed, where: one(home, kinds[seed % len(kinds)], seed, where)

        def fuzz(seed: int, where: Path) -> _attacks.Outcome:
            kind = list(_fuzz.KINDS)[seed % len(_fuzz.KINDS)]
            try:
                _fuzz.opens(kind, _fuzz.damaged(kind, seed, where))
            except BaseException as error:
                return _attacks.Outcome(traceback=True, what=f"{kind}: {error!r}"[:300])
            return _attacks.Outcome()

        attacks = {"kills": attack(_attacks.kill), "flips": attack(_attacks.flip), "files": attack(_attacks.damage)}
        attacks |= {"disks": attack(_attacks.full_disk), "signals": attack(_attacks.interrupt), "fuzzed": fuzz}
        print("attack    number   lost  silent  traceback  seconds", flush=True)
        for name, one in attacks.items():
            if counts[name]:
                _row(name, one, range(counts["first"], counts["first"] + counts[name]), Path(folder))


def _row(name: str, attack: Callable, seeds: range, folder: Path) -> None:
    began, total = time.monotonic(), [0, 0, 0]

    def row(number: int) -> str:
        seconds = time.monotonic() - began
        return f"{name:8} {number:7,} {total[0]:6} {total[1]:7} {total[2]:10} {seconds:8.0f}"

    for number, seed in enumerate(seeds):
        if number and number % 10 == 0:
            print(f"{row(number)}  so far", flush=True)
        with tempfile.TemporaryDirectory(dir=folder) as where:
            found = attack(seed, Path(where))
        total = [n + bad for n, bad in zip(total, found[:3], strict=True)]
        if found.bad:
            print(f"  {name}, seed {seed}: {found}", flush=True)
    print(row(len(seeds)), flush=True)


if __name__ == "__main__":
    main()
