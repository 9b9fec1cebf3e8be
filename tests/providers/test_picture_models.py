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
from tests.diffusion.control_folders import (
    controlnet_weights,
    write_controlnet,
    write_t2i_adapter,
    write_task_folder,
    write_z_image,
    write_z_image_controlnet,
)
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
    assert hard.recipe.strength == 1.0
    weaker = draw(provider, folders["sd15_inpaint"], **settings, strength=0.5)
    assert (weaker.recipe.strength, weaker.data == hard.data) == (0.5, False)


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


def test_a_controlnet_is_counted_in_the_memory_plan_and_steers(provider, folders, tmp_path):
    net = write_controlnet(tmp_path / "net", "sd15_canny")
    controls = [(str(net), png(tiny_sd.picture((64, 64))), 0.8)]
    settings = {"width": 64, "height": 64}
    model = folders["sd15_inpaint"]
    plans = [
        provider.plan("a cat", ImageGenerationConfig(model=str(model), controls=given, **settings))
        for given in ([], controls, controls * 2)
    ]
    weights = sum(value.nbytes for value in controlnet_weights("sd15_canny").values())
    sizes = [plan.memory_plan_bytes.weights_bytes.get("controlnet", 0) for plan in plans]
    assert sizes[0] == 0
    assert sizes[1] == sizes[2] == pytest.approx(weights, rel=0.02)
    assert plans[0].memory_bytes < plans[1].memory_bytes
    drawn = [draw(provider, model, controls=given, **settings).data for given in ([], controls, controls * 2)]
    assert len(set(drawn)) == 3


def test_a_control_of_another_family_is_refused_by_the_plan(provider, folders, tmp_path):
    picture = png(tiny_sd.picture((64, 64)))
    net = write_controlnet(tmp_path / "sdxl_canny", "sdxl_canny")
    adapter = write_t2i_adapter(tmp_path / "sdxl_lines", "sdxl_lines")
    for control, message in ((net, "a text width of"), (adapter, "T2I-Adapter for SDXL")):
        with pytest.raises(InvalidInputError, match=message):
            provider.plan(
                "a cat",
                ImageGenerationConfig(model=str(folders["sd15_inpaint"]), controls=[(str(control), picture)]),
            )
    with pytest.raises(InvalidInputError, match="this model is a text width of 192"):
        provider.plan(
            "a cat",
            ImageGenerationConfig(
                controls=[(str(write_controlnet(tmp_path / "net", "sd15_canny")), picture)]
            ),
        )
    own = write_t2i_adapter(tmp_path / "own", "sd15_color")
    with pytest.raises(InvalidInputError, match="no guess mode"):
        provider.plan(
            "a cat",
            ImageGenerationConfig(
                model=str(folders["sd15_inpaint"]), controls=[(str(own), picture, 1, 0, 1, True)]
            ),
        )


def test_a_control_whose_range_holds_no_step_is_noted_and_changes_nothing(provider, folders, tmp_path):
    net, picture = write_controlnet(tmp_path / "net", "sd15_canny"), png(tiny_sd.picture((64, 64)))
    settings = {"width": 64, "height": 64}
    plain = draw(provider, folders["sd15_inpaint"], **settings)
    narrow = draw(
        provider, folders["sd15_inpaint"], controls=[(str(net), picture, 1.0, 0.1, 0.2)], **settings
    )
    np.testing.assert_array_equal(np.asarray(narrow.pil), np.asarray(plain.pil))
    assert any("none of 2 steps" in note for note in narrow.recipe.notes)
    adapter = write_t2i_adapter(tmp_path / "own", "sd15_color")
    steered = draw(provider, folders["sd15_inpaint"], controls=[(f"canny@{adapter}", picture)], **settings)
    assert not np.array_equal(np.asarray(steered.pil), np.asarray(plain.pil))
    assert not any("range" in note for note in steered.recipe.notes)


def test_z_image_follows_a_picture_by_its_own_controlnets_alone(provider, tmp_path):
    model = write_z_image(tmp_path / "z")
    union = write_z_image_controlnet(tmp_path / "union", "v2.1")
    other = write_controlnet(tmp_path / "net", "sd15_canny")
    picture = png(tiny_sd.picture((64, 64)))
    plain, followed = (
        draw(provider, model, width=64, height=64, controls=controls)
        for controls in ([], [(f"canny@{union}", picture)])
    )
    assert plain.data != followed.data
    assert followed.recipe.controls[0].source == f"canny@{union}"
    with pytest.raises(InvalidInputError, match="does not fit Z-Image"):
        draw(provider, model, controls=[(str(other), picture)])
