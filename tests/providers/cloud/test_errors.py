"""What servers say is one line without secrets and pictures, whatever its shape."""

from __future__ import annotations

from typing import Any

import pytest

from swiftai_nb.providers.cloud.errors import HTTP_CLASSES, retry_after_s, server_message, without_secrets


class Answer:
    def __init__(self, body: Any, headers: dict[str, str] | None = None) -> None:
        self._body, self.headers, self.status_code = body, headers or {}, 400

    def json(self) -> Any:
        if isinstance(self._body, Exception):
            raise self._body
        return self._body


def failure(body: Any, headers: dict[str, str] | None = None) -> Exception:
    error = RuntimeError("raw text")
    error.response = Answer(body, headers)  # type: ignore[attr-defined]
    return error


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"error": {"message": "no such size", "code": "x"}}, ": no such size"),
        ({"error": "no such size"}, ": no such size"),
        ({"error": "server_error", "message": "no such size"}, ": no such size"),
        ({"detail": "no such size"}, ": no such size"),
        ({"message": "no\n such\tsize"}, ": no such size"),
        (["no such size"], ": ['no such size']"),
        ({}, ""),
        (ValueError("not JSON"), ""),
        (RecursionError(), ""),
    ],
)
def test_message_of_every_shape(body: Any, said: str) -> None:
    assert server_message(failure(body)) == said


def test_message_is_short() -> None:
    assert len(server_message(failure({"error": "word " * 1000}))) < 210


@pytest.mark.parametrize(
    "secret", ["hf_abcdefghij", "sk-proj-abcdefghij", "r8_abcdefghij", "Bearer anything-at-all", "mine"]
)
def test_secrets_are_left_out(secret: str) -> None:
    text = without_secrets(f"the key {secret}, was wrong", ("mine", None))
    assert secret.removeprefix("Bearer ") not in text
    assert text.startswith("the key ")


def test_pictures_are_left_out_and_words_are_not() -> None:
    text = without_secrets(
        f"bad data:image/png;base64,{'QUJD' * 100} and {'QUJD' * 100}; disk-space, task_name"
    )
    assert "QUJD" not in text
    assert text.endswith("disk-space, task_name")


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("3", 3.0), ("0.5", 0.5), ("", None), ("Wed, 21 Oct", None), ("9" * 40, None), ("-1", None)],
)
def test_retry_after(value: str, seconds: float | None) -> None:
    assert retry_after_s(failure({}, {"retry-after": value})) == seconds


def test_every_shared_rule_has_advice() -> None:
    assert all(rule.hint for rule in HTTP_CLASSES.values())
