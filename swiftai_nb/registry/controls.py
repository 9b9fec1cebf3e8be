"""ControlNets by name: of the catalog by what they follow, of the Hub's cache, or files and folders."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from swiftai_nb.core.control import KINDS, ControlReference
from swiftai_nb.core.errors import InvalidInputError, ModelNotDownloadedError, ModelNotFoundError
from swiftai_nb.core.paths import user_path
from swiftai_nb.model_files.control_files import is_control_path
from swiftai_nb.model_files.variants import DiffusionVariant
from swiftai_nb.registry.entries import is_repository_id
from swiftai_nb.registry.hub_cache import snapshots
from swiftai_nb.registry.model_info import DiffusionModelInfo
from swiftai_nb.registry.registry import DiffusionModelRegistry

KIND = "controlnet"
_FAMILIES = {
    DiffusionVariant.SD_15: "sd-1.5",
    DiffusionVariant.SDXL: "sdxl",
    DiffusionVariant.SDXL_TURBO: "sdxl",
}
_SHARED = {"sdxl-lineart": "sdxl-scribble"}  # trained on lines of all kinds
_Z_IMAGE_UNION = "z-image-control"  # one for all kinds but tile


def catalog_control(kind: str, variant: DiffusionVariant) -> str:
    """The id of the catalog's ControlNet for a kind and a family.

    Raises:
        InvalidInputError: there is none; names the families that have one.
    """
    if variant is DiffusionVariant.Z_IMAGE and kind != "tile":
        return _Z_IMAGE_UNION
    family = _FAMILIES.get(variant)
    if family is None:
        raise InvalidInputError(
            f"the catalog has no ControlNet for {kind} of {variant.display_name}",
            hint=f"name one of your own, --control {kind}@FOLDER=PICTURE; SD 1.5 and SDXL have one",
        )
    return _SHARED.get(f"{family}-{kind}", f"{family}-{kind}")


def catalog_controls(variant: DiffusionVariant) -> dict[str, str]:
    """The ids of the catalog's ControlNets for a family, by kind."""
    found = {}
    for kind in KINDS:
        with contextlib.suppress(InvalidInputError):
            found[kind] = catalog_control(kind, variant)
    return found


def local_controls(
    registry: DiffusionModelRegistry, controls: Iterable[ControlReference], variant: DiffusionVariant
) -> tuple[ControlReference, ...]:
    """The same controls without their pictures, with the paths of their ControlNets: "canny@/path".

    Args:
        registry: where catalog names are looked up.
        controls: of a configuration.
        variant: of the model they steer.

    Raises:
        ModelNotFoundError: no file, folder or catalog entry of that name.
        ModelNotDownloadedError: a ControlNet of the catalog is not installed; the hint names the command.
        InvalidInputError: another kind of model, or no ControlNet for this family.
    """
    result = []
    for control in controls:
        path = _path_of(registry, control, variant)
        source = str(path) if control.kind is None else f"{control.kind}@{path}"
        result.append(replace(control, source=source, image=b""))
    return tuple(result)


def missing_controls(
    registry: DiffusionModelRegistry, controls: Iterable[ControlReference], variant: DiffusionVariant
) -> tuple[str, ...]:
    """The catalog ids that have to be downloaded first, each once.

    Raises:
        ModelNotFoundError, InvalidInputError: as `local_controls`.
    """
    missing = []
    for control in controls:
        try:
            _path_of(registry, control, variant)
        except ModelNotDownloadedError:
            missing.append(_entry(registry, control, variant).id)
    return tuple(dict.fromkeys(missing))


def _path_of(registry: DiffusionModelRegistry, control: ControlReference, variant: DiffusionVariant) -> Path:
    if control.model is not None:
        own = user_path(control.model)
        if is_control_path(own):
            return own.absolute()  # the engine's working directory is not the kernel's
    return registry.resolve_info(_entry(registry, control, variant)).folder.absolute()


def _entry(
    registry: DiffusionModelRegistry, control: ControlReference, variant: DiffusionVariant
) -> DiffusionModelInfo:
    name = control.model
    if name is None:
        name = catalog_control(str(control.kind), variant)
    try:
        info = registry.find(name)
    except ModelNotFoundError:
        found = _in_cache(registry, name)
        if found is not None:
            return found
        known = ", ".join(i.id for i in registry.available_models if i.kind == KIND)
        raise ModelNotFoundError(
            f"there is no ControlNet {name!r}: no such file or folder, and no such name in the catalog",
            hint=f"kinds are {', '.join(KINDS)}; the catalog has {known}",
        ) from None
    if info.kind != KIND:
        raise InvalidInputError(
            f"{info.id} is no ControlNet", hint=f"--control KIND=PICTURE, with one of {', '.join(KINDS)}"
        )
    return info


def _in_cache(registry: DiffusionModelRegistry, name: str) -> DiffusionModelInfo | None:
    """An entry for a repository that another program has put into the Hub's cache."""
    if not is_repository_id(name):
        return None
    snapshot = next(iter(snapshots(registry.cache_dir, name, None)), None)
    if snapshot is None:
        raise ModelNotDownloadedError(
            f"the ControlNet {name} is not in the Hub's cache", hint=f"download it first: hf download {name}"
        )
    return DiffusionModelInfo(
        id=name,
        name=name,
        variant=DiffusionVariant.SD_15,
        description="",
        local_folder=str(snapshot),
        kind=KIND,
    )
