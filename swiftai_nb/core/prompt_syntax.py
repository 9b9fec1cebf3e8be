"""Reads the prompt syntax of AUTOMATIC1111's web UI: weights, BREAK and AND; and the weights of compel.

`(x)` weighs 1.1, `((x))` 1.21, `[x]` 1 / 1.1 and `(x:1.3)` 1.3; a backslash makes a bracket plain text.
BREAK begins a new chunk of tokens, and AND joins prompts that the model follows at the same time (composable
diffusion, Liu et al. 2022). What changes during a run, such as `[a:b:0.5]`, is read by `prompt_editing`.

compel writes `x+` for 1.1, `x++` for 1.21, `x-` for 0.9 and `(some words)1.3`.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

from swiftai_nb.core.errors import InvalidInputError

SYNTAXES = ("plain", "weighted", "compel")
MAX_WEIGHT = 100.0
_MAX_OPEN = 200
_AS_TEXT = "--prompt-syntax plain reads brackets as text"
_STRONGER, _WEAKER = 1.1, 1 / 1.1
NUMBER = r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)"  # matches in one way only: linear time for long rows of digits
_TOKEN = re.compile(rf"\\[()\[\]\\]|\\|\(|\[|:\s{{0,9}}(?P<weight>{NUMBER})\s{{0,9}}\)|\)|\]|[^\\()\[\]:]+|:")
_BREAK = re.compile(r"\bBREAK\b")
_AND = re.compile(r"\bAND\b")
_PART_WEIGHT = re.compile(rf":\s{{0,9}}({NUMBER})$")
# A bracket with a number, such as "(red:1.3)", but not "(16:9)" or "(at 10:30)".
_WEIGHT = re.compile(rf"\([^()]{{0,999}}[^()\d\s:]\s{{0,9}}:\s{{0,9}}{NUMBER}\s{{0,9}}\)")
_OTHER_SYNTAX = re.compile(r"\(\(|\[\[?[^\[\]]{1,999}\]|\bBREAK\b|\bAND\b")
_LORA_TAG = re.compile(r"<lora:([^<>:]{1,300})(?::([^<>]{0,900}))?>")
_LORA_SCALE = re.compile(rf"\s{{0,9}}({NUMBER})(?:[^=]{{0,99}}:lbw=([^:]{{1,300}}))?")
# A change with a number, such as "[cat:dog:0.5]", but not "[10:30:45]".
_EDIT = re.compile(
    rf"\[(?![\d\s:.]{{0,99}}\])[^\[\]:|]{{0,999}}:[^\[\]:|]{{0,999}}:\s{{0,9}}{NUMBER}\s{{0,9}}\]"
)
_COMPEL = re.compile(
    r"\\.|(?<!\w)(?P<word>\w[\w'’-]{0,99}?)(?P<sign>\++|-+)(?=[\s,.;:!?)]|$)"
    r"|\)(?P<weight>\++|-+|\d*\.?\d+)?|[(\[\]]",
    re.DOTALL,
)
_COMPEL_CALL = re.compile(r"[)\"']\.(?:and|blend|swap)\(")


@dataclass(frozen=True)
class Span:
    """A piece of a prompt.

    Args:
        text: as written, without its brackets; "" for a BREAK.
        weight: of its tokens; 1.0 is unweighted.
        is_break: whether a new chunk begins here.
    """

    text: str
    weight: float = 1.0
    is_break: bool = False


def parse_weights(prompt: str) -> list[Span]:
    """The spans of a prompt; neighbors differ in weight. A bracket without its partner counts to the end.

    Raises:
        InvalidInputError: a weight outside -100..100, or more than 200 open brackets.
    """
    texts: list[str | None] = []  # None is a BREAK
    weights: list[float] = []
    round_starts: list[int] = []
    square_starts: list[int] = []

    def close(start: int, factor: float) -> None:
        for index in range(start, len(weights)):
            weights[index] *= factor

    for token in _TOKEN.finditer(prompt):
        text = token[0]
        if text.startswith("\\"):
            texts.append(text[1:])
            weights.append(1.0)
        elif text in "([":
            (round_starts if text == "(" else square_starts).append(len(texts))
            if len(round_starts) + len(square_starts) > _MAX_OPEN:
                raise InvalidInputError(f"more than {_MAX_OPEN} brackets are open at once", hint=_AS_TEXT)
        elif token["weight"] is not None and round_starts:
            close(round_starts.pop(), float(token["weight"]))
        elif text == ")" and round_starts:
            close(round_starts.pop(), _STRONGER)
        elif text == "]" and square_starts:
            close(square_starts.pop(), _WEAKER)
        else:
            for number, part in enumerate(_BREAK.split(text)):
                texts += [None] if number else []
                texts.append(part)
                weights += [1.0] * (1 + bool(number))
    for starts, factor in ((round_starts, _STRONGER), (square_starts, _WEAKER)):
        for start in starts:
            close(start, factor)
    return _merged(texts, weights)


def _merged(texts: Sequence[str | None], weights: Sequence[float]) -> list[Span]:
    spans: list[Span] = []
    for (is_break, weight), group in itertools.groupby(
        zip(texts, weights, strict=True), key=lambda piece: (piece[0] is None, piece[1])
    ):
        if not abs(weight) <= MAX_WEIGHT:
            raise InvalidInputError(
                f"a prompt weight is {weight:g}, must be in -{MAX_WEIGHT:g}..{MAX_WEIGHT:g}",
                hint=_AS_TEXT,
            )
        if is_break:
            spans += [Span("", is_break=True) for _ in group]
        else:
            spans.append(Span("".join(text for text, _ in group if text is not None), weight))
    return spans or [Span("")]


def split_and(prompt: str) -> list[tuple[str, float]]:
    """The prompts that AND joins, each with its weight ("a cat AND a hat :1.2"); without AND one, 1.0."""
    parts = _AND.split(prompt)
    if len(parts) == 1:
        return [(prompt, 1.0)]
    found = []
    for part in (part.strip() for part in parts):
        weight = _PART_WEIGHT.search(part)
        found.append((part, 1.0) if weight is None else (part[: weight.start()].rstrip(), float(weight[1])))
    return found


def from_compel(prompt: str) -> str:
    """A prompt of compel in AUTOMATIC1111's syntax: "a cat++ (on a mat)-" is "a (cat:1.21) (on a mat:0.9)".

    Square brackets, and brackets without a partner, are text. compel's own arithmetic, which mixes in prompts
    without the words that weigh less than 1, is not used.
    """
    parts: list[str] = []
    opened: list[int] = []
    end = 0
    for found in _COMPEL.finditer(prompt):
        parts.append(prompt[end : found.start()])
        end = found.end()
        if found["word"] is not None:
            parts.append(f"({found['word']}:{_compel_weight(found['sign'])})")
        elif found[0] == "(":
            opened.append(len(parts))
            parts.append(r"\(")
        elif found[0].startswith(")") and opened:
            weight = found["weight"]
            parts[opened.pop()] = "" if weight is None else "("
            parts.append("" if weight is None else f":{_compel_weight(weight)})")
        elif found[0].startswith("\\"):
            parts.append(found[0])
        else:
            parts.append(f"\\{found[0]}")
    return "".join([*parts, prompt[end:]])


def _compel_weight(text: str) -> str:
    factor = {"+": 1.1, "-": 0.9}.get(text[0])
    return f"{min(float(text), 1e6) if factor is None else factor ** min(len(text), 99):.6f}"


def has_weights(prompt: str) -> bool:
    """Whether a prompt holds a bracket with a number, such as "(red:1.3)" or "[cat:dog:0.5]"."""
    return _WEIGHT.search(prompt) is not None or _EDIT.search(prompt) is not None


def reads_weights(prompts: Sequence[str], syntax: str | None) -> bool:
    """Whether these prompts are read with weights: as asked, or because one has a bracket with a number.

    Raises:
        InvalidInputError: a syntax of another name.
    """
    if syntax is not None and syntax not in SYNTAXES:
        raise InvalidInputError(f"prompt_syntax must be one of {', '.join(SYNTAXES)} (got {syntax!r})")
    return syntax != "plain" if syntax is not None else any(has_weights(prompt) for prompt in prompts)


def syntax_notes(prompts: Sequence[str], syntax: str | None) -> tuple[str, ...]:
    """What the user should know about how brackets and key words of these prompts are read."""
    if reads_weights(prompts, syntax):
        notes = []
        if syntax is None:
            notes.append(
                "prompt weights such as (x:1.3) are read as AUTOMATIC1111 does; "
                "--prompt-syntax plain takes them as text"
            )
        if syntax == "compel" and any(_COMPEL_CALL.search(prompt) for prompt in prompts):
            notes.append("compel's .and(), .blend() and .swap() are read as text; AND joins prompts")
        return tuple(notes)
    found = _other_syntax(prompts) if syntax is None else None
    if found is None:
        return ()
    return (f"{found!r} is read as text; --prompt-syntax weighted reads weights, BREAK and AND",)


def _other_syntax(prompts: Sequence[str]) -> str | None:
    """The first mark of weights, edits or BREAK in prompts that are not all capitals; 20 characters of it."""
    found = (_OTHER_SYNTAX.search(prompt) for prompt in prompts if prompt.upper() != prompt)
    return next((match[0][:20] for match in found if match), None)


def take_lora_tags(prompt: str) -> tuple[str, list[tuple[str, float, str | None]]]:
    """A prompt without its tags such as "<lora:name:0.8>", and each tag's name, scale and blocks (`lbw=`)."""
    found: list[tuple[str, float, str | None]] = []

    def take(tag: re.Match[str]) -> str:
        scale = None if tag[2] is None else _LORA_SCALE.match(tag[2])
        if tag[2] is not None and scale is None:
            return tag[0]
        found.append(
            (tag[1].strip(), 1.0, None) if scale is None else (tag[1].strip(), float(scale[1]), scale[2])
        )
        return " "

    rest = _LORA_TAG.sub(take, prompt)
    return (" ".join(rest.split()) if found else prompt), found


def no_weights_notes(prompts: Sequence[str], syntax: str | None, *, family: str) -> tuple[str, ...]:
    """A note for families whose text encoders know no weights."""
    if reads_weights(prompts, syntax):
        return (f"{family} has no prompt weights: brackets and numbers are read as text",)
    found = _other_syntax(prompts) if syntax is None else None
    if found is None:
        return ()
    return (f"{family} has no prompt weights: {found!r} is read as text",)
