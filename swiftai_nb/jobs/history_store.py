"""Storage of a history: in memory, or in a folder.

A folder holds the pictures as ordinary PNG files, named by their content, and an SQLite index of
them. The files are authoritative: each is written and flushed to disk before its row, and files
without a row (after a crash, or when the index was lost or damaged) are indexed again when the
folder is opened. Several kernels may use one folder at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.core.format import encode_jpeg
from swiftai_nb.core.image import GeneratedImage
from swiftai_nb.core.paths import write_atomically
from swiftai_nb.core.recipe import Recipe
from swiftai_nb.core.recipe_fields import encodable

THUMBNAIL_SIDE = 128
INDEX_NAME = "index.sqlite"
_BUSY_TIMEOUT_S = 30.0
_SCHEMA = """
CREATE TABLE IF NOT EXISTS pictures (
    id INTEGER PRIMARY KEY AUTOINCREMENT, created_at REAL NOT NULL, file TEXT NOT NULL,
    width INTEGER NOT NULL, height INTEGER NOT NULL, prompt TEXT NOT NULL, recipe TEXT,
    searchable TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS pictures_by_file ON pictures (file);
CREATE TABLE IF NOT EXISTS thumbnails (id INTEGER PRIMARY KEY, jpeg BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS favorites (id INTEGER PRIMARY KEY);
"""
_SELECT = (
    "SELECT id, created_at, file, width, height, prompt, recipe, jpeg, id IN (SELECT id FROM favorites) "
    "FROM pictures LEFT JOIN thumbnails USING (id)"
)
# An index may come with a folder of somebody else's: none with code that SQLite runs, such as endless views.
_FOREIGN = (
    "SELECT name FROM sqlite_master WHERE type IN ('trigger', 'view') OR sql LIKE 'CREATE VIRTUAL%' "
    "OR sql LIKE 'CREATE UNIQUE%' OR length(sql) - length(replace(sql, '(', '')) > 1"
)
# Ids near SQLite's largest leave no room for the next one: such rows are made anew from their files.
_REPAIR = (
    "DELETE FROM pictures WHERE id NOT BETWEEN 1 AND 1000000000000",
    "UPDATE sqlite_sequence SET seq = (SELECT coalesce(max(id), 0) FROM pictures) "
    "WHERE name = 'pictures' AND (typeof(seq) != 'integer' OR seq > 1000000000000)",
)
_BATCH = 50  # files that are taken in together: other kernels may write in between
_Row = tuple[int, float, str, int, int, str, str | None, bytes, int]  # in the order of _SELECT
_COLUMNS = ("id", "created_at", "file", "width", "height", "prompt", "recipe", "searchable")
_HINT = "choose a writable folder"
_LATEST_TIME = 253_402_214_400.0  # the last day of the year 9999
_NOT_A_PICTURE = (
    InvalidInputError, OSError, SyntaxError, ValueError, OverflowError,
    sqlite3.IntegrityError, sqlite3.InterfaceError, sqlite3.DataError,
)  # fmt: skip


@dataclass(frozen=True)
class HistoryEntry:
    """One picture of the history; the picture itself is read on demand.

    Attributes:
        id: decimal text, unique within its history, growing with time.
        created_at: seconds since 1970.
        width: pixels.
        height: pixels.
        prompt: its prompt; may be empty.
        recipe: all settings needed to make it again, or None.
        thumbnail: small JPEG, longest side 128 pixels.
        is_favorite: marked by the user.
    """

    id: str
    created_at: float
    width: int
    height: int
    prompt: str
    recipe: Recipe | None
    thumbnail: bytes = field(repr=False)
    _load: Callable[[], GeneratedImage] = field(repr=False, compare=False)
    is_favorite: bool = False

    @property
    def image(self) -> GeneratedImage:
        """The picture in full.

        Raises:
            InvalidInputError: its file is gone.
        """
        return self._load()


class HistoryStore(Protocol):
    """Stores entries, in memory or in a folder."""

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

    def delete(self, key: int) -> None:
        """Removes the entry of that id, and its file where no other entry has it; nothing without one."""
        ...

    def mark(self, key: int, is_favorite: bool) -> None:
        """Makes the entry of that id a favorite, or no longer one."""
        ...


class MemoryStore:
    """Entries in memory, at most `limit_bytes` of pictures (always the newest one)."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._size_bytes = 0
        self._last_key = 0
        self._lock = threading.Lock()
        self._entries: OrderedDict[int, tuple[HistoryEntry, str, int]] = OrderedDict()

    def add(self, image: GeneratedImage, *, created_at: float) -> HistoryEntry:
        """Stores a picture; drops the oldest ones when there is no room."""
        with self._lock:
            self._last_key += 1
            entry = HistoryEntry(
                id=str(self._last_key),
                created_at=created_at,
                width=image.width,
                height=image.height,
                prompt=image.prompt,
                recipe=image.recipe,
                thumbnail=_thumbnail(image),
                _load=lambda: image,
            )
            size_bytes = len(image.data) + len(entry.thumbnail)
            self._entries[self._last_key] = (entry, _searchable(image), size_bytes)
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

    def delete(self, key: int) -> None:
        """See `HistoryStore.delete`."""
        with self._lock:
            removed = self._entries.pop(key, None)
            self._size_bytes -= 0 if removed is None else removed[2]

    def mark(self, key: int, is_favorite: bool) -> None:
        """See `HistoryStore.mark`."""
        with self._lock:
            stored = self._entries.get(key)
            if stored is not None:
                self._entries[key] = (replace(stored[0], is_favorite=is_favorite), *stored[1:])


class FolderStore:
    """Entries in a folder that other kernels may use too."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._prepare()
        except (OSError, sqlite3.Error) as error:
            raise InvalidInputError(
                f"cannot keep a history in {str(folder)!r}: {error}", hint=_HINT
            ) from error

    def add(self, image: GeneratedImage, *, created_at: float) -> HistoryEntry:
        """Writes the file, flushed to disk, and then its row."""
        with self._changing() as db:
            name = self._write_file(image.data)
            return self._insert(db, image, name, created_at=created_at)

    def page(self, *, before: int | None, count: int, words: tuple[str, ...]) -> list[HistoryEntry]:
        """See `HistoryStore.page`."""
        conditions = [*(["id < ?"] if before is not None else []), *["instr(searchable, ?) > 0"] * len(words)]
        where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        values = [*([before] if before is not None else []), *words, count]
        rows = self._query(f"{_SELECT}{where} ORDER BY id DESC LIMIT ?", *values)
        return [self._entry(row) for row in rows]

    def find(self, key: int) -> HistoryEntry | None:
        """See `HistoryStore.find`."""
        rows = self._query(f"{_SELECT} WHERE id = ?", key)
        return self._entry(rows[0]) if rows else None

    def count(self) -> int:
        """See `HistoryStore.count`."""
        return int(self._query("SELECT count(*) FROM pictures")[0][0])

    def delete(self, key: int) -> None:
        """See `HistoryStore.delete`."""
        with self._changing() as db:
            found = db.execute("SELECT file FROM pictures WHERE id = ?", (key,)).fetchone()
            for table in ("pictures", "thumbnails", "favorites"):
                db.execute(f"DELETE FROM {table} WHERE id = ?", (key,))
            if (
                found is not None
                and not db.execute("SELECT 1 FROM pictures WHERE file = ? LIMIT 1", found).fetchone()
            ):
                # Gone before its row is: a file without a row would come back with the next start.
                path = self._folder / Path(str(found[0])).name
                if path.suffix.lower() == ".png":
                    path.unlink(missing_ok=True)

    def mark(self, key: int, is_favorite: bool) -> None:
        """See `HistoryStore.mark`."""
        sql = (
            "INSERT OR IGNORE INTO favorites VALUES (?)"
            if is_favorite
            else "DELETE FROM favorites WHERE id = ?"
        )
        with self._changing() as db:
            db.execute(sql, (key,))

    def _query(self, sql: str, *values: object) -> list[Any]:
        try:
            with self._reading() as db:
                return db.execute(sql, values).fetchall()
        except (OSError, sqlite3.Error) as error:
            raise InvalidInputError(
                f"cannot read the history in {str(self._folder)!r}: {error}", hint=_HINT
            ) from error

    def _prepare(self) -> None:
        try:
            self._index_new_files()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):  # locked, or a disk fault: not damage
                raise
            index = self._folder / INDEX_NAME
            index.replace(index.with_name(f"{INDEX_NAME}.damaged-{time.time_ns()}"))
            self._index_new_files()

    def _index_new_files(self) -> None:
        with self._reading() as db:
            if db.execute(_FOREIGN).fetchone() is not None:
                raise sqlite3.DatabaseError("the index holds more than tables")
            db.executescript(_SCHEMA)
            columns = {row[1] for row in db.execute("PRAGMA table_info(pictures)")}
            if not columns.issuperset(_COLUMNS):
                raise sqlite3.DatabaseError("the index lacks columns")
        with self._writing() as db:
            for statement in _REPAIR:
                db.execute(statement)
            known = {row[0] for row in db.execute("SELECT file FROM pictures")}
        new = [found for found in sorted(_png_files(self._folder)) if found[1].name not in known]
        for start in range(0, len(new), _BATCH):
            with self._writing() as db:
                for modified_at, path in new[start : start + _BATCH]:
                    # One unreadable file must not affect the others or the index.
                    with contextlib.suppress(*_NOT_A_PICTURE):
                        if not db.execute("SELECT 1 FROM pictures WHERE file = ?", (path.name,)).fetchone():
                            self._insert(db, GeneratedImage.open(path), path.name, created_at=modified_at)

    def _insert(
        self, db: sqlite3.Connection, image: GeneratedImage, name: str, *, created_at: float
    ) -> HistoryEntry:
        thumbnail = _thumbnail(image)
        recipe = None if image.recipe is None else image.recipe.to_json()
        row = (created_at, name, image.width, image.height, encodable(image.prompt), recipe)
        key = db.execute(
            "INSERT INTO pictures (created_at, file, width, height, prompt, recipe, searchable) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            (*row, _searchable(image)),
        ).lastrowid
        db.execute("INSERT OR REPLACE INTO thumbnails (id, jpeg) VALUES (?, ?)", (key, thumbnail))
        return self._entry((key or 0, *row, thumbnail, 0))

    def _entry(self, row: _Row) -> HistoryEntry:
        # The index is a file like any other: a damaged row costs what is damaged in it, not its page.
        key, created_at, name, width, height, prompt, recipe, thumbnail, is_favorite = row
        return HistoryEntry(
            id=str(key),
            created_at=_stored_time(created_at),
            width=width if isinstance(width, int) else 0,
            height=height if isinstance(height, int) else 0,
            prompt=str(prompt),
            recipe=_stored_recipe(recipe),
            thumbnail=thumbnail if isinstance(thumbnail, bytes) else b"",
            _load=partial(GeneratedImage.open, self._folder / Path(str(name)).name),
            is_favorite=bool(is_favorite),
        )

    def _write_file(self, data: bytes) -> str:
        name = f"{hashlib.sha256(data).hexdigest()[:20]}.png"
        target = self._folder / name
        if target.exists():
            return name
        write_atomically(target, data, is_synced=True)
        return name

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        # A connection per call: no handle outlives it, which matters for threads and forked processes.
        path = self._folder / INDEX_NAME
        with contextlib.closing(sqlite3.connect(path, timeout=_BUSY_TIMEOUT_S, isolation_level=None)) as db:
            db.text_factory = partial(str, encoding="utf-8", errors="replace")
            yield db

    @contextlib.contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        try:
            with self._writing() as db:
                yield db
        except (OSError, sqlite3.Error) as error:
            raise InvalidInputError(
                f"cannot write to the history in {str(self._folder)!r}: {error}", hint=_HINT
            ) from error

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._reading() as db:
            db.execute("BEGIN IMMEDIATE")  # one writer among all kernels, files included
            try:
                yield db
            except BaseException:
                with contextlib.suppress(sqlite3.Error):  # a full disk has rolled back already
                    db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")


def _png_files(folder: Path) -> Iterator[tuple[float, Path]]:
    """Time of modification and path of the regular PNG files; no pipes and no dangling links."""
    for path in folder.glob("*.png"):
        with contextlib.suppress(OSError):
            if path.is_file():
                yield path.stat().st_mtime, path


def _stored_time(value: object) -> float:
    is_time = isinstance(value, (int, float)) and 0 <= value <= _LATEST_TIME
    return float(value) if is_time else 0.0  # type: ignore[arg-type]


def _stored_recipe(text: object) -> Recipe | None:
    if not isinstance(text, str):
        return None
    with contextlib.suppress(ValueError, RecursionError):
        return Recipe.from_dict(json.loads(text))
    return None


def _searchable(image: GeneratedImage) -> str:
    recipe = image.recipe
    if recipe is None:
        return ""
    parts = (recipe.prompt, recipe.negative_prompt, recipe.model)
    return encodable("\n".join(part for part in parts if part is not None).casefold())


def _thumbnail(image: GeneratedImage) -> bytes:
    return encode_jpeg(image.pil, max_side=THUMBNAIL_SIDE, quality=80)
