"""A model in one file through the whole local engine."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from swiftai_nb.core.config import ImageGenerationConfig
from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.core.image import GeneratedImage
from swiftai_nb.providers.mlx import MLXImageProvider
from swiftai_nb.registry.registry import DiffusionModelRegistry
from tests.diffusion.parity import tiny_sd
from tests.diffusion.sd_folders import write_folder
from tests.diffusion.single_files import write_checkpoint

SETTINGS = {"width": 64, "height": 64, "steps": 2, "seed": 3}


def test_a_file_draws_what_its_folder_draws_and_its_recipe_names_it(tmp_path):
    registry = DiffusionModelRegistry(home=tmp_path / "home", cache_dir=tmp_path / "hub")
    folder = write_folder(tmp_path / "folder", "sd15")
    registry.add_folder(folder)
    path = write_checkpoint(tmp_path / "tune.safetensors", "sd15")
    provider = MLXImageProvider(registry=registry, isolation="thread")

    def draw(model):
        config = ImageGenerationConfig(model=str(model), **SETTINGS)
        return asyncio.run(provider.generate_image("a cat", config=config))

    try:
        plan = provider.plan("a cat", ImageGenerationConfig(model=str(path), **SETTINGS))
        assert plan.model == str(path)
        assert set(plan.memory_plan_bytes.weights_bytes) == {"unet", "vae", "text_encoder"}
        from_file, from_folder = draw(path), draw(folder)
    finally:
        provider.close()
    np.testing.assert_array_equal(np.asarray(from_file.pil), np.asarray(from_folder.pil))
    assert Path(from_file.recipe.model) == path
    assert from_file.recipe.model_revision.startswith("sha256:")


def test_the_sdxl_refiner_in_one_file_needs_a_picture_and_a_base(tmp_path):
    registry = DiffusionModelRegistry(home=tmp_path / "home", cache_dir=tmp_path / "hub")
    registry.add_folder(write_folder(tmp_path / "parts", "sdxl_refiner"))
    path = write_checkpoint(tmp_path / "refiner.safetensors", "sdxl_refiner")
    picture = GeneratedImage.from_pixels(tiny_sd.picture((64, 64))).data
    config = ImageGenerationConfig(model=str(path), **{**SETTINGS, "steps": 10})
    provider = MLXImageProvider(registry=registry, isolation="thread")
    try:
        with pytest.raises(InvalidInputError, match="only refines a given picture") as caught:
            provider.plan("a cat", config)
        assert caught.value.hint == "give the picture with --image"
        image = asyncio.run(provider.generate_image("a cat", config=config.replace(image=picture)))
        plan = provider.plan("a cat", config.replace(image=picture))
    finally:
        provider.close()
    assert set(plan.memory_plan_bytes.weights_bytes) == {"unet", "vae", "text_encoder_2"}
    assert (image.recipe.strength, image.recipe.guidance_scale) == (0.3, 5.0)
