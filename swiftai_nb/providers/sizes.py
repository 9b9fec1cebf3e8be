"""The size of a picture to be drawn, from the settings and the pictures that were given."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from swiftai_nb.core.config import MAX_SIDE, MIN_SIDE, ImageGenerationConfig
from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.core.image_input import to_pil
from swiftai_nb.core.request import GenerationRequest
from swiftai_nb.model_files.model_folder import ModelFolder

_ABOUT = 1.2  # a format has the model's own number of pixels to within this factor


def reference_sizes(config: ImageGenerationConfig, model: ModelFolder) -> list[tuple[int, int]]:
    """(width, height) of each reference picture as the model sees it; refuses those it does not take."""
    sizes = [to_pil(picture).size for picture in config.references]
    model.check_references(sizes)
    limits = model.references
    return [] if limits is None else [limits.fitted(size) for size in sizes]


def with_present_size(request: GenerationRequest, model: ModelFolder) -> tuple[GenerationRequest, str | None]:
    """The request with a present size in place of one that the model had in an earlier version.

    Recipes, saved cells and widgets of that time name it, or a format of about as many pixels. Its decoder
    makes more pixels of the same latents now, so that the larger size is the same drawing; the former one
    would be too few latents for any.

    Returns:
        the request, and a note where it was changed.
    """
    config, own = request.config, model.defaults
    if config.width is None or config.height is None:
        return request, None
    for width, height in model.given.get("former_sizes", ()):
        share = config.width * config.height / (width * height)
        size = config.width * own.width // width, config.height * own.height // height
        if 1 / _ABOUT < share < _ABOUT and not any(side % model.size_multiple for side in size):
            was = f"{config.width}x{config.height} is of an earlier version of this model"
            config = config.replace(width=size[0], height=size[1])
            return replace(request, config=config), f"{was}: drawn at {size[0]}x{size[1]}"
    return request, None


def picture_size(
    config: ImageGenerationConfig,
    native_size: tuple[int, int],
    model: ModelFolder,
    *,
    references: Sequence[tuple[int, int]],
) -> tuple[int, int]:
    """(width, height) to draw: as set, else that of a given picture, else the model's own.

    Args:
        config: the settings.
        native_size: the model's own.
        model: its limits.
        references: sizes from `reference_sizes`.

    Raises:
        InvalidInputError: a start picture that cannot be read, or margins that do not fit.
    """
    if config.outpaint is not None:
        return _canvas(config)
    if config.image is not None:
        picture = to_pil(config.image)  # also raises for unreadable pictures when a size is given
        if config.width is None and config.height is None:
            return fitted_size(picture.size, native_size, model.size_multiple)
    if references and config.image is None and config.width is None and config.height is None:
        if model.references is not None and model.references.is_canvas:
            return fitted_size(references[0], native_size, model.size_multiple)
        return references[0]  # an edit keeps the size of the picture it changes
    if config.controls and config.image is None and config.width is None and config.height is None:
        return fitted_size(to_pil(config.controls[0].image).size, native_size, model.size_multiple)
    width = native_size[0] if config.width is None else config.width
    return width, native_size[1] if config.height is None else config.height


def _canvas(config: ImageGenerationConfig) -> tuple[int, int]:
    """A start picture's own size and its margins."""
    if config.image is None:
        raise InvalidInputError("outpaint without image", hint="give the picture to continue as image")
    if config.width is not None or config.height is not None:
        raise InvalidInputError(
            "outpaint and a size exclude each other", hint="the size is the picture's and its margins'"
        )
    width, height = config.outpaint.canvas(to_pil(config.image).size)
    if max(width, height) > MAX_SIDE:
        raise InvalidInputError(
            f"the picture and its margins are {width}x{height}; {MAX_SIDE} pixels a side is the most",
            hint="scale the picture down first, or smaller margins",
        )
    return width, height


def rounded_up(size: tuple[int, int], multiple: int) -> tuple[int, int]:
    """(width, height) as the next multiples."""
    width, height = (-(-side // multiple) * multiple for side in size)
    return width, height


def fitted_size(size: tuple[int, int], native_size: tuple[int, int], multiple: int) -> tuple[int, int]:
    """A start picture's proportions, with about the model's own number of pixels."""
    scale = math.sqrt(native_size[0] * native_size[1] / (size[0] * size[1]))
    largest = MAX_SIDE // multiple * multiple
    smallest = -(-MIN_SIDE // multiple) * multiple
    width, height = (min(max(round(side * scale / multiple) * multiple, smallest), largest) for side in size)
    return width, height
