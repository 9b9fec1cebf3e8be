"""The pictures a command brings: an initial image and its mask at the size to be made, and references."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.model_files.references import ReferenceLimits

if TYPE_CHECKING:
    from PIL.Image import Image

Pixels = npt.NDArray[np.uint8]
_SAME_PROPORTIONS = 0.02  # tolerance for sides rounded to whole pixels


@dataclass(frozen=True)
class InitImage:
    """An initial image, fitted to the size to be made.

    Attributes:
        pixels: [H, W, 3], uint8: the image, cropped around its center to the wanted proportions.
        mask: [H, W], float32 in 0..1: 1 where to paint; None paints everywhere.
        notes: shown to the user.
    """

    pixels: Pixels
    mask: npt.NDArray[np.float32] | None = None
    notes: tuple[str, ...] = ()

    def latent_mask(self, scale: int) -> npt.NDArray[np.float32] | None:
        """The mask per latent, [1, H/scale, W/scale, 1]: 1 where any of its pixels is painted."""
        if self.mask is None:
            return None
        h, w = (side // scale for side in self.mask.shape)
        blocks = self.mask.reshape(h, scale, w, scale).max(axis=(1, 3))
        return np.asarray(blocks > 0.5, dtype=np.float32)[None, :, :, None]

    def composite_unmasked(self, generated: Pixels) -> Pixels:
        """The generated image [H, W, 3], with the initial image's pixels where the mask is 0."""
        if self.mask is None:
            return generated
        weight = self.mask[:, :, None]
        mixed = generated * weight + self.pixels * (1.0 - weight)
        return np.asarray(np.round(mixed), dtype=np.uint8)


def read_init_image(image: bytes, mask: bytes | None, *, width: int, height: int) -> InitImage:
    """Decodes the image and mask and fits them to the size.

    Args:
        image: an encoded image.
        mask: an encoded image, white where to paint; stretched like `image`.
        width: wanted pixels.
        height: wanted pixels.

    Raises:
        InvalidInputError: one of them is not an image.
    """
    from PIL import Image, ImageOps

    picture = _open(image, "image").convert("RGB")
    size = (width, height)
    pixels = np.asarray(ImageOps.fit(picture, size, Image.Resampling.LANCZOS))
    if mask is None:
        return InitImage(pixels)
    shade = _open(mask, "mask").convert("L")
    notes = _shape_notes(shade.size, picture.size)
    fitted = ImageOps.fit(
        shade.resize(picture.size, Image.Resampling.BILINEAR), size, Image.Resampling.BILINEAR
    )
    return InitImage(pixels, np.asarray(fitted, dtype=np.float32) / 255.0, notes)


def read_references(pictures: Sequence[bytes], limits: ReferenceLimits) -> list[Pixels]:
    """Decodes reference pictures and fits each, as diffusers' FLUX.2 pipelines do.

    Args:
        pictures: encoded.
        limits: of the model: larger pictures are scaled down, then cropped around their center.

    Returns:
        [H, W, 3], uint8 for each.

    Raises:
        InvalidInputError: one of them is not a picture.
    """
    from PIL import Image

    result = []
    for data in pictures:
        picture = _open(data, "a reference").convert("RGB")
        scaled = limits.scaled(picture.size)
        if scaled != picture.size:
            picture = picture.resize(scaled, Image.Resampling.LANCZOS)
        width, height = limits.fitted(picture.size)
        left, top = (picture.width - width) // 2, (picture.height - height) // 2
        result.append(np.asarray(picture.crop((left, top, left + width, top + height))))
    return result


def _shape_notes(mask: tuple[int, int], image: tuple[int, int]) -> tuple[str, ...]:
    """A note on a mask of other proportions than its image's; both are (width, height)."""
    across, down = mask[0] / image[0], mask[1] / image[1]
    if abs(across / down - 1) <= _SAME_PROPORTIONS:
        return ()
    return (f"the mask of {mask[0]}x{mask[1]} was stretched over the picture of {image[0]}x{image[1]}",)


def _open(data: bytes, name: str) -> Image:
    from PIL import Image, UnidentifiedImageError

    try:
        picture = Image.open(io.BytesIO(data))
        picture.load()
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError):
        raise InvalidInputError(f"{name} is not a picture", hint="use PNG, JPEG or WebP bytes") from None
    return picture
