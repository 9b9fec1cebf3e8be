"""Scales of a LoRA by block of the UNet, as the LoRA Block Weight extension of AUTOMATIC1111 writes them.

"1,0,0,1,…" has 12 or 20 numbers for SDXL and 17 or 26 for Stable Diffusion 1.x and 2.x: BASE (text encoders
and what is in no block), then blocks from the input to the output. "IN04=0.5,M00=0" names the blocks instead.
"""

from __future__ import annotations

import math
import re

from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.core.prompt_syntax import NUMBER

BASE = "BASE"
_MAX_SCALE = 10.0


def _names(inputs: str, outputs: str) -> tuple[str, ...]:
    numbered = [f"IN{int(n):02}" for n in inputs.split()], [f"OUT{int(n):02}" for n in outputs.split()]
    return (BASE, *numbered[0], "M00", *numbered[1])


_LISTS = {
    len(names): names
    for names in (
        _names("4 5 7 8", "0 1 2 3 4 5"),
        _names("1 2 4 5 7 8", "3 4 5 6 7 8 9 10 11"),
        _names("0 1 2 3 4 5 6 7 8", "0 1 2 3 4 5 6 7 8"),
        _names("0 1 2 3 4 5 6 7 8 9 10 11", "0 1 2 3 4 5 6 7 8 9 10 11"),
    )
}
_KNOWN = frozenset(_LISTS[26])


def block_scales(text: str) -> dict[str, float]:
    """The scale of each block that a text names; others keep 1.

    Raises:
        InvalidInputError: another number of scales, an unknown block, or no number within -10..10.
    """
    parts = [part.strip() for part in text.split(",")]
    if any("=" in part for part in parts):
        named = [part.partition("=") for part in parts]
        found = {name.strip().upper().replace("MID", "M00"): value for name, _, value in named}
        if len(found) != len(parts) or not found.keys() <= _KNOWN:
            raise _wrong(text, "name each block once: BASE, IN00 to IN11, M00, OUT00 to OUT11")
    elif len(parts) in _LISTS:
        found = dict(zip(_LISTS[len(parts)], parts, strict=True))
    else:
        counts = ", ".join(str(count) for count in sorted(_LISTS))
        raise _wrong(text, f"give {counts} numbers, or names as in IN04=0.5")
    scales = {name: _number(value) for name, value in found.items()}
    if not all(abs(scale) <= _MAX_SCALE for scale in scales.values()):
        raise _wrong(text, "each is a number in -10..10")
    return scales


def _number(text: str) -> float:
    return float(text) if re.fullmatch(rf"\s*{NUMBER}\s*", text) else math.nan


def _wrong(text: str, hint: str) -> InvalidInputError:
    return InvalidInputError(f"lora blocks cannot be {text[:80]!r}", hint=hint)
