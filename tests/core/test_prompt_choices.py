"""Choices and wildcards in prompts: drawn by the seed alone, read from one folder only."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import pytest

from swiftai_nb.core.config import ImageGenerationConfig
from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.core.prompt_choices import MAX_FILE_BYTES, PromptChoices, find_choices
from swiftai_nb.core.request import GenerationRequest
from tests.waiting import LINEAR_TIME_S


def drawn(prompt: str, count: int = 300, **wildcards: tuple[str, ...]) -> Counter[str]:
    choices = PromptChoices(prompt, None, tuple(wildcards.items()))
    return Counter(choices.draw(seed)[0] for seed in range(count))


def test_a_seed_always_draws_the_same() -> None:
    choices = PromptChoices("{a|b|c} {d|e}, {2$$x|y|z}", "{f|g}")
    assert [choices.draw(seed) for seed in range(4)] == [choices.draw(seed) for seed in range(4)]
    # Recorded: another version of Python, or of this package, has to draw the same words.
    assert [choices.draw(seed)[0] for seed in (0, 1, 2**53 - 1)] == RECORDED


RECORDED = ["c e, x, z", "a e, x, y", "a d, x, y"]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a {red|blue} fox", {"a red fox", "a blue fox"}),
        ("{a|{b|c}}", {"a", "b", "c"}),
        ("{a|} fox", {"a fox", "fox"}),
        ("{2$$a|b|c}", {"a, b", "a, c", "b, a", "b, c", "c, a", "c, b"}),
        ("{2$$ and $$a|b}", {"a and b", "b and a"}),
        ("{0-1$$a|b} x", {"x", "a x", "b x"}),
        ("{5$$a|b}", {"a, b", "b, a"}),
        (r"\{a|b\} {c|d}", {"{a|b} c", "{a|b} d"}),
        ("{a|b:1.2} (c:1.3)", {"a (c:1.3)", "b:1.2 (c:1.3)"}),
        ("{0::a|b}", {"b"}),
        ('{"k": "a|b"} {c|d}', {'{"k": "a|b"} c', '{"k": "a|b"} d'}),
        ("{} {1} {x} {a|b", {"{} {1} {x} {a|b"}),
        ("} a|b {", {"} a|b {"}),
        ("[a|b] {c}", {"[a|b] {c}"}),
    ],
)
def test_what_choices_can_draw(prompt: str, expected: set[str]) -> None:
    assert set(drawn(prompt)) == expected


def test_weights_are_kept() -> None:
    counts = drawn("{3::a|b}", 4000)
    assert 0.7 < counts["a"] / 4000 < 0.8
    assert 900 < drawn("{a|b|c|d}", 4000)["a"] < 1100


def test_neighboring_seeds_draw_independently() -> None:
    choices = PromptChoices("{a|b}")
    same = sum(choices.draw(seed) == choices.draw(seed + 1) for seed in range(4000))
    assert 1850 < same < 2150


def test_wildcards_are_lines_of_files(tmp_path: Path) -> None:
    (tmp_path / "animals").mkdir()
    (tmp_path / "animals" / "cats.txt").write_text("# cats\n\nlynx\n {tabby|black} cat \n", encoding="utf-8")
    (tmp_path / "pet.txt").write_text("\ufeff__animals/cats__\nhamster", encoding="utf-8")
    choices, notes = find_choices("a __pet__", "__animals/cats__", tmp_path)
    assert choices is not None
    assert notes == ()
    found = {choices.draw(seed)[0] for seed in range(200)}
    assert found == {"a lynx", "a tabby cat", "a black cat", "a hamster"}
    assert hash(choices)


def test_prompts_without_choices_have_none(tmp_path: Path) -> None:
    for prompt in ("a fox", "{}", '{"a": 1}', "a | b", "snake_case__name", "____"):
        assert find_choices(prompt, None, tmp_path) == (None, ()), prompt


@pytest.mark.parametrize("name", ["nope", "init", "a/b"])
def test_a_wildcard_without_a_file_is_text_and_noted(name: str, tmp_path: Path) -> None:
    choices, (note,) = find_choices(f"a __{name}__", None, tmp_path)
    assert choices is None
    assert note.startswith(f"__{name}__ is read as text: there is no {name}.txt in ")


def test_no_file_outside_of_the_folder_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "wildcards"
    folder.mkdir()
    (tmp_path / "secret.txt").write_text("secret", encoding="utf-8")
    (folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    for name in ("../secret", "/etc/hostname", "a/../../secret", "link", f"{tmp_path}/secret"):
        assert find_choices(f"__{name}__", None, folder)[0] is None, name


def test_what_grows_without_end_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "loop.txt").write_text("a __loop__", encoding="utf-8")
    (tmp_path / "many.txt").write_text("__many2__ " * 30, encoding="utf-8")
    (tmp_path / "many2.txt").write_text("__many3__ " * 300, encoding="utf-8")
    (tmp_path / "many3.txt").write_text("long " * 300, encoding="utf-8")
    for prompt in ("__loop__", "__many__", "{" * 50 + "a|b" + "}" * 50, "{a|" * 9_000):
        choices, _ = find_choices(prompt, None, tmp_path)
        assert choices is not None
        with pytest.raises(InvalidInputError, match=r"nested more than|longer than"):
            choices.draw(1)


def test_a_very_large_file_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "big.txt").write_bytes(b"x\n" * (MAX_FILE_BYTES // 2 + 1))
    with pytest.raises(InvalidInputError, match="is larger than"):
        find_choices("__big__", None, tmp_path)


def test_many_wildcards_take_no_time_out_of_proportion(tmp_path: Path) -> None:
    names = [f"__x{number}__" for number in range(50_000)]
    (tmp_path / "names.txt").write_text("\n".join(names), encoding="utf-8")
    (tmp_path / "lines.txt").write_text("fox\n" * (MAX_FILE_BYTES // 4), encoding="utf-8")
    (tmp_path / "same.txt").write_text("__lines__ " * 200_000, encoding="utf-8")
    began = time.process_time()
    for prompt in ("__names__", " ".join(names)):
        with pytest.raises(InvalidInputError, match="more than 200 files"):
            find_choices(prompt, None, tmp_path)
    assert find_choices("__same__", None, tmp_path)[0] is not None
    choices, _ = find_choices("__lines__ " * 200, None, tmp_path)
    assert choices is not None
    assert choices.draw(1) == (" ".join(["fox"] * 200), None)
    with pytest.raises(InvalidInputError, match="longer than"):
        find_choices("{999$$" + "a|" * 100_000 + "b}", None, tmp_path)
    assert time.process_time() - began < LINEAR_TIME_S


def test_wildcards_of_one_letter(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text(f"{name}{name}", encoding="utf-8")
    choices, notes = find_choices("__a__ and __b__", None, tmp_path)
    assert choices is not None
    assert (choices.draw(1), notes) == (("aa and bb", None), ())


def test_each_picture_of_a_request_has_its_own_prompt() -> None:
    choices = PromptChoices("a {red|blue|green} fox", "{x|y}")
    request = GenerationRequest("t", None, ImageGenerationConfig(), tuple(range(9)), choices=choices)
    singles = [request.with_seeds((seed,)) for seed in request.seeds]
    assert [(one.prompt, one.negative_prompt) for one in singles] == [choices.draw(s) for s in range(9)]
    assert len({one.prompt for one in singles}) == 3
    with pytest.raises(InvalidInputError, match=r"the prompt drawn for seed \d is empty"):
        GenerationRequest("t", None, ImageGenerationConfig(), (3, *range(9)), choices=PromptChoices("{a|}"))
