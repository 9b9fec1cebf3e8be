"""Recipes of other programs, made fit for the model at hand: what cannot be done is left out and noted."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING

from swiftai_nb.core.config import MAX_SIDE
from swiftai_nb.core.enlargement import hires_size
from swiftai_nb.core.errors import AIError, InvalidInputError
from swiftai_nb.core.recipe import Recipe
from swiftai_nb.model_files.folder import open_model
from swiftai_nb.model_files.samplers import find_sampler
from swiftai_nb.registry.loras import find_lora, parse_hub_lora

if TYPE_CHECKING:
    from swiftai_nb.model_files.model_folder import ModelFolder
    from swiftai_nb.registry.registry import DiffusionModelRegistry


def adapt_recipe(
    recipe: Recipe, registry: DiffusionModelRegistry, *, model: str | None, has_image: bool
) -> tuple[Recipe, tuple[str, ...]]:
    """A recipe that can be planned, and notes on what it lost; one of this package is left as it is.

    Args:
        recipe: as read.
        registry: where its LoRAs and the model are looked up.
        model: that will be used; None is the default one.
        has_image: whether the picture that it may start from was given.
    """
    if recipe.engine is not None:
        return recipe, ()
    notes: list[str] = []
    if recipe.strength is not None and not has_image and recipe.image_sha256 is None:
        recipe = replace(recipe, strength=None)
        notes.append("the recipe starts from a picture that is not in it (--image); it is drawn without one")
    missing = [lora.source for lora in recipe.loras if not _is_found(registry, lora.source)]
    if missing:
        kept = tuple(lora for lora in recipe.loras if lora.source not in missing)
        recipe = replace(recipe, loras=kept)
        notes.append(f"the recipe's LoRAs are not here and are left out: {', '.join(missing)[:200]}")
    opened = _open(registry, model)
    scheduler = recipe.scheduler
    if scheduler is not None and not _fits(scheduler, opened):
        recipe = replace(recipe, scheduler=None)
        notes.append(f"the recipe's sampler {scheduler[:60]} does not fit; the model's own is used")
    if opened is not None:
        recipe = _fitted(recipe, opened, notes)
    return recipe, tuple(notes)


def _is_found(registry: DiffusionModelRegistry, source: str) -> bool:
    """Whether it is on this disk, or a name of the Hub: that one is asked for and needs --download."""
    named = parse_hub_lora(source)
    if named is not None and not named.repository.casefold().endswith(".safetensors"):
        return True
    with contextlib.suppress(AIError, OSError, ValueError):  # a recipe of others may name anything
        return find_lora(registry, source) is not None
    return False


def _open(registry: DiffusionModelRegistry, model: str | None) -> ModelFolder | None:
    """The model that will be used; None where it is not installed or not a local one."""
    with contextlib.suppress(AIError):
        resolved = registry.resolve(model)
        return open_model(resolved.folder, base=resolved.base)
    return None


def _fits(scheduler: str, model: ModelFolder | None) -> bool:
    try:
        find_sampler(scheduler)
        if model is not None:
            model.check_scheduler(scheduler)
    except InvalidInputError:
        return False
    return True


def _fitted(recipe: Recipe, model: ModelFolder, notes: list[str]) -> Recipe:
    if recipe.clip_skip and model.is_flow:
        recipe = replace(recipe, clip_skip=None)
        notes.append("clip skip does not exist for this model; it was left out")
    if recipe.width is None or recipe.height is None:
        return recipe
    multiple = model.size_multiple
    width, height = (
        max(multiple, round(side / multiple) * multiple) for side in (recipe.width, recipe.height)
    )
    if (width, height) != (recipe.width, recipe.height):
        notes.append(
            f"the recipe's size {recipe.width}x{recipe.height} became {width}x{height} for this model"
        )
    if recipe.hires is not None and max(hires_size((width, height), recipe.hires, multiple)) > MAX_SIDE:
        notes.append(
            f"the recipe's hires pass of {recipe.hires:g} times is larger than {MAX_SIDE} pixels; left out"
        )
        recipe = replace(recipe, hires=None, hires_strength=None, hires_steps=None)
    return replace(recipe, width=width, height=height)
