"""Entries for models that are not in the catalog: Hub repositories, model folders, quantized models."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from swiftai_nb.core.errors import InvalidInputError, ModelNotFoundError, UnsupportedModelError
from swiftai_nb.core.paths import user_path
from swiftai_nb.model_files.folder import open_model
from swiftai_nb.model_files.model_folder import ModelFolder
from swiftai_nb.model_files.variants import DiffusionVariant, GenerationDefaults
from swiftai_nb.registry.model_info import DiffusionModelInfo, family_settings
from swiftai_nb.registry.model_sources import detect_plugin_variant, engine_of, model_sources

_QUANTIZED_SUFFIX = ".packed"  # of the folder's name; a folder without it is named by its path
_FORBIDDEN_IN_NAMES = frozenset('/\\:*?"<>|')


def is_repository_id(name: str) -> bool:
    """Whether a name has the form "owner/name" of the Hub."""
    owner, _, rest = name.partition("/")
    plain = (owner + rest).replace("-", "").replace("_", "").replace(".", "")
    return bool(owner and rest) and plain.isascii() and plain.isalnum() and not owner.startswith(".")


def repository_info(
    repository: str,
    *,
    variant: DiffusionVariant,
    id: str | None = None,  # noqa: A002
    revision: str | None = None,
) -> DiffusionModelInfo:
    """An entry for any Hub repository, with the family's defaults."""
    return DiffusionModelInfo(
        id=repository if id is None else id,
        name=repository,
        description=f"Your entry ({variant.display_name})",
        repository=repository,
        revision=revision,
        license="see its page",
        is_custom=True,
        engine=engine_of(variant),
        **family_settings(variant),
    )


def folder_info(
    folder: Path,
    *,
    id: str | None = None,  # noqa: A002
    variant: DiffusionVariant | None = None,
) -> DiffusionModelInfo:
    """An entry for a model folder or single file, with its own defaults.

    Args:
        folder: the model.
        id: None is the folder's or file's name.
        variant: its family; None reads it from the folder's files.

    Raises:
        ModelNotFoundError: no such folder.
        InvalidModelFilesError, UnsupportedModelError: not a folder of a supported layout.
    """
    folder = user_path(folder).resolve()
    if not folder.exists():
        raise ModelNotFoundError(
            f"there is no folder {folder}", hint="give the folder that holds unet/ and vae/"
        )
    is_file = folder.is_file()
    variant = None if is_file else variant  # the tensors of a file decide
    family = detect_plugin_variant(folder) if variant is None and not is_file else variant
    if family is None:
        opened = _open_or_name_engine(folder)
        family, defaults = opened.variant, opened.defaults
    else:
        defaults = GenerationDefaults.of(family)
    return DiffusionModelInfo(
        id=folder.name if id is None else id,
        name=folder.name,
        variant=family,
        description=f"Your {'file' if is_file else 'folder'} ({family.display_name})",
        size_bytes=folder.stat().st_size if is_file else folder_bytes(folder),
        default_steps=defaults.steps,
        default_guidance_scale=defaults.guidance_scale,
        default_width=defaults.width,
        default_height=defaults.height,
        local_folder=str(folder),
        is_custom=True,
        engine=engine_of(family),
    )


def _open_or_name_engine(folder: Path) -> ModelFolder:
    """Opens a model; when its family is not supported, the hint names an engine of another package for it.

    Raises:
        InvalidModelFilesError, UnsupportedModelError: not a folder of a supported layout.
    """
    try:
        return open_model(folder)
    except UnsupportedModelError as error:
        known = (info for source in model_sources() for info in source.models)
        others = [info for info in known if info.variant.display_name == error.family]
        if not others:
            raise
        names = ", ".join(info.id for info in others)
        hint = f"{error.hint}; --engine {others[0].engine} runs {names}"
        raise UnsupportedModelError(error.message, hint=hint) from None


def quantized_info(
    home: Path,
    info: DiffusionModelInfo,
    *,
    bits: int,
    id: str | None = None,  # noqa: A002
) -> DiffusionModelInfo:
    """The entry of a quantized model that is not made yet: "sd-1.5" in 4 bits is "sd-1.5-q4".

    Args:
        home: the state folder, below which it will be kept.
        info: the model to quantize.
        bits: 4, 5, 6 or 8.
        id: None adds "-q4" or "-q8" to the model's.

    Raises:
        InvalidInputError: the id cannot be a folder's name.
    """
    plain = info.id.removesuffix(f"-{info.quantization_bits}bit").replace("/", "-")
    name = f"{plain}-q{bits}" if id is None else id
    if name.startswith(".") or not name.strip() or _FORBIDDEN_IN_NAMES & set(name):
        raise InvalidInputError(f"{name!r} cannot be a folder's name", hint="--id NAME")
    return replace(
        info,
        id=name,
        name=f"{info.name.partition(' (')[0]} ({bits}-bit, quantized)",
        description=f"{info.id} quantized to {bits} bits on this machine",
        repository=None,
        revision=None,
        files=(),
        quantization_bits=None,
        aliases=(),
        fallback_repositories=(),
        bundled=False,
        local_folder=str(_quantized_folder(home) / f"{name}{_QUANTIZED_SUFFIX}"),
        is_custom=True,
        unconfirmed=None,
    )


def is_quantized_model(home: Path, info: DiffusionModelInfo) -> bool:
    """Whether an entry's folder was made by quantizing a model: it is deleted with the entry."""
    if info.local_folder is None:
        return False
    folder = Path(info.local_folder)
    return folder.parent == _quantized_folder(home) and folder.name != ".."


def delete_quantized_model(home: Path, info: DiffusionModelInfo) -> int:
    """Deletes the folder of a quantized model; the bytes freed, 0 for any other folder."""
    if not is_quantized_model(home, info) or info.local_folder is None:
        return 0
    folder = Path(info.local_folder)
    size_bytes = folder_bytes(folder)
    shutil.rmtree(folder, ignore_errors=True)
    return size_bytes


def folder_bytes(folder: Path) -> int:
    """The size of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _quantized_folder(home: Path) -> Path:
    return home / "models"
