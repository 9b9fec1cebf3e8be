"""The line under the pictures of a cell, as an output of its own; see `core/caption.py`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from swiftai_nb.core.caption import caption_html, caption_text

if TYPE_CHECKING:
    from swiftai_nb.core.image import GeneratedImage


def caption_bundle(images: Sequence[GeneratedImage], *, has_time: bool = True) -> dict[str, Any] | None:
    """The line as an output: HTML and text; None where there is nothing to say."""
    text = caption_text(images, has_time=has_time)
    return {"text/html": caption_html(images, has_time=has_time), "text/plain": text} if text else None


def caption_place() -> Any:
    """An empty output of this cell for a caption to come; for `show_caption`."""
    from IPython.display import display

    return display({"text/html": "", "text/plain": ""}, raw=True, display_id=True)


def show_caption(images: Sequence[GeneratedImage], *, has_time: bool, place: Any = None) -> None:
    """Displays the line; nothing for pictures without recipes.

    Args:
        images: of one cell.
        has_time: see `caption_text`.
        place: of `caption_place`; None is a new output of this cell.
    """
    from IPython.display import display

    data = caption_bundle(images, has_time=has_time)
    if data is not None and place is not None:
        place.update(data, raw=True)
    elif data is not None:
        display(data, raw=True)
