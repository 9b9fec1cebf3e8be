"""`%imagine_history`: what has been made, as thumbnails; search and recall."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Any

from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.core.format import shorten
from swiftai_nb.core.table import Table
from swiftai_nb.notebook.magic.tokens import split
from swiftai_nb.notebook.output.pictures import Pictures
from swiftai_nb.notebook.session import get_session

if TYPE_CHECKING:
    from swiftai_nb.jobs.history import History
    from swiftai_nb.jobs.history_store import HistoryEntry

PAGE = 24
USAGE = "%imagine_history [WORDS] [--count N] [--before ID] | --recall ID | --keep FOLDER | --forget-folder"


class HistoryPage(Sequence["HistoryEntry"]):
    """Some entries of the history, newest first, shown as thumbnails with their numbers."""

    def __init__(self, entries: Sequence[HistoryEntry], *, total: int, words: str = "") -> None:
        self._entries = tuple(entries)
        self._total = total
        self._words = words

    def __getitem__(self, index: Any) -> Any:
        return self._entries[index]

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        if not self._entries:
            return f"no pictures{f' with {self._words!r}' if self._words else ' yet'}"
        return repr(Table(self._entries, cells=_row))

    def _repr_html_(self) -> str:
        if not self._entries:
            return f"<p>{html.escape(repr(self))}</p>"
        cards = "".join(_card(entry) for entry in self._entries)
        shown = len(self._entries)
        more = (
            f"; older ones: %imagine_history --before {self._entries[-1].id}" if shown < self._total else ""
        )
        foot = f"{shown} of {self._total} pictures{more}. Recall one: %imagine_history --recall NUMBER"
        return (
            '<div style="display:flex;flex-wrap:wrap;gap:12px">'
            f'{cards}</div><div style="opacity:.75;margin-top:8px">{html.escape(foot)}</div>'
        )


def _card(entry: HistoryEntry) -> str:
    data = base64.b64encode(entry.thumbnail).decode("ascii")
    words = html.escape(entry.prompt)
    when = datetime.fromtimestamp(entry.created_at)
    return (
        f'<figure style="margin:0;width:128px" title="{words}">'
        f'<img alt="{words}" src="data:image/jpeg;base64,{data}" '
        'style="width:128px;height:128px;object-fit:contain;border-radius:4px;background:rgba(128,128,128,.12)">'
        '<figcaption style="font-size:12px;line-height:1.35;overflow-wrap:anywhere">'
        f"<b>{entry.id}</b> <span style='opacity:.7'>{when:%H:%M}</span><br>{words[:80]}"
        f"<br><span style='opacity:.7'>{html.escape(_settings(entry))}</span></figcaption></figure>"
    )


def _row(entry: HistoryEntry) -> tuple[str, ...]:
    return str(entry.id), _settings(entry), shorten(entry.prompt, 70)


def _settings(entry: HistoryEntry) -> str:
    recipe = entry.recipe
    parts = [f"{entry.width}x{entry.height}"]
    if recipe is not None:
        parts += [
            f"seed {recipe.seed}" if recipe.seed is not None else "",
            f"{recipe.steps} steps" if recipe.steps else "",
        ]
    return ", ".join(part for part in parts if part)


def imagine_history(line: str) -> HistoryPage | Pictures | None:
    """Shows the newest pictures, searches, recalls one, or keeps the history in a folder.

    Raises:
        InvalidInputError: not understood, or no such picture.
    """
    session = get_session()
    words, options = _read(line)
    if "keep" in options or "forget-folder" in options:
        session.keep_history_in(options.get("keep"))
        return _page(session.history, "", {})
    if "recall" in options:
        entry = session.history.find(options["recall"])
        return Pictures([entry.image], prompt=entry.prompt)
    return _page(session.history, words, options)


def _page(history: History, words: str, options: dict[str, str]) -> HistoryPage:
    count = _count(options.get("count", str(PAGE)))
    if words:
        found = list(islice(history.search(words), count + 1))
        return HistoryPage(found[:count], total=len(found), words=words)
    return HistoryPage(history.newest(count, before=options.get("before")), total=len(history))


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 1000:
        raise InvalidInputError(f"--count {text!r} is not a number from 1 to 1000")
    return int(text)


def _read(line: str) -> tuple[str, dict[str, str]]:
    words: list[str] = []
    options: dict[str, str] = {}
    tokens = iter(split(line))
    for token in tokens:
        name = token.text.removeprefix("--")
        if token.text == "--forget-folder":
            options[name] = ""
        elif token.text in ("--count", "--before", "--recall", "--keep"):
            value = next(tokens, None)
            if value is None:
                raise InvalidInputError(f"{token.text} needs a value: {USAGE}")
            options[name] = value.value
        elif token.text.startswith("--"):
            raise InvalidInputError(f"unknown option {token.text}: {USAGE}")
        else:
            words.append(token.value)
    return " ".join(words), options
