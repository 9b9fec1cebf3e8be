"""Sheets of several pictures, finished and filling in."""

from __future__ import annotations

import time

import pytest
from PIL import Image

from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.core.format import encode_jpeg
from swiftai_nb.core.image import GeneratedImage
from swiftai_nb.core.image_input import to_pil
from swiftai_nb.notebook.output.contact_sheet import SheetPreview, contact_sheet, expected_size
from tests.waiting import LINEAR_TIME_S


def picture(color: str, side: int = 64) -> GeneratedImage:
    return GeneratedImage.from_pil(Image.new("RGB", (side, side), color))


def color_at(jpeg: bytes, x: float, y: float) -> str:
    """The name of the main color at a place, in fractions of the sheet."""
    sheet = to_pil(jpeg)
    red, green, blue = sheet.getpixel((int(x * sheet.width), int(y * sheet.height)))
    if min(red, green, blue) > 200:
        return "empty"
    return "red" if red > max(green, blue) else ("green" if green > blue else "blue")


def test_sheet_has_the_expected_size_and_leaves_missing_cells_empty() -> None:
    sheet = contact_sheet([picture("red"), None, picture("blue"), None])
    assert (sheet.width, sheet.height) == expected_size((64, 64), 4)
    jpeg = encode_jpeg(sheet.pil)
    assert [color_at(jpeg, x, y) for y in (0.25, 0.75) for x in (0.25, 0.75)] == [
        "red", "empty", "blue", "empty",
    ]  # fmt: skip


def test_sheet_without_pictures_is_refused() -> None:
    with pytest.raises(InvalidInputError):
        contact_sheet([None, None])


def test_preview_shows_finished_pictures_and_the_one_in_progress() -> None:
    sheet = SheetPreview(4)
    cells: list[GeneratedImage | None] = [None] * 4
    assert sheet.jpeg(cells) is None
    green = encode_jpeg(Image.new("RGB", (64, 64), "green"))
    first = sheet.jpeg(cells, index=0, preview=green)
    assert first is not None
    assert color_at(first, 0.25, 0.25) == "green"
    cells[0] = picture("red")
    second = sheet.jpeg(cells, index=1, preview=green)
    assert second is not None
    assert [color_at(second, x, 0.25) for x in (0.25, 0.75)] == ["red", "green"]
    assert color_at(second, 0.25, 0.75) == "empty"
    assert sheet.jpeg(cells, index=1, preview=green) is second, "nothing has changed"
    cells[1] = picture("blue")
    third = sheet.jpeg(cells)
    assert third is not None
    assert [color_at(third, x, 0.25) for x in (0.25, 0.75)] == ["red", "blue"]


def test_preview_is_small_however_large_the_sheet_is() -> None:
    sheet = SheetPreview(9, labels=(["a", "b", "c"], ["x", "y", "z"]))
    jpeg = sheet.jpeg([picture("red", 1024), *[None] * 8])
    assert jpeg is not None
    assert max(to_pil(jpeg).size) <= 1024 * 1.3


@pytest.mark.parametrize(
    "label",
    [
        "a" * 100_000,
        "a " * 100_000,
        "a" * 2_000_000,
        "a\nb\0c",
        "\ud83d",
        "a" + "\u0301" * 5_000,
        "\u202e" * 9,
    ],
    ids=["letters", "words", "very long", "lines", "half an emoji", "accents", "direction"],
)
def test_odd_labels_are_drawn_or_cut(label: str) -> None:
    image = GeneratedImage.from_pil(Image.new("RGB", (64, 64)))
    began = time.process_time()
    contact_sheet([image, image], labels=([label, "b"], [""]))
    contact_sheet([image, image], labels=([""], [label, "b"]))
    assert time.process_time() - began < LINEAR_TIME_S
