"""The registry of models: the catalog, the user's entries, and which of them are installed."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import ClassVar

from swiftai_nb.core.errors import InvalidInputError, ModelNotDownloadedError, ModelNotFoundError
from swiftai_nb.core.format import format_bytes, format_duration
from swiftai_nb.core.paths import user_path
from swiftai_nb.model_files.refusals import MODEL_FILE_SUFFIXES
from swiftai_nb.model_files.variants import DiffusionVariant
from swiftai_nb.registry.catalog import bundled_folder, bundled_names, catalog, find, not_found_at
from swiftai_nb.registry.entries import folder_info, is_repository_id, repository_info
from swiftai_nb.registry.file_parts import find_base
from swiftai_nb.registry.hub_cache import DiskState, ModelOnDisk, find_on_disk, hub_cache_dir
from swiftai_nb.registry.model_info import DiffusionModelInfo, DownloadedDiffusionModel, ResolvedModel
from swiftai_nb.registry.user_config import StoredModels, UserConfig, state_dir

__all__ = ["DiffusionModelInfo", "DiffusionModelRegistry", "DownloadedDiffusionModel", "ResolvedModel"]

BUNDLED_MODEL = "emoji-mini"  # the default model, unless the user chose another


class _ClassProperty:
    """`DiffusionModelRegistry.shared`: created on first use, so that importing does no work."""

    def __get__(self, instance: object, owner: type[DiffusionModelRegistry]) -> DiffusionModelRegistry:
        if owner._shared is None:
            owner._shared = owner()
        return owner._shared


class _AvailableModels:
    """On the class: the catalog. On a registry: with the user's own entries, each id once as `find` does."""

    def __get__(
        self, instance: DiffusionModelRegistry | None, owner: type[DiffusionModelRegistry]
    ) -> tuple[DiffusionModelInfo, ...]:
        own = () if instance is None else instance.custom_models
        taken = {info.id.casefold() for info in own}
        return (*(info for info in catalog() if info.id.casefold() not in taken), *own)


