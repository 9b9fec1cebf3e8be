"""Pictures that go out and come back."""

from __future__ import annotations

import base64
import io
import zlib
from typing import Any

import pytest
from PIL import Image

from swiftai_nb.core.config import ImageGenerationConfig
from swiftai_nb.core.errors import GenerationFailedError, InvalidInputError
from swiftai_nb.providers.cloud.pictures import (
    decode_base64,
    decode_picture,
    refuse_enlargement,
    to_jpeg_preview,
    upload,
)


def encoded(picture: Image.Image, file_format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, file_format, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "GIF"])
def test_any_format_is_sent_as_one_that_everyone_reads(file_format: str) -> None:
    data, media_type = upload(encoded(Image.new("RGB", (20, 10)), file_format))
    assert media_type == "image/png"
    assert Image.open(io.BytesIO(data)).size == (20, 10)


def test_a_photograph_is_turned_upright_before_its_exif_block_is_dropped() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data, _ = upload(encoded(Image.new("RGB", (20, 10)), "JPEG", exif=exif))
    assert Image.open(io.BytesIO(data)).size == (10, 20)


def test_a_large_mask_keeps_its_edges() -> None:
    mask = Image.new("RGB", (1600, 1600))
    assert upload(encoded(mask))[1] == "image/jpeg"
    assert upload(encoded(mask), is_mask=True)[1] == "image/png"


def test_what_is_no_picture_is_not_sent() -> None:
    with pytest.raises(InvalidInputError):
        upload(b"text")


@pytest.mark.parametrize(
    "data", [b"", b"<html>", b"\x89PNG\r\n\x1a\n", encoded(Image.new("RGB", (99, 99)))[:80]]
)
def test_an_answer_that_is_no_picture(data: bytes) -> None:
    with pytest.raises(GenerationFailedError) as caught:
        decode_picture(data, "acme")
    assert caught.value.hint


def test_base64_with_and_without_its_prefix() -> None:
    text = base64.b64encode(b"abc").decode()
    assert decode_base64(text, "acme") == decode_base64(f"data:image/png;base64,{text}", "acme") == b"abc"


@pytest.mark.parametrize("text", ["a", None, 7, ["x"], "\ud800"])
def test_base64_that_is_none(text: object) -> None:
    with pytest.raises(GenerationFailedError):
        decode_base64(text, "acme")


def test_a_partial_picture_is_a_small_jpeg_or_nothing() -> None:
    text = base64.b64encode(encoded(Image.new("RGBA", (1024, 512)))).decode()
    preview = to_jpeg_preview(text, "acme")
    assert preview is not None
    assert Image.open(io.BytesIO(preview)).size == (512, 256)
    assert to_jpeg_preview(text[:80], "acme") is None
    assert to_jpeg_preview(None, "acme") is None


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"upscale": 2.0}, "the service does not enlarge pictures"),
        ({"hires": 1.5}, "the service does not enlarge pictures"),
        ({"image": b"x", "outpaint": "64"}, "the service does not continue pictures"),
    ],
)
def test_services_without_these_refuse_them(settings: dict[str, Any], match: str) -> None:
    refuse_enlargement(ImageGenerationConfig(), who="the service")
    with pytest.raises(InvalidInputError, match=match):
        refuse_enlargement(ImageGenerationConfig(**settings), who="the service")


def test_a_picture_of_too_many_pixels_is_refused_before_it_is_decoded() -> None:
    data = bytearray(encoded(Image.new("RGB", (8, 8))))
    data[16:24] = (60_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    with pytest.raises(GenerationFailedError, match="too large to open"):
        decode_picture(bytes(data), "a server")
