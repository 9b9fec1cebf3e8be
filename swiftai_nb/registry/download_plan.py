"""Asks the Hub, in one request, which files a model has, how large they are, and what their hashes are."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

from swiftai_nb.core.errors import InvalidModelFilesError
from swiftai_nb.registry.download_protocol import DownloadJob
from swiftai_nb.registry.layout import select_files
from swiftai_nb.registry.model_info import ModelFile


@dataclass(frozen=True)
class DownloadPlan:
    """What will be on disk when a download is done.

    Args:
        repository: the one that answered.
        commit: 40-hex commit.
        files: with exact sizes and hashes.
        is_gated: the publisher wants terms accepted before files may be fetched.
    """

    repository: str
    commit: str
    files: tuple[ModelFile, ...]
    is_gated: bool

    @property
    def total_bytes(self) -> int:
        """Of all files."""
        return sum(f.size_bytes or 0 for f in self.files)


def ask_hub(job: DownloadJob, repository: str) -> DownloadPlan:
    """The plan for a job from one of its repositories.

    Raises:
        InvalidModelFilesError: the repository lacks files the model needs; names them.
        UnsupportedModelError: no layout we know (only when the job names no files).
        huggingface_hub and httpx errors: untranslated.
    """
    from huggingface_hub import HfApi

    api = HfApi(endpoint=job.endpoint, token=job.token)
    info = api.model_info(
        repository, revision=job.revision, files_metadata=True, timeout=job.options.timeout_s
    )
    listed = {s.rfilename: _file(s) for s in info.siblings or ()}
    asked = {f.path: f for f in job.files}
    files = [_as_asked(listed[p], asked.get(p)) for p in _wanted(job, repository, listed)]
    commit = str(info.sha)
    known = tuple(f if f.oid is not None else _ask_for_file(job, repository, commit, f) for f in files)
    for name in (commit, *(f.oid for f in known)):
        _check_name(name, repository)
    return DownloadPlan(repository, commit, known, is_gated=bool(info.gated))


def _check_name(name: str | None, repository: str) -> None:
    """Commits and hashes become file names: whatever a server says, they stay inside the cache."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{3,127}", name or ""):
        raise InvalidModelFilesError(f"{repository} answers with a bad hash: {name!r}", hint="do not use it")


def _wanted(job: DownloadJob, repository: str, listed: dict[str, ModelFile]) -> tuple[str, ...]:
    if not job.files:
        return select_files(listed)
    groups = {f.group for f in job.files} - {f.group for f in job.files if f.path in listed}
    missing = [
        f.path for f in job.files if f.path not in listed and (f.is_required or f.group in groups - {None})
    ]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise InvalidModelFilesError(
            f"{repository} does not have {', '.join(missing[:3])}{more}",
            hint="the publisher changed the repository; choose another model, or report it",
        )
    return tuple(f.path for f in job.files if f.path in listed)


def _as_asked(file: ModelFile, asked: ModelFile | None) -> ModelFile:
    return file if asked is None else replace(file, is_required=asked.is_required, group=asked.group)


def _file(sibling: Any) -> ModelFile:
    sha256 = None if sibling.lfs is None else sibling.lfs.sha256
    oid = sibling.blob_id if sha256 is None else sha256
    return ModelFile(sibling.rfilename, sibling.size, is_exact=sibling.size is not None, oid=oid)


def _ask_for_file(job: DownloadJob, repository: str, commit: str, file: ModelFile) -> ModelFile:
    """Mirrors may list names only: then each file is asked for by itself."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    url = hf_hub_url(repository, file.path, revision=commit, endpoint=job.endpoint)
    answer = get_hf_file_metadata(url, token=job.token, timeout=job.options.timeout_s, endpoint=job.endpoint)
    if not answer.etag:
        raise InvalidModelFilesError(
            f"{repository} gives no hash for {file.path}", hint="use another endpoint"
        )
    return ModelFile(file.path, answer.size, is_exact=answer.size is not None, oid=answer.etag)
