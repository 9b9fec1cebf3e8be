"""The pictures that a picture was made from, in its recipe: kept when small or asked for, else described."""

from __future__ import annotations

import base64
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from swiftai_nb.core.config import MAX_EMBEDDED_BYTES, ImageGenerationConfig
from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.core.image import GeneratedImage
from swiftai_nb.core.image_input import to_png_bytes
from swiftai_nb.core.recipe import Recipe
from swiftai_nb.core.sources import SMALL_BYTES, digest_of, source_pictures

SMALL = to_png_bytes(Image.new("RGB", (40, 30), "red"))
LARGE = to_png_bytes(np.random.default_rng(0).integers(0, 256, (240, 300, 3), np.uint8))


def recipe_of(**settings: Any) -> Recipe:
    config = ImageGenerationConfig(**settings)
    return Recipe(
        "a fox",
        strength=None if config.image is None else 0.5,
        image_sha256=None if config.image is None else digest_of(config.image),
        mask_sha256=None if config.mask is None else digest_of(config.mask),
        references_sha256=tuple(map(digest_of, config.references)),
        sources=source_pictures(config, names={digest_of(LARGE): "large.png"}),
    )


def test_small_pictures_are_kept_and_large_ones_described() -> None:
    assert len(SMALL) < SMALL_BYTES < len(LARGE)
    small, large = source_pictures(
        ImageGenerationConfig(references=[SMALL, LARGE]), names={digest_of(LARGE): "large.png"}
    )
    assert (small.content, large.content) == (SMALL, None)
    assert str(large) == f"SHA-256 {digest_of(LARGE)[:12]}, large.png, 300x240"
    assert str(small) == f"SHA-256 {digest_of(SMALL)[:12]}, 40x30"


@pytest.mark.parametrize(
    ("embeds", "kept"), [(None, [True, False]), (True, [True, True]), (False, [False] * 2)]
)
def test_the_setting_decides(embeds: bool | None, kept: list[bool]) -> None:
    config = ImageGenerationConfig(image=SMALL, references=[LARGE, SMALL], embed_references=embeds)
    assert [source.content is not None for source in source_pictures(config)] == kept, "each once"


def test_a_recipe_with_its_pictures_makes_the_same_settings_after_saving(tmp_path: Path) -> None:
    recipe = recipe_of(image=LARGE, mask=SMALL, references=[SMALL, LARGE], embed_references=True)
    image = GeneratedImage.from_pil(Image.new("RGB", (8, 8)), recipe=recipe)
    opened = GeneratedImage.open(image.save(tmp_path / "fox.png"))
    assert opened.recipe == recipe
    config = opened.recipe.to_config()
    assert (config.image, config.mask, list(config.references)) == (LARGE, SMALL, [SMALL, LARGE])
    assert config.embed_references is True, "the next recipe keeps them, too"
    assert recipe_of(references=[SMALL]).to_config().embed_references is None


def test_what_is_not_kept_is_left_out() -> None:
    config = recipe_of(image=LARGE, mask=SMALL, references=[SMALL, LARGE]).to_config()
    assert (config.image, config.mask, list(config.references)) == (None, None, [])


def test_a_recipe_of_before_has_no_sources() -> None:
    assert "sources" not in Recipe("a fox", image_sha256="0" * 64).to_dict()
    assert Recipe("a fox").describe_source("0123456789abcdef") == "SHA-256 0123456789ab"


def test_a_recipe_prints_without_the_pictures() -> None:
    text = repr(recipe_of(references=[SMALL]))
    assert base64.b64encode(SMALL).decode()[:40] not in text
    assert "width=40" in text


@pytest.mark.parametrize("data", ["not base64!", base64.b64encode(b"another picture").decode(), ""])
def test_a_picture_that_is_not_the_one_of_its_digest_is_not_used(data: str) -> None:
    recipe = recipe_of(references=[SMALL])
    forged = replace(recipe, sources=(replace(recipe.sources[0], data=data),))
    assert list(forged.to_config().references) == []


@pytest.mark.parametrize(
    "source",
    [
        "text",
        {},
        {"sha256": "0" * 63, "width": 1, "height": 1},
        {"sha256": "0" * 64, "width": "1", "height": 1},
        {"sha256": "0" * 64, "width": 0, "height": 1},
        {"sha256": "0" * 64, "width": True, "height": 1},
        {"sha256": "0" * 64, "width": 1, "height": 1, "name": 3},
        {"sha256": "0" * 64, "width": 1, "height": 1, "data": ["x"]},
    ],
)
def test_sources_of_a_stranger_are_checked(source: Any) -> None:
    with pytest.raises(
        InvalidInputError, match=r"not a recipe: a source picture|not a recipe: name and data"
    ):
        Recipe.from_dict({"prompt": "a fox", "sources": [source]})


def test_a_name_of_a_stranger_is_one_short_line() -> None:
    data = {"sha256": "0" * 64, "width": 1, "height": 1, "name": "a\nb\t" + "c" * 5000}
    (source,) = Recipe.from_dict({"prompt": "a fox", "sources": [data]}).sources
    assert source.name is not None
    assert source.name.startswith("a b c")
    assert len(source.name) == 255


def test_what_is_too_large_to_keep_is_refused_with_the_remedy() -> None:
    huge = SMALL + b"\0" * MAX_EMBEDDED_BYTES
    assert ImageGenerationConfig(references=[huge]).embed_references is None
    with pytest.raises(InvalidInputError, match=r"24\.0 MB at most"):
        ImageGenerationConfig(references=[huge], embed_references=True)
