"""Converts user input to pictures: a path, bytes, PIL, NumPy, matplotlib or GeneratedImage."""

from __future__ import annotations

import contextlib
import io
import os
import stat
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swiftai_nb.core.errors import AIError, InvalidInputError
from swiftai_nb.core.format import format_bytes
from swiftai_nb.core.paths import user_path

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from PIL.Image import Image

MAX_FILE_BYTES = 1_000_000_000  # of a picture's file
MAX_PICTURE_SIDE = 65_535  # as in JPEG

# What Pillow raises, or warns of, for data that makes no sense.
DAMAGED = (
    OSError,
    ValueError,
    TypeError,
    LookupError,
    SyntaxError,
    ArithmeticError,
    AttributeError,
    EOFError,
    struct.error,
    zlib.error,
    Warning,
)
_HINT = "give a path, a PIL image, a NumPy array [H, W] or [H, W, 3|4], or a matplotlib figure"


def to_png_bytes(source: Any) -> bytes:
    """Any picture as upright RGB PNG bytes (alpha over white, EXIF rotation applied, 16 bit scaled).

    Raises:
        InvalidInputError: not a picture, or a file that cannot be read.
    """
    buffer = io.BytesIO()
    to_pil(source).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def mask_to_png_bytes(source: Any) -> bytes:
    """Any picture as a mask: PNG bytes, white where to paint.

    A mask of zeros and ones, as segmentation produces, is scaled to black and white.

    Raises:
        InvalidInputError: not a picture, or a file that cannot be read.
    """
    mask = to_pil(source).convert("L")
    if mask.getextrema()[1] == 1:
        mask = mask.point(lambda value: value * 255)
    return to_png_bytes(mask)


def to_pil(source: Any) -> Image:
    """Any picture as an upright RGB PIL image.

    Raises:
        InvalidInputError: not a picture, or a file that cannot be read.
    """
    try:
        return _rgb(_upright(_open(source)))
    except AIError:
        raise
    except Exception as error:  # what the user's own object or Pillow's conversion raises
        what = f"{type(source).__name__} cannot be read as a picture"
        raise InvalidInputError(f"{what}: {type(error).__name__}: {error}"[:300], hint=_HINT) from error


def _rgb(picture: Image) -> Image:
    from PIL import Image as PILImage

    if 0 in picture.size:
        raise InvalidInputError("a picture without pixels is no picture", hint=_HINT)
    if picture.mode.startswith("I") or picture.mode == "F":
        picture = _eight_bit(picture)
    if picture.mode == "P" or "transparency" in picture.info:
        picture = picture.convert("RGBA")
    if picture.mode in ("RGBA", "LA", "PA"):
        white = PILImage.new("RGBA", picture.size, "white")
        picture = PILImage.alpha_composite(white, picture.convert("RGBA"))
    return picture.convert("RGB")


def _open(source: Any) -> Image:
    from PIL import Image as PILImage

    if isinstance(source, PILImage.Image):
        return source
    pil = getattr(source, "pil", None)
    if isinstance(pil, PILImage.Image):
        return pil
    if hasattr(source, "savefig"):
        buffer = io.BytesIO()
        source.savefig(buffer, format="png")
        source = buffer.getvalue()
    if hasattr(source, "__array_interface__") or hasattr(source, "__array__"):
        return PILImage.fromarray(_array_pixels(source))
    if not isinstance(source, (bytes, str, os.PathLike)):
        raise InvalidInputError(f"{type(source).__name__} is not a picture", hint=_HINT)
    _, picture = open_image_file(source)
    with readable(source):
        picture.load()
    return picture


def _upright(picture: Image) -> Image:
    """The picture turned as its EXIF block demands; as it is where that block is damaged."""
    from PIL import ImageOps

    try:
        return ImageOps.exif_transpose(picture)
    except DAMAGED:
        return picture


