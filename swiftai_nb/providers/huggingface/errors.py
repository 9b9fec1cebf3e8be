"""Converts errors of huggingface_hub and httpx to AIError by a table; a test covers every class of both."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

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
from swiftai_nb.providers.huggingface.hub import TOKEN_PAGE, Route, other_models, token_help

LONGEST_SERVER_MESSAGE = 200


class Rule(NamedTuple):
    """An error to raise; {model}, {provider}, {reason}, {instead} and {token} are filled in."""

    cls: type[AIError]
    message: str
    hint: str


_RETRY = "try again, or choose another --provider"
_AGAIN = "try again"
_OTHER_PROVIDER = "choose another --provider"
_ON_THE_HUB = "look at it on the Hub"

BAD_REQUEST = Rule(
    InvalidInputError,
    "{provider} rejected the request{reason}",
    "leave size, steps and guidance to the provider",
)
TIMEOUT = Rule(
    GenerationTimeoutError,
    "{provider} did not answer in time",
    "try again, or give a larger timeout_s",
)
BAD_ADDRESS = Rule(
    InvalidInputError,
    "not a valid address{reason}",
    "give base_url as http://… or https://…",
)
BROKEN_CONNECTION = Rule(NetworkError, "the connection to {provider} broke", _AGAIN)
FAILED_REQUEST = Rule(NetworkError, "the request to {provider} failed", _AGAIN)
NO_TOKEN = Rule(AuthenticationError, "no token", "{token}")
SIGN_IN = Rule(AuthenticationError, "authentication failed{reason}", "{token}")
NO_REVISION = Rule(ModelNotFoundError, "{model} has no such revision", "remove the revision")
NO_MODEL_ID = Rule(InvalidInputError, "{model!r} is not a model id", "write it as owner/name")
NO_STORAGE = Rule(ModelNotFoundError, "a storage bucket is missing on the Hub", "{instead}")
NOT_SERVED = Rule(ModelNotFoundError, "no provider serves {model} now", "{instead}")
PROVIDER_FAILED = Rule(ServerError, "{provider} failed{reason}", _RETRY)
UNKNOWN = Rule(GenerationFailedError, "{provider} failed{reason}", _RETRY)

BY_STATUS: dict[int, Rule] = {
    400: BAD_REQUEST,
    401: Rule(AuthenticationError, "the token was not accepted{reason}", "{token}"),
    402: Rule(
        QuotaExceededError,
        "no credits left, or {provider} is not enabled for pay-as-you-go{reason}",
        "see huggingface.co/settings/billing, choose another --provider, or work locally: --engine local",
    ),
    403: Rule(
        AuthenticationError,
        "the token has no permission to call {provider}{reason}",
        f"give it the permission Inference Providers at {TOKEN_PAGE}; accept the model's terms if it has any",
    ),
    404: Rule(ModelNotFoundError, "{provider} does not serve {model}{reason}", "{instead}"),
    408: Rule(
        GenerationTimeoutError, "{provider} timed out{reason}", "try again, or choose another --provider"
    ),
    409: Rule(ServerError, "{provider} reported a conflict{reason}", "try again in a moment"),
    410: Rule(ModelNotFoundError, "{provider} no longer serves {model}{reason}", "{instead}"),
    413: Rule(InvalidInputError, "the request is too large for {provider}{reason}", "shorten the prompt"),
    422: Rule(
        InvalidInputError,
        "{provider} rejected a setting{reason}",
        "remove the option it names, or choose another --provider",
    ),
    429: Rule(
        RateLimitedError,
        "too many requests to {provider}{reason}",
        "wait a little, or choose another --provider",
    ),
    451: Rule(ContentFilteredError, "{provider} refused for legal reasons{reason}", "change the prompt"),
}

# By the name of the class or of a base class: huggingface_hub's own and httpx's, on both majors.
BY_CLASS: dict[str, Rule] = {
    "OfflineModeIsEnabled": Rule(
        ProviderUnavailableError,
        "offline mode is on (HF_HUB_OFFLINE)",
        "unset HF_HUB_OFFLINE, or work locally: --engine local",
    ),
    "InferenceTimeoutError": TIMEOUT,
    "TimeoutException": TIMEOUT,
    "TimeoutError": TIMEOUT,
    "InferenceEndpointTimeoutError": Rule(
        GenerationTimeoutError, "the endpoint did not start in time", f"try again, or {_ON_THE_HUB}"
    ),
    "InferenceEndpointError": Rule(ServerError, "the endpoint failed{reason}", _ON_THE_HUB),
    "ConnectError": Rule(
        NetworkError,
        "cannot reach {provider}",
        "check your connection, or work locally: --engine local",
    ),
    "InvalidURL": BAD_ADDRESS,
    "UnsupportedProtocol": BAD_ADDRESS,
    "NetworkError": BROKEN_CONNECTION,
    "ProtocolError": BROKEN_CONNECTION,
    "TransportError": BROKEN_CONNECTION,
    "ProxyError": Rule(NetworkError, "the proxy refused the connection", "check HTTPS_PROXY"),
    "TooManyRedirects": Rule(ServerError, "{provider} redirects in a loop", _OTHER_PROVIDER),
    "DecodingError": Rule(ServerError, "{provider} sent a broken answer", _AGAIN),
    "RequestError": FAILED_REQUEST,
    "HTTPError": FAILED_REQUEST,
    "GatedRepoError": Rule(
        AuthenticationError,
        "{model} is gated",
        "accept its terms on its Hub page with the account of your token",
    ),
    "RepositoryNotFoundError": Rule(
        ModelNotFoundError, "there is no model {model} on the Hub, or it is private", "{instead}"
    ),
    "DisabledRepoError": Rule(ModelNotFoundError, "{model} has been disabled on the Hub", "{instead}"),
    "RevisionNotFoundError": NO_REVISION,
    "RevisionResolutionError": NO_REVISION,
    "EntryNotFoundError": Rule(ModelNotFoundError, "a file of {model} is missing on the Hub", "{instead}"),
    "BucketNotFoundError": NO_STORAGE,
    "BucketBatchError": Rule(ServerError, "a storage bucket failed", _AGAIN),
    "JobNotFoundError": Rule(ServerError, "the provider no longer has the job", _AGAIN),
    "BadRequestError": BAD_REQUEST,
    "LocalTokenNotFoundError": NO_TOKEN,
    "OIDCError": SIGN_IN,
    "DeviceCodeError": SIGN_IN,
    "HFValidationError": NO_MODEL_ID,
    "HfUriError": NO_MODEL_ID,
    "OverloadedError": Rule(ServerError, "{provider} is overloaded", "try again in a moment"),
    "ValidationError": Rule(
        InvalidInputError, "{provider} rejected a setting{reason}", "remove the option it names"
    ),
    "TextGenerationError": PROVIDER_FAILED,
    "HfHubHTTPError": PROVIDER_FAILED,
    "UnidentifiedImageError": Rule(
        GenerationFailedError, "{provider} answered with something that is not a picture", _RETRY
    ),
    "DecompressionBombError": Rule(
        GenerationFailedError, "{provider} sent a picture that is too large to open", _OTHER_PROVIDER
    ),
    "JSONDecodeError": Rule(
        GenerationFailedError, "{provider} answered with something that is not JSON", _RETRY
    ),
    "KeyError": Rule(GenerationFailedError, "{provider} answered in an unknown format", _OTHER_PROVIDER),
    "IndexError": Rule(GenerationFailedError, "{provider} answered without a picture", _RETRY),
    "StopIteration": NOT_SERVED,
}
# Classes whose HTTP status is more specific than they are; their subclasses are more specific than it.
_PLAIN_HTTP = ("HfHubHTTPError", "HTTPStatusError", "BadRequestError")


def translate(error: BaseException, *, route: Route, token: str | None = None) -> AIError:
    """An exception of the library as an AIError with a hint; the token is never shown."""
    if isinstance(error, AIError):
        return error
    status = getattr(getattr(error, "response", None), "status_code", None)
    names = [cls.__name__ for cls in type(error).__mro__]
    rule = BY_STATUS.get(status or 0) if names[0] in _PLAIN_HTTP else None
    if rule is None:
        rule = next((BY_CLASS[name] for name in names if name in BY_CLASS), None)
    if rule is None:
        rule = _by_text(error)
    values = {
        "model": route.model,
        "provider": route.provider,
        "reason": _server_message(error, token),
        "instead": other_models(route.model),
        "token": token_help(),
    }
    ours = rule.cls(rule.message.format(**values), hint=rule.hint.format(**values))
    if isinstance(ours, ServerError):
        ours.status_code = status
    if isinstance(ours, RateLimitedError):
        ours.retry_after_s = retry_after_s(error)
    return ours


def _by_text(error: BaseException) -> Rule:
    text = str(error)
    if "api_key" in text or "log in" in text:
        return NO_TOKEN
    if "StopIteration" in text:
        return NOT_SERVED
    if isinstance(error, (ValueError, TypeError)):
        return Rule(InvalidInputError, "{provider} cannot take this request{reason}", "{instead}")
    return BROKEN_CONNECTION if isinstance(error, OSError) else UNKNOWN


def retry_after_s(error: BaseException) -> float | None:
    """Seconds from a Retry-After header, when it holds a plain number."""
    headers: Any = getattr(getattr(error, "response", None), "headers", None)
    text = "" if headers is None else str(headers.get("retry-after", ""))
    return float(text) if re.fullmatch(r"\d+(\.\d+)?", text) else None


def _server_message(error: BaseException, token: str | None) -> str:
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
