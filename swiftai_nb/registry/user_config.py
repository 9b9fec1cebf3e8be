"""The user's own settings: registered models, the default model, and records of earlier downloads.

They never decide whether a model is on disk: only the Hugging Face cache does. Files are replaced in one
step under a lock, so two kernels never lose each other's entries; a broken file is set aside, and a wrong
entry is left out. A file is parsed again only when it has changed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from swiftai_nb.core.errors import AIError
from swiftai_nb.model_files.json_file import parse_json, write_json_atomically
from swiftai_nb.registry.model_info import DiffusionModelInfo, ModelFile, files_from_list, info_from_dict
from swiftai_nb.registry.model_sources import engine_of

_VERSION = 1
_MAX_BYTES = 64 * 2**20
_WITHOUT_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}
_LOCK_TIMEOUT_S = 30.0


def state_dir(home: str | Path | None = None) -> Path:
    """The folder of the user's settings: `home`, else SWIFTAI_HOME, else the platform's usual place.

    The environment is read at every call.
    """
    if home is not None:
        return Path(home).expanduser().resolve()
    from_environment = os.environ.get("SWIFTAI_HOME")
    if from_environment:
        return Path(from_environment).expanduser().resolve()
    return _platform_data_dir() / "swiftai_nb"


def _platform_data_dir() -> Path:
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")


@dataclass
class StoredModels:
    """The content of models.json.

    Attributes:
        entries: the user's own models by id, in the order they were added.
        default_model: used when no model is named; None when never chosen.
    """

    entries: dict[str, DiffusionModelInfo] = field(default_factory=dict)
    default_model: str | None = None


class UserConfig:
    """models.json and the manifests below one state folder.

    Args:
        home: the state folder; created on the first write.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self.path = home / "models.json"

    def read(self) -> StoredModels:
        """What is stored; empty when nothing is, or when the file is broken."""
        try:
            stored = _read_models(*_version(self.path))
        except (OSError, ValueError):
            return StoredModels()
        return StoredModels(dict(stored.entries), stored.default_model)

    def update(self, change: Callable[[StoredModels], None]) -> None:
        """Reads the content, applies `change` and writes it back, all under the lock.

        Raises:
            AIError: the folder cannot be written.
        """
        try:
            with _locked(self.home / "models.lock"):
                data = _read_json(self.path)
                if data is None and self.path.exists():
                    self.path.replace(self.path.with_name(f"models.broken-{time.time_ns()}.json"))
                stored = self.read()
                change(stored)
                entries = [info.to_dict() for info in stored.entries.values()]
                content = {"version": _VERSION, "default_model": stored.default_model, "entries": entries}
                write_json_atomically(self.path, content)
        except OSError as error:
            raise AIError(
                f"cannot write {self.path}: {error.strerror or error}",
                hint="set SWIFTAI_HOME to a writable folder",
            ) from error

    @property
    def last_bytes_per_s(self) -> float | None:
        """Speed of the last download that was long enough to measure; None when there was none."""
        value = (_read_json(self.home / "download_speed.json") or {}).get("bytes_per_s")
        return float(value) if isinstance(value, (int, float)) and value > 0 else None

    def record_speed(self, bytes_per_s: float) -> None:
        """Keeps a measured speed, to estimate the duration of the next download."""
        write_json_atomically(self.home / "download_speed.json", {"bytes_per_s": bytes_per_s})

    def manifest(self, repository: str, commit: str) -> dict[str, ModelFile]:
        """The published files of this commit, by path (do not change it); empty when never recorded."""
        try:
            return _read_manifest(*_version(self._manifest_path(repository, commit)))
        except (OSError, ValueError):
            return {}

    def record_manifest(self, repository: str, commit: str, files: list[ModelFile]) -> None:
        """Keeps the published files of a commit; those of several entries of one commit add up."""
        with _locked(self.home / "models.lock"):
            known = self.manifest(repository, commit) | {f.path: f for f in files}
            data = {"version": _VERSION, "repository": repository, "commit": commit}
            path = self._manifest_path(repository, commit)
            write_json_atomically(path, {**data, "files": [asdict(f) for f in known.values()]})

    def _manifest_path(self, repository: str, commit: str) -> Path:
        return self.home / "manifests" / f"{repository.replace('/', '--')}@{commit}.json"


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds a lock file, waiting while another process does; where there are no locks, nothing is held."""
    from filelock import FileLock  # late: it takes a tenth of a second, and reading needs no lock

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=_LOCK_TIMEOUT_S)
    except NotImplementedError:  # filelock before 4 on a file system without flock
        pass
    except OSError as error:
        if error.errno not in _WITHOUT_LOCKS:
            raise
    try:
        yield
    finally:
        lock.release()


def _read_json(path: Path) -> dict[str, Any] | None:
    """The object in a file, cached (do not change it); None when there is no such file or it is broken."""
    try:
        return _read_version(*_version(path))
    except (OSError, ValueError):
        return None


def _version(path: Path) -> tuple[Path, int, int, int]:
    """What the caches below know a file's content by."""
    stat = path.stat()
    return path, stat.st_mtime_ns, stat.st_size, stat.st_ino


@lru_cache(maxsize=64)
def _read_version(path: Path, _mtime_ns: int, size_bytes: int, _inode: int) -> dict[str, Any]:
    data = parse_json(path.read_text(encoding="utf-8")) if size_bytes <= _MAX_BYTES else None
    if not isinstance(data, dict):
        raise ValueError("not a JSON object")
    return data


@lru_cache(maxsize=8)
def _read_models(path: Path, mtime_ns: int, size_bytes: int, inode: int) -> StoredModels:
    return _parse(_read_version(path, mtime_ns, size_bytes, inode))


@lru_cache(maxsize=64)
def _read_manifest(path: Path, mtime_ns: int, size_bytes: int, inode: int) -> dict[str, ModelFile]:
    data = _read_version(path, mtime_ns, size_bytes, inode)
    return {file.path: file for file in files_from_list(data.get("files", ()))}


def _parse(data: dict[str, Any]) -> StoredModels:
    stored = StoredModels()
    default = data.get("default_model")
    stored.default_model = default if isinstance(default, str) else None
    entries = data.get("entries")
    for entry in entries if isinstance(entries, list) else ():
        try:
            info = info_from_dict(entry)
        except ValueError:  # a wrong entry is left out; the others hold
            continue
        if "engine" not in entry:  # written before entries named it
            info = replace(info, engine=engine_of(info.variant))
        stored.entries[info.id] = info
    return stored
