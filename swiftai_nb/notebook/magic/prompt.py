"""The prompt's text: variables in braces, the negative prompt and pasted settings, styles.

A prompt is data, often pasted from elsewhere, and is stored in pictures and sent to clouds. Braces therefore
read plain values only: no private names, no modules, functions, classes or methods, no access tokens.
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Collection, Mapping, Sized
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.core.format import shorten
from swiftai_nb.core.recipe import Recipe

MAX_VALUE_LENGTH = 100_000
MAX_GROWTH = 1_000_000  # characters that all values of a text add to it
MAX_FORMAT_NUMBER = 1000
# IPython's own objects: they lead to everything in the kernel, and `In` holds the text of earlier cells.
_RESERVED = frozenset({"In", "exit", "quit", "get_ipython"})
_HOSTS = ("IPython", "ipykernel", "traitlets")
_SECRET_NAME = re.compile(r"(?:.*_|)(?:token|secret|password|passwd|api_?key|credential)s?", re.IGNORECASE)
_SECRET_VALUE = re.compile(r"\bhf_[A-Za-z0-9]{20,}")
_NAME = r"[^\W\d]\w*"
_INDEX = r"""\[(?:-?\d+|'[^'{}]*'|"[^"{}]*")\]"""
_FIELD = rf"(?P<name>{_NAME})(?P<path>(?:\.{_NAME}|{_INDEX})*)(?::(?P<format>[^{{}}'\"\s][^{{}}'\"\n]*)?)?"
_BRACES = re.compile(
    rf"\{{\{{(?P<wrapped>\{{[^{{}}]+\}})\}}\}}|\{{\{{(?P<escaped>[^{{}}]*)\}}\}}|\{{{_FIELD}\}}"
)
_PATH_PART = re.compile(
    rf"""\.(?P<attribute>{_NAME})|\[(?P<number>-?\d+)\]|\[(?P<quote>['"])(?P<key>.*?)(?P=quote)\]"""
)
_NUMBER = re.compile(r"\d+")
_NEGATIVE = re.compile(r"\s*(?:negative prompt:|--no\s)\s*", re.IGNORECASE)
_PARAMETERS = re.compile(r"\s*Steps:\s*\d+\s*,")


def interpolate(text: str, variables: Mapping[str, Any], *, keep: Collection[str] = ()) -> str:
    """Replaces `{name}` in a prompt by the variable's value; every other brace stays as typed.

    Replaced are `{name}`, `{name.attribute}`, `{name[0]}` and `{name['key']}`, each with an optional
    `:format`. `{{name}}` is a literal `{name}`. JSON, `{a|b}`, `{}` and `{1}` stay as typed, and values are
    not interpolated again.

    Args:
        text: a prompt or an option's value.
        variables: name -> value.
        keep: names that stay as typed, for a later template.

    Raises:
        InvalidInputError: a variable, attribute or item does not exist or is no plain value, a format does
            not fit, or the result is too long.
    """
    growth = 0

    def replaced(found: re.Match[str]) -> str:
        nonlocal growth
        value = _replacement(found, variables, keep)
        growth += len(value) - len(found[0])
        if growth > MAX_GROWTH:
            raise InvalidInputError(
                f"the values in braces make the text longer by more than {MAX_GROWTH:,} characters",
                hint="--raw takes braces as text",
            )
        return value

    return _BRACES.sub(replaced, text)


def _replacement(found: re.Match[str], variables: Mapping[str, Any], keep: Collection[str]) -> str:
    if found["wrapped"] is not None:
        return "{" + interpolate(found["wrapped"], variables, keep=keep) + "}"
    if found["escaped"] is not None:
        return "{" + found["escaped"] + "}"
    name, field = found["name"], found[0][1:-1]
    if name in keep:
        return found[0]
    literal = f"write {{{{{field}}}}} for a literal brace, or add --raw"
    _check_name(name, field, hint=literal)
    if name not in variables:
        raise InvalidInputError(f"no variable {name!r}", hint=literal)
    value = _follow(name, variables[name], found["path"], hint=literal)
    return _formatted(value, found["format"] or "", field=field, hint=literal)


def _follow(name: str, value: Any, path: str, *, hint: str) -> Any:
    walked = name
    _check_plain(walked, value, hint=hint)
    for part in _PATH_PART.finditer(path):
        walked += part[0]
        attribute = part["attribute"]
        if part["number"] is None:
            _check_name(part["key"] if attribute is None else attribute, walked, hint=hint)
        try:
            if attribute is not None:
                value = getattr(value, attribute)
            else:
                value = value[int(part["number"]) if part["number"] is not None else part["key"]]
        except Exception as error:  # properties and items are the user's own code
            reason = shorten(f"{type(error).__name__}: {error}", 200)
            raise InvalidInputError(f"cannot read {{{walked}}} ({reason})") from error
        _check_plain(walked, value, hint=hint)
    return value


def _check_name(name: str, field: str, *, hint: str) -> None:
    """Raises an error for private names, and for names that suggest secrets."""
    if name.startswith("_") or name in _RESERVED:
        raise InvalidInputError(f"{{{field}}} is not read: {name} is a private name", hint=hint)
    if _SECRET_NAME.fullmatch(name):
        raise InvalidInputError(f"{{{field}}} is not read: {name} may be a secret", hint=hint)


def _check_plain(walked: str, value: Any, *, hint: str) -> None:
    """Raises an error for objects that are not plain data, whose attributes could expose anything."""
    is_code = inspect.ismodule(value) or inspect.isclass(value) or inspect.isroutine(value)
    is_host = type(value).__module__.partition(".")[0] in _HOSTS
    is_frame = inspect.isframe(value) or inspect.iscode(value) or inspect.istraceback(value)
    if is_code or is_host or is_frame or value is os.environ or value is getattr(os, "environb", os.environ):
        raise InvalidInputError(
            f"{{{walked}}} is not read: {type(value).__name__} is not plain data such as text or a number",
            hint=hint,
        )


def _formatted(value: Any, spec: str, *, field: str, hint: str) -> str:
    if any(int(number) > MAX_FORMAT_NUMBER for number in _NUMBER.findall(spec[:100])) or len(spec) > 100:
        raise InvalidInputError(
            f"the format of {{{field[:80]}}} is too large; the most is {MAX_FORMAT_NUMBER}", hint=hint
        )
    if isinstance(value, Sized) and _length(value) > MAX_VALUE_LENGTH:
        raise _too_long(field, hint=hint)
    try:
        text = format(value, spec)
    except Exception as error:  # as is their `__format__`
        raise InvalidInputError(f"cannot format {{{field}}}: {shorten(str(error), 200)}") from error
    if len(text) > MAX_VALUE_LENGTH:
        raise _too_long(field, hint=hint)
    if _SECRET_VALUE.search(text):
        raise InvalidInputError(f"{{{field}}} is not read: it contains a Hugging Face token", hint=hint)
    return text


def _length(value: Sized) -> int:
    try:
        return len(value)
    except Exception:  # noqa: BLE001 - an array without dimensions has no length, as objects of users may
        return 0


def _too_long(field: str, *, hint: str) -> InvalidInputError:
    return InvalidInputError(
        f"{{{field}}} is longer than {MAX_VALUE_LENGTH:,} characters or items", hint=hint
    )


@dataclass(frozen=True)
class PromptText:
    """The parsed text of a cell.

    Args:
        prompt: what to draw, on one line.
        negative: what to avoid, or None.
        settings: a recipe read from a line of AUTOMATIC1111 ("Steps: 20, Sampler: ..."), or None.
    """

    prompt: str
    negative: str | None = None
    settings: Recipe | None = None


def read_prompt(text: str) -> PromptText:
    """Separates prompt, negative prompt and pasted settings; line breaks become blanks.

    "Negative prompt:" begins the negative prompt, which continues to the end; "--no words" is one line.
    """
    lines = text.strip().splitlines()
    settings = None
    if lines and _PARAMETERS.match(lines[-1]):
        settings = Recipe.from_parameters(lines.pop())
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


@dataclass(frozen=True)
class Style:
    """A prompt template.

    Args:
        template: text with `{prompt}` where the user's prompt goes.
        negative: what to avoid, added to the user's own negative prompt; may be empty.
    """

    template: str
    negative: str = ""

    def apply(self, prompt: str, negative: str | None) -> tuple[str, str | None]:
        """The styled (prompt, negative prompt).

        Raises:
            InvalidInputError: the template repeats a long prompt very often.
        """
        if self.template.count("{prompt}") * len(prompt) > len(prompt) + MAX_GROWTH:
            raise InvalidInputError(
                f"the style makes the prompt longer by more than {MAX_GROWTH:,} characters"
            )
        avoided = ", ".join(part for part in (negative, self.negative) if part)
        return self.template.replace("{prompt}", prompt), avoided or None


STYLES: dict[str, Style] = {
    "photo": Style("a photo of {prompt}, natural light, sharp focus, 50mm", "drawing, painting, blurry"),
    "cinematic": Style(
        "cinematic still of {prompt}, dramatic light, shallow depth of field, film grain", "cartoon, flat"
    ),
    "portrait": Style(
        "studio portrait of {prompt}, soft key light, neutral background, 85mm", "deformed, blurry"
    ),
    "watercolor": Style("watercolor painting of {prompt}, soft washes, paper texture", "photo, hard edges"),
    "oil": Style("oil painting of {prompt}, visible brush strokes, rich color", "photo"),
    "ink": Style("ink drawing of {prompt}, fine line work, cross hatching, black and white", "color, photo"),
    "pixel": Style("pixel art of {prompt}, 16-bit, limited palette, crisp pixels", "blurry, photo"),
    "anime": Style("anime illustration of {prompt}, clean lines, cel shading", "photo, 3d render"),
    "comic": Style("comic book panel of {prompt}, bold outlines, halftone shading", "photo"),
    "flat": Style("flat vector illustration of {prompt}, simple shapes, solid colors", "texture, photo"),
    "isometric": Style("isometric illustration of {prompt}, clean geometry, soft shadows", "photo"),
    "3d": Style("3d render of {prompt}, soft studio light, smooth materials", "flat, sketch"),
    "sticker": Style("die-cut sticker of {prompt}, white border, plain background", "photo, clutter"),
    "poster": Style("screen-printed poster of {prompt}, bold composition, few colors", "photo, clutter"),
}


def find_style(name: str, own: Mapping[str, str] | None = None) -> Style:
    """The style called `name`; the user's own (`%config Imagine.styles`) come first.

    Raises:
        InvalidInputError: no such style; names the closest.
    """
    mine = {key: Style(value) for key, value in (own or {}).items()}
    known = {**STYLES, **mine}
    if name not in known:
        close = get_close_matches(name.lower(), known, n=1)
        meant = f"did you mean {close[0]}?" if close else f"styles are {', '.join(known)}"
        raise InvalidInputError(f"no style {name!r}: {meant}")
    return known[name]
