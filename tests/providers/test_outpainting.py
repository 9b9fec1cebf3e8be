"""Pictures continued beyond their edges, with the bundled model and a real engine."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from swiftai_nb.core.config import ImageGenerationConfig
from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.core.image import GeneratedImage
from swiftai_nb.core.image_input import to_png_bytes
from swiftai_nb.core.outpaint import Outpaint
from swiftai_nb.providers.mlx import MLXImageProvider
from swiftai_nb.registry.registry import DiffusionModelRegistry
from tests.diffusion.upscaler_files import picture

QUICK = ImageGenerationConfig(steps=2, seed=7, preview="off")


@pytest.fixture(scope="module")
def provider(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    provider = MLXImageProvider(registry=DiffusionModelRegistry(home=home, cache_dir=home / "hub"))
    yield provider
    provider.close()


def make(provider, config, prompt="a red apple"):
    return asyncio.run(provider.generate_image(prompt, config=config))


@pytest.mark.parametrize(
    ("size", "outpaint"),
    [
        ((64, 48), "left=32,top=16"),
        ((64, 48), "64"),
        ((61, 47), "right=13"),  # no multiple of anything
        ((128, 128), "bottom=1"),
    ],
)
def test_the_picture_itself_is_returned_exactly_at_its_place(provider, size, outpaint):
    before = picture(*size)
    margins = Outpaint.of(outpaint)
    config = QUICK.replace(image=to_png_bytes(before), outpaint=outpaint)
    made = make(provider, config)
    assert (made.width, made.height) == margins.canvas(size)
    after = np.asarray(made.pil)
    width, height = size
    assert np.array_equal(
        after[margins.top : margins.top + height, margins.left : margins.left + width], before
    )
    recipe = made.recipe
    assert (recipe.outpaint, recipe.width) == (margins, made.width)
    again = make(provider, recipe.to_config().replace(image=config.image))
    assert again.data == made.data


def test_a_feather_fades_in_outside_of_the_picture_only(provider):
    before = picture(64, 64)
    config = QUICK.replace(image=to_png_bytes(before), outpaint={"right": 64})
    soft, hard = make(provider, config), make(provider, config.replace(mask_feather=0))
    assert soft.data != hard.data
    for made in (soft, hard):
        assert np.array_equal(np.asarray(made.pil)[:, :64], before)
    seam = [np.abs(np.asarray(m.pil).astype(int)[:, 64] - before[:, 63]).mean() for m in (soft, hard)]
    assert seam[0] <= seam[1]
    assert np.array_equal(np.asarray(soft.pil)[:, 96:], np.asarray(hard.pil)[:, 96:])


def test_a_mask_of_the_picture_itself_is_painted_too(provider):
    before, mask = picture(64, 64), np.zeros((64, 64), np.uint8)
    mask[:, :32] = 255
    config = QUICK.replace(image=to_png_bytes(before), mask=to_png_bytes(mask), outpaint={"right": 64})
    after = np.asarray(make(provider, config).pil)
    assert np.array_equal(after[:, 33:64], before[:, 33:])
    assert not np.array_equal(after[:, :31], before[:, :31])


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"outpaint": "64"}, "outpaint without image"),
        ({"outpaint": "64", "image": True, "width": 256}, "exclude each other"),
        ({"outpaint": "left=4090", "image": True}, "4096 pixels a side"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_work(provider, settings, match):
    if "image" in settings:
        settings = {**settings, "image": to_png_bytes(picture(64, 64))}
    with pytest.raises(InvalidInputError, match=match):
        provider.plan("a cat", QUICK.replace(**settings))


def test_hires_and_outpaint_exclude_each_other():
    with pytest.raises(InvalidInputError, match="hires"):
        ImageGenerationConfig(image=b"x", outpaint="64", hires=2)


def test_an_outpainted_picture_can_be_enlarged_in_the_same_job(provider):
    before = GeneratedImage.from_pixels(picture(61, 47))
    config = QUICK.replace(image=before.data, outpaint="right=13", upscale=2, upscaler="lanczos")
    made = make(provider, config)
    assert (made.width, made.height) == (148, 94)
