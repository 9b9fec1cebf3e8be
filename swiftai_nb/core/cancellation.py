"""Asking a running job to stop."""

from __future__ import annotations

import threading
from collections.abc import Callable

from swiftai_nb.core.errors import GenerationCancelledError


class CancellationToken:
    """One job's stop request: set once, from any thread, never reset.

    A token belongs to exactly one job, so that starting a second job cannot undo the first
    one's cancel.
    """

    def __init__(self) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._callbacks: list[Callable[[], None]] = []

    @property
    def is_cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self._event.is_set()

    def cancel(self) -> None:
        """Requests the stop; further calls do nothing."""
        with self._lock:
            if self._event.is_set():
                return
            self._event.set()
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()

    def on_cancel(self, callback: Callable[[], None]) -> None:
        """Calls `callback` once when cancelled; at once if that has happened already."""
        with self._lock:
            if not self._event.is_set():
                self._callbacks.append(callback)
                return
        callback()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Blocks until cancelled or `timeout_s` seconds have passed; returns `is_cancelled`."""
        return self._event.wait(timeout_s)

    def raise_if_cancelled(self) -> None:
        """Raises GenerationCancelledError if `cancel` was called."""
        if self._event.is_set():
            raise GenerationCancelledError
