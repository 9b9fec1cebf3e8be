"""Pictures for ControlNets: fitted to the size that is made, and made into edges or lines without a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from swiftai_nb.core.control import ControlReference
from swiftai_nb.core.image_input import to_pil

if TYPE_CHECKING:
    from PIL.Image import Image

Pixels = npt.NDArray[np.uint8]
Shades = npt.NDArray[np.float32]
_CANNY_LOW, _CANNY_HIGH = 100, 200  # as the published ControlNets' demos use


def control_pixels(control: ControlReference, *, width: int, height: int) -> Pixels:
    """The picture of a control as its ControlNet takes it: [height, width, 3], uint8.

    It is cropped around its center to the wanted proportions.

    Args:
        control: with its picture.
        width: pixels that are made.
        height: pixels.

    Raises:
        InvalidInputError: it is no picture.
    """
    from PIL import Image, ImageOps

    picture = ImageOps.fit(to_pil(control.image), (width, height), Image.Resampling.LANCZOS)
    make = _MAKERS.get(control.kind or "")
    return np.asarray(picture if make is None else make(picture))


def canny(shades: npt.NDArray[np.uint8], *, low: float, high: float) -> npt.NDArray[np.uint8]:
    """Canny's edges (1986), as OpenCV draws them with its 3x3 Sobel kernel and the sum of absolute gradients.

    Args:
        shades: [H, W].
        low: gradients above it continue an edge.
        high: gradients above it begin one.

    Returns:
        [H, W]: 255 on edges, 0 elsewhere.
    """
    padded = np.pad(shades.astype(np.int32), 1, mode="edge")
    above, middle, below = padded[:-2], padded[1:-1], padded[2:]
    across = (above + 2 * middle + below)[:, 2:] - (above + 2 * middle + below)[:, :-2]
    sums = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
    down = sums[2:] - sums[:-2]
    strength = np.abs(across) + np.abs(down)
    around = np.pad(strength, 1)

    def neighbor(rows: int, columns: int) -> npt.NDArray[np.int32]:
        height, width = strength.shape
        return around[1 + rows : 1 + rows + height, 1 + columns : 1 + columns + width]

    # The direction in steps of 45 degrees; tan(22.5 degrees) in 15 bits, as OpenCV has it.
    x, y = np.abs(across), np.abs(down) << 15
    steep = x * 13573
    is_flat, is_upright = y < steep, y > steep + (x << 16)
    falls = (across ^ down) < 0
    flat = (strength > neighbor(0, -1)) & (strength >= neighbor(0, 1))
    upright = (strength > neighbor(-1, 0)) & (strength >= neighbor(1, 0))
    falling = (strength > neighbor(-1, 1)) & (strength > neighbor(1, -1))
    rising = (strength > neighbor(-1, -1)) & (strength > neighbor(1, 1))
    is_peak = np.where(is_flat, flat, np.where(is_upright, upright, np.where(falls, falling, rising)))
    return _connected(is_peak & (strength > low), is_peak & (strength > high))


def _connected(weak: npt.NDArray[np.bool_], strong: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    """The weak pixels that are joined to a strong one, by sides or corners."""
    height, width = weak.shape
    open_pixels, edges = np.pad(weak, 1), np.zeros((height + 2, width + 2), dtype=np.uint8)
    flat_open, flat_edges = open_pixels.reshape(-1), edges.reshape(-1)
    steps = np.array([r * (width + 2) + c for r in (-1, 0, 1) for c in (-1, 0, 1) if r or c])
    front = np.flatnonzero(np.pad(strong, 1))
    while len(front):
        flat_edges[front] = 255
        flat_open[front] = False
        reached = np.unique((front[:, None] + steps).reshape(-1))
        front = reached[flat_open[reached]]
    return edges[1:-1, 1:-1]


def _canny(picture: Image) -> Image:
    from PIL import Image as PILImage

    edges = canny(np.asarray(picture.convert("L")), low=_CANNY_LOW, high=_CANNY_HIGH)
    return PILImage.fromarray(edges).convert("RGB")


def _lineart(picture: Image) -> Image:
    """Bright lines where the picture is darker than around ("lineart_standard" of ControlNet's extension)."""
    from PIL import Image as PILImage

    difference = _blurred(picture, 6.0) - np.asarray(picture, dtype=np.float32)
    lines = np.clip(difference.min(axis=2), 0, 255)
    visible = lines[lines > 8]
    middle = float(np.median(visible)) if visible.size else 0.0
    scaled = np.clip(lines / max(16.0, middle) * 127.0, 0, 255)
    return PILImage.fromarray(scaled.astype(np.uint8)).convert("RGB")


def _scribble(picture: Image) -> Image:
    """Thick lines: a thresholded difference of Gaussians (XDoG, Winnemöller 2011)."""
    from PIL import Image as PILImage
    from PIL import ImageFilter

    difference = _blurred(picture, 5.0) - _blurred(picture, 0.5)
    bold = PILImage.fromarray(np.where(difference.min(axis=2) > 16, 255, 0).astype(np.uint8))
    return bold.filter(ImageFilter.MaxFilter(3)).convert("RGB")


def _tile(picture: Image) -> Image:
    """The picture at an eighth of its size, enlarged again: its colors without its details."""
    from PIL import Image as PILImage

    small = [max(1, side // 8) for side in picture.size]
    resampling = PILImage.Resampling
    return picture.resize((small[0], small[1]), resampling.BOX).resize(picture.size, resampling.BICUBIC)


def _blurred(picture: Image, radius: float) -> Shades:
    from PIL import ImageFilter

    return np.asarray(picture.filter(ImageFilter.GaussianBlur(radius)), dtype=np.float32)


_MAKERS = {"canny": _canny, "lineart": _lineart, "scribble": _scribble, "tile": _tile}
