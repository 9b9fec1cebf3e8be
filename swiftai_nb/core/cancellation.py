"""Requests to cancel, and lists of callbacks: what a `Task` and the code that works for it share."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable
from typing import Generic, ParamSpec

from swiftai_nb.core.errors import GenerationCancelledError

P = ParamSpec("P")

_log = logging.getLogger(__name__)


class CallbackList(Generic[P]):
    """Callbacks that are called on every change, in the order they were added; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ids = itertools.count()
        self._callbacks: dict[int, Callable[P, object]] = {}

    def add(self, callback: Callable[P, object]) -> Callable[[], None]:
        """Adds a callback; returns a function that removes it and may be called twice."""
        with self._lock:
            callback_id = next(self._ids)
            self._callbacks[callback_id] = callback

        def remove() -> None:
            with self._lock:
                self._callbacks.pop(callback_id, None)

        return remove

    def notify(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Calls all current callbacks. An exception of one is logged and does not stop the others."""
        with self._lock:
            callbacks = tuple(self._callbacks.values())
        for callback in callbacks:
            try:
                callback(*args, **kwargs)
            except Exception:  # noqa: BLE001 - a callback's error must not end the thread that reports
                _log.exception("callback %r failed", callback)

    def clear(self) -> None:
        """Removes all callbacks."""
        with self._lock:
            self._callbacks.clear()


class CancellationToken:
    """A job's cancel request: set once, from any thread, never reset.

    A token belongs to exactly one job, so that starting a second job cannot undo the first one's cancel.
    """

    def __init__(self) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._callbacks: CallbackList[[]] = CallbackList()

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
        self._callbacks.notify()
        self.forget_callbacks()

    def on_cancel(self, callback: Callable[[], None]) -> None:
        """Calls `callback` once when cancelled, or immediately if already cancelled."""
        with self._lock:
            if not self._event.is_set():
                self._callbacks.add(callback)
                return
        callback()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Blocks until cancelled or `timeout_s` seconds have passed; returns `is_cancelled`."""
        return self._event.wait(timeout_s)

    def raise_if_cancelled(self) -> None:
        """Raises GenerationCancelledError if `cancel` was called."""
        if self._event.is_set():
            raise GenerationCancelledError

    def forget_callbacks(self) -> None:
        """Drops what `on_cancel` added, with all that it refers to: for the end of the job."""
        self._callbacks.clear()
