"""Asks the Hub, in one request, which files a model has, how large they are, and what their hashes are."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote

from swiftai_nb.core.errors import InvalidModelFilesError
from swiftai_nb.downloads.protocol import DownloadJob
from swiftai_nb.downloads.worker.hub_errors import hub_utils
from swiftai_nb.model_files.listing import select_files
from swiftai_nb.registry.loras import KIND as LORA_KIND
from swiftai_nb.registry.loras import select_lora
from swiftai_nb.registry.model_info import ModelFile
from swiftai_nb.registry.model_sources import select_plugin_files


@dataclass(frozen=True)
class DownloadPlan:
    """What will be on disk when a download is done.

    Args:
        repository: the one that answered.
        commit: 40-hex commit.
        files: with exact sizes and hashes.
        is_gated: the publisher wants terms accepted before files may be fetched.
        tags: of the repository's page, such as "license:mit".
    """

    repository: str
    commit: str
    files: tuple[ModelFile, ...]
    is_gated: bool
    tags: tuple[str, ...] = ()

    @property
    def total_bytes(self) -> int:
        """Of all files."""
        return sum(f.size_bytes or 0 for f in self.files)


def fetch_listing(job: DownloadJob, repository: str) -> DownloadPlan:
    """The plan for a job from one of its repositories.

    Raises:
        InvalidModelFilesError: the repository lacks files the model needs; names them.
        UnsupportedModelError: no layout we know (only when the job names no files).
        Exception: what huggingface_hub and httpx raise, untranslated.
    """
    info = _get_info(job, repository)
    listed = {s["rfilename"]: _file(s) for s in info.get("siblings") or ()}
    asked = {f.path: f for f in job.files}
    files = [_as_asked(listed[p], asked.get(p)) for p in _wanted(job, repository, listed)]
    commit = str(info.get("sha"))
    known = tuple(f if f.oid is not None else _ask_for_file(job, repository, commit, f) for f in files)
    for name in (commit, *(f.oid for f in known)):
        _check_name(name, repository)
    tags = tuple(str(tag) for tag in info.get("tags") or ())
    return DownloadPlan(repository, commit, known, is_gated=bool(info.get("gated")), tags=tags)


def _get_info(job: DownloadJob, repository: str) -> dict[str, Any]:
    """The Hub's own listing with sizes and hashes; `HfApi.model_info` without its half second of imports."""
    from huggingface_hub import constants

    utils = hub_utils()
    endpoint = constants.ENDPOINT if job.endpoint is None else job.endpoint.rstrip("/")
    revision = "" if job.revision is None else f"/revision/{quote(job.revision, safe='')}"
    headers = utils.build_hf_headers(token=job.token, library_name="swiftai_nb")
    with utils.httpx.Client(timeout=job.options.timeout_s, follow_redirects=True) as client:
        url = f"{endpoint}/api/models/{repository}{revision}"
        response = client.get(url, params={"blobs": "true"}, headers=headers)
    utils.hf_raise_for_status(response)
    try:
        data = response.json()
    except ValueError:
        data = None
    if not isinstance(data, dict):
        raise InvalidModelFilesError(
            f"{endpoint} does not answer like the Hub (HTTP {response.status_code})",
            hint="check HF_ENDPOINT, and whether this network wants you to log in on a page first",
        )
    return data


def file_url(job: DownloadJob, repository: str, *, commit: str, path: str) -> str:
    """Where a file of a commit is fetched from."""
    from huggingface_hub import constants

    endpoint = constants.ENDPOINT if job.endpoint is None else job.endpoint.rstrip("/")
    return f"{endpoint}/{repository}/resolve/{quote(commit, safe='')}/{quote(path)}"


def _check_name(name: str | None, repository: str) -> None:
    """Commits and hashes become file names: whatever a server says, they stay inside the cache."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{3,127}", name or ""):
        raise InvalidModelFilesError(f"{repository} answers with a bad hash: {name!r}", hint="do not use it")


def _wanted(job: DownloadJob, repository: str, listed: dict[str, ModelFile]) -> tuple[str, ...]:
    if not job.files:
        if job.kind == LORA_KIND:
            return select_lora(repository, listed)
        files = select_plugin_files(listed)
        return select_files(listed) if files is None else files
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


def _file(sibling: dict[str, Any]) -> ModelFile:
    size_bytes = sibling.get("size")
    oid = (sibling.get("lfs") or {}).get("sha256") or sibling.get("blobId")
    return ModelFile(str(sibling["rfilename"]), size_bytes, is_exact=size_bytes is not None, oid=oid)


def _ask_for_file(job: DownloadJob, repository: str, commit: str, file: ModelFile) -> ModelFile:
    """Mirrors may list names only: then each file is asked for by itself."""
    from huggingface_hub import get_hf_file_metadata

    url = file_url(job, repository, commit=commit, path=file.path)
    answer = get_hf_file_metadata(url, token=job.token, timeout=job.options.timeout_s, endpoint=job.endpoint)
    if not answer.etag:
        raise InvalidModelFilesError(
            f"{repository} gives no hash for {file.path}", hint="use another endpoint"
        )
    return ModelFile(file.path, answer.size, is_exact=answer.size is not None, oid=answer.etag)
