"""Foreign errors become ours, once. The table is data; a test walks every class of the library."""

from __future__ import annotations

import re
from typing import Any

from swiftai_nb.core.errors import (
    AIError,
    AuthenticationError,
    ContentFilteredError,
    GenerationFailedError,
    GenerationTimeoutError,
    InvalidInputError,
    ModelNotFoundError,
    NetworkError,
    ProviderUnavailableError,
    QuotaExceededError,
    RateLimitedError,
    ServerError,
)
from swiftai_nb.providers.huggingface.routing import Route, instead_of
from swiftai_nb.providers.huggingface.token import TOKEN_PAGE, how_to_give_a_token

LONGEST_SERVER_MESSAGE = 200

# HTTP status -> (our class, message, remedy). {model}, {provider} and {said} are filled in.
BY_STATUS: dict[int, tuple[type[AIError], str, str]] = {
    400: (
        InvalidInputError,
        "{provider} refused the request{said}",
        "leave size, steps and guidance to the provider",
    ),
    401: (AuthenticationError, "the token was not accepted{said}", "{token}"),
    402: (
        QuotaExceededError,
        "no credits left, or {provider} is not enabled for pay-as-you-go{said}",
        "see huggingface.co/settings/billing, choose another --provider, or work locally: --engine local",
    ),
    403: (
        AuthenticationError,
        "the token may not call {provider}{said}",
        f"give it the permission Inference Providers at {TOKEN_PAGE}; accept the model's terms if it has any",
    ),
    404: (ModelNotFoundError, "{provider} does not serve {model}{said}", "{instead}"),
    408: (GenerationTimeoutError, "{provider} gave up waiting{said}", "try again, or another --provider"),
    409: (ServerError, "{provider} is in conflict with itself{said}", "try again in a moment"),
    410: (ModelNotFoundError, "{provider} no longer serves {model}{said}", "{instead}"),
    413: (InvalidInputError, "the request is too large for {provider}{said}", "shorten the prompt"),
    422: (
        InvalidInputError,
        "{provider} refuses a setting{said}",
        "leave out the option it names, or choose another --provider",
    ),
    429: (
        RateLimitedError,
        "too many requests to {provider}{said}",
        "wait a little, or choose another --provider",
    ),
    451: (ContentFilteredError, "{provider} refused for legal reasons{said}", "change the prompt"),
}

# Class name -> (our class, message, remedy): the library's own classes and httpx's, on both majors.
BY_CLASS: dict[str, tuple[type[AIError], str, str]] = {
    "OfflineModeIsEnabled": (
        ProviderUnavailableError,
        "offline mode is on (HF_HUB_OFFLINE)",
        "unset HF_HUB_OFFLINE, or work locally: --engine local",
    ),
    "InferenceTimeoutError": (
        GenerationTimeoutError,
        "{provider} did not answer in time",
        "try again, or give a larger timeout_s",
    ),
    "InferenceEndpointTimeoutError": (
        GenerationTimeoutError,
        "the endpoint did not start in time",
        "try again, or look at it on the Hub",
    ),
    "InferenceEndpointError": (ServerError, "the endpoint failed{said}", "look at it on the Hub"),
    "TimeoutException": (
        GenerationTimeoutError,
        "{provider} did not answer in time",
        "try again, or give a larger timeout_s",
    ),
    "TimeoutError": (
        GenerationTimeoutError,
        "{provider} did not answer in time",
        "try again, or give a larger timeout_s",
    ),
    "ConnectError": (
        NetworkError,
        "cannot reach {provider}",
        "check the network, or work locally: --engine local",
    ),
    "InvalidURL": (InvalidInputError, "not a valid address{said}", "give base_url as http://… or https://…"),
    "UnsupportedProtocol": (
        InvalidInputError,
        "not a valid address{said}",
        "give base_url as http://… or https://…",
    ),
    "NetworkError": (NetworkError, "the connection to {provider} broke", "try again"),
    "ProtocolError": (NetworkError, "the connection to {provider} broke", "try again"),
    "TransportError": (NetworkError, "the connection to {provider} broke", "try again"),
    "ProxyError": (NetworkError, "the proxy refused the connection", "check HTTPS_PROXY"),
    "TooManyRedirects": (ServerError, "{provider} redirects in circles", "choose another --provider"),
    "DecodingError": (ServerError, "{provider} sent a broken answer", "try again"),
    "RequestError": (NetworkError, "the request to {provider} failed", "try again"),
    "GatedRepoError": (
        AuthenticationError,
        "{model} is gated",
        "accept its terms on its Hub page with the account of your token",
    ),
    "RepositoryNotFoundError": (
        ModelNotFoundError,
        "there is no model {model} on the Hub, or it is private",
        "{instead}",
    ),
    "DisabledRepoError": (ModelNotFoundError, "{model} has been disabled on the Hub", "{instead}"),
    "RevisionNotFoundError": (ModelNotFoundError, "{model} has no such revision", "leave the revision out"),
    "RevisionResolutionError": (ModelNotFoundError, "{model} has no such revision", "leave the revision out"),
    "EntryNotFoundError": (ModelNotFoundError, "a file of {model} is missing on the Hub", "{instead}"),
    "BucketNotFoundError": (ModelNotFoundError, "a storage bucket is missing on the Hub", "{instead}"),
    "BucketBatchError": (ServerError, "a storage bucket failed", "try again"),
    "JobNotFoundError": (ServerError, "the provider lost the job", "try again"),
    "BadRequestError": (
        InvalidInputError,
        "{provider} refused the request{said}",
        "leave size, steps and guidance to the provider",
    ),
    "LocalTokenNotFoundError": (AuthenticationError, "no token", "{token}"),
    "OIDCError": (AuthenticationError, "signing in failed{said}", "{token}"),
    "DeviceCodeError": (AuthenticationError, "signing in failed{said}", "{token}"),
    "HFValidationError": (InvalidInputError, "{model!r} is not a model id", "write it as owner/name"),
    "HfUriError": (InvalidInputError, "{model!r} is not a model id", "write it as owner/name"),
    "OverloadedError": (ServerError, "{provider} is overloaded", "try again in a moment"),
    "ValidationError": (
        InvalidInputError,
        "{provider} refuses a setting{said}",
        "leave out the option it names",
    ),
    "TextGenerationError": (
        ServerError,
        "{provider} failed{said}",
        "try again, or choose another --provider",
    ),
    "UnidentifiedImageError": (
        GenerationFailedError,
        "{provider} answered with something that is not a picture",
        "try again, or choose another --provider",
    ),
    "DecompressionBombError": (
        GenerationFailedError,
        "{provider} sent a picture of absurd size",
        "choose another --provider",
    ),
    "JSONDecodeError": (
        GenerationFailedError,
        "{provider} answered with something that is not JSON",
        "try again, or choose another --provider",
    ),
    "KeyError": (
        GenerationFailedError,
        "{provider} answered in an unknown form",
        "choose another --provider",
    ),
    "IndexError": (
        GenerationFailedError,
        "{provider} answered without a picture",
        "try again, or choose another --provider",
    ),
    "StopIteration": (ModelNotFoundError, "no provider serves {model} now", "{instead}"),
    "HfHubHTTPError": (ServerError, "{provider} failed{said}", "try again, or choose another --provider"),
    "HTTPError": (NetworkError, "the request to {provider} failed", "try again"),
}


