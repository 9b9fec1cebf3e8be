"""LoRAs of the Hub: their names, the file in a repository, and its location on disk.

A downloaded LoRA is an entry of the registry like any other (kind "lora"): listed, verified and deleted
by the same commands, kept in the same cache.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from swiftai_nb.core.config import LoraReference
from swiftai_nb.core.errors import (
    InvalidInputError,
    ModelNotDownloadedError,
    ModelNotFoundError,
    UnsupportedModelError,
)
from swiftai_nb.core.paths import user_path
from swiftai_nb.model_files.listing import COMPONENT_FOLDERS
from swiftai_nb.model_files.variants import DiffusionVariant
from swiftai_nb.registry.entries import is_repository_id
from swiftai_nb.registry.hub_cache import snapshots
from swiftai_nb.registry.model_info import DiffusionModelInfo, ModelFile
from swiftai_nb.registry.registry import DiffusionModelRegistry

KIND = "lora"
_SUFFIX = ".safetensors"
_USUAL_NAMES = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")
_PEFT_WEIGHTS, _PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"
_SHOWN = 6


@dataclass(frozen=True)
class HubLora:
    """The name of a LoRA on the Hub: "owner/name", or "owner/name/file.safetensors".

    Args:
        repository: "owner/name".
        file: path inside it; None is the only LoRA of the repository.
    """

    repository: str
    file: str | None = None


def parse_hub_lora(source: str) -> HubLora | None:
    """The LoRA on the Hub that a source names; None when it has neither form."""
    owner, _, rest = source.partition("/")
    name, _, file = rest.partition("/")
    if not is_repository_id(f"{owner}/{name}") or ".." in PurePosixPath(file).parts:
        return None
    if not file:
        return None if name.endswith(_SUFFIX) else HubLora(f"{owner}/{name}")
    return HubLora(f"{owner}/{name}", file) if file.endswith(_SUFFIX) else None


def select_lora(repository: str, listing: Iterable[str]) -> tuple[str, ...]:
    """The files of the one LoRA a repository holds.

    Raises:
        InvalidInputError: it holds several; lists them as they can be given.
        UnsupportedModelError: it holds none, or a whole model.
    """
    paths = sorted(set(listing))
    if "model_index.json" in paths:
        raise UnsupportedModelError(f"{repository} holds a whole model", hint=f"--model {repository}")
    weights = [p for p in paths if p.endswith(_SUFFIX) and p.split("/")[0] not in COMPONENT_FOLDERS]
    chosen = [p for p in _USUAL_NAMES if p in weights] or weights
    if len(chosen) > 1:
        shown = ", ".join(f"{repository}/{p}" for p in chosen[:_SHOWN])
        more = f" and {len(chosen) - _SHOWN} more" if len(chosen) > _SHOWN else ""
        raise InvalidInputError(
            f"{repository} holds {len(chosen)} LoRAs: {shown}{more}",
            hint=f"use {repository}/{chosen[0]}",
        )
    if not chosen:
        raise UnsupportedModelError(
            f"{repository} holds no LoRA in a .safetensors file", hint="choose another repository"
        )
    return (chosen[0], *(p for p in _beside(chosen[0]) if p in paths))


def lora_info(registry: DiffusionModelRegistry, source: str) -> DiffusionModelInfo:
    """The registered entry of a Hub LoRA, or the one to register.

    Raises:
        ModelNotFoundError: neither a file nor a valid Hub name.
        InvalidInputError: the name is that of a model.
    """
    named = parse_hub_lora(source)
    if named is None:
        raise ModelNotFoundError(
            f"there is no LoRA file {source!r}",
            hint="give a file, its name in the folder loras, or OWNER/NAME of the Hub",
        )
    known = _exact_entry(registry, source)
    if known is not None and known.kind != KIND:
        raise InvalidInputError(f"{source} is a model, not a LoRA", hint=f"--model {known.id}")
    if known is not None:
        return known
    files: tuple[ModelFile, ...] = ()
    if named.file is not None:
        beside = (ModelFile(path, is_required=False) for path in _beside(named.file))
        files = (ModelFile(named.file), *beside)
    return DiffusionModelInfo(
        id=source,
        name=source,
        variant=DiffusionVariant.SD_15,  # unknown; the engine finds out from the file
        description="LoRA: --lora " + source,
        repository=named.repository,
        files=files,
        license="see its page",
        kind=KIND,
        is_custom=True,
    )


def find_lora(registry: DiffusionModelRegistry, source: str) -> Path | None:
    """The file (or folder) of a LoRA: as a path, else in the cache; None when it is not on disk.

    Raises:
        InvalidInputError: the cache holds several LoRAs of that repository.
    """
    own = user_path(source)
    named = None if own.exists() else parse_hub_lora(source)
    if named is None:
        return own if own.exists() else _by_name(registry, source)
    known = _exact_entry(registry, source)
    files = [f.path for f in known.files] if known is not None and known.kind == KIND else []
    wanted = next((path for path in files if path.endswith(_SUFFIX)), named.file)
    for snapshot in snapshots(registry.cache_dir, named.repository, None):
        path = wanted
        if path is None:
            files_found = [p.relative_to(snapshot).as_posix() for p in snapshot.rglob("*") if p.is_file()]
            try:
                path = select_lora(named.repository, files_found)[0]
            except UnsupportedModelError:
                continue
        file = snapshot / path
        if snapshot in file.parents and file.is_file():  # "a/b//c.safetensors" names no file of a snapshot
            return file
    return None


def _by_name(registry: DiffusionModelRegistry, name: str) -> Path | None:
    """A LoRA by the name of its file: in the folder `loras` of the package's own, else in the cache."""
    if not re.fullmatch(r"[^/\\:*?]+", name) or name.startswith("."):
        return None
    stem = name.removesuffix(_SUFFIX)
    own = registry.home / "loras" / f"{stem}{_SUFFIX}"
    if own.is_file():
        return own
    for known in registry.custom_models:
        stems = [PurePosixPath(file.path).stem for file in known.files if file.path.endswith(_SUFFIX)]
        if known.kind == KIND and known.repository is not None and stem in (*stems, known.id.split("/")[-1]):
            return find_lora(registry, known.id)
    return None


