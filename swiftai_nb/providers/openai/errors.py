"""Converts the errors of OpenAI's Images API, as its servers word them, to AIError by a table."""

from __future__ import annotations

from typing import Any

from swiftai_nb.core.errors import (
    AIError,
    AuthenticationError,
    ContentFilteredError,
    GenerationTimeoutError,
    InvalidInputError,
    ModelNotFoundError,
    QuotaExceededError,
    RateLimitedError,
    ServerError,
)
from swiftai_nb.providers.cloud.errors import (
    BROKEN_CONNECTION,
    HTTP_CLASSES,
    REDIRECT,
    UNKNOWN,
    Rule,
    apply_rule,
    body_of,
    rule_of_class,
    server_message,
    status_of,
    with_advice,
)
from swiftai_nb.providers.openai.server import Server, key_help

# {model}, {models} and {key} are filled in as well.
_OTHER = "choose another --model or --base-url"
_CHECK_ADDRESS = "check --model, that --base-url ends as in /v1, and whether the server changes pictures"
BAD_REQUEST = Rule(
    InvalidInputError,
    "{provider} rejected the request{reason}",
    "remove the option it names; leave size, steps and guidance to the model",
)
FILTERED = Rule(ContentFilteredError, "{provider} refused by its rules{reason}", "change the prompt")
NO_CREDITS = Rule(
    QuotaExceededError,
    "no credits left at {provider}{reason}",
    "see the billing page of the service, or work locally: --engine local",
)
NO_MODEL = Rule(ModelNotFoundError, "{provider} has no model {model}{reason}", "{models}")
SERVER_FAILED = Rule(
    ServerError,
    "{provider} failed{reason}",
    "it is not sent again, as it may have been billed; try again, or look at the server",
)

BY_STATUS: dict[int, Rule] = {
    **dict.fromkeys((301, 302, 303, 307, 308), with_advice(REDIRECT, "give the final address as --base-url")),
    401: Rule(AuthenticationError, "{provider} did not accept the key{reason}", "{key}"),
    402: NO_CREDITS,
    403: Rule(
        AuthenticationError,
        "the key has no access to {model} at {provider}{reason}",
        "some models need a verified organization; or choose another --model",
    ),
    404: NO_MODEL,
    405: Rule(InvalidInputError, "{provider} does not offer this{reason}", _OTHER),
    408: Rule(GenerationTimeoutError, "{provider} timed out{reason}", "try again"),
    409: Rule(ServerError, "{provider} reported a conflict{reason}", "try again in a moment"),
    413: Rule(InvalidInputError, "the request is too large for {provider}{reason}", "send smaller pictures"),
    429: Rule(RateLimitedError, "too many requests to {provider}{reason}", "wait a little"),
    451: FILTERED,
    501: Rule(InvalidInputError, "{provider} does not offer this{reason}", _OTHER),
    503: Rule(ServerError, "{provider} is overloaded or starting{reason}", "try again in a moment"),
}
# The error's `code` or `type` is more specific than the status.
BY_CODE: dict[str, Rule] = {
    "billing_hard_limit_reached": NO_CREDITS,
    "billing_not_active": NO_CREDITS,
    "content_filter": FILTERED,
    "content_policy_violation": FILTERED,
    "image_generation_user_error": FILTERED,
    "insufficient_quota": NO_CREDITS,
    "model_not_found": NO_MODEL,
    "moderation_blocked": FILTERED,
}
BY_CLASS = {name: with_advice(rule, _OTHER) for name, rule in HTTP_CLASSES.items()} | {
    "ConnectError": Rule(
        HTTP_CLASSES["ConnectError"].cls,
        "cannot reach {provider}",
        "start the server, or check --base-url and your connection",
    ),
}


class AnswerError(Exception):
    """An answer that is an error, or an error in a stream.

    Args:
        response: the `httpx.Response`.
        body: the error as JSON, where it is not the response's.
    """

    def __init__(self, response: Any, body: Any = None) -> None:
        super().__init__("")
        self.response = response
        self.body = body_of(self) if body is None else body
        if body is not None:
            inner = body.get("error", body)
            self.server_message = str(inner.get("message", inner) if isinstance(inner, dict) else inner)


def translate(error: BaseException, *, server: Server, model: str | None, models: list[str]) -> AIError:
    """A foreign error as an AIError with a hint; the key is never shown."""
    if isinstance(error, AIError):
        return error
    if isinstance(error, AnswerError) and model in models and _rule_of_answer(error) is NO_MODEL:
        models = []  # it is not the name that is wrong
    rule = _rule_of_answer(error) if isinstance(error, AnswerError) else rule_of_class(error, BY_CLASS)
    if rule is None:
        rule = BROKEN_CONNECTION if isinstance(error, OSError) else with_advice(UNKNOWN, _OTHER)
    listed = ", ".join(models[:8]) + (", …" if len(models) > 8 else "")
    return apply_rule(
        rule,
        error,
        model="of that name" if model is None else model,
        provider=server.name,
        reason=server_message(error, (server.key,)),
        models=f"use --model {listed}" if models else _CHECK_ADDRESS,
        key=key_help(server.base_url),
    )


def _rule_of_answer(error: AnswerError) -> Rule:
    found = error.body.get("error", error.body) if isinstance(error.body, dict) else None
    if isinstance(found, dict):
        for name in ("code", "type"):
            if isinstance(found.get(name), str) and found[name] in BY_CODE:
                return BY_CODE[found[name]]
    status = status_of(error) or 0
    return BY_STATUS.get(status, BAD_REQUEST if 400 <= status < 500 else SERVER_FAILED)
