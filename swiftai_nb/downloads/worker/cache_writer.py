"""Puts files into the Hugging Face cache in the layout every other tool expects."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from swiftai_nb.core.errors import DownloadFailedError
from swiftai_nb.downloads.file_lock import is_locked
from swiftai_nb.registry.hub_cache import INCOMPLETE_SUFFIX, locks_folder, repository_folder
from swiftai_nb.registry.model_info import ModelFile

_CHUNK_BYTES = 1 << 20
# huggingface_hub >= 1.18; older ones wrote <etag>.incomplete and did continue it.
_FOREIGN_PARTIAL = re.compile(r"(?P<etag>[^.]+)\.[0-9a-f]{8}\.incomplete")


class CacheWriter:
    """Writes one commit of one repository: `blobs/<oid>`, a link in `snapshots/<commit>/`, a ref.

    Args:
        cache_dir: the Hugging Face cache.
        repository: "owner/name".
        commit: 40-hex commit.
    """

    def __init__(self, cache_dir: Path, repository: str, commit: str) -> None:
        self.folder = repository_folder(cache_dir, repository)
        self.locks = locks_folder(cache_dir, repository)
        self.snapshot = self.folder / "snapshots" / commit
        self.commit = commit

    def pointer(self, file: ModelFile) -> Path:
        """Where a reader finds the file.

        Raises:
            DownloadFailedError: the listing names a path outside the model's folder.
        """
        parts = PurePosixPath(file.path).parts
        if not parts or ".." in parts or parts[0] == "/" or "\\" in file.path or ":" in parts[0]:
            raise DownloadFailedError(
                f"the repository lists an unsafe path: {file.path!r}", hint="do not use it"
            )
        return self.snapshot.joinpath(*parts)

    def blob(self, file: ModelFile) -> Path:
        """Where its bytes are kept."""
        return self.folder / "blobs" / str(file.oid)

    def partial(self, file: ModelFile) -> Path:
        """Where an interrupted download waits; the same name in every run, so that it can go on."""
        return self.folder / "blobs" / f"{file.oid}{INCOMPLETE_SUFFIX}"

    def lock_path(self, file: ModelFile) -> Path:
        """The lock huggingface_hub takes while it writes this blob."""
        return self.locks / f"{file.oid}.lock"

    def is_finished(self, file: ModelFile) -> bool:
        """Whether the file is in its place with its size; a blob of another revision is linked to."""
        if _has_size(self.pointer(file), file.size_bytes):
            return True
        if _has_size(self.blob(file), file.size_bytes):
            self.link(file)
            return True
        return False

    def finish(self, file: ModelFile) -> None:
        """FairSlots the partial file into the blob, durably, and links to it."""
        partial = self.partial(file)
        with partial.open("rb") as stream:
            os.fsync(stream.fileno())
        partial.replace(self.blob(file))
        self.link(file)

    def link(self, file: ModelFile) -> None:
        """Makes `snapshots/<commit>/<path>`; a move where the file system has no links, as the Hub's own."""
        pointer, blob = self.pointer(file), self.blob(file)
        pointer.parent.mkdir(parents=True, exist_ok=True)
        pointer.unlink(missing_ok=True)
        try:
            if os.environ.get("HF_HUB_DISABLE_SYMLINKS", "").upper() in {"1", "ON", "YES", "TRUE"}:
                raise OSError("links are switched off")
            pointer.symlink_to(os.path.relpath(blob, pointer.parent))
        except OSError:
            blob.replace(pointer)

    def drop(self, file: ModelFile) -> None:
        """Removes a file whose bytes are wrong, finished or not."""
        self.partial(file).unlink(missing_ok=True)
        pointer = self.pointer(file)
        if _is_there(pointer):
            target = pointer.resolve()
            pointer.unlink(missing_ok=True)
            target.unlink(missing_ok=True)
        self.blob(file).unlink(missing_ok=True)

    def drop_foreign_partials(self, file: ModelFile) -> None:
        """Removes what killed downloads of other tools left of this blob; nobody continues those.

        Only safe while the blob's lock is held, or known to be free.
        """
        for path in self.blob(file).parent.glob(f"{file.oid}.*.incomplete"):
            if _FOREIGN_PARTIAL.fullmatch(path.name):
                path.unlink(missing_ok=True)

    def write_ref(self, revision: str) -> None:
        """Records that a branch stood at this commit, as the Hub's own tools do."""
        if revision == self.commit:
            return
        ref = self.folder / "refs" / revision
        ref.parent.mkdir(parents=True, exist_ok=True)
        temporary = ref.with_name(f"{ref.name}.{os.getpid()}")
        temporary.write_text(self.commit, encoding="utf-8")
        temporary.replace(ref)


def new_hash(file: ModelFile) -> Any | None:
    """A running hash whose end must equal `file.oid`: sha256, or git's blob sha1; None if it is neither."""
    if file.oid is None or not all(c in "0123456789abcdef" for c in file.oid):
        return None
    if len(file.oid) == 64:
        return hashlib.sha256()
    if len(file.oid) == 40 and file.size_bytes is not None:
        return hashlib.sha1(b"blob %d\0" % file.size_bytes, usedforsecurity=False)
    return None


def hash_stream(
    stream: BinaryIO, digest: Any | None, *, on_bytes: Callable[[int], None] | None = None
) -> int:
    """Feeds a file into `digest`; returns how many bytes it had."""
    size_bytes = 0
    while chunk := stream.read(_CHUNK_BYTES):
        size_bytes += len(chunk)
        if digest is not None:
            digest.update(chunk)
        if on_bytes is not None:
            on_bytes(size_bytes)
    return size_bytes


def drop_abandoned_partials(cache_dir: Path, repository: str) -> None:
    """Removes partial files of huggingface_hub that no process is writing (it never continues them)."""
    blobs = repository_folder(cache_dir, repository) / "blobs"
    locks = locks_folder(cache_dir, repository)
    for path in blobs.glob("*.incomplete"):
        match = _FOREIGN_PARTIAL.fullmatch(path.name)
        if match and not is_locked(locks / f"{match['etag']}.lock"):
            path.unlink(missing_ok=True)


def _has_size(path: Path, size_bytes: int | None) -> bool:
    try:
        return path.is_file() and size_bytes in (None, path.stat().st_size)
    except OSError:
        return False


def _is_there(path: Path) -> bool:
    return path.is_symlink() or path.exists()
