"""Parses the line and the cell of `%imagine` into one frozen value, without IPython.

Options and prompt words may be mixed freely; `--` ends the options. In a cell, the body is the
prompt; its lines that start with an option continue the `%%imagine` line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from swiftai_nb.core.config import MAX_COUNT, ImageGenerationConfig, LoraReference, checked_int
from swiftai_nb.core.errors import AIError, InvalidInputError
from swiftai_nb.core.recipe import Recipe
from swiftai_nb.notebook.magic.options import BY_NAME, OPTIONS, Axis, Option, Size, parse_axis, suggest
from swiftai_nb.notebook.magic.prompt import PromptText, interpolate, read_prompt
from swiftai_nb.notebook.magic.tokens import Token, split, unquoted

_OPTION_LIKE = re.compile(r"--?[^\W\d_][\w-]*(?:=.*)?", re.DOTALL)
_SHORT_NUMBER = re.compile(r"-([a-z])(\d.*)")
_DASHES = re.compile(r"[—–](?=[a-z])")
_AXIS = re.compile(r"[A-Za-z][\w-]*=.+", re.DOTALL)


@dataclass(frozen=True)
class ImagineArguments:
    """What one `%imagine` asks for; None means "not given".

    Args:
        prompt: what to draw; may be empty with `recipe_from`, `widget` or a prompt axis.
        settings: a recipe pasted with the prompt; options given beside it win.
        given: names of the options that were typed.
    """

    prompt: str = ""
    negative: str | None = None
    style: str | None = None
    image: str | None = None
    strength: float | None = None
    mask: str | None = None
    recipe_from: str | None = None
    raw: bool = False
    model: str | None = None
    engine: str | None = None
    provider: str | None = None
    steps: int | None = None
    guidance: float | None = None
    size: Size | None = None
    scheduler: str | None = None
    loras: tuple[LoraReference, ...] = ()
    clip_skip: int | None = None
    quantization_bits: int | None = None
    download: bool = False
    seed: int | None = None
    seeds: tuple[int, ...] = ()
    count: int | None = None
    grid: tuple[Axis, ...] = ()
    out: str | None = None
    save: str | None = None
    quiet: bool = False
    preview: str | None = None
    preview_every: int | None = None
    background: bool = False
    executor: str | None = None
    widget: bool = False
    dry_run: bool = False
    help: bool = False
    settings: Recipe | None = None
    given: frozenset[str] = field(default_factory=frozenset)

    def config(self) -> ImageGenerationConfig:
        """The settings without pictures and without a size given as a word.

        Raises:
            InvalidInputError: a value is outside its limits.
        """
        size = Size() if self.size is None else self.size
        return ImageGenerationConfig(
            width=size.width,
            height=size.height,
            preview=None if self.preview == "auto" else self.preview,
            **{option.setting: getattr(self, option.attribute) for option in OPTIONS if option.setting},
        )


def parse(line: str, body: str = "", *, variables: Mapping[str, Any] | None = None) -> ImagineArguments:
    """Parses the magic's line and, for `%%imagine`, the cell's body.

    Args:
        line: all that follows `%imagine` on its line.
        body: the rest of the cell; empty for the line magic.
        variables: the user's namespace, for `{name}`.

    Raises:
        InvalidInputError: one line that says what is wrong and, where it can, what was meant.
    """
    more, text = _option_lines(body)
    words, values = _sort(split("\n".join([line, *more])))
    variables = {} if variables is None or "raw" in values else variables
    if "raw" not in values:
        values = {name: _filled(name, value, variables) for name, value in values.items()}
    prompt = _prompt(words)
    if "raw" not in values:
        prompt, text = interpolate(prompt, variables), interpolate(text, variables)
    arguments = _build(read_prompt(f"{prompt}\n{text}"), values)
    _check(arguments)
    return arguments


def _option_lines(body: str) -> tuple[list[str], str]:
    """Splits the leading option lines off a cell's body; `--no words` stays, it is prompt text."""
    lines = body.splitlines()
    more: list[str] = []
    while lines and (not lines[0].strip() or _begins_with_option(lines[0])):
        more.append(lines.pop(0))
    return more, "\n".join(lines)


def _begins_with_option(line: str) -> bool:
    word = line.split(maxsplit=1)[0]
    return word.startswith("--") and word != "--no" and _OPTION_LIKE.fullmatch(word) is not None


def _sort(tokens: list[Token]) -> tuple[list[Token], dict[str, Any]]:
    """Separates prompt words from options; the values are still text (lists for repeated ones)."""
    words: list[Token] = []
    values: dict[str, Any] = {}
    stream = iter(_Lookahead(tokens))
    for token in stream:
        if token.text == "--":
            words += list(stream)
            break
        option, inline = _as_option(token)
        if option is None:
            words.append(token)
        elif not option.takes_value:
            if inline is not None:
                raise InvalidInputError(f"--{option.name} takes no value")
            values[option.attribute] = True
        elif option.kind == "axes":
            values[option.attribute] = list(_axis_words(stream, inline))
        elif option.kind == "lora":
            values.setdefault(option.attribute, []).append(_value_of(option, inline, stream))
        else:
            values[option.attribute] = _value_of(option, inline, stream)
    return words, values


class _Lookahead(Iterator[Token]):
    """An iterator that shows its next item."""

    def __init__(self, tokens: list[Token]) -> None:
        self._tokens = tokens
        self._position = 0

    def __next__(self) -> Token:
        token = self.peek()
        if token is None:
            raise StopIteration
        self._position += 1
        return token

    def peek(self) -> Token | None:
        """The next token, or None at the end."""
        return self._tokens[self._position] if self._position < len(self._tokens) else None


