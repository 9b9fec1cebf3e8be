"""The line under the pictures of a cell: model, size, steps, seeds, what was filled in, and the time."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Protocol, TypeVar

from swiftai_nb.core.format import format_elapsed, shorten

if TYPE_CHECKING:
    from swiftai_nb.core.recipe import Recipe

T = TypeVar("T")
SEPARATOR = " · "
LONGEST_PART, LONGEST_ADDITION = 60, 160  # characters
_STYLE = "opacity:.75;font-size:85%;line-height:1.6;overflow-wrap:anywhere"


class Captioned(Protocol):
    """A picture with a recipe."""

    @property
    def recipe(self) -> Recipe | None:
        """What made it."""
        ...

    @property
    def width(self) -> int:
        """Pixels."""
        ...

    @property
    def height(self) -> int:
        """Pixels."""
        ...

    @property
    def elapsed_s(self) -> float | None:
        """Seconds it took."""
        ...


def caption_text(images: Sequence[Captioned], *, has_time: bool = True) -> str:
    """One line such as "emoji-mini · 256x256 · 10 steps · seeds 7–10 · 2.1 s"; "" without recipes.

    What differs between the pictures is left out, except for seeds and what was filled in.

    Args:
        images: of one cell.
        has_time: with the seconds they took, which differ from run to run.
    """
    made = [image for image in images if image.recipe is not None]
    recipes = [image.recipe for image in made if image.recipe is not None]
    if not recipes:
        return ""
    parts = [
        _common(recipes, _model),
        _common(recipes, _quantization),
        _common(made, _size),
        _common(recipes, _steps),
        _common(recipes, _strength),
        _seeds([recipe.seed for recipe in recipes if recipe.seed is not None]),
    ]
    parts = [shorten(part, LONGEST_PART) for part in parts]
    parts += [shorten(_filled_in(recipes), LONGEST_ADDITION), _time(images) if has_time else ""]
    return SEPARATOR.join(part for part in parts if part)


def caption_html(images: Sequence[Captioned], *, has_time: bool = True) -> str:
    """The line as HTML in the page's own colors; "" where there is nothing to say."""
    text = caption_text(images, has_time=has_time)
    return f'<div style="{_STYLE}">{html.escape(text)}</div>' if text else ""


def _model(recipe: Recipe) -> str:
    if recipe.model is None:
        return recipe.engine or ""
    return PurePath(recipe.model).name if PurePath(recipe.model).is_absolute() else recipe.model


def _quantization(recipe: Recipe) -> str:
    return "" if recipe.quantization_bits is None else f"{recipe.quantization_bits} bits"


def _size(image: Captioned) -> str:
    """Of the picture itself, which a hires pass or an upscaler made larger than its recipe's size."""
    is_known = image.recipe is not None and None not in (image.recipe.width, image.recipe.height)
    return f"{image.width}x{image.height}" if is_known else ""


def _steps(recipe: Recipe) -> str:
    return "" if recipe.steps is None else f"{recipe.steps} step{'' if recipe.steps == 1 else 's'}"


def _strength(recipe: Recipe) -> str:
    return "" if recipe.strength is None else f"strength {recipe.strength:g}"


def _common(items: Iterable[T], describe: Callable[[T], str]) -> str:
    texts = {describe(item) for item in items}
    return texts.pop() if len(texts) == 1 else ""


def _seeds(seeds: list[int]) -> str:
    different = list(dict.fromkeys(seeds))
    if len(different) < 2:
        return "".join(f"seed {seed}" for seed in different)
    first, last = different[0], different[-1]
    if different == list(range(first, last + 1)):
        return f"seeds {first}–{last}"
    return f"seeds {', '.join(map(str, different))}"


def _filled_in(recipes: Sequence[Recipe]) -> str:
    """What the seed chose: in the order of the pictures, as it may differ."""
    texts = [(recipe.filled_in or "").lstrip(", ") for recipe in recipes]
    if not any(texts):
        return ""
    return f"added by seed: {'; '.join(dict.fromkeys(text or 'nothing' for text in texts))}"


def _time(images: Iterable[Captioned]) -> str:
    times_s = [image.elapsed_s for image in images if image.elapsed_s is not None]
    return format_elapsed(sum(times_s)) if times_s else ""
