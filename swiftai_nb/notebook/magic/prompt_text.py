"""The text of a cell: prompt, negative prompt and, when it was pasted from a web UI, its settings."""

from __future__ import annotations

import re
from dataclasses import dataclass

from swiftai_nb.core.foreign_recipes import read_parameters
from swiftai_nb.core.recipe import Recipe

_NEGATIVE = re.compile(r"\s*(?:negative prompt:|--no\s)\s*", re.IGNORECASE)
_PARAMETERS = re.compile(r"\s*Steps:\s*\d+\s*,")


@dataclass(frozen=True)
class PromptText:
    """What a cell's text says.

    Args:
        prompt: the words to draw, on one line.
        negative: what to avoid, or None.
        settings: a recipe read from an A1111 line "Steps: 20, Sampler: ...", or None.
    """

    prompt: str
    negative: str | None = None
    settings: Recipe | None = None


def read(text: str) -> PromptText:
    """Takes the text apart; line breaks become blanks.

    "Negative prompt:" begins the negative prompt, which goes on to the end; "--no words" is one line.
    """
    lines = text.strip().splitlines()
    settings = None
    if lines and _PARAMETERS.match(lines[-1]):
        settings = read_parameters(lines.pop())
    positive: list[str] = []
    negative: list[str] = []
    current = positive
    for line in lines:
        found = _NEGATIVE.match(line)
        if found is None:
            current.append(line)
        elif line.lstrip().startswith("--"):
            negative.append(line[found.end() :])
        else:
            current = negative
            current.append(line[found.end() :])
    return PromptText(_joined(positive), _joined(negative) or None, settings)


def _joined(lines: list[str]) -> str:
    return " ".join(" ".join(lines).split())
