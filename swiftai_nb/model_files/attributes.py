"""`attributes.json` of a model folder: what a prompt leaves open and the model can vary, chosen by the seed.

A small model draws nearly the same picture for every seed. Its folder can therefore bring phrases that it
knows, such as places; the provider adds one to a prompt that names none, and records it in the recipe.

    {"place": {"unless": ["in", "on"], "longest_prompt": 14, "choices": [
        {"phrase": "", "unless": []}, {"phrase": "in the snow", "unless": ["snow", "winter"]}]}}

A phrase such as ", mirrored" is added without a space before its comma.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

from swiftai_nb.core.errors import InvalidModelFilesError
from swiftai_nb.core.recipe import add_phrase
from swiftai_nb.model_files.json_file import read_json_object

ATTRIBUTES_FILE = "attributes.json"
MAX_ATTRIBUTES = 16
MAX_CHOICES = 256
MAX_WORDS = 1024
MAX_PHRASE_LENGTH = 100  # characters
MAX_PROMPT_WORDS = 10_000
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Choice:
    """One value of an attribute.

    Args:
        phrase: added to the prompt; "" adds nothing.
        unless: words, casefolded; with one of them in the prompt or negative prompt it is not chosen.
    """

    phrase: str
    unless: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Attribute:
    """Something that a prompt can leave open, such as the place.

    Args:
        name: its name.
        choices: at least one.
        unless: words, casefolded; a prompt with one of them has named it already.
        longest_prompt: words; nothing is added to longer prompts.
    """

    name: str
    choices: tuple[Choice, ...]
    unless: frozenset[str] = frozenset()
    longest_prompt: int = MAX_PROMPT_WORDS

    def choose(self, prompt: str, negative_prompt: str | None = None, *, seed: int) -> str:
        """The phrase for a prompt and a seed; "" where the prompt leaves nothing open.

        It is number (CRC-32 of the name + seed) modulo the number of choices that remain, so that
        consecutive seeds differ, and every machine chooses alike.
        """
        words = _WORD.findall(prompt.casefold())
        if len(words) > self.longest_prompt or not self.unless.isdisjoint(words):
            return ""
        named = {*words, *_WORD.findall((negative_prompt or "").casefold())}
        remaining = [choice for choice in self.choices if choice.unless.isdisjoint(named)]
        if not remaining:
            return ""
        return remaining[(zlib.crc32(self.name.encode()) + seed) % len(remaining)].phrase


def choose_phrases(
    attributes: Sequence[Attribute], prompt: str, negative_prompt: str | None = None, *, seed: int
) -> str:
    """What is added to a prompt for a seed: the phrases of all attributes, joined; may be empty."""
    chosen = (attribute.choose(prompt, negative_prompt, seed=seed) for attribute in attributes)
    return reduce(add_phrase, chosen, "")


def read_attributes(folder: Path) -> tuple[Attribute, ...]:
    """The table of a model folder; empty without one, as for a model in one file.

    Raises:
        InvalidModelFilesError: the file is not such a table, or exceeds its limits; names the fault.
    """
    path = folder / ATTRIBUTES_FILE
    data = read_json_object(path)
    try:
        if len(data) > MAX_ATTRIBUTES:
            raise ValueError(f"it has {len(data)} attributes, {MAX_ATTRIBUTES} is the most")
        return tuple(_attribute(name, value) for name, value in data.items())
    except ValueError as error:
        raise InvalidModelFilesError(
            f"{path}: {error}",
            hint="correct the file, or remove it: pictures then depend on the prompt alone",
        ) from None


def _attribute(name: str, value: Any) -> Attribute:
    fields = _object(name, value, allowed=("choices", "unless", "longest_prompt"))
    choices = _list(f"{name}.choices", fields.get("choices"), longest=MAX_CHOICES)
    if not choices:
        raise ValueError(f"{name} has no choices")
    longest = fields.get("longest_prompt", MAX_PROMPT_WORDS)
    if type(longest) is not int or not 0 < longest <= MAX_PROMPT_WORDS:
        raise ValueError(f"{name}.longest_prompt cannot be {longest!r:.80}")
    return Attribute(
        _phrase("an attribute's name", name),
        tuple(_choice(name, choice) for choice in choices),
        _words(f"{name}.unless", fields.get("unless", [])),
        longest,
    )


def _choice(name: str, value: Any) -> Choice:
    fields = _object(f"a choice of {name}", value, allowed=("phrase", "unless"))
    phrase = _phrase(f"a phrase of {name}", fields.get("phrase"))
    return Choice(phrase, _words(f"{name}: unless of {phrase!r}", fields.get("unless", [])))


def _object(place: str, value: Any, *, allowed: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(value, dict) or not set(value) <= set(allowed):
        raise ValueError(f"{place:.80} must be an object of {', '.join(allowed)}")
    return value


def _list(place: str, value: Any, *, longest: int) -> list[Any]:
    if not isinstance(value, list) or len(value) > longest:
        raise ValueError(f"{place:.80} must be a list of {longest} items at most")
    return value


def _phrase(place: str, value: Any) -> str:
    if not isinstance(value, str) or len(value) > MAX_PHRASE_LENGTH or not value.isprintable():
        raise ValueError(f"{place:.80} must be a text of {MAX_PHRASE_LENGTH} characters at most")
    return value.strip()


def _words(place: str, value: Any) -> frozenset[str]:
    words = _list(place, value, longest=MAX_WORDS)
    return frozenset(_phrase(place, word).casefold() for word in words)
