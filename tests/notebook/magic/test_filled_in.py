"""The bundled model fills in what a prompt leaves open, by the seed; recipes keep it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from IPython.core.error import UsageError
from PIL import Image

from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.core.recipe import Recipe

LOCAL = "--engine local --steps 2"


def imagine(shell: Any, line: str) -> Any:
    return shell.run_line_magic("imagine", f"{line} {LOCAL}")


COMPLETE = "a small cat in the snow, mirrored"  # place, side and size


def shown(recipe: Recipe) -> str:
    return (recipe.filled_in or "").lstrip(", ") or "nothing"


def test_seeds_get_different_places_and_each_picture_is_remade_from_its_file(shell: Any, tmp_path: Path):
    cats = imagine(shell, "a cat --count 3 --seed 1")
    assert [recipe.prompt for recipe in cats.recipes] == ["a cat"] * 3
    places = [recipe.filled_in for recipe in cats.recipes]
    assert len(set(places)) == 3
    for index, cat in enumerate(cats):
        path = cat.save(tmp_path / f"{index}.png")
        assert imagine(shell, f"--from {path}").data == cat.data
    # The whole batch again, from its first picture.
    shell.user_ns["first"] = cats[0]
    assert [again.data for again in imagine(shell, "--from first --count 3")] == [cat.data for cat in cats]


def test_to_a_complete_prompt_and_with_plain_nothing_is_added(shell: Any):
    fields = [imagine(shell, f"{COMPLETE} --seed 2"), imagine(shell, "a cat --plain --seed 2")]
    assert [picture.recipe.filled_in for picture in fields] == [None, None]
    shell.run_line_magic("config", "Imagine.plain = True")
    assert imagine(shell, "a cat --seed 2").data == fields[1].data


def test_seeds_also_choose_side_and_size_where_a_place_is_named(shell: Any):
    plan = imagine(shell, "a cat in the snow --count 15 --seed 1 --dry-run")
    assert set(plan["filled in"].split("; ")) == {"nothing", "mirrored", "large", "mirrored, large"}


def test_the_picture_is_that_of_the_whole_prompt(shell: Any):
    filled = next(p for p in imagine(shell, "a cat --seed 5 --count 2") if p.recipe.filled_in)
    named = imagine(shell, f"{filled.recipe.full_prompt} --seed {filled.seed}")
    assert named.recipe.filled_in is None
    assert named.pil.tobytes() == filled.pil.tobytes()
    # Other programs read the text that the model was given.
    assert filled.recipe.to_parameters().splitlines()[0] == filled.recipe.full_prompt


def test_a_recipe_of_before_is_remade_byte_for_byte(shell: Any):
    before = imagine(shell, "a cat --seed 3 --plain")
    assert "filled_in" not in before.recipe.to_dict()
    shell.user_ns["old"] = Recipe.from_dict(before.recipe.to_dict())
    assert imagine(shell, "--from old").data == before.data
    assert [p.recipe.filled_in for p in imagine(shell, "--from old --seeds 3-5")] == [None] * 3


def test_another_prompt_on_a_recipe_is_filled_in_for_itself(shell: Any):
    recipe = imagine(shell, "a cat --seed 3").recipe
    shell.user_ns["cat"] = replace(recipe, filled_in="in the snow")
    assert imagine(shell, "--from cat").recipe.filled_in == "in the snow"
    assert imagine(shell, "--from cat --plain").recipe.filled_in is None
    assert imagine(shell, f"{COMPLETE} --from cat").recipe.filled_in is None


def test_a_start_picture_leaves_nothing_open(shell: Any):
    shell.user_ns["sketch"] = Image.new("RGB", (256, 256), "pink")
    assert imagine(shell, "a cat --image sketch --strength 0.5 --seed 3").recipe.filled_in is None


def test_a_dry_run_says_what_is_added_to_each_picture(shell: Any):
    plan = imagine(shell, "a cat --count 2 --seed 1 --dry-run")
    made = imagine(shell, "a cat --count 2 --seed 1")
    assert plan["prompt"] == "a cat"
    assert plan["filled in"] == "; ".join(shown(recipe) for recipe in made.recipes)
    assert "filled in" not in dict(imagine(shell, f"{COMPLETE} --dry-run"))


def test_a_model_without_a_table_fills_in_nothing(shell: Any):
    assert shell.run_line_magic("imagine", "a cat --seed 1").recipe.filled_in is None


@pytest.mark.parametrize("filled_in", [3, ["in the snow"]])
def test_a_recipe_with_a_wrong_type_is_refused(filled_in: Any):
    with pytest.raises(InvalidInputError, match="filled_in must be a text"):
        Recipe.from_dict({"prompt": "a cat", "filled_in": filled_in})


def test_a_text_that_is_far_too_long_is_refused(shell: Any):
    shell.user_ns["odd"] = Recipe("a cat", filled_in="x" * 2001, seed=1)
    with pytest.raises(UsageError, match="filled_in must be a text of 2000 characters at most"):
        imagine(shell, "--from odd")


def test_a_dry_run_fills_in_the_prompt_that_each_seed_draws(shell: Any):
    plan = imagine(shell, "a {red cat|cat in the snow} --count 4 --seed 1 --dry-run")
    made = imagine(shell, "a {red cat|cat in the snow} --count 4 --seed 1")
    assert {recipe.prompt for recipe in made.recipes} == {"a red cat", "a cat in the snow"}
    assert plan["filled in"] == "; ".join(shown(recipe) for recipe in made.recipes)
