"""The models as tables for a notebook, a terminal and a saved file: all of them, or one in detail."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from swiftai_nb.core.format import format_bytes, shorten
from swiftai_nb.core.table import Cell, Row, Table
from swiftai_nb.model_files.refusals import MODEL_FILE_SUFFIXES
from swiftai_nb.registry.entries import is_quantized_model
from swiftai_nb.registry.hub_cache import DiskState
from swiftai_nb.registry.model_info import DEFAULT_ENGINE, GB, DiffusionModelInfo
from swiftai_nb.registry.registry import DiffusionModelRegistry

COLUMNS = ("model", "download", "installed", "memory", "license", "description")
_MORE = "info MODEL, download MODEL, delete MODEL, verify MODEL, quantize MODEL, clean, add, default"
_LONGEST_LICENSE = 22
_INSTALLED = ("yes", "bundled", "your folder", "your file")


@dataclass(frozen=True)
class ModelRow:
    """One row of the table.

    Args:
        info: the entry.
        installed: "yes", "partial: 3.1 GB", "bundled", "your folder", "quantized, 1.3 GB", or "" when not.
        is_default: used when no model is named.
    """

    info: DiffusionModelInfo
    installed: str
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
            Cell(self.installed, is_bold=self.installed in _INSTALLED),
            memory,
            Cell(shorten(info.license, _LONGEST_LICENSE), title=info.license_summary or info.license),
            info.description,
        )
        return Row(cells, is_dim=info.kind != "model")


def make_table(
    registry: DiffusionModelRegistry, *, has_all: bool = False, reclaimable_bytes: int = 0
) -> Table[ModelRow]:
    """The models of a registry, then what belongs to models.

    Args:
        registry: what to list.
        has_all: also what is not here and nobody draws with: decoders, upscalers, ControlNets and
            tokenizers; and the files of another model, quantized when they are loaded.
        reclaimable_bytes: what interrupted downloads hold; shown below the table.
    """
    default = registry.resolve(None).info.id
    infos = registry.available_models
    ordered = sorted(infos, key=lambda info: info.kind != "model")
    every = [ModelRow(info, _installed(registry, info), info.id == default) for info in ordered]
    rows = [row for row in every if has_all or row.installed or is_choice(row.info, infos)]
    notes = [f"Installed: {registry.formatted_total_size} in {_short(registry.cache_dir)}"]
    if reclaimable_bytes:
        notes.append(
            f"Interrupted downloads: {format_bytes(reclaimable_bytes)}; "
            "download MODEL resumes one, clean frees the space"
        )
    if len(rows) < len(every):
        number = len(every) - len(rows)
        notes.append(f"Not shown: {number} decoders, upscalers, ControlNets and other parts (list --all)")
    notes.append(f"More: {_MORE}")
    return Table(
        rows,
        cells=lambda row: row.cells,
        columns=COLUMNS,
        numeric=("download", "memory"),
        wrapped=COLUMNS[-1:],
        notes=notes,
    )


def is_choice(info: DiffusionModelInfo, infos: Iterable[DiffusionModelInfo]) -> bool:
    """Whether a list of models to download should offer an entry: a model with files of its own.

    Args:
        info: the entry.
        infos: all entries.
    """
    is_twin = info.quantization_bits is not None and any(
        one.repository == info.repository and one.quantization_bits is None for one in infos
    )
    return info.kind == "model" and not is_twin


def _installed(registry: DiffusionModelRegistry, info: DiffusionModelInfo) -> str:
    if info.bundled:
        return "bundled"
    found = registry.disk_status(info)
    if found.state is DiskState.PARTIAL:
        return f"partial: {format_bytes(found.size_bytes)}"
    is_complete = found.state is DiskState.COMPLETE
    if is_complete and is_quantized_model(registry.home, info):
        return f"quantized, {format_bytes(found.size_bytes)}"
    if info.local_folder is not None:
        kind = "file" if Path(info.local_folder).suffix in MODEL_FILE_SUFFIXES else "folder"
        return f"your {kind}" if is_complete else f"{kind} is missing"
    return "yes" if is_complete else ""


def _short(path: Path) -> str:
    try:
        return f"~/{path.relative_to(Path.home())}"
    except ValueError:
        return str(path)


class ModelCard(Table[tuple[str, str]]):
    """One model, as a table of names and values.

    Attributes:
        info: the entry.
    """

    def __init__(self, info: DiffusionModelInfo, lines: Iterable[tuple[str, str]]) -> None:
        super().__init__(lines, cells=lambda line: line, title=(info.id, info.name))
        self.info = info

    @classmethod
    def of(cls, registry: DiffusionModelRegistry, name: str) -> ModelCard:
        """The details of a model.

        Raises:
            ModelNotFoundError: there is no such model.
        """
        info = registry.find(name)
        lines = [*_description(info), *_disk(registry, info)]
        return cls(info, [(label, value) for label, value in lines if value])


def _description(info: DiffusionModelInfo) -> list[tuple[str, str]]:
    is_model = info.kind == "model"
    width, height = info.default_resolution
    settings = f"{width}x{height}, {info.default_steps} steps, guidance {info.default_guidance_scale:g}"
    license_text = f"{info.license}: {info.license_summary}" if info.license_summary else info.license
    memory = f"a machine with {info.min_memory_bytes / GB:.0f} GB (estimate)"
    bits = info.quantization_bits
    return [
        ("description", info.description),
        ("family", info.variant.display_name if info.kind != "lora" else ""),
        ("defaults", settings if is_model else ""),
        ("memory", memory if is_model else ""),
        ("license", f"{license_text} ({info.license_url})" if info.license_url else license_text),
        ("access", info.gated or ("open: no account needed" if info.is_downloadable else "")),
        ("quantization", "" if bits is None else f"{bits} bits, at load time"),
        ("aliases", ", ".join(info.aliases)),
        ("preview decoder", info.preview_decoder or ""),
        ("downloaded with it", ", ".join(info.requires)),
        ("engine", f"--engine {info.engine}" if info.engine != DEFAULT_ENGINE and is_model else ""),
    ]


def _disk(registry: DiffusionModelRegistry, info: DiffusionModelInfo) -> list[tuple[str, str]]:
    found = registry.disk_status(info)
    is_complete = found.state is DiskState.COMPLETE
    missing = ", ".join(found.missing[:4])
    state = {
        DiskState.COMPLETE: f"yes, {format_bytes(found.size_bytes)}",
        DiskState.PARTIAL: f"partial, {format_bytes(found.size_bytes)}; missing: {missing}",
        DiskState.ABSENT: "no",
    }[found.state]
    download = f"{info.formatted_size} in {len(info.files) or 'some'} files" if info.is_downloadable else ""
    return [
        ("page", info.hugging_face_url or ""),
        ("revision", found.revision or info.revision or ""),
        ("download", download),
        ("download time", "" if is_complete else registry.estimated_time(info, found)),
        ("installed", state),
        ("folder", "" if found.folder is None else str(found.folder)),
        ("not verified", info.unconfirmed or ""),
    ]
