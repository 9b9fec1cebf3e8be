"""What every attacked function is held to: it returns, or raises an error of ours, within a second.

`make test` tries the same few inputs every time. `python -m tests.attack` sets SWIFTAI_ATTACK_CASES, and tries
others at every call.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hypothesis import HealthCheck, settings

CASES_VARIABLE = "SWIFTAI_ATTACK_CASES"
_CASES = os.environ.get(CASES_VARIABLE)
attack = settings(
    max_examples=25 if _CASES is None else int(_CASES),
    derandomize=_CASES is None,
    deadline=None,  # `only` counts processor time
    database=None,
    suppress_health_check=list(HealthCheck),
)
LONGEST_S = 1.0  # of processor time in this thread


_FOLDERS: list[Path] = []


def scratch_folder() -> Path:
    """A folder that lasts as long as this process."""
    folder = Path(tempfile.mkdtemp(prefix="swiftai-attack-"))
    _FOLDERS.append(folder)
    return folder


def remove_scratch_folders() -> None:
    """Called by pytest too: pytest-xdist's processes end without `atexit`."""
    while _FOLDERS:
        shutil.rmtree(_FOLDERS.pop(), ignore_errors=True)


atexit.register(remove_scratch_folders)


@dataclass
class Tally:
    """What was tried on one target.

    Attributes:
        cases: inputs.
        refused: of them, those that were answered with an error of ours.
        longest_s: processor time of the slowest.
    """

    cases: int = 0
    refused: int = 0
    longest_s: float = 0.0


TALLIES: defaultdict[str, Tally] = defaultdict(Tally)


@contextlib.contextmanager
def only(*errors: type[Exception], target: str) -> Iterator[None]:
    """The block ends within `LONGEST_S`; it may raise `errors`, each with a text of one printable line."""
    tally = TALLIES[target]
    tally.cases += 1
    start_s = time.thread_time()
    try:
        yield
    except errors as error:
        tally.refused += 1
        assert str(error).strip()
        assert len(str(error)) < 5_000, "an error that quotes its whole input"
    duration_s = time.thread_time() - start_s
    tally.longest_s = max(tally.longest_s, duration_s)
    assert duration_s < LONGEST_S, f"{duration_s:.2f} s"
