"""The prompts of a request: typed or of a recipe, in a style, with their choices and LoRA tags."""

from __future__ import annotations

from collections.abc import Mapping

from swiftai_nb.core.config import ImageGenerationConfig, LoraReference
from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.core.paths import user_path
from swiftai_nb.core.prompt_choices import PromptChoices, find_choices
from swiftai_nb.core.prompt_syntax import take_lora_tags
from swiftai_nb.core.recipe import Recipe
from swiftai_nb.notebook.magic.parser import ImagineArguments
from swiftai_nb.notebook.magic.prompt import find_style
from swiftai_nb.notebook.session import Session


def styled_prompts(
    arguments: ImagineArguments, recipe: Recipe | None, *, styles: Mapping[str, str], negative: str | None
) -> tuple[str, str | None]:
    """The prompt and the negative prompt: typed, else the recipe's, else the default, in the style asked for.

    Args:
        arguments: of the line and the cell.
        recipe: that is made again, or None.
        styles: the user's own, name -> template.
        negative: the user's default.

    Raises:
        InvalidInputError: no such style.
    """
    prompt, avoided = arguments.prompt, arguments.negative
    if recipe is not None:
        prompt = prompt or recipe.prompt
        avoided = recipe.negative_prompt if avoided is None else avoided
    avoided = negative if avoided is None else avoided
    if arguments.style is not None:
        prompt, avoided = find_style(arguments.style, styles).apply(prompt, avoided)
    return prompt, avoided


def find_typed_choices(
    arguments: ImagineArguments,
    prompt: str,
    negative_prompt: str | None,
    *,
    folder: str | None,
    session: Session,
) -> tuple[PromptChoices | None, tuple[str, ...]]:
    """The choices in prompts that were typed; a recipe's prompt was drawn already.

    Args:
        arguments: of the line and the cell.
        prompt: with its style.
        negative_prompt: the same.
        folder: of the wildcards; None is `wildcards` in the package's own.
        session: knows that folder.

    Returns:
        the choices, None without any, and notes.

    Raises:
        InvalidInputError: a wildcard's file cannot be read.
    """
    if arguments.raw or not arguments.prompt:
        return None, ()
    own = session.registry.home / "wildcards"
    return find_choices(prompt, negative_prompt, own if folder is None else user_path(folder))


def with_pasted_loras(
    prompt: str,
    config: ImageGenerationConfig,
    arguments: ImagineArguments,
    recipe: Recipe | None,
    *,
    session: Session,
) -> tuple[str, ImageGenerationConfig, tuple[str, ...]]:
    """Applies the "<lora:…>" of other programs' prompts that are on this disk; others are left out, noted.

    What a pasted prompt or somebody's picture names is never fetched.
    """
    from swiftai_nb.registry.loras import find_lora

    loras = list(arguments.pasted_loras)
    if recipe is not None and recipe.engine is None and not arguments.prompt:
        prompt, tags = take_lora_tags(prompt)
        loras += [LoraReference(source, min(max(scale, -10.0), 10.0)) for source, scale, _ in tags]
    notes = []
    for lora in loras:
        try:
            is_path = bool(set(lora.source) & set("/\\:"))
            is_here = not is_path and find_lora(session.registry, lora.source) is not None
        except InvalidInputError:
            is_here = False
        if is_here:
            config = config.replace(loras=(*config.loras, lora))
        else:
            notes.append(f"the prompt's LoRA {lora.source[:80]} is not on this disk; it was left out")
    return prompt, config, tuple(notes)
