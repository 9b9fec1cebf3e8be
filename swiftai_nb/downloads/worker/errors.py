"""Which failures of a download are retried, and which of our errors the others become. Worker only."""

from __future__ import annotations

import errno
import importlib
import threading
from collections.abc import Callable
from typing import Any, TypeVar

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
from swiftai_nb.downloads.protocol import DownloadJob, DownloadOptions, redact
from swiftai_nb.downloads.worker.reporter import ProgressMeter

T = TypeVar("T")

_RESUMES = "the download resumes where it stopped"
_TRY_AGAIN = f"try again; {_RESUMES}"
_CHECK_CONNECTION = f"check your connection and try again; {_RESUMES}"
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT}
_MAX_PAUSE_S = 20.0


class StoppedError(Exception):
    """Another file of the same download failed for good; this one need not continue."""


def with_retries(
    action: Callable[[], T],
    *,
    options: DownloadOptions,
    meter: ProgressMeter,
    stop: threading.Event,
    measure: Callable[[], int] = lambda: 0,
) -> T:
    """Runs `action` until it succeeds, fails for good, or fails `max_attempts` times without progress.

    Args:
        action: called again after a failure that is worth retrying.
        options: number of attempts and pauses.
        meter: shows every pause.
        stop: ends a pause early.
        measure: bytes on disk; a failure after new bytes restarts the count of attempts.

    Raises:
        StoppedError: `stop` was set.
        Exception: the last failure of `action`, untranslated.
    """
    failures = 0
    while True:
        before = measure()
        try:
            return action()
        except Exception as error:
            failures = 1 if measure() > before else failures + 1
            pause_s = _pause_s(error, failures, options)
            if pause_s is None:
                raise
            meter.set_retry(f"{_reason(error)}; retrying in {pause_s:.0f} s", pause_s)
        if stop.wait(pause_s):
            raise StoppedError


def _pause_s(error: Exception, failures: int, options: DownloadOptions) -> float | None:
    if failures >= options.max_attempts or not _is_worth_retrying(error):
        return None
    asked_s = _retry_after_of(error)
    if asked_s is not None:
        return asked_s if asked_s <= options.max_retry_after_s else None
    return min(options.backoff_s * 2.0 ** (failures - 1), _MAX_PAUSE_S)


def _reason(error: Exception) -> str:
    status = status_of(error)
    if status == 429:
        return "too many requests"
    if status is not None:
        return f"the server answered HTTP {status}"
    return "the server timed out" if "Timeout" in type(error).__name__ else "the connection was lost"


def status_of(error: BaseException) -> int | None:
    """The HTTP status an error carries, if any."""
    return getattr(getattr(error, "response", None), "status_code", None)


def _retry_after_of(error: BaseException) -> float | None:
    """Seconds the server asked to wait (Retry-After as a number), if it did."""
    headers: Any = getattr(getattr(error, "response", None), "headers", None) or {}
    try:
        return max(0.0, float(headers.get("Retry-After", "")))
    except ValueError:
        return None


def _is_worth_retrying(error: BaseException) -> bool:
    """Lost connections, timeouts, 408, 429 and 5xx are; refusals and full disks are not."""
    if isinstance(error, AIError):
        return error.is_retryable
    status = status_of(error)
    if status is not None:
        return status in (408, 425, 429) or status >= 500
    return _is_network_error(error)


def _is_network_error(error: BaseException) -> bool:
    return isinstance(error, (hub_utils().httpx.TransportError, ConnectionError, TimeoutError))


def is_disk_full(error: BaseException) -> bool:
    """Whether the disk (or the user's quota) is full."""
    return isinstance(error, OSError) and error.errno in _DISK_FULL


def hub_utils() -> Any:
    """`huggingface_hub.utils`, untyped: what it names `httpx` is httpx in 1.x and httpx2 in 2.x."""
    return importlib.import_module("huggingface_hub.utils")


def translate(error: BaseException, job: DownloadJob, *, repository: str, is_gated: bool = False) -> AIError:
    """The one of our errors that a failure of a download becomes."""
    if isinstance(error, AIError):
        return error
    if is_disk_full(error):
        return InsufficientDiskSpaceError(
            f"the disk filled up while downloading {job.model_id}",
            hint=f"free some space and {_TRY_AGAIN}",
        )
    if isinstance(error, OSError) and not _is_network_error(error) and status_of(error) is None:
        where = f" ({error.filename})" if error.filename else ""
        return DownloadFailedError(
            f"cannot write to the model cache{where}: {error.strerror or error}",
            hint=f"check that {job.cache_dir} is writable, or set HF_HOME to another folder",
        )
    return _of_hub(error, job, repository=repository, is_gated=is_gated)


