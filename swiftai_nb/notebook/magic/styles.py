"""Styles: a few words around the prompt, and a few to avoid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from swiftai_nb.core.errors import InvalidInputError


@dataclass(frozen=True)
class Style:
    """A prompt template.

    Args:
        template: text with `{prompt}` where the user's words go.
        negative: words to avoid, added to the user's own; may be empty.
    """

    template: str
    negative: str = ""

    def apply(self, prompt: str, negative: str | None) -> tuple[str, str | None]:
        """The styled (prompt, negative prompt)."""
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
