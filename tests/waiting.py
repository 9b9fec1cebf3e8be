"""Waiting for something that another thread or process does.

A sleep that is the subject of a test, such as a slow server's, has a comment `# sleep: REASON`; a test finds others.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

# Of the processor, for input at which linear work takes less than 2 s on a slow machine and quadratic work minutes.
LINEAR_TIME_S = 5.0
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
        time.sleep(_POLL_S)  # sleep: the poll itself


async def wait_until_async(
    predicate: Callable[[], object], timeout_s: float = 30.0, *, message: str = "the condition"
) -> None:
    """`wait_until` that leaves the event loop free."""
    deadline = time.monotonic() + timeout_s
    while not predicate():
        assert time.monotonic() < deadline, f"{message} was still false after {timeout_s:g} s"
        await asyncio.sleep(_POLL_S)  # sleep: the poll itself
