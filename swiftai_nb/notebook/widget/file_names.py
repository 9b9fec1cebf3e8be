"""Names for pictures that are saved with one click."""

from __future__ import annotations

import re
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from swiftai_nb.core.image import GeneratedImage

LONGEST_WORDS = 40


def free_path(folder: Path, image: GeneratedImage) -> Path:
    """A path in `folder` that no file has yet, named by the picture's words and seed: "a-fox-7.png"."""
    words = re.sub(r"[^\w]+", "-", image.prompt.casefold()).strip("-_")[:LONGEST_WORDS].rstrip("-_")
    name = "-".join(part for part in (words or "picture", str(image.seed or "")) if part)
    numbered = (folder / f"{name}{'' if n == 1 else f'-{n}'}.png" for n in count(1))
    return next(path for path in numbered if not path.exists())
