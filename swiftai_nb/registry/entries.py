"""Builds entries for what is not in the catalog: any Hub repository, any model folder."""

from __future__ import annotations

from pathlib import Path

from swiftai_nb.core.errors import ModelNotFoundError
from swiftai_nb.model_files.folder import GenerationDefaults, open_model
from swiftai_nb.model_files.variants import DiffusionVariant
from swiftai_nb.registry.model_info import DiffusionModelInfo
from swiftai_nb.registry.model_sources import detect_plugin_variant, engine_of


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
    width, height = variant.default_resolution
    return DiffusionModelInfo(
        id=repository if id is None else id,
        name=repository,
        variant=variant,
        description=f"Own entry ({variant.display_name})",
        repository=repository,
        revision=revision,
        license="see its page",
        default_steps=variant.default_steps,
        default_guidance_scale=variant.default_guidance_scale,
        default_width=width,
        default_height=height,
        is_custom=True,
        engine=engine_of(variant),
    )


def folder_info(
    folder: Path,
    *,
    id: str | None = None,  # noqa: A002
    variant: DiffusionVariant | None = None,
) -> DiffusionModelInfo:
    """An entry for a model folder, with its own defaults.

    Args:
        folder: the model.
        id: None is the folder's name.
        variant: its family; None reads it from the folder's files.

    Raises:
        ModelNotFoundError: no such folder.
        InvalidModelFilesError, UnsupportedModelError: not a folder of a supported layout.
    """
    folder = folder.expanduser().resolve()
    if not folder.is_dir():
        raise ModelNotFoundError(f"no folder {folder}", hint="give the folder that holds unet/ and vae/")
    family = detect_plugin_variant(folder) if variant is None else variant
    if family is None:
        opened = open_model(folder)
        family, defaults = opened.variant, opened.defaults
    else:
        defaults = GenerationDefaults.of(family)
    return DiffusionModelInfo(
        id=folder.name if id is None else id,
        name=folder.name,
        variant=family,
        description=f"Own folder ({family.display_name})",
        size_bytes=sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()),
        default_steps=defaults.steps,
        default_guidance_scale=defaults.guidance_scale,
        default_width=defaults.width,
        default_height=defaults.height,
        local_folder=str(folder),
        is_custom=True,
        engine=engine_of(family),
    )
