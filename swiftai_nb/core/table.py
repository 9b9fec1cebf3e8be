"""The table class of all reports: aligned text in a terminal, HTML in a notebook."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, overload

Item = TypeVar("Item")
_GAP = "  "
_LONGEST_RULE = 100


@dataclass(frozen=True)
class Cell:
    """A table cell with formatting.

    Args:
        text: shown; a line break starts a new line inside the cell.
        url: makes the text a link, in HTML.
        title: a tooltip, in HTML.
        is_bold: in HTML.
    """

    text: str
    url: str | None = None
    title: str = ""
    is_bold: bool = False


@dataclass(frozen=True)
class Row:
    """The cells of one row; `is_dim` shows a row of minor importance with less contrast, in HTML."""

    cells: Sequence[str | Cell]
    is_dim: bool = False


class Table(Sequence[Item], Generic[Item]):
    """A sequence of items that is displayed as a table. All text is escaped in HTML.

    Colors are the host's: the same HTML works in light and dark themes.

    Args:
        items: what the sequence holds, in order.
        cells: the row of an item.
        columns: the header; empty for a table of names and values, whose first column is its header.
        numeric: columns, by name, that are aligned right.
        wrapped: columns, by name, whose text may wrap; the others stay on one line.
        title: one line above the table: (emphasized, rest).
        notes: lines below the table.
        empty: shown instead of a table without rows.
    """

    def __init__(
        self,
        items: Iterable[Item],
        *,
        cells: Callable[[Item], Row | Sequence[str | Cell]],
        columns: Sequence[str] = (),
        numeric: Iterable[str] = (),
        wrapped: Iterable[str] = (),
        title: tuple[str, str] | None = None,
        notes: Sequence[str] = (),
        empty: str = "",
    ) -> None:
        self._items = tuple(items)
        self._cells = cells
        self._columns = tuple(columns)
        self._numeric = frozenset(numeric)
        self._wrapped = frozenset(wrapped)
        self._title = title
        self._notes = tuple(notes)
        self._empty = empty

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | Sequence[Item]:
        return self._items[index]

    def __len__(self) -> int:
        return len(self._items)

    @property
    def columns(self) -> tuple[str, ...]:
        """The header."""
        return self._columns

    @property
    def notes(self) -> tuple[str, ...]:
        """The lines below the table."""
        return self._notes

    def rows(self) -> list[tuple[str, ...]]:
        """The text of every row."""
        return [tuple(_as_cell(cell).text for cell in row.cells) for row in self._rows()]

    def __repr__(self) -> str:
        if not self._items:
            return self._empty
        lines = [] if self._title is None else [": ".join(self._title)]
        rows = self.rows()
        texts = [self._columns, *rows] if self._columns else rows
        widths = [max(_width(row[i]) for row in texts) for i in range(len(texts[0]))]
        body = [line for row in texts for line in self._text_lines(row, widths)]
        if self._columns:
            body.insert(1, "-" * min(_LONGEST_RULE, len(body[0])))
        lines += body if self._title is None else [_GAP + line for line in body]
        return "\n".join([*lines, *(["", *self._notes] if self._notes else [])])

    def _repr_html_(self) -> str:
        if not self._items:
            return f"<p>{html.escape(self._empty)}</p>"
        title = ""
        if self._title is not None:
            title = f"<div><b>{html.escape(self._title[0])}</b>: {html.escape(self._title[1])}</div>"
        head = "".join(f"<th {self._style(i)}>{html.escape(c)}</th>" for i, c in enumerate(self._columns))
        head = f"<thead><tr>{head}</tr></thead>" if self._columns else ""
        body = "".join(self._html_row(row) for row in self._rows())
        notes = "".join(f"<div>{html.escape(line)}</div>" for line in self._notes)
        notes = f'<div style="opacity:.75">{notes}</div>' if notes else ""
        return f"{title}<table>{head}<tbody>{body}</tbody></table>{notes}"

    def _rows(self) -> list[Row]:
        rows = (self._cells(item) for item in self._items)
        return [row if isinstance(row, Row) else Row(row) for row in rows]

    def _text_lines(self, row: Sequence[str], widths: Sequence[int]) -> list[str]:
        parts = [text.split("\n") for text in row]
        lines = []
        for number in range(max(len(part) for part in parts)):
            texts = [part[number] if number < len(part) else "" for part in parts]
            padded = [
                text.rjust(width) if self._is_numeric(i) else text.ljust(width)
                for i, (text, width) in enumerate(zip(texts, widths, strict=True))
            ]
            lines.append(_GAP.join(padded).rstrip())
        return lines

    def _html_row(self, row: Row) -> str:
        dim = ' style="opacity:.65"' if row.is_dim else ""
        tags = ["th" if not self._columns and i == 0 else "td" for i in range(len(row.cells))]
        cells = "".join(
            f"<{tag} {self._style(i)}>{_html_cell(_as_cell(cell))}</{tag}>"
            for i, (tag, cell) in enumerate(zip(tags, row.cells, strict=True))
        )
        return f"<tr{dim}>{cells}</tr>"

    def _is_numeric(self, index: int) -> bool:
        return index < len(self._columns) and self._columns[index] in self._numeric

    def _style(self, index: int) -> str:
        side = "right" if self._is_numeric(index) else "left"
        # A column of names stays whole; a column of values wraps.
        wraps = self._columns[index] in self._wrapped if self._columns else index > 0
        space = "normal" if wraps else "nowrap"
        return f'style="text-align:{side};vertical-align:top;white-space:{space}"'


def _as_cell(cell: str | Cell) -> Cell:
    return Cell(cell) if isinstance(cell, str) else cell


def _width(text: str) -> int:
    return max(len(line) for line in text.split("\n"))


def _html_cell(cell: Cell) -> str:
    attributes: dict[str, Any] = {}
    if cell.title:
        attributes["title"] = cell.title
    if cell.is_bold:
        attributes["style"] = "font-weight:600"
    text = html.escape(cell.text).replace("\n", "<br>")
    if cell.url is not None:
        link = _attributes({"href": cell.url, "target": "_blank", "rel": "noreferrer", **attributes})
        return f"<a{link}>{text}</a>"
    return f"<span{_attributes(attributes)}>{text}</span>" if attributes else text


def _attributes(values: dict[str, Any]) -> str:
    return "".join(f' {name}="{html.escape(str(value), quote=True)}"' for name, value in values.items())
