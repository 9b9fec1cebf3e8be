"""No class of the library's exceptions falls through to a nameless failure."""

from __future__ import annotations

import inspect

import pytest
from huggingface_hub import errors as hub_errors

from swiftai_nb.core.errors import AIError
from swiftai_nb.providers.huggingface.errors import BY_CLASS, BY_STATUS, translate
from swiftai_nb.providers.huggingface.hub import Route

# Classes that no inference call can raise: local files, command line, other products.
ELSEWHERE = (
    "Cache", "Corrupted", "DryRun", "FileMetadata", "FileDuplication", "DDUF", "StrictDataclass", "Xet",
    "CLI", "Confirmation", "Sandbox", "Safetensors", "NotASafetensors", "OAuthErrorCode",
)  # fmt: skip


def foreign_classes() -> list[type[BaseException]]:
    own = [c for _, c in inspect.getmembers(hub_errors, inspect.isclass) if issubclass(c, BaseException)]
    return [c for c in own if c.__module__ == hub_errors.__name__ and not c.__name__.startswith(ELSEWHERE)]


def http_classes() -> list[type[BaseException]]:
    from huggingface_hub.utils import httpx

    found = [c for _, c in inspect.getmembers(httpx, inspect.isclass) if issubclass(c, BaseException)]
    # Misuse of a response object is a programming error, not something a server can cause.
    return [
        c
        for c in found
        if issubclass(c, (httpx.HTTPError, httpx.InvalidURL)) and c is not httpx.HTTPStatusError
    ]


@pytest.mark.parametrize("kind", foreign_classes() + http_classes(), ids=lambda c: c.__name__)
def test_every_class_has_a_rule(kind: type[BaseException]) -> None:
    assert any(base.__name__ in BY_CLASS for base in kind.__mro__)


@pytest.mark.parametrize("rule", [*BY_STATUS.values(), *BY_CLASS.values()], ids=lambda r: r[1][:30])
def test_every_rule_makes_a_whole_sentence_and_a_remedy(rule: tuple[type[AIError], str, str]) -> None:
    cls, message, remedy = rule
    words = {"model": "m", "provider": "p", "reason": "", "instead": "i", "token": "t"}
    error = cls(message.format(**words), hint=remedy.format(**words))
    assert error.message
    assert error.hint
    assert len(error.hint) > 0


@pytest.mark.parametrize(
    "error",
    [ValueError("api_key please log in"), RuntimeError("coroutine raised StopIteration"), StopIteration(),
     OSError("gone"), KeyError("data"), ZeroDivisionError(), TypeError("x"), TimeoutError(), AIError("ours", hint="h")],
    ids=repr,
)  # fmt: skip
def test_anything_becomes_ours(error: BaseException) -> None:
    ours = translate(error, route=Route("acme/m", "p"))
    assert isinstance(ours, AIError)
    assert ours.hint


def test_token_never_appears() -> None:
    token = "sk-not-the-usual-form"
    ours = translate(ValueError(f"bad key {token} or hf_abcdefgh"), route=Route("acme/m", "p"), token=token)
    assert token not in str(ours)
    assert "hf_abcdefgh" not in str(ours)
