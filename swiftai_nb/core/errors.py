"""All errors of the package, in one tree.

AIError
├── InvalidInputError (ValueError)           a value outside its limits; raised before any work
├── UnsupportedPlatformError                 this machine cannot run the local engine
├── ProviderUnavailableError                 a provider is missing or not configured
├── ModelNotFoundError (LookupError)         no such model in the catalog, or no such folder
├── ModelNotDownloadedError                  in the catalog, but not installed
├── ModelNotLoadedError                      the provider was used before a model was chosen
├── UnsupportedModelError                    the model family is not supported
├── InvalidModelFilesError                   files missing, corrupt or of the wrong shape
├── InsufficientMemoryError (MemoryError)    refused by the pre-flight check, or ran out
├── GenerationFailedError                    the engine or service failed while working
│   └── EngineDiedError                      the engine process ended (signal, abort, killed)
├── GenerationCancelledError                 the user cancelled; not a failure
├── ContentFilteredError                     a service refused the prompt or the picture
├── DownloadFailedError
│   ├── InsufficientDiskSpaceError
│   └── ChecksumMismatchError
├── DownloadCancelledError                   the user cancelled; not a failure
└── NetworkError (ConnectionError)
    ├── AuthenticationError                  no token, a bad one, or one without permission
    ├── QuotaExceededError                   credits used up, or billing not enabled
    ├── RateLimitedError                     too many requests; `retry_after_s` when known
    ├── ServerError                          the service failed; `status_code` when known
    └── GenerationTimeoutError (TimeoutError)

Each error is one line of what happened (`message`) and one line of what to try (`hint`).
In a notebook that is all it shows: no traceback, and Run All stops.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_LONGEST = 2_000  # characters of a message or a hint, which may quote what was given


class AIError(Exception):
    """Base of all errors raised by swiftai_nb.

    Args:
        message: one line: what happened, with the value at fault.
        hint: one line: what to try; None when there is nothing to try.
    """

    is_retryable = False

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        self.message = _shortened(message)
        self.hint = None if hint is None else _shortened(hint)
        super().__init__(self.message)

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}\nTry: {self.hint}"

    def _render_traceback_(self) -> list[str]:
        """IPython's hook: these lines are shown instead of a traceback."""
        return [f"{self.title}: {self.message}", *([] if self.hint is None else [f"Try: {self.hint}"])]

    @property
    def title(self) -> str:
        """The class name as text, without "Error": "Invalid input"."""
        name = type(self).__name__.removesuffix("Error")
        words = "".join(f" {c.lower()}" if c.isupper() else c for c in name).strip()
        return "AI error" if name == "AI" else words[:1].upper() + words[1:]

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form that `error_from_dict` turns back into the same class."""
        extra = {k: v for k, v in vars(self).items() if k not in ("message", "hint")}
        return {"type": type(self).__name__, "message": self.message, "hint": self.hint, "extra": extra}


def _shortened(text: str) -> str:
    """Without its middle, where it is so long that nobody reads it."""
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST * 3 // 4]} … {text[-_LONGEST // 5 :]}"


class InvalidInputError(AIError, ValueError):
    """A value is outside its limits; the message contains the value and the limit."""


class UnsupportedPlatformError(AIError):
    """This machine cannot run the local engine."""


class ProviderUnavailableError(AIError):
    """A provider is not installed, not configured, or does not start."""


class ModelNotFoundError(AIError, LookupError):
    """No model of that name is in the catalog, and no folder of that path exists."""


class ModelNotDownloadedError(AIError):
    """The model is in the catalog but not installed."""


class ModelNotLoadedError(AIError):
    """A provider was asked to generate before a model was loaded."""


class UnsupportedModelError(AIError):
    """The files belong to a model family that is not supported.

    Attributes:
        family: its name, where it is known and no model of it can be run; else "".
    """

    family: str = ""


class InvalidModelFilesError(AIError):
    """Model files are missing, corrupt, or hold tensors of the wrong shape; names them."""


class InsufficientMemoryError(AIError, MemoryError):
    """The model does not fit this machine; refused before loading, or memory ran out."""


class GenerationFailedError(AIError):
    """The engine or the service failed while generating."""


class EngineDiedError(GenerationFailedError):
    """The engine process ended during a job; the kernel is unaffected."""

    is_retryable = True


class GenerationCancelledError(AIError):
    """The user cancelled. `completed_steps` of `total_steps` were done."""

    def __init__(
        self,
        message: str = "Cancelled",
        *,
        hint: str | None = None,
        completed_steps: int = 0,
        total_steps: int = 0,
    ) -> None:
        super().__init__(message, hint=hint)
        self.completed_steps = completed_steps
        self.total_steps = total_steps

    def _render_traceback_(self) -> list[str]:
        return [self.message]


class ContentFilteredError(AIError):
    """A service refused the prompt or the picture by its content policy."""


class DownloadFailedError(AIError):
    """A download ended in an error; finished files are kept."""

    is_retryable = True


class InsufficientDiskSpaceError(DownloadFailedError):
    """The disk has no room for the download."""

    is_retryable = False


class ChecksumMismatchError(DownloadFailedError):
    """A downloaded file does not match its published checksum."""


class DownloadCancelledError(AIError):
    """The user cancelled a download; finished files are kept."""

    def _render_traceback_(self) -> list[str]:
        return [self.message]


class NetworkError(AIError, ConnectionError):
    """The service could not be reached."""

    is_retryable = True


class AuthenticationError(NetworkError):
    """No token, a wrong token, or a token without the needed permission."""

    is_retryable = False


class QuotaExceededError(NetworkError):
    """Credits are used up, or billing is not enabled for the provider."""

    is_retryable = False


class RateLimitedError(NetworkError):
    """Too many requests; `retry_after_s` seconds until the next may be sent, when known."""

    def __init__(self, message: str, *, hint: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message, hint=hint)
        self.retry_after_s = retry_after_s


class ServerError(NetworkError):
    """The service answered with a failure of its own; `status_code` when known."""

    def __init__(self, message: str, *, hint: str | None = None, status_code: int | None = None) -> None:
        super().__init__(message, hint=hint)
        self.status_code = status_code


class GenerationTimeoutError(NetworkError, TimeoutError):
    """The service did not answer in time."""


def all_error_types(base: type[AIError] = AIError) -> Iterator[type[AIError]]:
    """Yields `base` and all its subclasses, depth first."""
    yield base
    for child in base.__subclasses__():
        yield from all_error_types(child)


def error_from_dict(data: dict[str, Any]) -> AIError:
    """Rebuilds an error that crossed a process boundary (`AIError.to_dict`).

    An unknown type becomes `GenerationFailedError`, so a newer engine never crashes an older kernel. Never
    raises: values of the wrong type are replaced or left out.
    """
    types = {t.__name__: t for t in all_error_types()}
    cls = types.get(str(data.get("type")), GenerationFailedError)
    message, hint, extra = data.get("message"), data.get("hint"), data.get("extra")
    error = cls(
        message if isinstance(message, str) and message else "unknown error",
        hint=hint if isinstance(hint, str) else None,
    )
    if isinstance(extra, dict):
        vars(error).update({k: v for k, v in extra.items() if k not in ("message", "hint")})
    return error
