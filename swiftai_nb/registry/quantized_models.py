"""Packed copies of models: folders below the state folder, made by us and deletable like downloads."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.registry.model_info import DiffusionModelInfo
from swiftai_nb.registry.registry import DiffusionModelRegistry

_SUFFIX = ".packed"  # tells it from a folder that is named by its path
_FORBIDDEN = frozenset('/\\:*?"<>|')


def copies_folder(registry: DiffusionModelRegistry) -> Path:
    """Where copies are kept."""
    return registry.home / "models"


def copy_info(
    registry: DiffusionModelRegistry,
    info: DiffusionModelInfo,
    *,
    bits: int,
    id: str | None = None,  # noqa: A002
) -> DiffusionModelInfo:
    """The entry of a packed copy, not made yet: "sd-1.5" in 4 bits is "sd-1.5-q4".

    Raises:
        InvalidInputError: the id cannot be a folder's name.
    """
    plain = info.id.removesuffix(f"-{info.quantization_bits}bit").replace("/", "-")
    name = f"{plain}-q{bits}" if id is None else id
    if name.startswith(".") or not name.strip() or _FORBIDDEN & set(name):
        raise InvalidInputError(f"{name!r} cannot be a folder's name", hint="--id NAME")
    return replace(
        info,
        id=name,
        name=f"{info.name.partition(' (')[0]} ({bits}-bit copy)",
        description=f"Your copy of {info.id}, packed to {bits} bits",
        repository=None,
        revision=None,
        files=(),
        quantization_bits=None,
        aliases=(),
        fallback_repositories=(),
        bundled=False,
        local_folder=str(copies_folder(registry) / f"{name}{_SUFFIX}"),
        is_custom=True,
        unconfirmed=None,
    )


def is_copy(registry: DiffusionModelRegistry, info: DiffusionModelInfo) -> bool:
    """Whether an entry's folder was made by us."""
    return info.local_folder is not None and Path(info.local_folder).parent == copies_folder(registry)


def delete_copy(registry: DiffusionModelRegistry, info: DiffusionModelInfo) -> int:
    """Removes a copy's folder; the bytes that were freed, 0 for a folder that is not ours."""
    if not is_copy(registry, info) or info.local_folder is None:
        return 0
    folder = Path(info.local_folder)
    size_bytes = folder_bytes(folder)
    shutil.rmtree(folder, ignore_errors=True)
    return size_bytes


def folder_bytes(folder: Path) -> int:
    """Of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
