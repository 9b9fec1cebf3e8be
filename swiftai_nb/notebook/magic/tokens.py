"""Splits the line of a magic into words; apostrophes in prose are no quotes."""

from __future__ import annotations

from dataclasses import dataclass

QUOTES = "\"'"
_OPENERS = "=,"  # a quote may also start after these: --negative="a b", prompt="a cat","a dog"


@dataclass(frozen=True)
class Token:
    """One word of the line.

    Args:
        text: as typed, quotes included.
        value: without its quotes, when it was quoted as a whole; else the same as `text`.
    """

    text: str
    value: str

    @property
    def is_quoted(self) -> bool:
        """Whether quotes surrounded the whole word; such a word is never an option."""
        return self.text != self.value


def split(line: str) -> list[Token]:
    """The words of `line`.

    A quote opens only where a word begins (or after "=" or ","), and only if a closing one follows
    before a blank, a comma or the end: `dog's`, `rock 'n roll` and `6" nails` are plain words.
    """
    tokens: list[Token] = []
    start: int | None = None
    position = 0
    unclosed: set[str] = set()  # quotes that nothing closes from here on: each is searched for once
    while position < len(line):
        if line[position].isspace():
            if start is not None:
                tokens.append(_token(line[start:position]))
                start = None
            position += 1
            continue
        if start is None:
            start = position
        end = None
        if line[position] not in unclosed and _may_open(line, start, position):
            end = _closing_quote(line, position)
            if end is None:
                unclosed.add(line[position])
        position = position + 1 if end is None else end + 1
    if start is not None:
        tokens.append(_token(line[start:]))
    return tokens


def _may_open(line: str, start: int, position: int) -> bool:
    return line[position] in QUOTES and (position == start or line[position - 1] in _OPENERS)


def _closing_quote(line: str, opening: int) -> int | None:
    position = line.find(line[opening], opening + 1)
    while position >= 0:
        after = line[position + 1 : position + 2]
        if not after or after.isspace() or after == ",":
            return position
        position = line.find(line[opening], position + 1)
    return None


def _token(text: str) -> Token:
    whole = len(text) >= 2 and text[0] in QUOTES and _closing_quote(text, 0) == len(text) - 1
    return Token(text, text[1:-1] if whole else text)


def unquoted(text: str) -> str:
    """`text` without one pair of surrounding quotes, if it has one."""
    return _token(text).value
