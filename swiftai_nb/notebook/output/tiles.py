"""Several pictures as HTML: small tiles side by side; a click, or Enter, opens one large and closes it.

It is plain HTML, so that a saved notebook shows it without a kernel. A page that removes style sheets, as
JupyterLab does for notebooks it does not trust, still shows the tiles and, for an open one, its settings.
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
_STYLE_SHEET = (
    f".{_CLASS}>details>summary{{cursor:zoom-in;list-style:none}}"
    f".{_CLASS}>details>summary::-webkit-details-marker{{display:none}}"
    f".{_CLASS}>details[open]{{flex-basis:100%}}"
    f".{_CLASS}>details[open]>summary{{cursor:zoom-out}}"
    f".{_CLASS}>details[open]>summary>img{{width:var(--large)!important}}"
)


def tiles_html(images: Sequence[GeneratedImage]) -> str:
    """The HTML of some pictures. Their files are in it as they are, each once.

    Args:
        images: in the order of their tiles.
    """
    tiles = "".join(_tile(image) for image in images)
    layout = "display:flex;flex-wrap:wrap;gap:6px;align-items:flex-start"
    return f'<div class="{_CLASS}" style="{layout}"><style>{_STYLE_SHEET}</style>{tiles}</div>'


def _tile(image: GeneratedImage) -> str:
    encoded = base64.b64encode(image.data).decode("ascii")
    width, height = image.display_size
    tile_width = min(width, round(TILE_SIDE * width / max(width, height)))
    alt = shorten(image.prompt, LONGEST_ALT)
    if image.seed is not None:
        alt = f"{alt}, seed {image.seed}"
    style = f"--large:{width}px;width:{tile_width}px;max-width:100%;height:auto;display:block"
    return (
        f'<details><summary title="Click to enlarge" style="list-style:none">'
        f'<img src="data:image/png;base64,{encoded}" alt="{html.escape(alt)}" style="{style}"></summary>'
        f"{caption_html([image], has_time=False)}</details>"
    )
