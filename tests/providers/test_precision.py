"""`precision`: from the settings to the engine, into the recipe, and back by `--from`."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from swiftai_nb.core import cpu_kernels
from swiftai_nb.core.config import ImageGenerationConfig
from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.core.recipe import Recipe
from swiftai_nb.core.request import GenerationRequest
from swiftai_nb.engine.kernel.platform import expected_device
from swiftai_nb.providers.mlx import MLXImageProvider

PICTURE = ImageGenerationConfig(steps=2, seed=3)
on_cpu = pytest.mark.skipif(expected_device() != "cpu", reason="the precision of a CPU")


def has_bfloat16():
    return cpu_kernels.resolve_precision("bfloat16") == "bfloat16"


@pytest.fixture(scope="module")
def provider():
    provider = MLXImageProvider(isolation="thread")
    yield provider
    provider.close()


def draw(provider, precision):
    config = PICTURE.replace(precision=precision)
    return asyncio.run(provider.generate_image("a red heart", config=config))


@on_cpu
def test_pictures_in_both_precisions_differ_little_and_say_what_they_are(provider):
    if not has_bfloat16():
        pytest.skip("no products of bfloat16")
    exact, rounded, again = (draw(provider, precision) for precision in ("float32", "bfloat16", "bfloat16"))
    assert (exact.recipe.dtype, rounded.recipe.dtype) == ("float32", "bfloat16")
    first, second = (np.asarray(image.pil).astype(int) for image in (exact, rounded))
    difference = np.abs(first - second)
    assert 0 < difference.mean() < 0.5, "of 255"
    assert difference.max() <= 40, "single pixels of an edge that moved"
    assert np.array_equal(np.asarray(rounded.pil), np.asarray(again.pil))
    assert rounded.recipe.to_config().precision == "bfloat16"
    assert np.array_equal(np.asarray(draw(provider, "float32").pil), np.asarray(exact.pil))


@on_cpu
def test_what_a_processor_does_not_have_is_a_note_and_float32(provider, monkeypatch):
    monkeypatch.setattr(cpu_kernels, "choose_library", lambda: cpu_kernels.Choice(None, "none"))
    image = draw(provider, "bfloat16")
    assert image.recipe.dtype == "float32"
    assert "precision bfloat16 is not available on this processor: computed in float32" in image.recipe.notes


@on_cpu
@pytest.mark.parametrize(("faster", "expected"), [(True, "bfloat16"), (False, "float32")])
def test_the_plan_says_which_precision_is_the_faster_one(provider, faster, expected, monkeypatch):
    monkeypatch.setattr(cpu_kernels, "bfloat16_is_faster", lambda: faster)
    plan = provider.plan(GenerationRequest("a cat", None, PICTURE, seeds=(3,)))
    assert plan.precision == expected


def test_the_precision_of_a_recipe_is_kept_where_it_can_be_asked_for():
    found = {
        dtype: Recipe("a cat", dtype=dtype).to_config().precision for dtype in ("float32", "float16", None)
    }
    assert found == {"float32": "float32", "float16": None, None: None}


def test_other_words_are_refused():
    with pytest.raises(InvalidInputError, match="precision"):
        ImageGenerationConfig(precision="half")
