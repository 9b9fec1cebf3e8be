"""What has been made, newest first: in memory, or kept in a folder.

A folder holds the pictures as ordinary PNG files, named by their content, and an SQLite index of
them. The files are the truth: each is written whole and flushed to disk before its row, and whatever
stands in the folder without a row (a crash came between, the index was lost or damaged) is taken in
again when the folder is opened. Several kernels may use one folder at once.
"""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.core.image import GeneratedImage
from swiftai_nb.core.recipe import Recipe

THUMBNAIL_SIDE = 128
DEFAULT_MEMORY_BYTES = 512 * 2**20
_PAGE = 200


@dataclass(frozen=True)
class HistoryEntry:
    """One picture of the history; the picture itself is read on demand.

    Attributes:
        id: decimal text, unique within its history, growing with time.
        created_at: seconds since 1970.
        width: pixels.
        height: pixels.
        prompt: the words it was made from; may be empty.
        recipe: all that remakes it, or None.
        thumbnail: small JPEG, longest side 128 pixels.
    """

    id: str
    created_at: float
    width: int
    height: int
    prompt: str
    recipe: Recipe | None
    thumbnail: bytes = field(repr=False)
    _load: Any = field(repr=False, compare=False)

    @property
    def image(self) -> GeneratedImage:
        """The picture in full.

        Raises:
            InvalidInputError: its file is gone.
        """
        image: GeneratedImage = self._load()
        return image


class HistoryStore(Protocol):
    """Where entries live: in memory or in a folder."""

    def add(self, image: GeneratedImage, *, created_at: float) -> HistoryEntry:
        """Stores a picture."""
        ...

    def page(self, *, before: int | None, count: int, words: tuple[str, ...]) -> list[HistoryEntry]:
        """Up to `count` entries older than id `before`, newest first, that hold all casefolded `words`."""
        ...

    def find(self, key: int) -> HistoryEntry | None:
        """The entry of that id."""
        ...

    def count(self) -> int:
        """How many there are."""
        ...


class History:
    """Pictures in the order they were made; iterating gives the newest first.

    Args:
        folder: where to keep them; made when missing. None keeps them in memory, the oldest making
            room when they exceed `memory_bytes`.
        memory_bytes: limit of a history in memory.

    Raises:
        InvalidInputError: the folder cannot be made or written.
    """

    def __init__(self, folder: str | Path | None = None, *, memory_bytes: int = DEFAULT_MEMORY_BYTES) -> None:
        self._store: HistoryStore
        if folder is None:
            from swiftai_nb.jobs.history_memory import MemoryStore

            self.folder = None
            self._store = MemoryStore(memory_bytes)
        else:
            from swiftai_nb.jobs.history_folder import FolderStore

            self.folder = Path(folder).expanduser().resolve()
            self._store = FolderStore(self.folder)

    def append(self, image: GeneratedImage) -> HistoryEntry:
        """Adds a picture; once this returns, a crash cannot lose it (when kept in a folder).

        Raises:
            InvalidInputError: the folder cannot be written.
        """
        return self._store.add(image, created_at=time.time())

    def __iter__(self) -> Iterator[HistoryEntry]:
        return self._walk(())

    def __len__(self) -> int:
        return self._store.count()

    def newest(self, count: int, *, before: str | None = None) -> list[HistoryEntry]:
        """The newest `count` entries, or those just older than entry `before`: one page to browse."""
        return self._store.page(before=_key(before), count=count, words=())

    def search(self, text: str) -> Iterator[HistoryEntry]:
        """Entries whose prompt, negative prompt or model hold every word of `text`, newest first."""
        return self._walk(tuple(text.casefold().split()))

    def find(self, entry_id: str) -> HistoryEntry:
        """The entry of that id.

        Raises:
            InvalidInputError: there is none.
        """
        key = _key(entry_id)
        entry = None if key is None else self._store.find(key)
        if entry is None:
            raise InvalidInputError(
                f"no picture {entry_id!r} in the history", hint="the numbers stand beside the thumbnails"
            )
        return entry

    def _walk(self, words: tuple[str, ...]) -> Iterator[HistoryEntry]:
        before: int | None = None
        while True:
            page = self._store.page(before=before, count=_PAGE, words=words)
            yield from page
            if len(page) < _PAGE:
                return
            before = int(page[-1].id)


def searchable(image: GeneratedImage) -> str:
    """The casefolded text that `History.search` looks in."""
    recipe = image.recipe
    if recipe is None:
        return ""
    parts = (recipe.prompt, recipe.negative_prompt, recipe.model)
    return "\n".join(part for part in parts if part is not None).casefold()


def thumbnail_of(image: GeneratedImage) -> bytes:
    """A small JPEG of the picture, longest side 128 pixels or less."""
    picture = image.pil
    picture.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def entry_from_image(key: int, image: GeneratedImage, *, created_at: float) -> HistoryEntry:
    """The entry of a picture that is at hand."""
    return HistoryEntry(
        id=str(key),
        created_at=created_at,
        width=image.width,
        height=image.height,
        prompt=image.prompt,
        recipe=image.recipe,
        thumbnail=thumbnail_of(image),
        _load=partial(_itself, image),
    )


def _itself(image: GeneratedImage) -> GeneratedImage:
    return image


def _key(entry_id: str | None) -> int | None:
    return int(entry_id) if entry_id is not None and str(entry_id).isdecimal() else None