def open_image_file(source: bytes | str | os.PathLike[str]) -> tuple[bytes, Image]:
    """Content and PIL image of an encoded file; its pixels are not decoded yet.

    Args:
        source: path ("~" is expanded) or content.

    Raises:
        InvalidInputError: there is no such file, or it is not a picture.
    """
    from PIL import Image as PILImage

    path = source if isinstance(source, bytes) else user_path(source)
    if not isinstance(path, bytes):
        _check_file(path)
    with readable(source):
        data = path if isinstance(path, bytes) else path.read_bytes()
        picture = PILImage.open(io.BytesIO(data))
    check_sides(picture.size)
    return data, picture


def check_sides(size: tuple[int, int]) -> None:
    """Refuses pictures whose decoding takes many seconds for few bytes: Pillow reads row by row.

    Raises:
        InvalidInputError: a side is longer than MAX_PICTURE_SIDE.
    """
    if max(size) > MAX_PICTURE_SIDE:
        raise InvalidInputError(
            f"a picture of {size[0]}x{size[1]} is too long, {MAX_PICTURE_SIDE} pixels is the limit",
            hint=_HINT,
        )


def _check_file(path: Path) -> None:
    """Refuses what is no regular file: reading a device or a pipe may never end."""
    with readable(path):
        found = path.stat()
    reason = ""
    if not stat.S_ISREG(found.st_mode):
        reason = "it is a folder" if stat.S_ISDIR(found.st_mode) else "it is not a file"
    elif found.st_size > MAX_FILE_BYTES:
        reason = f"it has {format_bytes(found.st_size)}, and {format_bytes(MAX_FILE_BYTES)} is the limit"
    if reason:
        raise InvalidInputError(f"cannot read a picture from {str(path)!r}: {reason}", hint=_HINT)


@contextlib.contextmanager
def readable(source: bytes | str | os.PathLike[str]) -> Iterator[None]:
    """Converts Pillow's exceptions for unreadable files to InvalidInputError."""
    from PIL import Image as PILImage

    try:
        yield
    except (*DAMAGED, PILImage.DecompressionBombError) as error:
        name = "these bytes" if isinstance(source, bytes) else repr(os.fspath(source))
        reason = "no such file" if isinstance(error, FileNotFoundError) else type(error).__name__
        raise InvalidInputError(f"cannot read a picture from {name}: {reason}", hint=_HINT) from error


def _array_pixels(source: Any) -> npt.NDArray[np.uint8]:
    import numpy as np

    array = np.asarray(source)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)) or 0 in array.shape:
        raise InvalidInputError(f"an array of shape {array.shape} is not a picture", hint=_HINT)
    if array.dtype.kind not in "biuf":
        raise InvalidInputError(f"an array of {array.dtype} is not a picture", hint=_HINT)
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.uint16:
        return (array // 257).astype(np.uint8)
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * 255
    if (
        np.issubdtype(array.dtype, np.floating)
        and np.isfinite(array).all()
        and 0 <= array.min() <= array.max() <= 1
    ):
        return (array * 255 + 0.5).astype(np.uint8)
    # What arithmetic on pictures and np.where give: 64-bit integers.
    if array.dtype.kind in "iu" and 0 <= array.min() <= array.max() <= 255:
        return array.astype(np.uint8)
    raise InvalidInputError(
        f"an array of {array.dtype} with values {array.min()} to {array.max()} is not a picture",
        hint="use integers from 0 to 255 or floats from 0 to 1",
    )


def _eight_bit(picture: Image) -> Image:
    import numpy as np
    from PIL import Image as PILImage

    values = np.asarray(picture).astype(np.float64)
    top = 65535.0 if values.max() > 255 else 255.0
    if picture.mode == "F" and values.max() <= 1.0:
        top = 1.0
    return PILImage.fromarray((values.clip(0, top) * (255.0 / top)).astype(np.uint8))


def count_run_steps(steps: int, strength: float | None) -> int:
    """Of `steps`, those that run when a picture is started from; diffusers' `init_timestep`.

    Whole steps, at least one unless the strength is 0; None is without a picture.
    """
    if strength is None:
        return steps
    return 0 if strength == 0.0 else max(1, min(int(steps * strength), steps))
