"""Copies of weights in another order, kept while the weights live and a limit allows."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Any

import mlx.core as mx

from swiftai_nb.diffusion.cpu.workers import Float32


class TransposedWeightCache:
    """Copies by weight; an entry disappears with its weight.

    Args:
        limit_bytes: of all entries.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._lock = threading.RLock()
        self._entries: dict[int, tuple[weakref.ref[Any], Float32]] = {}

    def get(self, weight: mx.array, make: Callable[[], Float32], *, size_bytes: int) -> Float32 | None:
        """The copy, kept or made now; None where it would exceed the limit.

        Args:
            weight: whose copy it is.
            make: computes it.
            size_bytes: of what `make` returns.
        """
        key = id(weight)
        with self._lock:
            if key in self._entries:
                return self._entries[key][1]
            if self.size_bytes + size_bytes > self.limit_bytes:
                return None
            made = make()
            self._entries[key] = (weakref.ref(weight, lambda _: self._forget(key)), made)
            return made

    @property
    def size_bytes(self) -> int:
        """Memory of all entries."""
        return sum(entry.nbytes for _, entry in self._entries.values())

    def __len__(self) -> int:
        return len(self._entries)

    def _forget(self, key: int) -> None:
        with self._lock:
            self._entries.pop(key, None)
