"""Who wants to hear of changes."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from typing import Generic, ParamSpec

P = ParamSpec("P")


class Listeners(Generic[P]):
    """Callbacks that are called on every change, in the order they came; safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._callbacks: dict[int, Callable[P, object]] = {}

    def add(self, callback: Callable[P, object]) -> Callable[[], None]:
        """Adds one; returns a function that removes it and may be called twice."""
        with self._lock:
            number = next(self._numbers)
            self._callbacks[number] = callback

        def remove() -> None:
            with self._lock:
                self._callbacks.pop(number, None)

        return remove

    def tell(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Calls all that are there now; what one raises is the caller's to hear."""
        for callback in self.all():
            callback(*args, **kwargs)

    def all(self) -> tuple[Callable[P, object], ...]:
        """Those that are there now."""
        with self._lock:
            return tuple(self._callbacks.values())