class DiffusionModelRegistry:
    """The catalog, the user's own entries, and which of them are installed.

    It keeps no state: everything is read from disk, so that all kernels agree. The folders are
    looked up in the environment at every call unless they are given.

    Args:
        home: folder of the user's settings; None follows SWIFTAI_HOME and the platform.
        cache_dir: Hugging Face cache; None follows HF_HUB_CACHE and HF_HOME.
    """

    shared = _ClassProperty()
    available_models = _AvailableModels()
    _shared: ClassVar[DiffusionModelRegistry | None] = None

    def __init__(self, *, home: str | Path | None = None, cache_dir: str | Path | None = None) -> None:
        self._home = home
        self._cache_dir = cache_dir

    @property
    def home(self) -> Path:
        """Where the user's settings are kept."""
        return state_dir(self._home)

    @property
    def cache_dir(self) -> Path:
        """The Hugging Face cache."""
        return hub_cache_dir(self._cache_dir)

    @property
    def user_config(self) -> UserConfig:
        """The user's own entries and default model, as stored."""
        return UserConfig(self.home)

    @property
    def custom_models(self) -> tuple[DiffusionModelInfo, ...]:
        """Entries the user registered, in the order they were added; none takes a bundled model's name."""
        own, taken = self.user_config.read().entries.values(), bundled_names()
        return tuple(i for i in own if i.id.casefold() not in taken and taken.isdisjoint(i.aliases))

    @property
    def engines(self) -> frozenset[str]:
        """Names of the engines that run models of the catalog on this machine."""
        return frozenset(info.engine for info in catalog())

    def find(self, name: str) -> DiffusionModelInfo:
        """The entry of this id, alias or repository, the user's own ones first.

        Raises:
            ModelNotFoundError: there is none; suggests the nearest name and lists the models.
        """
        return find(name, own=self.custom_models)

    def on_disk(self, name: str) -> ModelOnDisk:
        """Which files of a model are on disk, complete or partial.

        Raises:
            ModelNotFoundError: no such model.
        """
        return self.disk_status(self.find(name))

    def is_downloaded(self, name: str) -> bool:
        """Whether all files of the model are on disk; False for an unknown name."""
        return self.downloaded_model(name) is not None

    def local_path(self, name: str) -> Path | None:
        """The folder to load the model from, or None when it is not complete on disk."""
        model = self.downloaded_model(name)
        return None if model is None else model.local_path

    def downloaded_model(self, name: str) -> DownloadedDiffusionModel | None:
        """The record of a complete model; None when it is incomplete or unknown."""
        try:
            return self._downloaded(self.find(name))
        except ModelNotFoundError:
            return None

    def _downloaded(self, info: DiffusionModelInfo) -> DownloadedDiffusionModel | None:
        found = self.disk_status(info)
        if found.state is not DiskState.COMPLETE or found.folder is None:
            return None
        newest_s = max((_arrival_s(path) for path in _files_of(info, found.folder)), default=0.0)
        when = datetime.fromtimestamp(newest_s, tz=timezone.utc)
        return DownloadedDiffusionModel(
            info.id, info.name, info.variant, found.folder, when, found.size_bytes, found.revision
        )

    @property
    def all_downloaded_models(self) -> list[DownloadedDiffusionModel]:
        """All complete models, newest first; without the bundled ones."""
        return [model for _, model in self._all_downloaded()]

    def _all_downloaded(self) -> list[tuple[DiffusionModelInfo, DownloadedDiffusionModel]]:
        infos = (info for info in self.available_models if not info.bundled)
        found = [(info, model) for info in infos if (model := self._downloaded(info)) is not None]
        # Parts are files of a model: beside the whole model they are nothing of their own.
        whole = {model.local_path for info, model in found if info.kind != "part"}
        listed = [(i, m) for i, m in found if i.kind != "part" or m.local_path not in whole]
        return sorted(listed, key=lambda entry: entry[1].downloaded_at, reverse=True)

    @property
    def total_downloaded_size(self) -> int:
        """Bytes of all complete models; files that several entries share count once."""
        files: dict[Path, int] = {}
        for info, model in self._all_downloaded():
            for path in _files_of(info, model.local_path):
                with contextlib.suppress(FileNotFoundError):  # deleted by another process meanwhile
                    files[path.resolve()] = path.stat().st_size
        return sum(files.values())

    @property
    def formatted_total_size(self) -> str:
        """`total_downloaded_size` as text: "9.1 GB"."""
        return format_bytes(self.total_downloaded_size)

    def add_custom(self, info: DiffusionModelInfo) -> DiffusionModelInfo:
        """Registers an own entry, replacing one of the same id; it persists.

        Raises:
            InvalidInputError: the id or an alias is that of a built-in model.
        """
        for name in (info.id, *info.aliases):
            owner = _builtin_owner(name)
            if owner is not None:
                raise InvalidInputError(f"{name!r} is a built-in model", hint="choose another name")
        entry = replace(info, is_custom=True)
        self.user_config.update(lambda stored: stored.entries.__setitem__(entry.id, entry))
        return entry

    def add_folder(
        self,
        folder: str | Path,
        *,
        id: str | None = None,  # noqa: A002
        variant: DiffusionVariant | None = None,
    ) -> DiffusionModelInfo:
        """Registers a model folder or single file; its family is read from its own files.

        Raises:
            ModelNotFoundError: no such folder.
            InvalidModelFilesError, UnsupportedModelError: not a folder of a supported layout.
            InvalidInputError: the id is that of a built-in model.
        """
        path = user_path(folder)
        name = path.stem if id is None and path.is_file() else id
        return self.add_custom(folder_info(path, id=name, variant=variant))

    def add_repository(
        self,
        repository: str,
        *,
        variant: DiffusionVariant,
        id: str | None = None,  # noqa: A002
        revision: str | None = None,
    ) -> DiffusionModelInfo:
        """Registers any Hub repository of a supported layout; its listing decides which files are downloaded.

        Raises:
            InvalidInputError: not an "owner/name", or the id is that of a built-in model.
        """
        if not is_repository_id(repository):
            raise InvalidInputError(
                f"{repository!r} is not a Hub repository", hint='write it as "owner/name"'
            )
        return self.add_custom(repository_info(repository, variant=variant, id=id, revision=revision))

    def remove_custom(self, name: str) -> bool:
        """Removes an own entry; its files stay. Returns whether there was one."""
        own = self.custom_models
        wanted = [i.id for i in own if name == i.id] or [
            i.id for i in own if name in (i.repository, *i.aliases)
        ]

        def remove(stored: StoredModels) -> None:
            stored.entries.pop(wanted[0], None)

        if wanted:
            self.user_config.update(remove)
        return bool(wanted)

    def add_downloaded(self, model: DownloadedDiffusionModel) -> None:
        """Registers a complete model folder under its id; catalog models need no entry."""
        if _builtin_owner(model.id) is None:
            info = folder_info(model.local_path, id=model.id, variant=model.variant)
            self.add_custom(replace(info, name=model.name))

    def remove_downloaded(self, name: str) -> None:
        """Removes a user entry and keeps its files; `delete_model` frees disk space."""
        self.remove_custom(name)

    @property
    def default_model(self) -> str | None:
        """The model to use when none is named; None when the user never chose one."""
        return self.user_config.read().default_model

    @default_model.setter
    def default_model(self, name: str | None) -> None:
        chosen = None if name is None else self.find(name).id
        self.user_config.update(lambda stored: setattr(stored, "default_model", chosen))

    def resolve(self, model: str | None = None) -> ResolvedModel:
        """A model that can be loaded now.

        Args:
            model: catalog id, alias, a user entry's id or repository, or the path of a model folder or
                single file; None is the user's default model when that is installed, else the bundled one.

        Raises:
            ModelNotFoundError: the name is unknown, and there is no such folder or file.
            ModelNotDownloadedError: known but not installed, or a file whose missing parts no installed model
                has; with the size and how to download it.
            InvalidModelFilesError, UnsupportedModelError: a folder or file of another kind.
        """
        if model is None:
            model = self._installed_default()
        try:
            info = self.find(model)
        except ModelNotFoundError as error:
            folder = user_path(model)
            is_file = folder.is_file() and folder.suffix.lower() in MODEL_FILE_SUFFIXES
            if not is_file and not folder.is_dir():
                raise not_found_at(folder, error=error) from None
            known = self._known_at(folder.resolve())
            return self._resolve_entry(folder_info(folder), asked=str(folder)) if known is None else known
        if info.kind != "model":
            kinds = {
                "part": "is a part of other models",
                "lora": "is a LoRA, which is added to a model (--lora)",
                "upscaler": "is an upscaler, which enlarges pictures (--upscaler)",
                "controlnet": "is a ControlNet, which steers a model (--control)",
            }
            what = kinds.get(info.kind, "only decodes previews")
            raise InvalidInputError(f"{info.id} {what}", hint=f"choose a model: {BUNDLED_MODEL}")
        return self._resolve_entry(info, asked=model)

    def _known_at(self, folder: Path) -> ResolvedModel | None:
        """The known model in this folder, by its name: recipes then work on other machines too."""
        for info in self.available_models:
            is_elsewhere = info.is_downloadable and not folder.is_relative_to(self.cache_dir)
            if is_elsewhere or info.kind != "model" or info.quantization_bits is not None:
                continue
            found = self.disk_status(info)
            is_here = found.folder is not None and found.folder.resolve() == folder
            if is_here and found.state is DiskState.COMPLETE:
                return self.resolve(info.id)
        return None

    def resolve_info(self, info: DiffusionModelInfo) -> ResolvedModel:
        """As `resolve`, for a given entry, including preview decoders."""
        return self._resolve_entry(info, asked=info.id)

    def _installed_default(self) -> str:
        chosen = self.default_model
        return chosen if chosen is not None and self.is_downloaded(chosen) else BUNDLED_MODEL

    def _resolve_entry(self, info: DiffusionModelInfo, *, asked: str) -> ResolvedModel:
        found = self.disk_status(info)
        if found.state is not DiskState.COMPLETE or found.folder is None:
            raise _not_installed(
                info, found, self.estimated_time(info, found), parts=self.missing_parts(info)
            )
        own_names = (info.id, str(info.repository), str(info.local_folder))
        is_path = info.local_folder is not None and user_path(asked).exists()
        is_alias = not is_path and asked.strip().casefold() not in {name.casefold() for name in own_names}
        source = info.id if found.repository is None else f"{info.id} ({found.repository})"
        note = f"{asked} is an alias of {source}" if is_alias else None
        parts = tuple(self._resolve_entry(part, asked=part.id).folder for part in self._parts_of(info))
        if found.folder.is_file():
            parts += find_base(self, found.folder)
        return ResolvedModel(info, found.folder, found.revision, note, parts)

    def missing_parts(self, info: DiffusionModelInfo) -> tuple[DiffusionModelInfo, ...]:
        """The parts that an entry requires and that are not complete on disk."""
        return tuple(part for part in self._parts_of(info) if not self.is_installed(part))

    def _parts_of(self, info: DiffusionModelInfo) -> tuple[DiffusionModelInfo, ...]:
        # Of the catalog only: entries of models.json could require each other in circles.
        parts = (_builtin_owner(name) for name in info.requires)
        return tuple(part for part in parts if part is not None)

    def estimated_time(self, info: DiffusionModelInfo, found: ModelOnDisk | None = None) -> str:
        """How long the rest of a download should take: "about 12 min"; "" while no speed is known."""
        bytes_per_s = self.user_config.last_bytes_per_s
        status = self.disk_status(info) if found is None else found
        remaining_bytes = info.size_bytes - status.size_bytes
        if bytes_per_s is None or remaining_bytes <= 0:
            return ""
        remaining_s = remaining_bytes / bytes_per_s
        return f"about {format_duration(remaining_s if remaining_s < 60 else round(remaining_s / 60) * 60)}"

    def is_installed(self, info: DiffusionModelInfo) -> bool:
        """As `is_downloaded`, for a given entry, registered or not."""
        return self.disk_status(info).state is DiskState.COMPLETE

    def disk_status(self, info: DiffusionModelInfo) -> ModelOnDisk:
        """As `on_disk`, for a given entry, registered or not; without its parts a model is partial."""
        if info.bundled or info.local_folder is not None:
            folder = bundled_folder(info) if info.local_folder is None else Path(info.local_folder)
            if not folder.exists():
                return ModelOnDisk(DiskState.ABSENT)
            size_bytes = sum(f.stat().st_size for f in _files_of(info, folder))
            return ModelOnDisk(DiskState.COMPLETE, folder, size_bytes=size_bytes)
        found = find_on_disk(info, self.cache_dir, self.user_config.manifest)
        if found.state is DiskState.COMPLETE and info.requires and self.missing_parts(info):
            return replace(found, state=DiskState.PARTIAL)
        return found


