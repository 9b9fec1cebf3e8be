"""Everything about one model, for people."""

from __future__ import annotations

from collections.abc import Iterable

from swiftai_nb.core.table import Table
from swiftai_nb.registry.hub_cache import DiskState
from swiftai_nb.registry.model_info import GB, DiffusionModelInfo, format_bytes
from swiftai_nb.registry.registry import DiffusionModelRegistry


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
        """The card of a model.

        Raises:
            ModelNotFoundError: nobody knows the name.
        """
        info = registry.find(name)
        lines = [*_what(info), *_where(registry, info)]
        return cls(info, [(label, value) for label, value in lines if value])


def _what(info: DiffusionModelInfo) -> list[tuple[str, str]]:
    width, height = info.default_resolution
    settings = f"{width}x{height}, {info.default_steps} steps, guidance {info.default_guidance_scale:g}"
    license_text = f"{info.license}: {info.license_summary}" if info.license_summary else info.license
    return [
        ("what it is", info.description),
        ("family", info.variant.display_name if info.kind != "lora" else ""),
        ("defaults", settings if info.kind == "model" else ""),
        (
            "memory",
            f"a machine with {info.min_memory_bytes / GB:.0f} GB (an estimate)"
            if info.kind == "model"
            else "",
        ),
        ("license", f"{license_text} ({info.license_url})" if info.license_url else license_text),
        ("access", info.gated or ("open: no account needed" if info.is_downloadable else "")),
        ("packed to", "" if info.quantization_bits is None else f"{info.quantization_bits} bits on load"),
        ("also called", ", ".join(info.aliases)),
        ("preview decoder", info.preview_decoder or ""),
        ("fetched with it", ", ".join(info.requires)),
        ("engine", f"--engine {info.engine}" if info.engine != "mlx" and info.kind == "model" else ""),
    ]


def _where(registry: DiffusionModelRegistry, info: DiffusionModelInfo) -> list[tuple[str, str]]:
    found = registry.disk_status(info)
    some = ", ".join(found.missing[:4])
    state = {
        DiskState.COMPLETE: f"yes, {format_bytes(found.size_bytes)}",
        DiskState.PARTIAL: f"in part, {format_bytes(found.size_bytes)}; missing: {some}",
        DiskState.ABSENT: "no",
    }[found.state]
    return [
        ("page", info.hugging_face_url or ""),
        ("revision", found.revision or info.revision or ""),
        (
            "download",
            f"{info.formatted_size} in {len(info.files) or 'some'} files" if info.is_downloadable else "",
        ),
        ("time", "" if found.state is DiskState.COMPLETE else registry.time_words(info, found)),
        ("on this disk", state),
        ("folder", "" if found.folder is None else str(found.folder)),
        ("not checked", info.unconfirmed or ""),
    ]
