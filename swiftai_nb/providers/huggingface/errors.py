"""Converts errors of huggingface_hub and httpx to AIError by a table; a test covers every class of both."""

from __future__ import annotations

from swiftai_nb.core.errors import (
    AIError,
    AuthenticationError,
    ContentFilteredError,
    GenerationTimeoutError,
    InvalidInputError,
    ModelNotFoundError,
    ProviderUnavailableError,
    QuotaExceededError,
    RateLimitedError,
    ServerError,
)
from swiftai_nb.providers.cloud.errors import (
    AGAIN,
    BROKEN_CONNECTION,
    HTTP_CLASSES,
    REDIRECT,
    TIMEOUT,
    UNKNOWN,
    Rule,
    apply_rule,
    rule_of_class,
    server_message,
    status_of,
    with_advice,
)
from swiftai_nb.providers.huggingface.hub import TOKEN_PAGE, Route, other_models, token_help

# {model}, {instead} and {token} are filled in as well.
_OTHER_PROVIDER = "choose another --provider"
_RETRY = f"{AGAIN}, or {_OTHER_PROVIDER}"
_ON_THE_HUB = "look at it on the Hub"

BAD_REQUEST = Rule(
    InvalidInputError,
    "{provider} rejected the request{reason}",
    "leave size, steps and guidance to the provider",
)
NO_TOKEN = Rule(AuthenticationError, "no token", "{token}")
SIGN_IN = Rule(AuthenticationError, "authentication failed{reason}", "{token}")
NO_REVISION = Rule(ModelNotFoundError, "{model} has no such revision", "remove the revision")
NO_MODEL_ID = Rule(InvalidInputError, "{model!r} is not a model id", "write it as owner/name")
NO_STORAGE = Rule(ModelNotFoundError, "a storage bucket is missing on the Hub", "{instead}")
NOT_SERVED = Rule(ModelNotFoundError, "no provider serves {model} now", "{instead}")
PROVIDER_FAILED = Rule(ServerError, "{provider} failed{reason}", _RETRY)
CANNOT_TAKE = Rule(InvalidInputError, "{provider} cannot take this request{reason}", "{instead}")

BY_STATUS: dict[int, Rule] = {
    **dict.fromkeys((301, 302, 303, 307, 308), with_advice(REDIRECT, _OTHER_PROVIDER)),
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
    413: Rule(
        InvalidInputError,
        "the request is too large for {provider}{reason}",
        "shorten the prompt, or send smaller pictures",
    ),
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

# By the name of the class or of a base class, on both majors of the library.
BY_CLASS: dict[str, Rule] = {
    **{name: with_advice(rule, _OTHER_PROVIDER) for name, rule in HTTP_CLASSES.items()},
    "OfflineModeIsEnabled": Rule(
        ProviderUnavailableError,
        "offline mode is on (HF_HUB_OFFLINE)",
        "unset HF_HUB_OFFLINE, or work locally: --engine local",
    ),
    "InferenceTimeoutError": TIMEOUT,
    "InferenceEndpointTimeoutError": Rule(
        GenerationTimeoutError, "the endpoint did not start in time", f"try again, or {_ON_THE_HUB}"
    ),
    "InferenceEndpointError": Rule(ServerError, "the endpoint failed{reason}", _ON_THE_HUB),
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
    "BucketBatchError": Rule(ServerError, "a storage bucket failed", AGAIN),
    "JobNotFoundError": Rule(ServerError, "the provider no longer has the job", AGAIN),
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
    "StopIteration": NOT_SERVED,
}
_UNKNOWN = with_advice(UNKNOWN, _OTHER_PROVIDER)
# Classes whose HTTP status is more specific than they are; their subclasses are more specific than it.
_PLAIN_HTTP = ("HfHubHTTPError", "HTTPStatusError", "BadRequestError")


def translate(error: BaseException, *, route: Route, token: str | None = None) -> AIError:
    """An exception of the library as an AIError with a hint; the token is never shown."""
    if isinstance(error, AIError):
        return error
    rule = BY_STATUS.get(status_of(error) or 0) if type(error).__name__ in _PLAIN_HTTP else None
    rule = rule_of_class(error, BY_CLASS) if rule is None else rule
    return apply_rule(
        _by_text(error) if rule is None else rule,
        error,
        model=route.model,
        provider=route.provider,
        reason=server_message(error, (token,)),
        instead=other_models(route.model, route.task),
        token=token_help(),
    )


def _by_text(error: BaseException) -> Rule:
    text = str(error)
    if "api_key" in text or "log in" in text:
        return NO_TOKEN
    if "StopIteration" in text:
        return NOT_SERVED
    if isinstance(error, (ValueError, TypeError)):
        return CANNOT_TAKE
    return BROKEN_CONNECTION if isinstance(error, OSError) else _UNKNOWN