def _builtin_owner(name: str) -> DiffusionModelInfo | None:
    try:
        return find(name)
    except ModelNotFoundError:
        return None


def _files_of(info: DiffusionModelInfo, folder: Path) -> list[Path]:
    if info.files:
        return [folder / f.path for f in info.files if (folder / f.path).is_file()]
    return [folder] if folder.is_file() else [p for p in folder.rglob("*") if p.is_file()]


def _arrival_s(path: Path) -> float:
    with contextlib.suppress(FileNotFoundError):
        return path.lstat().st_mtime
    return 0.0


def _not_installed(
    info: DiffusionModelInfo,
    found: ModelOnDisk,
    estimated_time: str,
    *,
    parts: tuple[DiffusionModelInfo, ...] = (),
) -> ModelNotDownloadedError:
    if not info.is_downloadable:
        where = "this installation" if info.bundled else str(info.local_folder)
        return ModelNotDownloadedError(f"{info.id} is missing from {where}", hint="restore its files")
    amount = format_bytes(found.size_bytes)
    part = f", {amount} of it downloaded" if found.state is DiskState.PARTIAL else ""
    time = f", {estimated_time} at the speed of your last download" if estimated_time else ""
    gate = "" if info.gated is None else f"; {info.gated}"
    more = "".join(f" + {p.formatted_size} of {p.id}" for p in parts)
    options = {"upscaler": f"--upscaler {info.id}", "controlnet": "--control … --download"}
    option = options.get(info.kind, f"--model {info.id} --download")
    return ModelNotDownloadedError(
        f"{info.id} is not downloaded ({info.formatted_size}{more}{part}{time}; "
        f"license {info.license}{gate})",
        hint=f"%imagine_models download {info.id}   or   %%imagine {option}",
    )
