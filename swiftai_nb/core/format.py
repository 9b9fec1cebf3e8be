"""How values are shown to people: byte counts, durations, shortened text; and pictures as JPEG."""

from __future__ import annotations

import io
import math
import reprlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from PIL.Image import Image

SHORT_TEXT_LENGTH = 80

_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 60


def shorten(text: str, max_length: int = SHORT_TEXT_LENGTH) -> str:
    """`text` on one line of at most `max_length` characters, ending in "…" when cut."""
    line = " ".join(text.split())
    return line if len(line) <= max_length else line[: max_length - 1].rstrip() + "…"


def short_repr(value: object) -> str:
    """`repr(value)` on one short line, whatever the value; large ones are not formatted whole."""
    try:
        return shorten(_REPR.repr(value), 60)
    except ValueError:  # an int of thousands of digits
        return f"a large {type(value).__name__}"


def format_bytes(size_bytes: float) -> str:
    """Decimal units, as disks are sold: "6.9 GB", "44 MB", "9.8 MB", "512 B"."""
    value = float(size_bytes)
    for unit in ("B", "kB", "MB"):
        if value < 999.5:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 99.5 else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value + 1e-9:.1f} GB"  # 9.85 shows as 9.9, not as the float just below it


def format_duration(duration_s: float) -> str:
    """Whole seconds up to a minute, then two units: "8 s", "8 min 12 s", "2 h 4 min"."""
    whole_s = max(0, round(duration_s))
    if whole_s < 60:
        return f"{whole_s} s"
    large, small, units = (whole_s // 60, whole_s % 60, ("min", "s"))
    if whole_s >= 3600:
        large, small, units = (whole_s // 3600, whole_s % 3600 // 60, ("h", "min"))
    return f"{large} {units[0]} {small} {units[1]}" if small else f"{large} {units[0]}"


def format_elapsed(elapsed_s: float) -> str:
    """As `format_duration`, with tenths of a second up to ten: "0.8 s", "8 min 12 s"."""
    return f"{elapsed_s:.1f} s" if elapsed_s < 9.95 else format_duration(elapsed_s)


def format_remaining(remaining_s: float) -> str:
    """An estimate, at least one second: "about 6 s left", "about 8 min 12 s left"."""
    return f"about {format_duration(max(1, math.ceil(remaining_s)))} left"


def encode_jpeg(
    picture: Image | npt.NDArray[np.uint8],
    *,
    max_side: int | None = None,
    enlarge: bool = False,
    quality: int = 85,
) -> bytes:
    """A picture as JPEG bytes.

    Args:
        picture: PIL image, or pixels [H, W, 3], uint8, RGB.
        max_side: longest side of the JPEG, in pixels; None keeps the size.
        enlarge: whether smaller pictures are enlarged to `max_side`.
        quality: 1..95.
    """
    from PIL import Image as PILImage

    image = picture if isinstance(picture, PILImage.Image) else PILImage.fromarray(picture)
    if max_side is not None:
        scale = max_side / max(image.size)
        if scale < 1 or enlarge:
            width, height = (max(1, round(side * scale)) for side in image.size)
            image = image.resize((width, height), PILImage.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()
