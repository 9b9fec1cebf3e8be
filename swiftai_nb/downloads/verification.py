"""Compares files on this disk with the hashes their publisher announced. Needs no network."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swiftai_nb.core.errors import InvalidInputError, ModelNotDownloadedError
from swiftai_nb.downloads.worker.cache_writer import hash_stream, new_hash
from swiftai_nb.registry.hub_cache import DiskState, ModelOnDisk, repository_folder
from swiftai_nb.registry.model_info import DiffusionModelInfo, ModelFile, format_bytes
from swiftai_nb.registry.registry import DiffusionModelRegistry


@dataclass(frozen=True)
class Verification:
    """How the files of a model stand.

    Args:
        model_id: which model.
        good: paths whose bytes are right.
        wrong: paths whose bytes are not.
        missing: paths that are not there.
        unknown: paths no hash is known for.
        size_bytes: that were read.
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
        """Nothing wrong, nothing missing."""
        return not self.wrong and not self.missing

    def __repr__(self) -> str:
        lines = [f"{self.model_id}: {len(self.good)} files right ({format_bytes(self.size_bytes)} read)"]
        for words, paths in (
            ("WRONG BYTES", self.wrong),
            ("missing", self.missing),
            ("no hash known", self.unknown),
        ):
            lines += [f"  {words}: {path}" for path in paths]
        if self.wrong and not self.was_repaired:
            lines.append(f"Try: verify {self.model_id} --repair   deletes the wrong files")
        if self.missing or self.was_repaired:
            lines.append(f"Try: download {self.model_id}   fetches just what is missing")
        return "\n".join(lines)


def verify_files(
    registry: DiffusionModelRegistry,
    model_id: str,
    *,
    repair: bool = False,
    on_file: Callable[[str], None] = lambda _path: None,
) -> Verification:
    """Reads every file of a downloaded model and compares its hash.

    Args:
        registry: which models there are.
        model_id: catalog id, alias or user entry.
        repair: delete files whose bytes are wrong, so that the next download fetches them.
        on_file: told every path before it is read.

    Raises:
        ModelNotFoundError: nobody knows the name.
        ModelNotDownloadedError: nothing of it is on this disk.
        InvalidInputError: a bundled model or a user's folder, which have no announced hashes.
    """
    info = registry.find(model_id)
    if not info.is_downloadable:
        raise InvalidInputError(
            f"{info.id} was not downloaded: nobody announced its hashes", hint="just use it"
        )
    found = registry.disk_status(info)
    if found.state is DiskState.ABSENT or found.folder is None or found.repository is None:
        raise ModelNotDownloadedError(f"{info.id} is not on this disk", hint=f"download {info.id}")
    hashes = _announced(registry, found.repository, found.folder)
    verdicts: dict[str, list[str]] = {"good": [], "wrong": [], "missing": [], "unknown": []}
    size_bytes = 0
    for path in _paths(info, hashes, found):
        on_file(path)
        verdict, read_bytes = _verify_file(found.folder / path, hashes.get(path))
        size_bytes += read_bytes
        if verdict != "absent":
            verdicts[verdict].append(path)
        if verdict == "wrong" and repair:
            _remove(found.folder / path)
    lists = {name: tuple(paths) for name, paths in verdicts.items()}
    repaired = repair and bool(verdicts["wrong"])
    missing = tuple(sorted({*lists.pop("missing"), *found.missing}))
    return Verification(info.id, **lists, missing=missing, size_bytes=size_bytes, was_repaired=repaired)


def _paths(info: DiffusionModelInfo, hashes: dict[str, ModelFile], found: ModelOnDisk) -> list[str]:
    wanted = [f.path for f in info.files] if info.files else list(hashes)
    return sorted(p for p in wanted if p not in found.missing)


def _announced(registry: DiffusionModelRegistry, repository: str, folder: Path) -> dict[str, ModelFile]:
    """From our record of the download, else from the cache itself: listings, and the names of blobs."""
    known = _from_links(folder)
    known |= _from_tree(repository_folder(registry.cache_dir, repository) / "trees" / f"{folder.name}.json")
    return known | registry.choices.manifest(repository, folder.name)


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
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _verify_file(path: Path, announced: ModelFile | None) -> tuple[str, int]:
    if not path.is_file():
        return "absent", 0
    digest = None if announced is None else new_hash(announced)
    if announced is None or digest is None:
        return "unknown", 0
    with path.open("rb") as stream:
        size_bytes = hash_stream(stream, digest)
    is_good = digest.hexdigest() == announced.oid and announced.size_bytes in (None, size_bytes)
    return ("good" if is_good else "wrong"), size_bytes


def _remove(pointer: Path) -> None:
    hop = Path(pointer.parent, pointer.readlink()) if pointer.is_symlink() else None
    target = pointer.resolve()
    for path in (pointer, hop, target):
        if path is not None:
            path.unlink(missing_ok=True)
