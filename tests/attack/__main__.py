"""Attacks every target with inputs that were not tried before, and prints the figures.

    python -m tests.attack [MINUTES] [WORD]   # 60 minutes in all; only targets whose name holds WORD
    python -m tests.attack --cases N [--seed S] [--minutes-each M] [WORD]

With `--cases`, Hypothesis makes the first 500 inputs of a target, and changes of them by a seeded generator the
others (`tests/attack/mutation.py`), until there are N, or M minutes are over. Exit status 1 when an input breaks
a promise: it is printed, and the attack goes on.
"""

from __future__ import annotations

import argparse
import importlib
import os
import resource
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

BATCH = 500


def main() -> int:
    """Runs the attack; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.attack")
    parser.add_argument("rest", nargs="*", metavar="[MINUTES] [WORD]")
    parser.add_argument("--cases", type=int, help="of each target")
    parser.add_argument("--seed", default="1")
    parser.add_argument("--minutes-each", type=float, default=30.0, help="at most, with --cases")
    options = parser.parse_args()
    has_minutes = bool(options.rest) and options.rest[0].replace(".", "", 1).isdecimal()
    minutes = float(options.rest.pop(0)) if has_minutes else 60.0
    word = options.rest[0] if options.rest else ""
    os.environ["SWIFTAI_ATTACK_CASES"] = str(BATCH)
    warnings.simplefilter("error")
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        tempfile.tempdir = folder  # thousands of small files a second
        targets = [(name, function) for name, function in _targets() if word in name]
        if options.cases is None:
            print(f"{len(targets)} targets, {minutes:g} minutes in all", flush=True)
            each_s = minutes * 60 / len(targets)
            failed = sum(not _attack(name, function, each_s) for name, function in targets)
            _print_figures()
        else:
            from tests.attack.campaign import HEADING, Campaign

            print(f"{len(targets)} targets, {options.cases:,} cases each, seed {options.seed}\n{HEADING}")
            failed = 0
            for name, function in targets:
                campaign = Campaign(name, function, seed=options.seed)
                failed += not campaign.run(options.cases, longest_s=60 * options.minutes_each)
                print(campaign.figures, flush=True)
        tempfile.tempdir = None
    return 1 if failed else 0


def _targets() -> list[tuple[str, Callable[[], None]]]:
    found = []
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        module = importlib.import_module(f"tests.attack.{path.stem}")
        names = [
            n for n in vars(module) if n.startswith("test_") and hasattr(getattr(module, n), "hypothesis")
        ]
        found += [(name, getattr(module, name)) for name in names]
    return found


def _attack(name: str, function: Callable[[], None], budget_s: float) -> bool:
    end_s = time.monotonic() + budget_s
    while time.monotonic() < end_s:
        try:
            function()
        except Exception:  # noqa: BLE001 - a finding; the other targets are attacked all the same
            print(f"FAILED {name}", flush=True)
            traceback.print_exc()
            return False
    return True


def _print_figures() -> None:
    from tests.attack.limits import TALLIES

    print(f"{'target':32} {'cases':>9} {'refused':>9} {'slowest':>9}")
    for target, tally in sorted(TALLIES.items()):
        print(f"{target:32} {tally.cases:9,} {tally.refused:9,} {tally.longest_s:7.2f} s")
    factor = 1 if sys.platform == "darwin" else 1024
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * factor
    print(f"largest memory of the process: {peak_bytes / 2**20:,.0f} MiB")


if __name__ == "__main__":
    sys.exit(main())
