"""Limits are checked before any work, and the message names value, limit and remedy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from swiftai_nb.core.config import MAX_SEED, ImageGenerationConfig, LoraReference
from swiftai_nb.core.errors import InvalidInputError

BAD: list[tuple[dict[str, Any], str]] = [
    ({"width": 0}, "width 0 is below the smallest, 16 pixels"),
    ({"height": 7}, "height 7 is below the smallest, 16 pixels"),
    ({"width": 100_000}, "width 100000 is above the largest, 4096 pixels"),
    ({"width": 64.0}, "width 64.0 is not a whole number"),
    ({"width": True}, "width True is not a whole number"),
    ({"steps": 0}, "steps 0 is below the smallest, 1"),
    ({"steps": 1001}, "steps 1001 is above the largest, 1000"),
    ({"steps": "4"}, "steps '4' is not a whole number"),
    ({"seed": -1}, "seed -1 is below the smallest, 0"),
    ({"seed": MAX_SEED + 1}, f"seed {MAX_SEED + 1} is above the largest"),
    ({"guidance_scale": math.nan}, "guidance_scale nan is outside 0 to 100"),
    ({"guidance_scale": math.inf}, "guidance_scale inf is outside 0 to 100"),
    ({"guidance_scale": -0.5}, "guidance_scale -0.5 is outside 0 to 100"),
    ({"guidance_scale": "7"}, "guidance_scale '7' is not a number"),
    ({"strength": 1.01}, "strength 1.01 is outside 0 to 1"),
    ({"quantization_bits": 3}, "quantization_bits 3 is not one of 4, 8"),
    ({"preview": "full"}, "preview 'full' is not one of rgb, taesd, off"),
    ({"mask": b"x"}, "mask without image"),
]


@pytest.mark.parametrize(("values", "message"), BAD, ids=[str(v) for v, _ in BAD])
def test_bad_value_is_refused_with_value_limit_and_remedy(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        ImageGenerationConfig(**values)
    assert caught.value.message.startswith(message)
    assert caught.value.hint is not None
    assert "\n" not in caught.value.message + caught.value.hint


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
