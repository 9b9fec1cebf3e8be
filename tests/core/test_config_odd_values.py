"""Values that users assign by mistake: one short line names the field, whatever the value."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from swiftai_nb.core.caption import caption_text
from swiftai_nb.core.config import ImageGenerationConfig, LoraReference
from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.core.format import short_repr
from swiftai_nb.core.image import GeneratedImage
from swiftai_nb.core.image_input import open_image_file
from swiftai_nb.core.recipe import Recipe

PICTURE = Image.new("RGB", (16, 8), "red")


@pytest.mark.parametrize(
    "value",
    [10**5000, float("nan"), float("inf"), "3", [1], np.zeros(10**6), PICTURE, object()],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize(
    "name", ["steps", "width", "seed", "guidance_scale", "upscale", "precision", "quantization_bits"]
)
def test_numbers_and_choices(name: str, value: Any) -> None:
    with pytest.raises(InvalidInputError, match=name) as caught:
        ImageGenerationConfig(**{name: value})
    assert len(caught.value.message) < 200
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("name", ["scheduler", "model", "vae", "upscaler"])
def test_names_are_texts_or_paths(name: str) -> None:
    with pytest.raises(InvalidInputError, match=f"{name} must be a text"):
        ImageGenerationConfig(**{name: 7})
    path = Path("folder") / "file"
    assert getattr(ImageGenerationConfig(**{name: path}), name) == str(path)


@pytest.mark.parametrize("name", ["loras", "embeddings"])
@pytest.mark.parametrize("value", ["style.safetensors", 7, [None], {"a": 1}])
def test_lists_hold_what_they_should(name: str, value: Any) -> None:
    with pytest.raises(InvalidInputError, match=f"{name} must be a list") as caught:
        ImageGenerationConfig(**{name: value})
    assert str(caught.value.hint).startswith(name)


def test_lists_become_tuples() -> None:
    config = ImageGenerationConfig(loras=[LoraReference("a")], embeddings=["b"])  # type: ignore[arg-type]
    assert (config.loras, config.embeddings) == ((LoraReference("a"),), ("b",))


@pytest.mark.parametrize("picture", [PICTURE, np.asarray(PICTURE)])
def test_a_start_picture_may_be_of_any_kind(picture: Any) -> None:
    config = ImageGenerationConfig(image=picture, mask=Image.new("L", (16, 8)))
    assert isinstance(config.image, bytes)
    assert isinstance(config.mask, bytes)


@pytest.mark.skipif(sys.platform == "win32", reason="devices and pipes are files on POSIX")
def test_a_device_or_pipe_is_no_picture(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path(os.devnull), tmp_path):
        with pytest.raises(InvalidInputError, match="it is"):
            open_image_file(path)


def test_a_caption_tells_the_size_that_the_picture_has() -> None:
    recipe = Recipe("a fox", model="m", width=64, height=64, seed=1)
    image = GeneratedImage.from_pixels(np.zeros((128, 96, 3), np.uint8), recipe=recipe)
    assert "96x128" in caption_text([image])


@pytest.mark.parametrize(
    "value",
    [10**5000, "x" * 1000, [1] * 1000, {"a": "b" * 1000}, None],
    ids=lambda value: type(value).__name__,
)
def test_a_representation_is_short(value: Any) -> None:
    assert len(short_repr(value)) <= 60
