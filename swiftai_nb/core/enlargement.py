"""Larger pictures: sizes and their limits, Lanczos, and the recipe of an enlarged picture.

Enlarging by a network is the engine's work (`diffusion/upscaling.py`); this needs Pillow alone.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from swiftai_nb.core.errors import InvalidInputError

if TYPE_CHECKING:
    from PIL.Image import Image

    from swiftai_nb.core.config import ImageGenerationConfig
    from swiftai_nb.core.recipe import Recipe

LANCZOS = "lanczos"
MAX_FACTOR = 8.0
MAX_HIRES = 4.0
MAX_PIXELS = 8192 * 8192  # Pillow warns of files that hold a third more


def refuse_enlargement(config: ImageGenerationConfig, *, who: str) -> None:
    """Refuses a hires pass, an upscaler and outpainting for a provider that has none of them.

    Args:
        config: the settings.
        who: the provider, as the subject of the message.

    Raises:
        InvalidInputError: one of them is set.
    """
    if config.outpaint is not None:
        raise InvalidInputError(
            f"{who} does not continue pictures beyond their edges", hint="use a local model: --engine local"
        )
    if config.hires is not None or config.upscale is not None:
        raise InvalidInputError(
            f"{who} does not enlarge pictures", hint="enlarge the result: picture.upscale(2)"
        )


def enlarged_size(size: tuple[int, int], factor: float) -> tuple[int, int]:
    """(width, height) after enlarging by `factor`, in pixels.

    Raises:
        InvalidInputError: a factor outside 1..8, or more pixels than `MAX_PIXELS`; names the largest factor.
    """
    if isinstance(factor, bool) or not isinstance(factor, (int, float)) or not 1.0 <= factor <= MAX_FACTOR:
        raise InvalidInputError(f"upscale must be between 1 and {MAX_FACTOR:g} (got {factor!r})")
    width, height = (round(side * factor) for side in size)
    if width * height > MAX_PIXELS:
        largest = int((MAX_PIXELS / (size[0] * size[1])) ** 0.5 * 10) / 10
        hint = f"upscale={largest:g}" if largest > 1 else "it is as large as pictures can be"
        raise InvalidInputError(
            f"{size[0]}x{size[1]} enlarged by {factor:g} has more than {MAX_PIXELS // 10**6} megapixels",
            hint=hint,
        )
    return width, height


def hires_size(size: tuple[int, int], factor: float, multiple: int) -> tuple[int, int]:
    """(width, height) of a hires pass: about `factor` times the size, multiples of what the model needs."""
    width, height = (max(multiple, round(side * factor / multiple) * multiple) for side in size)
    return width, height


def lanczos(picture: Image, size: tuple[int, int]) -> Image:
    """A PIL image resized to (width, height) by Lanczos' filter; itself when it has that size."""
    from PIL import Image as PILImage

    return picture if picture.size == size else picture.resize(size, PILImage.Resampling.LANCZOS)


def upscaled_recipe(recipe: Recipe | None, factor: float, upscaler: str, **changes: Any) -> Recipe | None:
    """The recipe of an enlarged picture: what made it, and the enlargement.

    Args:
        recipe: of the picture before; None for a picture without one.
        factor: how many times larger.
        upscaler: "lanczos", or the name that finds the upscaler again.
        changes: further fields.
    """
    if recipe is None:
        return None
    if recipe.upscale is not None:
        note = f"enlarged by {factor:g} with {upscaler} after it was enlarged with {recipe.upscaler}"
        changes["notes"] = (*recipe.notes, note)
        factor *= recipe.upscale
    return replace(recipe, **{"upscale": min(float(factor), MAX_FACTOR), "upscaler": upscaler, **changes})
