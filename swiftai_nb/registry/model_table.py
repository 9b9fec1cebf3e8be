"""The models as a table that reads well in a notebook, a terminal and a saved file."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from swiftai_nb.downloads.reclaimable import find_reclaimable
from swiftai_nb.registry.hub_cache import DiskState
from swiftai_nb.registry.model_info import GB, DiffusionModelInfo, format_bytes
from swiftai_nb.registry.quantized_models import is_copy
from swiftai_nb.registry.registry import DiffusionModelRegistry

COLUMNS = ("model", "download", "here", "memory", "license", "what it is")
_NUMBERS = frozenset({"download", "memory"})


@dataclass(frozen=True)
class ModelRow:
    """One line of the table, in words.

    Args:
        info: the entry.
        here: "yes", "part: 3.1 GB", "bundled", "your folder", "copy, 1.3 GB", or "" when nothing of it is.
        is_default: used when no model is named.
    """

    info: DiffusionModelInfo
    here: str
    is_default: bool

    @property
    def cells(self) -> tuple[str, ...]:
        """In the order of `COLUMNS`."""
        info = self.info
        name = f"{info.id} (default)" if self.is_default else info.id
        size = info.formatted_size if info.is_downloadable else ""
        memory = f"{info.min_memory_bytes / GB:.0f} GB" if info.kind == "model" else ""
        return (name, size, self.here, memory, info.license, info.description)


class ModelTable(Sequence[ModelRow]):
    """What there is and what is on this disk.

    Args:
        rows: models first, preview decoders last.
        foot: sentences under the table.
    """

    def __init__(self, rows: Sequence[ModelRow], *, foot: Sequence[str] = ()) -> None:
        self._rows = tuple(rows)
        self.foot = tuple(foot)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN204
        return self._rows[index]

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        lines = [COLUMNS, *(row.cells for row in self._rows)]
        widths = [max(len(line[i]) for line in lines) for i in range(len(COLUMNS))]
        body = ["  ".join(_padded(t, w, c) for t, w, c in zip(line, widths, COLUMNS, strict=True)).rstrip()
                for line in lines]  # fmt: skip
        return "\n".join([body[0], "-" * min(100, len(body[0])), *body[1:], "", *self.foot])

    def _repr_html_(self) -> str:
        head = "".join(f"<th {_style(c)}>{c}</th>" for c in COLUMNS)
        body = "".join(_html_row(row) for row in self._rows)
        foot = "".join(f"<div>{html.escape(line)}</div>" for line in self.foot)
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        return f'{table}<div style="opacity:.75">{foot}</div>'


def make_table(registry: DiffusionModelRegistry) -> ModelTable:
    """The table of a registry."""
    default = registry.resolve(None).info.id
    infos = [registry.find(info.id) for info in registry.available_models]
    ordered = sorted(infos, key=lambda info: info.kind != "model")
    rows = [ModelRow(info, _here(registry, info), info.id == default) for info in ordered]
    return ModelTable(rows, foot=_foot(registry))


def _here(registry: DiffusionModelRegistry, info: DiffusionModelInfo) -> str:
    if info.bundled:
        return "bundled"
    found = registry.disk_status(info)
    if is_copy(registry, info) and found.state is DiskState.COMPLETE:
        return f"copy, {format_bytes(found.size_bytes)}"
    if info.local_folder is not None:
        return "your folder" if found.state is DiskState.COMPLETE else "folder is gone"
    if found.state is DiskState.COMPLETE:
        return "yes"
    return f"part: {format_bytes(found.size_bytes)}" if found.state is DiskState.PARTIAL else ""


def _foot(registry: DiffusionModelRegistry) -> list[str]:
    lines = [f"On disk: {registry.formatted_total_size} in {_short(registry.cache_dir)}"]
    reclaimable = sum(f.size_bytes for f in find_reclaimable(registry.cache_dir))
    if reclaimable:
        amount = format_bytes(reclaimable)
        lines.append(f"Interrupted downloads hold {amount}: download continues ours, clean frees them")
    return [
        *lines,
        "More: info MODEL, download MODEL, delete MODEL, verify MODEL, quantize MODEL, clean, add, default",
    ]


def _short(path: Path) -> str:
    try:
        return f"~/{path.relative_to(Path.home())}"
    except ValueError:
        return str(path)


def _padded(text: str, width: int, column: str) -> str:
    return f"{text:>{width}}" if column in _NUMBERS else f"{text:<{width}}"


def _style(column: str) -> str:
    side = "right" if column in _NUMBERS else "left"
    wrap = "normal" if column == COLUMNS[-1] else "nowrap"
    return f'style="text-align:{side};vertical-align:top;white-space:{wrap}"'


def _html_row(row: ModelRow) -> str:
    cells = [html.escape(text) for text in row.cells]
    if row.info.hugging_face_url is not None:
        url = html.escape(row.info.hugging_face_url, quote=True)
        cells[0] = f'<a href="{url}" target="_blank" rel="noreferrer">{cells[0]}</a>'
    if row.info.license_summary:
        cells[4] = f'<span title="{html.escape(row.info.license_summary, quote=True)}">{cells[4]}</span>'
    weight = ' style="font-weight:600"' if row.here in ("yes", "bundled", "your folder") else ""
    cells[2] = f"<span{weight}>{cells[2]}</span>"
    dim = "" if row.info.kind == "model" else ' style="opacity:.65"'
    return (
        f"<tr{dim}>"
        + "".join(f"<td {_style(c)}>{t}</td>" for c, t in zip(COLUMNS, cells, strict=True))
        + "</tr>"
    )
