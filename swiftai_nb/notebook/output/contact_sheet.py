"""Several pictures on one sheet, with the labels of a grid; finished, or filling in."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.core.format import encode_jpeg, shorten
from swiftai_nb.core.image import LARGEST_ENLARGEMENT
from swiftai_nb.core.image_input import to_pil
from swiftai_nb.core.recipe_fields import encodable

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont, ImageFont

    from swiftai_nb.core.image import GeneratedImage

SMALLEST_CELL = 192
LARGEST_SHEET = 8192
LARGEST_PREVIEW = 1024
LONGEST_LABEL = 200
BACKGROUND, TEXT, EMPTY = "#ffffff", "#3c4043", "#eceff1"
Labels = tuple[Sequence[str], Sequence[str]]


@dataclass(frozen=True)
class _Measures:
    """Pixels of a sheet: one cell, the gaps, and the space for labels."""

    count: int
    cell_width: int
    cell_height: int
    columns: int
    rows: int
    top: int
    left: int
    gap: int

    @property
    def size(self) -> tuple[int, int]:
        width = self.left + self.columns * (self.cell_width + self.gap) - self.gap
        height = self.top + self.rows * (self.cell_height + self.gap) - self.gap
        return width, height

    def corner(self, index: int) -> tuple[int, int]:
        row, column = divmod(index, self.columns)
        return self.left + column * (self.cell_width + self.gap), self.top + row * (
            self.cell_height + self.gap
        )


def contact_sheet(
    images: Sequence[GeneratedImage | None],
    *,
    columns: int | None = None,
    labels: Labels | None = None,
    largest: int = LARGEST_SHEET,
) -> GeneratedImage:
    """One picture that holds all of them.

    Args:
        images: row by row; None leaves a cell empty.
        columns: cells in a row; None makes the sheet about square.
        labels: (over the columns, beside the rows); fixes the number of columns.
        largest: pixels of a side, at most.

    Raises:
        InvalidInputError: there are no pictures, or columns is below 1.
    """
    from swiftai_nb.core.image import GeneratedImage

    if not any(images):
        raise InvalidInputError("there are no pictures to put on a sheet")
    measures = _measure(images, columns, labels, largest=largest)
    sheet = _empty_sheet(measures, labels)
    for index, image in enumerate(images):
        if image is not None:
            sheet.paste(_fitted(image.pil, measures), measures.corner(index))
    return GeneratedImage.from_pil(sheet)


class SheetPreview:
    """Previews of a sheet that fills in: finished pictures, and the one in progress. Thread-safe.

    Args:
        count: cells of the sheet.
        labels: (over the columns, beside the rows).
    """

    def __init__(self, count: int, *, labels: Labels | None = None) -> None:
        self._count = count
        self._labels = labels
        self._lock = threading.Lock()
        self._measures: _Measures | None = None
        self._sheet: Image | None = None
        self._drawn: set[int] = set()
        self._shown: tuple[int, bytes | None] = (0, None)
        self._jpeg: bytes | None = None

    def jpeg(
        self,
        cells: Sequence[GeneratedImage | None],
        *,
        index: int | None = None,
        preview: bytes | None = None,
    ) -> bytes | None:
        """The sheet now, at most 1024 pixels on a side; the same object while nothing has changed.

        Args:
            cells: row by row; None where there is no picture yet. Pictures are never replaced.
            index: the cell of `preview`.
            preview: JPEG of the picture in progress.

        Returns:
            None before there is anything to show.
        """
        with self._lock:
            new = [i for i, cell in enumerate(cells) if cell is not None and i not in self._drawn]
            preview = None if index is None or cells[index] is not None else preview
            if not new and (preview is None or preview is self._shown[1]):
                return self._jpeg
            sheet, measures = self._prepared(cells, preview)
            for i in new:
                cell = cells[i]
                if cell is not None:
                    sheet.paste(_fitted(cell.pil, measures), measures.corner(i))
            self._drawn |= set(new)
            if preview is not None and index is not None:
                sheet = sheet.copy()
                sheet.paste(_fitted(to_pil(preview), measures), measures.corner(index))
            self._shown = (len(self._drawn), preview)
            self._jpeg = encode_jpeg(sheet)
            return self._jpeg

    def _prepared(
        self, cells: Sequence[GeneratedImage | None], preview: bytes | None
    ) -> tuple[Image, _Measures]:
        if self._sheet is None or self._measures is None:
            sizes = [(cell.width, cell.height) for cell in cells if cell is not None]
            size = sizes[0] if sizes else to_pil(b"" if preview is None else preview).size
            self._measures = _measures(size, self._count, None, self._labels, largest=LARGEST_PREVIEW)
            self._sheet = _empty_sheet(self._measures, self._labels)
        return self._sheet, self._measures


def expected_size(picture: tuple[int, int], count: int, labels: Labels | None = None) -> tuple[int, int]:
    """Pixels (width, height) of the sheet of `count` pictures; of one without labels, its own."""
    return picture if count == 1 and labels is None else _measures(picture, count, None, labels).size


def _measure(
    images: Sequence[GeneratedImage | None],
    columns: int | None,
    labels: Labels | None,
    *,
    largest: int,
) -> _Measures:
    if columns is not None and columns < 1:
        raise InvalidInputError(f"columns {columns} is below the smallest, 1")
    made = [image for image in images if image is not None]
    size = max(i.width for i in made), max(i.height for i in made)
    return _measures(size, len(images), columns, labels, largest=largest)


def _measures(
    picture: tuple[int, int],
    count: int,
    columns: int | None,
    labels: Labels | None,
    *,
    largest: int = LARGEST_SHEET,
) -> _Measures:
    if labels is not None:
        columns = max(1, len(labels[0]))
    columns = min(count, columns or math.ceil(math.sqrt(count)))
    rows = -(-count // columns)
    width, height = picture
    scale: float = min(LARGEST_ENLARGEMENT, max(1, -(-SMALLEST_CELL // min(width, height))))
    scale = min(scale, largest / (columns * width), largest / (rows * height))
    width, height = max(1, round(width * scale)), max(1, round(height * scale))
    gap = max(4, round(min(width, height) * 0.02))
    top = 0 if labels is None or not any(labels[0]) else _font_size(width) * 2
    left = 0 if labels is None or not any(labels[1]) else _label_width(labels[1], width)
    return _Measures(count, width, height, columns, rows, top, left, gap)


def _label_width(labels: Sequence[str], cell_width: int) -> int:
    size = _font_size(cell_width)
    longest = max(len(label) for label in labels)
    return min(round(longest * size * 0.55) + size * 2, max(size * 6, cell_width // 2))


def _font_size(cell_width: int) -> int:
    return min(48, max(14, cell_width // 14))


def _empty_sheet(measures: _Measures, labels: Labels | None) -> Image:
    from PIL import Image as PILImage
    from PIL import ImageDraw

    sheet = PILImage.new("RGB", measures.size, BACKGROUND)
    drawing = ImageDraw.Draw(sheet)
    for index in range(measures.count):
        x, y = measures.corner(index)
        drawing.rectangle((x, y, x + measures.cell_width - 1, y + measures.cell_height - 1), fill=EMPTY)
    if labels is not None:
        _write_labels(drawing, measures, labels)
    return sheet


def _fitted(picture: Image, measures: _Measures) -> Image:
    from PIL import Image as PILImage

    cell = (measures.cell_width, measures.cell_height)
    if picture.width / picture.height != cell[0] / cell[1]:
        from PIL import ImageOps

        return ImageOps.pad(picture, cell, PILImage.Resampling.LANCZOS, color=BACKGROUND)
    return picture if picture.size == cell else picture.resize(cell, PILImage.Resampling.LANCZOS)


def _write_labels(drawing: ImageDraw, measures: _Measures, labels: Labels) -> None:
    from PIL import ImageFont

    size = _font_size(measures.cell_width)
    font = ImageFont.load_default(size)
    for column, label in enumerate(labels[0]):
        x = measures.corner(column)[0] + measures.cell_width // 2
        text = _shortened(drawing, _printable(label), font, measures.cell_width)
        drawing.text((x, measures.top // 2), text, TEXT, font, anchor="mm")
    for row, label in enumerate(labels[1]):
        y = measures.corner(row * measures.columns)[1] + measures.cell_height // 2
        text = _wrapped(drawing, _printable(label), font, measures.left - size)
        drawing.multiline_text((measures.left - size // 2, y), text, TEXT, font, anchor="rm", align="right")


def _printable(label: str) -> str:
    """A label's beginning, on one line: more cannot be seen, and measuring it takes quadratic time."""
    return encodable(shorten(label[: 4 * LONGEST_LABEL], LONGEST_LABEL))


def _shortened(drawing: ImageDraw, text: str, font: ImageFont | FreeTypeFont, width: int) -> str:
    while len(text) > 1 and drawing.textlength(text, font) > width:
        text = text.rstrip("…")[:-1] + "…"
    return text


def _wrapped(drawing: ImageDraw, text: str, font: ImageFont | FreeTypeFont, width: int) -> str:
    lines: list[str] = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if drawing.textlength(longer, font) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    lines = lines[:6]
    return "\n".join(_shortened(drawing, line, font, width) for line in lines)
