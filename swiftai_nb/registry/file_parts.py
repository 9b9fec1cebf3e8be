"""What a model in one file lacks (tokenizers, often text encoders), from an installed model of its family."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from swiftai_nb.core.errors import (
    InvalidModelFilesError,
    ModelNotDownloadedError,
    ModelNotFoundError,
    UnsupportedModelError,
)
from swiftai_nb.core.paths import user_path
from swiftai_nb.model_files.folder import open_model
from swiftai_nb.model_files.json_file import read_json_object
from swiftai_nb.model_files.model_folder import ModelFolder
from swiftai_nb.model_files.variants import DiffusionVariant
from swiftai_nb.registry.hub_cache import DiskState, ModelOnDisk
from swiftai_nb.registry.model_info import DEFAULT_ENGINE, DiffusionModelInfo

# Family -> entries that have what its files lack, the smallest first.
_SOURCES: dict[DiffusionVariant, tuple[str, str]] = {
    DiffusionVariant.SD_15: ("sd-1.5-tokenizer", "sd-1.5"),
    DiffusionVariant.SD_21: ("sd-2.1-tokenizer", "sd-turbo"),
    DiffusionVariant.SDXL: ("sdxl-tokenizer", "sdxl-turbo"),
    DiffusionVariant.FLUX: ("flux-tokenizer", "flux-text-encoders"),
    DiffusionVariant.Z_IMAGE: ("z-image-tokenizer", "z-image-text-encoder"),
    DiffusionVariant.FLUX_2_KLEIN: ("flux.2-klein-tokenizer", "flux.2-klein-text-encoder"),
}
_KLEIN_9B, _QWEN3_8B_WIDTH = "flux.2-klein-9b-text-encoder", 3 * 4096
_ALIKE = {DiffusionVariant.SDXL: (DiffusionVariant.SDXL, DiffusionVariant.SDXL_TURBO)}


class Models(Protocol):
    """What is asked of the registry."""

    @property
    def custom_models(self) -> tuple[DiffusionModelInfo, ...]:
        """The user's own entries."""

    def find(self, name: str) -> DiffusionModelInfo:
        """The entry of this name."""

    def disk_status(self, info: DiffusionModelInfo) -> ModelOnDisk:
        """Which of its files are on disk."""


def find_base(models: Models, path: Path) -> tuple[Path, ...]:
    """The folder that completes a model in one file; empty where nothing is missing.

    Args:
        models: the registry.
        path: the file.

    Raises:
        ModelNotDownloadedError: no installed model has what it lacks; names what to download, with its size.
        InvalidModelFilesError, UnsupportedModelError: no model that can be run.
    """
    model = open_model(path)
    if not model.missing:
        return ()
    for folder in _candidates(models, model):
        if _completes(path, folder):
            return (folder,)
    source = download_source(models, model)
    raise ModelNotDownloadedError(
        f"{path.name} lacks {', '.join(model.missing)}, and no installed model of {model.family.name} has "
        f"them; {source.id} does ({source.formatted_size})",
        hint=f"%imagine_models download {source.id}",
    )


def download_name(models: Models, name: str) -> str:
    """What to download for a model that is not complete: itself, or what its single file lacks."""
    path = user_path(name)
    if not path.is_file():
        try:
            path = Path(str(models.find(name).local_folder))
        except ModelNotFoundError:
            return name
    return download_source(models, open_model(path)).id if path.is_file() else name


def download_source(models: Models, model: ModelFolder) -> DiffusionModelInfo:
    """The smallest entry of the catalog with everything a model in one file lacks."""
    small, whole = _sources(model)
    lacks_networks = any(not name.startswith("tokenizer") for name in model.missing)
    return models.find(whole if lacks_networks else small)


def _sources(model: ModelFolder) -> tuple[str, str]:
    """Entries with tokenizers, and with all that the files of this family and size lack."""
    small, whole = _SOURCES[model.variant]
    return (small, _KLEIN_9B) if _takes_text_of(model, _QWEN3_8B_WIDTH) else (small, whole)


def _takes_text_of(model: ModelFolder, width: int) -> bool:
    """Whether the transformer of FLUX.2 takes the joined text states of so many features."""
    files = model.components.get("transformer")
    if model.variant is not DiffusionVariant.FLUX_2_KLEIN or files is None:
        return False
    tensors = files.tensors()
    found = (tensors[name].shape for name in ("txt_in.weight", "context_embedder.weight") if name in tensors)
    return next((shape[-1] == width for shape in found), False)


def _candidates(models: Models, model: ModelFolder) -> Iterator[Path]:
    """Folders of installed models of the family: the user's own, whole ones, then parts."""
    kin = _ALIKE.get(model.variant, (model.variant,))
    own = [i for i in models.custom_models if i.variant in kin and i.engine == DEFAULT_ENGINE]
    for info in (*own, *(models.find(name) for name in reversed(_sources(model)))):
        found = models.disk_status(info)
        if found.state is DiskState.COMPLETE and found.folder is not None and found.folder.is_dir():
            yield found.folder


def _completes(path: Path, base: Path) -> bool:
    try:
        model = open_model(path, base=base)
        return not model.missing and _has_vocabulary(model)
    except (InvalidModelFilesError, UnsupportedModelError):
        return False


def _has_vocabulary(model: ModelFolder) -> bool:
    """Whether the tokenizer is that of the file's text encoder: small models have their own."""
    name = next(name for name in model.family.components if name.startswith("text_encoder"))
    encoder = model.components[name]
    tokenizer = model.tokenizers[name.replace("text_encoder", "tokenizer")]
    vocabulary = read_json_object(tokenizer / "vocab.json")
    size = None if encoder.values is None else encoder.values.get("vocab_size")
    return size is None or not vocabulary or size == len(vocabulary)
