from __future__ import annotations

import pytest

from swiftai_nb.core.recipe import Recipe
from swiftai_nb.notebook.magic.parser import parse
from swiftai_nb.notebook.wire import cell_text

RECIPES = [
    Recipe(prompt="a fox"),
    Recipe(
        prompt='a fox\'s den, "cosy" — émile',
        negative_prompt="blur, {text}",
        model="emoji-mini",
        width=64,
        height=96,
        steps=16,
        guidance_scale=2.5,
        seed=2**53 - 1,
        scheduler="ddim",
        engine="mlx",
    ),
    Recipe(prompt="a {brace} and a --dash", model="a folder/with blanks", seed=0, guidance_scale=0.0),
    Recipe(prompt="a fox", model="owner/name", engine="huggingface", device="cloud", seed=1),
]


@pytest.mark.parametrize("recipe", RECIPES)
def test_copied_cell_asks_for_the_same_picture(recipe: Recipe) -> None:
    line, _, body = cell_text(recipe).partition("\n")
    arguments = parse(line.removeprefix("%%imagine"), body, variables={"brace": "x", "text": "y"})
    assert arguments.prompt == recipe.prompt
    assert arguments.negative == recipe.negative_prompt
    config = arguments.config()
    for name in ("model", "width", "height", "steps", "guidance_scale", "seed", "scheduler"):
        assert getattr(config, name) == getattr(recipe, name), name
    assert arguments.engine == ("cloud" if recipe.device == "cloud" else None)
