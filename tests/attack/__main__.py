"""Attacks every target for a while with inputs that were not tried before, and prints the figures.

    python -m tests.attack [MINUTES] [WORD]   # 60 minutes in all; only targets whose name holds WORD

Exit status 1 when an input breaks a promise; Hypothesis prints the smallest such input.
"""

from __future__ import annotations

import importlib
import os
import resource
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

BATCH = 500


def main() -> int:
    """Runs the attack; returns the exit status."""
    minutes = float(sys.argv[1]) if len(sys.argv) > 1 else 60.0
    word = sys.argv[2] if len(sys.argv) > 2 else ""
    os.environ["SWIFTAI_ATTACK_CASES"] = str(BATCH)
    warnings.simplefilter("error")
    targets = [(name, function) for name, function in _targets() if word in name]
    print(f"{len(targets)} targets, {minutes:g} minutes in all", flush=True)
    failed = sum(not _attack(name, function, minutes * 60 / len(targets)) for name, function in targets)
    _print_figures()
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
