"""Larger pictures: sizes and their limits, and Lanczos.

Enlarging by a network is the engine's work (`diffusion/upscaling.py`); this needs Pillow alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.core.format import short_repr

if TYPE_CHECKING:
    from PIL.Image import Image

LANCZOS = "lanczos"
MAX_FACTOR = 8.0
MAX_HIRES = 4.0
MAX_PIXELS = 8192 * 8192  # Pillow warns of files that hold a third more


def enlarged_size(size: tuple[int, int], factor: float) -> tuple[int, int]:
    """(width, height) after enlarging by `factor`, in pixels.

    Raises:
        InvalidInputError: a factor outside 1..8, or more pixels than `MAX_PIXELS`; names the largest factor.
    """
    if isinstance(factor, bool) or not isinstance(factor, (int, float)) or not 1.0 <= factor <= MAX_FACTOR:
        raise InvalidInputError(f"upscale must be between 1 and {MAX_FACTOR:g} (got {short_repr(factor)})")
    width, height = (round(side * factor) for side in size)
    if width * height > MAX_PIXELS:
        largest = int((MAX_PIXELS / (size[0] * size[1])) ** 0.5 * 10) / 10
        hint = f"upscale={largest:g}" if largest > 1 else "it is as large as pictures can be"
        raise InvalidInputError(
            f"{size[0]}x{size[1]} enlarged by {factor:g} has more than {MAX_PIXELS // 10**6} megapixels",
            hint=hint,
        )
    return width, height


def network_inputs(size: tuple[int, int], target: tuple[int, int], scale: int) -> list[tuple[int, int]]:
    """(width, height) of the pictures that a network enlarges, one after the other.

    They end where the target is reached or the next would have more than twice `MAX_PIXELS`; Lanczos' filter
    does the rest.

    Args:
        size: (width, height) of the picture.
        target: (width, height).
        scale: of the network.
    """
    inputs: list[tuple[int, int]] = []
    while size[0] < target[0] or size[1] < target[1]:
        if size[0] * size[1] * scale**2 > 2 * MAX_PIXELS:
            break
        inputs.append(size)
        if scale == 1:
            break
        size = (size[0] * scale, size[1] * scale)
    return inputs


def hires_size(size: tuple[int, int], factor: float, multiple: int) -> tuple[int, int]:
    """(width, height) of a hires pass: about `factor` times the size, multiples of what the model needs."""
    width, height = (max(multiple, round(side * factor / multiple) * multiple) for side in size)
    return width, height


def lanczos(picture: Image, size: tuple[int, int]) -> Image:
    """A PIL image resized to (width, height) by Lanczos' filter; itself when it has that size."""
    from PIL import Image as PILImage

    return picture if picture.size == size else picture.resize(size, PILImage.Resampling.LANCZOS)
