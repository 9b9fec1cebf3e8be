"""Waiting for something that another thread or process does."""

from __future__ import annotations

import time
from collections.abc import Callable

_POLL_S = 0.005


def wait_until(
    predicate: Callable[[], object], timeout_s: float = 30.0, *, message: str = "the condition"
) -> None:
    """Polls until `predicate()` is true.

    Raises:
        AssertionError: it is still false after `timeout_s` seconds.
    """
    deadline = time.monotonic() + timeout_s
    while not predicate():
        assert time.monotonic() < deadline, f"{message} was still false after {timeout_s:g} s"
        time.sleep(_POLL_S)
