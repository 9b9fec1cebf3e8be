"""`{name}` in a prompt becomes the variable's value; every other brace is left alone.

What is filled in: `{name}`, `{name.attribute}`, `{name[0]}`, `{name['key']}`, each with an
optional `:format`. `{{name}}` is a literal `{name}`. JSON, `{a|b}`, `{}` and `{1}` stay as typed.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from swiftai_nb.core.errors import InvalidInputError

_NAME = r"[^\W\d]\w*"
_INDEX = r"""\[(?:-?\d+|'[^'{}]*'|"[^"{}]*")\]"""
_FIELD = rf"(?P<name>{_NAME})(?P<path>(?:\.{_NAME}|{_INDEX})*)(?::(?P<format>[^{{}}'\"\s][^{{}}'\"\n]*)?)?"
_BRACES = re.compile(
    rf"\{{\{{(?P<wrapped>\{{[^{{}}]+\}})\}}\}}|\{{\{{(?P<escaped>[^{{}}]*)\}}\}}|\{{{_FIELD}\}}"
)
_PATH_PART = re.compile(
    rf"""\.(?P<attribute>{_NAME})|\[(?P<number>-?\d+)\]|\[(?P<quote>['"])(?P<key>.*?)(?P=quote)\]"""
)


def interpolate(text: str, variables: Mapping[str, Any], *, keep: Collection[str] = ()) -> str:
    """`text` with its fields replaced; values are not looked into again.

    Args:
        text: a prompt or an option's value.
        variables: name -> value.
        keep: names that stay as typed, for a later template.

    Raises:
        InvalidInputError: a variable, attribute or item does not exist, or a format does not fit.
    """
    return _BRACES.sub(lambda found: _replacement(found, variables, keep), text)


def _replacement(found: re.Match[str], variables: Mapping[str, Any], keep: Collection[str]) -> str:
    if found["wrapped"] is not None:
        return "{" + interpolate(found["wrapped"], variables, keep=keep) + "}"
    if found["escaped"] is not None:
        return "{" + found["escaped"] + "}"
    name, field = found["name"], found[0][1:-1]
    if name in keep:
        return found[0]
    if name not in variables:
        raise InvalidInputError(f"no variable {name!r}", hint=f"write {{{{{field}}}}} for a literal brace")
    value = _follow(name, variables[name], found["path"])
    try:
        return format(value, found["format"] or "")
    except (ValueError, TypeError) as error:
        raise InvalidInputError(f"cannot format {{{field}}}: {error}") from error


def _follow(name: str, value: Any, path: str) -> Any:
    walked = name
    for part in _PATH_PART.finditer(path):
        walked += part[0]
        try:
            value = _step(value, part)
        except (AttributeError, LookupError, TypeError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise InvalidInputError(f"cannot read {{{walked}}} ({reason})") from error
    return value


def _step(value: Any, part: re.Match[str]) -> Any:
    if part["attribute"] is not None:
        return getattr(value, part["attribute"])
    return value[int(part["number"]) if part["number"] is not None else part["key"]]
