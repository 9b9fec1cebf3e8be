"""The models as a table that reads well in a notebook, a terminal and a saved file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from swiftai_nb.core.table import Cell, Row, Table
from swiftai_nb.downloads.deletion import find_reclaimable
from swiftai_nb.registry.hub_cache import DiskState
from swiftai_nb.registry.model_info import GB, DiffusionModelInfo, format_bytes
from swiftai_nb.registry.quantized_models import is_copy
from swiftai_nb.registry.registry import DiffusionModelRegistry

COLUMNS = ("model", "download", "here", "memory", "license", "what it is")


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
    def cells(self) -> Row:
        """In the order of `COLUMNS`."""
        info = self.info
        name = f"{info.id} (default)" if self.is_default else info.id
        size = info.formatted_size if info.is_downloadable else ""
        memory = f"{info.min_memory_bytes / GB:.0f} GB" if info.kind == "model" else ""
        cells = (
            Cell(name, url=info.hugging_face_url),
            size,
            Cell(self.here, is_bold=self.here in ("yes", "bundled", "your folder")),
            memory,
            Cell(info.license, title=info.license_summary),
            info.description,
        )
        return Row(cells, is_dim=info.kind != "model")


def make_table(registry: DiffusionModelRegistry) -> Table[ModelRow]:
    """The models of a registry, preview decoders last."""
    default = registry.resolve(None).info.id
    infos = [registry.find(info.id) for info in registry.available_models]
    ordered = sorted(infos, key=lambda info: info.kind != "model")
    rows = [ModelRow(info, _here(registry, info), info.id == default) for info in ordered]
    return Table(
        rows,
        cells=lambda row: row.cells,
        columns=COLUMNS,
        numeric=("download", "memory"),
        wrapped=COLUMNS[-1:],
        notes=_foot(registry),
    )


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
