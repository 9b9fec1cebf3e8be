"""What holds for every line, prompt and recipe."""

from __future__ import annotations

import string
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from swiftai_nb.core.config import LoraReference
from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.core.recipe import Recipe
from swiftai_nb.notebook.magic.parser import one_line, parse
from swiftai_nb.notebook.magic.prompt import interpolate
from swiftai_nb.notebook.magic.tokens import split

ANY_TEXT = st.text(max_size=200)
LINE = st.text(st.characters(blacklist_categories=("Cs", "Cc", "Zl", "Zp")), max_size=120)
WORDS = st.lists(st.text(string.ascii_letters + "äé狐,.;!'’", min_size=1, max_size=9), min_size=1, max_size=6)
NAME = st.from_regex(r"[a-z][a-z0-9_]{0,6}", fullmatch=True)


@given(LINE, ANY_TEXT)
def test_parsing_gives_arguments_or_one_line(line: str, body: str) -> None:
    meaning = _prompt_or_refusal(line, body)
    assert meaning == " ".join(meaning.split())


def _prompt_or_refusal(line: str, body: str) -> str:
    try:
        return parse(line, body, variables={"a": 1}).prompt
    except InvalidInputError as error:
        return one_line(error)


@given(LINE)
def test_no_character_of_a_line_is_lost(line: str) -> None:
    assert "".join(token.text for token in split(line)) == "".join(line.split()) or any(
        quote in line for quote in "\"'"
    )
    joined = "".join(token.text for token in split(line))
    assert "".join(joined.split()) == "".join(line.split())


@given(WORDS, st.integers(1, 1000), st.integers(0, 2**53 - 1), st.integers(0, 6))
def test_options_may_stand_anywhere_between_words(words: list[str], steps: int, seed: int, at: int) -> None:
    plain = [word for word in words if "'" not in word and "’" not in word] or ["fox"]
    mixed = [*plain[:at], "--steps", str(steps), *plain[at:], f"--seed={seed}"]
    arguments = parse(" ".join(mixed))
    assert (arguments.prompt, arguments.steps, arguments.seed) == (" ".join(plain), steps, seed)


@given(ANY_TEXT)
def test_text_without_fields_is_left_alone(text: str) -> None:
    if "{" not in text:
        assert interpolate(text, {}) == text


@given(NAME, ANY_TEXT, ANY_TEXT, ANY_TEXT)
def test_a_field_becomes_its_value_and_is_not_looked_into_again(
    name: str, value: str, before: str, after: str
) -> None:
    before, after = (text.replace("{", "").replace("}", "") for text in (before, after))
    assert interpolate(f"{before}{{{name}}}{after}", {name: value}) == before + value + after
    assert interpolate(f"{before}{{{{{name}}}}}{after}", {name: value}) == f"{before}{{{name}}}{after}"


SCALARS = st.none() | st.booleans() | st.integers() | st.text(max_size=8)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(JSON)
def test_json_is_left_alone(value: Any) -> None:
    import json

    text = json.dumps(value)
    strings_hold_braces = any(isinstance(v, str) and "{" in v for v in _leaves(value))
    if not strings_hold_braces:
        assert interpolate(text, {}) == text


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [leaf for key, item in value.items() for leaf in [key, *_leaves(item)]]
    if isinstance(value, list):
        return [leaf for item in value for leaf in _leaves(item)]
    return [value]


TEXT = st.text(st.characters(blacklist_categories=("Cs",)), min_size=1, max_size=60)
RECIPES = st.builds(
    Recipe,
    prompt=TEXT,
    negative_prompt=st.none() | TEXT,
    model=st.none() | st.sampled_from(["emoji-mini", "sdxl-turbo", "owner/name"]),
    width=st.none() | st.integers(16, 4096),
    height=st.none() | st.integers(16, 4096),
    steps=st.none() | st.integers(1, 1000),
    guidance_scale=st.none() | st.floats(0, 100),
    seed=st.none() | st.integers(0, 2**53 - 1),
    scheduler=st.none() | st.sampled_from(["ddim", "euler-a"]),
    engine=st.none() | st.just("mlx"),
    strength=st.none() | st.floats(0, 1),
    guidance_rescale=st.none() | st.floats(0, 1),
    eta=st.none() | st.floats(0, 1),
    prompt_syntax=st.sampled_from([None, "plain", "weighted"]),
    clip_skip=st.none() | st.integers(0, 12),
    loras=st.lists(st.builds(LoraReference, TEXT, st.floats(-10, 10)), max_size=2).map(tuple),
    versions=st.dictionaries(st.sampled_from(["mlx", "swiftai_nb"]), TEXT, max_size=2),
    notes=st.lists(TEXT, max_size=2).map(tuple),
)


@given(RECIPES)
def test_recipe_survives_json(recipe: Recipe) -> None:
    import json

    again = Recipe.from_dict(json.loads(recipe.to_json()))
    assert again == recipe
    assert again.to_json() == recipe.to_json()


@settings(max_examples=60)
@given(RECIPES)
def test_recipe_survives_the_picture_file(recipe: Recipe) -> None:
    import numpy as np

    from swiftai_nb.core.image import GeneratedImage

    image = GeneratedImage.from_pixels(np.zeros((16, 16, 3), np.uint8), recipe=recipe)
    assert Recipe.find(_opened(image.data)) == recipe


def _opened(data: bytes) -> Any:
    import io

    from PIL import Image

    picture = Image.open(io.BytesIO(data))
    picture.load()
    return picture


@given(
    st.text("abc xyz,.", min_size=1).map(str.strip).filter(bool),
    st.integers(1, 99), st.integers(0, 2**32), st.integers(16, 2048),
)  # fmt: skip
def test_a_pasted_parameters_block_asks_for_the_same(prompt: str, steps: int, seed: int, side: int) -> None:
    recipe = Recipe(prompt=prompt, negative_prompt="bad", steps=steps, seed=seed, width=side, height=side)
    arguments = parse("", recipe.to_parameters())
    assert arguments.prompt == " ".join(prompt.split())
    assert arguments.negative == "bad"
    assert arguments.settings is not None
    assert (arguments.settings.steps, arguments.settings.seed) == (steps, seed)
    assert Recipe.from_parameters(recipe.to_parameters()) is not None
