"""Puts files into the Hugging Face cache in the layout every other tool expects."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from swiftai_nb.downloads.cache_files import (
    XET_SCRATCH_SUFFIX,
    blob_lock,
    matches_checksum,
    repository_lock,
    safe_join,
    unlink_cached,
)
from swiftai_nb.registry.hub_cache import INCOMPLETE_SUFFIX, repository_folder
from swiftai_nb.registry.model_info import ModelFile


class CacheWriter:
    """Writes one commit of one repository: `blobs/<oid>`, a link in `snapshots/<commit>/`, a ref.

    Args:
        cache_dir: the Hugging Face cache.
        repository: "owner/name".
        commit: 40-hex commit.
    """

    def __init__(self, cache_dir: Path, repository: str, commit: str) -> None:
        self.cache_dir = cache_dir
        self.repository = repository
        self.commit = commit
        self.folder = repository_folder(cache_dir, repository)
        self.snapshot = self.folder / "snapshots" / commit

    @property
    def lock_path(self) -> Path:
        """The lock of our downloads of this repository."""
        return repository_lock(self.cache_dir, self.repository)

    def blob_lock_path(self, file: ModelFile) -> Path:
        """The lock of a blob, which huggingface_hub takes as well."""
        return blob_lock(self.cache_dir, self.repository, str(file.oid))

    def pointer(self, file: ModelFile) -> Path:
        """Where a reader finds the file.

        Raises:
            InvalidModelFilesError: the path leads outside the model's folder.
        """
        return safe_join(self.snapshot, file.path)

    def blob(self, file: ModelFile) -> Path:
        """Where its bytes are kept."""
        return self.folder / "blobs" / str(file.oid)

    def partial(self, file: ModelFile) -> Path:
        """Where an interrupted download is kept; the same name in every run, so that it can be resumed."""
        return self.folder / "blobs" / f"{file.oid}{INCOMPLETE_SUFFIX}"

    def xet_scratch(self, file: ModelFile) -> Path:
        """The folder for a transfer by huggingface_hub itself."""
        return self.folder / "blobs" / f"{file.oid}{XET_SCRATCH_SUFFIX}"

    def bytes_on_disk(self, file: ModelFile) -> int:
        """Bytes of a file that need not be fetched again."""
        for path in (self.pointer(file), self.blob(file), self.partial(file)):
            try:
                return path.stat().st_size
            except OSError:
                continue
        return 0

    def is_finished(self, file: ModelFile) -> bool:
        """Whether the file is in place with its size; an unlinked blob is verified and linked."""
        if _has_size(self.pointer(file), file.size_bytes):
            return True
        blob = self.blob(file)
        if _has_size(blob, file.size_bytes) and matches_checksum(blob, file)[0] is not False:
            self._link(file)
            return True
        return False

    def prepare_partial(self, file: ModelFile) -> Path:
        """The partial file's path, in an existing folder.

        A link in its place is removed, never followed; another user's file, in a shared cache, is copied.
        """
        partial = self.partial(file)
        partial.parent.mkdir(parents=True, exist_ok=True)
        if partial.is_symlink():
            partial.unlink()
        elif partial.exists() and not os.access(partial, os.W_OK):
            copy = partial.with_name(f"{partial.name}.{os.getpid()}")
            shutil.copyfile(partial, copy)
            copy.replace(partial)
        return partial

    def finish(self, file: ModelFile, source: Path | None = None) -> None:
        """Turns the verified partial file (or `source`) into the blob, durably, and links to it."""
        complete = self.partial(file) if source is None else source
        with complete.open("rb") as stream:
            os.fsync(stream.fileno())
        complete.replace(self.blob(file))
        self._link(file)

    def drop(self, file: ModelFile) -> None:
        """Removes a file whose bytes are wrong, finished or not."""
        self.partial(file).unlink(missing_ok=True)
        unlink_cached(self.pointer(file), self.cache_dir)
        self.blob(file).unlink(missing_ok=True)

    def write_ref(self, revision: str) -> None:
        """Records the commit of a branch or tag, as the Hub's own tools do."""
        if revision == self.commit:
            return
        ref = safe_join(self.folder / "refs", revision)
        ref.parent.mkdir(parents=True, exist_ok=True)
        temporary = ref.with_name(f"{ref.name}.{os.getpid()}")
        temporary.write_text(self.commit, encoding="utf-8")
        temporary.replace(ref)

    def _link(self, file: ModelFile) -> None:
        """Makes `snapshots/<commit>/<path>`; moves the blob there where the file system has no links."""
        pointer, blob = self.pointer(file), self.blob(file)
        pointer.parent.mkdir(parents=True, exist_ok=True)
        pointer.unlink(missing_ok=True)
        try:
            if os.environ.get("HF_HUB_DISABLE_SYMLINKS", "").upper() in {"1", "ON", "YES", "TRUE"}:
                raise OSError("links are switched off")
            pointer.symlink_to(os.path.relpath(blob, pointer.parent))
        except OSError:
            blob.replace(pointer)


def _has_size(path: Path, size_bytes: int | None) -> bool:
    try:
        return path.is_file() and size_bytes in (None, path.stat().st_size)
    except OSError:
        return False
