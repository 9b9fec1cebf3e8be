"""The records of the registry: an entry, its files, a model on disk; and entries read from untrusted JSON."""

from __future__ import annotations

import math
from dataclasses import MISSING, asdict, dataclass, fields
from datetime import datetime
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar, get_args, get_type_hints

from swiftai_nb.core.errors import InvalidModelFilesError
from swiftai_nb.core.format import format_bytes
from swiftai_nb.model_files.variants import DiffusionVariant

GB = 1_000_000_000
DEFAULT_ENGINE = "mlx"
Entry = TypeVar("Entry", "DiffusionModelInfo", "ModelFile")
_LONGEST_TEXT = 10_000


@dataclass(frozen=True)
class ModelFile:
    """One file of a model.

    Args:
        path: inside the repository, with forward slashes.
        size_bytes: None when it is unknown.
        is_exact: the size is to the byte; else it was read rounded (about 1 %).
        is_required: the model is incomplete without it; else it is downloaded when the repository has it.
        group: name of a set of alternatives; the model needs at least one file of each set.
        oid: sha256 (64 hex, large files) or git blob sha1 (40 hex) as the Hub publishes it; None if unknown.
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
        name: as shown to users.
        variant: the family, which decides the pipeline.
        description: one line.
        repository: Hub repository "owner/name"; None for bundled models and local folders.
        revision: 40-hex commit, branch or tag; None is the repository's main branch.
        files: what to download; empty selects from the repository's listing (user entries).
        size_bytes: the whole download.
        license: its identifier.
        license_url: where its text is.
        license_summary: what it allows, in one line.
        gated: what a user must do before downloading; None for open models.
        min_memory_bytes: memory of the smallest machine it is meant for; an estimate.
        default_steps, default_guidance_scale, default_width, default_height: the model's own.
        display_scale: how many times larger a notebook shows the picture (tiny models); 1 is as it is.
        quantization_bits: quantize the weights to so many bits at load time; None loads them as they are.
        aliases: other names that find this entry.
        fallback_repositories: repositories with the same files, tried when `repository` is gone.
        preview_decoder: id of the small decoder (TAESD) that fits its latents.
        kind: "model", "preview-decoder" for one that only decodes previews, "part" for what models share,
            "controlnet", "upscaler", or "lora"; the last two are of no family.
        requires: ids of the parts without which the model is incomplete; they are downloaded with it.
        bundled: ships inside this package.
        local_folder: folder of a model that is not in the Hugging Face cache.
        is_custom: registered by the user.
        unconfirmed: facts of this entry that were not checked against the live Hub.
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
        """Download size as text: "6.9 GB", or "size unknown"."""
        return format_bytes(self.size_bytes) if self.size_bytes else "size unknown"

    @property
    def size_and_license(self) -> str:
        """Such as "5.9 GB, license apache-2.0: free to use, also commercially"."""
        terms = f": {self.license_summary}" if self.license_summary else ""
        license_text = "" if self.license == "unknown" else f", license {self.license}{terms}"
        return f"{self.formatted_size}{license_text}"

    @property
    def default_resolution(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.default_width, self.default_height

    @property
    def own_settings(self) -> dict[str, float]:
        """Steps, guidance and size where they differ from the family's: they are this model's own.

        Keys as in `model_files.folder.GenerationDefaults`.
        """
        family = self.variant.defaults
        settings: dict[str, tuple[float, float]] = {
            "steps": (self.default_steps, family.steps),
            "guidance_scale": (self.default_guidance_scale, family.guidance_scale),
            "width": (self.default_width, family.width),
            "height": (self.default_height, family.height),
        }
        return {name: own for name, (own, usual) in settings.items() if own != usual}

    @property
    def hugging_face_url(self) -> str | None:
        """The model's page, or None for models that have none."""
        return None if self.repository is None else f"https://huggingface.co/{self.repository}"

    @property
    def is_downloadable(self) -> bool:
        """False for bundled models and local folders."""
        return self.repository is not None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; `info_from_dict` turns it back."""
        return asdict(self)


def family_settings(
    variant: DiffusionVariant,
    *,
    steps: int | None = None,
    guidance_scale: float | None = None,
    side: int | None = None,
) -> dict[str, Any]:
    """The fields of an entry that follow from its family, or are this model's own.

    Args:
        variant: the family.
        steps: denoising steps; None is the family's number, like the others.
        guidance_scale: weight of the prompt.
        side: width and height in pixels.
    """
    width, height = variant.default_resolution if side is None else (side, side)
    guidance = variant.default_guidance_scale if guidance_scale is None else guidance_scale
    return {
        "variant": variant,
        "default_steps": variant.default_steps if steps is None else steps,
        "default_guidance_scale": guidance,
        "default_width": width,
        "default_height": height,
    }


def check_path(path: str) -> PurePosixPath:
    """Validates a path inside a repository, from a server or a record.

    Raises:
        InvalidModelFilesError: it would lead out of the folder it is joined to.
    """
    pure = PurePosixPath(path)
    is_plain = bool(pure.parts) and not pure.is_absolute() and ".." not in pure.parts
    # Half an emoji (a surrogate alone) cannot be in a file's name.
    is_odd = any(c in "\\\0" or "\ud800" <= c <= "\udfff" for c in path)
    if not is_plain or is_odd or ":" in pure.parts[0]:
        raise InvalidModelFilesError(f"unsafe path in the file list: {path!r}", hint="do not use this model")
    return pure


def info_from_dict(data: object) -> DiffusionModelInfo:
    """Rebuilds an entry from `to_dict`; unknown keys (a newer version's) are left out.

    Raises:
        ValueError: the data is not an entry; names the field.
    """
    info = _build(DiffusionModelInfo, data)
    if not info.id.strip():
        raise ValueError("id is empty")
    return info


def files_from_list(data: object) -> tuple[ModelFile, ...]:
    """Rebuilds the files of an entry or a manifest.

    Raises:
        ValueError: not a list of files with safe paths; names the field.
    """
    if not isinstance(data, (list, tuple)):
        raise ValueError("files is not a list")
    files = tuple(_build(ModelFile, item) for item in data)
    try:
        for file in files:
            check_path(file.path)
    except InvalidModelFilesError as error:
        raise ValueError(error.message) from None
    return files


def _build(cls: type[Entry], data: object) -> Entry:
    """An instance of a dataclass from JSON, every value checked against its field's type."""
    if not isinstance(data, dict):
        raise ValueError(f"{cls.__name__} is not an object")
    hints, values = _field_types(cls.__name__), {}
    for field in fields(cls):
        if field.name in data:
            values[field.name] = _convert(field.name, data[field.name], hints[field.name])
        elif field.default is MISSING:
            raise ValueError(f"{field.name} is missing")
    return cls(**values)


@lru_cache(maxsize=2)
def _field_types(class_name: str) -> dict[str, Any]:
    return get_type_hints({cls.__name__: cls for cls in (DiffusionModelInfo, ModelFile)}[class_name])


def _convert(name: str, value: object, hint: Any) -> Any:
    if hint is DiffusionVariant:
        return DiffusionVariant(value)
    if hint == tuple[ModelFile, ...]:
        return files_from_list(value)
    if hint == tuple[str, ...]:
        is_right = isinstance(value, (list, tuple)) and all(_is_text(item) for item in value)
        value = tuple(value) if isinstance(value, list) else value
    else:
        is_right = any(_is_scalar(value, kind) for kind in get_args(hint) or (hint,))
    if not is_right:
        raise ValueError(f"{name} cannot be {value!r:.80}")
    return value


def _is_scalar(value: object, kind: type) -> bool:
    if kind is str:
        return _is_text(value)
    if kind is float:
        return type(value) in (int, float) and 0 <= value < math.inf  # type: ignore[operator]
    if kind is int:
        return type(value) is int and 0 <= value < 2**63
    return type(value) is kind


def _is_text(value: object) -> bool:
    return isinstance(value, str) and len(value) <= _LONGEST_TEXT and "\0" not in value


@dataclass(frozen=True)
class DownloadedDiffusionModel:
    """A complete model on disk.

    Args:
        id: the catalog id or the user's.
        name: as shown to users.
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
        """The size as text: "6.9 GB"."""
        return format_bytes(self.size_bytes)


@dataclass(frozen=True)
class ResolvedModel:
    """A model that can be loaded now.

    Args:
        info: its entry.
        folder: where its files are.
        revision: the commit, where known.
        note: a sentence for the user when the name was an alias; None otherwise.
        more_folders: of the parts it requires; of a model in one file, the one with what it lacks.
    """

    info: DiffusionModelInfo
    folder: Path
    revision: str | None = None
    note: str | None = None
    more_folders: tuple[Path, ...] = ()

    @property
    def base(self) -> Path | None:
        """Of a model in one file, the folder with what the file lacks."""
        return self.more_folders[0] if self.more_folders and self.folder.is_file() else None
