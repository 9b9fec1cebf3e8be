"""Words as they are shown: on one line, not too long."""

from __future__ import annotations

SHOWN_WORDS = 80


def shortened(text: str, longest: int = SHOWN_WORDS) -> str:
    """`text` on one line of at most `longest` characters."""
    words = " ".join(text.split())
    return words if len(words) <= longest else words[: longest - 1].rstrip() + "…"
