"""Parses the line and the cell of `%imagine` into one frozen value, without IPython.

Options and prompt words may be mixed freely; `--` ends the options. In a cell, the body is the
prompt; its lines that start with an option continue the `%%imagine` line.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from swiftai_nb.core.config import MAX_COUNT, ImageGenerationConfig, LoraReference, checked_int
from swiftai_nb.core.errors import AIError, InvalidInputError
from swiftai_nb.core.outpaint import Outpaint
from swiftai_nb.core.prompt_syntax import take_lora_tags
from swiftai_nb.core.recipe import Recipe
from swiftai_nb.notebook.magic.axes import parse_axis
from swiftai_nb.notebook.magic.controls import ControlOption
from swiftai_nb.notebook.magic.option_values import Size
from swiftai_nb.notebook.magic.options import BY_NAME, OPTIONS, Axis, Option, suggest
from swiftai_nb.notebook.magic.prompt import PromptText, interpolate, read_prompt
from swiftai_nb.notebook.magic.tokens import Token, split, unquoted
from swiftai_nb.notebook.output import saving

_OPTION_LIKE = re.compile(r"--?[^\W\d_][\w-]*(?:=.*)?", re.DOTALL)
_SHORT_NUMBER = re.compile(r"-([a-z])(\d.*)")
_DASHES = re.compile(r"[—–](?=[a-z])")
_AXIS = re.compile(r"[A-Za-z][\w-]*=.+", re.DOTALL)


@dataclass(frozen=True)
class ImagineArguments:
    """The parsed arguments of one `%imagine`; None means "not given".

    Args:
        prompt: what to draw; may be empty with `recipe_from`, `widget` or a prompt axis.
        pasted_loras: those of "<lora:…>" in a prompt that was pasted with its settings.
        settings: a recipe pasted with the prompt; options override it.
        given: names of the options that were typed.
    """

    prompt: str = ""
    negative: str | None = None
    style: str | None = None
    image: str | None = None
    strength: float | None = None
    mask: str | None = None
    references: tuple[str, ...] = ()
    controls: tuple[ControlOption, ...] = ()
    embed_references: bool = False
    recipe_from: str | None = None
    plain: bool = False
    raw: bool = False
    model: str | None = None
    engine: str | None = None
    provider: str | None = None
    base_url: str | None = None
    bill_to: str | None = None
    extra_body: tuple[tuple[str, Any], ...] = ()
    steps: int | None = None
    guidance: float | None = None
    size: Size | None = None
    scheduler: str | None = None
    loras: tuple[LoraReference, ...] = ()
    vae: str | None = None
    pasted_loras: tuple[LoraReference, ...] = ()
    embeddings: tuple[str, ...] = ()
    guidance_rescale: float | None = None
    eta: float | None = None
    prompt_syntax: str | None = None
    mask_feather: int | None = None
    image_guidance_scale: float | None = None
    outpaint: Outpaint | None = None
    hires: float | None = None
    hires_strength: float | None = None
    hires_steps: int | None = None
    upscale: float | None = None
    upscaler: str | None = None
    clip_skip: int | None = None
    quantization_bits: int | None = None
    precision: str | None = None
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
        InvalidInputError: one line with the error and, if possible, a suggestion.
    """
    option_lines, text = _split_body(body)
    words, values = _read_line(split("\n".join([line, *option_lines])))
    prompt = _joined_as_typed(words)
    if not any(option.name == "raw" for option in values):
        variables = {} if variables is None else variables
        values = {option: _interpolated(option, texts, variables) for option, texts in values.items()}
        prompt, text = (interpolate(_escaped_choices(part), variables) for part in (prompt, text))
    arguments = _build(read_prompt(f"{prompt}\n{text}"), values)
    _check(arguments)
    return arguments


def _limited(scale: float) -> float:
    return min(max(scale, -10.0), 10.0)


def _escaped_choices(text: str) -> str:
    """Doubled braces are text, also with a bar inside: they get backslashes, which choices take off."""
    return re.sub(r"\{\{([^{}|]*\|[^{}]*)\}\}", r"\\{\1\\}", text)


def _split_body(body: str) -> tuple[list[str], str]:
    """Splits the leading option lines off a cell's body; `--no words` belongs to the prompt."""
    lines = body.splitlines()
    is_prompt = (line.strip() and not _begins_with_option(line) for line in lines)
    first = next((index for index, found in enumerate(is_prompt) if found), len(lines))
    return lines[:first], "\n".join(lines[first:])


