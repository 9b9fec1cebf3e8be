"""Asks the Hub, in one request, which files a model has, how large they are, and their checksums.

Everything the server names (paths, sizes, checksums, the commit) is checked here, before any of it is
recorded or becomes a file name.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote

from swiftai_nb.core.errors import InvalidInputError, InvalidModelFilesError
from swiftai_nb.core.format import format_bytes
from swiftai_nb.downloads.cache_files import is_checksum
from swiftai_nb.downloads.protocol import DownloadJob
from swiftai_nb.downloads.worker.errors import hub_utils
from swiftai_nb.model_files.listing import select_files
from swiftai_nb.registry.loras import KIND as LORA_KIND
from swiftai_nb.registry.loras import select_lora
from swiftai_nb.registry.model_info import ModelFile, check_path
from swiftai_nb.registry.model_sources import select_plugin_files

_MAX_LISTING_BYTES = 50_000_000
_CERTIFICATE_VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR")


@dataclass(frozen=True)
class DownloadPlan:
    """What will be on disk when a download is done.

    Args:
        repository: the one that answered.
        commit: 40-hex commit.
        files: with exact sizes and checksums.
        is_gated: the publisher requires that terms are accepted before files may be fetched.
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


def open_client(job: DownloadJob) -> Any:
    """An httpx client for all requests of a job.

    Raises:
        InvalidInputError: the environment names certificates that cannot be read.
    """
    httpx = hub_utils().httpx
    limits = httpx.Limits(max_connections=max(4, job.options.connections))
    try:
        return httpx.Client(timeout=job.options.timeout_s, follow_redirects=True, limits=limits)
    except OSError as error:  # ssl.SSLError is one
        named = ", ".join(f"{n}={os.environ[n]}" for n in _CERTIFICATE_VARIABLES if os.environ.get(n))
        raise InvalidInputError(
            f"cannot read the TLS certificates{f' ({named})' if named else ''}: {error.strerror or error}",
            hint="set SSL_CERT_FILE to a readable file in PEM format, or unset it",
        ) from error


def fetch_listing(
    job: DownloadJob, repository: str, client: Any, *, on_answer: Callable[[], None] = lambda: None
) -> DownloadPlan:
    """The plan for a job from one of its repositories.

    Args:
        job: which files are needed.
        repository: "owner/name".
        client: see `open_client`.
        on_answer: called after every answer of the server.

    Raises:
        InvalidModelFilesError: the repository lacks files the model needs, or the answer is not usable.
        UnsupportedModelError: no known layout (only when the job names no files).
        Exception: what huggingface_hub and httpx raise, untranslated.
    """
    info = _fetch_info(job, repository, client)
    on_answer()
    commit = info.get("sha")
    if not is_checksum(commit):
        raise _bad_answer(repository, f"commit {commit!r}")
    siblings = info.get("siblings") or ()
    listed = {str(s["rfilename"]): s for s in siblings if isinstance(s, dict) and "rfilename" in s}
    asked = {f.path: f for f in job.files}
    files = []
    for path in _wanted(job, repository, set(listed)):
        check_path(path)
        file = _file(listed[path])
        if file.oid is None:
            file = _fetch_metadata(job, repository, str(commit), path)
            on_answer()
        _check_metadata(file, repository)
        known = asked.get(path)
        files.append(
            file if known is None else replace(file, is_required=known.is_required, group=known.group)
        )
    tags = tuple(str(tag) for tag in info.get("tags") or ())
    return DownloadPlan(repository, str(commit), tuple(files), is_gated=bool(info.get("gated")), tags=tags)


def file_url(job: DownloadJob, repository: str, *, commit: str, path: str) -> str:
    """The address of a file of a commit."""
    return f"{_endpoint(job)}/{repository}/resolve/{quote(commit, safe='')}/{quote(path)}"


def _endpoint(job: DownloadJob) -> str:
    from huggingface_hub import constants

    return str(constants.ENDPOINT) if job.endpoint is None else job.endpoint.rstrip("/")


def _fetch_info(job: DownloadJob, repository: str, client: Any) -> dict[str, Any]:
    """The Hub's own listing with sizes and hashes; `HfApi.model_info` without its half second of imports."""
    utils = hub_utils()
    revision = "" if job.revision is None else f"/revision/{quote(job.revision, safe='')}"
    headers = utils.build_hf_headers(token=job.token, library_name="swiftai_nb")
    url = f"{_endpoint(job)}/api/models/{repository}{revision}"
    content = bytearray()
    with client.stream("GET", url, params={"blobs": "true"}, headers=headers) as response:
        if response.status_code >= 400:
            response.read()
        utils.hf_raise_for_status(response)
        for chunk in response.iter_bytes():
            content += chunk
            if len(content) > _MAX_LISTING_BYTES:
                raise _bad_answer(repository, f"longer than {format_bytes(_MAX_LISTING_BYTES)}")
    try:
        data = json.loads(content)
    except (ValueError, RecursionError):
        data = None
    if not isinstance(data, dict):
        raise InvalidModelFilesError(
            f"{_endpoint(job)} does not answer like the Hub (HTTP {response.status_code})",
            hint="check HF_ENDPOINT, and whether this network requires a log-in page first",
        )
    return data


def _wanted(job: DownloadJob, repository: str, listed: set[str]) -> tuple[str, ...]:
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


def _file(sibling: dict[str, Any]) -> ModelFile:
    size_bytes = sibling.get("size")
    lfs = sibling.get("lfs")
    oid = (lfs.get("sha256") if isinstance(lfs, dict) else None) or sibling.get("blobId")
    return ModelFile(str(sibling["rfilename"]), size_bytes, is_exact=size_bytes is not None, oid=oid)


def _fetch_metadata(job: DownloadJob, repository: str, commit: str, path: str) -> ModelFile:
    """Mirrors may list names only: then each file is asked for by itself."""
    from huggingface_hub import get_hf_file_metadata

    url = file_url(job, repository, commit=commit, path=path)
    answer = get_hf_file_metadata(url, token=job.token, timeout=job.options.timeout_s, endpoint=job.endpoint)
    return ModelFile(path, answer.size, is_exact=answer.size is not None, oid=answer.etag)


def _check_metadata(file: ModelFile, repository: str) -> None:
    if not is_checksum(file.oid):
        raise _bad_answer(repository, f"checksum {file.oid!r} for {file.path}")
    size_bytes: object = file.size_bytes
    is_size = isinstance(size_bytes, int) and not isinstance(size_bytes, bool) and size_bytes >= 0
    if size_bytes is not None and not is_size:
        raise _bad_answer(repository, f"size {size_bytes!r} for {file.path}")


def _bad_answer(repository: str, what: str) -> InvalidModelFilesError:
    return InvalidModelFilesError(
        f"the file list of {repository} is not usable: {what}", hint="use another repository or endpoint"
    )
