"""Tries again what is worth trying again, with growing pauses, and no longer than makes sense."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from swiftai_nb.downloads.progress import ProgressMeter
from swiftai_nb.downloads.protocol import DownloadOptions
from swiftai_nb.downloads.worker.hub_errors import is_worth_retrying, retry_after_of, status_of

_LONGEST_PAUSE_S = 20.0

T = TypeVar("T")


class StoppedError(Exception):
    """Another file of the same download failed for good; this one need not go on."""


def with_retries(
    action: Callable[[], T],
    *,
    options: DownloadOptions,
    meter: ProgressMeter,
    stop: threading.Event,
    measure: Callable[[], int] = lambda: 0,
) -> T:
    """Runs `action` until it succeeds, fails for good, or failed `max_attempts` times without progress.

    Args:
        action: what to do; called again after a failure that is worth it.
        options: patience.
        meter: is told about every pause.
        stop: ends pauses early.
        measure: bytes that are here; a failure after new bytes starts the count again.

    Raises:
        StoppedError: `stop` was set.
        Exception: the last failure of `action`, untranslated.
    """
    failures = 0
    while True:
        before = measure()
        try:
            return action()
        except Exception as error:
            failures = 1 if measure() > before else failures + 1
            pause_s = _pause_s(error, failures, options)
            if pause_s is None:
                raise
            meter.set_retry(f"{_reason(error)}; trying again in {pause_s:.0f} s", pause_s)
        if stop.wait(pause_s):
            raise StoppedError


def _pause_s(error: Exception, failures: int, options: DownloadOptions) -> float | None:
    if failures >= options.max_attempts or not is_worth_retrying(error):
        return None
    asked_s = retry_after_of(error)
    if asked_s is not None:
        return asked_s if asked_s <= options.max_retry_after_s else None
    return min(options.backoff_s * 2.0 ** (failures - 1), _LONGEST_PAUSE_S)


def _reason(error: Exception) -> str:
    status = status_of(error)
    if status == 429:
        return "too many requests"
    if status is not None:
        return f"the server answered HTTP {status}"
    return "the server fell silent" if "Timeout" in type(error).__name__ else "the connection dropped"
