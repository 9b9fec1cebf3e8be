"""The history of generated pictures, newest first."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path

from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.core.image import GeneratedImage
from swiftai_nb.core.paths import user_path
from swiftai_nb.core.recipe_fields import encodable
from swiftai_nb.jobs.history_store import FolderStore, HistoryEntry, HistoryStore, MemoryStore

_log = logging.getLogger(__name__)
DEFAULT_MEMORY_BYTES = 512 * 2**20
_PAGE = 200
_MOST_ENTRIES = 1_000_000
_MOST_WORDS = 100


class History:
    """Pictures in the order they were made; iterating gives the newest first.

    Args:
        folder: where to keep them; created when missing. None keeps them in memory and drops the oldest
            when they exceed `memory_bytes`.
        memory_bytes: limit of a history in memory.

    Raises:
        InvalidInputError: the folder cannot be made or written.
    """

    def __init__(self, folder: str | Path | None = None, *, memory_bytes: int = DEFAULT_MEMORY_BYTES) -> None:
        self.folder = None if folder is None else user_path(folder).resolve()
        self._store: HistoryStore = (
            MemoryStore(memory_bytes) if self.folder is None else FolderStore(self.folder)
        )

    def append(self, image: GeneratedImage) -> HistoryEntry:
        """Adds a picture; once this returns, a crash cannot lose it (when kept in a folder).

        Raises:
            InvalidInputError: the folder cannot be written.
        """
        return self._store.add(image, created_at=time.time())

    def append_or_log(self, image: GeneratedImage) -> HistoryEntry | None:
        """As `append`, but a failure is logged and None is returned: the picture is shown in any case."""
        try:
            return self.append(image)
        except InvalidInputError as error:
            _log.warning("this picture is not in the history: %s", error.message)
            return None

    def __iter__(self) -> Iterator[HistoryEntry]:
        return self._walk(())

    def __len__(self) -> int:
        return self._store.count()

    def newest(self, count: int, *, before: str | None = None) -> list[HistoryEntry]:
        """The newest `count` entries, or those just older than entry `before`: one page to browse."""
        return self._store.page(before=_key(before), count=max(0, min(count, _MOST_ENTRIES)), words=())

    def search(self, text: str) -> Iterator[HistoryEntry]:
        """Entries whose prompt, negative prompt or model contain every word of `text`, newest first.

        Raises:
            InvalidInputError: there are more than 100 words.
        """
        words = tuple(dict.fromkeys(encodable(text).casefold().split()))
        if len(words) > _MOST_WORDS:
            raise InvalidInputError(f"a search for {len(words)} words; {_MOST_WORDS} is the most")
        return self._walk(words)

    def find(self, entry_id: str) -> HistoryEntry:
        """The entry of that id.

        Raises:
            InvalidInputError: there is none.
        """
        key = _key(entry_id)
        entry = None if key is None else self._store.find(key)
        if entry is None:
            raise InvalidInputError(
                f"no picture {entry_id!r} in the history", hint="the numbers are beside the thumbnails"
            )
        return entry

    def delete(self, entry_id: str) -> None:
        """Removes a picture from the history, and its file from the history's folder.

        Raises:
            InvalidInputError: there is none of that id, or the folder cannot be written.
        """
        self._store.delete(int(self.find(entry_id).id))

    def mark_favorite(self, entry_id: str, is_favorite: bool = True) -> None:
        """Makes a picture a favorite, or no longer one.

        Raises:
            InvalidInputError: there is none of that id, or the folder cannot be written.
        """
        self._store.mark(int(self.find(entry_id).id), is_favorite)

    def _walk(self, words: tuple[str, ...]) -> Iterator[HistoryEntry]:
        before: int | None = None
        while True:
            page = self._store.page(before=before, count=_PAGE, words=words)
            yield from page
            if len(page) < _PAGE:
                return
            before = int(page[-1].id)


def _key(entry_id: str | None) -> int | None:
    """The row's number; None for what cannot be one (SQLite has 64 bits)."""
    text = "" if entry_id is None else str(entry_id)
    return int(text) if text.isdecimal() and len(text) <= 18 else None
