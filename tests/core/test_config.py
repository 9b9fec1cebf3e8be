"""Limits are checked before any work, and the message names value, limit and remedy."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import pytest
from PIL import Image

from swiftai_nb.core.config import MAX_SEED, ImageGenerationConfig, LoraReference
from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.core.image import GeneratedImage

BAD: list[tuple[dict[str, Any], str]] = [
    ({"width": 0}, "width must be between 16 and 4096 pixels (got 0)"),
    ({"height": 7}, "height must be between 16 and 4096 pixels (got 7)"),
    ({"width": 100_000}, "width must be between 16 and 4096 pixels (got 100000)"),
    ({"width": 64.0}, "width must be a whole number between 16 and 4096 pixels (got 64.0)"),
    ({"width": True}, "width must be a whole number between 16 and 4096 pixels (got True)"),
    ({"steps": 0}, "steps must be between 1 and 1000 (got 0)"),
    ({"steps": 1001}, "steps must be between 1 and 1000 (got 1001)"),
    ({"steps": "4"}, "steps must be a whole number between 1 and 1000 (got '4')"),
    ({"seed": -1}, f"seed must be between 0 and {MAX_SEED} (got -1)"),
    ({"seed": MAX_SEED + 1}, f"seed must be between 0 and {MAX_SEED} (got {MAX_SEED + 1})"),
    ({"guidance_scale": math.nan}, "guidance_scale must be between 0 and 100 (got nan)"),
    ({"guidance_scale": math.inf}, "guidance_scale must be between 0 and 100 (got inf)"),
    ({"guidance_scale": -0.5}, "guidance_scale must be between 0 and 100 (got -0.5)"),
    ({"guidance_scale": "7"}, "guidance_scale must be a number between 0 and 100 (got '7')"),
    ({"strength": 1.01}, "strength must be between 0 and 1 (got 1.01)"),
    ({"quantization_bits": 3}, "quantization_bits must be one of 4, 5, 6, 8 (got 3)"),
    ({"preview": "full"}, "preview must be one of rgb, taesd, off (got 'full')"),
    ({"mask": b"x"}, "mask without image\nTry: pass the picture to paint on as image"),
]


@pytest.mark.parametrize(("values", "text"), BAD, ids=[str(v) for v, _ in BAD])
def test_a_bad_value_is_refused_with_the_value_and_its_limits(values: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        ImageGenerationConfig(**values)
    assert str(caught.value) == text
    assert "\n" not in caught.value.message


def test_zero_is_a_value_not_a_missing_one() -> None:
    config = ImageGenerationConfig(seed=0, guidance_scale=0, strength=0.0)
    assert (config.seed, config.guidance_scale, config.strength) == (0, 0.0, 0.0)


def test_numpy_numbers_become_plain_ones() -> None:
    config = ImageGenerationConfig(width=np.int64(64), guidance_scale=np.float32(2.5))
    assert type(config.width) is int
    assert type(config.guidance_scale) is float


@pytest.mark.parametrize(
    ("config", "steps"),
    [
        (ImageGenerationConfig.default(), 20),
        (ImageGenerationConfig.high_quality(), 40),
        (ImageGenerationConfig.fast(), 10),
        (ImageGenerationConfig.high_quality().replace(steps=3), 3),
    ],
)
def test_presets_scale_the_models_own_steps(config: ImageGenerationConfig, steps: int) -> None:
    assert config.resolved_steps(20) == steps


def test_fast_never_drops_below_one_step() -> None:
    assert ImageGenerationConfig.fast().resolved_steps(1) == 1


def test_replace_validates_again() -> None:
    with pytest.raises(InvalidInputError):
        ImageGenerationConfig().replace(steps=0)


def test_lora_needs_a_source_and_a_finite_scale() -> None:
    with pytest.raises(InvalidInputError):
        LoraReference("")
    with pytest.raises(InvalidInputError):
        LoraReference("a", math.nan)


def test_references_are_pictures_of_any_kind_kept_as_bytes(tmp_path):
    picture = GeneratedImage.from_pixels(np.zeros((8, 8, 3), np.uint8))
    path = picture.save(tmp_path / "black.png")
    config = ImageGenerationConfig(references=[picture, picture.pil, path, picture.data])
    assert all(isinstance(one, bytes) for one in config.references)
    assert len(set(config.references[:3])) == 1
    assert config.references[3] == picture.data
    assert config.replace(steps=4).references == config.references


@pytest.mark.parametrize("wrong", [b"bytes", "path.png", 7, [7], ["no such file.png"]])
def test_references_that_are_no_list_of_pictures_are_refused(wrong):
    with pytest.raises(InvalidInputError):
        ImageGenerationConfig(references=wrong)


def test_extra_body_is_a_checked_copy_of_json_values() -> None:
    given = {"quality": "high", "loras": [{"path": "x"}]}
    config = ImageGenerationConfig(extra_body=given)
    given["loras"].append({"path": "y"})  # type: ignore[attr-defined]
    assert config.extra_body == {"quality": "high", "loras": [{"path": "x"}]}
    assert hash(config) == hash(ImageGenerationConfig())
    assert ImageGenerationConfig(extra_body={}) == ImageGenerationConfig()


@pytest.mark.parametrize("wrong", ["quality=high", [1], {1: "x"}, {"": 1}, {"x": b"1"}, {"x": math.nan}, 7])
def test_extra_body_that_json_cannot_hold_is_refused(wrong: object) -> None:
    with pytest.raises(InvalidInputError, match="extra_body"):
        ImageGenerationConfig(extra_body=wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("given", ["image", "references"])
def test_a_provider_of_text_alone_refuses_pictures_and_names_what_takes_them(given):
    picture = _png_bytes()
    config = ImageGenerationConfig(**{given: picture if given == "image" else (picture,)})
    with pytest.raises(InvalidInputError, match=f"waves makes pictures from text and takes no {given}") as e:
        config.refuse_pictures("waves")
    assert "FLUX.2 klein" in e.value.hint
    ImageGenerationConfig().refuse_pictures("waves")


def _png_bytes() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 64)).save(file, "PNG")
    return file.getvalue()