def _of_hub(error: BaseException, job: DownloadJob, *, repository: str, is_gated: bool) -> AIError:
    from huggingface_hub import errors as hub

    status = status_of(error)
    # GatedRepoError is a RepositoryNotFoundError: the special one goes first.
    if isinstance(error, hub.GatedRepoError) or (is_gated and status in (401, 403)):
        return _gated(repository, has_token=_sends_token(job))
    if isinstance(error, hub.RepositoryNotFoundError):
        return _repository_not_found(job, repository)
    if isinstance(error, hub.RevisionNotFoundError):
        return ModelNotFoundError(
            f"{repository} has no revision {job.revision or 'main'!r}",
            hint="use a branch, tag or commit that its page shows",
        )
    if isinstance(error, hub.EntryNotFoundError):
        return InvalidModelFilesError(
            f"{repository} lists a file for {job.model_id} that it does not have",
            hint="try again in a few minutes",
        )
    if isinstance(error, hub.HFValidationError):
        return ModelNotFoundError(
            f"{repository!r} is not a repository name (needed for {job.model_id})",
            hint='write it as "owner/name"',
        )
    return _of_network(error, job) if status is None else _of_status(error, status, repository)


def _of_status(error: BaseException, status: int, repository: str) -> AIError:
    if status == 429:
        wait_s = _retry_after_of(error)
        duration = "a while" if wait_s is None else f"{wait_s:.0f} s"
        return RateLimitedError(
            f"the Hub accepts no more requests for {duration}",
            hint=f"log in for a higher limit, or try again later; {_RESUMES}",
            retry_after_s=wait_s,
        )
    if status == 401:
        return AuthenticationError(
            f"the Hub does not accept your token (for {repository})",
            hint="log in again with huggingface_hub.login(), or log out and unset HF_TOKEN: "
            "open models need no token",
        )
    if status == 403:
        return AuthenticationError(
            f"the Hub refused access to {repository} (HTTP {status})",
            hint="check the token: run huggingface_hub.login(), or set HF_TOKEN",
        )
    return ServerError(
        f"the Hub answered HTTP {status} for {repository}", hint=_TRY_AGAIN, status_code=status
    )


def _of_network(error: BaseException, job: DownloadJob) -> AIError:
    kind = type(error).__name__
    lines = redact(str(error), job.token).splitlines()
    detail = f": {lines[0][:160]}" if lines and lines[0] else ""
    if "Timeout" in kind:
        return NetworkError(
            f"the server timed out after {job.options.max_attempts} attempts of {job.options.timeout_s:g} s",
            hint=_CHECK_CONNECTION,
        )
    if _is_network_error(error):
        return NetworkError(f"the connection failed ({kind}{detail})", hint=_CHECK_CONNECTION)
    return DownloadFailedError(f"the download of {job.model_id} failed ({kind}{detail})", hint=_TRY_AGAIN)


def _sends_token(job: DownloadJob) -> bool:
    """Whether a token is sent: the job's, or the one huggingface_hub finds itself."""
    headers = hub_utils().build_hf_headers(token=job.token)
    return any(name.lower() == "authorization" for name in headers)


def _gated(repository: str, *, has_token: bool) -> AuthenticationError:
    page = f"https://huggingface.co/{repository}"
    if has_token:
        return AuthenticationError(
            f"{repository} is gated and this token has no access",
            hint=f"accept its terms on {page}, then try again",
        )
    return AuthenticationError(
        f"{repository} is gated: its publisher requires you to accept terms first",
        hint=f"accept them on {page}, then run huggingface_hub.login() or set HF_TOKEN",
    )


def _repository_not_found(job: DownloadJob, repository: str) -> AIError:
    if job.is_own_choice:
        return ModelNotFoundError(
            f"the Hub has no repository {repository} that you have access to",
            hint="check the spelling; if it is private, run huggingface_hub.login() or set HF_TOKEN",
        )
    return ModelNotFoundError(
        f"{repository} is not on the Hub any more (moved, renamed or deleted)",
        hint="logging in will not help; choose another model with %imagine_models list",
    )
