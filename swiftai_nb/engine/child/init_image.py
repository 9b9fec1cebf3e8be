"""The pictures a command brings: an initial image and its mask at the size to be made, and references."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from swiftai_nb.core.control_pictures import control_pixels
from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.core.image_input import DAMAGED
from swiftai_nb.engine.messages import Generate
from swiftai_nb.model_files.families import INPAINTING
from swiftai_nb.model_files.references import ReferenceLimits

if TYPE_CHECKING:
    from PIL.Image import Image

    from swiftai_nb.diffusion import DiffusionPipeline

Pixels = npt.NDArray[np.uint8]
_SAME_PROPORTIONS = 0.02  # tolerance for sides rounded to whole pixels


@dataclass(frozen=True)
class InitImage:
    """An initial image, fitted to the size to be made.

    Attributes:
        pixels: [H, W, 3], uint8: the image, cropped around its center to the wanted proportions.
        mask: [H, W], float32 in 0..1: 1 where to paint; None paints everywhere.
        notes: shown to the user.
        feather: pixels inside the mask's edge over which the painting fades in.
        crop: (width, height) of the part, from the top left corner, that is returned; None is all.
    """

    pixels: Pixels
    mask: npt.NDArray[np.float32] | None = None
    notes: tuple[str, ...] = ()
    feather: int = 0
    crop: tuple[int, int] | None = None

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
        weight = _feathered(self.mask, self.feather)[:, :, None]
        mixed = generated * weight + self.pixels * (1.0 - weight)
        result = np.asarray(np.round(mixed), dtype=np.uint8)
        return result if self.crop is None else result[: self.crop[1], : self.crop[0]]


def _feathered(mask: npt.NDArray[np.float32], feather: int) -> npt.NDArray[np.float32]:
    """The mask, fading in from 0 at its edge to 1 so many pixels inside; 0 stays 0."""
    from PIL import Image, ImageFilter

    if feather == 0:
        return mask
    shade = Image.fromarray(np.asarray(np.round(mask * 255.0), dtype=np.uint8))
    blurred = np.asarray(shade.filter(ImageFilter.GaussianBlur(feather / 2)), dtype=np.float32) / 255.0
    return np.asarray(np.minimum(mask, np.clip(2 * blurred - 1, 0, 1)), dtype=np.float32)


def read_init_image(
    image: bytes, mask: bytes | None, *, width: int, height: int, feather: int = 0
) -> InitImage:
    """Decodes the image and mask and fits them to the size.

    Args:
        image: an encoded image.
        mask: an encoded image, white where to paint; stretched like `image`.
        width: wanted pixels.
        height: wanted pixels.
        feather: see `InitImage`.

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
    return InitImage(pixels, np.asarray(fitted, dtype=np.float32) / 255.0, notes, feather)


def picture_inputs(
    pipeline: DiffusionPipeline, command: Generate, init_image: InitImage | None
) -> dict[str, Any]:
    """The keyword arguments of `denoise` that are made from pictures, encoded.

    Args:
        pipeline: of the command's model.
        command: with encoded pictures.
        init_image: its image and mask, if it has one.
    """
    inputs: dict[str, Any] = {}
    mask = None if init_image is None else init_image.mask
    if init_image is not None:
        inputs["image_latents"] = pipeline.encode_image(init_image.pixels)
    if init_image is not None and mask is not None:
        inputs["mask"] = init_image.latent_mask(pipeline.vae_scale)
    if pipeline.task == INPAINTING:
        if init_image is None or mask is None:  # the whole picture is painted
            size = (command.height, command.width)
            mask = np.ones(size, dtype=np.float32)
            inputs["mask"] = InitImage(np.zeros((*size, 3), np.uint8), mask).latent_mask(pipeline.vae_scale)
        pixels = np.zeros((*mask.shape, 3), np.uint8) if init_image is None else init_image.pixels
        inputs["masked_image_latents"] = pipeline.encode_masked_image(pixels, mask)
    if command.references and pipeline.references is not None:
        size = (command.width, command.height)
        pictures = read_references(command.references, pipeline.references, size=size)
        inputs["reference_latents"] = [pipeline.encode_image(pixels) for pixels in pictures]
    if command.controls:
        inputs["controls"] = [
            (
                control.model,
                control_pixels(replace(control, image=image), width=command.width, height=command.height),
                control.scale,
                control.start,
                control.end,
                control.is_guess,
            )
            for control, image in zip(command.controls, command.control_images, strict=True)
        ]
    return inputs


def read_picture(data: bytes) -> Pixels:
    """An encoded picture as pixels [H, W, 3], uint8.

    Raises:
        InvalidInputError: it is not a picture.
    """
    return np.asarray(_open(data, "this").convert("RGB"))


def read_references(
    pictures: Sequence[bytes], limits: ReferenceLimits, *, size: tuple[int, int]
) -> list[Pixels]:
    """Decodes reference pictures and fits each, as diffusers' FLUX.2 pipelines do.

    Args:
        pictures: encoded.
        limits: of the model: larger pictures are scaled down, then cropped around their center.
        size: (width, height) that is made; pictures that are changed in place are brought to it.

    Returns:
        [H, W, 3], uint8 for each.

    Raises:
        InvalidInputError: one of them is not a picture.
    """
    from PIL import Image, ImageOps

    result = []
    for data in pictures:
        picture = _open(data, "a reference").convert("RGB")
        if limits.is_canvas:
            result.append(np.asarray(ImageOps.fit(picture, size, Image.Resampling.LANCZOS)))
            continue
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
    from PIL import Image

    try:
        picture = Image.open(io.BytesIO(data))
        picture.load()
    except DAMAGED:
        raise InvalidInputError(f"{name} is not a picture", hint="use PNG, JPEG or WebP bytes") from None
    return picture
