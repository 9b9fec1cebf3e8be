"""Margins of outpainting, as text, mapping and object."""

from __future__ import annotations

from typing import Any

import pytest

from swiftai_nb.core.config import ImageGenerationConfig
from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.core.outpaint import Outpaint
from swiftai_nb.core.recipe import Recipe


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("left=128,top=64", Outpaint(left=128, top=64)),
        (" Bottom = 8 ", Outpaint(bottom=8)),
        ("64", Outpaint(64, 64, 64, 64)),
        (32, Outpaint(32, 32, 32, 32)),
        ({"right": 16}, Outpaint(right=16)),
        (Outpaint(top=1), Outpaint(top=1)),
    ],
)
def test_margins_are_read(value: Any, expected: Outpaint) -> None:
    assert Outpaint.of(value) == expected
    assert Outpaint.of(str(expected)) == expected


@pytest.mark.parametrize(
    ("value", "match"),
    [
        ("left", "not understood"),
        ("left=", "not understood"),
        ("left=-4", "not understood"),
        ("left=4,left=8", "not understood"),
        ("up=4", "no side 'up'"),
        ({"up": 4}, "no side"),
        ("", "not understood"),
        ("0", "adds nothing"),
        (Outpaint, "not understood"),
        (True, "not understood"),
        (1.5, "not understood"),
        ({"left": 1.5}, "outpaint left must be a whole number"),
        ({"left": True}, "outpaint left must be"),
        ("left=5000", "0 to 4096"),
        ("9" * 10_000, "0 to 4096"),
        ("left=" + "9" * 10_000, "0 to 4096"),
        (["left", 4], "not understood"),
    ],
)
def test_what_is_no_margin_is_refused_in_one_line(value: Any, match: str) -> None:
    with pytest.raises(InvalidInputError, match=match) as caught:
        ImageGenerationConfig(image=b"x", outpaint=value)
    assert len(caught.value.message) < 200


def test_the_canvas_is_the_picture_and_its_margins() -> None:
    assert Outpaint(left=1, top=2, right=4, bottom=8).canvas((10, 20)) == (15, 30)


def test_a_recipe_keeps_the_margins() -> None:
    recipe = Recipe("a fox", width=96, height=64, strength=1.0, outpaint=Outpaint(left=32))
    again = Recipe.from_dict(recipe.to_dict())
    assert again == recipe
    config = again.to_config()
    assert (config.outpaint, config.width) == (Outpaint(left=32), None)
    with pytest.raises(InvalidInputError):
        Recipe.from_dict({"prompt": "a fox", "outpaint": {"left": "x"}})
