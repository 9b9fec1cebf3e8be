"""Several pictures as HTML: small tiles side by side; a click, or Enter, opens one large and closes it.

It is plain HTML with the styles that JupyterLab leaves in notebooks it does not trust, so that a saved
notebook works without a kernel. Where a page removes all styles, an opened tile still shows its settings.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from typing import TYPE_CHECKING

from swiftai_nb.core.caption import caption_html
from swiftai_nb.core.format import shorten

if TYPE_CHECKING:
    from swiftai_nb.core.image import GeneratedImage

TILE_SIDE = 192  # CSS pixels
LONGEST_ALT = 400
_CLASS = "swiftai-pictures"
# A tile is as wide as it must be: closed by its own minimum, open by the line of settings in it.
_LAYOUT = "display:flex;flex-wrap:wrap;gap:6px;align-items:flex-start"
_SUMMARY = "width:0;min-width:100%;list-style:none;cursor:pointer"


def tiles_html(images: Sequence[GeneratedImage]) -> str:
    """The HTML of some pictures. Their files are in it as they are, each once.

    Args:
        images: in the order of their tiles.
    """
    tiles = "".join(_tile(image) for image in images)
    return f'<div class="{_CLASS}" style="{_LAYOUT}">{tiles}</div>'


def _tile(image: GeneratedImage) -> str:
    encoded = base64.b64encode(image.data).decode("ascii")
    width, height = image.display_size
    tile_width = min(width, round(TILE_SIDE * width / max(width, height)))
    alt = shorten(image.prompt, LONGEST_ALT)
    if image.seed is not None:
        alt = f"{alt}, seed {image.seed}"
    return (
        f'<details style="min-width:{tile_width}px;max-width:100%">'
        f'<summary title="Click to enlarge" style="{_SUMMARY}">'
        f'<img src="data:image/png;base64,{encoded}" alt="{html.escape(alt)}" width="{tile_width}" '
        'style="width:100%;height:auto;display:block"></summary>'
        f'<div style="width:{width}px;max-width:100%">{caption_html([image], has_time=False)}</div></details>'
    )
