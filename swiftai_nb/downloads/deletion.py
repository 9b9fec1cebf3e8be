"""Frees disk space: a model's files, or what interrupted downloads left in the Hugging Face cache.

huggingface_hub's `scan_cache_dir` deletes whole revisions (single files only since 2.x), leaves out damaged
and partly downloaded repositories, and logs a refused deletion as done. A model here is a selection of a
snapshot's files, which other models and other tools may share, so each blob is kept while any snapshot of
its repository still links to it.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from swiftai_nb.core.errors import DownloadFailedError, InvalidInputError, InvalidModelFilesError
from swiftai_nb.downloads.cache_files import (
    XET_SCRATCH_SUFFIX,
    blob_lock,
    interrupted_paths,
    is_inside,
    is_locked,
    path_bytes,
    remove_path,
    repository_lock,
    safe_join,
    try_lock,
)
from swiftai_nb.registry.entries import delete_quantized_model
from swiftai_nb.registry.hub_cache import (
    INCOMPLETE_SUFFIX,
    repository_folder,
    required_files,
    snapshots,
)
from swiftai_nb.registry.model_info import DiffusionModelInfo, ModelFile
from swiftai_nb.registry.registry import DiffusionModelRegistry


def delete_files(registry: DiffusionModelRegistry, model_id: str) -> int:
    """Deletes a model; returns the bytes that were freed. A user's own folder is only unregistered.

    Raises:
        ModelNotFoundError: unknown name.
        InvalidInputError: a bundled model.
        DownloadFailedError: another process is downloading it, or a file may not be deleted.
    """
    info = registry.find(model_id)
    if info.bundled:
        raise InvalidInputError(
            f"{info.id} is part of the package", hint="uninstall the package to remove it"
        )
    if not info.is_downloadable:
        freed = delete_quantized_model(registry.home, info)
        registry.remove_custom(info.id)
        return freed
    try:
        repositories = (info.repository, *info.fallback_repositories)
        return sum(_delete_from(registry, info, name) for name in repositories if name is not None)
    except OSError as error:
        raise DownloadFailedError(
            f"cannot delete {error.filename or info.id}: {error.strerror or error}",
            hint="check who owns the file; run the same command again afterwards",
        ) from error


def _delete_from(registry: DiffusionModelRegistry, info: DiffusionModelInfo, repository: str) -> int:
    cache_dir = registry.cache_dir
    folder = repository_folder(cache_dir, repository)
    if not folder.is_dir():
        return 0
    release = try_lock(repository_lock(cache_dir, repository))
    if release is None:
        raise DownloadFailedError(
            f"{info.id} is being downloaded by another process", hint="cancel that download, then delete"
        )
    try:
        freed = 0
        inside = (s for s in snapshots(cache_dir, repository, info.revision) if is_inside(s, folder))
        for snapshot in list(inside):
            manifest = registry.user_config.manifest(repository, snapshot.name)
            freed += sum(_delete_file(path, folder) for path in _files_in(snapshot, info, manifest))
            _remove_empty_folders(snapshot)
        freed += sum(remove_path(p) for p in interrupted_paths(cache_dir, repository, ours_only=True))
        _remove_if_empty(folder)
    finally:
        release()
    return freed


def _files_in(snapshot: Path, info: DiffusionModelInfo, manifest: dict[str, ModelFile]) -> Iterator[Path]:
    """The model's files in a snapshot; recorded paths that would lead out of it are left alone."""
    paths = {f.path for f in info.files} | {f.path for f in required_files(info, manifest)}
    for path in sorted(paths if info.files else paths | set(manifest)):
        try:
            pointer = safe_join(snapshot, path)
        except InvalidModelFilesError:
            continue
        if pointer.is_symlink() or pointer.is_file():
            yield pointer


def _delete_file(pointer: Path, folder: Path) -> int:
    """Deletes a snapshot's file, its blob unless another snapshot needs it, and its shared Xet file."""
    cache_dir = folder.parent
    blob = Path(pointer.parent, pointer.readlink()) if pointer.is_symlink() else None
    freed = remove_path(pointer)
    if blob is None or not is_inside(blob.parent, folder) or _is_referenced(folder, blob):
        return freed
    shared = blob.resolve() if blob.is_symlink() else None
    freed += remove_path(blob)
    if shared is None or not is_inside(shared, cache_dir) or _is_shared(shared, cache_dir):
        return freed
    remove_path(shared.with_name(f"{shared.name}.refs"))
    return freed + remove_path(shared)


def _is_referenced(folder: Path, blob: Path) -> bool:
    wanted = blob.parent.resolve() / blob.name
    links = (p for p in (folder / "snapshots").rglob("*") if p.is_symlink())
    targets = (Path(p.parent, p.readlink()) for p in links)
    return any(target.parent.resolve() / target.name == wanted for target in targets)


def _is_shared(target: Path, cache_dir: Path) -> bool:
    return any(p.is_symlink() and p.resolve() == target for p in cache_dir.glob("*--*/blobs/*"))


def _remove_empty_folders(snapshot: Path) -> None:
    folders = sorted((p for p in snapshot.rglob("*") if p.is_dir() and not p.is_symlink()), reverse=True)
    for folder in (*folders, snapshot):
        if not any(folder.iterdir()):
            folder.rmdir()


def _remove_if_empty(folder: Path) -> None:
    """Without snapshots and blobs the rest of a repository's folder (refs, listings) means nothing."""
    has_files = any(p.is_file() for name in ("snapshots", "blobs") for p in (folder / name).rglob("*"))
    if not has_files:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class ReclaimableFile:
    """What an interrupted download left.

    Args:
        path: a partial file, or the scratch folder of a Xet transfer.
        repository: "owner/name" it belongs to.
        size_bytes: what its removal frees.
        is_resumable: our next download continues it; other tools start again and leave it behind.
    """

    path: Path
    repository: str
    size_bytes: int
    is_resumable: bool


def find_reclaimable(cache_dir: Path) -> list[ReclaimableFile]:
    """Partial files that no running download is writing, the largest first."""
    found: list[ReclaimableFile] = []
    for folder in cache_dir.glob("models--*"):
        repository = folder.name.removeprefix("models--").replace("--", "/", 1)
        for path in interrupted_paths(cache_dir, repository):
            oid = path.name.split(".")[0]
            if is_locked(blob_lock(cache_dir, repository, oid)):
                continue
            try:
                size_bytes = path_bytes(path)
            except OSError:  # finished by another process meanwhile, or not ours to read
                continue
            found.append(ReclaimableFile(path, repository, size_bytes, path.name.endswith(INCOMPLETE_SUFFIX)))
    return sorted(found, key=lambda f: f.size_bytes, reverse=True)


def remove_reclaimable(cache_dir: Path) -> tuple[int, list[ReclaimableFile]]:
    """Removes what `find_reclaimable` finds; the bytes freed, and the files that may not be deleted."""
    freed, refused = 0, []
    for file in find_reclaimable(cache_dir):
        try:
            freed += remove_path(file.path)
        except OSError:
            refused.append(file)
    return freed, refused


def remove_abandoned_scratch(cache_dir: Path, repository: str) -> None:
    """Removes the scratch folders of Xet transfers whose process has ended; nothing continues them."""
    blobs = repository_folder(cache_dir, repository) / "blobs"
    for path in blobs.glob(f"*{XET_SCRATCH_SUFFIX}"):
        if not is_locked(blob_lock(cache_dir, repository, path.name.removesuffix(XET_SCRATCH_SUFFIX))):
            shutil.rmtree(path, ignore_errors=True)
