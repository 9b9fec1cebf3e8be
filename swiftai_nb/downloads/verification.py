"""Compares files on this disk with their published checksums, and the catalog with the live Hub."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from swiftai_nb.core.errors import InvalidInputError, InvalidModelFilesError, ModelNotDownloadedError
from swiftai_nb.core.format import format_bytes
from swiftai_nb.downloads.cache_files import matches_checksum, safe_join, unlink_cached
from swiftai_nb.downloads.protocol import DownloadJob
from swiftai_nb.downloads.worker.errors import translate  # `check_catalog` runs in this process
from swiftai_nb.downloads.worker.hub_listing import DownloadPlan, fetch_listing, open_client
from swiftai_nb.registry.hub_cache import DiskState, ModelOnDisk, repository_folder
from swiftai_nb.registry.model_info import DiffusionModelInfo, ModelFile
from swiftai_nb.registry.registry import DiffusionModelRegistry

_ROUNDING = 0.02


@dataclass(frozen=True)
class Verification:
    """The result of `verify_files`.

    Args:
        model_id: which model.
        good: paths with the published checksum.
        wrong: paths with another one.
        missing: paths of required files that are not on disk.
        unknown: paths without a published checksum.
        size_bytes: how much was read.
        was_repaired: the wrong files were deleted.
    """

    model_id: str
    good: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    size_bytes: int = 0
    was_repaired: bool = False

    @property
    def is_good(self) -> bool:
        """Whether nothing is wrong or missing."""
        return not self.wrong and not self.missing

    def __repr__(self) -> str:
        lines = [f"{self.model_id}: {len(self.good)} files verified ({format_bytes(self.size_bytes)} read)"]
        for label, paths in (
            ("WRONG CHECKSUM", self.wrong),
            ("missing", self.missing),
            ("no published checksum", self.unknown),
        ):
            lines += [f"  {label}: {path}" for path in paths]
        if self.wrong and not self.was_repaired:
            lines.append(f"Try: verify {self.model_id} --repair   deletes the damaged files")
        if self.missing or self.was_repaired:
            lines.append(f"Try: download {self.model_id}   fetches only the missing files")
        return "\n".join(lines)


def verify_files(
    registry: DiffusionModelRegistry,
    model_id: str,
    *,
    repair: bool = False,
    on_file: Callable[[str], None] = lambda _path: None,
) -> Verification:
    """Reads every file of a downloaded model and compares its checksum. Needs no network.

    Args:
        registry: which models there are.
        model_id: catalog id, alias or user entry.
        repair: delete files with a wrong checksum, so that the next download fetches them.
        on_file: called with every path before it is read.

    Raises:
        ModelNotFoundError: unknown name.
        ModelNotDownloadedError: none of it is on this disk.
        InvalidInputError: a bundled model or a user's folder, which have no published checksums.
    """
    info = registry.find(model_id)
    if info.bundled:
        raise InvalidInputError(f"{info.id} ships with the package, so there is nothing to verify")
    if not info.is_downloadable:
        raise InvalidInputError(f"{info.id} is your own folder and has no published checksums")
    found = registry.disk_status(info)
    if found.state is DiskState.ABSENT or found.folder is None or found.repository is None:
        raise ModelNotDownloadedError(f"{info.id} is not downloaded", hint=f"download {info.id}")
    published = _published(registry, found.repository, found.folder)
    results: dict[str, list[str]] = {"good": [], "wrong": [], "unknown": []}
    size_bytes = 0
    for path in _paths(info, published, found):
        on_file(path)
        pointer = _readable(found.folder, path)
        if pointer is None:
            continue
        is_right, read_bytes = matches_checksum(pointer, published.get(path, ModelFile(path)))
        size_bytes += read_bytes
        results["unknown" if is_right is None else "good" if is_right else "wrong"].append(path)
        if repair and is_right is False:
            unlink_cached(pointer, registry.cache_dir)
    return Verification(
        info.id,
        good=tuple(results["good"]),
        wrong=tuple(results["wrong"]),
        missing=tuple(sorted(found.missing)),
        unknown=tuple(results["unknown"]),
        size_bytes=size_bytes,
        was_repaired=repair and bool(results["wrong"]),
    )


def _readable(folder: Path, path: str) -> Path | None:
    """A file of a snapshot; None when it is absent (optional) or its recorded path leads outside."""
    try:
        pointer = safe_join(folder, path)
    except InvalidModelFilesError:
        return None
    return pointer if pointer.is_file() else None


def _paths(info: DiffusionModelInfo, published: dict[str, ModelFile], found: ModelOnDisk) -> list[str]:
    wanted = [f.path for f in info.files] if info.files else list(published)
    return sorted(p for p in wanted if p not in found.missing)


def _published(registry: DiffusionModelRegistry, repository: str, folder: Path) -> dict[str, ModelFile]:
    """From our record of the download, else from the cache itself: listings, and the names of blobs."""
    known = _from_links(folder)
    known |= _from_tree(repository_folder(registry.cache_dir, repository) / "trees" / f"{folder.name}.json")
    return known | registry.user_config.manifest(repository, folder.name)


def _from_links(folder: Path) -> dict[str, ModelFile]:
    links = (p for p in folder.rglob("*") if p.is_symlink() and p.exists())
    return {
        p.relative_to(folder).as_posix(): ModelFile("", p.stat().st_size, oid=Path(p.readlink()).name)
        for p in links
    }


def _from_tree(path: Path) -> dict[str, ModelFile]:
    try:
        files: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["files"]
        return {
            name: ModelFile(name, entry["size"], oid=entry.get("lfs_sha256") or entry["blob_id"])
            for name, entry in files.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


@dataclass(frozen=True)
class HubCheck:
    """One entry against one repository.

    Args:
        model_id: the entry.
        repository: what was asked.
        differences: one line each; empty when the table is right.
        commit: the commit that answered, to be pinned; None when none did.
        size_bytes: what a download would fetch; 0 when unknown.
        files: as the Hub lists them.
    """

    model_id: str
    repository: str
    differences: tuple[str, ...] = ()
    commit: str | None = None
    size_bytes: int = 0
    files: tuple[ModelFile, ...] = field(default=(), repr=False)

    @property
    def is_good(self) -> bool:
        """Whether the table is right."""
        return not self.differences

    def __str__(self) -> str:
        found = "" if self.commit is None else f"  {format_bytes(self.size_bytes)} at {self.commit}"
        head = f"{'ok  ' if self.is_good else 'DIFF'}  {self.model_id}  {self.repository}{found}"
        return "\n".join([head, *(f"        {line}" for line in self.differences)])


def check_catalog(
    entries: Iterable[DiffusionModelInfo],
    *,
    endpoint: str | None = None,
    token: str | None = None,
    on_check: Callable[[HubCheck], None] = lambda _check: None,
) -> list[HubCheck]:
    """Asks the Hub about every repository of every entry, fallbacks included. For maintainers.

    Tested against a local server only.

    Args:
        entries: of the catalog.
        endpoint: another Hub.
        token: None lets huggingface_hub find the user's.
        on_check: called with every result as it is known.
    """
    checks: list[HubCheck] = []
    for info in entries:
        for repository in (info.repository, *info.fallback_repositories):
            if repository is not None:
                checks.append(_check(info, repository, endpoint=endpoint, token=token))
                on_check(checks[-1])
    return checks


def _check(info: DiffusionModelInfo, repository: str, *, endpoint: str | None, token: str | None) -> HubCheck:
    job = DownloadJob(
        info.id,
        (repository,),
        cache_dir="",
        revision=info.revision,
        files=info.files,
        endpoint=endpoint,
        token=token,
    )
    try:
        with open_client(job) as client:
            plan = fetch_listing(job, repository, client)
    except Exception as error:  # noqa: BLE001 (one failure must not hide the other rows)
        return HubCheck(info.id, repository, (translate(error, job, repository=repository).message,))
    differences = [*_size_differences(info, plan.files, plan.total_bytes), *_page_differences(info, plan)]
    return HubCheck(info.id, repository, tuple(differences), plan.commit, plan.total_bytes, plan.files)


def _size_differences(info: DiffusionModelInfo, files: tuple[ModelFile, ...], total_bytes: int) -> list[str]:
    listed = {f.path: f.size_bytes for f in files}
    lines = []
    for file in info.files:
        there = listed.get(file.path)
        if file.size_bytes is None or there is None:
            continue
        allowed = 0 if file.is_exact else _ROUNDING * file.size_bytes
        if abs(there - file.size_bytes) > allowed:
            lines.append(f"{file.path}: {file.size_bytes:,} bytes in the table, {there:,} on the Hub")
    if info.size_bytes and abs(total_bytes - info.size_bytes) > _ROUNDING * info.size_bytes:
        lines.append(f"total: {info.size_bytes:,} bytes in the table, {total_bytes:,} on the Hub")
    return lines


def _page_differences(info: DiffusionModelInfo, plan: DownloadPlan) -> list[str]:
    lines = []
    if plan.is_gated != (info.gated is not None):
        is_there = "gated" if plan.is_gated else "open"
        lines.append(f"gating: {info.gated or 'open'} in the table, {is_there} on the Hub")
    licenses = [t.removeprefix("license:") for t in plan.tags if t.startswith("license:")]
    if licenses and info.license not in licenses and licenses != ["other"]:
        lines.append(f"license: {info.license} in the table, {', '.join(licenses)} on the Hub")
    return lines
