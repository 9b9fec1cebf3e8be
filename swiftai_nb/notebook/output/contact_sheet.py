"""Several pictures on one sheet, with labels where a grid has them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from swiftai_nb.core.errors import InvalidInputError

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont, ImageFont

    from swiftai_nb.core.image import GeneratedImage

SMALLEST_CELL = 192
LARGEST_SHEET = 8192
GROUND, INK, EMPTY = "#ffffff", "#3c4043", "#eceff1"


@dataclass(frozen=True)
class _Measures:
    """Pixels of a sheet: one cell, the gaps, and the room for labels."""

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
    labels: tuple[Sequence[str], Sequence[str]] | None = None,
) -> GeneratedImage:
    """One picture that holds all of them.

    Args:
        images: row by row; None leaves a cell empty.
        columns: cells in a row; None makes the sheet about square.
        labels: (over the columns, beside the rows); fixes the number of columns.

    Raises:
        InvalidInputError: there are no pictures, or columns is below 1.
    """
    from PIL import Image as PILImage
    from PIL import ImageDraw

    from swiftai_nb.core.image import GeneratedImage

    if not any(images):
        raise InvalidInputError("there are no pictures to put on a sheet")
    measures = _measure(images, columns, labels)
    sheet = PILImage.new("RGB", measures.size, GROUND)
    drawing = ImageDraw.Draw(sheet)
    for index, image in enumerate(images):
        x, y = measures.corner(index)
        box = (x, y, x + measures.cell_width - 1, y + measures.cell_height - 1)
        drawing.rectangle(box, fill=EMPTY) if image is None else sheet.paste(_fitted(image, measures), (x, y))
    if labels is not None:
        _write_labels(drawing, measures, labels)
    return GeneratedImage.from_pil(sheet)


def expected_size(
    picture: tuple[int, int], count: int, labels: tuple[Sequence[str], Sequence[str]] | None = None
) -> tuple[int, int]:
    """Pixels of the sheet that `count` pictures of that size will make; of one without labels, its own."""
    return picture if count == 1 and labels is None else _measures(picture, count, None, labels).size


def _measure(
    images: Sequence[GeneratedImage | None],
    columns: int | None,
    labels: tuple[Sequence[str], Sequence[str]] | None,
) -> _Measures:
    if columns is not None and columns < 1:
        raise InvalidInputError(f"columns {columns} is below the smallest, 1")
    made = [image for image in images if image is not None]
    largest = max(i.width for i in made), max(i.height for i in made)
    return _measures(largest, len(images), columns, labels)


def _measures(
    picture: tuple[int, int],
    count: int,
    columns: int | None,
    labels: tuple[Sequence[str], Sequence[str]] | None,
) -> _Measures:
    if labels is not None:
        columns = max(1, len(labels[0]))
    columns = min(count, columns or math.ceil(math.sqrt(count)))
    rows = -(-count // columns)
    width, height = picture
    scale: float = -(-SMALLEST_CELL // min(width, height)) if min(width, height) < SMALLEST_CELL else 1
    scale = min(scale, LARGEST_SHEET / (columns * width), LARGEST_SHEET / (rows * height))
    width, height = max(1, round(width * scale)), max(1, round(height * scale))
    gap = max(4, round(min(width, height) * 0.02))
    top = 0 if labels is None or not any(labels[0]) else _font_size(width) * 2
    left = 0 if labels is None or not any(labels[1]) else _room_beside(labels[1], width)
    return _Measures(width, height, columns, rows, top, left, gap)


def _room_beside(labels: Sequence[str], cell_width: int) -> int:
    size = _font_size(cell_width)
    longest = max(len(label) for label in labels)
    return min(round(longest * size * 0.55) + size * 2, max(size * 6, cell_width // 2))


def _font_size(cell_width: int) -> int:
    return min(48, max(14, cell_width // 14))


def _fitted(image: GeneratedImage, measures: _Measures) -> Image:
    from PIL import Image as PILImage

    cell = (measures.cell_width, measures.cell_height)
    picture = image.pil
    if picture.width / picture.height != cell[0] / cell[1]:
        from PIL import ImageOps

        return ImageOps.pad(picture, cell, PILImage.Resampling.LANCZOS, color=GROUND)
    return picture if picture.size == cell else picture.resize(cell, PILImage.Resampling.LANCZOS)


def _write_labels(
    drawing: ImageDraw, measures: _Measures, labels: tuple[Sequence[str], Sequence[str]]
) -> None:
    from PIL import ImageFont

    size = _font_size(measures.cell_width)
    font = ImageFont.load_default(size)
    for column, label in enumerate(labels[0]):
        x = measures.corner(column)[0] + measures.cell_width // 2
        text = _shortened(drawing, label, font, measures.cell_width)
        drawing.text((x, measures.top // 2), text, INK, font, anchor="mm")
    for row, label in enumerate(labels[1]):
        y = measures.corner(row * measures.columns)[1] + measures.cell_height // 2
        text = _wrapped(drawing, label, font, measures.left - size)
        drawing.multiline_text((measures.left - size // 2, y), text, INK, font, anchor="rm", align="right")


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
