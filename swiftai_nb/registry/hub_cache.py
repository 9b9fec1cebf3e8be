"""Reads the Hugging Face cache: which snapshots it has, and which files of a model are in them.

The layout is that of huggingface_hub (`models--owner--name/{blobs,refs,snapshots/<commit>/...}`). Whether
a file is a link into `blobs/`, into the shared store of newer versions, or (Windows) the file itself does
not matter: only the path's target is read.

`huggingface_hub.scan_cache_dir` is not used: it looks at every file of every repository, and importing it
takes longer than a cell without a model may take. Here only the files of one entry are looked at.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path, PurePosixPath

from swiftai_nb.registry.model_info import DiffusionModelInfo, ModelFile

ManifestLookup = Callable[[str, str], dict[str, ModelFile]]

INCOMPLETE_SUFFIX = ".swiftai.incomplete"


class DiskState(str, Enum):
    """How much of a model is on disk."""

    ABSENT = "absent"
    PARTIAL = "partial"
    COMPLETE = "complete"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class ModelOnDisk:
    """The files of a model that are on disk.

    Args:
        state: absent, partial or complete.
        folder: the snapshot that has the most of it; None when absent.
        revision: that snapshot's commit.
        repository: the repository it came from (a fallback's name when that was used).
        size_bytes: of the complete files and of interrupted downloads.
        missing: paths of required files that are not complete.
    """

    state: DiskState
    folder: Path | None = None
    revision: str | None = None
    repository: str | None = None
    size_bytes: int = 0
    missing: tuple[str, ...] = ()


def hub_cache_dir(cache_dir: str | Path | None = None) -> Path:
    """The Hugging Face cache: `cache_dir`, else what huggingface_hub itself would choose.

    The rule (HF_HUB_CACHE, HUGGINGFACE_HUB_CACHE, HF_HOME, XDG_CACHE_HOME) is repeated here because
    huggingface_hub reads the environment once, at import. Here it is read at every call.
    """
    if cache_dir is not None:
        return Path(cache_dir).expanduser().resolve()
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if os.environ.get(name):
            return Path(os.path.expandvars(os.environ[name])).expanduser().resolve()
    hf_home = os.environ.get("HF_HOME")
    if not hf_home:
        hf_home = os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")  # noqa: PTH118
    return (Path(os.path.expandvars(hf_home)).expanduser() / "hub").resolve()


def is_offline() -> bool:
    """Whether offline mode is on (HF_HUB_OFFLINE)."""
    values = (os.environ.get("HF_HUB_OFFLINE", ""), os.environ.get("TRANSFORMERS_OFFLINE", ""))
    return any(v.strip().upper() in {"1", "ON", "YES", "TRUE"} for v in values)


def repository_folder(cache_dir: Path, repository: str) -> Path:
    """`<cache>/models--owner--name`."""
    return cache_dir / f"models--{repository.replace('/', '--')}"


def locks_folder(cache_dir: Path, repository: str) -> Path:
    """`<cache>/.locks/models--owner--name`, the folder of huggingface_hub's locks."""
    return cache_dir / ".locks" / repository_folder(cache_dir, repository).name


def snapshots(cache_dir: Path, repository: str, revision: str | None) -> Iterator[Path]:
    """Snapshot folders, best first: the wanted revision, then main, then the newest others."""
    folder = repository_folder(cache_dir, repository)
    seen: set[str] = set()
    for name in (revision, "main"):
        commit = None if name is None else _commit_of(folder, name)
        if commit is not None and commit not in seen and _is_folder(folder / "snapshots" / commit):
            seen.add(commit)
            yield folder / "snapshots" / commit
    try:
        others = [d for d in (folder / "snapshots").iterdir() if _is_folder(d) and d.name not in seen]
    except OSError:
        return
    yield from sorted(others, key=lambda d: d.lstat().st_mtime, reverse=True)


def _commit_of(folder: Path, revision: str) -> str | None:
    try:
        commit = (folder / "refs" / revision).read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        commit = revision
    # The file's content becomes a folder's name: only a plain name stays inside the cache.
    is_plain = commit == PurePosixPath(commit).name and commit not in ("", "..") and "\0" not in commit
    return commit if is_plain else None


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # another user's, not readable for us
        return False


def find_on_disk(
    info: DiffusionModelInfo, cache_dir: Path, manifests: ManifestLookup | None = None
) -> ModelOnDisk:
    """The best snapshot of a Hub model, complete or not.

    Args:
        info: the entry; must have a repository.
        cache_dir: the Hugging Face cache.
        manifests: the published file list of a (repository, commit), as recorded at its download.
    """
    best = ModelOnDisk(DiskState.ABSENT, missing=tuple(f.path for f in info.files if is_needed(f)))
    for repository in (info.repository, *info.fallback_repositories):
        if repository is None:
            continue
        interrupted = sum(_size_of(p) or 0 for p in incomplete_files(cache_dir, repository, ours_only=True))
        for folder in snapshots(cache_dir, repository, info.revision):
            files = required_files(info, {} if manifests is None else manifests(repository, folder.name))
            found = _check_snapshot(folder, repository, files, interrupted_bytes=interrupted)
            if found.state is DiskState.COMPLETE:
                return found
            if found.size_bytes > best.size_bytes:
                best = found
        if interrupted > best.size_bytes:
            best = ModelOnDisk(DiskState.PARTIAL, None, None, repository, interrupted, best.missing)
    return best


def required_files(info: DiffusionModelInfo, manifest: dict[str, ModelFile]) -> tuple[ModelFile, ...]:
    """The files without which the model is incomplete, with exact sizes where a manifest knows them."""
    files = info.files if info.files else tuple(manifest.values())
    known = (manifest.get(f.path, f) for f in files)
    return tuple(replace(k, group=f.group) for k, f in zip(known, files, strict=True) if is_needed(f))


def is_needed(file: ModelFile) -> bool:
    """Whether its absence can make the model incomplete: required, or one of a set of alternatives."""
    return file.is_required or file.group is not None


def _check_snapshot(
    folder: Path, repository: str, files: tuple[ModelFile, ...], *, interrupted_bytes: int
) -> ModelOnDisk:
    absent: list[ModelFile] = []
    groups_found: set[str | None] = {None}
    size_bytes = 0
    for file in files:
        found_bytes = _size_of(folder / file.path)
        if found_bytes is None or (file.is_exact and file.size_bytes not in (None, found_bytes)):
            absent.append(file)
        else:
            size_bytes += found_bytes
            groups_found.add(file.group)
    missing = [f.path for f in absent if f.group is None or f.group not in groups_found]
    if not missing and len(files) > 0:
        return ModelOnDisk(DiskState.COMPLETE, folder, folder.name, repository, size_bytes)
    state = DiskState.PARTIAL if size_bytes + interrupted_bytes > 0 else DiskState.ABSENT
    return ModelOnDisk(state, folder, folder.name, repository, size_bytes + interrupted_bytes, tuple(missing))


def _size_of(path: Path) -> int | None:
    try:
        return path.stat().st_size if path.is_file() else None
    except OSError:
        return None


def incomplete_files(cache_dir: Path, repository: str, *, ours_only: bool = False) -> list[Path]:
    """Files of interrupted downloads; `ours_only` leaves out those only other tools could continue."""
    blobs = repository_folder(cache_dir, repository) / "blobs"
    pattern = f"*{INCOMPLETE_SUFFIX}" if ours_only else "*.incomplete"
    try:
        return sorted(p for p in blobs.glob(pattern) if p.is_file())
    except OSError:
        return []
