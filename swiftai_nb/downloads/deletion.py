"""Takes a model's files out of the Hugging Face cache without touching what others share."""

from __future__ import annotations

import shutil
from pathlib import Path, PurePosixPath

from swiftai_nb.core.errors import DownloadFailedError, InvalidInputError
from swiftai_nb.downloads.file_lock import FileLock
from swiftai_nb.registry.hub_cache import (
    incomplete_files,
    locks_folder,
    repository_folder,
    required_files,
    snapshots,
)
from swiftai_nb.registry.model_info import DiffusionModelInfo
from swiftai_nb.registry.quantized_models import delete_copy
from swiftai_nb.registry.registry import DiffusionModelRegistry


def delete_files(registry: DiffusionModelRegistry, model_id: str) -> int:
    """Deletes a model; returns the bytes that were freed. A user's own folder is only forgotten.

    Raises:
        ModelNotFoundError: nobody knows the name.
        InvalidInputError: a bundled model.
        DownloadFailedError: another process is downloading it.
    """
    info = registry.find(model_id)
    if info.bundled:
        raise InvalidInputError(f"{info.id} is part of the package", hint="uninstall the package instead")
    freed = 0
    if info.is_downloadable:
        for repository in (info.repository, *info.fallback_repositories):
            freed += 0 if repository is None else _delete_from(registry, info, repository)
    else:
        freed = delete_copy(registry, info)
        registry.remove_custom(info.id)
    return freed


def _delete_from(registry: DiffusionModelRegistry, info: DiffusionModelInfo, repository: str) -> int:
    cache_dir = registry.cache_dir
    if not repository_folder(cache_dir, repository).is_dir():
        return 0
    lock = FileLock(locks_folder(cache_dir, repository) / "swiftai-download.lock")
    if not lock.try_acquire():
        raise DownloadFailedError(
            f"{info.id} is being downloaded by another process", hint="stop that download, then delete"
        )
    with lock:
        freed = 0
        for snapshot in list(snapshots(cache_dir, repository, info.revision)):
            freed += _delete_from_snapshot(registry, info, repository, snapshot)
        for partial in incomplete_files(cache_dir, repository, ours_only=True):
            freed += _unlink(partial)
        _drop_if_empty(cache_dir, repository)
    return freed


def _delete_from_snapshot(
    registry: DiffusionModelRegistry, info: DiffusionModelInfo, repository: str, snapshot: Path
) -> int:
    manifest = registry.choices.manifest(repository, snapshot.name)
    paths = {f.path for f in info.files} | {f.path for f in required_files(info, manifest)}
    if not info.files:
        paths |= set(manifest)
    freed = 0
    for path in sorted(paths):
        pointer = snapshot / path
        if ".." in PurePosixPath(path).parts or not (pointer.is_symlink() or pointer.exists()):
            continue
        blob = _blob_target(pointer)
        freed += _unlink(pointer)
        if blob is not None and not _is_referenced(repository_folder(registry.cache_dir, repository), blob):
            freed += _unlink_blob(blob, registry.cache_dir)
    _drop_empty_folders(snapshot)
    return freed


def _blob_target(pointer: Path) -> Path | None:
    """The repository's own blob a pointer leads to; None when the pointer is the file itself."""
    if not pointer.is_symlink():
        return None
    return Path(pointer.parent, pointer.readlink())


def _is_referenced(folder: Path, blob: Path) -> bool:
    wanted = blob.parent.resolve() / blob.name
    for pointer in (folder / "snapshots").rglob("*"):
        hop = _blob_target(pointer)
        if hop is not None and hop.parent.resolve() / hop.name == wanted:
            return True
    return False


def _unlink_blob(blob: Path, cache_dir: Path) -> int:
    """Newer versions keep Xet files once for all repositories, in `<cache>/blobs`, with links to them."""
    shared = blob.resolve() if blob.is_symlink() else None
    freed = _unlink(blob)
    if shared is not None and shared.is_file() and not _is_shared(shared, cache_dir):
        freed += _unlink(shared)
        shared.with_name(f"{shared.name}.refs").unlink(missing_ok=True)
    return freed


def _is_shared(target: Path, cache_dir: Path) -> bool:
    return any(p.is_symlink() and p.resolve() == target for p in cache_dir.glob("*--*/blobs/*"))


def _unlink(path: Path) -> int:
    """Removes a file or link; its bytes, when it was the file itself."""
    try:
        size_bytes = 0 if path.is_symlink() else path.stat().st_size
        path.unlink()
    except FileNotFoundError:
        return 0
    return size_bytes


def _drop_empty_folders(snapshot: Path) -> None:
    folders = sorted((p for p in snapshot.rglob("*") if p.is_dir()), reverse=True)
    for folder in (*folders, snapshot):
        if not any(folder.iterdir()):
            folder.rmdir()


def _drop_if_empty(cache_dir: Path, repository: str) -> None:
    """Without snapshots and blobs the rest (refs, listings) means nothing."""
    folder = repository_folder(cache_dir, repository)
    has_files = any(p.is_file() for name in ("snapshots", "blobs") for p in (folder / name).rglob("*"))
    if not has_files:
        shutil.rmtree(folder, ignore_errors=True)
