"""From the words after an option to a checked value: one small function for each kind."""

from __future__ import annotations

import keyword
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from swiftai_nb.core.config import MAX_COUNT, MAX_SEED, LoraReference
from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.notebook.magic.options import Option
from swiftai_nb.notebook.magic.tokens import unquoted

SIZE_WORDS = {"square": (1, 1), "portrait": (3, 4), "landscape": (4, 3), "wide": (16, 9)}
_SIZE = re.compile(r"(\d+)(?:\s*[xX×*]\s*(\d+))?")
_RANGE = re.compile(r"(\d+)\s*(?:-|\.\.)\s*(\d+)")


@dataclass(frozen=True)
class Size:
    """A size as asked for: pixels, or a word that the model's own size gives a meaning.

    Args:
        width: pixels, or None with a word.
        height: pixels, or None with a word.
        word: "square", "portrait", "landscape", "wide", or None.
    """

    width: int | None = None
    height: int | None = None
    word: str | None = None

    def resolve(self, native_width: int, native_height: int) -> tuple[int, int]:
        """Pixels (width, height); a word keeps about the model's own number of pixels.

        Args:
            native_width: the model's own width, pixels.
            native_height: the model's own height, pixels.
        """
        if self.width is not None and self.height is not None:
            return self.width, self.height
        across, down = SIZE_WORDS[self.word or "square"]
        area = native_width * native_height
        multiple = 64 if area >= 512 * 512 else 16
        width = (area * across / down) ** 0.5
        height = area / width
        return _rounded(width, multiple), _rounded(height, multiple)

    def __str__(self) -> str:
        return self.word or f"{self.width}x{self.height}"


def _rounded(side: float, multiple: int) -> int:
    return max(multiple, round(side / multiple) * multiple)


@dataclass(frozen=True)
class Axis:
    """One direction of a grid.

    Args:
        name: the option that varies, or "prompt".
        values: one for each column or row, converted.
        labels: the same as typed.
    """

    name: str
    values: tuple[Any, ...]
    labels: tuple[str, ...]


def convert(option: Option, text: str) -> Any:
    """The value of `option` typed as `text`.

    Raises:
        InvalidInputError: the text does not fit the option.
    """
    return _CONVERTERS[option.kind](option, text)


def _whole_number(option: Option, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise InvalidInputError(f"--{option.name} {text!r} is not a whole number") from None


def _number(option: Option, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InvalidInputError(f"--{option.name} {text!r} is not a number") from None


def _text(option: Option, text: str) -> str:
    if not text.strip():
        raise InvalidInputError(f"--{option.name} is empty")
    return text.strip()


def _choice(option: Option, text: str) -> str:
    if text not in option.choices:
        raise InvalidInputError(f"--{option.name} {text!r} is not one of {', '.join(option.choices)}")
    return text


def _variable(option: Option, text: str) -> str:
    if not text.isidentifier() or keyword.iskeyword(text):
        raise InvalidInputError(f"--{option.name} {text!r} is not a Python name")
    return text


def _size(option: Option, text: str) -> Size:
    if text.lower() in SIZE_WORDS:
        return Size(word=text.lower())
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        words = ", ".join(SIZE_WORDS)
        raise InvalidInputError(f"--{option.name} {text!r} is neither WxH nor one of {words}")
    width = int(found[1])
    return Size(width, width if found[2] is None else int(found[2]))


def _seeds(option: Option, text: str) -> tuple[int, ...]:
    seeds = [_seed(option, item) for part in text.split(",") for item in _expand_range(part.strip())]
    if not 1 <= len(seeds) <= MAX_COUNT:
        raise InvalidInputError(f"--{option.name} names {len(seeds)} pictures; {MAX_COUNT} is the most")
    return tuple(seeds)


def _seed(option: Option, text: str) -> int:
    if not text.isdecimal() or int(text) > MAX_SEED:
        raise InvalidInputError(f"--{option.name} {text!r} is not a seed; use 0 to {MAX_SEED}")
    return int(text)


def _expand_range(part: str) -> list[str]:
    """Gives "1-4" as four numbers; anything else as it is."""
    found = _RANGE.fullmatch(part)
    if found is None:
        return [part]
    first, last = int(found[1]), int(found[2])
    if last < first or last - first >= MAX_COUNT:
        raise InvalidInputError(f"{part!r} is not a range of 1 to {MAX_COUNT} numbers")
    return [str(number) for number in range(first, last + 1)]


def _lora(_: Option, text: str) -> LoraReference:
    source, colon, scale = text.rpartition(":")
    try:
        return LoraReference(source, float(scale)) if colon else LoraReference(text)
    except ValueError as error:
        if isinstance(error, InvalidInputError):
            raise
        return LoraReference(text)


_CONVERTERS: dict[str, Callable[[Option, str], Any]] = {
    "int": _whole_number,
    "float": _number,
    "text": _text,
    "word": _text,
    "choice": _choice,
    "variable": _variable,
    "size": _size,
    "seeds": _seeds,
    "lora": _lora,
}


def parse_axis(text: str, options: dict[str, Option]) -> Axis:
    """Reads "steps=1,2,4" as an Axis; values are separated by commas, or by "|" when there is one.

    Raises:
        InvalidInputError: an unknown or unusable option, or a value that does not fit it.
    """
    name, _, listed = text.partition("=")
    option = options.get(name)
    if name != "prompt" and (option is None or option.name in NOT_AN_AXIS):
        usable = ", ".join(["prompt", *(key for key in options if key not in NOT_AN_AXIS)])
        raise InvalidInputError(f"--grid cannot vary {name!r}; it can vary {usable}")
    labels = [label for part in _listed(listed) for label in _axis_items(option, part)]
    if not labels:
        raise InvalidInputError(f"--grid {name} has no values")
    values = tuple(label if option is None else _axis_value(option, label) for label in labels)
    return Axis(name, values, tuple(labels))


NOT_AN_AXIS = frozenset(
    {"seeds", "count", "grid", "out", "save", "quiet", "preview", "preview-every", "bg"}
    | {"widget", "dry-run", "help", "from", "raw", "download", "executor"}
)


def _axis_items(option: Option | None, part: str) -> list[str]:
    return _expand_range(part) if option is not None and option.kind == "int" else [part]


def _axis_value(option: Option, label: str) -> Any:
    value = convert(option, label)
    return (value,) if option.kind == "lora" else value


def _listed(text: str) -> list[str]:
    separator = "|" if "|" in text else ","
    inner = unquoted(text)
    if inner != text:
        text = inner
    elif separator == "," and any(quote in text for quote in "\"'"):
        text = _bar_between_quoted(text)
        separator = "|"
    return [unquoted(part.strip()) for part in text.split(separator) if part.strip()]


def _bar_between_quoted(text: str) -> str:
    parts, position = [], 0
    while position < len(text):
        if text[position] in "\"'" and (end := text.find(text[position], position + 1)) > 0:
            parts.append(text[position + 1 : end])
            position = end + 1
        else:
            end = text.find(",", position)
            end = len(text) if end < 0 else end
            parts.append(text[position:end])
            position = end
        position += text[position : position + 1] == ","
    return "|".join(part for part in parts if part)
