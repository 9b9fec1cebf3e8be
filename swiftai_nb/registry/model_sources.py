"""Models of other packages' providers: entry points of the group `swiftai_nb.models`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from swiftai_nb.core.plugins import MODELS, load_plugins
from swiftai_nb.model_files.variants import DiffusionVariant
from swiftai_nb.registry.model_info import DEFAULT_ENGINE, DiffusionModelInfo


@dataclass(frozen=True)
class ModelSource:
    """What a provider adds to the catalog.

    Args:
        engine: the provider's name, the same as in the group `swiftai_nb.providers`.
        models: catalog rows, each with this `engine`.
        weight_files: names of weight files at the top of a model folder or repository, each of which alone
            determines the family; `config.json` is downloaded with it.
    """

    engine: str
    models: tuple[DiffusionModelInfo, ...] = ()
    weight_files: Mapping[str, DiffusionVariant] = field(default_factory=dict)


def model_sources() -> tuple[ModelSource, ...]:
    """The sources of all installed packages, in the order of their names."""
    return tuple(source for source in load_plugins(MODELS).values() if isinstance(source, ModelSource))


def engine_of(variant: DiffusionVariant) -> str:
    """The engine that runs a family when the entry does not name one."""
    for source in model_sources():
        if variant in source.weight_files.values():
            return source.engine
    return DEFAULT_ENGINE


def detect_plugin_variant(folder: Path) -> DiffusionVariant | None:
    """The family of a folder in the layout of a plugin; None for all others."""
    for source in model_sources():
        for name, variant in source.weight_files.items():
            if (folder / name).is_file():
                return variant
    return None


def select_plugin_files(listing: Iterable[str]) -> tuple[str, ...] | None:
    """The files to download from a repository in the layout of a plugin; None for all others.

    A repository with component folders (`transformer/`, `unet/`) is not of such a layout.
    """
    paths = sorted(set(listing))
    if any(path.startswith(("transformer/", "unet/")) for path in paths):
        return None
    for source in model_sources():
        weights = [path for path in paths if path in source.weight_files]
        if weights:
            return tuple(path for path in ("config.json", weights[0]) if path in paths)
    return None
