"""Everything about one model, for people."""

from __future__ import annotations

import html
from dataclasses import dataclass

from swiftai_nb.registry.hub_cache import DiskState
from swiftai_nb.registry.model_info import GB, DiffusionModelInfo, format_bytes
from swiftai_nb.registry.registry import DiffusionModelRegistry


@dataclass(frozen=True, repr=False)
class ModelCard:
    """One model, as lines of a name and a value.

    Args:
        info: the entry.
        lines: (name, value) in order.
    """

    info: DiffusionModelInfo
    lines: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, registry: DiffusionModelRegistry, name: str) -> ModelCard:
        """The card of a model.

        Raises:
            ModelNotFoundError: nobody knows the name.
        """
        info = registry.find(name)
        lines = [*_what(info), *_where(registry, info)]
        return cls(info, tuple((label, value) for label, value in lines if value))

    def __repr__(self) -> str:
        width = max(len(label) for label, _ in self.lines)
        return "\n".join(
            [f"{self.info.id}: {self.info.name}", *(f"  {k:<{width}}  {v}" for k, v in self.lines)]
        )

    def _repr_html_(self) -> str:
        rows = "".join(_html_row(label, value) for label, value in self.lines)
        title = f"<b>{html.escape(self.info.id)}</b>: {html.escape(self.info.name)}"
        return f"{title}<table><tbody>{rows}</tbody></table>"


def _html_row(label: str, value: str) -> str:
    left = "text-align:left;vertical-align:top"
    cell = f'<td style="{left};opacity:.7">{html.escape(label)}</td>'
    return f'<tr>{cell}<td style="{left}">{html.escape(value)}</td></tr>'


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
