"""docs/troubleshooting.md lists every error there is, and none that is not."""

from __future__ import annotations

import ast
import re
from functools import cache

import pytest

from swiftai_nb.core.errors import AIError, DownloadCancelledError, GenerationCancelledError, all_error_types
from tests.docs.pages import DOCS, ROOT, table_rows

PAGE = (DOCS / "troubleshooting.md").read_text("utf-8")
BY_TITLE, BY_MESSAGE = PAGE.split("## By title")[1].split("## By message")
OUTCOMES = (GenerationCancelledError, DownloadCancelledError)


def raised_somewhere() -> set[type[AIError]]:
    """The errors that some module other than their own names."""
    code = "\n".join(
        path.read_text("utf-8")
        for path in (ROOT / "swiftai_nb").rglob("*.py")
        if path.name != "errors.py" or path.parent.name != "core"
    )
    return {e for e in all_error_types() if e is not AIError and re.search(rf"\b{e.__name__}\b", code)}


@cache
def texts() -> list[str]:
    """Every literal text of the package, with the values of f-strings as `…`."""
    found = []
    for path in (ROOT / "swiftai_nb").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = (p.value if isinstance(p, ast.Constant) else "…" for p in node.values)
                found.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


def test_every_title_that_can_be_seen_is_listed_and_no_other() -> None:
    listed = {row[0] for row in table_rows(BY_TITLE)} - {"Title"}
    outcome = {title for title in listed if title.startswith("Cancelled at step")}
    assert listed - outcome == {e("").title for e in raised_somewhere() if e not in OUTCOMES}
    assert outcome


MESSAGES = [row[0].strip("`") for row in table_rows(BY_MESSAGE) if row[0].startswith("`")]


@pytest.mark.parametrize("message", MESSAGES)
def test_message_is_one_that_the_code_can_say(message: str) -> None:
    pieces = [piece for piece in message.split("…") if piece.strip(" :,(;.")]
    assert any(all(piece.strip() in text for piece in pieces) for text in texts()), message


def test_many_messages_are_listed() -> None:
    assert len(MESSAGES) >= 20
