"""FairSlots what huggingface_hub, the network and the disk raise into our errors, once, in the child."""

from __future__ import annotations

import errno
import importlib
import re
from typing import Any

from swiftai_nb.core.errors import (
    AIError,
    AuthenticationError,
    DownloadFailedError,
    InsufficientDiskSpaceError,
    InvalidModelFilesError,
    ModelNotFoundError,
    NetworkError,
    RateLimitedError,
    ServerError,
)
from swiftai_nb.downloads.protocol import DownloadJob

_KEPT = "run the same command again: what is here is kept and continued"
_TOKEN = re.compile(r"hf_[A-Za-z0-9]{4,}|Bearer\s+\S+")
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT}


def status_of(error: BaseException) -> int | None:
    """The HTTP status an error carries, if any."""
    return getattr(getattr(error, "response", None), "status_code", None)


def retry_after_of(error: BaseException) -> float | None:
    """Seconds the server asked to wait (Retry-After as a number), if it did."""
    headers: Any = getattr(getattr(error, "response", None), "headers", None) or {}
    try:
        return max(0.0, float(headers.get("Retry-After", "")))
    except ValueError:
        return None


def is_worth_retrying(error: BaseException) -> bool:
    """Dropped and stalled connections, 408, 429 and 5xx are; refusals and full disks are not."""
    if isinstance(error, AIError):
        return error.is_retryable
    status = status_of(error)
    if status is not None:
        return status in (408, 425, 429) or status >= 500
    return _is_network_error(error)


def is_disk_full(error: BaseException) -> bool:
    """Whether the disk (or the user's share of it) is full."""
    return isinstance(error, OSError) and error.errno in _DISK_FULL


def redacted(text: str, token: str | None = None) -> str:
    """The text without anything that looks like a token."""
    if token:
        text = text.replace(token, "***")
    return _TOKEN.sub("***", text)


def translate(error: BaseException, job: DownloadJob, *, repository: str, is_gated: bool = False) -> AIError:
    """One of our errors for anything that can go wrong while a model comes down."""
    if isinstance(error, AIError):
        return error
    if is_disk_full(error):
        return InsufficientDiskSpaceError(
            f"the disk filled up while {job.model_id} was coming", hint=f"free some space, then {_KEPT}"
        )
    if isinstance(error, OSError) and not _is_network_error(error) and status_of(error) is None:
        where = f" ({error.filename})" if error.filename else ""
        return DownloadFailedError(
            f"cannot write to the model cache{where}: {error.strerror or error}",
            hint=f"check that {job.cache_dir} is a folder you may write to, or set HF_HOME to one",
        )
    return _of_response(error, job, repository=repository, is_gated=is_gated)


def _of_response(error: BaseException, job: DownloadJob, *, repository: str, is_gated: bool) -> AIError:
    from huggingface_hub import errors as hub

    status = status_of(error)
    # GatedRepoError is a RepositoryNotFoundError: the special one goes first.
    if isinstance(error, hub.GatedRepoError) or (is_gated and status in (401, 403)):
        return _gated(repository, has_token=_sends_token(job))
    for kind, words in (
        (hub.RepositoryNotFoundError, _not_found),
        (hub.RevisionNotFoundError, _no_revision),
        (hub.EntryNotFoundError, _no_entry),
        (hub.HFValidationError, _no_name),
    ):
        if isinstance(error, kind):
            return words(job, repository)
    return _of_network(error, job) if status is None else _of_status(error, status, repository)


def _of_status(error: BaseException, status: int, repository: str) -> AIError:
    if status == 429:
        wait_s = retry_after_of(error)
        words = "a while" if wait_s is None else f"{wait_s:.0f} s"
        hint = f"log in for a higher limit; later {_KEPT}"
        return RateLimitedError(
            f"the Hub allows no more requests for {words}", hint=hint, retry_after_s=wait_s
        )
    if status == 401:
        return AuthenticationError(
            f"the Hub does not accept your token (asked for {repository})",
            hint="log in again with huggingface_hub.login(), or log out and unset HF_TOKEN: "
            "open models need no token",
        )
    if status == 403:
        return AuthenticationError(
            f"the Hub refused access to {repository} (HTTP {status})",
            hint="check the token: run huggingface_hub.login(), or set HF_TOKEN",
        )
    return ServerError(f"the Hub answered HTTP {status} for {repository}", hint=_KEPT, status_code=status)


def _of_network(error: BaseException, job: DownloadJob) -> AIError:
    kind = type(error).__name__
    words = redacted(str(error), job.token).splitlines()
    said = f": {words[0][:160]}" if words and words[0] else ""
    if "Timeout" in kind:
        return NetworkError(
            f"the server fell silent for {job.options.timeout_s:g} s, again and again", hint=_KEPT
        )
    if _is_network_error(error):
        return NetworkError(f"the connection failed ({kind}{said})", hint=f"check the network; then {_KEPT}")
    return DownloadFailedError(f"the download of {job.model_id} failed ({kind}{said})", hint=_KEPT)


def hub_utils() -> Any:
    """`huggingface_hub.utils`, untyped: what it names `httpx` is httpx in 1.x and httpx2 in 2.x."""
    return importlib.import_module("huggingface_hub.utils")


def _sends_token(job: DownloadJob) -> bool:
    """Whether a token goes along: the one given, or the one huggingface_hub finds by itself."""
    headers = hub_utils().build_hf_headers(token=job.token)
    return any(name.lower() == "authorization" for name in headers)


def _is_network_error(error: BaseException) -> bool:
    return isinstance(error, (hub_utils().httpx.TransportError, ConnectionError, TimeoutError))


def _gated(repository: str, *, has_token: bool) -> AuthenticationError:
    page = f"https://huggingface.co/{repository}"
    if has_token:
        return AuthenticationError(
            f"{repository} is gated and this token has no access",
            hint=f"accept its terms on {page}, then try again",
        )
    return AuthenticationError(
        f"{repository} is gated: its publisher wants you to accept terms first",
        hint=f"accept them on {page}, then run huggingface_hub.login() or set HF_TOKEN",
    )


def _not_found(job: DownloadJob, repository: str) -> AIError:
    if job.is_own_choice:
        return ModelNotFoundError(
            f"the Hub has no repository {repository} that you may see",
            hint="check the spelling; if it is private, run huggingface_hub.login() or set HF_TOKEN",
        )
    return ModelNotFoundError(
        f"{repository} is not on the Hub any more (moved, renamed or deleted)",
        hint="logging in will not help; choose another model with %imagine_models list",
    )


def _no_revision(job: DownloadJob, repository: str) -> AIError:
    return ModelNotFoundError(
        f"{repository} has no revision {job.revision!r}", hint="leave it out, or pick one its page shows"
    )


def _no_entry(job: DownloadJob, repository: str) -> AIError:
    return InvalidModelFilesError(
        f"{repository} misses a file it listed for {job.model_id}", hint="try again in a few minutes"
    )


def _no_name(job: DownloadJob, repository: str) -> AIError:
    return ModelNotFoundError(
        f"{repository!r} is no repository name (asked for {job.model_id})", hint='write it as "owner/name"'
    )
