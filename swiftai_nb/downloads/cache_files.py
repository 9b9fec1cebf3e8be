"""What both processes know about changing the Hugging Face cache: safe paths, locks and checksums.

`registry.hub_cache` reads the cache; everything that writes to it or deletes from it goes through here, so
that no name a server or an old file supplies ever leads outside.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, BinaryIO

from swiftai_nb.core.errors import InvalidInputError, InvalidModelFilesError
from swiftai_nb.registry.hub_cache import incomplete_files, locks_folder, repository_folder
from swiftai_nb.registry.model_info import ModelFile, check_path

_CHUNK_BYTES = 1 << 20
_POLL_S = 0.25
_WITHOUT_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}
_CHECKSUM = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+@-]*(/[A-Za-z0-9_][A-Za-z0-9_.+@-]*)*")
XET_SCRATCH_SUFFIX = ".swiftai.xet"


def safe_join(folder: Path, path: str) -> Path:
    """`folder / path` for a path that a server, a record or a user named.

    Raises:
        InvalidModelFilesError: the result would lie outside `folder`, also by way of a link.
    """
    joined = folder.joinpath(*check_path(path).parts)
    if not is_inside(joined.parent, folder):
        raise InvalidModelFilesError(
            f"unsafe path in the cache: {joined.parent} leads outside the model's folder",
            hint="delete that link",
        )
    return joined


def is_inside(path: Path, folder: Path) -> bool:
    """Whether `path`, with all links followed, is `folder` or lies in it."""
    return path.resolve().is_relative_to(folder.resolve())


def check_revision(revision: str | None) -> str | None:
    """A branch, tag or commit that is also a safe file name; None stays None.

    Raises:
        InvalidInputError: it is neither.
    """
    if revision is None or (_REVISION.fullmatch(revision) and ".." not in revision and len(revision) <= 255):
        return revision
    raise InvalidInputError(
        f"revision {revision!r} is not valid", hint="use a branch, a tag or a commit hash of the repository"
    )


def is_checksum(text: object) -> bool:
    """Whether `text` is a SHA-256 or a git SHA-1 in lower-case hex."""
    return isinstance(text, str) and _CHECKSUM.fullmatch(text) is not None


def new_hash(file: ModelFile) -> Any | None:
    """A running hash whose end must equal `file.oid`: SHA-256, or git's blob SHA-1; None if it is neither."""
    if not is_checksum(file.oid):
        return None
    if len(str(file.oid)) == 64:
        return hashlib.sha256()
    if file.size_bytes is None:
        return None
    return hashlib.sha1(b"blob %d\0" % file.size_bytes, usedforsecurity=False)


def hash_stream(stream: BinaryIO, digest: Any | None) -> int:
    """Feeds the rest of a stream into `digest`; returns its length in bytes."""
    size_bytes = 0
    while chunk := stream.read(_CHUNK_BYTES):
        size_bytes += len(chunk)
        if digest is not None:
            digest.update(chunk)
    return size_bytes


def matches_checksum(path: Path, file: ModelFile) -> tuple[bool | None, int]:
    """Whether a file's bytes are the published ones, and how many were read; None without a checksum."""
    digest = new_hash(file)
    if digest is None:
        return None, 0
    with path.open("rb") as stream:
        size_bytes = hash_stream(stream, digest)
    return digest.hexdigest() == file.oid and file.size_bytes in (None, size_bytes), size_bytes


def unlink_cached(pointer: Path, cache_dir: Path) -> None:
    """Deletes a snapshot's file with the blob it links to; what lies outside the cache stays."""
    for path in (*_link_targets(pointer), pointer):
        if is_inside(path.parent, cache_dir):
            path.unlink(missing_ok=True)


def _link_targets(pointer: Path) -> list[Path]:
    """The first target of a link and the last (Xet files go over a blob into a shared store)."""
    if not pointer.is_symlink():
        return []
    return [pointer.resolve(), Path(pointer.parent, pointer.readlink())]


def repository_lock(cache_dir: Path, repository: str) -> Path:
    """The lock file of our downloads and deletions of one repository."""
    return locks_folder(cache_dir, repository) / "swiftai-download.lock"


def blob_lock(cache_dir: Path, repository: str, oid: str) -> Path:
    """The lock file that huggingface_hub takes while it writes a blob."""
    return locks_folder(cache_dir, repository) / f"{oid}.lock"


@contextlib.contextmanager
def hold_lock(
    path: Path,
    *,
    busy: AbstractContextManager[Any] | None = None,
    on_wait: Callable[[], None] = lambda: None,
) -> Iterator[None]:
    """Holds a lock file; waits while another process holds it.

    Where the file system has no locks nothing is held: two writers may then repeat work, but none waits
    forever. The umask decides who else may use the file.

    Args:
        path: the lock file; created when missing, and left in place.
        busy: entered only when there is a wait, and left at its end.
        on_wait: called before every further attempt.

    Raises:
        OSError: the file cannot be opened.
    """
    release = try_lock(path)
    if release is None:
        with contextlib.nullcontext() if busy is None else busy:
            while release is None:
                on_wait()
                time.sleep(_POLL_S)
                release = try_lock(path)
    try:
        yield
    finally:
        release()


def try_lock(path: Path) -> Callable[[], None] | None:
    """Takes a lock file if it is free; returns its release, or None while another process holds it."""
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return None
    except NotImplementedError:  # filelock before 4 on a file system without flock
        return lambda: None
    except PermissionError:
        if os.name == "nt":
            raise
        return _try_lock_read_only(path)
    except OSError as error:
        if error.errno not in _WITHOUT_LOCKS:
            raise
        return lambda: None
    return lock.release


def _try_lock_read_only(path: Path) -> Callable[[], None] | None:
    """As `try_lock`, for another user's file that we may only read, which filelock refuses."""
    import fcntl

    fd = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return lambda: os.close(fd)


def is_locked(path: Path) -> bool:
    """Whether a process holds this lock file now; one that we may not open counts as held."""
    try:
        if not path.exists():
            return False
        release = try_lock(path)
    except OSError:
        return True
    if release is not None:
        release()
    return release is None


def interrupted_paths(cache_dir: Path, repository: str, *, ours_only: bool = False) -> list[Path]:
    """Files (and scratch folders of Xet transfers) that interrupted downloads of a repository left."""
    files = incomplete_files(cache_dir, repository, ours_only=ours_only)
    try:
        return [*files, *(repository_folder(cache_dir, repository) / "blobs").glob(f"*{XET_SCRATCH_SUFFIX}")]
    except OSError:
        return files


def remove_path(path: Path) -> int:
    """Deletes a file, a link or a folder; returns the bytes freed, 0 when it is gone already.

    Raises:
        OSError: it may not be deleted.
    """
    try:
        size_bytes = 0 if path.is_symlink() else path_bytes(path)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    except FileNotFoundError:
        return 0
    return size_bytes


def path_bytes(path: Path) -> int:
    """The size of a file, or of all files below a folder."""
    files = path.rglob("*") if path.is_dir() else (path,)
    return sum(f.lstat().st_size for f in files if f.is_file())
