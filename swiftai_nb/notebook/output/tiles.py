"""Several pictures as HTML: tiles, side by side or in a labeled table; a click, or Enter, opens one large.

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
SMALLEST_TILE_SIDE = 64
GRID_WIDTH = 960  # CSS pixels that a grid's tiles share, down to the smallest tile
LONGEST_ALT = 400
LONGEST_LABEL = 200
_CLASS = "swiftai-pictures"
# A tile is as wide as it must be: closed by its own minimum, open by the line of settings in it.
_LAYOUT = "display:flex;flex-wrap:wrap;gap:6px;align-items:flex-start"
_SUMMARY = "width:0;min-width:100%;list-style:none;cursor:pointer"
_CELL = "padding:3px;border:none;background:none;text-align:center;vertical-align:top;font-weight:normal"
# A label wraps in the width of its column's pictures.
_COLUMN_LABEL = "width:0;min-width:100%;overflow-wrap:anywhere"
_ROW_LABEL = "max-width:160px;overflow-wrap:anywhere;text-align:right"


def tiles_html(images: Sequence[GeneratedImage]) -> str:
    """The HTML of some pictures. Their files are in it as they are, each once.

    Args:
        images: in the order of their tiles.
    """
    tiles = "".join(_tile(image) for image in images)
    return f'<div class="{_CLASS}" style="{_LAYOUT}">{tiles}</div>'


def grid_html(cells: Sequence[GeneratedImage | None], labels: tuple[Sequence[str], Sequence[str]]) -> str:
    """The HTML of a grid: a table with the labels of its columns and rows.

    Args:
        cells: row by row; None where there is no picture.
        labels: (over the columns, beside the rows); the latter may be empty.
    """
    columns, rows = labels
    side = max(SMALLEST_TILE_SIDE, min(TILE_SIDE, GRID_WIDTH // len(columns)))
    head = ["<td></td>"] if rows else []
    head += [_label("col", label) for label in columns]
    lines = [f"<tr>{''.join(head)}</tr>"]
    for start in range(0, len(cells), len(columns)):
        line = [_label("row", rows[start // len(columns)])] if rows else []
        for cell in cells[start : start + len(columns)]:
            line.append(f'<td style="{_CELL}">{"" if cell is None else _tile(cell, side=side)}</td>')
        lines.append(f'<tr style="background:none">{"".join(line)}</tr>')
    table = f'<table style="border-collapse:collapse;margin:0">{"".join(lines)}</table>'
    return f'<div class="{_CLASS}" style="overflow:auto">{table}</div>'


def _label(scope: str, label: str) -> str:
    style = _COLUMN_LABEL if scope == "col" else _ROW_LABEL
    text = html.escape(shorten(label, LONGEST_LABEL))
    align = "" if scope == "col" else ";vertical-align:middle"
    return f'<th scope="{scope}" style="{_CELL}{align}"><div style="{style}">{text}</div></th>'


def _tile(image: GeneratedImage, *, side: int = TILE_SIDE) -> str:
    encoded = base64.b64encode(image.data).decode("ascii")
    width, height = image.display_size
    tile_width = min(width, round(side * width / max(width, height)))
    alt = shorten(image.prompt, LONGEST_ALT)
    if image.seed is not None:
        alt = f"{alt}, seed {image.seed}"
    return (
        f'<details style="display:inline-block;vertical-align:top;min-width:{tile_width}px;max-width:100%">'
        f'<summary title="Click to enlarge" style="{_SUMMARY}">'
        f'<img src="data:image/png;base64,{encoded}" alt="{html.escape(alt)}" width="{tile_width}" '
        'style="width:100%;height:auto;display:block"></summary>'
        f'<div style="width:{width}px;max-width:100%">{caption_html([image], has_time=False)}</div></details>'
    )
