"""Scales of a LoRA by block, as lists and by name."""

from __future__ import annotations

import pytest

from swiftai_nb.core.config import LoraReference
from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.core.lora_blocks import block_scales
from swiftai_nb.core.recipe import Recipe
from swiftai_nb.notebook.magic.parser import parse


@pytest.mark.parametrize(
    ("count", "second", "middle", "last"),
    [
        (12, "IN04", 5, "OUT05"),
        (17, "IN01", 7, "OUT11"),
        (20, "IN00", 10, "OUT08"),
        (26, "IN00", 13, "OUT11"),
    ],
)
def test_lists_name_the_blocks_from_input_to_output(count: int, second: str, middle: int, last: str) -> None:
    names = list(block_scales(",".join(["0.5"] * count)))
    assert (names[0], names[1], names[middle], names[-1], len(names)) == ("BASE", second, "M00", last, count)


def test_blocks_can_be_named() -> None:
    assert block_scales("in04=0.5, MID=-1,BASE=.0") == {"IN04": 0.5, "M00": -1.0, "BASE": 0.0}


@pytest.mark.parametrize("text", ["", "1", "1,1", "IN12=1", "IN04=1,IN04=2", "IN04=x", ",".join(["nan"] * 17),
                                  ",".join(["11"] * 17), "IN04=1,0.5", "1e5," * 16 + "1"])  # fmt: skip
def test_what_names_no_blocks_is_one_error(text: str) -> None:
    with pytest.raises(InvalidInputError, match="lora blocks cannot be"):
        LoraReference("x", 1.0, text)


def test_blocks_are_typed_behind_the_scale_and_recorded() -> None:
    blocks = "1," * 11 + "0"
    expected = LoraReference("a/b.safetensors", 0.8, blocks)
    assert parse(f"fox --lora a/b.safetensors:0.8:{blocks}").loras == (expected,)
    assert parse("fox --lora C:/a,b/c=d.safetensors").loras == (LoraReference("C:/a,b/c=d.safetensors"),)
    assert parse("fox --lora x:M00=0").loras == (LoraReference("x", 1.0, "M00=0"),)
    assert parse(f"fox <lora:x:0.5:lbw={blocks}>").loras == (LoraReference("x", 0.5, blocks),)
    recipe = Recipe("fox", loras=(expected, LoraReference("y")))
    assert Recipe.from_dict(recipe.to_dict()).loras == recipe.loras
    assert recipe.to_dict()["loras"][1] == {"source": "y", "scale": 1.0}
