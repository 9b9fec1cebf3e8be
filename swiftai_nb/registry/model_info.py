"""What the catalog says of a model, and what is known of one that is on disk."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any

from swiftai_nb.core.format import format_bytes as format_bytes  # noqa: PLC0414 - until its users import it from core
from swiftai_nb.model_files.variants import DiffusionVariant

GB = 1_000_000_000
DEFAULT_ENGINE = "mlx"


@dataclass(frozen=True)
class ModelFile:
    """One file of a model.

    Args:
        path: inside the repository, with forward slashes.
        size_bytes: None when no source says it.
        is_exact: the size is to the byte; else it was read rounded (about 1 %).
        is_required: the model is incomplete without it; else it is fetched when the repository has it.
        group: name of a set of alternatives; the model needs at least one file of each set.
        oid: sha256 (64 hex, large files) or git blob sha1 (40 hex) as the Hub announces it; None if unknown.
    """

    path: str
    size_bytes: int | None = None
    is_exact: bool = False
    is_required: bool = True
    group: str | None = None
    oid: str | None = None


@dataclass(frozen=True)
class DiffusionModelInfo:
    """An entry of the catalog, or one the user registered.

    Args:
        id: short name, unique: "sdxl-turbo".
        name: for people.
        variant: the family, which decides the pipeline.
        description: one line.
        repository: Hub repository "owner/name"; None for bundled models and local folders.
        revision: 40-hex commit, branch or tag; None is the repository's main branch.
        files: what to fetch; empty lets the repository's listing decide (user entries).
        size_bytes: the whole download.
        license: its identifier.
        license_url: where its words are.
        license_summary: what it means, in plain words.
        gated: what a user must do before the files may be fetched, in plain words; None when nothing.
        min_memory_bytes: memory of the smallest machine it is meant for; an estimate unless said otherwise.
        default_steps, default_guidance_scale, default_width, default_height: the model's own.
        display_scale: how many times larger a notebook shows the picture (tiny models); 1 is as it is.
        quantization_bits: shrink the weights to so many bits on load; None loads them as they are.
        aliases: other names that find this entry.
        fallback_repositories: copies with the same files, tried when `repository` is gone.
        preview_decoder: id of the small decoder (TAESD) that fits its latents.
        kind: "model", "preview-decoder" for one that only decodes previews, "part" for what models share, or
            "lora" (its family is then unknown).
        requires: ids of the parts without which the model is incomplete; they are fetched with it.
        bundled: ships inside this package.
        local_folder: where a user's local entry lies.
        is_custom: registered by the user.
        unconfirmed: what about this entry was not checked against the live Hub, in words.
        engine: name of the provider that runs it on this machine.
    """

    id: str
    name: str
    variant: DiffusionVariant
    description: str
    repository: str | None = None
    revision: str | None = None
    files: tuple[ModelFile, ...] = ()
    size_bytes: int = 0
    license: str = "unknown"
    license_url: str | None = None
    license_summary: str = ""
    gated: str | None = None
    min_memory_bytes: int = 8 * GB
    default_steps: int = 20
    default_guidance_scale: float = 7.5
    default_width: int = 512
    default_height: int = 512
    display_scale: int = 1
    quantization_bits: int | None = None
    aliases: tuple[str, ...] = ()
    fallback_repositories: tuple[str, ...] = ()
    preview_decoder: str | None = None
    kind: str = "model"
    requires: tuple[str, ...] = ()
    bundled: bool = False
    local_folder: str | None = None
    is_custom: bool = False
    unconfirmed: str | None = None
    engine: str = DEFAULT_ENGINE

    @property
    def size_gb(self) -> float:
        """Download in GB (10**9 bytes)."""
        return round(self.size_bytes / GB, 2)

    @property
    def formatted_size(self) -> str:
        """Download in words: "6.9 GB"; "size unknown" when it is."""
        return format_bytes(self.size_bytes) if self.size_bytes else "size unknown"

    @property
    def default_resolution(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.default_width, self.default_height

    @property
    def hugging_face_url(self) -> str | None:
        """The model's page, or None for models that have none."""
        return None if self.repository is None else f"https://huggingface.co/{self.repository}"

    @property
    def is_downloadable(self) -> bool:
        """False for bundled models and local folders: nothing to fetch."""
        return self.repository is not None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; `info_from_dict` turns it back."""
        return asdict(self)


def info_from_dict(data: dict[str, Any]) -> DiffusionModelInfo:
    """Rebuilds an entry from `to_dict`; unknown keys (a newer version's) are left out.

    Raises:
        (KeyError, TypeError, ValueError): the data is not an entry.
    """
    known = {f.name for f in fields(DiffusionModelInfo)}
    values: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in data.items() if k in known
    }
    values["variant"] = DiffusionVariant(data["variant"])
    values["files"] = tuple(ModelFile(**f) for f in data.get("files", ()))
    return DiffusionModelInfo(**values)


@dataclass(frozen=True)
class DownloadedDiffusionModel:
    """A complete model on this disk.

    Args:
        id: the catalog id or the user's.
        name: for people.
        variant: the family.
        local_path: folder to load from.
        downloaded_at: when its newest file arrived.
        size_bytes: of the files this model needs.
        revision: the commit, where known.
    """

    id: str
    name: str
    variant: DiffusionVariant
    local_path: Path
    downloaded_at: datetime
    size_bytes: int
    revision: str | None = None

    @property
    def formatted_size(self) -> str:
        """In words: "6.9 GB"."""
        return format_bytes(self.size_bytes)


@dataclass(frozen=True)
class ResolvedModel:
    """A model that can be loaded now.

    Args:
        info: its entry.
        folder: where its files are.
        revision: the commit, where known.
        note: a sentence for the user when the name was an alias; None otherwise.
        more_folders: of the parts it requires.
    """

    info: DiffusionModelInfo
    folder: Path
    revision: str | None = None
    note: str | None = None
    more_folders: tuple[Path, ...] = ()
