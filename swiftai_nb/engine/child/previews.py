"""Previews as small JPEGs, not more often than anyone can look at them."""

from __future__ import annotations

import io
import time

import numpy as np
import numpy.typing as npt

LONGEST_SIDE = 256
_INTERVAL_S = 1 / 8
_QUALITY = 80


class PreviewThrottle:
    """Says when a preview is due: at most eight a second, always the first and the last step."""

    def __init__(self) -> None:
        self._last_s: float | None = None

    def is_due(self, index: int, total: int) -> bool:
        """Whether step `index` of `total` should carry one; counts it as shown when it is."""
        now_s = time.monotonic()
        waited = self._last_s is None or now_s - self._last_s >= _INTERVAL_S
        if not waited and index != total - 1:
            return False
        self._last_s = now_s
        return True


def to_jpeg(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Pixels [H, W, 3], uint8 -> JPEG whose longest side is 256 pixels."""
    from PIL import Image

    picture = Image.fromarray(pixels)
    scale = LONGEST_SIDE / max(picture.size)
    width, height = (max(1, round(side * scale)) for side in picture.size)
    picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()