def translate(error: BaseException, *, route: Route, token: str | None = None) -> AIError:
    """FairSlots whatever the library raised into an AIError with a remedy; never shows the token."""
    if isinstance(error, AIError):
        return error
    status = getattr(getattr(error, "response", None), "status_code", None)
    names = [cls.__name__ for cls in type(error).__mro__]
    # Only the plain HTTP error is told by its status: its subclasses say more than their number.
    rule = (
        BY_STATUS.get(status or 0)
        if names[0] in ("HfHubHTTPError", "HTTPStatusError", "BadRequestError")
        else None
    )
    if rule is None:
        rule = next((BY_CLASS[name] for name in names if name in BY_CLASS), None)
    if rule is None:
        rule = _by_text(error)
    cls, message, remedy = rule
    words = {
        "model": route.model,
        "provider": route.provider,
        "said": _said(error, token),
        "instead": instead_of(route.model),
        "token": how_to_give_a_token(),
    }
    ours = cls(message.format(**words), hint=remedy.format(**words))
    if isinstance(ours, ServerError):
        ours.status_code = status
    if isinstance(ours, RateLimitedError):
        ours.retry_after_s = retry_after_s(error)
    return ours


def _by_text(error: BaseException) -> tuple[type[AIError], str, str]:
    text = str(error)
    if "api_key" in text or "log in" in text:
        return AuthenticationError, "no token", "{token}"
    if "StopIteration" in text:
        return BY_CLASS["StopIteration"]
    if isinstance(error, (ValueError, TypeError)):
        return InvalidInputError, "{provider} cannot take this request{said}", "{instead}"
    if isinstance(error, OSError):
        return BY_CLASS["NetworkError"]
    return GenerationFailedError, "{provider} failed{said}", "try again, or choose another --provider"


def retry_after_s(error: BaseException) -> float | None:
    """Seconds from a Retry-After header, when it holds a plain number."""
    headers: Any = getattr(getattr(error, "response", None), "headers", None)
    text = "" if headers is None else str(headers.get("retry-after", ""))
    return float(text) if re.fullmatch(r"\d+(\.\d+)?", text) else None


def _said(error: BaseException, token: str | None) -> str:
    text = getattr(error, "server_message", None) or _body_message(error)
    if text is None and getattr(error, "response", None) is None:
        text = str(error)
    line = " ".join(str(text or "").split())
    for secret in (token, *re.findall(r"hf_\w{4,}", line)):
        if secret:
            line = line.replace(secret, "hf_…")
    return f": {line[:LONGEST_SERVER_MESSAGE]}" if line else ""


def _body_message(error: BaseException) -> str | None:
    response: Any = getattr(error, "response", None)
    if response is None:
        return None
    try:
        body = response.json()
    except (ValueError, RuntimeError, UnicodeDecodeError):
        return None
    found = body.get("error", body.get("message", body.get("detail"))) if isinstance(body, dict) else body
    if isinstance(found, dict):
        found = found.get("message", found)
    return None if found is None else str(found)
