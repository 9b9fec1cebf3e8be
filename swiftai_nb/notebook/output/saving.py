"""File names of saved pictures: from a template, or from the prompt."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.core.paths import is_device_name, user_path

if TYPE_CHECKING:
    from swiftai_nb.core.image import GeneratedImage

FIELDS = ("n", "seed", "model", "date", "prompt")
_LONGEST_SLUG = 60
_LONGEST_NAME = 40
_TOO_WIDE = re.compile(r"\d{3}|[{}]")  # a width of more than two digits, or one that is filled in


def save_images(images: Sequence[GeneratedImage], template: str, *, first: int = 1) -> list[Path]:
    """Writes each picture to its own file; returns the paths.

    Raises:
        InvalidInputError: an unknown field or extension, two pictures with one name, or a folder that
            cannot be written.
    """
    template = _with_number(template, several=len(images) > 1)
    paths = [user_path(path_of(template, image, n)) for n, image in enumerate(images, first)]
    if len(set(paths)) < len(paths):
        raise InvalidInputError(
            f"{template!r} gives several pictures one name", hint="use {n} or {seed} in it"
        )
    for path in paths:
        _make_folder(path.parent)
    return [image.save(path) for image, path in zip(images, paths, strict=True)]


def path_of(template: str, image: GeneratedImage, number: int) -> str:
    """`template` filled in for one picture."""
    recipe = image.recipe
    values: dict[str, Any] = {
        "n": number,
        "seed": 0 if image.seed is None else image.seed,
        "model": slug("model" if recipe is None or recipe.model is None else recipe.model),
        "date": f"{datetime.now():%Y-%m-%d}",
        "prompt": slug(image.prompt or "picture"),
    }
    try:
        if any(_TOO_WIDE.search(spec or "") for _, _, spec, _ in string.Formatter().parse(template)):
            raise ValueError("a format is too wide")
        return template.format_map(values)
    except (KeyError, ValueError, IndexError, AttributeError, TypeError, OverflowError) as error:
        listed = ", ".join(f"{{{name}}}" for name in FIELDS)
        raise InvalidInputError(f"cannot fill in {template!r}: {error}", hint=f"use {listed}") from error


def free_path(folder: Path, image: GeneratedImage) -> Path:
    """An unused path in `folder`, named by the picture's prompt and seed: "a-fox-7.png"."""
    text = re.sub(r"[^\w]+", "-", image.prompt.casefold()).strip("-_")[:_LONGEST_NAME].rstrip("-_")
    name = "-".join(part for part in (text or "picture", str(image.seed or "")) if part)
    name = f"{name}-picture" if is_device_name(name) else name
    numbered = (folder / f"{name}{'' if n == 1 else f'-{n}'}.png" for n in count(1))
    return next(path for path in numbered if not path.exists())


def check_template(template: str) -> None:
    """Checks a template before any work.

    Raises:
        InvalidInputError: an unknown field or extension, or a folder that cannot be written.
    """
    from swiftai_nb.core.image import FORMATS, GeneratedImage

    sample = GeneratedImage(b"", 1, 1)
    path = user_path(path_of(_with_number(template, several=False), sample, 1))
    if path.suffix.lower() not in FORMATS:
        raise InvalidInputError(f"cannot save as {path.name!r}", hint="use " + ", ".join(FORMATS))
    _make_folder(path.parent)
    _check_writable(path.parent)


def _with_number(template: str, *, several: bool) -> str:
    if template.endswith(("/", "\\")) or user_path(template).is_dir():
        template = str(Path(template) / "picture-{n}.png")
    if several and not any(field in ("n", "seed") for field in _fields(template)):
        path = Path(template)
        template = str(path.with_name(f"{path.stem}-{{n}}{path.suffix}"))
    return template


def _fields(template: str) -> list[str]:
    try:
        return [name.split(".")[0] for _, name, _, _ in string.Formatter().parse(template) if name]
    except ValueError as error:
        raise InvalidInputError(f"cannot read the template {template!r}: {error}") from error


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise InvalidInputError(f"cannot make the folder {str(folder)!r}: {reason}") from error


def _check_writable(folder: Path) -> None:
    import tempfile

    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise InvalidInputError(
            f"cannot write into {str(folder)!r}: {reason}", hint="save to a writable folder"
        ) from error


def slug(text: str) -> str:
    """`text` as a safe part of a file name."""
    text = re.sub(r"[^\w.+-]+", "-", text, flags=re.UNICODE).strip("-.")
    text = text[:_LONGEST_SLUG].rstrip("-.") or "picture"
    return f"{text}-picture" if is_device_name(text) else text
