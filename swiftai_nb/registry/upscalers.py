"""Upscalers by name: an entry of the catalog, a file on this disk, or Lanczos' filter."""

from __future__ import annotations

from dataclasses import dataclass

from swiftai_nb.core.enlargement import LANCZOS
from swiftai_nb.core.errors import AIError, InvalidInputError, ModelNotFoundError
from swiftai_nb.core.paths import user_path
from swiftai_nb.model_files.upscalers import UpscalerFile, read_upscaler
from swiftai_nb.registry.catalog import catalog
from swiftai_nb.registry.model_info import DiffusionModelInfo
from swiftai_nb.registry.registry import DiffusionModelRegistry

KIND = "upscaler"
# What other tools call an enlargement without a network.
_FILTERS = frozenset({LANCZOS, "none", "nearest", "bicubic", "bilinear", "area", "nearest-exact"})


@dataclass(frozen=True)
class ChosenUpscaler:
    """What enlarges a picture.

    Attributes:
        name: finds it again; "lanczos" for the filter.
        file: of the network; None is Lanczos' filter.
        note: why it was chosen, for the user; None where it was named.
    """

    name: str = LANCZOS
    file: UpscalerFile | None = None
    note: str | None = None


def upscaler_names(registry: DiffusionModelRegistry) -> list[str]:
    """The names that `choose_upscaler` knows."""
    return [LANCZOS, *(info.id for info in registry.available_models if info.kind == KIND)]


def is_known(registry: DiffusionModelRegistry, name: str) -> bool:
    """Whether a name, of a recipe perhaps, is that of a filter, an entry or a file."""
    if name.strip().casefold() in _FILTERS or _entry(registry, name) is not None:
        return True
    try:
        return user_path(name).exists()
    except AIError:  # a recipe of others may name anything
        return False


def missing_upscaler(registry: DiffusionModelRegistry, name: str | None) -> DiffusionModelInfo | None:
    """The catalog's entry of that name when it has to be downloaded first."""
    if name is None or user_path(name).exists():
        return None
    info = _entry(registry, name)
    return None if info is None or registry.is_downloaded(info.id) else info


def choose_upscaler(registry: DiffusionModelRegistry, name: str | None) -> ChosenUpscaler:
    """The upscaler of that name.

    Args:
        registry: where entries are looked up.
        name: a catalog id or alias, a file or folder, "lanczos"; None is the first of the catalog's upscalers
            that is installed, else Lanczos' filter, with a note.

    Raises:
        ModelNotFoundError: no such name or file.
        ModelNotDownloadedError: an entry that is not installed; with its size and how to download it.
        InvalidInputError: the name of something else.
        InvalidModelFilesError, UnsupportedModelError: a file that is no upscaler of a supported kind.
    """
    if name is None:
        return _installed(registry)
    if name.strip().casefold() in _FILTERS:
        return ChosenUpscaler()
    path = user_path(name)
    if path.exists():
        return ChosenUpscaler(str(path), read_upscaler(path.absolute()))
    info, known = _entry(registry, name), ", ".join(upscaler_names(registry))
    if info is None:
        raise ModelNotFoundError(f"there is no upscaler {name!r}", hint=f"give a file or one of: {known}")
    if info.kind != KIND:
        raise InvalidInputError(f"{info.id} is no upscaler", hint=f"use one of: {known}")
    return _of_entry(registry, info)


def _installed(registry: DiffusionModelRegistry) -> ChosenUpscaler:
    entries = [info for info in catalog() if info.kind == KIND]
    for info in entries:
        if registry.is_downloaded(info.id):
            return _of_entry(registry, info)
    offer = f"; %imagine_models download {entries[0].id} ({entries[0].formatted_size})" if entries else ""
    return ChosenUpscaler(note=f"enlarged by Lanczos' filter: no upscaler is installed{offer}")


def _of_entry(registry: DiffusionModelRegistry, info: DiffusionModelInfo) -> ChosenUpscaler:
    folder = registry.resolve_info(info).folder
    return ChosenUpscaler(info.id, read_upscaler(folder / info.files[0].path if info.files else folder))


def _entry(registry: DiffusionModelRegistry, name: str) -> DiffusionModelInfo | None:
    try:
        return registry.find(name)
    except ModelNotFoundError:
        return None
