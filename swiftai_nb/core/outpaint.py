"""Outpainting: how far a picture is continued beyond each of its edges."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.core.format import short_repr

MAX_MARGIN = 4096
_EXAMPLE = "outpaint='left=128,top=64', or '64' for all four sides"


@dataclass(frozen=True)
class Outpaint:
    """Margins that are drawn around a picture, in pixels.

    Args:
        left, top, right, bottom: 0..4096, not all 0.

    Raises:
        InvalidInputError: a margin outside its limits; names it.
    """

    left: int = 0
    top: int = 0
    right: int = 0
    bottom: int = 0

    def __post_init__(self) -> None:
        for name, value in vars(self).copy().items():
            try:
                margin = -1 if isinstance(value, bool) else operator.index(value)
            except TypeError:
                margin = -1
            if not 0 <= margin <= MAX_MARGIN:
                raise InvalidInputError(
                    f"outpaint {name} must be a whole number of pixels, 0 to {MAX_MARGIN} "
                    f"(got {short_repr(value)})",
                    hint=_EXAMPLE,
                )
            object.__setattr__(self, name, margin)
        if not any(vars(self).values()):
            raise InvalidInputError("outpaint adds nothing: all margins are 0", hint=_EXAMPLE)

    @classmethod
    def of(cls, value: Any) -> Outpaint:
        """Margins from a text as in `--outpaint`, a mapping of sides, or margins.

        Args:
            value: "left=128,top=64", "64" for all sides, {"left": 128}, or an Outpaint.

        Raises:
            InvalidInputError: none of these, or a side that does not exist; names it.
        """
        if isinstance(value, cls):
            return value
        if isinstance(value, str):
            value = _sides(value)
        if isinstance(value, int) and not isinstance(value, bool):
            value = dict.fromkeys(_NAMES, value)
        if not isinstance(value, Mapping):
            raise InvalidInputError(f"outpaint {short_repr(value)} is not understood", hint=_EXAMPLE)
        unknown = [name for name in value if name not in _NAMES]
        if unknown:
            raise InvalidInputError(f"outpaint has no side {unknown[0]!r:.40}", hint=_EXAMPLE)
        return cls(**value)

    def canvas(self, size: tuple[int, int]) -> tuple[int, int]:
        """(width, height) of a picture of this size with its margins."""
        return size[0] + self.left + self.right, size[1] + self.top + self.bottom

    def __str__(self) -> str:
        return ",".join(f"{name}={value}" for name, value in vars(self).items() if value)


_NAMES = tuple(field.name for field in fields(Outpaint))


def _sides(text: str) -> Any:
    """The text's sides; one number is the margin of all of them."""
    if (number := text.strip()).isdecimal():
        return int(number[:10])
    sides: dict[str, int] = {}
    for part in text.split(","):
        name, equals, number = (piece.strip() for piece in part.partition("="))
        if not equals or not number.isdecimal() or name in sides:
            raise InvalidInputError(f"outpaint {text[:60]!r} is not understood", hint=_EXAMPLE)
        sides[name.lower()] = int(number[:10])
    return sides
