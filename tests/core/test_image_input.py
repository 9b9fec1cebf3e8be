"""Any picture a user hands in becomes upright eight-bit RGB."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.core.image import GeneratedImage
from swiftai_nb.core.image_input import mask_to_png_bytes, to_pil, to_png_bytes


def test_path_bytes_pil_and_own_images_agree(tmp_path: Path) -> None:
    pixels = np.arange(8 * 6 * 3, dtype=np.uint8).reshape(8, 6, 3)
    own = GeneratedImage.from_pixels(pixels)
    path = own.save(tmp_path / "a.png")
    for source in (path, str(path), own.data, own.pil, own, pixels):
        assert np.array_equal(np.asarray(to_pil(source)), pixels)


def test_transparent_pixels_become_white() -> None:
    clear = Image.new("RGBA", (2, 2), (255, 0, 0, 0))
    assert to_pil(clear).getpixel((0, 0)) == (255, 255, 255)


def test_palette_with_transparency() -> None:
    picture = Image.new("P", (2, 2), 0)
    picture.putpalette([10, 20, 30, 0, 0, 0])
    assert to_pil(picture).getpixel((0, 0)) == (10, 20, 30)
    picture.info["transparency"] = 0
    assert to_pil(picture).getpixel((0, 0)) == (255, 255, 255)


def test_exif_rotation_is_applied() -> None:
    picture = Image.new("RGB", (4, 2))
    exif = picture.getexif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", exif=exif)
    assert to_pil(buffer.getvalue()).size == (2, 4)


def test_sixteen_bit_gray_is_scaled() -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.array([[0, 65535]], dtype=np.uint16)).save(buffer, "PNG")
    picture = to_pil(buffer.getvalue())
    assert [picture.getpixel((x, 0)) for x in range(2)] == [(0, 0, 0), (255, 255, 255)]


@pytest.mark.parametrize(
    ("array", "corner"),
    [
        (np.ones((2, 3)), 255),
        (np.full((2, 3, 3), 0.5, dtype=np.float32), 128),
        (np.full((2, 3, 1), 7, dtype=np.uint8), 7),
        (np.full((2, 3, 4), 255, dtype=np.uint8), 255),
        (np.full((2, 3), 65535, dtype=np.uint16), 255),
        (np.ones((2, 3), dtype=bool), 255),
    ],
)
def test_arrays_of_every_sensible_kind(array: np.ndarray, corner: int) -> None:
    picture = to_pil(array)
    assert picture.size == (3, 2)
    assert picture.getpixel((0, 0)) == (corner,) * 3


def test_matplotlib_figure() -> None:
    from matplotlib.figure import Figure

    assert to_pil(Figure(figsize=(1, 1), dpi=50)).size == (50, 50)


@pytest.mark.parametrize(
    "source",
    [
        b"",
        b"junk",
        "/no/such/file.png",
        7,
        None,
        np.zeros((2, 3, 5)),
        np.zeros((0, 3)),
        np.array([[2.0]]),
        np.array([[np.nan]]),
        np.array([[300]]),
    ],
    ids=str,
)
def test_what_is_not_a_picture_is_one_clear_error(source: object) -> None:
    with pytest.raises(InvalidInputError) as caught:
        to_png_bytes(source)
    assert caught.value.hint


@pytest.mark.parametrize(
    "mask",
    [
        np.array([[0, 1]], dtype=np.uint8),
        np.array([[0, 255]], dtype=np.uint8),
        np.array([[False, True]]),
        np.array([[0.0, 1.0]]),
        to_png_bytes(Image.fromarray(np.array([[0, 1]], dtype=np.uint8))),
    ],
    ids=["zeros and ones", "black and white", "booleans", "floats", "a file of zeros and ones"],
)
def test_a_mask_of_zeros_and_ones_is_black_and_white(mask: object) -> None:
    assert np.asarray(to_pil(mask_to_png_bytes(mask)))[0, :, 0].tolist() == [0, 255]


def test_a_gray_mask_keeps_its_shades() -> None:
    shades = np.array([[0, 2, 100]], dtype=np.uint8)
    assert np.asarray(to_pil(mask_to_png_bytes(shades)))[0, :, 0].tolist() == [0, 2, 100]


@pytest.mark.parametrize("block", [b"MM\0*", b"MM\0*\xff\xff\xff\xff", b"II*\0\x08\0\0\0\xff\xff", b"{"])
@pytest.mark.parametrize("file_format", ["PNG", "WEBP"])
def test_a_picture_with_a_damaged_exif_block_is_read_as_it_is(block: bytes, file_format: str) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (3, 2), "red").save(buffer, file_format, exif=b"Exif\0\0" + block)
    assert to_pil(buffer.getvalue()).size == (3, 2)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@pytest.mark.parametrize("late", [(b"iCCP", b""), (b"cHRM", b"1"), (b"IHDR", b"12345"), (b"gAMA", b"")])
def test_a_png_with_a_broken_chunk_after_its_pixels_is_one_error(
    tmp_path: Path, late: tuple[bytes, bytes]
) -> None:
    head = _chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0))
    pixels = _chunk(b"IDAT", zlib.compress(bytes(25 * 8)))
    data = b"\x89PNG\r\n\x1a\n" + head + pixels + _chunk(*late) + _chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(data)
    for source in (data, tmp_path / "a.png"):
        with pytest.raises(InvalidInputError, match="cannot read a picture"):
            to_pil(source)
    with pytest.raises(InvalidInputError, match="cannot read a picture"):
        GeneratedImage.open(tmp_path / "a.png")
    with pytest.raises(InvalidInputError, match="cannot read a picture"):
        _ = GeneratedImage(data=data, width=8, height=8).pil


class Broken:
    """An object of a user's, whose own code fails."""

    def __array__(self, dtype: object = None, copy: object = None) -> np.ndarray:
        raise RuntimeError("no pixels")


class BrokenFigure:
    def savefig(self, *_: object, **__: object) -> None:
        raise RuntimeError("no figure")


class BrokenPicture:
    @property
    def pil(self) -> Image.Image:
        raise RuntimeError("no picture")


@pytest.mark.parametrize(
    "source",
    [Broken(), BrokenFigure(), BrokenPicture(), Image.new("RGB", (0, 4)), Image.new("La", (4, 4))],
    ids=["array", "figure", "picture", "empty", "mode"],
)
@pytest.mark.parametrize("read", [to_png_bytes, mask_to_png_bytes])
def test_what_an_object_raises_is_one_error(read: Callable[[object], bytes], source: object) -> None:
    with pytest.raises(InvalidInputError, match=r"picture"):
        read(source)
