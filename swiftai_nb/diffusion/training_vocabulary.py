"""The words a small model was taught, so that a prompt's other words can be named."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

FILE_NAME = "trained_words.txt"
_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*|\d+")
_SHOWN_WORDS = 6


@dataclass(frozen=True)
class TrainingVocabulary:
    """The vocabulary of a model's captions; models of the whole language have none.

    Args:
        words: lower case, one or more letters or one number each.
    """

    words: frozenset[str]

    @classmethod
    def read(cls, folder: Path) -> TrainingVocabulary | None:
        """The list of a model folder, `trained_words.txt` with one word in a line; None without one."""
        path = folder / FILE_NAME
        if not path.is_file():
            return None
        return cls(frozenset(path.read_text(encoding="utf-8").split()))

    def unknown_in(self, text: str) -> tuple[str, ...]:
        """The words of `text` that are not in the list, in order, each once, lower case."""
        found = dict.fromkeys(match.group().lower() for match in _WORD.finditer(text))
        return tuple(word for word in found if not self._knows(word))

    def notes(self, prompts: Sequence[str], label: str) -> tuple[str, ...]:
        """One line for each prompt that holds words outside the list."""
        unknown = (self.unknown_in(prompt) for prompt in prompts)
        return tuple(_note(label, words) for words in unknown if words)

    def _knows(self, word: str) -> bool:
        parts = re.split(r"['’-]", word)
        return word in self.words or all(part in self.words for part in parts)


def _note(label: str, words: tuple[str, ...]) -> str:
    listed = ", ".join(words[:_SHOWN_WORDS]) + (", ..." if len(words) > _SHOWN_WORDS else "")
    what = "a word" if len(words) == 1 else "words"
    return f"{label}: {what} this model was not taught: {listed}; it draws the nearest it knows"
