"""The `%%imagine` cell that makes a picture again, from its recipe."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Literal

from swiftai_nb.core.config import LoraReference
from swiftai_nb.core.recipe import Recipe
from swiftai_nb.notebook.magic.options import OPTIONS
from swiftai_nb.registry.registry import BUNDLED_MODEL

Engine = Literal["local", "cloud", "openai"]
CLOUD_DEVICE = "cloud"
PLACEHOLDER = "PICTURE"  # stands for a picture whose file is not known
_FIRST = ("model", "steps", "guidance_scale", "scheduler", "seed")
# What the model or the machine decides where it is left open.
_LEFT_OUT = (*_FIRST, "precision", "quantization_bits", "extra_body")
_OF_ENLARGING = "upscaler"
_FILE_NAME = re.compile(r"\w[\w .()-]*\.\w+")


def cell_text(recipe: Recipe) -> str:
    """The cell; "PICTURE" stands in it where a picture is needed that the recipe has no file name of."""
    size = None if recipe.width is None or recipe.height is None else f"{recipe.width}x{recipe.height}"
    engine = engine_of(recipe)
    named = {option.setting: f"--{option.name}" for option in OPTIONS if option.setting}
    first = {named[setting]: getattr(recipe, setting) for setting in _FIRST}
    options: list[tuple[str, Any]] = [
        ("--model", first.pop("--model")),
        ("--engine", None if engine == "local" else engine),
        ("--size", None if recipe.outpaint is not None else size),
        *first.items(),
        *(
            (name, getattr(recipe, setting, None))
            for setting, name in named.items()
            if setting not in _LEFT_OUT
        ),
    ]
    if recipe.hires is None and recipe.upscale is None:
        options = [(name, value) for name, value in options if name != f"--{_OF_ENLARGING}"]
    parts = [
        f"{name} {quoted(_typed(one))}"
        for name, value in options
        for one in (value if isinstance(value, (list, tuple)) else [value])
        if one is not None
    ]
    parts += [f"{name} {quoted(value)}" for name, value in _pictures(recipe)]
    negative = recipe.negative_prompt
    if recipe.model == BUNDLED_MODEL and not (recipe.filled_in or recipe.sources):
        parts.append("--plain")
    if "{" in f"{recipe.prompt}{negative or ''}":
        parts.append("--raw")
    lines = [" ".join(["%%imagine", *parts]), recipe.prompt]
    if negative:
        lines.append(f"Negative prompt: {negative}")
    return "\n".join(lines)


def engine_of(recipe: Recipe) -> Engine:
    """The engine's name in the widget."""
    if recipe.engine == "openai":
        return "openai"
    is_cloud = CLOUD_DEVICE in (recipe.device, recipe.engine) or recipe.engine == "huggingface"
    return "cloud" if is_cloud else "local"


def quoted(text: str) -> str:
    """A value of an option as one word, whatever it holds: recipes may come from strangers."""
    text = " ".join(text.split())
    if text and not re.search(r"[\s\"']", text) and not text.startswith("-"):
        return text
    quote = "'" if '"' in text else '"'
    return f"{quote}{text.replace(quote, '')}{quote}"


def _typed(value: Any) -> str:
    if isinstance(value, LoraReference):
        blocks = "" if value.blocks is None else f":{value.blocks}"
        return f"{value.source}:{value.scale:g}{blocks}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _pictures(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """The options that give pictures."""
    names = {source.sha256: source.name or "" for source in recipe.sources}

    def name(sha256: str) -> str:
        found = names.get(sha256, "")
        return found if _FILE_NAME.fullmatch(found) else PLACEHOLDER

    if recipe.image_sha256 is not None:
        yield "--image", name(recipe.image_sha256)
    if recipe.mask_sha256 is not None:
        yield "--mask", name(recipe.mask_sha256)
    for sha256 in recipe.references_sha256:
        yield "--with", name(sha256)
    for control in recipe.controls:
        yield "--control", control.option.replace(PLACEHOLDER, name(control.image_sha256))