def _begins_with_option(line: str) -> bool:
    word = line.split(maxsplit=1)[0]
    return word.startswith("--") and word != "--no" and _OPTION_LIKE.fullmatch(word) is not None


def _read_line(tokens: list[Token]) -> tuple[list[Token], dict[Option, list[str]]]:
    """Separates prompt words from options; an option's values are still text, none for a flag."""
    words: list[Token] = []
    values: dict[Option, list[str]] = {}
    rest = deque(tokens)
    while rest:
        token = rest.popleft()
        if token.text == "--":
            words += rest
            break
        option, inline = _as_option(token)
        if option is None:
            words.append(token)
        elif not option.takes_value:
            if inline is not None:
                raise InvalidInputError(f"--{option.name} takes no value")
            values[option] = []
        elif option.kind == "axes":
            values[option] = _take_axes(rest, inline)
        else:
            value = _take_value(option, rest) if inline is None else inline
            earlier = values.get(option, []) if option.repeats else []
            values[option] = [*earlier, value]
    return words, values


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
    tail = f": did you mean {meant}?" if meant else "; put -- before a prompt that contains such a word"
    raise InvalidInputError(f"unknown option {name}{tail}")


def _take_value(option: Option, rest: deque[Token]) -> str:
    if not rest or (not rest[0].is_quoted and _is_option_word(rest[0].text)):
        raise InvalidInputError(f"--{option.name} needs a value: --{option.name} {option.metavar}")
    token = rest.popleft()
    if option.kind == "text" and not token.is_quoted and token.text.endswith(",") and rest:
        raise InvalidInputError(f'--{option.name} {token.text} ends early; quote multi-word values: "..."')
    return token.value


def _is_option_word(text: str) -> bool:
    if text == "--":
        return True
    return _OPTION_LIKE.fullmatch(text) is not None and text.lstrip("-").lower() not in ("inf", "nan")


def _take_axes(rest: deque[Token], inline: str | None) -> list[str]:
    axes = [] if inline is None else [inline]
    while rest and _AXIS.fullmatch(rest[0].value):
        axes.append(rest.popleft().value)
    if not axes:
        raise InvalidInputError("--grid needs a value: --grid steps=1,2,4 seed=1-3")
    if len(axes) > 2:
        raise InvalidInputError(f"--grid has {len(axes)} axes; it takes one or two")
    return axes


def _interpolated(option: Option, texts: list[str], variables: Mapping[str, Any]) -> list[str]:
    keep = saving.FIELDS if option.name == "save" else ()
    return [interpolate(text, variables, keep=keep) for text in texts]


def _joined_as_typed(words: list[Token]) -> str:
    """Prompt words as typed; a prompt that is quoted as a whole loses its quotes."""
    if all(word.is_quoted for word in words):
        return " ".join(word.value for word in words)
    return " ".join(word.text for word in words)


def _build(text: PromptText, values: dict[Option, list[str]]) -> ImagineArguments:
    result = {option.attribute: _converted(option, texts) for option, texts in values.items()}
    if text.negative is not None:
        result["negative"] = ", ".join(part for part in (result.get("negative"), text.negative) if part)
    given = frozenset(option.name for option in values)
    prompt, tags = (text.prompt, []) if result.get("raw") else take_lora_tags(text.prompt)
    if tags:
        is_pasted = text.settings is not None
        name, limit = ("pasted_loras", _limited) if is_pasted else ("loras", float)
        references = tuple(LoraReference(source, limit(scale), blocks) for source, scale, blocks in tags)
        result[name] = (*result.get(name, ()), *references)
    return ImagineArguments(prompt=prompt, settings=text.settings, given=given, **result)


def _converted(option: Option, texts: list[str]) -> Any:
    if not option.takes_value:
        return True
    if option.kind == "axes":
        return tuple(parse_axis(text) for text in texts)
    if option.repeats:
        return tuple(option.convert(text) for text in texts)
    return option.convert(texts[-1])


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
    has_guess = any(control.is_guess for control in arguments.controls or ())
    has_other = arguments.widget or arguments.recipe_from or has_guess
    wants_prompt = not has_other and not _has_axis(arguments, "prompt")
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
