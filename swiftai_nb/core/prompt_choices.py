"""Choices in prompts, drawn from the picture's seed: `{a|b|c}` and `__name__`, a line of the file name.txt.

The syntax is that of sd-dynamic-prompts: `{2$$a|b|c}` takes two (`{1-2$$ and $$a|b}` one or two, joined by
" and "), `{3::a|b}` takes a three times as often as b, and both can be nested. A backslash makes a brace
text. The package dynamicprompts, with a grammar and Jinja templates, is far larger than this part of its
syntax, and what it draws may change with its version; a recipe's seed has to draw the same words for good.
"""

from __future__ import annotations

import random
import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from swiftai_nb.core.errors import InvalidInputError

MAX_LENGTH = 100_000
MAX_DEPTH = 20
MAX_FILES = 200
MAX_FILE_BYTES = 5_000_000
_WILDCARD = re.compile(r"__([A-Za-z0-9](?:[\w /-]{0,98}?[A-Za-z0-9])??)__")
_SPECIAL = re.compile(r"\\[{}|]|[{}|]|" + _WILDCARD.pattern)
_WEIGHT = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)::")
_COUNT = re.compile(r"\s*(\d{1,3})(?:-(\d{1,3}))?\$\$(?:([^$|{}]*)\$\$)?")


@dataclass(frozen=True)
class PromptChoices:
    """Prompts that hold choices.

    Args:
        prompt: with its choices.
        negative_prompt: the same, or None.
        wildcards: name -> the lines of its file, for every wildcard in the prompts and in those lines.
    """

    prompt: str
    negative_prompt: str | None = None
    wildcards: tuple[tuple[str, tuple[str, ...]], ...] = ()

    def draw(self, seed: int) -> tuple[str, str | None]:
        """The prompts of the picture with this seed; always the same.

        Raises:
            InvalidInputError: a prompt grows too long, or wildcards name each other in a circle.
        """
        draw = _Draw(random.Random(seed), dict(self.wildcards))
        prompt = " ".join(draw.expand(self.prompt).split())
        if self.negative_prompt is None:
            return prompt, None
        return prompt, " ".join(draw.expand(self.negative_prompt).split())


def find_choices(
    prompt: str, negative_prompt: str | None, folder: Path | None
) -> tuple[PromptChoices | None, tuple[str, ...]]:
    """The choices in prompts, or None when there are none; and notes on wildcards without a file.

    Args:
        prompt: as typed.
        negative_prompt: as typed, or None.
        folder: of the wildcards' text files; None is none.

    Raises:
        InvalidInputError: a wildcard's file is too large or cannot be read, or there are too many.
    """
    texts = [text for text in (prompt, negative_prompt) if text]
    wildcards, missing = _read_wildcards(texts, folder)
    notes = tuple(f"__{name}__ is read as text: there is no {name}.txt in {folder}" for name in missing)
    if not wildcards and not any(_has_special(text) for text in texts):
        return None, notes
    if any(len(text) > MAX_LENGTH for text in texts):
        raise InvalidInputError(
            f"a prompt with choices is longer than {MAX_LENGTH:,} characters", hint="--raw takes them as text"
        )
    return PromptChoices(prompt, negative_prompt, tuple(wildcards.items())), notes


def _has_special(text: str) -> bool:
    """Whether a text may have choices: something with a bar, or a number of choices, between braces."""
    return any("|" in part or "$$" in part for part in re.split(r"[{}]", text)[1:-1])


def _read_wildcards(texts: list[str], folder: Path | None) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    found: dict[str, tuple[str, ...]] = {}
    missing: dict[str, None] = {}
    waiting = deque(name for text in texts for name in _WILDCARD.findall(text))
    while waiting:
        name = waiting.popleft()
        if name in found or name in missing:
            continue
        lines = None if folder is None else _lines(folder, name)
        if lines is None:
            missing[name] = None
        else:
            found[name] = lines
            waiting += [other for line in lines for other in _WILDCARD.findall(line)]
        if len(found) + len(missing) > MAX_FILES:
            raise InvalidInputError(
                f"the prompt's wildcards name more than {MAX_FILES} files", hint="--raw takes them as text"
            )
    return found, list(missing)[: None if folder is not None and folder.is_dir() else 1]


