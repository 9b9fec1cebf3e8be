"""Prompts that change during a run, with the examples of AUTOMATIC1111's own documentation."""

from __future__ import annotations

import time

import pytest

from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.core.prompt_editing import MAX_TEXTS, edited_prompts
from tests.waiting import LINEAR_TIME_S


def changes(prompt: str, steps: int = 10) -> list[tuple[int, str]]:
    return [(first, text) for first, (text,) in edited_prompts([prompt], steps)]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("test", [(0, "test")]),
        ("a [b:3]", [(0, "a "), (3, "a b")]),
        ("a [b: 3]", [(0, "a "), (3, "a b")]),
        ("a [[[b]]:2]", [(0, "a "), (2, "a [[b]]")]),
        ("[(a:2):3]", [(0, ""), (3, "(a:2)")]),
        ("a [b : c : 1] d", [(0, "a b  d"), (1, "a  c  d")]),
        ("a[b:[c:d:2]:1]e", [(0, "abe"), (1, "ace"), (2, "ade")]),
        ("a [unbalanced", [(0, "a [unbalanced")]),
        ("a [b:.5] c", [(0, "a  c"), (5, "a b c")]),
        ("((a][:b:c [d:3]", [(0, "((a][:b:c "), (3, "((a][:b:c d")]),
        ("[a::4] b", [(0, "a b"), (4, " b")]),
        ("[a:b:0] [c:d:-2] [e:f:1.0] [g:h:40]", [(0, "b d e g")]),
        ("[a] (b) \\[c:d:0.5\\] [e|f:0.5]", [(0, "[a] (b) \\[c:d:0.5\\] [e|f:0.5]")]),
        ("(c [a:b:0.5]:1.2)", [(0, "(c a:1.2)"), (5, "(c b:1.2)")]),
    ],
)
def test_edits_happen_after_their_step(prompt: str, expected: list[tuple[int, str]]) -> None:
    assert changes(prompt) == expected


def test_options_take_turns() -> None:
    assert changes("[a|(b:1.1)]", 3) == [(0, "a"), (1, "(b:1.1)"), (2, "a")]
    assert changes("[fe|]male", 2) == [(0, "female"), (1, "male")]
    assert changes("[fe|||]male", 5) == [(0, "female"), (1, "male"), (4, "female")]


def test_several_prompts_change_together() -> None:
    found = edited_prompts(["[a:b:2]", "[c:d:0.75]", "e"], 4)
    assert found == [(0, ("a", "c", "e")), (2, ("b", "c", "e")), (3, ("b", "d", "e"))]


def test_too_many_texts_and_brackets_are_one_error() -> None:
    many = " ".join(f"[{'|'.join('abcdefghijk'[:n])}]" for n in (7, 11))
    assert len(changes(many, MAX_TEXTS)) > 70
    with pytest.raises(InvalidInputError, match="different texts"):
        changes(many + "[a|b|c]", 200)
    with pytest.raises(InvalidInputError, match="brackets are open at once"):
        changes("[a" * 300)
    with pytest.raises(InvalidInputError, match="more than 500 edits"):
        changes("[a|b]" * 20_000, 1000)


def test_plain_brackets_beside_an_edit_cost_no_time() -> None:
    began = time.process_time()
    assert len(changes("[a|b]" + "(x)" * 20_000, 1000)) == 1000
    assert time.process_time() - began < LINEAR_TIME_S
