"""Arrays made from weights, kept while the weights live and memory allows."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import mlx.core as mx

from swiftai_nb.diffusion.cpu_math.workers import Float32
from swiftai_nb.diffusion.memory import GIB, kernel_share, machine_memory_bytes

Key = tuple[int, int]


@cache
def _default_limit_bytes() -> int:
    total = machine_memory_bytes()
    return int((16 * GIB if total is None else total) * kernel_share())


class TransformCache:
    """Transformed kernels by weight and tile size.

    An entry is kept from its second use on (a decoder runs once per picture and shall not double its
    memory for that), disappears with its weight, and never takes the total above the limit.

    Args:
        limit_bytes: of all entries; a tenth of the machine's memory by default, less on small ones.
    """

    def __init__(self, limit_bytes: int | None = None) -> None:
        self._limit_bytes = limit_bytes
        self._lock = threading.RLock()
        self._weights: dict[Key, weakref.ref[Any]] = {}
        self._entries: dict[Key, Float32] = {}
        self._is_sparing = False

    def get(
        self,
        source: tuple[mx.array, int],
        make: Callable[[], Float32],
        *,
        size_bytes: int,
        is_worth_it_once: bool,
    ) -> Float32 | None:
        """The transformed weight, from the cache or made now.

        Args:
            source: the weight and the tile size.
            make: computes the transformed weight.
            size_bytes: of what `make` returns.
            is_worth_it_once: whether making it pays without keeping it; None is returned otherwise.
        """
        weight, m = source
        key = (id(weight), m)
        with self._lock:  # held while making: the other guidance half wants the same one
            if key in self._entries:
                return self._entries[key]
            seen = key in self._weights
            keeps = (seen or not is_worth_it_once) and self.size_bytes + size_bytes <= self.limit_bytes
            keeps = keeps and not (is_worth_it_once and self._is_sparing)
            if not keeps and not is_worth_it_once:
                return None
            if not seen:
                self._weights[key] = weakref.ref(weight, lambda _: self._forget(key))
            if keeps:
                self._entries[key] = make()
                return self._entries[key]
        return make()

    @contextmanager
    def sparing(self) -> Iterator[None]:
        """Drops all entries, and while it lasts keeps none of those that are worth making once."""
        with self._lock:
            self._entries.clear()
            self._is_sparing = True
        try:
            yield
        finally:
            self._is_sparing = False

    @property
    def limit_bytes(self) -> int:
        """Upper bound of `size_bytes`."""
        return _default_limit_bytes() if self._limit_bytes is None else self._limit_bytes

    @property
    def size_bytes(self) -> int:
        """Memory of all entries."""
        return sum(entry.nbytes for entry in self._entries.values())

    def __len__(self) -> int:
        return len(self._entries)

    def _forget(self, key: Key) -> None:
        with self._lock:
            self._weights.pop(key, None)
            self._entries.pop(key, None)
