"""How values are shown."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from swiftai_nb.core.format import (
    encode_jpeg,
    format_bytes,
    format_duration,
    format_elapsed,
    format_remaining,
    shorten,
)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0 s"),
        (0.4, "0 s"),
        (8, "8 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (65, "1 min 5 s"),
        (492, "8 min 12 s"),
        (3599.7, "1 h"),
        (7440, "2 h 4 min"),
        (180_000, "50 h"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_elapsed_time_has_tenths_up_to_ten_seconds() -> None:
    assert [format_elapsed(s) for s in (0.84, 9.94, 9.96, 65)] == ["0.8 s", "9.9 s", "10 s", "1 min 5 s"]


def test_an_estimate_never_reaches_zero() -> None:
    assert format_remaining(0.0) == "about 1 s left"
    assert format_remaining(5.2) == "about 6 s left"
    assert format_remaining(491.2) == "about 8 min 12 s left"


@pytest.mark.parametrize(
    ("size", "text"),
    [(512, "512 B"), (9_800_000, "9.8 MB"), (44_000_000, "44.0 MB"), (999_600, "1.0 MB"), (6.9e9, "6.9 GB")],
)
def test_bytes(size: float, text: str) -> None:
    assert format_bytes(size) == text


def test_text_is_shortened_to_one_line() -> None:
    assert shorten("a\n  cat") == "a cat"
    assert shorten("a cat on a mat", 6) == "a cat…"
    assert len(shorten("x" * 100)) == 80


def test_jpegs_are_scaled_down_and_on_request_up() -> None:
    pixels = np.zeros((30, 60, 3), np.uint8)

    def size(**options: object) -> tuple[int, int]:
        with Image.open(io.BytesIO(encode_jpeg(pixels, **options))) as picture:  # type: ignore[arg-type]
            assert picture.format == "JPEG"
            return picture.size

    assert size() == (60, 30)
    assert size(max_side=20) == (20, 10)
    assert size(max_side=120) == (60, 30)
    assert size(max_side=120, enlarge=True) == (120, 60)


def test_a_picture_with_alpha_becomes_a_jpeg() -> None:
    assert encode_jpeg(Image.new("RGBA", (4, 4)))[:2] == b"\xff\xd8"
