"""What the user chose (own entries, the default model) and what the Hub announced about fetched files.

Nothing here says whether a model is on disk: only the Hugging Face cache does. Files are replaced
atomically under a lock, so two kernels never lose each other's entries; a broken file is set aside.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from swiftai_nb.core.errors import AIError
from swiftai_nb.downloads.file_lock import FileLock
from swiftai_nb.registry.model_info import DiffusionModelInfo, ModelFile, info_from_dict
from swiftai_nb.registry.model_sources import engine_of

_VERSION = 1


@dataclass
class Choices:
    """The content of models.json."""

    entries: dict[str, DiffusionModelInfo] = field(default_factory=dict)
    default_model: str | None = None


class UserConfig:
    """models.json and the manifests below one state folder.

    Args:
        home: the state folder; made on the first write.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self.path = home / "models.json"

    def read(self) -> Choices:
        """What is stored; empty when nothing is, or when the file is broken."""
        return _parse(_read_json(self.path))

    def update(self, change: Callable[[Choices], None]) -> None:
        """Reads, lets `change` alter it, and writes it back, all under the lock.

        Raises:
            AIError: the folder cannot be written.
        """
        try:
            with FileLock(self.home / "models.lock"):
                self._update(change)
        except OSError as error:
            raise AIError(
                f"cannot write {self.path}: {error.strerror or error}",
                hint="set SWIFTAI_HOME to a folder you may write to",
            ) from error

    def _update(self, change: Callable[[Choices], None]) -> None:
        data = _read_json(self.path)
        if data is None and self.path.exists():
            self.path.replace(self.path.with_name(f"models.broken-{time.time_ns()}.json"))
        choices = _parse(data)
        change(choices)
        entries = [info.to_dict() for info in choices.entries.values()]
        stored = {"version": _VERSION, "default_model": choices.default_model, "entries": entries}
        write_json_atomically(self.path, stored)

    @property
    def last_bytes_per_s(self) -> float | None:
        """Speed of the last download worth measuring; None when there was none."""
        value = (_read_json(self.home / "download_speed.json") or {}).get("bytes_per_s")
        return float(value) if isinstance(value, (int, float)) and value > 0 else None

    def record_speed(self, bytes_per_s: float) -> None:
        """Keeps a measured speed, so that the next model's time can be told before its download."""
        write_json_atomically(self.home / "download_speed.json", {"bytes_per_s": bytes_per_s})

    def manifest(self, repository: str, commit: str) -> dict[str, ModelFile]:
        """What the Hub announced for this commit, by path; empty when it was never asked."""
        data = _read_json(self._manifest_path(repository, commit)) or {}
        try:
            return {f["path"]: ModelFile(**f) for f in data.get("files", ())}
        except (TypeError, KeyError):
            return {}

    def record_manifest(self, repository: str, commit: str, files: list[ModelFile]) -> None:
        """Keeps what the Hub announced; the files of several entries of one commit add up."""
        with FileLock(self.home / "models.lock"):
            known = self.manifest(repository, commit) | {f.path: f for f in files}
            data = {"version": _VERSION, "repository": repository, "commit": commit}
            path = self._manifest_path(repository, commit)
            write_json_atomically(path, {**data, "files": [asdict(f) for f in known.values()]})

    def _manifest_path(self, repository: str, commit: str) -> Path:
        return self.home / "manifests" / f"{repository.replace('/', '--')}@{commit}.json"


def write_json_atomically(path: Path, data: dict[str, Any]) -> None:
    """A reader sees the old file or the new one, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{time.time_ns()}")
    try:
        with temporary.open("w", encoding="utf-8") as stream:
            json.dump(data, stream, indent=1)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None


def _parse(data: dict[str, Any] | None) -> Choices:
    choices = Choices()
    if data is None:
        return choices
    default = data.get("default_model")
    choices.default_model = default if isinstance(default, str) else None
    entries = data.get("entries")
    for entry in entries if isinstance(entries, list) else ():
        try:
            info = info_from_dict(entry)
            if "engine" not in entry:  # written before entries named it
                info = replace(info, engine=engine_of(info.variant))
        except (KeyError, TypeError, ValueError, AttributeError):
            continue
        choices.entries[info.id] = info
    return choices