def _as_option(token: Token) -> tuple[Option | None, str | None]:
    """(option, inline value), or (None, None) for a prompt word.

    Raises:
        InvalidInputError: it looks like an option and is none.
    """
    if token.is_quoted:
        return None, None
    if _DASHES.match(token.text) and f"--{token.text[1:]}" in BY_NAME:
        raise InvalidInputError(
            f"unknown option {token.text}: did you mean --{token.text[1:]} (two hyphens)?"
        )
    short = _SHORT_NUMBER.fullmatch(token.text)
    if short is not None and f"-{short[1]}" in BY_NAME:
        return BY_NAME[f"-{short[1]}"], short[2]
    if not _OPTION_LIKE.fullmatch(token.text):
        return None, None
    name, equals, value = token.text.partition("=")
    if name in BY_NAME:
        return BY_NAME[name], unquoted(value) if equals else None
    meant = suggest(name)
    tail = f": did you mean {meant}?" if meant else "; put -- before a prompt that holds such a word"
    raise InvalidInputError(f"unknown option {name}{tail}")


def _value_of(option: Option, inline: str | None, stream: Iterator[Token]) -> str:
    assert isinstance(stream, _Lookahead)
    if inline is not None:
        return inline
    token = stream.peek()
    if token is None or (not token.is_quoted and _is_option_word(token.text)):
        raise InvalidInputError(f"--{option.name} needs a value: --{option.name} {option.metavar}")
    next(stream)
    if option.kind == "text" and not token.is_quoted and token.text.endswith(",") and stream.peek():
        raise InvalidInputError(f'--{option.name} {token.text} ends early; quote multi-word values: "..."')
    return token.value


def _is_option_word(text: str) -> bool:
    if text == "--":
        return True
    return _OPTION_LIKE.fullmatch(text) is not None and text.lstrip("-").lower() not in ("inf", "nan")


def _axis_words(stream: Iterator[Token], inline: str | None) -> Iterator[str]:
    assert isinstance(stream, _Lookahead)
    found = 0
    if inline is not None:
        found += 1
        yield inline
    while (token := stream.peek()) is not None and _AXIS.fullmatch(token.value):
        next(stream)
        found += 1
        yield token.value
    if found == 0:
        raise InvalidInputError("--grid needs a value: --grid steps=1,2,4 seed=1-3")
    if found > 2:
        raise InvalidInputError(f"--grid has {found} axes; it takes one or two")


def _filled(name: str, value: Any, variables: Mapping[str, Any]) -> Any:
    if value is True:
        return value
    keep = SAVE_FIELDS if name == "save" else ()
    if isinstance(value, list):
        return [interpolate(item, variables) for item in value]
    return interpolate(value, variables, keep=keep)


SAVE_FIELDS = ("seed", "n", "model", "date", "prompt")


def _prompt(words: list[Token]) -> str:
    """Prompt words as typed; a prompt that is quoted as a whole loses its quotes."""
    if all(word.is_quoted for word in words):
        return " ".join(word.value for word in words)
    return " ".join(word.text for word in words)


def _build(text: PromptText, values: dict[str, Any]) -> ImagineArguments:
    converted = {_by_attribute(name): value for name, value in values.items()}
    known = {f.name for f in fields(ImagineArguments)}
    result = {option.attribute: _converted(option, raw) for option, raw in converted.items()}
    result = {name: value for name, value in result.items() if name in known}
    result["given"] = frozenset(option.name for option in converted)
    if text.negative is not None:
        result["negative"] = ", ".join(part for part in (result.get("negative"), text.negative) if part)
    if text.settings is not None:
        result["settings"] = text.settings
    return ImagineArguments(prompt=text.prompt, **result)


def _by_attribute(name: str) -> Option:
    return next(option for option in OPTIONS if option.attribute == name)


def _converted(option: Option, raw: Any) -> Any:
    if raw is True:
        return True
    if option.kind == "axes":
        return tuple(parse_axis(item) for item in raw)
    if option.kind == "lora":
        return tuple(option.convert(item) for item in raw)
    return option.convert(raw)


def _check(arguments: ImagineArguments) -> None:
    given = arguments.given
    if "help" in given:
        return
    for option in OPTIONS:
        if option.name not in given:
            continue
        for other in option.excludes:
            if other in given:
                raise InvalidInputError(f"use --{option.name} or --{other}, not both")
        if option.needs and not given & {option.needs, "from"}:
            raise InvalidInputError(f"--{option.name} needs --{option.needs}")
    _check_numbers(arguments)
    wants_prompt = not (arguments.widget or arguments.recipe_from) and not _has_axis(arguments, "prompt")
    if wants_prompt and not arguments.prompt:
        raise InvalidInputError("the prompt is empty", hint="example: %imagine a red fox")


def _check_numbers(arguments: ImagineArguments) -> None:
    if arguments.count is not None:
        checked_int("count", arguments.count, low=1, high=MAX_COUNT)
    if arguments.preview_every is not None:
        checked_int("preview-every", arguments.preview_every, low=1, high=1000)
    arguments.config()


def _has_axis(arguments: ImagineArguments, name: str) -> bool:
    return any(axis.name == name for axis in arguments.grid)


def one_line(error: AIError) -> str:
    """An input error as the one line that IPython's UsageError shows."""
    message = " ".join(str(error.message).split())
    return message if error.hint is None else f"{message}; {' '.join(error.hint.split())}"
