"""What interrupted downloads left in the Hugging Face cache, whichever tool left it, and its removal."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from swiftai_nb.downloads.file_lock import is_locked
from swiftai_nb.registry.hub_cache import INCOMPLETE_SUFFIX, incomplete_files, locks_folder


@dataclass(frozen=True)
class ReclaimableFile:
    """A file that no model needs.

    Args:
        path: where it is.
        repository: "owner/name" it was for.
        size_bytes: what its removal frees.
        is_resumable: our next download would continue it; else no tool ever reads it again.
    """

    path: Path
    repository: str
    size_bytes: int
    is_resumable: bool


def find_reclaimable(cache_dir: Path) -> list[ReclaimableFile]:
    """Partial files that no running download is writing, the largest first."""
    found: list[ReclaimableFile] = []
    for folder in cache_dir.glob("*--*"):
        kind, _, name = folder.name.partition("--")
        if kind != "models":
            continue
        repository = name.replace("--", "/", 1)
        locks = locks_folder(cache_dir, repository)
        for path in incomplete_files(cache_dir, repository):
            if not is_locked(locks / f"{path.name.split('.')[0]}.lock"):
                is_ours = path.name.endswith(INCOMPLETE_SUFFIX)
                with contextlib.suppress(FileNotFoundError):  # another process has just finished it
                    found.append(ReclaimableFile(path, repository, path.stat().st_size, is_ours))
    return sorted(found, key=lambda f: f.size_bytes, reverse=True)


def remove_reclaimable(cache_dir: Path) -> int:
    """Removes them all; returns the bytes that were freed."""
    freed = 0
    for file in find_reclaimable(cache_dir):
        file.path.unlink(missing_ok=True)
        freed += file.size_bytes
    return freed
