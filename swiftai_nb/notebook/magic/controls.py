"""`--control KIND=PICTURE[:SCALE[:START-END]]`: what the option's text means; its picture is read later."""

from __future__ import annotations

import re
from dataclasses import dataclass

from swiftai_nb.core.control import KINDS, ControlReference
from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.core.prompt_syntax import NUMBER
from swiftai_nb.notebook.magic.tokens import unquoted

# From the end of the text: a path may hold colons, as on Windows.
_GUESS = re.compile(r":guess$")
_RANGE = re.compile(rf":({NUMBER})-({NUMBER})$")
_SCALE = re.compile(rf":({NUMBER})$")
_EXAMPLE = "--control canny=photo.png:0.8"


@dataclass(frozen=True)
class ControlOption:
    """A control as typed: see `ControlReference`; the picture is the name of a variable or a path."""

    source: str
    picture: str
    scale: float = 1.0
    start: float = 0.0
    end: float = 1.0
    is_guess: bool = False

    def reference(self, image: bytes) -> ControlReference:
        """The control with its picture, encoded."""
        return ControlReference(self.source, image, self.scale, self.start, self.end, self.is_guess)


def read_control(text: str) -> ControlOption:
    """Reads "canny=photo.png:0.8:0-0.6".

    Args:
        text: KIND, MODEL or KIND@MODEL, "=", a variable or path; then ":" with a scale, a range of the steps
            as shares of 1, and "guess", each optional and in this order.

    Raises:
        InvalidInputError: a part is missing, or a number is outside its limits.
    """
    source, sign, rest = (part.strip() for part in text.partition("="))
    if not sign or not source or not rest:
        raise InvalidInputError(
            f"--control {text!r} is not KIND=PICTURE",
            hint=f"such as {_EXAMPLE}; kinds are {', '.join(KINDS)}",
        )
    is_guess = _GUESS.search(rest) is not None
    rest = _GUESS.sub("", rest)
    steps = _RANGE.search(rest)
    rest = _RANGE.sub("", rest)
    scale = _SCALE.search(rest)
    picture = unquoted(_SCALE.sub("", rest).strip())
    if not picture:
        raise InvalidInputError(f"--control {text!r} names no picture", hint=f"such as {_EXAMPLE}")
    option = ControlOption(
        unquoted(source),
        picture,
        scale=1.0 if scale is None else float(scale[1]),
        start=0.0 if steps is None else float(steps[1]),
        end=1.0 if steps is None else float(steps[2]),
        is_guess=is_guess,
    )
    option.reference(b"checked when it is read")
    return option
