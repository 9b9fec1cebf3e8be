"""The axes of `--grid`: "steps=1,2,4" as an `Axis` with converted values."""

from __future__ import annotations

from typing import Any

from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.notebook.magic.option_values import expand_range
from swiftai_nb.notebook.magic.options import BY_NAME, OPTIONS, Axis, Option
from swiftai_nb.notebook.magic.tokens import unquoted


def parse_axis(text: str) -> Axis:
    """Reads "steps=1,2,4" as an Axis; values are separated by commas, or by "|" when there is one.

    Raises:
        InvalidInputError: an unknown or unusable option, or a value that does not fit it.
    """
    name, _, listed = text.partition("=")
    option = BY_NAME.get(f"--{name}")
    if name != "prompt" and (option is None or not option.is_axis):
        usable = ", ".join(["prompt", *(option.name for option in OPTIONS if option.is_axis)])
        raise InvalidInputError(f"--grid cannot vary {name!r}; it can vary {usable}")
    labels = [label for part in _listed(listed) for label in _axis_items(option, part)]
    if not labels:
        raise InvalidInputError(f"--grid {name} has no values")
    values = tuple(label if option is None else _axis_value(option, label) for label in labels)
    return Axis(name, values, tuple(labels))


def _axis_items(option: Option | None, part: str) -> list[str]:
    return expand_range(part) if option is not None and option.kind == "int" else [part]


def _axis_value(option: Option, label: str) -> Any:
    value = option.convert(label)
    return (value,) if option.repeats else value


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
