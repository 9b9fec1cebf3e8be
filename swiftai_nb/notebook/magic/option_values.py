"""The values of options: texts as they are typed, converted and checked."""

from __future__ import annotations

import keyword
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from swiftai_nb.core.config import MAX_COUNT, MAX_SEED, LoraReference
from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.core.outpaint import Outpaint
from swiftai_nb.notebook.magic.controls import ControlOption, read_control
from swiftai_nb.notebook.magic.tokens import unquoted

SIZE_WORDS = {"square": (1, 1), "portrait": (3, 4), "landscape": (4, 3), "wide": (16, 9)}
# Not more digits than `int` reads; what is too large is refused by its limits.
_SIZE = re.compile(r"(\d{1,99})(?:\s*[xX×*]\s*(\d{1,99}))?")
_RANGE = re.compile(r"(\d{1,99})\s*(?:-|\.\.)\s*(\d{1,99})")


class NamedOption(Protocol):
    """What a conversion needs to know of its option."""

    @property
    def name(self) -> str:
        """Its long form without dashes, for errors."""
        ...

    @property
    def choices(self) -> tuple[str, ...]:
        """The allowed values of a choice."""
        ...


@dataclass(frozen=True)
class Size:
    """A requested size: pixels, or a word relative to the model's native size.

    Args:
        width: pixels, or None with a word.
        height: pixels, or None with a word.
        word: "square", "portrait", "landscape", "wide", or None.
    """

    width: int | None = None
    height: int | None = None
    word: str | None = None

    @property
    def aspect_ratio(self) -> tuple[int, int] | None:
        """(across, down) of a word; None for a size in pixels."""
        return None if self.word is None else SIZE_WORDS[self.word]

    def __str__(self) -> str:
        return self.word or f"{self.width}x{self.height}"


def _whole_number(option: NamedOption, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise InvalidInputError(f"--{option.name} {text!r} is not a whole number") from None


def _number(option: NamedOption, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InvalidInputError(f"--{option.name} {text!r} is not a number") from None


def _text(option: NamedOption, text: str) -> str:
    if not text.strip():
        raise InvalidInputError(f"--{option.name} is empty")
    return text.strip()


def _choice(option: NamedOption, text: str) -> str:
    if text not in option.choices:
        raise InvalidInputError(f"--{option.name} {text!r} is not one of {', '.join(option.choices)}")
    return text


def _variable(option: NamedOption, text: str) -> str:
    if not text.isidentifier() or keyword.iskeyword(text):
        raise InvalidInputError(f"--{option.name} {text!r} is not a Python name")
    return text


def _size(option: NamedOption, text: str) -> Size:
    if text.lower() in SIZE_WORDS:
        return Size(word=text.lower())
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        words = ", ".join(SIZE_WORDS)
        raise InvalidInputError(f"--{option.name} {text!r}: use WxH (such as 512x768) or {words}")
    width = int(found[1])
    return Size(width, width if found[2] is None else int(found[2]))


def _seeds(option: NamedOption, text: str) -> tuple[int, ...]:
    seeds = [_seed(option, item) for part in text.split(",") for item in expand_range(part.strip())]
    if not 1 <= len(seeds) <= MAX_COUNT:
        raise InvalidInputError(f"--{option.name} names {len(seeds)} pictures; {MAX_COUNT} is the most")
    return tuple(seeds)


def _seed(option: NamedOption, text: str) -> int:
    if not text.isdecimal() or len(text) > 99 or int(text) > MAX_SEED:
        raise InvalidInputError(f"--{option.name} {text!r} is not a seed; use 0 to {MAX_SEED}")
    return int(text)


def expand_range(part: str) -> list[str]:
    """Gives "1-4" as four numbers; anything else as it is."""
    found = _RANGE.fullmatch(part)
    if found is None:
        return [part]
    first, last = int(found[1]), int(found[2])
    if last < first or last - first >= MAX_COUNT:
        raise InvalidInputError(f"{part!r} is not a range of 1 to {MAX_COUNT} numbers")
    return [str(number) for number in range(first, last + 1)]


def _setting(option: NamedOption, text: str) -> tuple[str, Any]:
    from swiftai_nb.model_files.json_file import parse_json

    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise InvalidInputError(f"--{option.name} {text!r}: write NAME=VALUE, such as quality=high")
    try:
        return name.strip(), parse_json(value)
    except ValueError:
        return name.strip(), unquoted(value.strip())


def _lora(option: NamedOption, text: str) -> LoraReference:
    rest, _, blocks = text.rpartition(":")
    if rest and ("," in blocks or "=" in blocks) and not set(blocks) & set("/\\"):
        found = _lora(option, rest)
        return LoraReference(found.source, found.scale, blocks)
    source, colon, scale = text.rpartition(":")
    try:
        return LoraReference(source, float(scale)) if colon else LoraReference(text)
    except ValueError as error:
        if isinstance(error, InvalidInputError):
            raise
        return LoraReference(text)


def _control(_: NamedOption, text: str) -> ControlOption:
    return read_control(text)


CONVERTERS: Mapping[str, Callable[[NamedOption, str], Any]] = {
    "int": _whole_number,
    "float": _number,
    "text": _text,
    "word": _text,
    "choice": _choice,
    "variable": _variable,
    "size": _size,
    "seeds": _seeds,
    "lora": _lora,
    "control": _control,
    "outpaint": lambda _, text: Outpaint.of(text),
    "setting": _setting,
}
