"""A history that ends with its kernel."""

from __future__ import annotations

import threading
from collections import OrderedDict
from itertools import islice

from swiftai_nb.core.image import GeneratedImage
from swiftai_nb.jobs.history import HistoryEntry, entry_from_image, searchable


class MemoryStore:
    """Entries in memory, at most `limit_bytes` of pictures (always the newest one)."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._size_bytes = 0
        self._last_key = 0
        self._lock = threading.Lock()
        self._entries: OrderedDict[int, tuple[HistoryEntry, str, int]] = OrderedDict()

    def add(self, image: GeneratedImage, *, created_at: float) -> HistoryEntry:
        """Stores a picture, dropping the oldest ones when there is no room."""
        with self._lock:
            self._last_key += 1
            entry = entry_from_image(self._last_key, image, created_at=created_at)
            size_bytes = len(image.data) + len(entry.thumbnail)
            self._entries[self._last_key] = (entry, searchable(image), size_bytes)
            self._size_bytes += size_bytes
            while self._size_bytes > self._limit_bytes and len(self._entries) > 1:
                self._size_bytes -= self._entries.popitem(last=False)[1][2]
            return entry

    def page(self, *, before: int | None, count: int, words: tuple[str, ...]) -> list[HistoryEntry]:
        """See `HistoryStore.page`."""
        with self._lock:
            found = (
                entry
                for key, (entry, text, _) in reversed(self._entries.items())
                if (before is None or key < before) and all(word in text for word in words)
            )
            return list(islice(found, count))

    def find(self, key: int) -> HistoryEntry | None:
        """See `HistoryStore.find`."""
        with self._lock:
            stored = self._entries.get(key)
            return None if stored is None else stored[0]

    def count(self) -> int:
        """See `HistoryStore.count`."""
        return len(self._entries)
