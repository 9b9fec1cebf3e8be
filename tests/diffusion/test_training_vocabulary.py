"""Words a small model was never taught are named."""

from __future__ import annotations

from pathlib import Path

import pytest

import swiftai_nb
from swiftai_nb.diffusion import load_pipeline
from swiftai_nb.diffusion.pipelines.text_stage import TrainingVocabulary

BUNDLED = Path(swiftai_nb.__file__).parent / "assets" / "emoji-mini"
WORDS = TrainingVocabulary(frozenset(["a", "cat", "2", "t", "shirt", "on", "the", "beach"]))


@pytest.mark.parametrize(
    ("text", "unknown"),
    [
        ("a cat on the beach", ()),
        ("A CAT, on the Beach!", ()),
        ("a zebu on a zebu", ("zebu",)),
        ("a t-shirt", ()),
        ("a cat-zebu", ("cat-zebu",)),
        ("2 cats, 17 cats", ("cats", "17")),
        ("кошка on the пляж", ("кошка", "пляж")),
        ("(cat:1.3), [beach]", ("1", "3")),
        ("🐈", ()),
        ("", ()),
    ],
)
def test_words_outside_the_list(text: str, unknown: tuple[str, ...]) -> None:
    assert WORDS.unknown_in(text) == unknown


def test_a_note_is_one_line_and_names_a_few() -> None:
    (note,) = WORDS.notes(["b c d e f g h i"])
    assert note == (
        "this model doesn't know these words: b, c, d, e, f, g, .... It uses the closest ones it knows."
    )


def test_other_models_have_no_list(tmp_path: Path) -> None:
    assert TrainingVocabulary.read(tmp_path) is None


def test_the_bundled_model_names_unknown_words() -> None:
    pipeline = load_pipeline(BUNDLED)
    assert pipeline.encode_prompt("a red guitar on the beach").notes == ()
    (note,) = pipeline.encode_prompt("a red gramophone", "a zebu").notes
    assert note == "this model doesn't know this word: gramophone. It uses the closest ones it knows."


def test_weights_are_no_words() -> None:
    pipeline = load_pipeline(BUNDLED)
    assert (
        pipeline.encode_prompt("a (red:1.21) guitar BREAK gui(tar:0.5)", prompt_syntax="weighted").notes == ()
    )
    (note,) = pipeline.encode_prompt("a red++ gramophone--", prompt_syntax="compel").notes
    assert note == "this model doesn't know this word: gramophone. It uses the closest ones it knows."
