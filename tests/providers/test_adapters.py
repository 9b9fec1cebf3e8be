"""LoRAs for few steps bring their settings along; what the user gives counts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from swiftai_nb.core.config import ImageGenerationConfig, LoraReference
from swiftai_nb.core.request import GenerationRequest
from swiftai_nb.model_files.samplers import canonical_name
from swiftai_nb.providers.adapters import DISTILLED_LORAS, with_distilled_lora


def settled(*sources: str, is_flow: bool = False, scale: float = 1.0, **given: Any) -> tuple[Any, Any]:
    loras = tuple(LoraReference(source, scale) for source in sources)
    request = GenerationRequest.of("a fox", ImageGenerationConfig(loras=loras, **given))
    made, notes = with_distilled_lora(request, SimpleNamespace(is_flow=is_flow))  # type: ignore[arg-type]
    config = made.config
    return (config.scheduler, config.steps, config.guidance_scale), notes


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("latent-consistency/lcm-lora-sdv1-5", ("lcm", 4, 1.0)),
        ("/loras/LCM_LoRA_SDXL.safetensors", ("lcm", 4, 1.0)),
        ("/loras/lcm-lora-sdxl/pytorch_lora_weights.safetensors", ("lcm", 4, 1.0)),
        ("ByteDance/SDXL-Lightning/sdxl_lightning_8step_lora.safetensors", ("euler-sgm-uniform", 8, 1.0)),
        ("ByteDance/Hyper-SD/Hyper-SDXL-2steps-lora.safetensors", ("ddim-sgm-uniform", 2, 1.0)),
        ("ByteDance/Hyper-SD/Hyper-SDXL-1step-lora.safetensors", ("tcd", 1, 1.0)),
        ("ByteDance/Hyper-SD/Hyper-SD15-12steps-CFG-lora.safetensors", ("ddim-sgm-uniform", 12, 5.0)),
        ("h1t/TCD-SDXL-LoRA", ("tcd", 4, 1.0)),
        ("C:\\loras\\dmd2_sdxl_4step_lora.safetensors", ("lcm", 4, 1.0)),
        ("sd_xl_turbo_lora_v1.safetensors", ("euler-a-sgm-uniform", 4, 1.0)),
    ],
)
def test_a_few_step_lora_brings_its_settings(source: str, expected: tuple[Any, ...]) -> None:
    found, (note,) = settled(source)
    assert found == expected
    assert "LoRA by its name, so this was set: scheduler" in note


@pytest.mark.parametrize(
    ("source", "steps"),
    [("ByteDance/Hyper-SD/Hyper-FLUX.1-dev-16steps-lora.safetensors", 16), ("a/FLUX.1-Turbo-Alpha", 8)],
)
def test_loras_of_flow_models_keep_the_sampler(source: str, steps: int) -> None:
    assert settled(source, is_flow=True)[0] == (None, steps, 3.5)
    assert not any("FLUX" in note for note in settled(source)[1])


@pytest.mark.parametrize(
    "source",
    ["me/film-look", "lightning-storm.safetensors", "turbo-car-lora", "welcome", "calcm", "6step-dance"],
)
def test_other_loras_change_nothing(source: str) -> None:
    assert settled(source) == ((None, None, None), ())


def test_what_the_user_gives_counts() -> None:
    found, (note,) = settled("lcm-lora", steps=6, guidance_scale=1.5)
    assert found == ("lcm", 6, 1.5)
    assert note.endswith("set: scheduler lcm")
    assert settled("lcm-lora", steps=6, guidance_scale=1.5, scheduler="euler")[1] == ()
    assert settled("lcm-lora", steps_factor=2.0)[0] == ("lcm", None, 1.0)
    assert settled("lcm-lora", scale=0.0)[1] == settled("lcm-lora", scale=-1.0)[1] == ()


def test_every_sampler_of_the_table_exists() -> None:
    for kind in DISTILLED_LORAS:
        assert kind.scheduler is None or canonical_name(kind.scheduler)
        assert 1 <= kind.steps <= 16
