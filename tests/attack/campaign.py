"""Many cases of one target: Hypothesis' first, then changes of them; findings are collected, not the end."""

from __future__ import annotations

import contextlib
import copy
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

from tests.attack.limits import TALLIES
from tests.attack.mutation import Case, Mutator

HANG_S = 20
LARGEST_GROWTH_BYTES = 4 * 2**30  # of the address space; beyond it memory "runs out"
KEPT = 0.02  # share of the understood cases that are changed further
HEADING = f"{'target':44} {'cases':>9} {'refused':>9} {'slowest':>9} {'memory':>9} {'time':>8}  findings"


class Campaign:
    """One target.

    Args:
        name: the test's.
        function: a test that Hypothesis made.
        seed: of all changes.
    """

    def __init__(self, name: str, function: Callable[[], None], *, seed: str) -> None:
        self.name = name
        self._function: Any = function
        self._test: Callable[..., None] = self._function.hypothesis.inner_test
        self._seed = seed
        self._corpus: list[Case] = []
        self._findings: set[str] = set()
        self._cases = self._refused = 0
        self._longest_s = self._took_s = 0.0
        self._before_bytes = self._peak_bytes = 0

    @property
    def figures(self) -> str:
        """A row below `HEADING`."""
        name = self.name.removeprefix("test_")[:44]
        grown = max(0, self._peak_bytes - self._before_bytes) / 2**20
        return (
            f"{name:44} {self._cases:9,} {self._refused:9,} {self._longest_s:7.2f} s {grown:5,.0f} MiB "
            f"{self._took_s:6,.0f} s  {len(self._findings) or 'none'}"
        )

    def run(self, cases: int, *, longest_s: float) -> bool:
        """Tries so many, or for so long; whether nothing was found."""
        started_s = time.monotonic()
        self._before_bytes = _reset_peak()
        with _bounded_memory(), _hang_alarm():
            understood = self._collect()
            mutator = Mutator(self._corpus)
            for case in understood:
                mutator.keep(Random(self._seed), case)
            number = 0
            while self._cases < cases and number < 3 * cases and time.monotonic() < started_s + longest_s:
                random = Random(f"{self._seed}/{self.name}/{number}")
                case = mutator.case(random)
                kept = copy.deepcopy(case) if random.random() < KEPT else None
                if self._try(case) and kept is not None:
                    mutator.keep(random, kept)
                number += 1
        self._took_s, self._peak_bytes = time.monotonic() - started_s, _peak()
        return not self._findings

    def _collect(self) -> list[Case]:
        """Runs Hypothesis once, and keeps what it made; returns what was understood."""
        understood: list[Case] = []

        def record(**case: Any) -> None:
            try:
                kept = copy.deepcopy(case)
            except RecursionError:  # too deep to be changed further
                self._try(case)
                return
            self._corpus.append(kept)
            if self._try(case):
                understood.append(kept)

        self._function.hypothesis.inner_test = record
        try:
            self._function()
        finally:
            self._function.hypothesis.inner_test = self._test
        return understood

    def _try(self, case: Case) -> bool:
        """Whether the input was understood; a refused one is none, nor one that the test could not set up."""
        before = _counts()
        for tally in TALLIES.values():
            tally.longest_s = 0.0
        signal.setitimer(signal.ITIMER_REAL, HANG_S)
        try:
            self._test(**case)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # noqa: BLE001 - a finding
            if _counts()[0] > before[0]:
                self._report(error, case)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        cases, refused = (after - first for after, first in zip(_counts(), before, strict=True))
        self._cases, self._refused = self._cases + cases, self._refused + refused
        self._longest_s = max(self._longest_s, *(tally.longest_s for tally in TALLIES.values()), 0.0)
        return cases > 0 and not refused

    def _report(self, error: BaseException, case: Case) -> None:
        """Prints the first finding of its kind: the error's type, and where in the package it was raised."""
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if "/swiftai_nb/" in frame.filename] or frames
        place = f"{type(error).__name__} at {own[-1].filename}:{own[-1].lineno}"
        if place in self._findings:
            return
        self._findings.add(place)
        where = "".join(f"\n    {one.filename}:{one.lineno} {one.name}" for one in frames[-6:])
        cause = error.__context__
        origin = "" if cause is None else f"\n  from {type(cause).__name__}: {str(cause)[:300]}"
        print(f"FAILED {self.name}: {place}: {str(error)[:300]}{origin}{where}", flush=True)
        print(f"  input: {repr(case)[:1500]}", flush=True)


def _counts() -> tuple[int, int]:
    return sum(t.cases for t in TALLIES.values()), sum(t.refused for t in TALLIES.values())


@contextlib.contextmanager
def _hang_alarm() -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise AssertionError(f"no end within {HANG_S} s")

    before = signal.signal(signal.SIGALRM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def _bounded_memory() -> Iterator[None]:
    """An input that asks for gigabytes is an error, not the end of the attack."""
    if sys.platform != "linux":
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + LARGEST_GROWTH_BYTES, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def _reset_peak() -> int:
    """Starts to measure the largest memory anew, on Linux; returns what is used now."""
    if sys.platform == "linux":
        Path("/proc/self/clear_refs").write_text("5")
    return _peak()


def _peak() -> int:
    if sys.platform != "linux":
        factor = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * factor
    line = next(one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith("VmHWM"))
    return int(line.split()[1]) * 1024