def _lines(folder: Path, name: str) -> tuple[str, ...] | None:
    """The lines of a wildcard's file without comments; None where there is no such file in the folder."""
    path = folder / f"{name}.txt"
    try:
        if not path.is_file() or not path.resolve().is_relative_to(folder.resolve()):
            return None
        if path.stat().st_size > MAX_FILE_BYTES:
            raise InvalidInputError(f"{path} is larger than {MAX_FILE_BYTES / 1e6:g} MB")
        lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    except OSError as error:
        raise InvalidInputError(f"the wildcard {path} cannot be read: {error}") from error
    kept = tuple(line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#"))
    return kept or None


@dataclass
class _Draw:
    """One drawing: its random numbers, and how much text it has made."""

    numbers: random.Random
    wildcards: Mapping[str, tuple[str, ...]]
    length: int = 0

    def expand(self, text: str, depth: int = 0) -> str:
        if depth > MAX_DEPTH:
            raise _too_deep()
        parts, place = [], 0
        while (found := _SPECIAL.search(text, place)) is not None:
            parts.append(text[place : found.start()])
            place = found.end()
            if found[0].startswith("\\"):
                parts.append(found[0][1])
            elif found[0] == "{" and (end := _closing(text, place)) is not None:
                parts.append(self._choose(text[place:end], depth))
                place = end + 1
            elif found[1] in self.wildcards:
                lines = self.wildcards[found[1]]
                # As `_pick` with equal weights, without a walk over the file at every use.
                line = lines[min(int(self.numbers.random() * len(lines)), len(lines) - 1)]
                parts.append(self.expand(line, depth + 1))
            else:
                parts.append(found[0])
        parts.append(text[place:])
        expanded = "".join(parts)
        self.length += len(expanded)
        if self.length > MAX_LENGTH:
            raise InvalidInputError(f"the drawn prompt is longer than {MAX_LENGTH:,} characters")
        return expanded

    def _choose(self, inner: str, depth: int) -> str:
        """One of the options between braces, or several; other braces, such as JSON's, stay."""
        count = _COUNT.match(inner)
        options = _split(inner if count is None else inner[count.end() :])
        is_json = inner.lstrip().startswith('"')
        if is_json or (count is None and len(options) == 1):
            return "{" + self.expand(inner, depth + 1) + "}"
        weights = []
        for index, option in enumerate(options):
            weight = _WEIGHT.match(option)
            weights.append(1.0 if weight is None else float(weight[1]))
            options[index] = option if weight is None else option[weight.end() :]
        wanted, joint = 1, ", "
        if count is not None:
            least, most = int(count[1]), int(count[2] or count[1])
            wanted = least + int(self.numbers.random() * (max(most, least) - least + 1))
            joint = joint if count[3] is None else count[3]
        chosen = []
        for _ in range(min(wanted, len(options))):
            option = self._pick(options, weights)
            index = options.index(option)
            del options[index], weights[index]
            chosen.append(self.expand(option, depth + 1))
        return joint.join(one.strip() if count is not None else one for one in chosen)

    def _pick(self, options: list[str], weights: list[float]) -> str:
        """One by weight. Only `random()` is used: its sequence is the same in every version of Python."""
        place, total = self.numbers.random() * sum(weights), 0.0
        for option, weight in zip(options, weights, strict=True):
            total += weight
            if place < total:
                return option
        return options[-1]


def _closing(text: str, start: int) -> int | None:
    """Where the brace that was opened before `start` is closed."""
    depth = 1
    for found in re.compile(r"\\[{}|]|[{}]").finditer(text, start):
        depth += {"{": 1, "}": -1}.get(found[0], 0)
        if depth == 0:
            return found.start()
        if depth > MAX_DEPTH:
            raise _too_deep()
    return None


def _too_deep() -> InvalidInputError:
    return InvalidInputError(
        f"choices are nested more than {MAX_DEPTH} deep", hint="--raw takes braces and wildcards as text"
    )


def _split(text: str) -> list[str]:
    """The options between the bars that are in no inner braces."""
    parts, depth, start = [], 0, 0
    for found in re.finditer(r"\\[{}|]|[{}|]", text):
        depth += {"{": 1, "}": -1}.get(found[0], 0)
        if found[0] == "|" and depth == 0:
            parts.append(text[start : found.start()])
            start = found.end()
    return [*parts, text[start:]]
