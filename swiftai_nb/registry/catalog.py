"""Finds models by name: the built-in ones, the user's, and those that other packages add."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

from swiftai_nb.core.errors import ModelNotFoundError
from swiftai_nb.model_files.configs import read_generation_defaults
from swiftai_nb.model_files.families import family_of_name
from swiftai_nb.model_files.refusals import MODEL_FILE_SUFFIXES
from swiftai_nb.model_files.variants import DiffusionVariant
from swiftai_nb.registry.catalog_entries import CATALOG
from swiftai_nb.registry.model_info import DiffusionModelInfo
from swiftai_nb.registry.model_sources import model_sources

__all__ = ["CATALOG", "bundled_folder", "bundled_names", "catalog", "find"]


def catalog() -> tuple[DiffusionModelInfo, ...]:
    """All models known by name: the built-in ones and those that providers of other packages add."""
    built_in = (_with_file_defaults(info) if info.bundled else info for info in CATALOG)
    return (*built_in, *_added_models())


def _added_models() -> tuple[DiffusionModelInfo, ...]:
    built_in = {info.id for info in CATALOG}
    return tuple(info for source in model_sources() for info in source.models if info.id not in built_in)


def bundled_folder(info: DiffusionModelInfo) -> Path:
    """The folder of a bundled model inside the installed package."""
    return Path(str(resources.files("swiftai_nb"))) / "assets" / info.id


def find(name: str, *, own: Iterable[DiffusionModelInfo] = ()) -> DiffusionModelInfo:
    """The entry with this id, alias, or repository; case does not matter.

    Args:
        name: as typed.
        own: entries of the user, which are preferred to those of the catalog.

    Raises:
        ModelNotFoundError: there is none; suggests the nearest name and lists the models.
    """
    known, wanted = (*own, *CATALOG), name.strip().casefold()
    found = _search(wanted, known)
    if found is None:  # other packages are imported only for a name that is not found without them
        found = _search(wanted, _added_models())
    if found is None:
        raise _not_found(name, (*known, *_added_models()))
    return _with_file_defaults(found) if found.bundled else found


def _search(wanted: str, entries: Iterable[DiffusionModelInfo]) -> DiffusionModelInfo | None:
    entries = tuple(entries)
    for info in entries:
        if info.id.casefold() == wanted:
            return info
    return next((info for info in entries if wanted in _other_names(info)), None)


def _other_names(info: DiffusionModelInfo) -> set[str]:
    # Entries that differ only in quantization share a repository; the plain one answers to its name.
    is_plain = info.quantization_bits is None
    repositories = (info.repository, *info.fallback_repositories) if is_plain else ()
    return {n.casefold() for n in (*info.aliases, *repositories) if n is not None}


def _not_found(name: str, entries: tuple[DiffusionModelInfo, ...]) -> ModelNotFoundError:
    wanted, models = name.strip().casefold(), [info for info in entries if info.kind == "model"]
    known = {n: info.id for info in models for n in (info.id.casefold(), *_other_names(info))}
    listed = ", ".join(info.id for info in models)
    families = ", ".join(DiffusionVariant)
    other, path_like = family_of_name(wanted), wanted.startswith((".", "/", "~"))
    if other is not None and not path_like:
        running = [info.id for info in models if info.variant.display_name == other.name]
        meant = f"no engine here runs {other.name}; "
        if running:
            meant = f"for {other.name}: {', '.join(running)}; "
    elif wanted in set(DiffusionVariant):
        meant = f"that is a family; %imagine_models add OWNER/NAME --variant {wanted} adds a model of it; "
    elif wanted.count("/") == 1 and not path_like:
        meant = f"%imagine_models add {name.strip()} --variant FAMILY adds a repository ({families}); "
    else:
        close = difflib.get_close_matches(wanted, known, n=1, cutoff=0.5)
        meant = f"did you mean {known[close[0]]!r}? " if close else ""
    return ModelNotFoundError(f"no model named {name!r}", hint=f"{meant}known models: {listed}")


def not_found_at(path: Path, *, error: ModelNotFoundError) -> ModelNotFoundError:
    """The error for a name of no model that may be a path: `error`, unless it clearly is one."""
    if path.is_file():
        return ModelNotFoundError(
            f"{path} is not a model file", hint="give a .safetensors or .gguf file, or a model's folder"
        )
    if path.is_absolute() or path.suffix.lower() in MODEL_FILE_SUFFIXES:
        return ModelNotFoundError(f"there is no file or folder {path}", hint="check the path")
    return error


@lru_cache(maxsize=1)
def bundled_names() -> frozenset[str]:
    """The names of bundled models, in lower case: no other entry can take them."""
    bundled = [info for info in CATALOG if info.bundled]
    return frozenset(name for info in bundled for name in (info.id.casefold(), *_other_names(info)))


@lru_cache(maxsize=8)
def _with_file_defaults(info: DiffusionModelInfo) -> DiffusionModelInfo:
    """A bundled model with the defaults of its `generation_defaults.json` and its size."""
    folder = bundled_folder(info)
    size_bytes = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) if folder.is_dir() else 0
    fields = {
        "width": "default_width",
        "height": "default_height",
        "steps": "default_steps",
        "guidance_scale": "default_guidance_scale",
        "display_scale": "display_scale",
    }
    given = read_generation_defaults(folder)
    values: dict[str, Any] = {field: given[name] for name, field in fields.items() if name in given}
    return replace(info, size_bytes=size_bytes, **values)