def missing_loras(registry: DiffusionModelRegistry, loras: Iterable[LoraReference]) -> tuple[str, ...]:
    """The sources that have to be downloaded first, each once.

    Raises:
        ModelNotFoundError: one is neither on disk nor a name of the Hub.
    """
    missing = [lora.source for lora in loras if find_lora(registry, lora.source) is None]
    return tuple(lora_info(registry, source).id for source in dict.fromkeys(missing))


def local_loras(
    registry: DiffusionModelRegistry, loras: Iterable[LoraReference]
) -> tuple[LoraReference, ...]:
    """The same LoRAs with the paths of their files.

    Raises:
        ModelNotFoundError: a file that is not there.
        ModelNotDownloadedError: a LoRA of the Hub is not installed; the hint names the command.
    """
    return tuple(replace(lora, source=str(_local_path(registry, lora.source))) for lora in loras)


def _local_path(registry: DiffusionModelRegistry, source: str) -> Path:
    found = find_lora(registry, source)
    if found is None:
        name = lora_info(registry, source).id
        raise ModelNotDownloadedError(
            f"the LoRA {name} is not downloaded",
            hint=f"%imagine --lora {name} downloads it; in Python: "
            f"await DiffusionModelDownloader().download_lora({name!r})",
        )
    # The engine's working directory is not the kernel's. Links are kept: their names have the suffix.
    return found.absolute()


def _exact_entry(registry: DiffusionModelRegistry, source: str) -> DiffusionModelInfo | None:
    try:
        found = registry.find(source)
    except ModelNotFoundError:
        return None
    is_other = found.kind == KIND and found.id != source
    return None if is_other else found


def _beside(weights: str) -> tuple[str, ...]:
    """PEFT keeps a LoRA's alpha in a file beside it."""
    path = PurePosixPath(weights)
    return (str(path.with_name(_PEFT_CONFIG)),) if path.name == _PEFT_WEIGHTS else ()
