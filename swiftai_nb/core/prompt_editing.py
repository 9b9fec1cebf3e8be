"""Prompts that change while a picture is made, in AUTOMATIC1111's syntax.

`[from:to:when]` is `from` in the first steps and `to` afterwards; `[to:when]` adds and `[from::when]` removes
something. With a point `when` is a share of the steps, else their number. `[a|b]` takes turns, step by step.
Each part may hold weights and further edits; a backslash makes a bracket text.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.core.prompt_syntax import NUMBER

MAX_TEXTS = 100
MAX_EDITS = 500
_MAX_DEPTH = 200
_TOKEN = re.compile(r"\\.?|[\[\]():|]|[^\\\[\]():|]+", re.DOTALL)
_WHEN = re.compile(rf"\s*{NUMBER}\s*")
_AS_TEXT = "--prompt-syntax plain reads brackets as text"


@dataclass(frozen=True)
class _Edit:
    """Text that changes: `options` in turn, or one and then the other after `when` steps."""

    options: tuple[tuple[_Node, ...], ...]
    when: str | None = None

    def chosen(self, step: int, steps: int) -> tuple[_Node, ...]:
        """The text of a step, 1-based."""
        if self.when is None:
            return self.options[(step - 1) % len(self.options)]
        end = float(self.when) * (steps if "." in self.when else 1)
        return self.options[step > int(min(max(end, 0), steps))]


_Node = str | _Edit


@dataclass
class _Bracket:
    """An open bracket: what is in it, divided at the colons and bars that are in no inner bracket."""

    opening: str = ""
    parts: list[list[_Node]] = field(default_factory=lambda: [[]])
    marks: list[str] = field(default_factory=list)

    def as_text(self, closing: str = "") -> list[_Node]:
        nodes: list[_Node] = [self.opening, *self.parts[0]]
        for mark, part in zip(self.marks, self.parts[1:], strict=True):
            nodes += [mark, *part]
        return [*nodes, closing]

    def closed(self) -> list[_Node]:
        """Of a square bracket: the edit that it is, or itself as text."""
        marks, last = "".join(self.marks), self.parts[-1]
        if marks and not marks.strip("|"):
            return [_Edit(tuple(_merged(part) for part in self.parts))]
        when = "".join(node for node in last if isinstance(node, str))
        if marks in (":", "::") and len(last) == 1 and _WHEN.fullmatch(when):
            before: list[_Node] = [] if marks == ":" else self.parts[0]
            return [_Edit((_merged(before), _merged(self.parts[-2])), when)]
        return self.as_text("]")


def _parse(prompt: str) -> tuple[_Node, ...]:
    """A prompt as text and edits; brackets without their partner are text.

    Raises:
        InvalidInputError: more than 200 brackets are open at once, or there are more than 500 edits.
    """
    opened = [_Bracket()]
    edits = 0
    for token in _TOKEN.findall(prompt):
        if token in "[(":
            opened.append(_Bracket(token))
            if len(opened) > _MAX_DEPTH:
                raise InvalidInputError(f"more than {_MAX_DEPTH} brackets are open at once", hint=_AS_TEXT)
        elif token in ":|":
            opened[-1].marks.append(token)
            opened[-1].parts.append([])
        elif token in "])" and any(one.opening == "[("[token == ")"] for one in opened):
            while opened[-1].opening != "[("[token == ")"]:
                unclosed = opened.pop()
                opened[-1].parts[-1] += unclosed.as_text()
            bracket = opened.pop()
            nodes = bracket.closed() if token == "]" else bracket.as_text(token)
            opened[-1].parts[-1] += nodes
            edits += len(nodes) == 1 and isinstance(nodes[0], _Edit)
            if edits > MAX_EDITS:
                raise InvalidInputError(f"the prompt has more than {MAX_EDITS} edits", hint=_AS_TEXT)
        else:
            opened[-1].parts[-1].append(token)
    while len(opened) > 1:
        unclosed = opened.pop()
        opened[-1].parts[-1] += unclosed.as_text()
    return _merged(opened[0].as_text())


def _merged(nodes: Sequence[_Node]) -> tuple[_Node, ...]:
    """The same nodes with neighboring texts as one: each step of a run joins them again."""
    groups = itertools.groupby(nodes, key=lambda node: isinstance(node, str))
    merged = [["".join(map(str, group))] if is_text else list(group) for is_text, group in groups]
    return tuple(itertools.chain.from_iterable(merged))


def _text_at(nodes: Sequence[_Node], step: int, steps: int) -> str:
    return "".join(
        node if isinstance(node, str) else _text_at(node.chosen(step, steps), step, steps) for node in nodes
    )


def edited_prompts(prompts: Sequence[str], steps: int) -> list[tuple[int, tuple[str, ...]]]:
    """What prompts are during a run: (first step, 0-based; the prompts from there on), in order.

    Args:
        prompts: as typed.
        steps: of the run.

    Raises:
        InvalidInputError: more than 100 different texts, or brackets that are nested too deeply.
    """
    if not any("[" in prompt for prompt in prompts):
        return [(0, tuple(prompts))]
    parsed = [_parse(prompt) for prompt in prompts]
    if all(isinstance(node, str) for nodes in parsed for node in nodes):
        return [(0, tuple(prompts))]
    found: list[tuple[int, tuple[str, ...]]] = []
    for step in range(1, steps + 1):
        texts = tuple(_text_at(nodes, step, steps) for nodes in parsed)
        if not found or found[-1][1] != texts:
            found.append((step - 1, texts))
    count = len({texts for _, texts in found})
    if count > MAX_TEXTS:
        raise InvalidInputError(
            f"the prompt's edits make {count} different texts, {MAX_TEXTS} is the most", hint=_AS_TEXT
        )
    return found
