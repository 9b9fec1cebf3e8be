"""Inpainting models and InstructPix2Pix through the whole local engine."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from swiftai_nb.core.config import ImageGenerationConfig
from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.core.image import GeneratedImage
from swiftai_nb.providers.mlx import MLXImageProvider
from swiftai_nb.registry.registry import DiffusionModelRegistry
from tests.diffusion.control_folders import write_task_folder
from tests.diffusion.parity import tiny_sd

SETTINGS = {"steps": 2, "seed": 3}


@pytest.fixture(scope="module")
def provider(tmp_path_factory):
    root = tmp_path_factory.mktemp("home")
    registry = DiffusionModelRegistry(home=root / "home", cache_dir=root / "hub")
    provider = MLXImageProvider(registry=registry, isolation="thread")
    yield provider
    provider.close()


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("tasks")
    return {name: write_task_folder(root / name, name) for name in ("sd15_inpaint", "sd15_edit")}


def draw(provider, model, **settings):
    config = ImageGenerationConfig(model=str(model), **SETTINGS, **settings)
    return asyncio.run(provider.generate_image("a cat", config=config))


def png(pixels):
    return GeneratedImage.from_pixels(pixels).data


def test_inpainting_returns_what_the_mask_leaves_out_exactly(provider, folders):
    pixels, mask = tiny_sd.picture((64, 64)), np.zeros((64, 64, 3), np.uint8)
    mask[16:48, 16:48] = 255
    settings = {"width": 64, "height": 64, "image": png(pixels), "mask": png(mask)}
    hard = draw(provider, folders["sd15_inpaint"], **settings)
    soft = draw(provider, folders["sd15_inpaint"], **settings, mask_feather=8)
    for image in (hard, soft):
        outside = mask[..., 0] == 0
        np.testing.assert_array_equal(np.asarray(image.pil)[outside], pixels[outside])
    assert soft.recipe.mask_feather == 8
    assert hard.recipe.mask_feather is None
    assert hard.data != soft.data


def test_an_inpainting_model_draws_from_text_alone(provider, folders):
    image = draw(provider, folders["sd15_inpaint"], width=64, height=64)
    assert (image.width, image.height) == (64, 64)


def test_an_editing_model_changes_the_picture_given_with_the_prompt(provider, folders):
    picture = png(tiny_sd.picture((96, 64)))
    edited = draw(provider, folders["sd15_edit"], references=[picture], image_guidance_scale=2.0)
    # Its proportions, with about the model's own number of pixels.
    assert edited.width == pytest.approx(1.5 * edited.height, abs=8)
    assert edited.recipe.image_guidance_scale == 2.0
    weaker = draw(provider, folders["sd15_edit"], references=[picture], image_guidance_scale=1.0)
    assert weaker.data != edited.data
    again = asyncio.run(
        provider.generate_image("a cat", config=edited.recipe.to_config().replace(references=[picture]))
    )
    assert again.data == edited.data


def test_an_editing_model_needs_one_picture(provider, folders):
    picture = png(tiny_sd.picture((64, 64)))
    for references in ([], [picture] * 2):
        with pytest.raises(InvalidInputError, match=r"there is none|2 reference pictures"):
            provider.plan(
                "a cat", ImageGenerationConfig(model=str(folders["sd15_edit"]), references=references)
            )


def test_image_guidance_without_an_editing_model_is_noted(provider, folders):
    config = ImageGenerationConfig(
        model=str(folders["sd15_inpaint"]), image_guidance_scale=2.0, mask_feather=4
    )
    notes = provider.plan("a cat", config).notes
    assert [note.partition(" ")[0] for note in notes] == ["image_guidance_scale", "mask_feather"]
