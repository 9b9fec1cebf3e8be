"""Weights, BREAK and AND in prompts, as AUTOMATIC1111's web UI reads them."""

from __future__ import annotations

import contextlib

import pytest

from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.core.prompt_editing import edited_prompts
from swiftai_nb.core.prompt_syntax import (
    Span,
    from_compel,
    has_weights,
    no_weights_notes,
    parse_weights,
    split_and,
    syntax_notes,
)


def pairs(prompt: str) -> list[tuple[str, float]]:
    return [(span.text, round(span.weight, 4)) for span in parse_weights(prompt)]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("normal text", [("normal text", 1.0)]),
        ("an (important) word", [("an ", 1.0), ("important", 1.1), (" word", 1.0)]),
        ("((a)) [b] [[c]]", [("a", 1.21), (" ", 1.0), ("b", 0.9091), (" ", 1.0), ("c", 0.8264)]),
        ("(unbalanced", [("unbalanced", 1.1)]),
        ("a) b]", [("a) b]", 1.0)]),
        (r"\(literal\] \\", [("(literal] \\", 1.0)]),
        ("(one)(two)", [("onetwo", 1.1)]),
        ("(a (b:2) c:0.5)", [("a ", 0.5), ("b", 1.0), (" c", 0.5)]),
        ("(x : 1.5 )", [("x ", 1.5)]),
        ("(x:-.5)(y:+2.)", [("x", -0.5), ("y", 2.0)]),
        ("(a:b:1.2)", [("a:b", 1.2)]),
        ("(a:1.2.3)", [("a:1.2.3", 1.1)]),
        ("3:4", [("3:4", 1.0)]),
        ("", [("", 1.0)]),
    ],
)
def test_brackets_weigh_what_is_in_them(prompt: str, expected: list[tuple[str, float]]) -> None:
    assert pairs(prompt) == expected


def test_break_divides_a_prompt_in_brackets_too() -> None:
    assert parse_weights("a BREAK b") == [Span("a "), Span("", is_break=True), Span(" b")]
    assert [span.is_break for span in parse_weights("(a BREAK b:1.2)")] == [False, True, False]
    assert parse_weights("BREAKFAST") == [Span("BREAKFAST")]


@pytest.mark.parametrize("prompt", ["(x:101)", "(x:-1e3)(y:-1000)", f"(x:{'9' * 400})", "(" * 60 + "x"])
def test_a_weight_that_no_picture_survives_is_one_error(prompt: str) -> None:
    with pytest.raises(InvalidInputError, match="a prompt weight is"):
        parse_weights(prompt)


def test_and_joins_prompts_with_weights_of_their_own() -> None:
    assert split_and("a cat AND a hat :1.2 AND (x:0.5)") == [("a cat", 1.0), ("a hat", 1.2), ("(x:0.5)", 1.0)]
    assert split_and("sand AND") == [("sand", 1.0), ("", 1.0)]
    assert split_and("SANDAL :2") == [("SANDAL :2", 1.0)]


@pytest.mark.parametrize("prompt", ["(red:1.3) fox", "a (very old : .5 ) man", "(a, b:2)"])
def test_a_bracket_with_a_number_is_a_weight(prompt: str) -> None:
    assert has_weights(prompt)
    (note,) = syntax_notes([prompt], None)
    assert "--prompt-syntax plain" in note
    assert syntax_notes([prompt], "weighted") == syntax_notes([prompt], "plain") == ()


@pytest.mark.parametrize(
    "prompt", ["a fox", "(16:9) frame", "at (10:30)", "(a: b)", "a: 1.3", "f(x)", "{a:1}"]
)
def test_other_text_with_numbers_is_none(prompt: str) -> None:
    assert not has_weights(prompt)
    assert syntax_notes([prompt], None) == ()


@pytest.mark.parametrize("prompt", ["((red)) fox", "a [red] fox", "a BREAK b", "a AND b"])
def test_syntax_without_a_number_is_text_and_noted(prompt: str) -> None:
    (note,) = syntax_notes([prompt], None)
    assert "--prompt-syntax weighted" in note


def test_a_prompt_in_capitals_has_no_key_words() -> None:
    assert syntax_notes(["SALT AND PEPPER"], None) == ()


