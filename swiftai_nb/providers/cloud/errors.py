"""Errors of HTTP clients and servers as AIErrors: what the tables of all cloud providers share."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from swiftai_nb.core.errors import (
    AIError,
    GenerationFailedError,
    GenerationTimeoutError,
    InvalidInputError,
    NetworkError,
    RateLimitedError,
    ServerError,
)

LONGEST_SERVER_MESSAGE = 200
SECRETS = re.compile(r"\b(?:hf|sk|r8)[_-][\w-]{4,}|(?<=Bearer )\S+")
_DATA = re.compile(r"data:[\w/+.-]*;base64,\S*|[A-Za-z0-9+/=]{80,}")


class Rule(NamedTuple):
    """An error to raise; {provider}, {reason} and the table's own words are filled in.

    `{other}` in a shared rule is filled in by `with_advice`.
    """

    cls: type[AIError]
    message: str
    hint: str


AGAIN = "try again"
TIMEOUT = Rule(
    GenerationTimeoutError, "{provider} did not answer in time", "try again, or give a larger timeout_s"
)
BAD_ADDRESS = Rule(InvalidInputError, "not a valid address{reason}", "give base_url as http://… or https://…")
BROKEN_CONNECTION = Rule(NetworkError, "the connection to {provider} broke", AGAIN)
FAILED_REQUEST = Rule(NetworkError, "the request to {provider} failed", AGAIN)
UNKNOWN = Rule(GenerationFailedError, "{provider} failed{reason}", "try again, or {other}")
REDIRECT = Rule(ServerError, "{provider} redirects elsewhere, which is not followed", "{other}")

# By the name of the class or of a base class: httpx's and httpx2's, Pillow's, the standard library's.
HTTP_CLASSES: dict[str, Rule] = {
    "TimeoutException": TIMEOUT,
    "TimeoutError": TIMEOUT,
    "ConnectError": Rule(
        NetworkError, "cannot reach {provider}", "check your connection, or work locally: --engine local"
    ),
    "FileNotFoundError": Rule(
        NetworkError, "a file of certificates is missing{reason}", "check SSL_CERT_FILE and SSL_CERT_DIR"
    ),
    "InvalidURL": BAD_ADDRESS,
    "UnsupportedProtocol": BAD_ADDRESS,
    "NetworkError": BROKEN_CONNECTION,
    "ProtocolError": BROKEN_CONNECTION,
    "TransportError": BROKEN_CONNECTION,
    "ProxyError": Rule(NetworkError, "the proxy refused the connection", "check HTTPS_PROXY"),
    "TooManyRedirects": Rule(ServerError, "{provider} redirects in a loop", "{other}"),
    "DecodingError": Rule(ServerError, "{provider} sent a broken answer", AGAIN),
    "RequestError": FAILED_REQUEST,
    "HTTPError": FAILED_REQUEST,
    "DecompressionBombError": Rule(
        GenerationFailedError, "{provider} sent a picture that is too large to open", "{other}"
    ),
    "JSONDecodeError": Rule(
        GenerationFailedError, "{provider} answered with something that is not JSON", "try again, or {other}"
    ),
    "UnidentifiedImageError": Rule(
        GenerationFailedError,
        "{provider} answered with something that is not a picture",
        "try again, or {other}",
    ),
    "KeyError": Rule(GenerationFailedError, "{provider} answered in an unknown format", "{other}"),
    "IndexError": Rule(
        GenerationFailedError, "{provider} answered without a picture", "try again, or {other}"
    ),
}


def with_advice(rule: Rule, other: str) -> Rule:
    """A shared rule with the provider's own advice, such as "choose another --provider"."""
    return rule._replace(hint=rule.hint.replace("{other}", other))


def rule_of_class(error: BaseException, table: Mapping[str, Rule]) -> Rule | None:
    """The rule of the error's class, or of its nearest base class that has one."""
    return next((table[cls.__name__] for cls in type(error).__mro__ if cls.__name__ in table), None)


def status_of(error: BaseException) -> int | None:
    """The HTTP status of the answer that an error is about."""
    return getattr(getattr(error, "response", None), "status_code", None)


def apply_rule(rule: Rule, error: BaseException, **values: str) -> AIError:
    """The rule's error, with the status and Retry-After of the answer."""
    ours = rule.cls(rule.message.format(**values), hint=rule.hint.format(**values))
    if isinstance(ours, ServerError):
        ours.status_code = status_of(error)
    if isinstance(ours, RateLimitedError):
        ours.retry_after_s = retry_after_s(error)
    return ours


def retry_after_s(error: BaseException) -> float | None:
    """Seconds from a Retry-After header, when it holds a plain number."""
    headers: Any = getattr(getattr(error, "response", None), "headers", None)
    text = "" if headers is None else str(headers.get("retry-after", ""))
    return float(text) if re.fullmatch(r"\d{1,9}(\.\d+)?", text) else None


def server_message(error: BaseException, secrets: Iterable[str | None] = ()) -> str:
    """What the server said, as ": one line" without secrets and pictures; "" when it said nothing."""
    text = getattr(error, "server_message", None) or _body_message(error)
    if text is None and getattr(error, "response", None) is None:
        text = str(error)
    line = without_secrets(" ".join(str(text or "").split()), secrets)
    return f": {line[:LONGEST_SERVER_MESSAGE]}" if line else ""


def without_secrets(text: str, secrets: Iterable[str | None] = ()) -> str:
    """`text` without the given secrets, whatever looks like a token, and encoded pictures."""
    for secret in secrets:
        if secret:
            text = text.replace(secret, f"{secret[:3]}…" if secret.startswith(("hf_", "sk-")) else "…")
    return _DATA.sub("…", SECRETS.sub(lambda found: f"{found[0][:3]}…", text))


def body_of(error: BaseException) -> Any:
    """The JSON of the answer that an error is about; None when there is none."""
    response: Any = getattr(error, "response", None)
    if response is None:
        return None
    try:
        return response.json()
    except (ValueError, RuntimeError, RecursionError):
        return None


def _body_message(error: BaseException) -> str | None:
    body = body_of(error)
    if isinstance(body, dict):
        # stable-diffusion.cpp: the text is beside a code; OpenAI: it is in an object; FastAPI: "detail".
        found = body.get("error", body.get("message", body.get("detail")))
        if isinstance(found, str) and isinstance(body.get("message"), str):
            found = body["message"]
    else:
        found = body
    if isinstance(found, dict):
        found = found.get("message", found)
    return None if found is None else str(found)