@pytest.mark.parametrize("prompt", ["[cat|dog] fox", "a [in snow:10] fox"])
def test_prompt_editing_that_may_be_text_is_noted(prompt: str) -> None:
    (note,) = syntax_notes([prompt], None)
    assert "--prompt-syntax weighted" in note
    assert syntax_notes([prompt], "weighted") == ()


@pytest.mark.parametrize(
    ("prompt", "is_read"),
    [("[cat:dog:0.5]", True), ("[: a fox : 3 ]", True), ("[10:30:45]", False), ("[a::b]", False)],
)
def test_an_edit_with_a_number_turns_the_syntax_on(prompt: str, is_read: bool) -> None:
    assert has_weights(prompt) is is_read


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a cat++ on (a red mat)-", [("a ", 1.0), ("cat", 1.21), (" on ", 1.0), ("a red mat", 0.9)]),
        ("(a (big)+ fox)1.5, x", [("a ", 1.5), ("big", 1.65), (" fox", 1.5), (", x", 1.0)]),
        ("sci-fi - style, well-lit (plain)", [("sci-fi - style, well-lit plain", 1.0)]),
        ("C++ and 1+1 = 2", [("C", 1.21), (" and 1+1 = 2", 1.0)]),
        ("sci-fi+, [x] (a:1.2", [("sci-fi", 1.1), (", [x] (a:1.2", 1.0)]),
        (r"a)++ \(b\)+ ---", [("a)++ (b)+ ---", 1.0)]),
        ("(x)0 (y:2)-", [("x", 0.0), (" ", 1.0), ("y:2", 0.9)]),
        ("", [("", 1.0)]),
    ],
)
def test_compels_weights_are_read(prompt: str, expected: list[tuple[str, float]]) -> None:
    assert pairs(from_compel(prompt)) == expected


@pytest.mark.parametrize("prompt", ["x" + "+" * 5000, "(x)" + "9" * 400])
def test_a_weight_of_compel_has_the_same_limit(prompt: str) -> None:
    with pytest.raises(InvalidInputError, match="a prompt weight is"):
        parse_weights(from_compel(prompt))


def test_what_compel_joins_is_noted() -> None:
    (note,) = syntax_notes(['("a cat", "a dog").blend(0.5, 0.5)'], "compel")
    assert "read as text" in note
    assert syntax_notes(["a cat+"], "compel") == ()


def test_families_without_weights_say_so() -> None:
    assert no_weights_notes(["a fox"], None, family="FLUX.1") == ()
    (note,) = no_weights_notes(["a (red:1.3) fox"], None, family="FLUX.1")
    assert note.startswith("FLUX.1 has no prompt weights")
    assert no_weights_notes(["a (red:1.3) fox"], "plain", family="FLUX.1") == ()


@pytest.mark.parametrize("prompt", ["a [cat|dog]", "a ((red)) fox", "a cat BREAK a dog", "a [blue] cat"])
def test_families_without_weights_name_other_syntax_that_they_read_as_text(prompt: str) -> None:
    (note,) = no_weights_notes(["a fox", prompt], None, family="Z-Image")
    assert note.startswith("Z-Image has no prompt weights: '")
    assert note.endswith("' is read as text")
    assert no_weights_notes([prompt.upper(), prompt], "plain", family="Z-Image") == ()


@pytest.mark.parametrize(
    "text", ["(", "[", "(a:", ":1", "\\", "(a" * 3, "[a|", " BREAK ", "a-", "[:a", "a+", ")9"]
)
def test_long_input_is_read_in_linear_time(text: str) -> None:
    # Quadratic time would be minutes here.
    prompt = "x" + text * (50_000 // len(text))
    syntax_notes([prompt], None)
    has_weights(prompt)
    for read in (lambda: parse_weights(prompt), lambda: edited_prompts([prompt], 20)):
        with contextlib.suppress(InvalidInputError):
            read()
    from_compel(prompt)


def test_very_many_open_brackets_are_one_error() -> None:
    with pytest.raises(InvalidInputError, match="brackets are open at once"):
        parse_weights("[a" * 201)
    assert parse_weights("[a]" * 10_000)
